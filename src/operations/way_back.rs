//! The way back of a tenant that was moved online: the database that it left follows its own, so that it can go back at
//! any time and lose nothing, without another copy.
//!
//! A relocation opens it (`relocate/back.rs`), and nothing depends on it: whatever changes the tenant's schema, its
//! place or its name closes it, and so does everything that makes the follower doubtful. The slot above all must not
//! outlive it, since it keeps the log of a whole server. What cannot be cut off at once, because a server is away, is
//! known to the catalog and cut off by the upkeep.
//!
//! Must never: serve what the kept database holds before it was compared with the tenant's own, row by row.

use std::collections::BTreeSet;

use tenantry_provisioning::{
    DatabaseName, Error, Link, Offered, Proof, Schema, Server, offered, unfollowable,
};
use uuid::Uuid;

use super::{Environment, StepContext, StepError, chain, relocate};
use crate::catalog::stock::Retained;
use crate::catalog::way_back::Left;
use crate::tenant::Tenant;

/// The slot of a follower may keep so much of the server's log, and no more.
const MOST_RETAINED: u64 = 8 << 30;
/// A follower that has failed so often and is failing still is given up. It tries about every five seconds.
const MOST_ERRORS: i64 = 20;

/// What a tenant left on a server, where that follows its database or did so.
#[derive(Clone, Debug)]
pub struct WayBack {
    /// The operation that left it.
    pub operation: Uuid,
    /// The fingerprint of the schema that both have.
    pub schema: String,
    /// Why the tenant cannot go back to it as it is; nothing where it can.
    pub obstacle: Option<String>,
}

impl Environment {
    /// How a tenant could go back to a server. Nothing where it left no database there that has ever followed.
    pub async fn way_back(
        &self,
        tenant: &Tenant,
        server: Uuid,
    ) -> Result<Option<WayBack>, StepError> {
        let mut left = self.catalog.left_by(tenant).await?;
        left.retain(|left| left.server == server);
        // The newest, unless another one is of more use.
        left.sort_by_key(|left| !left.is_following());
        let Some(left) = left.into_iter().next() else { return Ok(None) };
        let obstacle = match (&left.unfollowed, left.follows) {
            (Some(why), _) => Some(why.clone()),
            (None, Some(home)) if home == tenant.server_id => self.obstacle(&left, tenant).await?,
            (None, Some(_)) => Some("it follows a database that the tenant has left".to_owned()),
            (None, None) => return Ok(None),
        };
        let schema = left.schema.unwrap_or_default();
        Ok(Some(WayBack { operation: left.operation, schema, obstacle }))
    }

    /// Why a follower is not to be trusted any more.
    async fn obstacle(&self, left: &Left, tenant: &Tenant) -> Result<Option<String>, StepError> {
        let home = self.server(tenant.server_id).await?;
        if let Some(why) = obstacle_at_home(&home, left, tenant).await? {
            return Ok(Some(why));
        }
        obstacle_there(&self.server(left.server).await?, &home, left).await
    }
}

/// What is wrong on the tenant's own server.
async fn obstacle_at_home(
    home: &Server,
    left: &Left,
    tenant: &Tenant,
) -> Result<Option<String>, StepError> {
    let link = Link::Back(left.operation);
    let Some(slot) = home.slot(link).await? else {
        return Ok(Some("its replication slot is gone".to_owned()));
    };
    if slot.is_lost {
        let why = "the tenant's server has removed changes that it had not got yet";
        return Ok(Some(format!("{why} (max_slot_wal_keep_size)")));
    }
    if slot.retained_bytes > MOST_RETAINED {
        let why = "it lagged so far behind that the tenant's server kept";
        return Ok(Some(format!("{why} {} GiB of its log for it", MOST_RETAINED >> 30)));
    }
    let session = home.connect(&tenant.database).await?;
    let offered = offered(&session, link).await?;
    if offered == Offered::Nothing {
        return Ok(Some("the tenant's database offers its tables no more".to_owned()));
    }
    if Some(Schema::read(&session).await?.fingerprint()) != left.schema {
        return Ok(Some("the tenant's schema was changed since".to_owned()));
    }
    // One that was dropped and made again looks as before.
    if offered == Offered::Some {
        return Ok(Some("a table of the tenant's was made since".to_owned()));
    }
    let problems = unfollowable(&session).await?;
    Ok((!problems.is_empty()).then(|| relocate::refusal(&problems).0))
}

