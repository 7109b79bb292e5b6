//! Opening the way back: what the tenant leaves follows the database that takes its place.
//!
//! The slot is made before anybody waits, as it waits itself for whoever has a transaction open. When all has come
//! across and nobody writes, a mark is set; once the tenant is served from its new place, what it left is opened to
//! the worker that writes into it, and follows from that mark on. None of this may fail the relocation, nor hold it up:
//! a way back that cannot be opened is told, and the relocation goes on.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tenantry_provisioning::{
    DatabaseName, Link, Lsn, Owner, RoleName, Schema, Server, random_password,
};
use tokio::time::timeout;
use uuid::Uuid;

use super::online::{Ends, refusal};
use crate::operations::{StepContext, StepError, chain, way_back};

/// What is ready for it.
const PREPARED: &str = "way_back";
/// How long opening it may take, at each of the two times.
const PATIENCE: Duration = Duration::from_secs(15);

#[derive(Default, Serialize, Deserialize)]
struct Prepared {
    /// The schema that is followed.
    schema: Option<String>,
    /// From where on, in the log of the new server.
    since: Option<i64>,
    /// Why there is no way back.
    refused: Option<String>,
}

/// Makes ready on the new server what the old one is to follow, while the tenant is served.
pub(super) async fn prepare(cx: &StepContext<'_>, ends: &Ends) -> Result<(), StepError> {
    let offered = in_time(offer(ends)).await;
    let prepared = match offered {
        Ok(schema) => Prepared { schema: Some(schema), ..Prepared::default() },
        Err(refused) => {
            if let Err(error) = withdraw(ends).await {
                let error = chain(&error);
                tracing::info!(
                    error,
                    "what was made for the way back is left until the relocation ends"
                );
            }
            Prepared { refused: Some(refused), ..Prepared::default() }
        }
    };
    cx.remember(PREPARED, &prepared).await
}

/// Notes from where on the old server follows: all that stands before has come from there.
pub(super) async fn mark(cx: &StepContext<'_>, target: &Server) -> Result<(), StepError> {
    let Some(prepared) = cx.recall::<Prepared>(PREPARED)?.filter(|found| found.schema.is_some())
    else {
        return Ok(());
    };
    let since = Some(target.mark_log().await?.bytes());
    cx.remember(PREPARED, &Prepared { since, ..prepared }).await
}

/// Lets what the tenant left follow, and writes down whether it does.
pub(super) async fn open(cx: &StepContext<'_>, left: Uuid) -> Result<(), StepError> {
    let Some(prepared) = cx.recall::<Prepared>(PREPARED)? else {
        // The catalog has lost what it knew of it; see `cutover::has_come`.
        let (home, link) = (cx.server().await?, Link::Back(cx.operation.id));
        return Ok(home.unpublish(&[&cx.tenant.database], link, cx.tenant.id).await?);
    };
    let (catalog, operation) = (&cx.environment.catalog, cx.operation.id);
    match in_time(follow(cx, left, &prepared)).await {
        Ok(schema) => Ok(catalog.note_following(&cx.tenant, operation, &schema).await?),
        Err(why) => {
            tracing::warn!(tenant = %cx.tenant.slug, why, "what the tenant left does not follow it");
            catalog.note_unfollowed(&cx.tenant, operation, &why).await?;
            let found = catalog.left_by(&cx.tenant).await?;
            for left in found.iter().filter(|left| left.operation == operation) {
                let cut = in_time(way_back::cut(cx.environment, left, &cx.tenant.database)).await;
                if let Err(error) = cut {
                    tracing::info!(error, "what was made for the way back is left for later");
                }
            }
            Ok(())
        }
    }
}

/// Takes back what was made ready, whether it was or not.
pub(super) async fn withdraw(ends: &Ends) -> Result<(), StepError> {
    let link = Link::Back(ends.owner.operation);
    Ok(ends.target.unpublish(&[&ends.follower], link, ends.owner.tenant).await?)
}

/// Returns the fingerprint of the schema.
async fn offer(ends: &Ends) -> Result<String, StepError> {
    let problems = ends.target.obstacles_to_going_back(&ends.source).await?;
    if !problems.is_empty() {
        let (what, remedies) = refusal(&problems);
        return Err(StepError::fail(format!("{what} ({remedies})"), ""));
    }
    let link = Link::Back(ends.owner.operation);
    let password = random_password();
    ends.target.publish(&ends.follower, link, ends.owner, &password).await?;
    let session = ends.target.connect(&ends.follower).await?;
    Ok(Schema::read(&session).await?.fingerprint())
}

/// Returns the fingerprint of the schema.
async fn follow(
    cx: &StepContext<'_>,
    left: Uuid,
    prepared: &Prepared,
) -> Result<String, StepError> {
    let (schema, since) = match prepared {
        Prepared { refused: Some(why), .. } => return Err(StepError::fail(why.clone(), "")),
        Prepared { schema: Some(schema), since: Some(since), .. } => (schema.clone(), *since),
        _ => return Err(StepError::fail("the switch was cut off before its mark was set", "")),
    };
    let (operation, tenant) = (cx.operation.id, cx.tenant.id);
    let (link, old) = (Link::Back(operation), DatabaseName::old(operation));
    let home = cx.server().await?;
    let there = cx.environment.server(left).await?;
    if home.slot(link).await?.is_none() {
        return Err(StepError::fail("its replication slot is gone", ""));
    }
    // For the worker alone that writes into it: nobody else has the right to come in.
    there.unfence(&old, tenant).await?;
    if there.follower(link).await?.is_some_and(|follower| follower.is_enabled) {
        return Ok(schema);
    }
    let (live, password) = (&cx.tenant.database, random_password());
    home.publish(live, link, Owner { tenant, operation }, &password).await?;
    let carrier: RoleName = link.name();
    let from = home.url().with_database(live.as_str()).with_user(carrier.as_str(), &password);
    let chore = cx.environment.catalog.await_chore(&format!("ways back to {left}")).await?;
    if !there.may_follow_on().await? {
        let why = "max_logical_replication_workers leaves no room on the server that was left";
        return Err(StepError::fail(why, ""));
    }
    there.subscribe_since(&old, link, &from, Lsn::at(since)).await?;
    chore.end().await;
    Ok(schema)
}

/// Why it failed, or that it took too long, for people.
async fn in_time<T, E>(work: impl Future<Output = Result<T, E>>) -> Result<T, String>
where
    E: std::error::Error,
{
    match timeout(PATIENCE, work).await {
        Ok(done) => done.map_err(|error| chain(&error)),
        Err(_) => Err(format!("it took longer than {} seconds", PATIENCE.as_secs())),
    }
}
