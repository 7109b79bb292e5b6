//! Deleting a tenant: its sessions, its databases, its role, its backups and its keys, in this order.
//! It works from every state, also on a tenant that was never finished, and there is no way back.
//!
//! Only what carries the tenant's marker, or a name that one of its operations gave it, is dropped. Where it undoes the
//! making of a tenant, what another operation has made stays, shut: after a disaster that is what survived, and newer
//! than any backup.

use std::collections::BTreeSet;

use futures_util::FutureExt as _;
use tenantry_backup::KeyScope;
use tenantry_provisioning::{
    DatabaseName, Error, Link, Marker, NameError, Proof, RoleName, Server,
};
use uuid::Uuid;

use super::request::refuse_hold;
use super::{
    Plan, Step, StepContext, StepError, Work, adopt, erase, import, provision, restore_at, way_back,
};
use crate::catalog::stock::Retained;
use crate::tenant::TenantState;

pub(super) const PLAN: Plan = Plan { steps: STEPS, abandon: &[], no_return: 0 };

/// Also what undoes a provisioning.
pub(super) const STEPS: &[Step] = &[
    Step::new("stop_routing", |cx| stop_routing(cx).boxed()),
    Step::new("drop_databases", |cx| drop_databases(cx).boxed()),
    Step::new("drop_role", |cx| drop_role(cx).boxed()),
    Step::new("note_erasure", |cx| note_erasure(cx).boxed()),
    Step::new("delete_backups", |cx| delete_backups(cx).boxed()),
    Step::new("forget", |cx| forget(cx).boxed()),
    Step::new("certify", |cx| certify(cx).boxed()),
];

async fn stop_routing(cx: &StepContext<'_>) -> Result<(), StepError> {
    require_no_hold(cx)?;
    cx.lock.cancel_others().await?;
    if cx.tenant.state == TenantState::Deleted {
        return Ok(());
    }
    Ok(cx.lock.set_state(TenantState::Deleting, None).await?)
}

async fn drop_databases(cx: &StepContext<'_>) -> Result<(), StepError> {
    if is_homeless(cx) {
        return Ok(());
    }
    let server = cx.server().await?;
    end_sessions(cx, &server).await?;
    adopt::let_go(cx, &server).await?;
    for spare in cx.lock.claimed_spares().await? {
        server.drop_owned_database(&DatabaseName::spare(spare), Proof::Name).await?;
        cx.environment.catalog.forget_spare(spare).await?;
    }
    for operation in cx.lock.unfinished_operations().await? {
        provision::drop_build(&server, operation).await?;
        restore_at::remove_scratch(cx.environment, operation).await?;
    }
    provision::drop_build(&server, cx.operation.id).await?;
    restore_at::remove_scratch(cx.environment, cx.operation.id).await?;
    for (operation, place) in cx.lock.builds_left().await? {
        provision::drop_build(&cx.environment.server(place).await?, operation).await?;
    }
    for (operation, place) in cx.lock.failed_moves().await? {
        clear_place(cx, operation, place).await?;
    }
    for retained in cx.lock.retained_databases().await? {
        let dropped = drop_retained(cx, &server, &retained).await;
        dropped.map_err(|error| way_back::name_way_out(error, &retained.server_name))?;
    }
    for database in names(cx, &cx.tenant.database, DatabaseName::tenant).await? {
        let facts = server.database(&database).await?;
        if is_anothers(cx, facts.and_then(|facts| facts.marker).as_ref()) {
            server.fence(&database, cx.tenant.id).await?;
            tracing::warn!(%database, "a database that was there before is left, and shut");
            continue;
        }
        match server.drop_owned_database(&database, Proof::Owner(cx.tenant.id)).await {
            // Another database has the name: this tenant never got that far.
            Err(Error::NotOurs { .. }) => {}
            other => other?,
        }
    }
    Ok(())
}

/// Drops a database that the tenant has left, and its role, where a relocation was cut off after its switch.
async fn drop_retained(
    cx: &StepContext<'_>,
    home: &Server,
    retained: &Retained,
) -> Result<(), StepError> {
    let (tenant, operation) = (cx.tenant.id, retained.operation_id);
    let host = cx.environment.server(retained.server_id).await?;
    home.unpublish(&[&cx.tenant.database], Link::Back(operation), tenant).await?;
    host.unpublish(&[&retained.database], Link::Move(operation), tenant).await?;
    way_back::drop_kept(cx.environment, retained).await?;
    if retained.server_id == cx.tenant.server_id { Ok(()) } else { drop_roles(cx, &host).await }
}

/// Whether something of this tenant's was made by another operation than the one that is undone.
fn is_anothers(cx: &StepContext<'_>, marker: Option<&Marker>) -> bool {
    let is_undone = !matches!(cx.work, Work::Delete { .. });
    is_undone
        && matches!(marker, Some(Marker::Tenant(owner))
                    if owner.tenant == cx.tenant.id && owner.operation != cx.operation.id)
}

