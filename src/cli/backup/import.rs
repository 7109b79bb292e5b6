//! `tenantry backup import`

use std::path::PathBuf;
use std::time::Instant;

use clap::{Args, ValueEnum};
use serde::Serialize;
use tenantry_backup::DumpFormat;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::catalog::operations::{OperationRecord, OperationState};
use crate::catalog::tenants::NewTenant;
use crate::cli::drive::Driver;
use crate::cli::report::{Table, count, elapsed};
use crate::cli::tier::parse_tier;
use crate::cli::{Context, Error, Interrupt, Outcome, Result};
use crate::operations::import::{ImportSource, Imported};
use crate::operations::request::Requester;
use crate::operations::{Environment, Runner, StepError};
use crate::tenant::{TenantSettings, TenantSlug, Tier};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pg_dump -Fc old_database > acme.dump
  tenantry backup import acme.dump --as acme-corp
  tenantry backup import acme.sql.gz --as acme-corp --name 'Acme Corporation' --server eu-1 --baseline 17
  pg_dump -Fc old_database | tenantry backup import - --as acme-corp

Makes a new tenant of a dump that you have: custom, tar or plain, also compressed with gzip or zstd. Its own
schema stays as it is. Owners, grants, event triggers, publications and subscriptions are left out, and
named; what needs a superuser or another server is refused. Whatever the dump does, it does with rights in
the new database alone. If it fails, or is interrupted, nothing of it is left.

Until `--baseline`, or `tenantry migrate baseline` later, says which migration files made that schema, the
tenant counts as having none of them: `migrate up` would run them all.

Exit status 4 when the dump is refused for what it holds, and when --baseline finds another schema than the files
make: then the tenant is there, without a history.")]
pub(in crate::cli) struct Options {
    /// The dump; - for standard input
    file: PathBuf,
    /// The tenant to make of it
    #[arg(long = "as", id = "into", value_name = "SLUG", value_parser = TenantSlug::parse)]
    into: TenantSlug,
    /// Its name for people [default: the slug]
    #[arg(long)]
    name: Option<String>,
    /// The server to host it [default: the one with the fewest tenants]
    #[arg(long)]
    server: Option<String>,
    /// How it is hosted
    #[arg(long, default_value = "shared", value_parser = parse_tier)]
    tier: Tier,
    /// What the dump is
    #[arg(long, value_enum, default_value = "auto")]
    format: Format,
    /// The newest migration file that its schema has, to write its history with
    #[arg(long, value_name = "N")]
    baseline: Option<i64>,
    /// Let functions in that could take an administrator's rights later: you know them
    #[arg(long)]
    trust_functions: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Auto,
    Custom,
    Tar,
    Plain,
}

#[derive(Serialize)]
struct Document<'a> {
    tenant: &'a TenantSlug,
    operation: Uuid,
    format: &'static str,
    #[serde(flatten)]
    imported: Imported,
    #[serde(skip_serializing_if = "Option::is_none")]
    baseline: Option<Baseline>,
}

/// What came of `--baseline`.
#[derive(Serialize)]
struct Baseline {
    version: i64,
    /// How often the schema is not what the files make; the history is written where it is.
    differences: usize,
}

pub(super) async fn run(options: Options, context: &Context) -> Result<Outcome> {
    let environment = context.environment().await?;
    if let Some(version) = options.baseline
        && environment.migrations().at(version).is_none()
    {
        return Err(Error::usage(
            format!("there is no migration file of version {version}"),
            "choose a version that the directory has (TENANTRY_TENANT_MIGRATIONS_DIR)",
        ));
    }
    let source = environment.open_dump(&options.file, options.format.into()).await?;
    let slug = options.into;
    let new = NewTenant {
        slug: slug.clone(),
        name: options.name.unwrap_or_else(|| slug.to_string()),
        tier: options.tier,
        settings: TenantSettings::default(),
        server: options.server,
        track: None,
    };
    let (began, by) = (Instant::now(), context.requester());
    let operation = environment.import(&new, source.clone(), options.trust_functions, by).await?;
    let driver = Driver { context, environment: &environment };
    let record = see_through(&driver, operation.id, &slug, &source).await?;
    let imported = Imported::of(&record).unwrap_or_default();
    let baseline = match options.baseline {
        Some(version) => Some(adopt(&driver, &slug, version, by).await?),
        None => None,
    };
    let (operation, format) = (record.id, source.format().as_str());
    let document = Document { tenant: &slug, operation, format, imported, baseline };
    context.print(&document, || document.describe(&elapsed(began.elapsed())))?;
    context.note(&document.next());
    let is_drifted = document.baseline.is_some_and(|baseline| baseline.differences > 0);
    Ok(if is_drifted { Outcome::Drifted } else { Outcome::Done })
}

