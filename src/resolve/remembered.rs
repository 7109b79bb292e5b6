//! [`Remembered`]: what the catalog said of a caller, for a few seconds, and for as long as the catalog
//! is away.
//!
//! A value counts without asking again for [`TTL`]; so what an operator changes is in force within it.
//! While the catalog cannot be reached, or gives no answer, its last value still counts: tenants and
//! callers that are known stay connected. That there is none is asked again each time.

use std::hash::Hash;
use std::time::Duration;

use moka::future::Cache;

use crate::catalog::{Catalog, CatalogError};

/// How long a value counts without asking again.
const TTL: Duration = Duration::from_secs(5);
/// Most answers that are remembered.
const CAPACITY: u64 = 100_000;

#[derive(Clone)]
pub(super) struct Remembered<K, V> {
    catalog: Catalog,
    fresh: Cache<K, V>,
    /// The last value, for when the catalog is away.
    last_known: Cache<K, V>,
}

impl<K, V> Remembered<K, V>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    pub(super) fn new(catalog: &Catalog) -> Self {
        Self {
            catalog: catalog.clone(),
            fresh: Cache::builder().max_capacity(CAPACITY).time_to_live(TTL).build(),
            last_known: Cache::builder().max_capacity(CAPACITY).build(),
        }
    }

    /// The answer, remembered or from `ask`.
    pub(super) async fn get(
        &self,
        key: K,
        ask: impl Future<Output = Result<Option<V>, CatalogError>>,
    ) -> Result<Option<V>, CatalogError> {
        if let Some(value) = self.fresh.get(&key).await {
            return Ok(Some(value));
        }
        let last = self.last_known.get(&key).await;
        let answer = if last.is_some() { self.catalog.in_time(ask).await } else { ask.await };
        let value = match answer {
            Ok(Some(value)) => value,
            Ok(None) => {
                self.last_known.invalidate(&key).await;
                return Ok(None);
            }
            Err(error) if error.is_transient() => last.ok_or(error)?,
            Err(error) => return Err(error),
        };
        self.fresh.insert(key.clone(), value.clone()).await;
        self.last_known.insert(key, value.clone()).await;
        Ok(Some(value))
    }
}
