//! The `tenantry` command line: the tree of commands, and what all of them share.
//!
//! One file a command. A command parses its options, makes its calls and shapes the answer. Results go
//! to stdout; progress, notes and errors to stderr. No command needs a running `tenantry serve`: what
//! changes a tenant is queued as an operation and then driven from here, unless a worker is quicker.
//!
//! Exit status: 0 done, 1 failed, 2 wrong usage or settings, 3 partly done, 4 refused by a guard or drift
//! found, 130 interrupted.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::{LogFormat, Settings};
use crate::telemetry;

mod arguments;
mod audit;
mod audit_log;
mod backup;
mod configuration;
mod confirm;
mod context;
mod demo;
mod dev;
mod doctor;
mod drive;
mod edge;
mod erasure;
mod error;
mod init;
mod interrupt;
mod key;
mod migrate;
mod operation;
mod progress;
mod registration;
mod report;
mod restore;
mod serve;
mod server;
mod tenant;
mod tier;
mod token;
mod top;
mod usage;

pub use context::Context;
pub use error::{Error, Result};
pub use interrupt::Interrupt;

/// A PostgreSQL database for every customer, run as easily as one.
#[derive(Debug, Parser)]
#[command(name = "tenantry", version, max_term_width = 100, after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  tenantry init                               create the catalog and the first admin token
  tenantry tenant create --slug acme-corp     a database, a role and a schema of its own
  tenantry tenant list
  tenantry migrate up                         bring every tenant to the newest migration
  tenantry backup run --all
  tenantry restore acme-corp --latest --in-place

Settings come from TENANTRY_… variables or a TOML file; `tenantry config show` lists them.
Exit status: 0 done, 1 failed, 2 wrong usage or settings, 3 partly done, 4 refused by a guard or
drift found, 130 interrupted.";

/// What every command takes.
#[derive(Debug, Args)]
struct Global {
    /// The settings file, in TOML [environment: TENANTRY_CONFIG]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    config: Option<PathBuf>,
    /// The control database; other users of this machine can see it, so prefer TENANTRY_CATALOG_URL
    #[arg(long, global = true, value_name = "URL", help_heading = "Global options")]
    catalog_url: Option<String>,
    /// How results are printed
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORMAT",
        help_heading = "Global options"
    )]
    output_format: OutputFormat,
    /// Print results and errors only
    #[arg(long, short, global = true, help_heading = "Global options")]
    quiet: bool,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// For people.
    #[default]
    Table,
    /// One JSON document, or one object a line where it streams.
    Json,
}

/// The commands.
#[derive(Debug, Subcommand)]
enum Command {
    /// Run an environment to try things in: PostgreSQL, S3 and a replica, kept in one directory
    Dev(dev::Options),
    /// Tell the whole story on a PostgreSQL and an S3 that live for a minute
    #[command(after_help = "Examples:\n  tenantry demo")]
    Demo(demo::Options),
    /// Create or migrate the catalog, add the first server, make the first admin token
    Init(init::Options),
    /// Run a replica: data plane, admin API and workers
    Serve(serve::Options),
    /// Create, show, rename, suspend and delete tenants
    #[command(subcommand)]
    Tenant(tenant::Command),
    /// Bring tenants to the newest migration
    #[command(subcommand)]
    Migrate(migrate::Command),
    /// Take and list backups
    #[command(subcommand)]
    Backup(backup::Command),
    /// Put a backup in the place of a tenant's database
    Restore(restore::Options),
    /// See, retry and cancel what is being done to tenants
    #[command(subcommand)]
    Operation(operation::Command),
    /// Add and check the PostgreSQL servers that host tenants
    #[command(subcommand)]
    Server(server::Command),
    /// See and change what the tenants of a tier may use
    #[command(subcommand)]
    Tier(tier::Command),
    /// Decide on the tenants that users have asked for
    #[command(subcommand)]
    Registration(registration::Command),
    /// Make and revoke tokens for the admin API
    #[command(subcommand)]
    Token(token::Command),
    /// See under which master key secrets and backups are, and change it
    #[command(subcommand)]
    Key(key::Command),
    /// Certificates that the keys of backups were destroyed
    #[command(subcommand)]
    Erasure(erasure::Command),
    /// Reports of audits of isolation: seeing and checking them (`tenantry tenant audit` makes one)
    #[command(subcommand)]
    Audit(audit::Command),
    /// See what was asked for, changed and refused; and whether anybody tampered with that
    AuditLog(audit_log::Options),
    /// See what tenants used, day by day
    Usage(usage::Options),
    /// Watch servers, the busiest tenants and what is being done to them
    Top(top::Options),
    /// Compare the catalog with every server and the bucket
    Doctor(doctor::Options),
    /// Check and explain the settings
    #[command(subcommand)]
    Config(configuration::Command),
}

