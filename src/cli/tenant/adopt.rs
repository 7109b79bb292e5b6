//! `tenantry tenant adopt`

use std::fmt::Write as _;

use clap::Args;

use super::Wait;
use crate::api::document::OperationDocument;
use crate::api::document::adoption::AdoptionDocument;
use crate::catalog::operations::OperationState;
use crate::catalog::tenants::NewTenant;
use crate::cli::arguments::name;
use crate::cli::confirm::confirm;
use crate::cli::drive::Driver;
use crate::cli::report::count;
use crate::cli::tier::parse_tier;
use crate::cli::{Context, Error, Outcome, Result};
use crate::operations::{AdoptFrom, adoption_differences};
use crate::tenant::{TenantSettings, TenantSlug, Tier};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry tenant adopt acme-corp --server eu-1 --database acme_production --dry-run
  tenantry tenant adopt acme-corp --server eu-1 --database acme_production --baseline 42 --yes

The database stays where it is and is renamed. Everything in it goes to `tenantry_owner`; whoever had a right to it
has none any more, and its application logs in with `tenantry tenant url` from then on. Roles stay. Stop the
application first: nobody may be in the database.

--dry-run changes nothing: it shows every statement, and what keeps the database from becoming a tenant's. Until all
of that has been tried, in a transaction that is rolled back, `tenantry operation cancel` leaves the database as it
was. After that there is only forward.")]
pub(in crate::cli) struct Options {
    /// The tenant to make of it
    #[arg(value_parser = TenantSlug::parse)]
    slug: TenantSlug,
    /// The server that has the database
    #[arg(long)]
    server: String,
    /// The database
    #[arg(long)]
    database: String,
    /// Its name for people [default: the slug]
    #[arg(long, value_parser = name)]
    name: Option<String>,
    /// How it is hosted
    #[arg(long, default_value = "shared", value_parser = parse_tier)]
    tier: Tier,
    /// The newest migration file that its schema has, to write its history with
    #[arg(long, value_name = "N")]
    baseline: Option<i64>,
    /// Let functions in that could take an administrator's rights later: you know them
    #[arg(long)]
    trust_functions: bool,
    /// Only show what would be done, and what keeps it from that
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    wait: Wait,
}

pub(super) async fn run(options: Options, context: &Context) -> Result<Outcome> {
    let environment = context.environment().await?;
    let Options { slug, server, database, baseline, trust_functions, wait, .. } = options;
    let new = NewTenant {
        name: options.name.unwrap_or_else(|| slug.to_string()),
        slug: slug.clone(),
        tier: options.tier,
        settings: TenantSettings::default(),
        server: Some(server.clone()),
        track: None,
    };
    let from = AdoptFrom { database: database.clone(), baseline, trust_functions };
    let plan = environment.plan_adoption(&new, &from).await?;
    let document = AdoptionDocument::new(slug.as_str(), &server, &database, plan);
    if options.dry_run || !document.obstacles.is_empty() {
        context.print(&document, || describe(&document))?;
        return match document.obstacles.len() {
            0 => Ok(Outcome::Done),
            number => Err(Error::refused(
                format!(
                    "`{database}` cannot become a tenant's as it is: {}",
                    count(number, "obstacle")
                ),
                "nothing was changed; do what is said above of each, then try again",
            )),
        };
    }
    for note in &document.notes {
        context.note(note);
    }
    let what = format!(
        "adopting the database `{database}` renames it, and takes it away from everybody who uses it now"
    );
    confirm(&what, &database, options.yes)?;

    let by = context.requester();
    let operation = environment.adopt(&new, from, by).await?;
    let driver = Driver { context, environment: &environment };
    if !wait.wait {
        return driver.leave(&operation, &slug);
    }
    let record = driver.settle(operation.id, &slug).await?;
    if record.state != OperationState::Succeeded {
        return Err(Error::of_operation(&record, &slug));
    }
    let what = format!("The database `{database}` is tenant `{slug}` now, and is served.");
    let (next, outcome) = match (baseline, adoption_differences(&record)) {
        (Some(version), Some(1..)) => (
            format!(
                "No history was written, as its schema is not what the files up to {version} make: \
                 `tenantry migrate baseline {slug} --version {version}` shows where"
            ),
            Outcome::Drifted,
        ),
        (Some(version), _) => (
            format!(
                "It is at version {version}; newer files: `tenantry migrate up --tenant {slug}`"
            ),
            Outcome::Done,
        ),
        (None, _) => (
            format!(
                "Next: `tenantry migrate baseline {slug} --version N` says which files its schema has; before that, \
                 `migrate up` would run them all"
            ),
            Outcome::Done,
        ),
    };
    context.print_change(&OperationDocument::new(&record, &slug), &what, &next)?;
    Ok(outcome)
}

fn describe(document: &AdoptionDocument) -> String {
    let AdoptionDocument { tenant, database, obstacles, notes, statements, .. } = document;
    let mut text = String::new();
    for obstacle in obstacles {
        _ = writeln!(text, "{}\n  → {}", obstacle.what, obstacle.remedy);
    }
    for note in notes {
        _ = writeln!(text, "-- {note}");
    }
    if !statements.is_empty() {
        _ = writeln!(
            text,
            "-- What makes `{database}` the tenant `{tenant}`; its ids are given when it is done."
        );
    }
    for statement in statements {
        _ = writeln!(text, "{};", statement.trim_end().trim_end_matches(';'));
    }
    text.trim_end().to_owned()
}
