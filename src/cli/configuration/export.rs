//! `tenantry config export`

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::catalog::audit_log::Event;
use crate::cli::report::print_json;
use crate::cli::{Context, Error, Outcome, Result, backup};

#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry config export --to catalog.json
  tenantry config export --to-bucket        what a replica does every hour
  tenantry config export | jq '.tables.tenants[].slug'

One JSON document: the settings in force, and what the catalog knows of servers, tenants and members.
Passwords and keys are in it only as the catalog keeps them, sealed under the master key; settings that
are secrets are not. In the bucket the whole document is sealed: `tenantry restore --from-bucket` reads it.")]
pub(in crate::cli) struct Options {
    /// Write it to this file
    #[arg(long, value_name = "FILE", conflicts_with = "to_bucket")]
    to: Option<PathBuf>,
    /// Write it to the bucket
    #[arg(long)]
    to_bucket: bool,
}

pub(in crate::cli) async fn run(options: Options, context: &Context) -> Result<Outcome> {
    let environment = context.environment().await?;
    if options.to_bucket {
        backup::need_store(&environment)?;
        let id = environment.back_up_catalog().await?;
        let document = json!({ "catalog_backup": id });
        context.print(&document, || format!("The catalog is backed up: {id}."))?;
        return Ok(Outcome::Done);
    }
    let catalog = &environment.catalog;
    let export = catalog.export(&environment.limits.configuration).await?;
    let event =
        Event { actor: catalog.by(), action: "catalog.exported", tenant: None, detail: json!({}) };
    catalog.record(&event).await?;
    let Some(path) = options.to else {
        print_json(&export)?;
        return Ok(Outcome::Done);
    };
    let text = serde_json::to_vec_pretty(&export).expect("a document has only text keys");
    tokio::fs::write(&path, text)
        .await
        .map_err(|error| Error::failed("the file cannot be written", error))?;
    let document = json!({ "file": path });
    context.print(&document, || format!("The catalog is written to {}.", path.display()))?;
    Ok(Outcome::Done)
}
