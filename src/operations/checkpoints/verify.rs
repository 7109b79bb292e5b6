//! Verifying the audit log: the chain made once more from what the entries say, and held against the checkpoints.
//!
//! What is found is named by the id of its entry, which is what `tenantry audit-log` shows.

use std::collections::{BTreeMap, HashMap, HashSet};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::Serialize;
use tenantry_backup::{BackupStore, DocumentError};

use super::{Checkpoint, CheckpointError, Environment, StepError, key_number};
use crate::catalog::audit_log::chain::{BEGINNING, Found, Hash, Link, Loose};

/// How many checkpoints are read at a time.
const READERS: usize = 8;
/// How many breaches are told.
const MOST: usize = 1_000;

/// What a verification looked at, and what it found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Verification {
    /// Whether nothing was found.
    pub good: bool,
    /// Entries that were looked at.
    pub entries: u64,
    /// The first link; greater than 1 where a retention has removed what was before.
    pub first: i64,
    /// The last link.
    pub last: i64,
    /// Checkpoints that agree; none where there is no bucket to hold any.
    pub checkpoints: Option<u64>,
    /// Up to this link the checkpoints vouch for the log.
    pub vouched_to: i64,
    /// What is wrong.
    pub breaches: Vec<Breach>,
    /// How much more of that there is.
    pub more: u64,
}

/// Something that was done to the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Breach {
    /// What was done.
    pub kind: BreachKind,
    /// The id of the entry, where there is one.
    pub entry: Option<i64>,
    /// In words.
    pub what: String,
}

/// What may be done to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BreachKind {
    /// An entry says something else than it did.
    Altered,
    /// An entry is gone.
    Removed,
    /// An entry came otherwise than by the catalog.
    Inserted,
    /// An entry stands in the place of another.
    Reordered,
    /// A link does not follow the one before it.
    Broken,
    /// The chain was made anew, with what it holds.
    Rewritten,
    /// A checkpoint is none, or somebody else's.
    Checkpoint,
}

/// The walk along the chain.
struct Walk {
    public_key: String,
    /// Numbers of checkpoints, whose links are remembered.
    wanted: HashSet<i64>,
    hashes: HashMap<i64, Vec<u8>>,
    verification: Verification,
    last: Option<Link>,
    /// The digest of the one before that.
    before_last: Option<Vec<u8>>,
    /// By how much links have other numbers than they were made with.
    shift: i64,
    /// Entries that say something else than they did: what they did, and what they do.
    altered: Vec<(Link, Found)>,
    /// The end of what a retention has removed, as its notes have it.
    removed_to: HashSet<(i64, Hash)>,
    /// Where the chain begins, if not at its beginning.
    anchor: Option<(i64, Vec<u8>)>,
}

impl Environment {
    /// Verifies the audit log against the checkpoints that the holder of a public key signed; without one, against
    /// those that this catalog's own key signed, and then others are a breach.
    pub async fn verify_audit_log(
        &self,
        public_key: Option<&str>,
    ) -> Result<Verification, StepError> {
        let own = match public_key {
            Some(key) => key.trim().to_ascii_lowercase(),
            None => self.catalog.certificate_key().await?.public(),
        };
        // First of all: what is written meanwhile has no checkpoint among these.
        let checkpoints = match &self.store {
            Some(store) => Some(read_checkpoints(store, &own).await?),
            None => None,
        };
        let numbers = checkpoints.iter().flat_map(BTreeMap::keys).copied().collect();
        let mut walk = Walk::new(own, numbers);
        let loose = self.catalog.walk_audit_chain(|link| walk.look(link)).await?;
        let (mut verification, hashes) = walk.end(loose);
        if let Some(checkpoints) = checkpoints {
            verification.hold_against(checkpoints, &hashes, public_key.is_some());
        }
        verification.good = verification.breaches.is_empty();
        Ok(verification)
    }
}

type Checkpoints = BTreeMap<i64, Result<Checkpoint, CheckpointError>>;

