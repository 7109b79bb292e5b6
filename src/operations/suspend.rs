//! Suspending a tenant and resuming it.
//!
//! The catalog's word stops every router within a second. The server's stops a router that cannot hear
//! the catalog: the login role may no longer log in, and its sessions end.
//!
//! An operation that has failed may be given up long afterwards, when others have suspended or resumed the
//! tenant. So each notes its turn and how it found the tenant: only whoever had the last word takes it back.

use futures_util::FutureExt as _;
use serde::{Deserialize, Serialize};

use super::{Plan, Step, StepContext, StepError, Work, require_settled};
use crate::tenant::TenantState;

pub(super) const SUSPEND: Plan = Plan {
    steps: &[
        Step::new("stop_routing", |cx| stop_routing(cx).boxed()),
        Step::new("disable_login", |cx| disable_login(cx).boxed()),
    ],
    abandon: &[
        Step::new("enable_login", |cx| enable_login_again(cx).boxed()),
        Step::new("route_again", |cx| route_as_before(cx).boxed()),
    ],
    no_return: 2,
};

pub(super) const RESUME: Plan = Plan {
    steps: &[
        Step::new("enable_login", |cx| enable_login(cx).boxed()),
        Step::new("route_again", |cx| route_again(cx).boxed()),
    ],
    abandon: &[Step::new("disable_login", |cx| disable_login_again(cx).boxed())],
    no_return: 2,
};

/// What the operation said about the tenant; the catalog reads `turn`.
const WORD: &str = "word";

#[derive(Serialize, Deserialize)]
struct Word {
    /// Suspensions and resumptions of a tenant count from one.
    turn: i64,
    /// How it found the tenant.
    state: TenantState,
    /// Why that was suspended.
    reason: Option<String>,
}

async fn stop_routing(cx: &StepContext<'_>) -> Result<(), StepError> {
    let Work::Suspend { reason } = cx.work else { unreachable!("only a suspension has this step") };
    have_a_say(cx).await?;
    // Whoever suspends once more and says nothing has no other reason.
    let reason = reason.as_ref().or(cx.tenant.suspended_reason.as_ref());
    Ok(cx.lock.set_state(TenantState::Suspended, reason.map(String::as_str)).await?)
}

async fn disable_login(cx: &StepContext<'_>) -> Result<(), StepError> {
    require_settled(&cx.tenant)?;
    if cx.tenant.state == TenantState::Active {
        return Err(overruled("resumed"));
    }
    shut_out(cx).await
}

async fn enable_login(cx: &StepContext<'_>) -> Result<(), StepError> {
    have_a_say(cx).await?;
    let_in(cx).await
}

async fn route_again(cx: &StepContext<'_>) -> Result<(), StepError> {
    require_settled(&cx.tenant)?;
    let turn = cx.recall::<Word>(WORD)?.map_or(0, |word| word.turn);
    if cx.lock.turns().await?.others > turn {
        return Err(overruled("suspended"));
    }
    // It may have come to another server since.
    let_in(cx).await?;
    Ok(cx.lock.set_state(TenantState::Active, None).await?)
}

/// A suspension that is given up shuts nobody out any more whom it found let in.
async fn enable_login_again(cx: &StepContext<'_>) -> Result<(), StepError> {
    match last_word(cx).await? {
        Some(Word { state: TenantState::Active, .. }) => let_in(cx).await,
        _ => Ok(()),
    }
}

async fn route_as_before(cx: &StepContext<'_>) -> Result<(), StepError> {
    match last_word(cx).await? {
        Some(Word { state, reason, .. }) => {
            enable_login_again(cx).await?;
            Ok(cx.lock.set_state(state, reason.as_deref()).await?)
        }
        None => Ok(()),
    }
}

/// A resumption that is given up leaves nobody let in of a tenant that is suspended.
async fn disable_login_again(cx: &StepContext<'_>) -> Result<(), StepError> {
    if cx.recall::<Word>(WORD)?.is_none() {
        return Ok(());
    }
    require_settled(&cx.tenant)?;
    if cx.tenant.state == TenantState::Suspended { shut_out(cx).await } else { Ok(()) }
}

/// Takes a turn and notes how the tenant stands: once, and anew where others have had their say since.
async fn have_a_say(cx: &StepContext<'_>) -> Result<(), StepError> {
    require_settled(&cx.tenant)?;
    let turns = cx.lock.turns().await?;
    if cx.recall::<Word>(WORD)?.is_some_and(|word| word.turn > turns.others) {
        return Ok(());
    }
    let (state, reason) = (cx.tenant.state, cx.tenant.suspended_reason.clone());
    cx.remember(WORD, &Word { turn: turns.newest + 1, state, reason }).await
}

/// What this operation said, unless others have had their say since.
async fn last_word(cx: &StepContext<'_>) -> Result<Option<Word>, StepError> {
    let Some(word) = cx.recall::<Word>(WORD)? else { return Ok(None) };
    if cx.lock.turns().await?.others > word.turn {
        return Ok(None);
    }
    require_settled(&cx.tenant)?;
    Ok(Some(word))
}

fn overruled(by: &str) -> StepError {
    StepError::fail(
        format!("the tenant was {by} since this was asked for"),
        "cancel this, and ask again if it is still wanted",
    )
}

async fn shut_out(cx: &StepContext<'_>) -> Result<(), StepError> {
    let server = cx.server().await?;
    Ok(server.disable_login(&cx.tenant.role, cx.tenant.id).await?)
}

async fn let_in(cx: &StepContext<'_>) -> Result<(), StepError> {
    let server = cx.server().await?;
    Ok(server.enable_login(&cx.tenant.role, cx.tenant.id).await?)
}
