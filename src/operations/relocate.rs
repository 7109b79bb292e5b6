//! Moving a tenant to another server.
//!
//! It is the cutover of a restore with the copying before it or in the middle. *Online* (`online.rs`), a copy follows
//! the tenant's database while that is served, and its requests wait for a moment only. *Offline*, which takes
//! everything along that `pg_dump` knows, between any versions of PostgreSQL that go upwards, they wait for the copy:
//! the database is taken out of service first, so that nobody writes behind the copy's back; then it is copied, a
//! small and usual one by its rows alone (`rows.rs`), compared table by table, and taken into service over there.
//!
//! Whatever fails until the catalog's word, the tenant is served where it was, and nothing of it stays on the server
//! that it did not come to. Afterwards the database that it left is kept for a while. After an online move it follows
//! the tenant's in its turn (`back.rs`): going back there needs no copy then.

use std::time::Duration;

use futures_util::FutureExt as _;
use serde::{Deserialize, Serialize};
use tenantry_backup::{CopyEnd, copy_database};
use tenantry_provisioning::{DatabaseName, Link, Problem, Server, database_sizes};
use uuid::Uuid;

use super::cutover::{self, Arrival, Incoming};
use super::transfer::watched;
use super::{
    Environment, Plan, Step, StepContext, StepError, Work, chain, provision, require_settled,
    restore, way_back,
};
use crate::catalog::audit_log::Event;
use crate::tenant::{SchemaState, Tenant, TenantSlug, TenantState};

mod arrival;
mod back;
mod moment;
mod online;
mod rows;
mod verify;

pub use rows::{Copied, CopiedBy};

pub(super) use online::{carry_sequences, drain, refusal};

pub(super) const PLAN: Plan = Plan {
    steps: &[
        Step::new("preflight", |cx| preflight(cx).boxed()),
        Step::new("follow", |cx| follow(cx).boxed()),
        Step::new("verify", |cx| verify(cx).boxed()),
        Step::new("move", |cx| move_over(cx).boxed()),
        Step::new("leave_server", |cx| leave_server(cx).boxed()),
    ],
    abandon: &[
        Step::new("let_go", |cx| let_go(cx).boxed()),
        Step::new("drop_build", |cx| clear(cx).boxed()),
    ],
    no_return: 4,
};

/// How a tenant is moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// Online where nothing is in the way of that, and offline otherwise.
    #[default]
    Auto,
    /// While it is served; its requests wait for a moment at the end.
    Online,
    /// While its requests wait.
    Offline,
}

/// Whether the tenant is moved online, as the preflight decided.
const ONLINE: &str = "online";
/// The operation that left what the tenant goes back to, where it needs no copy.
const RETURN: &str = "return";

/// What a dump and a restore at once write in a second, at the least, on a server that is not busy.
const BYTES_PER_SECOND: u64 = 20 << 20;

impl Environment {
    /// About how long a tenant's requests would wait, by the size of its database.
    pub async fn relocation_pause(&self, tenant: &Tenant) -> Result<Duration, StepError> {
        let server = self.server(tenant.server_id).await?;
        let size = size(&server, &tenant.database).await?;
        Ok(pause(size))
    }

    /// What keeps a tenant from being moved to this server online; empty where nothing does.
    pub async fn online_obstacles(
        &self,
        tenant: &Tenant,
        to: &str,
    ) -> Result<Vec<Problem>, StepError> {
        let source = self.server(tenant.server_id).await?;
        let target = self.server(self.catalog.server_by_name(to).await?.id).await?;
        Ok(source.obstacles_to_following(&tenant.database, &target).await?)
    }

    /// Drops what a tenant left on other servers, before its time. Returns how many databases that were.
    pub async fn finish_relocation(&self, slug: &TenantSlug) -> Result<usize, StepError> {
        let tenant = self.catalog.tenant(slug).await?;
        require_settled(&tenant)?;
        let left = self.catalog.expire_left(&tenant).await?;
        if left.is_empty() && self.catalog.server_left(&tenant).await.is_ok() {
            return Err(StepError::fail(
                "another operation of the tenant is not over, and may need what it left",
                "see that it ends, retry it or cancel it first (`tenantry operation list`)",
            ));
        }
        for retained in &left {
            way_back::drop_kept(self, retained).await?;
            let detail = serde_json::json!({ "database": retained.database.as_str() });
            let action = "tenant.left_database_dropped";
            let event = Event { actor: self.catalog.by(), action, tenant: Some(slug), detail };
            self.catalog.record(&event).await?;
        }
        Ok(left.len())
    }
}

