//! Where a restore's build is. The tenant may move between two steps: the build is made anew then where the tenant is,
//! and what was made on the server that it has left does not stay there, whether the restore goes on, is given up, or the
//! tenant is deleted.

use uuid::Uuid;

use crate::operations::{StepContext, StepError, Work, provision, restore_at};

/// The server on which the build is, in full or not; the catalog reads it.
const PLACE: &str = "place";
/// The server on which it was made in full. The tenant may move before the restore goes on.
const MADE_ON: &str = "made_on";

/// Notes where the build is about to be made, and drops the one that an earlier attempt has made elsewhere.
pub(in crate::operations) async fn settle_place(cx: &StepContext<'_>) -> Result<(), StepError> {
    let target = super::target(cx);
    match cx.recall::<Uuid>(PLACE)? {
        Some(place) if place == target => return Ok(()),
        Some(_) => drop_build(cx).await?,
        None => {}
    }
    cx.remember(PLACE, &target).await
}

/// Notes that the build is all there.
pub(in crate::operations) async fn note_made(cx: &StepContext<'_>) -> Result<(), StepError> {
    cx.remember(MADE_ON, &super::target(cx)).await
}

/// Whether the tenant has moved since the build was made.
pub(in crate::operations) fn has_moved(cx: &StepContext<'_>) -> Result<bool, StepError> {
    Ok(cx.recall::<Uuid>(MADE_ON)?.is_some_and(|server| server != super::target(cx)))
}

/// Makes the build anew where the tenant is now, if it has moved since.
pub(super) async fn come_along(cx: &StepContext<'_>) -> Result<(), StepError> {
    match cx.work {
        Work::Restore { .. } if has_moved(cx)? => {
            super::restore_beside(cx).await?;
            super::compare_with_backup(cx).await
        }
        Work::RestoreAt { .. } if has_moved(cx)? => restore_at::restore_anew(cx).await,
        _ => Ok(()),
    }
}

/// Drops it, wherever it is.
pub(in crate::operations) async fn drop_build(cx: &StepContext<'_>) -> Result<(), StepError> {
    let place = cx.recall::<Uuid>(PLACE)?.unwrap_or_else(|| super::target(cx));
    let server = cx.environment.server(place).await?;
    provision::drop_build(&server, cx.operation.id).await
}
