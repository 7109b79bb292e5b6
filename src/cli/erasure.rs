//! `tenantry erasure …`: certificates that keys were destroyed.

use std::fs;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use tenantry_backup::{Certificate, DocumentError};
use uuid::Uuid;

use super::arguments::{self, id};
use super::report::{Table, count, fields, moment};
use super::{Context, Error, Outcome, Result, report};
use crate::tenant::TenantSlug;

/// The commands about erasures.
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  tenantry erasure list acme-corp
  tenantry erasure show 0197f0c0-7a5e-7c3e-9f5e-0a1b2c3d4e5f > certificate.json
  tenantry erasure verify certificate.json --public-key 3b6a27bc…")]
pub(super) enum Command {
    /// List certificates, newest first
    List(ListOptions),
    /// Print one certificate, to be handed out
    Show(ShowOptions),
    /// Print the public key that certificates are checked with
    PublicKey(PublicKeyOptions),
    /// Check a certificate; needs nothing but the file and the public key
    Verify(VerifyOptions),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry erasure list
  tenantry erasure list acme-corp             also when the tenant is gone")]
pub(super) struct ListOptions {
    /// Only of tenants that have or had this slug
    #[arg(value_parser = TenantSlug::parse)]
    slug: Option<TenantSlug>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry erasure show 0197f0c0-7a5e-7c3e-9f5e-0a1b2c3d4e5f > certificate.json")]
pub(super) struct ShowOptions {
    /// The certificate: it has the id of the operation that destroyed the keys
    #[arg(value_parser = id("`tenantry erasure list` shows them"))]
    id: Uuid,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry erasure public-key

Publish it where those who get certificates trust you to: a certificate names a key, but cannot prove whose
it is.")]
pub(super) struct PublicKeyOptions {}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry erasure verify certificate.json --public-key 3b6a27bc…

Exit status 4 when it is not what the holder of the key signed.")]
pub(super) struct VerifyOptions {
    /// The certificate
    file: PathBuf,
    /// What `tenantry erasure public-key` prints, from a source that you trust
    #[arg(long, value_name = "KEY", value_parser = arguments::public_key)]
    public_key: String,
}

pub(super) async fn run(command: Command, context: &Context) -> Result<Outcome> {
    match command {
        Command::List(options) => list(options, context).await,
        Command::Show(options) => show(options, context).await,
        Command::PublicKey(options) => public_key(options, context).await,
        Command::Verify(options) => verify(&options, context),
    }
}

async fn list(options: ListOptions, context: &Context) -> Result<Outcome> {
    let catalog = context.catalog().await?;
    let found = catalog.erasures(options.slug.as_ref().map(TenantSlug::as_str)).await?;
    context.print(&found, || {
        let mut table = Table::new(&["ID", "TENANT", "AT", "KEYS", "BACKUPS", "BY"]);
        for certificate in &found {
            table.row([
                certificate.certificate.to_string(),
                certificate.tenant_name.clone(),
                moment(certificate.erased_at),
                certificate.keys.len().to_string(),
                certificate.backups.len().to_string(),
                certificate.requested_by.clone(),
            ]);
        }
        table.or("No erasures. `tenantry backup key destroy` and `tenantry tenant delete --erase` make some.")
    })?;
    Ok(Outcome::Done)
}

/// Always JSON: it is a document for others.
async fn show(options: ShowOptions, context: &Context) -> Result<Outcome> {
    report::print_json(&context.catalog().await?.erasure(options.id).await?)?;
    Ok(Outcome::Done)
}

async fn public_key(_: PublicKeyOptions, context: &Context) -> Result<Outcome> {
    let key = context.catalog().await?.certificate_key().await?.public();
    context.print(&serde_json::json!({ "public_key": key }), || key.clone())?;
    Ok(Outcome::Done)
}

fn verify(options: &VerifyOptions, context: &Context) -> Result<Outcome> {
    let bytes = fs::read(&options.file).map_err(|error| {
        Error::failed(format!("{} cannot be read", options.file.display()), error)
    })?;
    let certificate = Certificate::from_json(&bytes).map_err(|error| refused(&error))?;
    certificate.verify(&options.public_key).map_err(|error| refused(&error))?;
    context.print(&certificate, || {
        let head = fields(&[
            ("Good", Some("signed with this key, and unaltered".to_owned())),
            ("Tenant", Some(format!("{} ({})", certificate.tenant_name, certificate.tenant))),
            ("Erased", Some(moment(certificate.erased_at))),
            ("Keys", Some(certificate.keys.len().to_string())),
        ]);
        let backups = count(certificate.backups.len(), "backup");
        format!("{head}\n{backups} can no longer be read with them.")
    })?;
    Ok(Outcome::Done)
}

/// Why a document is not what it is given out for, and what to do then.
pub(super) fn refused(error: &DocumentError) -> Error {
    let help = match error {
        DocumentError::NotAKey => "give what `tenantry erasure public-key` prints",
        DocumentError::UnsupportedFormat { .. } => {
            "check it with the version that wrote it, or a newer one"
        }
        _ => "do not trust it: ask whoever gave it to you for another one, and for the public key",
    };
    Error::refused(crate::operations::chain(error), help)
}
