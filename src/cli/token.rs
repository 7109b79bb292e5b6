//! `tenantry token …`

use clap::{Args, Subcommand};
use secrecy::ExposeSecret as _;
use serde::Serialize;

use super::report::{Table, age};
use super::{Context, Outcome, OutputFormat, Result, report};
use crate::api::document::TokenDocument;
use crate::catalog::Catalog;
use crate::catalog::tokens::Scope;

/// The commands about tokens.
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  tenantry token create --name ci --scope migrate --scope tenants:read
  tenantry token list
  tenantry token revoke ci")]
pub(super) enum Command {
    /// Make a token for the admin API; it is shown once
    Create(CreateOptions),
    /// List tokens, without their secrets
    List(ListOptions),
    /// Void a token
    Revoke(RevokeOptions),
}

#[derive(Debug, Args)]
#[command(after_help = format!("\
Examples:
  tenantry token create --name ci --scope migrate --scope tenants:read
  tenantry token create --name ops --scope all
  TOKEN=$(tenantry token create --name app --scope data --quiet)

Scopes: {}; or all.", scopes()))]
pub(super) struct CreateOptions {
    /// Its name; it stands for its holder in records
    #[arg(long, value_parser = parse_name)]
    name: String,
    /// What it allows; may be repeated, or a list with commas
    #[arg(long = "scope", value_name = "SCOPE", required = true)]
    #[arg(value_delimiter = ',', value_parser = parse_scope)]
    scopes: Vec<Scopes>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry token list")]
pub(super) struct ListOptions {}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry token revoke ci

Replicas forget the token within five seconds.")]
pub(super) struct RevokeOptions {
    /// The token's name
    name: String,
}

/// One scope, or all of them.
#[derive(Clone, Debug)]
enum Scopes {
    One(Scope),
    All,
}

/// A new token; the only place where its secret stands.
#[derive(Serialize)]
pub(super) struct NewToken {
    pub name: String,
    pub scopes: Vec<Scope>,
    pub token: String,
}

pub(super) async fn run(command: Command, context: &Context) -> Result<Outcome> {
    match command {
        Command::Create(options) => create(options, context).await,
        Command::List(options) => list(options, context).await,
        Command::Revoke(options) => revoke(options, context).await,
    }
}

async fn create(options: CreateOptions, context: &Context) -> Result<Outcome> {
    let scopes = Scope::ALL.into_iter().filter(|scope| {
        options.scopes.iter().any(|wanted| match wanted {
            Scopes::One(one) => one == scope,
            Scopes::All => true,
        })
    });
    let token = make(&context.catalog().await?, options.name, scopes.collect()).await?;
    context.note("This is a secret, and it is shown only now:");
    match context.output {
        OutputFormat::Json => report::print_json(&token)?,
        OutputFormat::Table => report::print_text(&token.token)?,
    }
    Ok(Outcome::Done)
}

/// Makes a token.
pub(super) async fn make(catalog: &Catalog, name: String, scopes: Vec<Scope>) -> Result<NewToken> {
    let secret = catalog.create_token(&name, &scopes).await?;
    Ok(NewToken { name, scopes, token: secret.expose_secret().to_owned() })
}

async fn list(_: ListOptions, context: &Context) -> Result<Outcome> {
    let tokens = context.catalog().await?.tokens().await?;
    let documents: Vec<TokenDocument> = tokens.into_iter().map(TokenDocument::from).collect();
    context.print(&documents, || {
        let mut table = Table::new(&["NAME", "STATUS", "AGE", "SCOPES"]);
        for token in &documents {
            let scopes: Vec<&str> = token.scopes.iter().map(|scope| scope.as_str()).collect();
            let status = if token.revoked_at.is_some() { "revoked" } else { "active" };
            table.row([
                token.name.clone(),
                status.to_owned(),
                age(token.created_at),
                scopes.join(", "),
            ]);
        }
        table.or("No tokens. `tenantry token create --name NAME --scope SCOPE` makes one.")
    })?;
    Ok(Outcome::Done)
}

async fn revoke(options: RevokeOptions, context: &Context) -> Result<Outcome> {
    let catalog = context.catalog().await?;
    catalog.revoke_token(&options.name).await?;
    let tokens = catalog.tokens().await?;
    let Some(token) = tokens.into_iter().find(|token| token.name == options.name) else {
        return Ok(Outcome::Done);
    };
    let what = format!("Token `{}` is void.", options.name);
    context.print_change(&TokenDocument::from(token), &what, "")?;
    Ok(Outcome::Done)
}

fn parse_scope(text: &str) -> std::result::Result<Scopes, String> {
    if text == "all" {
        return Ok(Scopes::All);
    }
    Scope::parse(text)
        .map(Scopes::One)
        .ok_or_else(|| format!("a scope is one of {}; or all", scopes()))
}

/// The names of all scopes.
fn scopes() -> String {
    Scope::ALL.map(Scope::as_str).join(", ")
}

fn parse_name(text: &str) -> std::result::Result<String, String> {
    let good = !text.is_empty() && text.len() <= 100 && !text.contains(char::is_control);
    if good {
        Ok(text.to_owned())
    } else {
        Err("a name has 1 to 100 printable characters".to_owned())
    }
}
