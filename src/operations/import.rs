//! Moving in: a tenant from a `pg_dump` that somebody else took.
//!
//! The dump is foreign, and may be hostile: whatever is in it runs as a guest with rights in the one database that
//! is being built, which nobody else can enter. What came of it is looked at before the administrator or the tenant
//! touches it, given to the owner of everything, and locked down. From there on it is like any other tenant.
//!
//! The file is with the process that asked. So no other worker takes an import before the dump is in, and when that
//! process dies before, whoever finds the import undoes it; afterwards any worker can finish it.

use std::path::Path;

use futures_util::FutureExt as _;
use serde::{Deserialize, Serialize};
use tenantry_backup::{ForeignError, TableRows};
use tenantry_provisioning::{Objection, Owner, Possession, Server, Source, scram_verifier};
use uuid::Uuid;

use self::load::{LeftOut, Loaded, load};
pub use self::source::ImportSource;
use super::backup::count_rows;
use super::request::Requester;
use super::transfer::watched;
use super::{Environment, Plan, Step, StepContext, StepError, Work, delete, provision};
use crate::catalog::CatalogError;
use crate::catalog::operations::{OperationRecord, OperationState};
use crate::catalog::tenants::NewTenant;
use crate::tenant::{SchemaState, TenantState};

mod judge;
mod load;
mod source;

pub(super) const PLAN: Plan = Plan {
    steps: &[
        Step::new("load_dump", |cx| load_dump(cx).boxed()),
        Step::new("adopt", |cx| adopt(cx).boxed()),
        Step::new("take_possession", |cx| take_possession(cx).boxed()),
        Step::new("activate", |cx| activate(cx).boxed()),
    ],
    abandon: delete::STEPS,
    no_return: 4,
};

const LOADED: &str = "loaded";
const ROWS: &str = "rows";
const REFUSED: &str = "refused";
/// So many objections are named; who fixes these sees the rest.
const MOST_NAMED: usize = 8;
const AGAIN: &str = "import it from where the file is: `tenantry backup import FILE --as SLUG`";

/// What an import has brought.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Imported {
    /// The version of the server that was dumped, where the dump says it.
    pub dumped_from: Option<String>,
    /// So many statements of the dump were run.
    pub statements: u64,
    /// What was left out, and how often.
    pub left_out: LeftOut,
    /// Every table with its rows.
    pub tables: Vec<TableRows>,
}

impl Imported {
    /// What an import says of itself once it has looked.
    #[must_use]
    pub fn of(record: &OperationRecord) -> Option<Self> {
        let loaded = Loaded::deserialize(record.memory.get(LOADED)?).ok()?;
        let tables = Vec::deserialize(record.memory.get(ROWS)?).ok()?;
        let Loaded { statements, left_out, dumped_from } = loaded;
        Some(Self { dumped_from, statements, left_out, tables })
    }

    /// Whether an import has failed because the dump holds what no tenant's database may.
    #[must_use]
    pub fn was_refused(record: &OperationRecord) -> bool {
        record.state != OperationState::Succeeded && record.memory.get(REFUSED).is_some()
    }
}

/// What a dump holds that no tenant's database may.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refusal(String);

/// Refuses a dump for what it holds; nothing is broken.
fn refusal(message: impl Into<String>, remedy: impl Into<String>) -> StepError {
    StepError::Fail(Box::new(Refusal(message.into())), Some(remedy.into()))
}

impl Environment {
    /// Opens a dump that is here, to see whether it can be imported; `-` is the standard input.
    pub async fn open_dump(
        &self,
        path: &Path,
        format: Option<tenantry_backup::DumpFormat>,
    ) -> Result<ImportSource, StepError> {
        ImportSource::open(path, format).await.map_err(|error: ForeignError| error.into())
    }

    /// Makes a tenant of a dump. `trust_functions` is somebody's word that the dump's code is known to do no harm.
    pub async fn import(
        &self,
        new: &NewTenant,
        source: ImportSource,
        trust_functions: bool,
        by: Requester<'_>,
    ) -> Result<OperationRecord, CatalogError> {
        let tenant = Uuid::now_v7();
        let work = Work::Import { file: source.name(), trust_functions };
        let operation = work.new_operation(tenant, by.name);
        // Before anybody can find the operation.
        let id = operation.id;
        self.keep_source(id, Some(source));
        let created = self.catalog.create_tenant(tenant, new, &operation).await;
        if created.is_err() {
            self.keep_source(id, None);
        }
        created
    }
}

