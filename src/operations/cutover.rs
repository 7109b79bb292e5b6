//! The cutover: another database into the place of a tenant's, on the same server or on another one.
//!
//! Requests are held, the two databases change places, and the catalog's word sends the held requests to
//! the new one. Until that word, whatever fails is undone at once: the database that served goes on doing
//! so, and nobody waits for another try. The replaced database is kept for a while.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tenantry_provisioning::{
    DatabaseName, Link, Marker, Owner, Possession, Retirement, Server, Swap, scram_verifier,
};
use uuid::Uuid;

use super::{StepContext, StepError, chain, provision, relocate, require_settled, way_back};
use crate::tenant::{SchemaState, TenantState};

/// What is to come into the place of a tenant's database.
pub(super) struct Incoming {
    /// Its present name.
    pub database: DatabaseName,
    /// Where it is.
    pub server_id: Uuid,
    /// The schema that it has.
    pub schema: SchemaState,
    /// How it comes to what the tenant has.
    pub arrival: Arrival,
}

/// How the incoming database comes to what it is to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// It holds that already.
    Complete,
    /// It does not exist yet: on another server, it is copied from the tenant's own once nobody writes to that.
    Copied,
    /// On another server, it follows the tenant's own, and gets the rest once nobody writes to that.
    Followed(Link),
}

/// How long requests that were let in may take to end, before their sessions are ended.
const QUIET: Duration = Duration::from_secs(2);

/// How the tenant stood before, as the operation remembers it.
const BEFORE: &str = "before";

#[derive(Serialize, Deserialize)]
struct Before {
    state: TenantState,
    server_id: Uuid,
    epoch: i64,
    /// The operation that the marker of its database names; none if the database is missing.
    marker: Option<Uuid>,
    /// Whether it was found where it is to go: the catalog had lost its word. There is no way but forward then.
    #[serde(default)]
    has_come: bool,
}

/// Puts a database into the place of the tenant's.
pub(super) async fn cut_over(cx: &StepContext<'_>, incoming: &Incoming) -> Result<(), StepError> {
    let before = before(cx, incoming.server_id).await?;
    let is_done = cx.tenant.state != TenantState::Restoring && cx.tenant.epoch > before.epoch;
    if is_done {
        return Ok(());
    }
    let Err(error) = exchange(cx, &before, incoming).await else { return Ok(()) };
    // The catalog may have taken its word, and only the answer was lost.
    match cx.lock.read_tenant().await {
        Ok(tenant) if tenant.epoch > before.epoch => return Ok(()),
        Ok(_) if !before.has_come => {}
        Ok(_) | Err(_) => return Err(error),
    }
    let (database, server_id) = (&incoming.database, incoming.server_id);
    let undone = match put_back(cx, &before, database, server_id).await {
        Ok(()) => clear_target(cx, &before, database, server_id).await,
        worse => worse,
    };
    if let Err(worse) = undone {
        tracing::warn!(error = %chain(&worse), "a cutover that failed is not yet undone altogether");
    }
    Err(error)
}

/// Undoes a cutover that did not come to its end; for an operation that is given up.
pub(super) async fn let_go(
    cx: &StepContext<'_>,
    incoming: &DatabaseName,
    server_id: Uuid,
) -> Result<(), StepError> {
    let before = cx.recall::<Before>(BEFORE)?;
    let is_found = before.as_ref().is_some_and(|before| before.has_come);
    if is_found || has_come(cx, server_id).await? {
        return Err(StepError::fail(
            "the tenant is on the other server already, which the catalog has lost",
            "retry; it is served there then",
        ));
    }
    let Some(before) = before else { return Ok(()) };
    if is_under_way(cx, &before).await? {
        put_back(cx, &before, incoming, server_id).await?;
        return clear_target(cx, &before, incoming, server_id).await;
    }
    // It was undone when it failed. What became of the tenant since then is the work of others, and stays.
    require_settled(&cx.tenant)?;
    if cx.tenant.epoch == before.epoch {
        cx.lock.forget_retained(&DatabaseName::old(cx.operation.id), before.server_id).await?;
    } else if marker(cx).await? == Some(cx.operation.id) {
        return Err(StepError::fail(
            "the tenant is served from the restored database already",
            format!("keep it, or go back with `tenantry restore {} --undo`", cx.tenant.slug),
        ));
    }
    clear_target(cx, &before, incoming, server_id).await
}