async fn read_checkpoints(store: &BackupStore, key: &str) -> Result<Checkpoints, StepError> {
    let numbers = store.checkpoints().await?;
    let numbers = numbers.into_iter().filter_map(|(number, _)| i64::try_from(number).ok());
    let read = |number: i64| async move {
        let body = store.get_checkpoint(key_number(number)).await?;
        let read = Checkpoint::read(&body, key);
        // One that was copied to another name says nothing about that.
        let fits = |checkpoint: &Checkpoint| checkpoint.end.number == number;
        let read = read.and_then(|checkpoint| {
            fits(&checkpoint).then_some(checkpoint).ok_or(CheckpointError::Unreadable)
        });
        Ok::<_, StepError>((number, read))
    };
    stream::iter(numbers).map(read).buffered(READERS).try_collect().await
}

impl Walk {
    fn new(public_key: String, wanted: HashSet<i64>) -> Self {
        Self {
            public_key,
            wanted,
            hashes: HashMap::new(),
            verification: Verification::default(),
            last: None,
            before_last: None,
            shift: 0,
            altered: Vec::new(),
            removed_to: HashSet::new(),
            anchor: None,
        }
    }

    fn look(&mut self, link: Link) {
        self.look_back(&link);
        match &link.found {
            // The retention leaves the link, and not its entry.
            None if self.anchor.as_ref().is_some_and(|(number, _)| *number == link.number) => {}
            None => {
                let what = format!("entry {} is gone", link.entry);
                self.breach(BreachKind::Removed, Some(link.entry), what);
            }
            Some(found) => {
                self.verification.entries += 1;
                if found.content.as_slice() != link.content {
                    self.altered.push((link.clone(), found.clone()));
                }
                if found.action == "audit_log.pruned"
                    && let Ok(note) = Checkpoint::of_retention(&found.detail, &self.public_key)
                {
                    self.removed_to.insert((note.end.number, note.end.hash));
                }
            }
        }
        if self.wanted.contains(&link.number) {
            self.hashes.insert(link.number, link.hash.clone());
        }
        self.verification.last = link.number;
        self.before_last = self.last.take().map(|last| last.hash);
        self.last = Some(link);
    }

    /// Whether a link follows what was before it.
    fn look_back(&mut self, link: &Link) {
        let Some(last) = &self.last else {
            self.verification.first = link.number;
            if link.number != 1 {
                self.anchor = Some((link.number, link.hash.clone()));
            } else if link.after(&BEGINNING, 1) != *link.hash {
                self.broken(link);
            }
            return;
        };
        let (number, hash, entry) = (last.number, &last.hash, last.entry);
        if link.number != number + 1 {
            // What it follows is gone, so nobody knows whether it does.
            self.removed_between(number + 1, link.number - 1);
        } else if let Some(shift) = self.shift_after(link, hash) {
            self.shift = shift;
        } else if let Some(shift) =
            self.before_last.as_ref().and_then(|h| self.shift_after(link, h))
        {
            self.shift = shift;
            let what = format!("entry {entry} was inserted: without its link the chain is whole");
            self.breach(BreachKind::Inserted, Some(entry), what);
        } else {
            self.broken(link);
        }
    }

    /// Whether a link follows one with this digest, under the number that it was made with; returns by how much it
    /// has another now.
    fn shift_after(&self, link: &Link, before: &[u8]) -> Option<i64> {
        let shifts = [self.shift, self.shift + 1, self.shift - 1];
        shifts.into_iter().find(|shift| link.after(before, link.number - shift) == *link.hash)
    }

    fn broken(&mut self, link: &Link) {
        let what = format!(
            "link {} of the chain, which holds entry {}, does not follow the one before it: one of them was altered, or \
             what was between them is gone",
            link.number, link.entry
        );
        self.breach(BreachKind::Broken, Some(link.entry), what);
    }

