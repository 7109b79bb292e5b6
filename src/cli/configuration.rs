//! `tenantry config …`

use std::path::Path;

use clap::{Args, Subcommand};
use serde::Serialize;
use tenantry_backup::StoreError;
use tenantry_provisioning::MigrationSet;

use super::edge;
use super::report::{Table, print_json, print_text};
use super::{Error, Outcome, OutputFormat, Result};
use crate::config::{ConfigError, Settings};

pub(super) mod export;
mod production;

use production::Checklist;

/// The commands about settings.
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  tenantry config check
  tenantry config show
  tenantry config export --to catalog.json")]
pub(super) enum Command {
    /// Check the settings without connecting to anything, unless asked to
    Check(CheckOptions),
    /// Show every setting, its value and who set it; secrets are not shown
    Show(ShowOptions),
    /// Write down the settings and the catalog, to keep them; secrets stay sealed
    Export(export::Options),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry config check
  tenantry config check --config /etc/tenantry.toml
  tenantry config check --bucket
  tenantry config check --production            asks the catalog and the servers, too

Exit status 1 when something is wrong, or a check of a production fails.")]
pub(super) struct CheckOptions {
    /// Ask the bucket, too: whether it may be used, and locks and encrypts as it is asked to
    #[arg(long)]
    bucket: bool,
    /// Go through the checklist of a hardened installation: settings, files, catalog, servers, backups, audits
    #[arg(long)]
    production: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry config show
  TENANTRY_POOL_MAX_SIZE=5 tenantry config show --output-format json")]
pub(super) struct ShowOptions {}

/// What a check found.
#[derive(Default, Serialize)]
struct Findings {
    problems: Vec<Finding>,
    /// What works, but may not be what is wanted.
    notes: Vec<String>,
    /// The checklist of a production, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    checks: Option<Checklist>,
}

#[derive(Serialize)]
struct Finding {
    what: String,
    remedy: String,
}

/// A setting as it is in force.
#[derive(Serialize)]
struct Setting {
    name: &'static str,
    value: String,
    origin: String,
    secret: bool,
    meaning: &'static str,
}

/// Needs no settings that are right, which sets it apart from every other command.
pub(super) fn run(
    command: &Command,
    loaded: std::result::Result<Settings, ConfigError>,
    output: OutputFormat,
) -> Result<Outcome> {
    match command {
        Command::Check(options) => check(options, loaded, output),
        Command::Show(_) => show(&loaded?, output),
        Command::Export(_) => unreachable!("it asks the catalog, so it has run elsewhere"),
    }
}

fn check(
    options: &CheckOptions,
    loaded: std::result::Result<Settings, ConfigError>,
    output: OutputFormat,
) -> Result<Outcome> {
    let mut findings = Findings::default();
    match loaded {
        Ok(settings) => {
            findings.settings(&settings);
            if options.bucket || options.production {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let runtime = runtime
                    .map_err(|error| Error::failed("the async runtime cannot be started", error))?;
                runtime.block_on(async {
                    if options.bucket {
                        findings.bucket(&settings).await;
                    }
                    if options.production {
                        findings.checks = Some(Checklist::examine(&settings).await);
                    }
                });
            }
        }
        Err(error) => findings.refused(&error),
    }
    match output {
        OutputFormat::Json => print_json(&findings)?,
        OutputFormat::Table => print_text(&findings.describe())?,
    }
    let is_good =
        findings.problems.is_empty() && findings.checks.as_ref().is_none_or(Checklist::is_good);
    Ok(if is_good { Outcome::Done } else { Outcome::Failed })
}

fn show(settings: &Settings, output: OutputFormat) -> Result<Outcome> {
    let explained: Vec<Setting> = settings
        .explain()
        .iter()
        .map(|explained| Setting {
            name: explained.key.name,
            value: explained.value.clone(),
            origin: explained.origin.to_string(),
            secret: explained.key.secret,
            meaning: explained.key.meaning,
        })
        .collect();
    if output == OutputFormat::Json {
        print_json(&explained)?;
        return Ok(Outcome::Done);
    }
    let mut table = Table::new(&["SETTING", "VALUE", "FROM", "MEANING"]);
    for setting in explained {
        table.row([
            setting.name.to_owned(),
            setting.value,
            setting.origin,
            setting.meaning.to_owned(),
        ]);
    }
    print_text(&table.or("No settings."))?;
    Ok(Outcome::Done)
}

impl Findings {
    fn refused(&mut self, error: &ConfigError) {
        self.problems.extend(error.problems.iter().map(|problem| Finding {
            what: crate::operations::chain(problem),
            remedy: problem.remedy(),
        }));
    }

    fn migrations(&mut self, dir: &Path) {
        let errors = match MigrationSet::load(dir) {
            Ok(set) => set.tracks().filter_map(|(name, _)| set.track(name).err()).collect(),
            Err(error) => vec![error],
        };
        for error in errors {
            let what = crate::operations::chain(&error);
            let remedy = Error::from(error).help().unwrap_or_default();
            self.problems.push(Finding { what, remedy });
        }
    }

    fn settings(&mut self, settings: &Settings) {
        if let Err(error) = settings.catalog() {
            self.refused(&error);
        }
        self.migrations(&settings.tenant_migrations_dir);
        let edges = edge::data_plane(&settings.edge).and(edge::admin_api(&settings.edge));
        if let Err(error) = edges {
            let what = crate::operations::chain(&error);
            self.problems.push(Finding { what, remedy: error.remedy().to_owned() });
        }
        if settings.s3_bucket.is_none() {
            self.notes.push("TENANTRY_S3_BUCKET is not set: there are no backups".to_owned());
        }
        if settings.multi_tenant_mode {
            let who = settings.registration_needed();
            self.notes.push(format!("a tenant of one's own may be asked for by {who}"));
        }
        match settings.refuse_open_data_plane() {
            Ok(()) => self.notes.push(format!("a request {}", settings.identity_needed())),
            Err(error) => self.notes.push(format!("{error}: {}", error.remedy())),
        }
    }

    /// What the bucket itself says.
    async fn bucket(&mut self, settings: &Settings) {
        let asked = async {
            let Some(store) = settings.store().await? else { return Ok(None) };
            store.check().await.map(|()| Some(store.describe()))
        };
        let asked: std::result::Result<_, StoreError> = asked.await;
        match asked {
            Ok(Some(place)) => self.notes.push(format!("{place} does as it is asked")),
            Ok(None) => {}
            Err(error) => {
                let what = crate::operations::chain(&error);
                self.problems.push(Finding { what, remedy: error.remedy().to_owned() });
            }
        }
    }

    fn describe(&self) -> String {
        let problems = self
            .problems
            .iter()
            .map(|finding| format!("error: {}\n  help: {}", finding.what, finding.remedy));
        let mut lines: Vec<String> = problems.collect();
        lines.extend(self.notes.iter().map(|note| format!("note: {note}")));
        // Whoever asked for the checklist reads its verdict, at its end, and no other before it.
        if self.problems.is_empty() && self.checks.is_none() {
            lines.push("The settings are in order.".to_owned());
        }
        lines.extend(self.checks.as_ref().map(Checklist::describe));
        lines.join("\n")
    }
}