impl Way {
    /// Whether it is what is done when nobody says anything.
    #[must_use]
    pub fn is_auto(&self) -> bool {
        *self == Self::Auto
    }
}

fn asked(cx: &StepContext<'_>) -> (Uuid, Way) {
    match *cx.work {
        Work::Relocate { server, way } => (server, way),
        _ => unreachable!("only a relocation has these steps"),
    }
}

/// About how long the requests of a tenant wait whose database has so many bytes.
pub(super) fn pause(bytes: u64) -> Duration {
    Duration::from_secs(1 + bytes / BYTES_PER_SECOND)
}

fn target(cx: &StepContext<'_>) -> Uuid {
    asked(cx).0
}

fn is_online(cx: &StepContext<'_>) -> Result<bool, StepError> {
    Ok(cx.recall(ONLINE)?.unwrap_or(false))
}

/// The database that is to take the place of the tenant's.
fn incoming(cx: &StepContext<'_>) -> Result<DatabaseName, StepError> {
    Ok(returning(cx)?.map_or_else(|| cx.build(), DatabaseName::old))
}

/// What joins it to the tenant's, online.
fn link(cx: &StepContext<'_>) -> Result<Link, StepError> {
    Ok(returning(cx)?.map_or(Link::Move(cx.operation.id), Link::Back))
}

fn returning(cx: &StepContext<'_>) -> Result<Option<Uuid>, StepError> {
    Ok(cx.recall::<Option<Uuid>>(RETURN)?.flatten())
}

/// Finds out while the tenant is still served what would fail when its requests wait.
async fn preflight(cx: &StepContext<'_>) -> Result<(), StepError> {
    require_settled(&cx.tenant)?;
    let target_id = target(cx);
    if cx.tenant.server_id == target_id {
        return Ok(());
    }
    let source = cx.server().await?;
    let target = cx.environment.server(target_id).await?;
    if cutover::has_come(cx, target_id).await? {
        // Whether a slot is to be seen to on the server that was left.
        let is_followed = source.slot(Link::Move(cx.operation.id)).await?.is_some();
        return cx.remember(ONLINE, &(is_followed || is_online(cx)?)).await;
    }
    let owner = cx.owner();
    cutover::refuse_stranger(&target, &cx.tenant.database, owner).await?;
    cutover::require_nothing_prepared(&source, &cx.tenant.database).await?;
    if goes_back(cx, &target).await? {
        return Ok(());
    }
    let (here, there) = (source.facts().await?, target.facts().await?);
    if there.major < here.major {
        return Err(StepError::fail(
            format!(
                "the tenant is on PostgreSQL {}, and that server is PostgreSQL {}",
                here.version, there.version
            ),
            "choose a server of the same or a newer major version",
        ));
    }
    let used = source.connect(&cx.tenant.database).await?;
    let used = names(&used, "select extname::text from pg_extension order by 1").await?;
    require_extensions(&used, &target).await?;
    choose_way(cx, &source, &target).await
}

async fn require_extensions(used: &[String], target: &Server) -> Result<(), StepError> {
    // Every server has this one, and to look for others it reads all of its files about them.
    let used: Vec<&String> = used.iter().filter(|name| *name != "plpgsql").collect();
    if used.is_empty() {
        return Ok(());
    }
    let known = "select name::text from pg_available_extensions";
    let known = names(&*target.client().await?, known).await?;
    let Some(missing) = used.iter().find(|name| !known.contains(name)) else { return Ok(()) };
    Err(StepError::fail(
        format!("the tenant uses the extension `{missing}`, which that server has not"),
        "install it there, or choose another server",
    ))
}

/// Whether what the tenant left there has followed ever since, so that it only has to take its place again.
async fn goes_back(cx: &StepContext<'_>, target: &Server) -> Result<bool, StepError> {
    let (target_id, way) = asked(cx);
    let found = match way {
        Way::Offline => None,
        Way::Auto | Way::Online => cx.environment.way_back(&cx.tenant, target_id).await?,
    };
    if let Some(why) = found.as_ref().and_then(|back| back.obstacle.as_ref()) {
        tracing::info!(tenant = %cx.tenant.slug, why, "what the tenant left there is of no use");
    }
    let back = found.filter(|back| back.obstacle.is_none());
    cx.remember(RETURN, &back.as_ref().map(|back| back.operation)).await?;
    let Some(back) = back else { return Ok(false) };
    let old = DatabaseName::old(back.operation);
    let keep = cx.environment.limits.restore_keep;
    cx.lock.keep_retained(&old, keep).await?;
    // Its neighbours may have been hidden from the tenant since it left.
    target.ensure_hardened(&old).await?;
    cx.remember(online::FOLLOWED, &back.schema).await?;
    cx.remember(ONLINE, &true).await?;
    Ok(true)
}