    /// What can be told only at the end. Returns the links that checkpoints tell of, too.
    fn end(mut self, loose: Vec<Loose>) -> (Verification, HashMap<i64, Vec<u8>>) {
        let altered = std::mem::take(&mut self.altered);
        for (Link { entry, content, .. }, Found { actor, action, at, .. }) in &altered {
            let now = format!("now it says: {action} by {actor} at {at}");
            let moved = altered.iter().find(|(_, other)| other.content.as_slice() == content);
            let (kind, what) = match moved {
                Some((other, _)) => {
                    let what =
                        format!("what entry {entry} said stands in entry {}; {now}", other.entry);
                    (BreachKind::Reordered, what)
                }
                None => (BreachKind::Altered, format!("entry {entry} was altered; {now}")),
            };
            self.breach(kind, Some(*entry), what);
        }
        for Loose { entry, actor, action, at } in loose {
            let what = format!(
                "entry {entry} ({action} by {actor} at {at}) is in no link: it was inserted by hand"
            );
            self.breach(BreachKind::Inserted, Some(entry), what);
        }
        if let Some((number, hash)) = &self.anchor
            && !self.removed_to.iter().any(|(to, known)| to == number && known.as_slice() == hash)
        {
            let what = format!(
                "the log begins with link {number}, and no note of a retention says that what was before it was \
                 removed in order"
            );
            self.breach(BreachKind::Removed, None, what);
        }
        (self.verification, self.hashes)
    }

    fn removed_between(&mut self, from: i64, to: i64) {
        let what = if from == to {
            format!("link {from} of the chain is gone, with its entry")
        } else {
            format!("links {from} to {to} of the chain are gone, with their entries")
        };
        self.breach(BreachKind::Removed, None, what);
    }

    fn breach(&mut self, kind: BreachKind, entry: Option<i64>, what: String) {
        self.verification.breach(kind, entry, what);
    }
}

impl Verification {
    /// Holds the links that were found against the checkpoints. Who was told which key to trust passes over what
    /// others have signed.
    fn hold_against(
        &mut self,
        checkpoints: Checkpoints,
        hashes: &HashMap<i64, Vec<u8>>,
        key_is_told: bool,
    ) {
        let (mut agree, mut foreign, mut beyond, mut rewritten) = (0, 0_u64, None, None);
        for (number, read) in checkpoints {
            match read {
                Ok(checkpoint) if number > self.last => beyond = Some(checkpoint),
                Ok(checkpoint) => match hashes.get(&number) {
                    Some(hash) if *hash == checkpoint.end.hash => {
                        agree += 1;
                        self.vouched_to = number;
                    }
                    Some(_) => rewritten = rewritten.or(Some(checkpoint)),
                    // Behind the retention, or told of as removed.
                    None => {}
                },
                Err(CheckpointError::Signature(DocumentError::OtherKey { .. })) => foreign += 1,
                Err(error) => {
                    let what = format!("checkpoint {number} in the bucket says nothing: {error}");
                    self.breach(BreachKind::Checkpoint, None, what);
                }
            }
        }
        self.checkpoints = Some(agree);
        if let Some(Checkpoint { end, at }) = rewritten {
            let (from, to) = (self.vouched_to.min(end.number - 1) + 1, end.number);
            let what = format!(
                "the chain was made anew: at {at} its link {to} had another digest, so what links {from} to {to} hold \
                 is not what was written"
            );
            self.breach(BreachKind::Rewritten, None, what);
        }
        if let Some(Checkpoint { end, at }) = beyond {
            let (last, number) = (self.last, end.number);
            let what = format!(
                "the end is gone: at {at} the chain went on to link {number}, and now it ends with link {last}"
            );
            self.breach(BreachKind::Removed, None, what);
        }
        if foreign > 0 && !key_is_told {
            let foreign = match foreign {
                1 => "1 checkpoint in the bucket was".to_owned(),
                number => format!("{number} checkpoints in the bucket were"),
            };
            let what = format!(
                "{foreign} signed with another key: this catalog took the place of \
                 another one, or somebody gave it another key; say with --public-key whom you trust"
            );
            self.breach(BreachKind::Checkpoint, None, what);
        }
    }

    fn breach(&mut self, kind: BreachKind, entry: Option<i64>, what: String) {
        if self.breaches.len() < MOST {
            self.breaches.push(Breach { kind, entry, what });
        } else {
            self.more += 1;
        }
    }
}
