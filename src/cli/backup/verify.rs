//! `tenantry backup verify`

use std::time::Instant;

use clap::Args;
use futures_util::{StreamExt as _, stream};
use serde::Serialize;
use uuid::Uuid;

use super::need_store;
use crate::catalog::backups::BackupRecord;
use crate::cli::arguments::id;
use crate::cli::migrate::parse_concurrency;
use crate::cli::progress::Progress;
use crate::cli::report::{Table, count, elapsed, size};
use crate::cli::{Context, Outcome, Result};
use crate::tenant::TenantSlug;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry backup verify 0197f0c0-7a5e-7c3e-9f5e-0a1b2c3d4e5f
  tenantry backup verify --all --concurrency 4

Reads every byte: is it what was stored, of this tenant, to be decrypted, and can pg_restore list it?
Nothing is restored; that is `tenantry backup drill`. A backup that fails is marked as bad, and no longer
taken for the newest, until it is found again or a drill restores it. A bucket that holds nothing of this
fleet's marks none. Exit status 3 when some failed, 1 when all did.")]
pub(in crate::cli) struct Options {
    /// The backups
    #[arg(value_name = "ID", required_unless_present = "all", value_parser = id("`tenantry backup list` shows them"))]
    ids: Vec<Uuid>,
    /// Every backup
    #[arg(long, conflicts_with = "ids")]
    all: bool,
    /// How many at a time [default: backup_concurrency]
    #[arg(long, value_name = "N", value_parser = parse_concurrency)]
    concurrency: Option<usize>,
}

#[derive(Serialize)]
struct Document {
    good: usize,
    bad: usize,
    backups: Vec<Verified>,
}

#[derive(Serialize)]
struct Verified {
    id: Uuid,
    tenant_slug: TenantSlug,
    dump_bytes: i64,
    /// What is wrong with it; none when it is good.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

pub(super) async fn run(options: Options, context: &Context) -> Result<Outcome> {
    let concurrency = options.concurrency.unwrap_or(context.settings.backup_concurrency);
    let mut context = context.clone();
    context.settings.backup_concurrency = concurrency;
    let environment = context.environment().await?;
    need_store(&environment)?;
    let backups = if options.all {
        let mut all = environment.catalog.backups(None, i64::MAX).await?;
        all.retain(|backup| backup.erased_at.is_none());
        all
    } else {
        let mut named = Vec::with_capacity(options.ids.len());
        for id in &options.ids {
            named.push(environment.catalog.backup(*id).await?);
        }
        named
    };
    if !backups.is_empty() {
        environment.require_own_bucket().await?;
    }
    let (began, all) = (Instant::now(), backups.len());
    let mut progress = Progress::new(&context);
    let environment = &environment;
    let mut looks = stream::iter(backups)
        .map(|backup| async move {
            let verified = environment.verify_backup(&backup).await;
            let failure = verified.err().map(|error| error.to_failure("verify"));
            Verified::new(backup, failure.map(|failure| (failure.message, failure.remedy)))
        })
        .buffer_unordered(concurrency.max(1));
    let mut verified = Vec::with_capacity(all);
    while let Some(one) = looks.next().await {
        verified.push(one);
        progress.count(verified.len(), all, "verified");
    }
    drop(progress);
    verified.sort_by(|one, other| (&one.tenant_slug, one.id).cmp(&(&other.tenant_slug, other.id)));
    let bad = verified.iter().filter(|one| one.problem.is_some()).count();
    let document = Document { good: all - bad, bad, backups: verified };
    context.print(&document, || document.describe(&elapsed(began.elapsed())))?;
    Ok(match document {
        Document { bad: 0, .. } => Outcome::Done,
        Document { good: 0, .. } => Outcome::Failed,
        _ => Outcome::PartlyDone,
    })
}

impl Verified {
    fn new(backup: BackupRecord, problem: Option<(String, Option<String>)>) -> Self {
        let (problem, remedy) = problem.unzip();
        Self {
            id: backup.id,
            tenant_slug: backup.slug,
            dump_bytes: backup.dump_bytes,
            problem,
            remedy: remedy.flatten(),
        }
    }
}

impl Document {
    fn describe(&self, time: &str) -> String {
        let mut table = Table::new(&["BACKUP", "TENANT", "SIZE", "PROBLEM"]);
        for one in &self.backups {
            table.row([
                one.id.to_string(),
                one.tenant_slug.to_string(),
                size(one.dump_bytes),
                one.problem.clone().unwrap_or_default(),
            ]);
        }
        let table = table.or("No backups. `tenantry backup run --all` takes some.");
        format!("{table}\n\n{} good, {} bad ({time}).", count(self.good, "backup"), self.bad)
    }
}
