//! Checkpoints of the audit log: its end, signed, in the bucket, where who owns the catalog cannot change it.
//!
//! The chain shows that an entry was altered as long as nobody makes the whole chain anew; a checkpoint shows also
//! that. So what was written since the last one is only as good as the catalog. A checkpoint follows every few
//! minutes in which something was written; of days that are over, the first one stays.
//!
//! A retention removes the oldest entries, and only up to a checkpoint. It writes an entry that says so, with a
//! signed note in it of the link with which the chain begins now: nobody else can say that what is missing was
//! removed in order.

use std::collections::HashSet;
use std::time::Duration;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};
use serde_json::{Value, json};
use tenantry_backup::{DocumentError, sign_document, verify_document};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{Environment, StepError};
use crate::catalog::audit_log::Event;
use crate::catalog::audit_log::chain::{ChainEnd, Hash};

pub mod verify;

/// How often to look.
const PAUSE: Duration = Duration::from_secs(20);
/// How old the newest may become while something is written.
const EVERY: Duration = Duration::from_mins(5);
/// What the signatures are for.
const CHECKPOINT: &str = "audit checkpoint";
const RETENTION: &str = "audit retention";
/// The form of what is signed.
const FORMAT: u32 = 1;
/// Who removes what is older than it is to be.
const CLOCK: &str = "audit retention";

impl Environment {
    /// Makes a checkpoint if one is due: something was written since the last one, which is older than this.
    pub async fn make_checkpoint(&self, every: Duration) -> Result<Option<i64>, StepError> {
        let store = self.store()?;
        let Some(end) = self.catalog.checkpoint_due(every.as_secs_f64()).await? else {
            return Ok(None);
        };
        let key = self.catalog.certificate_key().await?;
        let mut document = statement(&end);
        sign_document(CHECKPOINT, &mut document, &key);
        store.put_checkpoint(key_number(end.number), document.to_string().into()).await?;
        self.catalog.checkpoint_stored(end.number).await?;
        let known = store.checkpoints().await?;
        for number in superfluous(&known, Timestamp::now()) {
            store.delete_checkpoint(number).await?;
        }
        Ok(Some(end.number))
    }

    /// Removes entries of the audit log that are older than this, up to a checkpoint. Returns how many.
    pub async fn prune_audit_log(&self, keep: Duration) -> Result<u64, StepError> {
        let store = self.store()?;
        let before = Timestamp::now() - keep;
        let Some((first, newest)) = self.catalog.audit_chain_before(before).await? else {
            return Ok(0);
        };
        let known = store.checkpoints().await?;
        let numbers = known.iter().filter_map(|(number, _)| i64::try_from(*number).ok());
        let Some(through) = numbers.filter(|number| (first + 1..=newest).contains(number)).max()
        else {
            return Ok(0);
        };
        let Some(hash) = self.catalog.audit_chain_hash(through).await? else { return Ok(0) };
        let key = self.catalog.certificate_key().await?;
        // What the checkpoint says must be what is there: the evidence of a forgery is not to be removed.
        let end = ChainEnd { number: through, hash };
        let body = store.get_checkpoint(key_number(through)).await?;
        if !Checkpoint::read(&body, &key.public()).is_ok_and(|checkpoint| checkpoint.end == end) {
            return Err(StepError::fail(
                "the audit log is not what its checkpoint says, so nothing of it is removed",
                "run `tenantry audit-log verify`, and find out who changed the catalog",
            ));
        }
        let mut note = statement(&end);
        sign_document(RETENTION, &mut note, &key);
        let detail = json!({ "older_than": before, "note": note });
        let event = Event { actor: CLOCK, action: "audit_log.pruned", tenant: None, detail };
        let removed = self.catalog.remove_audit_entries(through, &event).await?;
        for (number, _) in known.iter().filter(|(number, _)| *number < key_number(through)) {
            store.delete_checkpoint(*number).await?;
        }
        Ok(removed)
    }
}

/// Makes checkpoints, and keeps to the retention, until `shutdown`.
pub async fn run(environment: Environment, shutdown: CancellationToken) {
    if environment.store.is_none() {
        return;
    }
    // Not at once: a replica that has just begun has more urgent work.
    while shutdown.run_until_cancelled(sleep(PAUSE)).await.is_some() {
        let round = environment.catalog.chore("audit checkpoint", round(&environment));
        match shutdown.run_until_cancelled(Box::pin(round)).await {
            None => return,
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                tracing::warn!(%error, "the audit log has no new checkpoint; it will be tried again");
            }
        }
    }
}

