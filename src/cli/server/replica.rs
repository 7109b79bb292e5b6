//! `tenantry server replica …`

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use secrecy::SecretString;
use tenantry_provisioning::{Server, ServerUrl};

use super::add::{self, describe, parse_name};
use crate::api::document::ReadReplicaDocument;
use crate::cli::report::{Table, age};
use crate::cli::{Context, Error, Outcome, Result};

/// How long a read replica may take to replay what its server has written.
const CATCH_UP: Duration = Duration::from_secs(5);

/// The commands about read replicas.
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  tenantry server replica add eu-1 eu-1-b --url-file /run/secrets/eu-1-b
  tenantry server replica list")]
pub(in crate::cli) enum Command {
    /// Have reads of a server's tenants go to a standby of it
    Add(AddOptions),
    /// List read replicas
    List(ListOptions),
    /// Have no more reads go to a read replica
    Remove(RemoveOptions),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry server replica add eu-1 eu-1-b --url-file /run/secrets/eu-1-b
  pass show eu-1-b | tenantry server replica add eu-1 eu-1-b --url-file -

It must be a standby that replicates the server by streaming, and is checked for that. Name one machine: an
address behind which there are several would tell of the one's lag and read from the other.
Routers read there while it is less than TENANTRY_REPLICA_MAX_LAG behind.")]
pub(in crate::cli) struct AddOptions {
    /// The server that it is a copy of
    server: String,
    /// Its name: lowercase letters, digits, inner hyphens
    #[arg(value_parser = parse_name)]
    name: String,
    /// How an administrator reaches it; other users of this machine can see it, so prefer --url-file
    #[arg(long, required_unless_present = "url_file", conflicts_with = "url_file")]
    url: Option<SecretString>,
    /// A file that holds the URL; `-` is stdin
    #[arg(long, value_name = "FILE")]
    url_file: Option<PathBuf>,
    /// Add it although the check found something
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry server replica list          of every server
  tenantry server replica list eu-1")]
pub(in crate::cli) struct ListOptions {
    /// The server's name [default: all]
    server: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry server replica remove eu-1 eu-1-b

Reads go to the server from the next moment on; those under way end as they began. The standby itself is
left as it is.")]
pub(in crate::cli) struct RemoveOptions {
    /// The server that it is a copy of
    server: String,
    /// Its name
    name: String,
}

pub(super) async fn run(command: Command, context: &Context) -> Result<Outcome> {
    match command {
        Command::Add(options) => add(options, context).await,
        Command::List(options) => list(options, context).await,
        Command::Remove(options) => remove(options, context).await,
    }
}

async fn add(options: AddOptions, context: &Context) -> Result<Outcome> {
    let (url, parsed) = add::url(options.url, options.url_file)?;
    let catalog = context.catalog().await?;
    let server = catalog.server_by_name(&options.server).await?;
    refuse_several(&parsed)?;

    let primary = Server::new(catalog.server_url(server.id).await?, 1);
    let problems = primary.check_standby(&parsed, CATCH_UP).await?;
    if !problems.is_empty() && !options.force {
        let list: Vec<String> = problems.iter().map(describe).collect();
        return Err(Error::refused(
            format!("nobody can read there in the place of `{}`\n{}", server.name, list.join("\n")),
            "fix this and try again, or add it all the same with --force",
        ));
    }
    let record = catalog.add_read_replica(&server.name, &options.name, &url).await?;
    let document = ReadReplicaDocument::from(record);
    let what = format!(
        "Reads of `{}` go to read replica `{}` ({}), too.",
        document.server, document.name, document.address
    );
    let next = format!("Next: `tenantry server check {}`", document.server);
    context.print_change(&document, &what, &next)?;
    Ok(Outcome::Done)
}

async fn list(options: ListOptions, context: &Context) -> Result<Outcome> {
    let catalog = context.catalog().await?;
    if let Some(server) = &options.server {
        catalog.server_by_name(server).await?;
    }
    let found = catalog.read_replicas(options.server.as_deref()).await?;
    let documents: Vec<ReadReplicaDocument> = found.into_iter().map(Into::into).collect();
    context.print(&documents, || {
        let mut table = Table::new(&["SERVER", "NAME", "ADDRESS", "AGE"]);
        for replica in &documents {
            table.row([
                replica.server.clone(),
                replica.name.clone(),
                replica.address.clone(),
                age(replica.created_at),
            ]);
        }
        table.or(
            "No read replicas. `tenantry server replica add SERVER NAME --url-file FILE` adds one.",
        )
    })?;
    Ok(Outcome::Done)
}

async fn remove(options: RemoveOptions, context: &Context) -> Result<Outcome> {
    let RemoveOptions { server, name } = options;
    let catalog = context.catalog().await?;
    catalog.remove_read_replica(&server, &name).await?;
    let document = serde_json::json!({ "server": server, "name": name });
    let what = format!("Reads of `{server}` go to read replica `{name}` no more.");
    let next = format!("Next: `tenantry server replica list {server}`");
    context.print_change(&document, &what, &next)?;
    Ok(Outcome::Done)
}

/// How far each of several is behind is for each to say.
fn refuse_several(url: &ServerUrl) -> Result<()> {
    if !url.host_label().contains(',') {
        return Ok(());
    }
    Err(Error::refused(
        format!("the URL names several hosts: {}", url.host_label()),
        "add each of them as a read replica of its own",
    ))
}
