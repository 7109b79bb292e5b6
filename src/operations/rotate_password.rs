//! Giving a tenant's login role another password.
//!
//! The new one is chosen and kept, sealed, before the server hears of it: whoever goes on after a crash
//! goes on with the same. Sessions that are open stay open; a router that logs in between the server's
//! change and the catalog's tries again until both say the same.

use futures_util::FutureExt as _;
use tenantry_provisioning::{random_password, scram_verifier};

use super::{Plan, Step, StepContext, StepError};

pub(super) const PLAN: Plan = Plan {
    steps: &[
        Step::new("choose_password", |cx| choose_password(cx).boxed()),
        Step::new("change_role", |cx| change_role(cx).boxed()),
        Step::new("tell_routers", |cx| tell_routers(cx).boxed()),
    ],
    abandon: &[Step::new("keep_password", |cx| keep_password(cx).boxed())],
    no_return: 3,
};

/// The new password, sealed, in hex.
const SEALED: &str = "sealed";

async fn choose_password(cx: &StepContext<'_>) -> Result<(), StepError> {
    if cx.recall::<String>(SEALED)?.is_some() {
        return Ok(());
    }
    let sealed = cx.environment.catalog.seal_tenant_password(cx.tenant.id, &random_password());
    cx.remember(SEALED, &hex::encode(sealed)).await
}

async fn change_role(cx: &StepContext<'_>) -> Result<(), StepError> {
    let password = cx.environment.catalog.open_tenant_password(cx.tenant.id, &sealed(cx)?)?;
    let server = cx.server().await?;
    let verifier = scram_verifier(&password);
    Ok(server.rotate_password(&cx.tenant.role, cx.tenant.id, &verifier).await?)
}

async fn tell_routers(cx: &StepContext<'_>) -> Result<(), StepError> {
    // The tenant may have come to another server since, with the password that the catalog still has.
    change_role(cx).await?;
    Ok(cx.lock.set_password(&sealed(cx)?).await?)
}

/// The catalog's word was never changed.
async fn keep_password(cx: &StepContext<'_>) -> Result<(), StepError> {
    let password = cx.environment.catalog.tenant_password(cx.tenant.id).await?;
    let server = cx.server().await?;
    let verifier = scram_verifier(&password);
    Ok(server.rotate_password(&cx.tenant.role, cx.tenant.id, &verifier).await?)
}

fn sealed(cx: &StepContext<'_>) -> Result<Vec<u8>, StepError> {
    let sealed = cx.recall::<String>(SEALED)?.and_then(|text| hex::decode(text).ok());
    sealed.ok_or_else(|| {
        StepError::fail("the new password is not there", "cancel the operation and ask again")
    })
}
