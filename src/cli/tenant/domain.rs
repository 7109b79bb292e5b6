//! `tenantry tenant domain add`, `verify`, `list` and `remove`

use clap::{Args, Subcommand};

use crate::api::document::DomainDocument;
use crate::cli::report::{Table, age, fields};
use crate::cli::{Context, Outcome, Result};
use crate::tenant::{DomainName, TenantSlug};

/// The commands about domains.
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  tenantry tenant domain add acme-corp app.acme.com
  tenantry tenant domain verify acme-corp app.acme.com
  tenantry tenant domain list acme-corp")]
pub(in crate::cli) enum Command {
    /// Ask for a domain, and learn what its DNS must say
    Add(AddOptions),
    /// Look for the proof in the DNS; from then on the domain names the tenant
    Verify(VerifyOptions),
    /// List the domains of a tenant
    List(ListOptions),
    /// Take a domain away from a tenant
    Remove(RemoveOptions),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry tenant domain add acme-corp app.acme.com
  tenantry tenant domain add acme-corp acme.com

A verified domain names its tenant in the Host header, and in the proven e-mail addresses of users.")]
pub(in crate::cli) struct AddOptions {
    #[command(flatten)]
    which: Which,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry tenant domain verify acme-corp app.acme.com")]
pub(in crate::cli) struct VerifyOptions {
    #[command(flatten)]
    which: Which,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry tenant domain list acme-corp")]
pub(in crate::cli) struct ListOptions {
    /// The tenant
    #[arg(value_parser = TenantSlug::parse)]
    slug: TenantSlug,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry tenant domain remove acme-corp app.acme.com")]
pub(in crate::cli) struct RemoveOptions {
    #[command(flatten)]
    which: Which,
}

#[derive(Debug, Args)]
struct Which {
    /// The tenant
    #[arg(value_parser = TenantSlug::parse)]
    slug: TenantSlug,
    /// The domain, such as app.acme.com
    #[arg(value_parser = DomainName::parse)]
    domain: DomainName,
}

pub(super) async fn run(command: Command, context: &Context) -> Result<Outcome> {
    match command {
        Command::Add(options) => add(options, context).await,
        Command::Verify(options) => verify(options, context).await,
        Command::List(options) => list(options, context).await,
        Command::Remove(options) => remove(options, context).await,
    }
}

async fn add(AddOptions { which }: AddOptions, context: &Context) -> Result<Outcome> {
    let Which { slug, domain } = which;
    let domains = context.settings.domains(&context.catalog().await?);
    let added = domains.add(&slug, &domain, &context.actor).await?;
    let document = DomainDocument::from(added);
    context.print(&document, || {
        fields(&[
            ("Type", Some("TXT".to_owned())),
            ("Name", Some(document.record_name.clone())),
            ("Text", Some(document.record_text.clone())),
        ])
    })?;
    if document.verified {
        context.note(&format!("`{domain}` is verified already."));
    } else {
        let verify = format!("`tenantry tenant domain verify {slug} {domain}`");
        let publish = "Let whoever runs its DNS publish this record";
        context.note(&format!("{publish}, then run {verify}."));
    }
    Ok(Outcome::Done)
}

async fn verify(VerifyOptions { which }: VerifyOptions, context: &Context) -> Result<Outcome> {
    let Which { slug, domain } = which;
    let domains = context.settings.domains(&context.catalog().await?);
    let verified = domains.verify(&slug, &domain, &context.actor).await?;
    let what = format!("`{domain}` names `{slug}` from now on; replicas follow in seconds.");
    context.print_change(&DomainDocument::from(verified), &what, "")?;
    Ok(Outcome::Done)
}

async fn list(options: ListOptions, context: &Context) -> Result<Outcome> {
    let domains = context.catalog().await?.domains(&options.slug).await?;
    let documents: Vec<DomainDocument> = domains.into_iter().map(Into::into).collect();
    context.print(&documents, || {
        let mut table = Table::new(&["DOMAIN", "VERIFIED", "TXT RECORD", "AGE"]);
        for document in &documents {
            table.row([
                document.domain.to_string(),
                if document.verified { "yes" } else { "no" }.to_owned(),
                format!("{} {}", document.record_name, document.record_text),
                age(document.created_at),
            ]);
        }
        table.or("No domains. `tenantry tenant domain add SLUG DOMAIN` asks for one.")
    })?;
    Ok(Outcome::Done)
}

async fn remove(RemoveOptions { which }: RemoveOptions, context: &Context) -> Result<Outcome> {
    let Which { slug, domain } = which;
    context.catalog().await?.remove_domain(&slug, &domain, &context.actor).await?;
    let what = format!("`{domain}` names `{slug}` no more; replicas follow in seconds.");
    context.print_change(&serde_json::json!({ "domain": domain }), &what, "")?;
    Ok(Outcome::Done)
}