/// Decides for the online way where that is possible, unless somebody has decided otherwise.
async fn choose_way(
    cx: &StepContext<'_>,
    source: &Server,
    target: &Server,
) -> Result<(), StepError> {
    let (_, way) = asked(cx);
    if way == Way::Offline {
        return cx.remember(ONLINE, &false).await;
    }
    // Where nobody insists, the first thing that is in the way will do.
    let mut obstacles = match way {
        Way::Auto => source.obstacles_to_being_followed().await?,
        Way::Online | Way::Offline => Vec::new(),
    };
    if obstacles.is_empty() {
        obstacles = source.obstacles_to_following(&cx.tenant.database, target).await?;
    }
    let (what, remedies) = online::refusal(&obstacles);
    if way == Way::Online && !obstacles.is_empty() {
        return Err(StepError::fail(
            format!("the tenant cannot be moved online: {what}"),
            format!("{remedies}; or cancel, and relocate with `--offline`"),
        ));
    }
    if !obstacles.is_empty() {
        tracing::info!(tenant = %cx.tenant.slug, %what, "the tenant is moved offline");
    }
    cx.remember(ONLINE, &obstacles.is_empty()).await
}

async fn follow(cx: &StepContext<'_>) -> Result<(), StepError> {
    if needs_no_follower(cx).await? {
        return Ok(());
    }
    keep_to_way_back(cx).await?;
    if !is_online(cx)? {
        return Ok(());
    }
    or_clear(cx, online::follow(cx, target(cx)).await).await
}

/// Whoever goes back needs what follows, from the first step to the last; where that is lost, it goes as others do.
async fn keep_to_way_back(cx: &StepContext<'_>) -> Result<(), StepError> {
    let Some(before) = returning(cx)? else { return Ok(()) };
    let ends = online::Ends::of(cx, target(cx)).await?;
    preflight(cx).await?;
    if returning(cx)? == Some(before) { Ok(()) } else { back::withdraw(&ends).await }
}

/// Whether there is nothing to follow: it goes offline, or is over there.
async fn needs_no_follower(cx: &StepContext<'_>) -> Result<bool, StepError> {
    let target = target(cx);
    Ok(!is_online(cx)? || cx.tenant.server_id == target || cutover::has_come(cx, target).await?)
}

async fn verify(cx: &StepContext<'_>) -> Result<(), StepError> {
    if needs_no_follower(cx).await? {
        return Ok(());
    }
    keep_to_way_back(cx).await?;
    if !is_online(cx)? {
        return Ok(());
    }
    or_clear(cx, online::follow_verified(cx, target(cx)).await).await
}

async fn move_over(cx: &StepContext<'_>) -> Result<(), StepError> {
    // In the middle of a cutover, the database that is followed may be shut already, and have another name.
    let is_before = cx.tenant.state != TenantState::Restoring;
    if is_before && !cutover::has_come(cx, target(cx)).await? {
        cutover::clear_stale(cx, &incoming(cx)?, target(cx)).await?;
        verify(cx).await?;
        if is_online(cx)? && cx.tenant.server_id != target(cx) {
            back::prepare(cx, &online::Ends::of(cx, target(cx)).await?).await?;
        }
    }
    let incoming = Incoming {
        database: incoming(cx)?,
        server_id: target(cx),
        schema: SchemaState { version: cx.tenant.schema_version, ..SchemaState::default() },
        arrival: if is_online(cx)? { Arrival::Followed(link(cx)?) } else { Arrival::Copied },
    };
    or_clear(cx, cutover::cut_over(cx, &incoming).await).await
}

/// What did not come to its end leaves nothing on either server: it begins anew when it is tried again.
async fn or_clear(cx: &StepContext<'_>, done: Result<(), StepError>) -> Result<(), StepError> {
    if matches!(done, Err(StepError::Retry(..) | StepError::Fail(..)))
        && let Err(error) = clear(cx).await
    {
        tracing::warn!(%error, "an unfinished copy is left until the relocation is retried or cancelled");
    }
    done
}