async fn round(environment: &Environment) -> Result<(), StepError> {
    let made = environment.make_checkpoint(EVERY).await?;
    if let Some(keep) = environment.limits.audit_retention
        && made.is_some()
    {
        let removed = environment.prune_audit_log(keep).await?;
        if removed > 0 {
            tracing::info!(removed, "the oldest entries of the audit log are removed");
        }
    }
    Ok(())
}

/// The end of the chain as it was at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Up to where the chain had come.
    pub end: ChainEnd,
    /// When.
    pub at: Timestamp,
}

/// Why a checkpoint says nothing.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// It is none.
    #[error("it cannot be read")]
    Unreadable,
    /// It is not what the holder of the key signed.
    #[error(transparent)]
    Signature(#[from] DocumentError),
}

impl Checkpoint {
    /// Reads a checkpoint that the holder of this public key signed.
    pub fn read(bytes: &[u8], public_key: &str) -> Result<Self, CheckpointError> {
        let document = serde_json::from_slice(bytes).map_err(|_| CheckpointError::Unreadable)?;
        signed(CHECKPOINT, &document, public_key)
    }

    /// Reads the note that a retention left, from the detail of its entry.
    pub fn of_retention(detail: &Value, public_key: &str) -> Result<Self, CheckpointError> {
        signed(RETENTION, &detail["note"], public_key)
    }
}

fn signed(
    purpose: &str,
    document: &Value,
    public_key: &str,
) -> Result<Checkpoint, CheckpointError> {
    verify_document(purpose, document, public_key)?;
    let read = || {
        let hash = hex::decode(document["hash"].as_str()?).ok()?;
        let hash: Hash = hash.try_into().ok()?;
        let end = ChainEnd { number: document["number"].as_i64()?, hash };
        Some(Checkpoint { end, at: document["at"].as_str()?.parse().ok()? })
    };
    read().ok_or(CheckpointError::Unreadable)
}

fn statement(end: &ChainEnd) -> Value {
    json!({
        "format": FORMAT, "number": end.number, "hash": hex::encode(end.hash), "at": Timestamp::now(),
    })
}

/// Numbers of links are positive.
fn key_number(number: i64) -> u64 {
    number.unsigned_abs()
}

/// Of the days that are over, every checkpoint but the first.
fn superfluous(known: &[(u64, Timestamp)], now: Timestamp) -> Vec<u64> {
    let day = |at: Timestamp| -> Date { at.to_zoned(TimeZone::UTC).date() };
    let recent = now - 24.hours();
    let mut days = HashSet::new();
    let kept = |(_, at): &&(u64, Timestamp)| *at >= recent || days.insert(day(*at));
    let kept: HashSet<u64> = known.iter().filter(kept).map(|(number, _)| *number).collect();
    known.iter().map(|(number, _)| *number).filter(|number| !kept.contains(number)).collect()
}

#[cfg(test)]
mod tests {
    use tenantry_backup::CertificateKey;

    use super::*;

    #[test]
    fn of_days_that_are_over_one_checkpoint_stays() {
        let now: Timestamp = "2026-03-03T12:00:00Z".parse().unwrap();
        let at = |text: &str| -> Timestamp { text.parse().unwrap() };
        let known = [
            (1, at("2026-03-01T00:00:00Z")),
            (2, at("2026-03-01T23:59:59Z")),
            (3, at("2026-03-02T00:05:00Z")),
            (4, at("2026-03-02T11:00:00Z")),
            (5, at("2026-03-02T12:30:00Z")),
            (6, at("2026-03-03T11:59:00Z")),
        ];

        assert_eq!(superfluous(&known, now), [2, 4]);
        assert!(superfluous(&[], now).is_empty());
    }

    #[test]
    fn a_checkpoint_is_what_was_signed_and_no_note_of_a_retention() {
        let key = CertificateKey::generate();
        let end = ChainEnd { number: 7, hash: [3; 32] };
        let mut document = statement(&end);
        sign_document(CHECKPOINT, &mut document, &key);

        let read = Checkpoint::read(document.to_string().as_bytes(), &key.public()).unwrap();

        assert_eq!(read.end, end);
        let note = json!({ "note": document });
        assert!(Checkpoint::of_retention(&note, &key.public()).is_err());
        document["number"] = json!(8);
        assert!(Checkpoint::read(document.to_string().as_bytes(), &key.public()).is_err());
        assert!(Checkpoint::read(b"{", &key.public()).is_err());
    }
}
