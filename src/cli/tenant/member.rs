//! `tenantry tenant member add`, `list` and `remove`

use clap::{Args, Subcommand};

use crate::catalog::members::{Member, MemberRole, User};
use crate::cli::report::{Table, age};
use crate::cli::{Context, Error, Outcome, Result};
use crate::tenant::TenantSlug;

/// The commands about members.
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  tenantry tenant member add acme-corp 00u1a2b3 --role read_only
  tenantry tenant member list acme-corp")]
pub(in crate::cli) enum Command {
    /// Make a user a member, or give a member another role
    Add(AddOptions),
    /// List the members of a tenant
    List(ListOptions),
    /// End a membership
    Remove(RemoveOptions),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry tenant member add acme-corp 'auth0|5f7c8ec7'
  tenantry tenant member add acme-corp 00u1a2b3 --role read_only --issuer https://id.acme.com")]
pub(in crate::cli) struct AddOptions {
    #[command(flatten)]
    who: Who,
    /// owner, admin, member or read_only
    #[arg(long, default_value = "member", value_parser = parse_role)]
    role: MemberRole,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry tenant member list acme-corp")]
pub(in crate::cli) struct ListOptions {
    /// The tenant
    #[arg(value_parser = TenantSlug::parse)]
    slug: TenantSlug,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry tenant member remove acme-corp 'auth0|5f7c8ec7'")]
pub(in crate::cli) struct RemoveOptions {
    #[command(flatten)]
    who: Who,
}

#[derive(Debug, Args)]
struct Who {
    /// The tenant
    #[arg(value_parser = TenantSlug::parse)]
    slug: TenantSlug,
    /// The user, as the `sub` of their tokens names them
    #[arg(value_parser = parse_subject)]
    subject: String,
    /// The `iss` of their tokens; needed where there is more than one identity provider, or none
    #[arg(long, value_name = "URL")]
    issuer: Option<String>,
}

pub(super) async fn run(command: Command, context: &Context) -> Result<Outcome> {
    match command {
        Command::Add(options) => add(options, context).await,
        Command::List(options) => list(options, context).await,
        Command::Remove(options) => remove(options, context).await,
    }
}

async fn add(AddOptions { who, role }: AddOptions, context: &Context) -> Result<Outcome> {
    let issuer = who.issuer(context)?;
    let Who { slug, subject, .. } = who;
    let catalog = context.catalog().await?;
    let user = User { issuer: &issuer, subject: &subject };
    catalog.add_member(&slug, user, role, &context.actor).await?;
    let members = catalog.members(&slug).await?;
    let member = members.iter().find(|member| member.issuer == issuer && member.subject == subject);
    let what = format!("`{subject}` is {} of `{slug}`.", role.as_str());
    context.print_change(&member, &what, "")?;
    Ok(Outcome::Done)
}

async fn list(options: ListOptions, context: &Context) -> Result<Outcome> {
    let members: Vec<Member> = context.catalog().await?.members(&options.slug).await?;
    context.print(&members, || {
        let mut table = Table::new(&["SUBJECT", "ROLE", "ISSUER", "AGE"]);
        for member in &members {
            table.row([
                member.subject.clone(),
                member.role.as_str().to_owned(),
                member.issuer.clone(),
                age(member.created_at),
            ]);
        }
        table.or("No members. `tenantry tenant member add SLUG SUBJECT` makes one.")
    })?;
    Ok(Outcome::Done)
}

async fn remove(RemoveOptions { who }: RemoveOptions, context: &Context) -> Result<Outcome> {
    let issuer = who.issuer(context)?;
    let Who { slug, subject, .. } = who;
    let user = User { issuer: &issuer, subject: &subject };
    context.catalog().await?.remove_member(&slug, user, &context.actor).await?;
    let gone = serde_json::json!({ "issuer": issuer, "subject": subject });
    let what =
        format!("`{subject}` is no member of `{slug}` any more; replicas follow in seconds.");
    context.print_change(&gone, &what, "")?;
    Ok(Outcome::Done)
}

impl Who {
    /// The issuer that is given, or the only one that there is.
    fn issuer(&self, context: &Context) -> Result<String> {
        let named = self.issuer.clone().or_else(|| context.settings.only_issuer());
        named.ok_or_else(|| {
            Error::usage(
                "whose user this is must be said: there is not exactly one identity provider",
                "give --issuer, as in the `iss` of the user's tokens",
            )
        })
    }
}

fn parse_role(text: &str) -> std::result::Result<MemberRole, String> {
    MemberRole::parse(text).ok_or_else(|| {
        let all: Vec<&str> = MemberRole::ALL.into_iter().map(MemberRole::as_str).collect();
        format!("a role is one of {}", all.join(", "))
    })
}

fn parse_subject(text: &str) -> std::result::Result<String, String> {
    let good = (1..=255).contains(&text.len()) && !text.contains(char::is_control);
    if good { Ok(text.to_owned()) } else { Err("a subject has 1 to 255 characters".to_owned()) }
}
