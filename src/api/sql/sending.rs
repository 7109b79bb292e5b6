//! An answer on its way to its caller, who may be slow and may not read at all.
//!
//! What is long goes out in pieces of [`SHORT`], so that what nobody has read yet lies here and is counted
//! ([`Answered::place`]). Who takes no piece for too long is cut off: the rest is let go at once, whether or not the
//! connection ever asks for it again.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use thiserror::Error;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::sleep;

use crate::sql::{Answered, SHORT};

/// The caller did not read.
#[derive(Debug, Error)]
#[error("the caller took none of the answer for too long")]
struct Unread;

/// What an unread answer takes, of its tenant's part and of the whole.
type Place = (OwnedSemaphorePermit, OwnedSemaphorePermit);

/// What is still to be sent.
struct Unsent {
    /// None once it was given up.
    rest: Option<(Bytes, Place)>,
    /// When a piece was last taken.
    taken: Instant,
}

/// The response for an answer.
pub(super) fn sending(answered: Answered, patience: Duration) -> Response {
    let Answered { json, place } = answered;
    let (kind, len) = ((CONTENT_TYPE, "application/json"), json.len());
    let Some(place) = place else { return ([kind], json).into_response() };
    let unsent = Unsent { rest: Some((json.into(), place)), taken: Instant::now() };
    let unsent = Arc::new(Mutex::new(unsent));
    tokio::spawn(watch(Arc::downgrade(&unsent), patience));
    let pieces = stream::try_unfold(unsent, |unsent| async {
        let piece = take(&unsent)?;
        Ok::<_, Unread>((!piece.is_empty()).then_some((piece, unsent)))
    });
    ([kind], [(CONTENT_LENGTH, len)], Body::from_stream(pieces)).into_response()
}

fn take(unsent: &Mutex<Unsent>) -> Result<Bytes, Unread> {
    let mut unsent = unsent.lock().unwrap_or_else(PoisonError::into_inner);
    unsent.taken = Instant::now();
    let (rest, _) = unsent.rest.as_mut().ok_or(Unread)?;
    Ok(rest.split_to(rest.len().min(SHORT)))
}

/// Ends with the response.
async fn watch(unsent: Weak<Mutex<Unsent>>, patience: Duration) {
    let mut pause = patience;
    loop {
        sleep(pause).await;
        let Some(unsent) = unsent.upgrade() else { return };
        let mut unsent = unsent.lock().unwrap_or_else(PoisonError::into_inner);
        pause = patience.saturating_sub(unsent.taken.elapsed());
        if pause.is_zero() {
            unsent.rest = None;
            tracing::debug!("an answer that nobody reads is given up");
            return;
        }
    }
}