/// Sees the import end well; after any other end there is nothing left of it.
async fn see_through(
    driver: &Driver<'_>,
    id: Uuid,
    slug: &TenantSlug,
    source: &ImportSource,
) -> Result<OperationRecord> {
    let stopping = stop_when_interrupted(source.clone())?;
    let settled = driver.settle(id, slug).await;
    stopping.abort();
    if let Ok(record) = &settled
        && record.state == OperationState::Succeeded
    {
        return settled;
    }
    let left = match give_up(driver.environment, id).await {
        Ok(true) => "nothing of it is left".to_owned(),
        _ => format!(
            "what is left of it goes with `tenantry operation cancel {id}`, or when a worker comes by"
        ),
    };
    match settled {
        Err(Error::Interrupted { .. }) => Err(Error::Interrupted { help: left }),
        Err(error) => Err(error),
        Ok(record) => {
            let was_refused = Imported::was_refused(&record);
            let failure = record.error;
            let (message, remedy) = match failure {
                Some(failure) => (failure.message, failure.remedy),
                None => ("the import was cut off".to_owned(), None),
            };
            let remedy = remedy.map_or_else(|| left.clone(), |remedy| format!("{remedy} ({left})"));
            if was_refused {
                return Err(Error::refused(message, remedy));
            }
            Err(Error::Step(StepError::Fail(message.into(), Some(remedy))))
        }
    }
}

/// Undoes an import; whether that is done.
async fn give_up(environment: &Environment, id: Uuid) -> Result<bool> {
    if environment.catalog.operation(id).await?.state != OperationState::Cancelled {
        environment.cancel(id).await?;
    }
    let runner = Runner::new(environment.clone(), CancellationToken::new());
    Ok(runner.complete(id).await?.state == OperationState::Cancelled)
}

/// A dump may take long to load, and nobody waits for the rest of it after Ctrl-C.
fn stop_when_interrupted(source: ImportSource) -> Result<JoinHandle<()>> {
    let listening = Interrupt::listen();
    let mut interrupt =
        listening.map_err(|error| Error::failed("signals cannot be listened for", error))?;
    Ok(tokio::spawn(async move {
        interrupt.next().await;
        source.stop();
    }))
}

/// Writes the history of migrations, if the schema is what the files up to a version make.
async fn adopt(
    driver: &Driver<'_>,
    slug: &TenantSlug,
    version: i64,
    by: Requester<'_>,
) -> Result<Baseline> {
    let environment = driver.environment;
    let tenant = environment.catalog.tenant(slug).await?;
    let differences = environment.compare(&tenant, version).await?.differences.len();
    if differences == 0 {
        let operation = environment.baseline(slug, Some(version), None, by).await?;
        driver.succeed(operation.id, slug).await?;
    }
    Ok(Baseline { version, differences })
}

impl Document<'_> {
    fn describe(&self, time: &str) -> String {
        let tables = &self.imported.tables;
        let rows: i64 = tables.iter().map(|table| table.rows).sum();
        let mut table = Table::new(&["TABLE", "ROWS"]);
        for one in tables {
            table.row([format!("{}.{}", one.schema, one.table), one.rows.to_string()]);
        }
        let mut text = format!(
            "Tenant `{}` is imported and served ({time}): {}, {}.\n",
            self.tenant,
            count(tables.len(), "table"),
            count(usize::try_from(rows).unwrap_or_default(), "row"),
        );
        let left_out = self.imported.left_out.iter().map(|(what, number)| match number {
            1 => what.clone(),
            number => format!("{what} ({number})"),
        });
        let left_out: Vec<String> = left_out.collect();
        if !left_out.is_empty() {
            text += &["Left out: ", &left_out.join(", "), ".\n"].concat();
        }
        text + "\n" + &table.or("It has no tables.")
    }

    fn next(&self) -> String {
        let slug = self.tenant;
        match &self.baseline {
            Some(Baseline { version, differences: 0 }) => format!(
                "\nIt is at version {version}; newer files: `tenantry migrate up --tenant {slug}`"
            ),
            Some(Baseline { version, differences }) => format!(
                "\nNo history was written: {} from what the files up to {version} make. \
                 `tenantry migrate baseline {slug} --version {version}` shows them",
                count(*differences, "difference")
            ),
            None => format!(
                "\nNext: `tenantry migrate baseline {slug} --version N` says which files its schema has; \
                 before that, `migrate up` would run them all"
            ),
        }
    }
}

impl From<Format> for Option<DumpFormat> {
    fn from(format: Format) -> Self {
        match format {
            Format::Auto => None,
            Format::Custom => Some(DumpFormat::Custom),
            Format::Tar => Some(DumpFormat::Tar),
            Format::Plain => Some(DumpFormat::Plain),
        }
    }
}