async fn load_dump(cx: &StepContext<'_>) -> Result<(), StepError> {
    let source = cx.environment.source(cx.operation.id).ok_or_else(|| {
        StepError::fail("the dump is with the process that asked for the import", AGAIN)
    })?;
    let dump = source.dump().await?.ok_or_else(|| {
        StepError::fail("what came by standard input has been read, and is there only once", AGAIN)
    })?;
    let server = cx.server().await?;
    let (tools, _) = cx.environment.tools(&server).await?;
    let (build, owner) = (cx.build(), cx.owner());

    // Nothing can go on in the middle: every attempt starts from an empty database.
    provision::drop_build(&server, cx.operation.id).await?;
    server.create_build(&build, Source::Zero).await?;
    server.open_build(&build).await?;
    let guest = server.admit_guest(&build, owner).await?;

    let _turn = cx.environment.turn().await;
    let read = dump.progress();
    let loading = watched(cx, source.bytes(), |progress| async move {
        let session = guest.connect().await?;
        let mut script = dump.into_script(&tools)?;
        let mut loading = std::pin::pin!(load(&session, &mut script, &tools));
        let mut ticks = tokio::time::interval(std::time::Duration::from_millis(500));
        loop {
            tokio::select! {
                loaded = &mut loading => {
                    progress(read());
                    return loaded;
                }
                _ = ticks.tick() => progress(read()),
            }
        }
    });
    let loaded = tokio::select! {
        loaded = loading => note_refusal(cx, loaded).await?,
        () = source.stopped() => {
            return Err(StepError::fail("the import was interrupted", AGAIN));
        }
    };
    server.send_guest_away(&build, owner).await?;
    cx.remember(LOADED, &loaded).await
}

/// Looks at what came, and makes it the owner's of everything.
async fn adopt(cx: &StepContext<'_>) -> Result<(), StepError> {
    let server = cx.server().await?;
    let (build, owner) = (cx.build(), cx.owner());
    let Work::Import { trust_functions, .. } = *cx.work else {
        unreachable!("only an import has this step")
    };
    let mut objections = server.object_to(&build, owner).await?;
    objections.retain(|objection| !(trust_functions && objection.kind.is_about_code()));
    note_refusal(cx, refuse(&objections)).await?;
    server.adopt(&build, owner).await?;
    let rows = count_rows(&server.connect(&build).await?).await?;
    cx.remember(ROWS, &rows).await
}

fn refuse(objections: &[Objection]) -> Result<(), StepError> {
    if objections.is_empty() {
        return Ok(());
    }
    let named: Vec<String> = objections.iter().take(MOST_NAMED).map(ToString::to_string).collect();
    let more = match objections.len().saturating_sub(MOST_NAMED) {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    let is_about_code = objections.iter().all(|objection| objection.kind.is_about_code());
    let remedy = if is_about_code {
        "read that code: it could take the rights of whoever migrates or restores the tenant; import the dump with \
         --trust-functions if you would run it as a superuser, or dump the database without it"
    } else {
        "take it out of the database that was dumped, then dump it again (`pg_dump -Fc`)"
    };
    Err(refusal(
        format!("the dump cannot become a tenant's database: {}{more}", named.join("; ")),
        remedy,
    ))
}

/// Keeps it with the operation that the dump was refused, for whoever asked for the import.
async fn note_refusal<T>(
    cx: &StepContext<'_>,
    outcome: Result<T, StepError>,
) -> Result<T, StepError> {
    if let Err(StepError::Fail(error, _)) = &outcome
        && error.is::<Refusal>()
    {
        cx.remember(REFUSED, &true).await?;
    }
    outcome
}

async fn take_possession(cx: &StepContext<'_>) -> Result<(), StepError> {
    let server = cx.server().await?;
    let password = cx.environment.catalog.tenant_password(cx.tenant.id).await?;
    let verifier = scram_verifier(&password);
    let possession = Possession {
        from: &cx.build(),
        database: &cx.tenant.database,
        role: &cx.tenant.role,
        verifier: &verifier,
        login: true,
        owner: cx.owner(),
        epoch: cx.tenant.epoch,
    };
    Ok(server.take_possession(possession).await?)
}

/// Its history of migrations is empty: which files made its schema, nobody has said yet.
async fn activate(cx: &StepContext<'_>) -> Result<(), StepError> {
    let server = cx.server().await?;
    provision::prove_isolation(cx, &server, cx.tenant.epoch).await?;
    let epoch = cx.tenant.epoch;
    let schema = SchemaState::default();
    Ok(cx.lock.serve(&cx.tenant, TenantState::Active, epoch, &schema).await?)
}

/// Drops the guests that imports of this tenant have left, once their builds are gone.
pub(super) async fn dismiss_guests(cx: &StepContext<'_>, server: &Server) -> Result<(), StepError> {
    let mut operations = cx.lock.unfinished_operations().await?;
    operations.push(cx.operation.id);
    for operation in operations {
        server.dismiss_guest(Owner { tenant: cx.tenant.id, operation }).await?;
    }
    Ok(())
}