/// A client of the tenant's that does not read would keep the server from dropping any database.
async fn end_sessions(cx: &StepContext<'_>, server: &Server) -> Result<(), StepError> {
    for role in names(cx, &cx.tenant.role, RoleName::tenant).await? {
        match server.disable_login(&role, cx.tenant.id).await {
            Err(Error::NotOurs { .. } | Error::Missing { .. }) => {}
            other => other?,
        }
    }
    Ok(())
}

/// Drops what a restore made on a server that the tenant never came to.
async fn clear_place(cx: &StepContext<'_>, operation: Uuid, place: Uuid) -> Result<(), StepError> {
    let server = cx.environment.server(place).await?;
    provision::drop_build(&server, operation).await?;
    let home = cx.server().await?;
    home.unpublish(&[&cx.tenant.database], Link::Move(operation), cx.tenant.id).await?;
    server.unpublish(&[&cx.tenant.database], Link::Back(operation), cx.tenant.id).await?;
    let (database, role, id) = (&cx.tenant.database, &cx.tenant.role, cx.tenant.id);
    let dropped = match server.drop_owned_database(database, Proof::Owner(id)).await {
        Ok(()) => server.drop_role(role, id).await,
        error => error,
    };
    match dropped {
        // Somebody else has the name there.
        Err(Error::NotOurs { .. }) => Ok(()),
        other => Ok(other?),
    }
}

async fn drop_role(cx: &StepContext<'_>) -> Result<(), StepError> {
    if is_homeless(cx) {
        return Ok(());
    }
    let server = cx.server().await?;
    import::dismiss_guests(cx, &server).await?;
    drop_roles(cx, &server).await
}

async fn drop_roles(cx: &StepContext<'_>, server: &Server) -> Result<(), StepError> {
    for role in names(cx, &cx.tenant.role, RoleName::tenant).await? {
        let facts = server.role(&role).await?;
        if is_anothers(cx, facts.and_then(|facts| facts.marker).as_ref()) {
            continue;
        }
        match server.drop_role(&role, cx.tenant.id).await {
            Err(Error::NotOurs { .. }) => {}
            other => other?,
        }
    }
    Ok(())
}

/// A tenant that was deleted before has nothing on a server that has been removed since.
fn is_homeless(cx: &StepContext<'_>) -> bool {
    cx.tenant.server_id.is_nil()
}

/// The tenant's own name for something, and those that a rename that never ended may have given it.
async fn names<N: Clone + Ord>(
    cx: &StepContext<'_>,
    own: &N,
    of_slug: fn(&str) -> Result<N, NameError>,
) -> Result<BTreeSet<N>, StepError> {
    let mut names = BTreeSet::from([own.clone()]);
    for slug in cx.lock.slugs().await? {
        names.extend(of_slug(slug.as_str()));
    }
    Ok(names)
}

/// What a certificate will say is gone.
async fn note_erasure(cx: &StepContext<'_>) -> Result<(), StepError> {
    if erases(cx) { erase::note_backups(cx).await } else { Ok(()) }
}

async fn delete_backups(cx: &StepContext<'_>) -> Result<(), StepError> {
    if keeps_backups(cx) {
        return Ok(());
    }
    require_no_hold(cx)?;
    if let Some(store) = &cx.environment.store {
        let objects = store.list(KeyScope::Tenant(cx.tenant.id)).await?;
        let mut backups: BTreeSet<_> = objects.iter().map(|object| object.key.backup()).collect();
        // An upload that was cut off shows no object, but its parts lie in the store.
        backups.extend(cx.lock.unfinished_operations().await?);
        for backup in backups {
            store.remove_backup(cx.tenant.id, backup).await?;
        }
        if erases(cx) {
            store.forget_versions(cx.tenant.id).await?;
        }
    }
    Ok(cx.lock.forget_backups(None).await?)
}

async fn forget(cx: &StepContext<'_>) -> Result<(), StepError> {
    cx.lock.forget_domains().await?;
    cx.lock.destroy_secrets(keeps_backups(cx)).await?;
    Ok(cx.lock.set_state(TenantState::Deleted, None).await?)
}

async fn certify(cx: &StepContext<'_>) -> Result<(), StepError> {
    if erases(cx) { erase::certify(cx).await } else { Ok(()) }
}

/// A hold may have come after whoever asked, and while the rest was going.
fn require_no_hold(cx: &StepContext<'_>) -> Result<(), StepError> {
    if cx.work.takes_backups_away() {
        refuse_hold(&cx.tenant)?;
    }
    Ok(())
}

fn erases(cx: &StepContext<'_>) -> bool {
    matches!(cx.work, Work::Delete { erase: true, .. })
}

/// A tenant that could not be made from its backups still has them.
fn keeps_backups(cx: &StepContext<'_>) -> bool {
    cx.work.makes_tenant() || matches!(cx.work, Work::Delete { keep_backups: true, .. })
}
