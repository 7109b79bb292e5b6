//! `tenantry tenant relocate`

use clap::Args;

use super::Wait;
use crate::cli::confirm::confirm;
use crate::cli::drive::Driver;
use crate::cli::report::elapsed;
use crate::cli::{Context, Error, Outcome, Result};
use crate::operations::request::Requester;
use crate::operations::{Environment, Way};
use crate::tenant::TenantSlug;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry tenant relocate acme-corp --to eu-2           asks for the slug
  tenantry tenant relocate acme-corp --to eu-2 --yes     for scripts
  tenantry tenant relocate acme-corp --to eu-2 --online  or not at all
  tenantry tenant relocate acme-corp --back              to the server that it was on before
  tenantry tenant relocate acme-corp --finish            drops what it left there

Online, a copy on the other server follows the tenant's database by logical replication while that is served; it is
compared row by row, and requests wait for about a second at the end. Where something cannot be replicated, which is
said first, it goes offline: the database is taken out of service, copied and compared, and requests wait meanwhile.
If anything fails, the tenant is served where it was. What it left stays there, shut, for TENANTRY_RESTORE_KEEP:
`tenantry restore SLUG --undo` goes back to it, without what was written since; `--back` moves the tenant as it is
by then, and loses nothing.")]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(in crate::cli) struct Options {
    /// The tenant
    #[arg(value_parser = TenantSlug::parse)]
    slug: TenantSlug,
    /// The server to move it to
    #[arg(long, value_name = "SERVER", required_unless_present_any = ["back", "finish"])]
    to: Option<String>,
    /// To the server that it was on before, with all that was written since
    #[arg(long, conflicts_with = "to")]
    back: bool,
    /// Drop what it left on other servers, before its time
    #[arg(long, conflicts_with_all = ["to", "back", "online", "offline"])]
    finish: bool,
    /// While it is served, or not at all
    #[arg(long)]
    online: bool,
    /// While its requests wait, although it may go otherwise
    #[arg(long, conflicts_with = "online")]
    offline: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    wait: Wait,
}

pub(super) async fn run(options: Options, context: &Context) -> Result<Outcome> {
    let environment = context.environment().await?;
    if options.finish {
        return finish(options, context, &environment).await;
    }
    let Options { slug, to, online, offline, yes, wait, .. } = options;
    let tenant = environment.catalog.tenant(&slug).await?;
    let to = match to {
        Some(to) => to,
        None => environment.catalog.server_left(&tenant).await?,
    };
    environment.other_place(&tenant, &to).await?;
    let obstacles =
        if offline { Vec::new() } else { environment.online_obstacles(&tenant, &to).await? };
    let is_online = !offline && (online || obstacles.is_empty());
    let how = if is_online {
        "online lets its requests wait for about a second at the end".to_owned()
    } else {
        let pause = elapsed(environment.relocation_pause(&tenant).await?);
        format!("lets its requests wait for about {pause}, by the size of its database")
    };
    if online && let Some(obstacle) = obstacles.first() {
        return Err(Error::refused(
            format!("`{slug}` cannot be moved online: {}", obstacle.what),
            format!("{}; or use --offline", obstacle.remedy),
        ));
    }
    for obstacle in &obstacles {
        context.note(&format!("not online: {} ({})", obstacle.what, obstacle.remedy));
    }
    let (name, from) = (&tenant.name, &tenant.server_name);
    let what = format!("moving `{}` ({name}) from {from} to {to} {how}", tenant.slug);
    confirm(&what, slug.as_str(), yes)?;

    let by = context.requester();
    let by = Requester { name: &by, idempotency_key: None };
    let way = if is_online { Way::Online } else { Way::Offline };
    let operation = environment.relocate_by(&slug, &to, way, by).await?;
    let driver = Driver { context, environment: &environment };
    driver
        .conclude(operation, &slug, wait.wait, |time| {
            let what = format!("Tenant `{slug}` is served from {to} now ({time}).");
            (what, format!("Next: `tenantry backup run {slug}`"))
        })
        .await
}

/// Ends the way back.
async fn finish(options: Options, context: &Context, environment: &Environment) -> Result<Outcome> {
    let Options { slug, yes, .. } = options;
    let what = format!("dropping what `{slug}` left on other servers ends the way back to it");
    confirm(&what, slug.as_str(), yes)?;
    let dropped = environment.finish_relocation(&slug).await?;
    let what = match dropped {
        0 => format!("Tenant `{slug}` has left nothing on other servers."),
        1 => format!("Dropped the database that `{slug}` left."),
        more => format!("Dropped {more} databases that `{slug}` left."),
    };
    context.print_change(&serde_json::json!({ "dropped": dropped }), &what, "")?;
    Ok(Outcome::Done)
}
