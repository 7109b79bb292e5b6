//! Provisioning: from a row in the catalog to a tenant that is served.
//!
//! There are three ways to a database and one result. The usual one takes a spare, a clone of the
//! template made ahead of time, and costs a rename. Without a spare the template is cloned now; without
//! a template (a new server, or a new migration a moment ago) every file is run. Whichever it was, the
//! database is locked and carries a name of ours until one transaction gives it to the tenant.

use futures_util::FutureExt as _;
use serde::{Deserialize, Serialize};
use tenantry_provisioning::{
    DatabaseName, Link, MigrationSet, MigrationTimeouts, Possession, Proof, SAMPLE_DATA, Server,
    Source, build_from_zero, scram_verifier,
};
use uuid::Uuid;

use super::{Plan, Step, StepContext, StepError, Work, delete, tracks};
use crate::tenant::{SchemaState, TenantState};

pub(super) const PLAN: Plan = Plan {
    steps: &[
        Step::new("build_database", |cx| build_database(cx).boxed()),
        Step::new("take_possession", |cx| take_possession(cx).boxed()),
        Step::new("apply_track", |cx| apply_track(cx).boxed()),
        Step::new("load_sample_data", |cx| load_sample_data(cx).boxed()),
        Step::new("activate", |cx| activate(cx).boxed()),
    ],
    abandon: delete::STEPS,
    no_return: 5,
};

/// What the database was built from.
const ORIGIN: &str = "origin";
/// The schema of a tenant that is in a track.
const SCHEMA: &str = "schema";

#[derive(Serialize, Deserialize)]
struct Origin {
    spare: Option<Uuid>,
    version: i64,
    #[serde(default)]
    repeatables: Option<String>,
}

async fn build_database(cx: &StepContext<'_>) -> Result<(), StepError> {
    let server = cx.server().await?;
    let set = cx.migrations();
    let digest = cx.environment.template_digest(&set);

    while let Some(spare) = cx.lock.claim_spare(cx.tenant.server_id, &digest).await? {
        if server.database(&DatabaseName::spare(spare)).await?.is_some()
            || is_done(cx, &server).await?
        {
            return note_origin(cx, Some(spare), &set).await;
        }
        cx.environment.catalog.forget_spare(spare).await?;
    }
    if is_done(cx, &server).await? {
        return Ok(());
    }
    let build = cx.build();
    let template = DatabaseName::template(&digest);
    note_origin(cx, None, &set).await?;
    if server.database(&template).await?.is_some_and(|facts| facts.is_template) {
        server.create_build(&build, Source::Template(&template)).await?;
    } else {
        build_from_zero(&server, &build, &set, cx.environment.limits.migration_timeouts).await?;
    }
    Ok(())
}

/// Whether an earlier attempt has already given the tenant its database.
pub(super) async fn is_done(cx: &StepContext<'_>, server: &Server) -> Result<bool, StepError> {
    let database = server.database(&cx.tenant.database).await?;
    Ok(database.is_some_and(|facts| facts.belongs_to(cx.tenant.id)))
}

/// A worker with newer migrations may go on from here; what counts is what was there at first.
async fn note_origin(
    cx: &StepContext<'_>,
    spare: Option<Uuid>,
    set: &MigrationSet,
) -> Result<(), StepError> {
    if cx.recall::<Origin>(ORIGIN)?.is_none_or(|origin| origin.spare != spare) {
        let repeatables = set.repeatables_digest().map(str::to_owned);
        cx.remember(ORIGIN, &Origin { spare, version: set.target_version(), repeatables }).await?;
    }
    Ok(())
}

async fn take_possession(cx: &StepContext<'_>) -> Result<(), StepError> {
    let server = cx.server().await?;
    let password = cx.environment.catalog.tenant_password(cx.tenant.id).await?;
    let verifier = scram_verifier(&password);
    match possess(cx, &server, &verifier, spare(cx)?).await {
        // Somebody has dropped what was built: build it again.
        Err(tenantry_provisioning::Error::Missing { .. }) => {
            build_database(cx).await?;
            Ok(possess(cx, &server, &verifier, spare(cx)?).await?)
        }
        possessed => Ok(possessed?),
    }
}

/// The spare that the database is made from.
fn spare(cx: &StepContext<'_>) -> Result<Option<Uuid>, StepError> {
    Ok(cx.recall::<Origin>(ORIGIN)?.and_then(|origin| origin.spare))
}

