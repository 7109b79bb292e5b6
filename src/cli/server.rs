//! `tenantry server …`

use clap::{Args, Subcommand};
use serde::Serialize;
use tenantry_provisioning::{Problem, Server, ServerFacts};

use super::report::{Table, age, count, fields, moment};
use super::{Context, Outcome, Result};
use crate::api::document::ServerDocument;
use crate::catalog::Catalog;
use crate::catalog::audit_log::Event;
use crate::doctor::examine_read_replicas;
use crate::tenant::tag::listed;
use crate::tenant::{Label, Tier};

mod add;
mod drain;
mod plan;
mod rebalance;
mod remove;
mod replica;
mod set;

pub(super) use add::warn;
pub(super) use plan::explain;

/// The commands about servers.
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  tenantry server add eu-1 --url-file /run/secrets/eu-1
  tenantry server check
  tenantry server drain eu-1")]
pub(super) enum Command {
    /// Add a PostgreSQL server that is to host tenants
    Add(add::Options),
    /// List servers
    List(ListOptions),
    /// Show one server
    Show(NameOptions),
    /// Say where a server stands, and whom it takes
    Set(set::Options),
    /// Let no tenant come to a server any more; those that are there stay
    Cordon(set::CordonOptions),
    /// Let tenants come to a server again, and end its draining
    Uncordon(set::UncordonOptions),
    /// Move all tenants of a server to others
    Drain(drain::Options),
    /// Remove a server that nothing of ours is on any more
    Remove(remove::Options),
    /// Bring tenants from where they must not be, and even out how many servers have
    Rebalance(rebalance::Options),
    /// Show where a new tenant would go, and why not elsewhere
    Plan(plan::Options),
    /// Check that a server can keep tenants apart, and that its read replicas follow it
    Check(CheckOptions),
    /// Create the group roles on a server and shut its shared databases, once more
    Prepare(PrepareOptions),
    /// The standbys of servers, for reading
    #[command(subcommand)]
    Replica(replica::Command),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry server list")]
pub(super) struct ListOptions {}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry server show default")]
pub(super) struct NameOptions {
    /// The server's name
    name: String,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry server check                 every server
  tenantry server check eu-1

Changes nothing. Exit status 1 when something is to be fixed.")]
pub(super) struct CheckOptions {
    /// The server's name [default: all]
    name: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry server prepare eu-1")]
pub(super) struct PrepareOptions {
    /// The server's name
    name: String,
}

/// What a server says of itself, and what is wrong with it.
#[derive(Serialize)]
struct Examined {
    #[serde(flatten)]
    server: ServerDocument,
    postgres: Option<String>,
    max_connections: Option<u32>,
    problems: Vec<ProblemDocument>,
}

/// Something to fix on a server.
#[derive(Serialize)]
struct ProblemDocument {
    what: String,
    remedy: String,
}

pub(super) async fn run(command: Command, context: &Context) -> Result<Outcome> {
    match command {
        Command::Add(options) => add::run(options, context).await,
        Command::List(options) => list(options, context).await,
        Command::Show(options) => show(options, context).await,
        Command::Set(options) => set::set(options, context).await,
        Command::Cordon(options) => set::cordon(options, context).await,
        Command::Uncordon(options) => set::uncordon(options, context).await,
        Command::Drain(options) => drain::run(options, context).await,
        Command::Remove(options) => remove::run(options, context).await,
        Command::Rebalance(options) => rebalance::run(options, context).await,
        Command::Plan(options) => plan::run(options, context).await,
        Command::Check(options) => check(options, context).await,
        Command::Prepare(options) => prepare(options, context).await,
        Command::Replica(command) => replica::run(command, context).await,
    }
}

async fn list(_: ListOptions, context: &Context) -> Result<Outcome> {
    let servers = context.catalog().await?.servers().await?;
    let documents: Vec<ServerDocument> = servers.into_iter().map(ServerDocument::from).collect();
    context.print(&documents, || {
        let mut table =
            Table::new(&["NAME", "ADDRESS", "REGION", "TAGS", "TIER", "TENANTS", "STATE", "AGE"]);
        for server in &documents {
            table.row([
                server.name.clone(),
                server.address.clone(),
                server.region.as_ref().map_or("-", Label::as_str).to_owned(),
                if server.tags.is_empty() { "-".to_owned() } else { listed(&server.tags) },
                server.tier.map_or("any", Tier::as_str).to_owned(),
                hosted(server),
                server.state.as_str().to_owned(),
                age(server.created_at),
            ]);
        }
        table.or("No servers. `tenantry server add NAME --url URL` adds one.")
    })?;
    Ok(Outcome::Done)
}

/// How many tenants a server has, and how many it takes.
fn hosted(server: &ServerDocument) -> String {
    let most = server.max_tenants.map_or_else(String::new, |most| format!(" of {most}"));
    format!("{}{most}", server.tenants)
}

fn why(reason: String) -> String {
    if reason.is_empty() { "yes".to_owned() } else { reason }
}

async fn show(options: NameOptions, context: &Context) -> Result<Outcome> {
    let catalog = context.catalog().await?;
    let document = ServerDocument::from(catalog.server_by_name(&options.name).await?);
    let server = connect(&catalog, &document, context).await?;
    let examined = examine(&catalog, document, &server).await?;
    context.print(&examined, || {
        let problems: Vec<String> =
            examined.problems.iter().map(|problem| problem.what.clone()).collect();
        fields(&[
            ("Name", Some(examined.server.name.clone())),
            ("Id", Some(examined.server.id.to_string())),
            ("Address", Some(examined.server.address.clone())),
            ("User", Some(server.url().user().to_owned())),
            ("Region", examined.server.region.as_ref().map(ToString::to_string)),
            ("Tags", Some(listed(&examined.server.tags)).filter(|tags| !tags.is_empty())),
            ("Tier", examined.server.tier.map(|tier| format!("only {}", tier.as_str()))),
            ("Tenants", Some(hosted(&examined.server))),
            ("State", Some(examined.server.state.as_str().to_owned())),
            ("Cordoned", examined.server.cordoned.clone().map(why)),
            ("PostgreSQL", examined.postgres.clone()),
            ("Connections", examined.max_connections.map(|number| format!("at most {number}"))),
            ("Added", Some(moment(examined.server.created_at))),
            ("Problems", (!problems.is_empty()).then(|| problems.join("\n"))),
        ])
    })?;
    Ok(Outcome::Done)
}

async fn check(options: CheckOptions, context: &Context) -> Result<Outcome> {
    let catalog = context.catalog().await?;
    let records = match options.name {
        Some(name) => vec![catalog.server_by_name(&name).await?],
        None => catalog.servers().await?,
    };
    let mut examined = Vec::with_capacity(records.len());
    for record in records {
        let document = ServerDocument::from(record);
        let server = connect(&catalog, &document, context).await?;
        examined.push(examine(&catalog, document, &server).await?);
    }
    context.print(&examined, || {
        let texts: Vec<String> = examined.iter().map(describe).collect();
        if texts.is_empty() { "No servers.".to_owned() } else { texts.join("\n") }
    })?;
    let well = examined.iter().all(|server| server.problems.is_empty());
    Ok(if well { Outcome::Done } else { Outcome::Failed })
}

async fn prepare(options: PrepareOptions, context: &Context) -> Result<Outcome> {
    let catalog = context.catalog().await?;
    let document = ServerDocument::from(catalog.server_by_name(&options.name).await?);
    connect(&catalog, &document, context).await?.prepare().await?;
    let detail = serde_json::json!({ "server": document.name });
    let event = Event { actor: catalog.by(), action: "server.prepared", tenant: None, detail };
    catalog.record(&event).await?;
    let what = format!("Server `{}` is prepared.", document.name);
    let next = format!("Next: `tenantry server check {}`", document.name);
    context.print_change(&document, &what, &next)?;
    Ok(Outcome::Done)
}

async fn connect(
    catalog: &Catalog,
    document: &ServerDocument,
    context: &Context,
) -> Result<Server> {
    let url = catalog.server_url(document.id).await?;
    let limits = context.settings.limits();
    Ok(Server::new(url, limits.admin_connections).hardened(limits.hardening))
}

/// Asks a server; that it does not answer is a problem like others.
async fn examine(catalog: &Catalog, document: ServerDocument, server: &Server) -> Result<Examined> {
    let asked = async { Ok((server.facts().await?, server.check().await?)) };
    let asked: std::result::Result<(ServerFacts, Vec<Problem>), tenantry_provisioning::Error> =
        asked.await;
    let examined = match asked {
        Ok((facts, mut problems)) => {
            problems.extend(examine_read_replicas(catalog, document.id, server).await?);
            Examined {
                server: document,
                postgres: Some(facts.version),
                max_connections: Some(facts.max_connections),
                problems: problems.into_iter().map(ProblemDocument::from).collect(),
            }
        }
        Err(error) => {
            let remedy = error.remedy().map(|remedy| remedy.to_string()).unwrap_or_default();
            let what = crate::operations::chain(&error);
            let problems = vec![ProblemDocument { what, remedy }];
            Examined { server: document, postgres: None, max_connections: None, problems }
        }
    };
    Ok(examined)
}

fn describe(examined: &Examined) -> String {
    let server = &examined.server;
    let version = examined.postgres.as_deref().unwrap_or("not reached");
    let verdict = match examined.problems.len() {
        0 => "fit to host tenants".to_owned(),
        number => count(number, "problem"),
    };
    let head = format!("{} ({}, {version}): {verdict}", server.name, server.address);
    let problems = examined
        .problems
        .iter()
        .map(|problem| format!("  - {}\n    help: {}", problem.what, problem.remedy));
    std::iter::once(head).chain(problems).collect::<Vec<_>>().join("\n")
}

impl From<Problem> for ProblemDocument {
    fn from(problem: Problem) -> Self {
        Self { what: problem.what, remedy: problem.remedy }
    }
}
