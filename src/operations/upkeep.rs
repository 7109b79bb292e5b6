//! Upkeep of what no tenant owns: the template of the present migrations on every server, the spares
//! cloned from it, the databases that restores replaced, and what killed workers left on this machine.
//!
//! A template is never changed: a new set of migrations makes a new template under a name of its own,
//! so that no clone can ever race its migration. Everything is written down in the catalog before it is
//! made on a server, and one replica at a time tends one server, so a crash leaves nothing unknown.
//!
//! Stocking up waits while tenants are being provisioned: a file copy belongs on nobody's path.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_lc_rs::rand;
use tenantry_provisioning::{
    Applied, DatabaseName, MigrationSet, Proof, Server, Source, build_from_zero,
};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Environment, StepError, restore_at, way_back};
use crate::catalog::changes::{Change, Changes};
use crate::catalog::operations::OperationState;
use crate::catalog::servers::ServerRecord;
use crate::catalog::stock::{Retained, Template};

/// The time between two rounds, give or take a fifth of it: replicas that began together go their own ways.
const PAUSE: Duration = Duration::from_secs(10);
/// After a change, how long to wait for more of them: a busy fleet always has some.
const SETTLE: Duration = Duration::from_secs(1);

/// Tends every server until shutdown. Between two rounds, only what has run out is replaced.
pub async fn run(environment: Environment, changes: Changes, shutdown: CancellationToken) {
    let mut news = changes.subscribe();
    let work = async {
        loop {
            if let Err(error) = environment.reload_migrations().await {
                tracing::error!(error = %super::chain(&error), "the migration files cannot be used");
            } else if let Err(error) = tend(&environment).await {
                tracing::warn!(%error, "upkeep is incomplete; it will be tried again");
            }
            let next = Instant::now() + jittered(PAUSE);
            while timeout_at(next, settled(&mut news)).await.is_ok() {
                sleep(SETTLE).await;
                if let Err(error) = restock(&environment).await {
                    tracing::debug!(%error, "spares are not replaced; they will be in the next round");
                }
            }
        }
    };
    shutdown.run_until_cancelled(Box::pin(work)).await;
}

async fn settled(news: &mut crate::catalog::changes::Subscription) {
    loop {
        if let Change::Operation(_, OperationState::Succeeded | OperationState::Cancelled) =
            news.next().await
        {
            return;
        }
    }
}

fn jittered(pause: Duration) -> Duration {
    let mut byte = [0];
    rand::fill(&mut byte).expect("the system has randomness");
    pause.mul_f64(0.8 + 0.4 * f64::from(byte[0]) / 255.0)
}

/// One round over every server that no other replica is tending. A server that is down does not keep
/// the others waiting for theirs.
pub async fn tend(environment: &Environment) -> Result<(), StepError> {
    let mut outcome = drop_expired(environment).await;
    outcome = outcome.and(restore_at::sweep(environment).await);
    outcome = outcome.and(way_back::tend(environment).await);
    for server in environment.catalog.servers().await? {
        outcome = outcome.and(tend_server(environment, &server).await);
    }
    outcome
}

/// Replaces the spares that were taken: one look at the catalog where none was.
async fn restock(environment: &Environment) -> Result<(), StepError> {
    let spares = environment.limits.spares;
    if spares == 0 {
        return Ok(());
    }
    let short = environment.catalog.short_of_spares(spares).await?;
    if short.is_empty() || environment.catalog.is_provisioning().await? {
        return Ok(());
    }
    let mut outcome = Ok(());
    for server in environment.catalog.servers().await? {
        if short.contains(&server.id) {
            outcome = outcome.and(tend_server(environment, &server).await);
        }
    }
    outcome
}

/// Tends a server, unless another replica does.
async fn tend_server(environment: &Environment, record: &ServerRecord) -> Result<(), StepError> {
    let chore = templates_of(record.id);
    let tended = environment.catalog.chore(&chore, Box::pin(tend_now(environment, record)));
    tended.await.map(drop)
}

async fn tend_now(environment: &Environment, record: &ServerRecord) -> Result<(), StepError> {
    let server_id = record.id;
    let set = environment.permitted().await?;
    let server = environment.server(server_id).await?;
    let templates = clear_out(environment, server_id, &server, &set).await?;
    make_template(environment, server_id, &server, &set, &templates).await?;
    // Nobody comes to a cordoned server, so nobody would take a spare there.
    if record.cordoned.is_some() {
        return Ok(());
    }
    stock_up(environment, server_id, &server, &set).await
}

/// Makes sure that a server has the template of these migrations. The first thing that a fleet
/// migration does: files that do not run end here, before any tenant is touched.
pub async fn ensure_template(
    environment: &Environment,
    server_id: Uuid,
    set: &MigrationSet,
) -> Result<(), StepError> {
    let digest = environment.template_digest(set);
    let templates = environment.catalog.templates(server_id).await?;
    if templates.iter().any(|template| template.ready && template.digest == digest) {
        return Ok(());
    }
    let chore = environment.catalog.await_chore(&templates_of(server_id)).await?;
    let server = environment.server(server_id).await?;
    let made = make_template(environment, server_id, &server, set, &templates).await;
    chore.end().await;
    made
}

/// The chore of whoever makes and drops templates and spares on a server.
pub(crate) fn templates_of(server: Uuid) -> String {
    format!("templates of {server}")
}