async fn leave_server(cx: &StepContext<'_>) -> Result<(), StepError> {
    let left = leave_old(cx).await;
    if let Err(error) = &left
        && is_online(cx)?
        && cutover::left_server(cx)?.is_some()
    {
        // The other server may be away for long, and nothing may keep the log of this one meanwhile: the upkeep knows
        // of it from now on.
        let catalog = &cx.environment.catalog;
        catalog.note_unfollowed(&cx.tenant, cx.operation.id, &chain(error)).await?;
    }
    left
}

async fn leave_old(cx: &StepContext<'_>) -> Result<(), StepError> {
    if let Some(left) = cutover::left_server(cx)?
        && is_online(cx)?
    {
        online::leave(cx, &cx.environment.server(left).await?).await?;
    }
    cutover::leave_server(cx).await?;
    if let Some(operation) = returning(cx)? {
        cx.lock.forget_retained(&DatabaseName::old(operation), target(cx)).await?;
    }
    match cutover::left_server(cx)? {
        Some(left) if is_online(cx)? => back::open(cx, left).await,
        _ => Ok(()),
    }
}

async fn let_go(cx: &StepContext<'_>) -> Result<(), StepError> {
    cutover::let_go(cx, &incoming(cx)?, target(cx)).await
}

async fn clear(cx: &StepContext<'_>) -> Result<(), StepError> {
    let target = target(cx);
    if is_online(cx)? {
        return online::clear(cx, target).await;
    }
    provision::drop_build(&cx.environment.server(target).await?, cx.operation.id).await
}

/// Copies a database that is out of service into the operation's build on another server, and compares the two.
pub(super) async fn copy(
    cx: &StepContext<'_>,
    source: &Server,
    retired: &DatabaseName,
    target: &Server,
) -> Result<(), StepError> {
    // For the administrator alone: the tenant's role lost its right when it was retired.
    source.unfence(retired, cx.tenant.id).await?;
    let copied = match rows::copy(cx, source, retired, target).boxed().await {
        Ok(None) => Copied { by: CopiedBy::Rows, because: None },
        Err(StepError::Lost) => return Err(StepError::Lost),
        other => {
            if let Err(error) = &other {
                let (tenant, error) = (&cx.tenant.slug, chain(error));
                tracing::warn!(%tenant, error, "a tenant could not be copied by its rows alone");
            }
            let because = other.unwrap_or_else(|error| Some(chain(&error)));
            dump(cx, source, retired, target).boxed().await?;
            Copied { by: CopiedBy::Dump, because }
        }
    };
    copied.note(cx).await?;
    source.fence(retired, cx.tenant.id).await?;
    Ok(())
}

async fn dump(
    cx: &StepContext<'_>,
    source: &Server,
    retired: &DatabaseName,
    target: &Server,
) -> Result<(), StepError> {
    let fill = || copy_once(cx, source, retired, target).boxed();
    restore::with_lent_roles(cx, target, fill).await?;
    let build = cx.build();
    verify::compare(&source.connect(retired).await?, &target.connect(&build).await?).await
}

async fn copy_once(
    cx: &StepContext<'_>,
    source: &Server,
    retired: &DatabaseName,
    target: &Server,
) -> Result<(), StepError> {
    let to_env = restore::empty_build(cx, target).await?;
    let (from_tools, _) = cx.environment.tools(source).await?;
    let (to_tools, _) = cx.environment.tools(target).await?;
    let from_env = source.url().with_database(retired.as_str()).libpq_env();
    let from = CopyEnd { tools: &from_tools, libpq_env: &from_env };
    let to = CopyEnd { tools: &to_tools, libpq_env: &to_env };
    let size = size(source, retired).await?;
    let _turn = cx.environment.turn().await;
    watched(cx, size, |progress| copy_database(from, to, None, progress)).await
}

/// In bytes, on the disk of its server.
async fn size(server: &Server, database: &DatabaseName) -> Result<u64, StepError> {
    let sizes = database_sizes(server, std::slice::from_ref(database)).await?;
    Ok(sizes.first().map_or(0, |(_, bytes)| bytes.unsigned_abs()))
}

async fn names(client: &tokio_postgres::Client, sql: &str) -> Result<Vec<String>, StepError> {
    let rows = client.query(sql, &[]).await.map_err(tenantry_provisioning::Error::from)?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