/// After the tenant is served elsewhere: its role has nothing to do on the server that it left.
pub(super) async fn leave_server(cx: &StepContext<'_>) -> Result<(), StepError> {
    let Some(left) = left_server(cx)? else { return Ok(()) };
    let server = cx.environment.server(left).await?;
    Ok(server.drop_role(&cx.tenant.role, cx.tenant.id).await?)
}

/// Removes what a cutover brought to a server that the tenant did not come to, where its undoing was cut off. The
/// tenant is served where it was since then, so that is out of date.
pub(super) async fn clear_stale(
    cx: &StepContext<'_>,
    incoming: &DatabaseName,
    server_id: Uuid,
) -> Result<(), StepError> {
    let Some(before) = cx.recall::<Before>(BEFORE)? else { return Ok(()) };
    let target = cx.environment.server(server_id).await?;
    let is_back = cx.tenant.state != TenantState::Restoring && cx.tenant.epoch == before.epoch;
    if is_back && is_ours(&target, &cx.tenant.database, cx.operation.id).await? {
        provision::drop_build(&target, cx.operation.id).await?;
        clear_target(cx, &before, incoming, server_id).await?;
    }
    Ok(())
}

/// The server that the tenant was on before, once it is on another.
pub(super) fn left_server(cx: &StepContext<'_>) -> Result<Option<Uuid>, StepError> {
    let Some(before) = cx.recall::<Before>(BEFORE)? else { return Ok(None) };
    Ok((before.server_id != cx.tenant.server_id).then_some(before.server_id))
}

/// Finds out while the tenant is still served that its database cannot be renamed.
pub(super) async fn require_nothing_prepared(
    server: &Server,
    database: &DatabaseName,
) -> Result<(), StepError> {
    let prepared = server.prepared_transactions(database).await?;
    let Some(first) = prepared.first() else { return Ok(()) };
    Err(StepError::fail(
        format!(
            "transaction {first:?} is prepared in the tenant's database, which cannot be renamed before it ends"
        ),
        "connect to that database, `commit prepared` or `rollback prepared` it, then retry",
    ))
}

/// Whether this operation has brought the tenant to another server, and its own has nothing to serve, although the
/// catalog has it there as before: it was restored from a moment ago, or has failed over to a standby that lacked that.
pub(super) async fn has_come(cx: &StepContext<'_>, server_id: Uuid) -> Result<bool, StepError> {
    if cx.tenant.server_id == server_id || !cx.tenant.state.is_settled() {
        return Ok(false);
    }
    let live = &cx.tenant.database;
    let is_there = is_ours(&cx.environment.server(server_id).await?, live, cx.operation.id).await?;
    Ok(is_there && cx.server().await?.database(live).await?.is_none())
}

/// Whether a cutover of this operation has come to its end, whatever others did with the tenant since.
pub(super) async fn was_done(cx: &StepContext<'_>) -> Result<bool, StepError> {
    let Some(before) = cx.recall::<Before>(BEFORE)? else { return Ok(false) };
    let is_later = cx.tenant.state != TenantState::Restoring && cx.tenant.epoch > before.epoch;
    Ok(is_later && has_replaced(cx).await?)
}

/// How the tenant stands; or, in the middle of a cutover and after it, how it stood before that.
async fn before(cx: &StepContext<'_>, server_id: Uuid) -> Result<Before, StepError> {
    let noted = cx.recall::<Before>(BEFORE)?;
    let marker = marker(cx).await?;
    if let Some(noted) = noted
        && (marker == Some(cx.operation.id)
            || is_under_way(cx, &noted).await?
            || was_done(cx).await?)
    {
        return Ok(noted);
    }
    require_settled(&cx.tenant)?;
    let before = Before {
        state: cx.tenant.state,
        server_id: cx.tenant.server_id,
        epoch: cx.tenant.epoch,
        has_come: marker.is_none() && has_come(cx, server_id).await?,
        marker,
    };
    cx.remember(BEFORE, &before).await?;
    Ok(before)
}