/// What is wrong on the server that the tenant left.
async fn obstacle_there(
    there: &Server,
    home: &Server,
    left: &Left,
) -> Result<Option<String>, StepError> {
    let link = Link::Back(left.operation);
    let kept = there.database(&DatabaseName::old(left.operation)).await?;
    if !kept.is_some_and(|facts| facts.belongs_to(left.tenant)) {
        return Ok(Some("it is not there any more".to_owned()));
    }
    let Some(follower) = there.follower(link).await?.filter(|follower| follower.is_enabled) else {
        return Ok(Some("its subscription is gone, or disabled".to_owned()));
    };
    let is_away = home.slot(link).await?.is_none_or(|slot| slot.sender.is_none());
    if is_away && follower.errors > MOST_ERRORS {
        let log = there.url().host_label();
        let failed = format!("replication has failed {} times", follower.errors);
        return Ok(Some(format!("{failed}; the log of {log} says why")));
    }
    Ok(None)
}

/// Closes the tenant's way back, but for what the operation `spared` has left: what is about to be done would not come
/// across. Its own server lets go of everything; the other one may be away, and is seen to later.
pub(super) async fn close(
    cx: &StepContext<'_>,
    spared: Option<Uuid>,
    why: &str,
) -> Result<(), StepError> {
    // Hardly any tenant has one.
    if !cx.lock.has_way_back() {
        return Ok(());
    }
    let tenant = (cx.tenant.id, &cx.tenant.slug);
    let ended = cx.environment.catalog.end_following(tenant, spared, why).await?;
    for left in &ended {
        match cut(cx.environment, left, &cx.tenant.database).await {
            // Of a place that the tenant has left long ago, the upkeep takes care.
            Err(error) if left.follows != Some(cx.tenant.server_id) => {
                tracing::info!(error = %chain(&error), "a way back is cut off later");
            }
            done => done?,
        }
    }
    Ok(())
}

/// Removes what joins a kept database to the tenant's, on its own server first, and shuts the kept one.
pub(super) async fn cut(
    environment: &Environment,
    left: &Left,
    live: &DatabaseName,
) -> Result<(), StepError> {
    if let Some(home) = left.follows {
        let home = environment.server(home).await?;
        home.unpublish(&[live], Link::Back(left.operation), left.tenant).await?;
    }
    match let_go(environment, left).await {
        Ok(()) => Ok(environment.catalog.forget_following(left).await?),
        Err(error) => {
            tracing::info!(error = %chain(&error), "what a kept database followed with is left for later");
            Ok(())
        }
    }
}

async fn let_go(environment: &Environment, left: &Left) -> Result<(), StepError> {
    let there = environment.server(left.server).await?;
    let old = DatabaseName::old(left.operation);
    unsubscribe(&there, &old, Link::Back(left.operation), left.tenant).await?;
    match there.fence(&old, left.tenant).await {
        // An undo has brought it back, or it was dropped.
        Err(Error::Missing { .. }) => Ok(()),
        fenced => Ok(fenced.map(drop)?),
    }
}

/// Ends the following of a kept database, also of one that somebody has shut.
async fn unsubscribe(
    server: &Server,
    old: &DatabaseName,
    link: Link,
    tenant: Uuid,
) -> Result<(), StepError> {
    if server.is_subscribed(link).await? {
        server.unfence(old, tenant).await?;
    }
    Ok(server.unsubscribe(old, link).await?)
}

