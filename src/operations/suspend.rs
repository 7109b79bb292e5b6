//! Suspending a tenant and resuming it.
//!
//! The catalog's word stops every router within a second. The server's stops a router that cannot hear
//! the catalog: the login role may no longer log in, and its sessions end.

use futures_util::FutureExt as _;

use super::{Plan, Step, StepContext, StepError, Work};
use crate::tenant::TenantState;

pub(super) const SUSPEND: Plan = Plan {
    steps: &[
        Step::new("stop_routing", |cx| stop_routing(cx).boxed()),
        Step::new("disable_login", |cx| disable_login(cx).boxed()),
    ],
    abandon: &[
        Step::new("enable_login", |cx| enable_login(cx).boxed()),
        Step::new("route_again", |cx| route_again(cx).boxed()),
    ],
    no_return: 2,
};

pub(super) const RESUME: Plan = Plan {
    steps: &[
        Step::new("enable_login", |cx| enable_login(cx).boxed()),
        Step::new("route_again", |cx| route_again(cx).boxed()),
    ],
    abandon: &[],
    no_return: 2,
};

async fn stop_routing(cx: &StepContext<'_>) -> Result<(), StepError> {
    let Work::Suspend { reason } = cx.work()? else {
        unreachable!("only a suspension has this step")
    };
    Ok(cx.lock.set_state(TenantState::Suspended, reason.as_deref()).await?)
}

async fn disable_login(cx: &StepContext<'_>) -> Result<(), StepError> {
    let server = cx.environment.server(cx.tenant.server_id).await?;
    Ok(server.disable_login(&cx.tenant.role, cx.tenant.id).await?)
}

async fn enable_login(cx: &StepContext<'_>) -> Result<(), StepError> {
    let server = cx.environment.server(cx.tenant.server_id).await?;
    Ok(server.enable_login(&cx.tenant.role, cx.tenant.id).await?)
}

async fn route_again(cx: &StepContext<'_>) -> Result<(), StepError> {
    Ok(cx.lock.set_state(TenantState::Active, None).await?)
}