/// How a command ended that ran to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All is done.
    Done,
    /// Nothing of it is done, or what was checked is not well.
    Failed,
    /// Some tenants of a fleet failed.
    PartlyDone,
    /// A schema is not what the files make.
    Drifted,
    /// A statement has a risk that nobody has allowed.
    Risky,
    /// A guard, or somebody, holds the rest.
    Paused,
    /// Not everything could be looked at.
    Incomplete,
}

/// Runs the command that the process was started with.
#[must_use]
pub fn main() -> ExitCode {
    // Fails only when a provider is installed already, which is as good.
    _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let line: Vec<OsString> = std::env::args_os().collect();
    let cli: Cli = match arguments::read(&line) {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() && arguments::asks_for_json(&line) => {
            return arguments::wrong_usage(&error).report(OutputFormat::Json);
        }
        Err(error) => error.exit(),
    };
    let output = cli.global.output_format;
    match cli.run() {
        Ok(outcome) => outcome.into(),
        Err(error) => error.report(output),
    }
}

impl Cli {
    fn run(self) -> Result<Outcome> {
        let Self { global, command } = self;
        let mut flags = command.flags();
        flags.extend(global.catalog_url.map(|url| ("catalog_url", url)));
        let loaded = Settings::load(global.config.as_deref(), &flags);
        if let Command::Config(
            command @ (configuration::Command::Check(_) | configuration::Command::Show(_)),
        ) = command
        {
            return configuration::run(&command, loaded, global.output_format);
        }
        let settings = loaded?;
        let filter = settings.log_level.as_deref().unwrap_or(command.log_filter());
        let format = match settings.log_format {
            LogFormat::Pretty => telemetry::Format::Pretty,
            LogFormat::Json => telemetry::Format::Json,
        };
        let telemetry = telemetry::start(format, filter, settings.collector.as_deref());
        let _telemetry =
            telemetry.map_err(|error| {
                let help = "set TENANTRY_OTEL_EXPORTER_OTLP_ENDPOINT to a collector's address, or take it away";
                Error::usage(format!("traces cannot be sent: {error}"), help)
            })?;
        let (output, quiet) = (global.output_format, global.quiet);
        let context = Context { settings, output, quiet, actor: context::actor() };

        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(|error| Error::failed("the async runtime cannot be started", error))?;
        let outcome = runtime.block_on(command.run(&context));
        // Blocking reads, such as one from a terminal, would keep the process from ending.
        runtime.shutdown_background();
        outcome
    }
}

impl Command {
    async fn run(self, context: &Context) -> Result<Outcome> {
        match self {
            Self::Dev(options) => dev::run(options, context).await,
            Self::Demo(options) => Ok(demo::run(options, context).await?),
            Self::Init(options) => init::run(options, context).await,
            Self::Serve(options) => serve::run(options, context).await,
            Self::Tenant(command) => tenant::run(command, context).await,
            Self::Migrate(command) => migrate::run(command, context).await,
            Self::Backup(command) => backup::run(command, context).await,
            Self::Restore(options) => Box::pin(restore::run(options, context)).await,
            Self::Operation(command) => operation::run(command, context).await,
            Self::Server(command) => server::run(command, context).await,
            Self::Tier(command) => tier::run(command, context).await,
            Self::Registration(command) => registration::run(command, context).await,
            Self::Token(command) => token::run(command, context).await,
            Self::Key(command) => key::run(command, context).await,
            Self::Erasure(command) => erasure::run(command, context).await,
            Self::Audit(command) => audit::run(command, context).await,
            Self::AuditLog(options) => audit_log::run(options, context).await,
            Self::Usage(options) => usage::run(options, context).await,
            Self::Top(options) => top::run(options, context).await,
            Self::Doctor(options) => doctor::run(options, context).await,
            Self::Config(configuration::Command::Export(options)) => {
                configuration::export::run(options, context).await
            }
            Self::Config(_) => {
                unreachable!("it needs no settings that are right, so it ran before")
            }
        }
    }

