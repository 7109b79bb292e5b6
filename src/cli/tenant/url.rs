//! `tenantry tenant url`

use std::fmt::Write as _;

use clap::Args;
use serde::Serialize;
use tenantry_provisioning::ServerUrl;

use crate::catalog::CatalogError;
use crate::catalog::audit_log::Event;
use crate::cli::{Context, Outcome, Result};
use crate::tenant::{TenantSlug, TenantState};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  psql \"$(tenantry tenant url acme-corp)\"
  tenantry tenant url acme-corp --quiet > acme.url

That it was shown, and to whom, stands in the audit log.")]
pub(in crate::cli) struct Options {
    /// The tenant
    #[arg(value_parser = TenantSlug::parse)]
    slug: TenantSlug,
}

#[derive(Serialize)]
struct Document {
    slug: TenantSlug,
    url: String,
}

pub(super) async fn run(options: Options, context: &Context) -> Result<Outcome> {
    let slug = options.slug;
    let catalog = context.catalog().await?;
    let place = catalog.place(&slug).await?;
    let place =
        place.ok_or_else(|| CatalogError::Missing { what: "tenant", name: slug.to_string() })?;
    let tenant = &place.tenant;
    let is_settled = tenant.state.is_settled();
    if !is_settled && !tenant.state.is_cutover() {
        let message = format!("tenant {slug} is {}, so nobody can connect to it", tenant.state);
        return Err(CatalogError::Conflict(message).into());
    }
    if tenant.state != TenantState::Active {
        context.note(&format!("The tenant is {}: its role cannot log in now.", tenant.state));
    }
    let detail = serde_json::json!({ "role": tenant.role.as_str() });
    let (actor, action) = (context.actor.as_str(), "tenant.url_shown");
    catalog.record(&Event { actor, action, tenant: Some(&tenant.slug), detail }).await?;
    context.note("This is a secret: it holds the password of the tenant's role.");
    let url = place
        .server
        .with_database(tenant.database.as_str())
        .with_user(tenant.role.as_str(), &place.password);
    let document = Document { slug, url: connection_string(&url) };
    context.print(&document, || document.url.clone())?;
    Ok(Outcome::Done)
}

/// A URL that libpq and every driver understands.
fn connection_string(url: &ServerUrl) -> String {
    let settings = url.libpq_env();
    let get = |name: &str| {
        settings.iter().find(|(key, _)| *key == name).map_or("", |(_, value)| value.as_str())
    };
    let hosts: Vec<String> = get("PGHOST")
        .split(',')
        .zip(get("PGPORT").split(','))
        .map(|(host, port)| match host {
            ipv6 if ipv6.contains(':') => format!("[{ipv6}]:{port}"),
            name => format!("{}:{port}", encode(name)),
        })
        .collect();
    let mut text = format!(
        "postgres://{}:{}@{}/{}?sslmode={}",
        encode(get("PGUSER")),
        encode(get("PGPASSWORD")),
        hosts.join(","),
        encode(get("PGDATABASE")),
        get("PGSSLMODE"),
    );
    let more = [("PGSSLROOTCERT", "sslrootcert"), ("PGHOSTADDR", "hostaddr")];
    for (name, parameter) in more {
        if !get(name).is_empty() {
            _ = write!(text, "&{parameter}={}", encode(get(name)));
        }
    }
    text
}

/// Percent-encodes everything that could mean something in a URL.
fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_string_reads_back_as_itself() {
        for text in [
            "postgres://me:p%40ss%2Fw@db.example:5433/tenant_acme-corp?sslmode=require",
            "postgres://me:x@db-1:5432,db-2:5433/app?sslmode=prefer",
            "postgres://me:x@%2Ftmp%2Fsocket:5432/app?sslmode=disable",
        ] {
            let url = ServerUrl::parse(text).unwrap();

            assert_eq!(connection_string(&url), text);
            assert_eq!(
                ServerUrl::parse(&connection_string(&url)).unwrap().libpq_env(),
                url.libpq_env()
            );
        }
    }
}
