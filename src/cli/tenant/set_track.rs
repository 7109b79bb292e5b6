//! `tenantry tenant set-track`

use clap::Args;

use crate::api::document::TenantDocument;
use crate::cli::{Context, Outcome, Result};
use crate::tenant::{Label, TenantSlug};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry tenant set-track acme-corp enterprise
  tenantry migrate up --tenant acme-corp           runs the files of its track
  tenantry tenant set-track acme-corp --none       only while none of them has been run

A track is a folder tracks/NAME of the migrations directory. Its files run after those that every tenant gets. Nothing
takes them back, so a tenant whose database has some stays in that track.")]
pub(in crate::cli) struct Options {
    /// The tenant
    #[arg(value_parser = TenantSlug::parse)]
    slug: TenantSlug,
    /// The track
    #[arg(value_parser = Label::parse, required_unless_present = "none", conflicts_with = "none")]
    track: Option<Label>,
    /// In no track
    #[arg(long)]
    none: bool,
}

pub(super) async fn run(options: Options, context: &Context) -> Result<Outcome> {
    let Options { slug, track, .. } = options;
    let environment = context.environment().await?;
    let tenant = environment.set_track(&slug, track.as_ref(), &context.actor).await?;
    let (what, next) = match &track {
        Some(track) => (
            format!("Tenant `{slug}` is in track `{track}`."),
            format!("Next: `tenantry migrate up --tenant {slug}` runs what it lacks of that"),
        ),
        None => (format!("Tenant `{slug}` is in no track."), String::new()),
    };
    context.print_change(&TenantDocument::from(tenant), &what, &next)?;
    Ok(Outcome::Done)
}
