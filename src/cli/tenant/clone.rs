//! `tenantry tenant clone`

use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::Args;

use super::Wait;
use crate::cli::arguments::name;
use crate::cli::drive::Driver;
use crate::cli::{Context, Error, Outcome, Result};
use crate::operations::request::CloneAs;
use crate::tenant::{Label, TenantSlug};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry tenant clone acme-corp --as acme-test
  tenantry tenant clone acme-corp --as acme-test --mask mask.sql --tag test
  tenantry tenant clone acme-corp --as acme-eu-2 --server eu-2

The data is that of one moment; the tenant is served meanwhile, as ever. The clone has an id, a role, a password
and keys of its own, and no members, domains or tokens. Settings come along, but for its identity provider and a
legal hold; so it goes only where its region lets it.

The masking SQL runs before the clone opens, in one transaction, with the rights of the tenant's application and
no others. Triggers of its tables run, too. If it fails, the clone does not open.")]
pub(in crate::cli) struct Options {
    /// The tenant to clone
    #[arg(value_parser = TenantSlug::parse)]
    slug: TenantSlug,
    /// The tenant to make of it
    #[arg(long = "as", id = "into", value_name = "SLUG", value_parser = TenantSlug::parse)]
    into: TenantSlug,
    /// Its name for people [default: the slug]
    #[arg(long, value_parser = name)]
    name: Option<String>,
    /// The server to host it [default: of those that may, the one with the fewest tenants]
    #[arg(long)]
    server: Option<String>,
    /// Its tags; may be given several times [default: those of the original]
    #[arg(long = "tag", value_name = "TAG", value_parser = Label::parse)]
    tags: Vec<Label>,
    /// SQL that masks the data before the clone opens; - is the standard input
    #[arg(long, value_name = "FILE")]
    mask: Option<PathBuf>,
    #[command(flatten)]
    wait: Wait,
}

pub(super) async fn run(options: Options, context: &Context) -> Result<Outcome> {
    let mask = options.mask.as_deref().map(read).transpose()?;
    let environment = context.environment().await?;
    let Options { slug, into, name, server, tags, wait, .. } = options;
    let is_masked = mask.is_some();
    let tags = (!tags.is_empty()).then(|| tags.into_iter().collect());
    let to = CloneAs { slug: into.clone(), name, server, tags, mask };
    let by = context.requester();
    let operation = environment.clone_tenant(&slug, to, by).await?;
    let driver = Driver { context, environment: &environment };
    driver
        .conclude(operation, &into, wait.wait, |time| {
            let data = if is_masked { "the masked data" } else { "the data" };
            let what = format!("Tenant `{into}` has {data} of `{slug}`, and is served ({time}).");
            (what, format!("Next: `tenantry tenant url {into}`"))
        })
        .await
}

fn read(path: &Path) -> Result<String> {
    let read = if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(path)
    };
    read.map_err(|error| Error::failed(format!("{} cannot be read", path.display()), error))
}
