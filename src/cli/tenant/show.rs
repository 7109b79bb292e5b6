//! `tenantry tenant show`

use std::time::Duration;

use clap::Args;
use serde::Serialize;

use crate::api::document::protection::ProtectionDocument;
use crate::api::document::{OperationDocument, TenantDocument};
use crate::catalog::operations::OperationFilter;
use crate::catalog::way_back::Left;
use crate::cli::report::{age, elapsed, fields, moment, plain};
use crate::cli::{Context, Outcome, Result};
use crate::operations::backup::Achieved;
use crate::tenant::{EffectiveLimits, TenantSettings, TenantSlug, Tier};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry tenant show acme-corp
  tenantry tenant show acme-corp --output-format json")]
pub(in crate::cli) struct Options {
    /// The tenant
    #[arg(value_parser = TenantSlug::parse)]
    slug: TenantSlug,
}

#[derive(Serialize)]
struct Document {
    #[serde(flatten)]
    tenant: TenantDocument,
    /// The slugs that it had before, and that still lead to it.
    aliases: Vec<TenantSlug>,
    last_backup_at: Option<jiff::Timestamp>,
    /// What was achieved, beside the goal.
    protection: Option<Protection>,
    /// What it has left on other servers, newest first.
    left: Vec<LeftDocument>,
    /// The newest few, newest first.
    operations: Vec<OperationDocument>,
}

/// The same as of the admin API, but that without a backup no length of time says what would be lost.
#[derive(Serialize)]
struct Protection {
    data_of: Option<jiff::Timestamp>,
    age_seconds: Option<u64>,
    goal_rpo_seconds: Option<u64>,
    goal_met: Option<bool>,
    proven_at: Option<jiff::Timestamp>,
    recovery_seconds: Option<f64>,
}

impl From<ProtectionDocument> for Protection {
    fn from(document: ProtectionDocument) -> Self {
        let ProtectionDocument { data_of, age_seconds, goal_rpo_seconds, goal_met, .. } = document;
        let ProtectionDocument { proven_at, recovery_seconds, .. } = document;
        let age_seconds = data_of.map(|_| age_seconds);
        Self { data_of, age_seconds, goal_rpo_seconds, goal_met, proven_at, recovery_seconds }
    }
}

/// A database that the tenant has left, and that is still kept.
#[derive(Serialize)]
struct LeftDocument {
    server: String,
    kept_until: jiff::Timestamp,
    /// Whether it follows the tenant's database: `relocate --back` copies nothing then.
    follows: bool,
    /// Why it follows no more, or never did.
    why: Option<String>,
}

impl From<Left> for LeftDocument {
    fn from(left: Left) -> Self {
        let follows = left.is_following();
        let Left { server_name: server, kept_until, unfollowed: why, .. } = left;
        Self { server, kept_until, follows, why }
    }
}

pub(super) async fn run(options: Options, context: &Context) -> Result<Outcome> {
    let catalog = context.catalog().await?;
    let tenant = catalog.tenant(&options.slug).await?;
    let backup = catalog.newest_backup(tenant.id, None).await?;
    let filter = OperationFilter {
        tenant: Some(options.slug.clone()),
        limit: 20,
        ..OperationFilter::default()
    };
    let mut operations = catalog.operations(&filter).await?;
    // An earlier tenant may have had this slug.
    operations.retain(|(operation, _)| operation.tenant_id == tenant.id);
    operations.truncate(5);
    let aliases = catalog.aliases(&tenant.slug).await?;
    let policy = &context.settings.backups.policy;
    let now = jiff::Timestamp::now();
    let protection = Achieved::of(&catalog, tenant.id, policy, now).await?;
    let left = catalog.left_by(&tenant).await?;
    let document = Document {
        tenant: tenant.into(),
        aliases: aliases.into_iter().map(|alias| alias.slug).collect(),
        last_backup_at: backup.map(|backup| backup.started_at),
        protection: protection.map(|achieved| ProtectionDocument::from(achieved).into()),
        left: left.into_iter().map(LeftDocument::from).collect(),
        operations: OperationDocument::list(&operations),
    };
    context.print(&document, || describe(&document))?;
    Ok(Outcome::Done)
}

