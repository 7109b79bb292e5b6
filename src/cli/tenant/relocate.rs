//! `tenantry tenant relocate`

use clap::Args;

use super::Wait;
use crate::cli::confirm::confirm;
use crate::cli::drive::Driver;
use crate::cli::report::elapsed;
use crate::cli::{Context, Error, Outcome, Result};
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
If anything fails, the tenant is served where it was. What it left stays there for TENANTRY_RESTORE_KEEP, and after an
online move it follows the tenant's database: `--back` then copies nothing, and loses nothing. `tenantry tenant show`
says whether it follows. Where it does not (any more), `--back` is a move like the first one, which loses nothing
either, and `tenantry restore SLUG --undo` goes back to what is kept, without what was written since.")]
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
    let server = environment.other_place(&tenant, &to).await?;
    let back = if offline { None } else { environment.way_back(&tenant, server).await? };
    if let Some(why) = back.as_ref().and_then(|back| back.obstacle.as_ref()) {
        context.note(&format!("what it left on {to} is of no use, and is copied anew: {why}"));
    }
    let goes_back = back.is_some_and(|back| back.obstacle.is_none());
    let obstacles = if offline || goes_back {
        Vec::new()
    } else {
        environment.online_obstacles(&tenant, &to).await?
    };
    let is_online = !offline && (online || obstacles.is_empty());
    let how = if goes_back {
        "copies nothing, as what it left there follows it, and lets its requests wait for about a second".to_owned()
    } else if is_online {
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
    let way = if is_online { Way::Online } else { Way::Offline };
    let operation = environment.relocate_by(&slug, &to, way, by).await?;
    let driver = Driver { context, environment: &environment };
    let outcome = driver
        .conclude(operation, &slug, wait.wait, |time| {
            let what = format!("Tenant `{slug}` is served from {to} now ({time}).");
            (what, format!("Next: `tenantry backup run {slug}`"))
        })
        .await?;
    if wait.wait && is_online {
        tell_way_back(context, &environment, &slug).await?;
    }
    Ok(outcome)
}

/// Says whether what the tenant has just left follows it.
async fn tell_way_back(
    context: &Context,
    environment: &Environment,
    slug: &TenantSlug,
) -> Result<()> {
    let tenant = environment.catalog.tenant(slug).await?;
    let left = environment.catalog.left_by(&tenant).await?;
    let Some(left) = left.first() else { return Ok(()) };
    let server = &left.server_name;
    if left.is_following() {
        context.note(&format!("what it left on {server} follows it: `--back` copies nothing"));
    } else if let Some(why) = &left.unfollowed {
        context.note(&format!("what it left on {server} does not follow it: {why}"));
    }
    Ok(())
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