async fn make_template(
    environment: &Environment,
    server_id: Uuid,
    server: &Server,
    set: &MigrationSet,
    known: &[Template],
) -> Result<(), StepError> {
    let (catalog, version) = (&environment.catalog, set.target_version());
    let digest = &environment.template_digest(set);
    let template = DatabaseName::template(digest);
    if server.database(&template).await?.is_some_and(|facts| facts.is_template) {
        if known.iter().any(|known| known.ready && known.digest == *digest) {
            return Ok(());
        }
        return Ok(catalog.record_template(server_id, digest, version, true, None).await?);
    }
    catalog.record_template(server_id, digest, version, false, None).await?;
    let build = DatabaseName::build(build_id(digest));
    let applied =
        build_from_zero(server, &build, set, environment.limits.migration_timeouts).await?;
    server.seal_as_template(&build, &template, digest, version).await?;
    catalog.record_template(server_id, digest, version, true, Some(&timings(&applied))).await?;
    tracing::info!(version, template = template.as_str(), "template made");
    Ok(())
}

/// How many milliseconds each file took.
fn timings(applied: &Applied) -> BTreeMap<String, f64> {
    let files = applied.files.iter();
    files
        .map(|file| (timing_key(file.version, &file.name), file.elapsed.as_secs_f64() * 1000.0))
        .collect()
}

/// A file as the timings of a template name it.
pub(super) fn timing_key(version: i64, name: &str) -> String {
    if version == 0 { format!("R__{name}") } else { format!("V{version}") }
}

/// Drops templates and spares of older migrations or of another hardening, and spares that were never finished.
/// Returns the templates that the catalog knew.
async fn clear_out(
    environment: &Environment,
    server_id: Uuid,
    server: &Server,
    set: &MigrationSet,
) -> Result<Vec<Template>, StepError> {
    let catalog = &environment.catalog;
    let digest = environment.template_digest(set);
    for spare in catalog.spares(server_id).await? {
        let outdated = spare.digest != digest && spare.version <= set.target_version();
        if (outdated || !spare.ready) && catalog.withdraw_spare(spare.id).await? {
            server.drop_owned_database(&DatabaseName::build(spare.id), Proof::Name).await?;
            server.drop_owned_database(&DatabaseName::spare(spare.id), Proof::Name).await?;
            catalog.forget_spare(spare.id).await?;
        }
    }
    let templates = catalog.templates(server_id).await?;
    for old in &templates {
        if old.digest != digest && old.version <= set.target_version() {
            server
                .drop_owned_database(&DatabaseName::build(build_id(&old.digest)), Proof::Name)
                .await?;
            server.drop_owned_database(&DatabaseName::template(&old.digest), Proof::Name).await?;
            catalog.forget_template(server_id, &old.digest).await?;
        }
    }
    Ok(templates)
}

async fn stock_up(
    environment: &Environment,
    server_id: Uuid,
    server: &Server,
    set: &MigrationSet,
) -> Result<(), StepError> {
    let catalog = &environment.catalog;
    let spares = catalog.spares(server_id).await?;
    let ready = spares.iter().filter(|spare| spare.ready && spare.claimed_by.is_none()).count();
    for _ in ready..environment.limits.spares {
        if catalog.is_provisioning().await? {
            return Ok(());
        }
        let id = Uuid::now_v7();
        let (digest, version) = (&environment.template_digest(set), set.target_version());
        let (build, spare) = (DatabaseName::build(id), DatabaseName::spare(id));
        catalog.announce_spare(id, server_id, digest, version).await?;
        server.create_build(&build, Source::Template(&DatabaseName::template(digest))).await?;
        server.seal_as_spare(&build, &spare, digest, version).await?;
        catalog.offer_spare(id).await?;
    }
    Ok(())
}

/// Drops the databases that restores replaced and whose time has come.
async fn drop_expired(environment: &Environment) -> Result<(), StepError> {
    let mut outcome = Ok(());
    for retained in environment.catalog.expired_databases(None).await? {
        // A server that is away keeps no other database longer.
        outcome = outcome.and(drop_if_expired(environment, &retained).await);
    }
    outcome
}

/// An undo may have been asked for since it was listed, and keeps what it brings back: none begins while this looks.
async fn drop_if_expired(environment: &Environment, listed: &Retained) -> Result<(), StepError> {
    let catalog = &environment.catalog;
    let Some(hold) = catalog.try_hold(listed.tenant_id).await? else { return Ok(()) };
    let mut expired = catalog.expired_databases(Some(listed.tenant_id)).await?;
    expired
        .retain(|now| (now.server_id, now.operation_id) == (listed.server_id, listed.operation_id));
    if let Some(retained) = expired.pop() {
        way_back::drop_kept(environment, &retained).await?;
        let database = retained.database.as_str();
        tracing::info!(database, "replaced database dropped after its time");
    }
    hold.end().await;
    Ok(())
}

/// The name under which a template is built: always the same for one set, so that a crash is resumed.
pub(crate) fn build_id(digest: &str) -> Uuid {
    let mut bytes = [0; 16];
    hex::decode_to_slice(&digest[..32], &mut bytes).expect("a digest is 64 hex digits");
    Uuid::from_bytes(bytes)
}