/// Closes every way back that has become doubtful, and cuts off what was left of others.
pub(super) async fn tend(environment: &Environment) -> Result<(), StepError> {
    let round = Box::pin(async {
        for listed in environment.catalog.idle_followers().await? {
            let Some(left) = still_idle(environment, &listed).await? else { continue };
            if let Err(error) = tend_one(environment, &left).await {
                let (server, error) = (&left.server_name, chain(&error));
                tracing::warn!(server, error, "a kept database cannot be looked after now");
            }
        }
        Ok(())
    });
    environment.catalog.chore("ways back", round).await.map(drop)
}

async fn tend_one(environment: &Environment, left: &Left) -> Result<(), StepError> {
    let tenant = environment.catalog.tenant_by_id(left.tenant).await?;
    if left.is_following() {
        let home = environment.server(tenant.server_id).await?;
        let doubt = match obstacle_at_home(&home, left, &tenant).await? {
            None => obstacle_there(&environment.server(left.server).await?, &home, left).await?,
            found => found,
        };
        let Some(why) = doubt else { return Ok(()) };
        tracing::warn!(tenant = %tenant.slug, server = left.server_name, why, "the way back is closed");
        if !environment.catalog.end_doubtful(&tenant.slug, left, &why).await? {
            return Ok(());
        }
    }
    match still_idle(environment, left).await? {
        Some(left) => cut(environment, &left, &tenant.database).await,
        None => Ok(()),
    }
}

/// The same as it is now, unless a worker is at its tenant by now.
async fn still_idle(environment: &Environment, left: &Left) -> Result<Option<Left>, StepError> {
    let mut idle = environment.catalog.idle_followers().await?;
    idle.retain(|now| (now.server, now.operation) == (left.server, left.operation));
    Ok(idle.pop())
}

/// Drops a kept database, with everything that joins it to the tenant's.
pub(super) async fn drop_kept(environment: &Environment, kept: &Retained) -> Result<(), StepError> {
    cut_home(environment, kept).await?;
    let server = environment.server(kept.server_id).await?;
    let back = Link::Back(kept.operation_id);
    unsubscribe(&server, &kept.database, back, kept.tenant_id).await?;
    server.drop_owned_database(&kept.database, Proof::Owner(kept.tenant_id)).await?;
    Ok(environment.catalog.forget_database(kept).await?)
}

/// Forgets a kept database whose server is gone for good.
pub(super) async fn forget_kept(
    environment: &Environment,
    kept: &Retained,
) -> Result<(), StepError> {
    cut_home(environment, kept).await?;
    Ok(environment.catalog.forget_database(kept).await?)
}

/// What to do where the server of a kept database does not answer.
pub(super) fn name_way_out(error: StepError, server: &str) -> StepError {
    match error {
        StepError::Retry(cause, remedy) => {
            let remedy = remedy.map_or_else(String::new, |remedy| format!("{remedy}; "));
            let gone = format!(
                "{remedy}if server `{server}`, which keeps a database that the tenant has left, is gone for good, let \
                 another one take its place (`tenantry server add {server} --replace`) or forget what it kept \
                 (`tenantry server remove {server} --leave --drop-kept`)"
            );
            StepError::Retry(cause, Some(gone))
        }
        other => other,
    }
}

/// Removes from the tenant's own server what a kept database follows it with.
async fn cut_home(environment: &Environment, kept: &Retained) -> Result<(), StepError> {
    let tenant = environment.catalog.tenant_by_id(kept.tenant_id).await?;
    let back = Link::Back(kept.operation_id);
    // The catalog may have been restored from a time at which it did not follow yet.
    let mut homes = BTreeSet::from([tenant.server_id]);
    for left in environment.catalog.followers().await? {
        if (left.server, left.operation) == (kept.server_id, kept.operation_id) {
            homes.extend(left.follows);
        }
    }
    for home in homes.into_iter().filter(|home| !home.is_nil()) {
        let home = environment.server(home).await?;
        home.unpublish(&[&tenant.database], back, tenant.id).await?;
    }
    Ok(())
}
