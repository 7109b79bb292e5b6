//! `tenantry init`: everything between an empty PostgreSQL server and the first tenant. May be run
//! again at any time, and after every upgrade.

use std::time::Instant;

use clap::Args;
use serde::Serialize;
use tenantry_provisioning::{Problem, Server, ServerUrl};

use super::report::{elapsed, print_json, print_text};
use super::token::{self, NewToken};
use super::{Context, Outcome, OutputFormat, Result, server};
use crate::api::document::ServerDocument;
use crate::catalog::tokens::Scope;
use crate::catalog::{Catalog, newest_version};

/// The name of the first server.
const SERVER: &str = "default";
/// The name of the first token.
const TOKEN: &str = "admin";

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  export TENANTRY_CATALOG_URL='postgres://postgres:…@localhost:5432/tenantry'
  export TENANTRY_MASTER_KEY=\"$(openssl rand -base64 32)\"      keep it safe
  tenantry init

Creates the catalog's database if it is missing and brings its schema up to date, prepares
TENANTRY_SERVER_URL (by default the catalog's own server) to host tenants, and makes the first admin
token. Running it again changes nothing that is there; run it after every upgrade.")]
pub(super) struct Options {}

#[derive(Serialize)]
struct Document {
    catalog: String,
    schema_version: i64,
    server: Option<ServerDocument>,
    /// There only when this run made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    admin_token: Option<NewToken>,
}

pub(super) async fn run(_: Options, context: &Context) -> Result<Outcome> {
    let began = Instant::now();
    let catalog = context.settings.catalog()?.asked_by(&context.actor);
    catalog.init().await?;
    let (server, problems) = first_server(&catalog, context).await?;
    let tokens = catalog.tokens().await?;
    let admin_token = if tokens.is_empty() {
        Some(token::make(&catalog, TOKEN.to_owned(), Scope::ALL.to_vec()).await?)
    } else {
        None
    };

    let document = Document {
        catalog: catalog.url().host_label(),
        schema_version: newest_version(),
        server,
        admin_token,
    };
    server::warn(&problems);
    match context.output {
        OutputFormat::Json => print_json(&document)?,
        OutputFormat::Table => tell(&document, context, began)?,
    }
    if document.admin_token.is_none() && tokens.iter().all(|token| token.revoked_at.is_some()) {
        context.note("Every admin token is revoked: `tenantry token create` makes a new one.");
    }
    Ok(Outcome::Done)
}

/// Adds the first server, unless there is one. What its check found is told, but stands in nobody's
/// way: on the first day everything is on one server.
async fn first_server(
    catalog: &Catalog,
    context: &Context,
) -> Result<(Option<ServerDocument>, Vec<Problem>)> {
    let present = catalog.servers().await?;
    if !present.is_empty() {
        let default = present.into_iter().find(|server| server.name == SERVER);
        return Ok((default.map(ServerDocument::from), Vec::new()));
    }
    let (text, url) = context.settings.first_server()?;
    if shares_server(&url, catalog.url()) {
        // Tenants' roles must not reach the catalog's own database either.
        catalog.server().prepare().await?;
    }
    let server = Server::new(url, 2).hardened(context.settings.hardening);
    server.prepare().await?;
    let problems = server.check().await?;
    Ok((Some(catalog.add_server(SERVER, &text).await?.into()), problems))
}

fn shares_server(one: &ServerUrl, other: &ServerUrl) -> bool {
    one.host_label() == other.host_label()
}

fn tell(document: &Document, context: &Context, began: Instant) -> Result<()> {
    if !context.quiet {
        let version = document.schema_version;
        let time = elapsed(began.elapsed());
        print_text(&format!(
            "The catalog at {} is at version {version} ({time}).",
            document.catalog
        ))?;
        if let Some(server) = &document.server {
            print_text(&format!(
                "Server `{}` ({}) is ready to host tenants.",
                server.name, server.address
            ))?;
        }
    }
    if let Some(token) = &document.admin_token {
        context.note("\nThe admin token, with every scope. It is shown only now:");
        print_text(&token.token)?;
    }
    context.note(
        "\nNext:\n  \
         tenantry tenant create --slug acme-corp\n  \
         tenantry serve\n  \
         tenantry doctor",
    );
    Ok(())
}
