//! `tenantry tenant …`

use clap::{ArgAction, Args, Subcommand};

use super::{Context, Outcome, Result};

mod adopt;
mod alias;
mod audit;
mod clone;
mod create;
mod delete;
mod domain;
mod export;
mod harden;
pub(super) mod list;
mod member;
mod relocate;
mod rename;
mod rotate_password;
mod set_track;
mod settings;
mod show;
mod suspend;
mod url;

/// The commands about tenants.
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  tenantry tenant create --slug acme-corp
  tenantry tenant list
  tenantry tenant show acme-corp
  tenantry tenant delete acme-corp")]
pub(super) enum Command {
    /// Create a tenant: a database, a login role and the schema
    Create(create::Options),
    /// Make a tenant of a database that is there already
    Adopt(adopt::Options),
    /// List tenants
    List(list::Options),
    /// Show one tenant
    Show(show::Options),
    /// Print the connection string of a tenant's role, with its password
    Url(url::Options),
    /// Stop serving a tenant; its data stays
    Suspend(suspend::SuspendOptions),
    /// Serve a suspended tenant again
    Resume(suspend::ResumeOptions),
    /// Make another tenant with the data that one has now
    Clone(clone::Options),
    /// Move a tenant to another server
    Relocate(relocate::Options),
    /// Give a tenant another slug; the one that it had goes on leading to it
    Rename(rename::Options),
    /// Put a tenant into a track: migration files beyond those of every tenant
    SetTrack(set_track::Options),
    /// The slugs that a tenant had before
    #[command(subcommand)]
    Alias(alias::Command),
    /// Attack every tenant as every other, and say what was tried and found
    Audit(audit::Options),
    /// Hide from tenants what PostgreSQL shows every role of its neighbours
    Harden(harden::Options),
    /// Give a tenant's login role another password
    RotatePassword(rotate_password::Options),
    /// Who belongs to a tenant
    #[command(subcommand)]
    Member(member::Command),
    /// The domains of a tenant
    #[command(subcommand)]
    Domain(domain::Command),
    /// What is kept about a tenant: branding, compliance, sso, limits, application
    #[command(subcommand)]
    Settings(settings::Command),
    /// Write a tenant's data to an archive, as plain SQL and CSV
    Export(export::Options),
    /// Delete a tenant with its database, its role and its backups
    Delete(delete::Options),
}

pub(super) async fn run(command: Command, context: &Context) -> Result<Outcome> {
    match command {
        Command::Create(options) => create::run(options, context).await,
        Command::Adopt(options) => adopt::run(options, context).await,
        Command::List(options) => list::run(options, context).await,
        Command::Show(options) => show::run(options, context).await,
        Command::Url(options) => url::run(options, context).await,
        Command::Suspend(options) => suspend::suspend(options, context).await,
        Command::Resume(options) => suspend::resume(options, context).await,
        Command::Clone(options) => clone::run(options, context).await,
        Command::Relocate(options) => relocate::run(options, context).await,
        Command::Rename(options) => rename::run(options, context).await,
        Command::SetTrack(options) => set_track::run(options, context).await,
        Command::Alias(command) => alias::run(command, context).await,
        Command::Audit(options) => audit::run(options, context).await,
        Command::Harden(options) => harden::run(options, context).await,
        Command::RotatePassword(options) => rotate_password::run(options, context).await,
        Command::Member(command) => member::run(command, context).await,
        Command::Domain(command) => domain::run(command, context).await,
        Command::Settings(command) => settings::run(command, context).await,
        Command::Export(options) => export::run(options, context).await,
        Command::Delete(options) => delete::run(options, context).await,
    }
}

/// Whether the command stays until its operation has ended.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct Wait {
    /// Stay until it is done; --wait=false leaves it to the workers of `tenantry serve`
    #[arg(
        long,
        action = ArgAction::Set,
        default_value_t = true,
        default_missing_value = "true",
        num_args = 0..=1,
        require_equals = true,
        value_name = "BOOL"
    )]
    pub wait: bool,
}