fn describe(document: &Document) -> String {
    let tenant = &document.tenant;
    let operations = document.operations.iter().map(|operation| {
        format!(
            "{} {} {} ago  {}",
            operation.kind,
            operation.status.as_str(),
            age(operation.created_at),
            operation.id
        )
    });
    let operations: Vec<String> = operations.collect();
    let limits = told(&tenant.limits, tenant.tier).join("\n");
    let settings = &tenant.settings;
    let settings =
        (*settings != TenantSettings::default()).then(|| settings.to_value().to_string());
    let left: Vec<String> = document.left.iter().map(kept).collect();
    let version = tenant.track_version.unwrap_or(0);
    let track = tenant.track.as_ref().map(|track| format!("{track}, version {version}"));
    let aliases: Vec<&str> = document.aliases.iter().map(TenantSlug::as_str).collect();
    fields(&[
        ("Slug", Some(tenant.slug.to_string())),
        ("Aliases", (!aliases.is_empty()).then(|| aliases.join(", "))),
        ("Name", Some(tenant.name.clone())),
        ("Id", Some(tenant.id.to_string())),
        ("Status", Some(tenant.status.to_string())),
        ("Reason", tenant.suspended_reason.clone()),
        ("Server", Some(format!("{} ({})", tenant.server, tenant.tier.as_str()))),
        ("Left behind", (!left.is_empty()).then(|| left.join("\n"))),
        ("Database", Some(tenant.database.clone())),
        ("Role", Some(tenant.role.clone())),
        ("Schema", Some(format!("version {}", tenant.schema_version))),
        ("Track", track),
        ("Epoch", Some(format!("{} (generation {})", tenant.epoch, tenant.generation))),
        ("Limits", (!limits.is_empty()).then_some(limits)),
        ("Settings", settings),
        ("Created", Some(moment(tenant.created_at))),
        ("Changed", Some(moment(tenant.updated_at))),
        ("Last backup", Some(document.last_backup_at.map_or_else(|| "none".to_owned(), moment))),
        ("Would lose", document.protection.as_ref().map(would_lose)),
        ("Restored in", document.protection.as_ref().and_then(restored_in)),
        ("Operations", (!operations.is_empty()).then(|| operations.join("\n"))),
    ])
}

/// What is kept where, and of what use it is.
fn kept(left: &LeftDocument) -> String {
    let LeftDocument { server, kept_until, .. } = left;
    let kept = format!("on {server} until {}", moment(*kept_until));
    match (&left.why, left.follows) {
        (_, true) => format!("{kept}; it follows, so `relocate --back` copies nothing"),
        (Some(why), false) => format!("{kept}; it does not follow: {why}"),
        (None, false) => kept,
    }
}

/// How much work would be lost with the database, and how much may be.
fn would_lose(protection: &Protection) -> String {
    let age = protection.age_seconds.map(Duration::from_secs);
    let age = age.map_or_else(|| "everything (no backup)".to_owned(), elapsed);
    let Some(goal) = protection.goal_rpo_seconds else { return age };
    let met = if protection.goal_met == Some(true) { "met" } else { "MISSED" };
    format!("{age} (goal {}: {met})", elapsed(Duration::from_secs(goal)))
}

/// How long the last restore took, and when it was.
fn restored_in(protection: &Protection) -> Option<String> {
    let took = Duration::try_from_secs_f64(protection.recovery_seconds?).ok()?;
    Some(format!("{} ({} ago)", elapsed(took), age(protection.proven_at?)))
}

/// Each limit in force with its value and where it is from.
fn told(limits: &EffectiveLimits, tier: Tier) -> Vec<String> {
    let limits = serde_json::to_value(limits).expect("limits are plain data");
    let told = limits.as_object().into_iter().flatten().map(|(name, limit)| {
        let from = match limit["from"].as_str() {
            Some("tier") => format!("tier {}", tier.as_str()),
            _ => "its own".to_owned(),
        };
        format!("{name} {} ({from})", plain(&limit["value"]))
    });
    told.collect()
}
