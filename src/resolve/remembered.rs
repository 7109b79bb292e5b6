//! [`Remembered`]: what the catalog said of a caller, for a few seconds, and for as long as the catalog
//! is away.
//!
//! A value counts for a time without asking again; so what an operator changes is in force within it. However many
//! want the same, the catalog is asked once at a time. While it cannot be reached, or gives no answer, its last value
//! still counts: tenants and callers that are known stay connected. That there is none is asked again each time.

use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use moka::future::Cache;

use super::ResolveError;
use crate::catalog::{Catalog, CatalogError};

/// How long a value usually counts without asking again.
pub(super) const TTL: Duration = Duration::from_secs(5);
/// Most answers that are remembered.
const CAPACITY: u64 = 100_000;

#[derive(Clone)]
pub(super) struct Remembered<K, V> {
    catalog: Catalog,
    fresh: Cache<K, V>,
    /// The last value, for when the catalog is away.
    last_known: Cache<K, V>,
}

/// Why there is no value, for all who wait for it.
enum Without {
    Value,
    Answer(Arc<CatalogError>),
}

impl<K, V> Remembered<K, V>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    pub(super) fn new(catalog: &Catalog, ttl: Duration) -> Self {
        Self {
            catalog: catalog.clone(),
            fresh: Cache::builder().max_capacity(CAPACITY).time_to_live(ttl).build(),
            last_known: Cache::builder().max_capacity(CAPACITY).build(),
        }
    }

    /// The answer, remembered or from `ask`.
    pub(super) async fn get(
        &self,
        key: K,
        ask: impl Future<Output = Result<Option<V>, CatalogError>>,
    ) -> Result<Option<V>, ResolveError> {
        let asked = self.ask(&key, ask);
        let answer = self.fresh.try_get_with(key.clone(), asked).await;
        answer.map(Some).or_else(|without| match &*without {
            Without::Value => Ok(None),
            Without::Answer(error) => Err(ResolveError::Catalog(Arc::clone(error))),
        })
    }

    async fn ask(
        &self,
        key: &K,
        ask: impl Future<Output = Result<Option<V>, CatalogError>>,
    ) -> Result<V, Without> {
        let last = self.last_known.get(key).await;
        let answer = if last.is_some() { self.catalog.in_time(ask).await } else { ask.await };
        match answer {
            Ok(Some(value)) => {
                self.last_known.insert(key.clone(), value.clone()).await;
                Ok(value)
            }
            Ok(None) => {
                self.last_known.invalidate(key).await;
                Err(Without::Value)
            }
            Err(error) => {
                let last = last.filter(|_| error.is_transient());
                last.ok_or_else(|| Without::Answer(Arc::new(error)))
            }
        }
    }
}