async fn possess(
    cx: &StepContext<'_>,
    server: &Server,
    verifier: &str,
    spare: Option<Uuid>,
) -> Result<(), tenantry_provisioning::Error> {
    let from = spare.map_or_else(|| cx.build(), DatabaseName::spare);
    let owner = cx.owner();
    server
        .take_possession(Possession {
            from: &from,
            database: &cx.tenant.database,
            role: &cx.tenant.role,
            verifier,
            login: true,
            owner,
            epoch: cx.tenant.epoch,
        })
        .await
}

/// Brings a tenant of a track from what every tenant has to what it has.
async fn apply_track(cx: &StepContext<'_>) -> Result<(), StepError> {
    let Some(track) = &cx.tenant.track else { return Ok(()) };
    let server = cx.server().await?;
    let (database, set) = (&cx.tenant.database, cx.migrations());
    let schema = tracks::bring(cx.environment, &server, database, &set, Some(track)).await?;
    cx.remember(SCHEMA, &schema).await
}

/// Loads the sample rows in one transaction, together with a note that they are there.
async fn load_sample_data(cx: &StepContext<'_>) -> Result<(), StepError> {
    let Work::Provision { sample_data: true } = cx.work else { return Ok(()) };
    let Some(path) = &cx.environment.limits.sample_data else {
        return Err(StepError::fail(
            "no sample data is configured",
            "set TENANTRY_TENANT_SAMPLE_DATA to an SQL file, then retry",
        ));
    };
    let sql = tokio::fs::read_to_string(path).await.map_err(|error| {
        let remedy = format!("make {} readable, then retry", path.display());
        StepError::Fail(Box::new(error), Some(remedy))
    })?;
    let server = cx.server().await?;
    let timeouts: MigrationTimeouts = cx.environment.limits.migration_timeouts;
    let mut session = server.connect_as_owner(&cx.tenant.database, timeouts).await?;
    let loaded = async {
        let transaction = session.transaction().await?;
        transaction.batch_execute(SAMPLE_DATA).await?;
        let news = transaction
            .execute(
                "-- provision::load_sample_data
                 insert into tenantry.sample_data (operation) values ($1) on conflict do nothing",
                &[&cx.operation.id],
            )
            .await?;
        if news == 1 {
            transaction.batch_execute(&sql).await?;
        }
        transaction.commit().await
    };
    loaded.await.map_err(|error| {
        let error = tenantry_provisioning::Error::from(error);
        StepError::Fail(Box::new(error), Some(format!("fix {}, then retry", path.display())))
    })
}

/// Proves that the database is shut to everybody else, and opens it to the router.
async fn activate(cx: &StepContext<'_>) -> Result<(), StepError> {
    let server = cx.server().await?;
    prove_isolation(cx, &server, cx.tenant.epoch).await?;
    let origin = cx.recall::<Origin>(ORIGIN)?;
    let schema = cx.recall::<SchemaState>(SCHEMA)?.unwrap_or_else(|| {
        let version = origin.as_ref().map_or(0, |origin| origin.version);
        let repeatables = origin.and_then(|origin| origin.repeatables);
        SchemaState { version, repeatables, track: None }
    });
    Ok(cx.lock.serve(&cx.tenant, TenantState::Active, cx.tenant.epoch, &schema).await?)
}

/// Refuses to serve a tenant whose database is not its own alone.
pub(super) async fn prove_isolation(
    cx: &StepContext<'_>,
    server: &Server,
    epoch: i64,
) -> Result<(), StepError> {
    let findings =
        server.findings(&cx.tenant.database, &cx.tenant.role, cx.tenant.id, epoch).await?;
    if findings.is_empty() {
        return Ok(());
    }
    let list: Vec<String> = findings.iter().map(ToString::to_string).collect();
    Err(StepError::fail(
        format!("the tenant is not isolated: {}", list.join("; ")),
        "run `tenantry server check`, fix what it names, then retry",
    ))
}

/// Drops what a provisioning built under this operation's name; part of deleting a tenant.
pub(super) async fn drop_build(server: &Server, operation: Uuid) -> Result<(), StepError> {
    let build = DatabaseName::build(operation);
    // One that follows another database cannot be dropped, nor one that is to be followed.
    server.unsubscribe(&build, Link::Move(operation)).await?;
    server.drop_slots(&build, Link::Back(operation)).await?;
    Ok(server.drop_owned_database(&build, Proof::Name).await?)
}
