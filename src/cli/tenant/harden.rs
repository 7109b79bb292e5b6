//! `tenantry tenant harden`

use clap::Args;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use serde::Serialize;
use tenantry_provisioning::Hardening;

use crate::catalog::operations::Failure;
use crate::cli::confirm::confirm;
use crate::cli::report::{Complaint, Table, count};
use crate::cli::{Context, Outcome, Result};
use crate::operations::Environment;
use crate::tenant::{Tenant, TenantSlug};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry tenant harden acme-corp
  tenantry tenant harden --all
  tenantry tenant harden --all --undo --yes     shows them each other's names again

Hides from tenants what PostgreSQL shows every role: the other databases, roles and sessions of its server. README.md
lists what breaks, such as `\\l`. New tenants, and restored ones, are as TENANTRY_HARDENING says.
Exit status 3 when some tenants failed.")]
pub(in crate::cli) struct Options {
    /// The tenants
    #[arg(value_parser = TenantSlug::parse, required_unless_present = "all", conflicts_with = "all")]
    slugs: Vec<TenantSlug>,
    /// Every tenant
    #[arg(long)]
    all: bool,
    /// Take it back
    #[arg(long)]
    undo: bool,
    /// Do not ask
    #[arg(long, short, requires = "undo")]
    yes: bool,
}

/// What became of a tenant.
#[derive(Serialize)]
struct Hardened {
    tenant: TenantSlug,
    hardening: &'static str,
    /// How many rights were changed.
    changed: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Failure>,
}

pub(super) async fn run(options: Options, context: &Context) -> Result<Outcome> {
    let environment = context.environment().await?;
    let tenants = chosen(&options, &environment).await?;
    let hardening = if options.undo { Hardening::Standard } else { Hardening::Strict };
    if options.undo {
        let whom = count(tenants.len(), "tenant");
        let what = format!("this shows {whom} the names of their neighbours");
        confirm(&what, "harden --undo", options.yes)?;
    }
    let mut done = Vec::with_capacity(tenants.len());
    let tenants = tenants.into_iter().map(|tenant| {
        let environment = &environment;
        async move { (environment.harden(&tenant, hardening).await, tenant) }.boxed()
    });
    let tenants: Vec<_> = tenants.collect();
    let mut hardened = stream::iter(tenants).buffered(context.settings.worker_concurrency);
    while let Some((outcome, tenant)) = hardened.next().await {
        let (changed, error) = match outcome {
            Ok(changed) => (changed, None),
            Err(error) => {
                let failure = error.to_failure("harden");
                let help = failure.remedy.as_deref().unwrap_or("try again in a moment");
                let complaint = Complaint {
                    error: format!("{}: {}", tenant.slug, failure.message),
                    detail: Some(help.to_owned()),
                    code: None,
                };
                complaint.print(context.output);
                (0, Some(failure))
            }
        };
        let hardening = hardening.as_str();
        done.push(Hardened { tenant: tenant.slug, hardening, changed, error });
    }
    let failed = done.iter().filter(|one| one.error.is_some()).count();
    context.print(&done, || {
        let mut table = Table::new(&["TENANT", "HARDENING", "RIGHTS CHANGED"]);
        for one in done.iter().filter(|one| one.error.is_none()) {
            let slug = one.tenant.to_string();
            table.row([slug, one.hardening.to_owned(), one.changed.to_string()]);
        }
        table.or("No tenant was changed.")
    })?;
    Ok(match failed {
        0 => Outcome::Done,
        failed if failed == done.len() => Outcome::Failed,
        _ => Outcome::PartlyDone,
    })
}

async fn chosen(options: &Options, environment: &Environment) -> Result<Vec<Tenant>> {
    if !options.all {
        return Ok(environment.fleet(&options.slugs).await?);
    }
    // Also those that cannot be changed now: each is told of.
    Ok(environment.catalog.living_tenants(None).await?)
}