/// Whether this operation has begun a cutover that is neither done nor undone.
async fn is_under_way(cx: &StepContext<'_>, before: &Before) -> Result<bool, StepError> {
    if cx.tenant.state != TenantState::Restoring || cx.tenant.epoch != before.epoch {
        return Ok(false);
    }
    // Another's may be stuck.
    has_replaced(cx).await
}

/// A cutover notes what it replaces before it begins, and forgets that when it is undone.
async fn has_replaced(cx: &StepContext<'_>) -> Result<bool, StepError> {
    let retained = cx.lock.retained_databases().await?;
    Ok(retained.iter().any(|retained| retained.operation_id == cx.operation.id))
}

/// The operation that the marker of the tenant's present database names.
async fn marker(cx: &StepContext<'_>) -> Result<Option<Uuid>, StepError> {
    let server = cx.server().await?;
    match server.database(&cx.tenant.database).await?.and_then(|facts| facts.marker) {
        Some(Marker::Tenant(owner)) if owner.tenant == cx.tenant.id => Ok(Some(owner.operation)),
        _ => Ok(None),
    }
}

async fn exchange(
    cx: &StepContext<'_>,
    before: &Before,
    incoming: &Incoming,
) -> Result<(), StepError> {
    let epoch = before.epoch + 1;
    let owner = cx.owner();
    let retired = DatabaseName::old(cx.operation.id);
    let source = cx.environment.server(before.server_id).await?;
    let target = cx.environment.server(incoming.server_id).await?;
    require_nothing_prepared(&source, &cx.tenant.database).await?;
    if cx.tenant.state != TenantState::Restoring {
        let spared = match incoming.arrival {
            Arrival::Followed(Link::Back(operation)) => Some(operation),
            _ => None,
        };
        way_back::close(cx, spared, "another database took the place of the one that it followed")
            .await?;
    }
    let keep = cx.environment.limits.restore_keep;
    cx.lock.retain_database(&retired, before.server_id, keep).await?;
    let reason = cx.tenant.suspended_reason.as_deref();
    let held = Instant::now();
    cx.lock.set_state(TenantState::Restoring, reason).await?;

    let (live, role) = (&cx.tenant.database, &cx.tenant.role);
    if incoming.server_id == before.server_id && before.marker.is_none() {
        // The server has lost it, or is another one under the same name: the role may be gone, too.
        possess(cx, before, &target, &incoming.database, owner, epoch).await?;
    } else if incoming.server_id == before.server_id {
        let incoming = &incoming.database;
        target.swap(Swap { live, incoming, retired: &retired, role, owner, epoch }).await?;
    } else {
        refuse_stranger(&target, live, owner).await?;
        let is_there = is_ours(&target, live, cx.operation.id).await?;
        let is_served_here = source.database(live).await?.is_some();
        if is_there && is_served_here && incoming.arrival != Arrival::Complete {
            // An undoing that was cut off: what is over there is older than what is here.
            return Err(StepError::fail(
                "an earlier attempt left a copy on the other server, which is out of date by now",
                "retry; the copy is removed, and made anew",
            ));
        }
        source.await_quiet(live, QUIET).await?;
        if matches!(incoming.arrival, Arrival::Followed(_)) && !is_there {
            relocate::drain(cx, &source, &target).await?;
        }
        source.retire(Retirement { live, retired: &retired, role, owner }).await?;
        match incoming.arrival {
            Arrival::Copied if !is_there => relocate::copy(cx, &source, &retired, &target).await?,
            Arrival::Followed(link) => target.unsubscribe(&incoming.database, link).await?,
            Arrival::Copied | Arrival::Complete => {}
        }
        possess(cx, before, &target, &incoming.database, owner, epoch).await?;
    }
    provision::prove_isolation(cx, &target, epoch).await?;
    cx.lock.serve_at(incoming.server_id, before.state, epoch, &incoming.schema).await?;
    if before.has_come {
        // Made once more, for nothing.
        provision::drop_build(&target, cx.operation.id).await?;
    }
    tracing::info!(held_secs = held.elapsed().as_secs_f64(), "requests waited for the cutover");
    Ok(())
}