    /// The settings that the command's own flags give.
    fn flags(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Serve(options) => options.flags(),
            _ => Vec::new(),
        }
    }

    /// What is logged unless the settings say otherwise.
    fn log_filter(&self) -> &'static str {
        match self {
            Self::Serve(_) => telemetry::SERVE_FILTER,
            Self::Dev(_) | Self::Demo(_) => telemetry::EMBEDDED_FILTER,
            _ => telemetry::COMMAND_FILTER,
        }
    }
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        Self::from(match outcome {
            Outcome::Done => 0,
            Outcome::Failed => 1,
            Outcome::PartlyDone => 3,
            Outcome::Drifted | Outcome::Risky | Outcome::Paused | Outcome::Incomplete => 4,
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_tree_of_commands_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_help_of_every_command_and_group_has_examples() {
        fn visit(command: &clap::Command) {
            let examples = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(examples.contains("tenantry "), "{} has no examples", command.get_name());
            command.get_subcommands().for_each(visit);
        }
        visit(&Cli::command());
    }

    #[test]
    fn wrong_usage_is_refused() {
        for line in [
            "tenantry",
            "tenantry tenant create",
            "tenantry tenant create --slug Acme",
            "tenantry tenant show ../x",
            "tenantry restore acme --in-place",
            "tenantry restore acme --latest",
            "tenantry restore acme --latest --before 2026-01-01T00:00:00Z --in-place",
            "tenantry backup run",
            "tenantry backup run acme --all",
            "tenantry tenant delete acme --erase --keep-backups",
            "tenantry erasure verify certificate.json",
            "tenantry operation show 5",
            "tenantry backup show nope",
            "tenantry audit-log verify --public-key 00",
            "tenantry erasure verify certificate.json --public-key 00",
            "tenantry tenant create --slug acme --name=",
            "tenantry tenant suspend acme --reason=",
            "tenantry tenant settings set acme fleet.region=",
            "tenantry tier set shared connections=0",
            "tenantry token create --name x --scope everything",
            "tenantry tenant domain add acme https://acme.com",
            "tenantry audit-log --since yesterday",
            "tenantry audit-log --tenant acme verify",
            "tenantry audit-log --all --limit 5",
            "tenantry usage --from november",
            "tenantry audit verify audit.json",
            "tenantry tenant audit accept 64b31ee443e6f57f --reason known",
            "tenantry tenant audit --yes",
            "tenantry registration reject 0197f0c0-7a5e-7c3e-9f5e-0a1b2c3d4e5f",
            "tenantry tier set shared",
            "tenantry tier set gold connections=5",
            "tenantry migrate up --wave colour=red",
            "tenantry migrate up --canary region=EU",
            "tenantry migrate up --max-failures some",
            "tenantry migrate up --bake soon",
            "tenantry migrate up --to newest",
            "tenantry tier set shared colour=red",
            "tenantry tier unset shared colour",
        ] {
            assert!(arguments::read::<Cli>(line.split(' ')).is_err(), "{line}");
        }
    }

    #[test]
    fn usual_lines_are_understood() {
        for line in [
            "tenantry init",
            "tenantry tenant create --slug acme --name Acme --sample-data --wait=false",
            "tenantry --output-format json tenant list",
            "tenantry tenant list --output-format json -q",
            "tenantry migrate up --tenant acme --tenant globex --concurrency 8",
            "tenantry migrate verify --tenant acme --server eu-1 --concurrency 8",
            "tenantry migrate baseline acme --version 17 --accept-drift --yes",
            "tenantry migrate up --canary acme --bake 10m --wave 5% --wave tier=shared --max-failures 2%",
            "tenantry migrate up --to V17 --per-server 2 --backup-first --wait=false",
            "tenantry migrate resume",
            "tenantry backup run acme globex",
            "tenantry backup run --all",
            "tenantry backup key rotate acme",
            "tenantry backup key destroy acme --yes",
            "tenantry tenant delete acme --erase --yes",
            "tenantry erasure verify certificate.json --public-key 3b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29",
            "tenantry key rotate",
            "tenantry restore acme --before 2026-01-01T00:00:00Z --in-place --yes",
            "tenantry server add eu-1 --url-file -",
            "tenantry token create --name ci --scope migrate,tenants:read --scope backup",
            "tenantry serve --role worker --admin-listen 0.0.0.0:8081",
            "tenantry tenant domain add acme app.acme.com",
            "tenantry audit-log --tenant acme --since 7d",
            "tenantry audit-log --since 7d --until 24h --actor cli:ana --action token --all --csv",
            "tenantry audit-log verify --public-key 3b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29",
            "tenantry usage --tenant acme --from 2026-11-01 --to 2026-11-30 --csv",
            "tenantry tenant audit --tenant-slug acme --baseline before.json --fix --yes",
            "tenantry tenant audit accept 64b31ee443e6f57f --reason known --until 90d",
            "tenantry audit verify audit.json --public-key 3b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29",
            "tenantry registration list --state pending",
            "tenantry tier set shared connections=5 statement_timeout=30s",
            "tenantry tier unset dedicated connections queries_per_second",
        ] {
            let parsed = arguments::read::<Cli>(line.split(' '));
            assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
        }
    }
}
