//! [`Servers`]: the servers that this replica uses, and its part of the budgets that all replicas share.
//!
//! Each replica says in the catalog from time to time that it lives, and takes an equal part of each
//! server's budget. Who comes, goes or falls silent is heard of by the others, who take their parts anew.
//! While the catalog is away, the last parts count.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::server::Server;
use crate::catalog::Catalog;
use crate::catalog::changes::{Change, Subscription};
use crate::catalog::routers::Shares;

/// How often this replica says that it lives.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);

pub(super) struct Servers {
    /// Of this replica, among those that share.
    id: Uuid,
    catalog: Catalog,
    /// For servers whose budget is not shared.
    budget: usize,
    /// How many replicas share; at least this one.
    routers: Arc<AtomicUsize>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    known: HashMap<Uuid, Arc<Server>>,
    /// This replica's parts of what is shared.
    parts: HashMap<Uuid, usize>,
    names: HashMap<Uuid, String>,
}

impl Servers {
    pub fn new(catalog: Catalog, budget: usize) -> Self {
        let routers = Arc::new(AtomicUsize::new(1));
        Self { id: Uuid::now_v7(), catalog, budget, routers, state: Mutex::default() }
    }

    /// How many replicas share, now and from now on.
    pub fn routers(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.routers)
    }

    pub fn get(&self, id: Uuid) -> Arc<Server> {
        let State { known, parts, .. } = &mut *self.state();
        let budget = parts.get(&id).copied().unwrap_or(self.budget);
        Arc::clone(known.entry(id).or_insert_with(|| Arc::new(Server::new(budget))))
    }

    /// Those in use, by name; by id until the catalog has told it.
    pub fn all(&self) -> Vec<(String, Arc<Server>)> {
        let State { known, names, .. } = &*self.state();
        let name = |id| names.get(id).cloned().unwrap_or_else(|| id.to_string());
        known.iter().map(|(id, server)| (name(id), Arc::clone(server))).collect()
    }

    /// Keeps to this replica's parts until `stop`.
    pub async fn share(self: Arc<Self>, mut news: Subscription, stop: CancellationToken) {
        loop {
            match stop.run_until_cancelled(self.catalog.router_lives(self.id)).await {
                None => return,
                Some(Ok(shares)) => self.keep_to(&shares),
                Some(Err(error)) => tracing::debug!(%error, "the budgets cannot be shared now"),
            }
            let heard =
                async { while !matches!(news.next().await, Change::Routers | Change::Unknown) {} };
            _ = stop.run_until_cancelled(timeout(SIGN_OF_LIFE, heard)).await;
        }
    }

    /// Lets the others have this replica's parts.
    pub async fn give_up_share(&self) {
        if let Err(error) = self.catalog.router_ends(self.id).await {
            tracing::debug!(%error, "the catalog has not heard that this replica ends");
        }
    }

    fn keep_to(&self, shares: &Shares) {
        self.routers.store(shares.routers.max(1), Ordering::Relaxed);
        let part = |budget: usize| (budget / shares.routers.max(1)).max(1);
        let State { known, parts, names } = &mut *self.state();
        let places = &shares.places;
        *names = places.iter().map(|place| (place.id, place.name.clone())).collect();
        *parts = places.iter().filter_map(|it| Some((it.id, part(it.budget?)))).collect();
        for (id, server) in known {
            server.set_budget(parts.get(id).copied().unwrap_or(self.budget));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
