//! Renaming a tenant: its slug, its database and its role.
//!
//! The new slug is kept from the moment that somebody asks for it. In the cutover requests are held, work in
//! progress comes to its end, and one transaction renames database and role; the catalog's word then sends
//! the held requests there. A cutover that fails is undone at once, so nobody waits for another try. The slug
//! that the tenant had goes on leading to it. It is the same database, so epoch and stamp stay.

use std::time::Duration;

use futures_util::FutureExt as _;
use tenantry_provisioning::{DatabaseName, Rename, RoleName, Server};

use super::cutover::require_nothing_prepared;
use super::{Plan, Step, StepContext, StepError, Work, chain, require_settled, way_back};
use crate::tenant::{TenantSlug, TenantState};

pub(super) const PLAN: Plan = Plan {
    steps: &[
        Step::new("check_names", |cx| check_names(cx).boxed()),
        Step::new("cut_over", |cx| cut_over(cx).boxed()),
        Step::new("serve", |cx| serve(cx).boxed()),
    ],
    abandon: &[
        Step::new("name_back", |cx| name_back(cx).boxed()),
        Step::new("let_go", |cx| let_go(cx).boxed()),
    ],
    no_return: 2,
};

/// How long work in progress may take to end. Requests wait for it, and not much longer than this.
const GRACE: Duration = Duration::from_secs(3);

/// The state to go back to after the cutover.
const STATE: &str = "state";

/// What the tenant is to be called.
struct Names {
    slug: TenantSlug,
    database: DatabaseName,
    role: RoleName,
}

/// Finds out while the tenant is still served what could only fail in the cutover.
async fn check_names(cx: &StepContext<'_>) -> Result<(), StepError> {
    require_settled(&cx.tenant)?;
    let server = cx.server().await?;
    require_nothing_prepared(&server, &cx.tenant.database).await?;
    let new = names(cx)?;
    if has_new_names(cx, &server).await? {
        return Ok(());
    }
    let database =
        server.database(&new.database).await?.map(|_| format!("database `{}`", new.database));
    let role = server.role(&new.role).await?.map(|_| format!("role `{}`", new.role));
    match database.or(role) {
        None => Ok(()),
        Some(found) => Err(StepError::fail(
            format!("the server has a {found} already, and it is not this tenant's"),
            "see whose it is; drop or rename it by hand and retry, or cancel and choose another slug",
        )),
    }
}

/// Whether the tenant has the new names on its server: a catalog that was restored from a moment ago, or has failed
/// over to a standby that lacked that, does not know how far this was.
async fn has_new_names(cx: &StepContext<'_>, server: &Server) -> Result<bool, StepError> {
    let found = server.database(&names(cx)?.database).await?;
    let is_renamed = found.is_some_and(|facts| facts.belongs_to(cx.tenant.id));
    Ok(is_renamed && server.database(&cx.tenant.database).await?.is_none())
}

async fn cut_over(cx: &StepContext<'_>) -> Result<(), StepError> {
    if cx.tenant.state != TenantState::Renaming {
        cx.remember(STATE, &cx.tenant.state).await?;
        way_back::close(cx, None, "the tenant was renamed").await?;
    }
    set_state(cx, TenantState::Renaming).await?;
    let Err(error) = rename(cx).await else { return Ok(()) };
    // Once the lock is lost, another worker may be renaming already: what it does is not undone.
    if cx.lock.read_tenant().await.is_ok()
        && let Err(worse) = undo(cx).await
    {
        tracing::warn!(error = %chain(&worse), "the cutover cannot be undone; requests wait for a retry");
    }
    Err(error)
}

async fn rename(cx: &StepContext<'_>) -> Result<(), StepError> {
    let (tenant, new) = (&cx.tenant, names(cx)?);
    let server = cx.environment.server(tenant.server_id).await?;
    let (from, to) = ((&tenant.database, &tenant.role), (&new.database, &new.role));
    Ok(server.rename(Rename { from, to, tenant: tenant.id, grace: GRACE }).await?)
}

async fn serve(cx: &StepContext<'_>) -> Result<(), StepError> {
    let new = names(cx)?;
    if cx.tenant.slug == new.slug {
        return Ok(());
    }
    Ok(cx.lock.rename(&new.slug, &new.database, &new.role, state_before(cx)?).await?)
}

/// Gives up before the catalog has the new names: the old ones are in force again.
async fn name_back(cx: &StepContext<'_>) -> Result<(), StepError> {
    let is_renamed =
        cx.tenant.state == TenantState::Renaming || has_new_names(cx, &cx.server().await?).await?;
    if is_renamed { undo(cx).await } else { Ok(()) }
}

async fn let_go(cx: &StepContext<'_>) -> Result<(), StepError> {
    Ok(cx.lock.free_slug().await?)
}

/// Serves the tenant under the names that it had; only a server that has them again is served.
async fn undo(cx: &StepContext<'_>) -> Result<(), StepError> {
    let (tenant, new) = (&cx.tenant, names(cx)?);
    let server = cx.environment.server(tenant.server_id).await?;
    let (from, to) = ((&new.database, &new.role), (&tenant.database, &tenant.role));
    server.rename(Rename { from, to, tenant: tenant.id, grace: Duration::ZERO }).await?;
    set_state(cx, state_before(cx)?).await
}

/// Why an operator suspended the tenant is still true after a cutover.
async fn set_state(cx: &StepContext<'_>, state: TenantState) -> Result<(), StepError> {
    Ok(cx.lock.set_state(state, cx.tenant.suspended_reason.as_deref()).await?)
}

fn state_before(cx: &StepContext<'_>) -> Result<TenantState, StepError> {
    Ok(cx.recall(STATE)?.unwrap_or(TenantState::Active))
}

fn names(cx: &StepContext<'_>) -> Result<Names, StepError> {
    let Work::Rename { to: slug } = cx.work else { unreachable!("only a rename has these steps") };
    let unfit = |error| StepError::Fail(Box::new(error), Some("choose another slug".to_owned()));
    let database = DatabaseName::tenant(slug.as_str()).map_err(unfit)?;
    let role = RoleName::tenant(slug.as_str()).map_err(unfit)?;
    Ok(Names { slug: slug.clone(), database, role })
}
