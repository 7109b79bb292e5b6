//! [`Tenant`]: the sessions of one tenant that lie idle, and how many there may be.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::resolve::Access;
use crate::router::server::{Opened, Pool, Server, Slot};
use crate::router::{Backend, Meter};
use crate::sql::wire::Wire;
use crate::tenant::EffectiveLimits;

/// The sessions of one tenant in one generation and one place, under the same limits.
pub(super) struct Tenant {
    pub id: Uuid,
    pub generation: i64,
    pub limits: EffectiveLimits,
    pub most: usize,
    pub places: Arc<Semaphore>,
    /// KiB that answers may take until they are read.
    pub unsent: Arc<Semaphore>,
    /// None once the generation is over. The one used last is at the end.
    pub idle: Mutex<Option<Vec<Idle>>>,
    pub server: Arc<Server>,
    pub opened: Opened,
    pub meter: Arc<Meter>,
}

pub(super) struct Idle {
    pub line: Line,
    pub access: Access,
    pub since: Instant,
}

/// A wire, and the right to have it open.
pub(super) struct Line {
    pub wire: Wire,
    /// What answers at the other end.
    pub backend: Backend,
    /// What [`Tenant::schema`](crate::tenant::Tenant::schema) was when its statements were prepared.
    pub schema: (i64, i64),
    pub _slot: Slot,
}

impl Pool for Tenant {
    fn tenant(&self) -> Uuid {
        self.id
    }

    fn opened(&self) -> &Opened {
        &self.opened
    }

    fn idle(&self) -> usize {
        self.lock_idle().as_ref().map_or(0, Vec::len)
    }

    fn idle_since(&self) -> Option<Instant> {
        self.lock_idle().as_ref()?.first().map(|session| session.since)
    }

    fn close_oldest(&self) -> bool {
        let mut idle = self.lock_idle();
        let oldest = idle.as_mut().filter(|idle| !idle.is_empty()).map(|idle| idle.remove(0));
        oldest.is_some()
    }

    fn close_idle(&self, timeout: Duration) {
        if let Some(idle) = self.lock_idle().as_mut() {
            idle.retain(|session| session.since.elapsed() < timeout);
        }
    }
}

impl Tenant {
    /// An idle session. Without one, makes sure that there is room for another.
    pub fn take(&self, access: Access) -> Option<Line> {
        let mut idle = self.lock_idle();
        let idle = idle.as_mut()?;
        if let Some(at) = idle.iter().rposition(|session| session.access == access) {
            return Some(idle.remove(at).line);
        }
        // What is idle is of the other access. The session to come counts as in use already.
        let used = self.most - self.places.available_permits();
        idle.drain(..(idle.len() + used).saturating_sub(self.most).min(idle.len()));
        None
    }

    /// Closes what is idle now, and whatever comes back later.
    pub fn close(&self) {
        self.lock_idle().take();
    }

    pub fn lock_idle(&self) -> MutexGuard<'_, Option<Vec<Idle>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