/// Serves the replaced database again. What is found decides what is left to do.
async fn put_back(
    cx: &StepContext<'_>,
    before: &Before,
    incoming: &DatabaseName,
    server_id: Uuid,
) -> Result<(), StepError> {
    let old = DatabaseName::old(cx.operation.id);
    if let Some(operation) = before.marker {
        let owner = Owner { tenant: cx.tenant.id, operation };
        let source = cx.environment.server(before.server_id).await?;
        let (live, role, epoch) = (&cx.tenant.database, &cx.tenant.role, before.epoch);
        if server_id == before.server_id {
            source
                .swap(Swap { live, incoming: &old, retired: incoming, role, owner, epoch })
                .await?;
        } else {
            possess(cx, before, &source, &old, owner, epoch).await?;
        }
    }
    let reason = cx.tenant.suspended_reason.as_deref();
    Ok(cx.lock.serve_again(before.state, reason, (&old, before.server_id)).await?)
}

/// Takes back what a cutover gave the tenant on a server that it did not come to, nor by another operation since.
async fn clear_target(
    cx: &StepContext<'_>,
    before: &Before,
    incoming: &DatabaseName,
    server_id: Uuid,
) -> Result<(), StepError> {
    if [before.server_id, cx.tenant.server_id].contains(&server_id) {
        return Ok(());
    }
    let (live, role) = (&cx.tenant.database, &cx.tenant.role);
    let target = cx.environment.server(server_id).await?;
    if is_ours(&target, live, cx.operation.id).await? {
        let owner = cx.owner();
        target.retire(Retirement { live, retired: incoming, role, owner }).await?;
    }
    match target.drop_role(role, cx.tenant.id).await {
        // Another role has the name: the cutover never got that far.
        Err(tenantry_provisioning::Error::NotOurs { .. }) => Ok(()),
        other => Ok(other?),
    }
}

async fn possess(
    cx: &StepContext<'_>,
    before: &Before,
    server: &Server,
    from: &DatabaseName,
    owner: Owner,
    epoch: i64,
) -> Result<(), StepError> {
    let password = cx.environment.catalog.tenant_password(cx.tenant.id).await?;
    let verifier = scram_verifier(&password);
    let (database, role) = (&cx.tenant.database, &cx.tenant.role);
    // Whoever is suspended may not log in, wherever the database comes to.
    let (verifier, login) = (verifier.as_str(), before.state != TenantState::Suspended);
    let possession = Possession { from, database, role, verifier, login, owner, epoch };
    Ok(server.take_possession(possession).await?)
}

/// A database of the tenant's name that this operation did not bring is not to be served by mistake.
pub(super) async fn refuse_stranger(
    server: &Server,
    live: &DatabaseName,
    owner: Owner,
) -> Result<(), StepError> {
    let found = server.database(live).await?;
    if found.is_none_or(|facts| facts.marker == Some(Marker::Tenant(owner))) {
        return Ok(());
    }
    Err(StepError::fail(
        format!("the server {} has a database `{live}` already", server.url().host_label()),
        "look into it; drop or rename it by hand if nobody needs it, then retry",
    ))
}

async fn is_ours(server: &Server, live: &DatabaseName, operation: Uuid) -> Result<bool, StepError> {
    let facts = server.database(live).await?;
    Ok(matches!(
        facts.and_then(|facts| facts.marker),
        Some(Marker::Tenant(owner)) if owner.operation == operation
    ))
}
