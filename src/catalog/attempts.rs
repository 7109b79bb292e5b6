//! Rows of `registration_attempts`: a limit on how often somebody may try, which all replicas keep
//! together.

use std::time::Duration;

use deadpool_postgres::GenericClient;

use super::{Catalog, CatalogError, execute, one};

impl Catalog {
    /// Counts an attempt under each key, unless one of them has had `limit` of them within `window`:
    /// then it says how long to wait. Replicas count together.
    pub async fn count_attempt(
        &self,
        keys: &[Vec<u8>],
        limit: i64,
        window: Duration,
    ) -> Result<Option<Duration>, CatalogError> {
        let seconds = window.as_secs_f64();
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let mut keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
        // Always in the same order, or two requests could wait for each other.
        keys.sort_unstable();
        for key in &keys {
            lock(&transaction, key).await?;
        }
        let row = one(
            &transaction,
            "-- registrations::attempts
             select max($3::float8 - extract(epoch from now() - a.at)::float8) as wait
             from unnest($1::bytea[]) k (key)
             cross join lateral (
                 select at from registration_attempts
                 where key = k.key and at > now() - make_interval(secs => $3::float8)
                 order by at desc offset $2::bigint - 1 limit 1
             ) a",
            &[&keys, &limit, &seconds],
        )
        .await?;
        if let Some(wait) = row.get::<_, Option<f64>>("wait") {
            return Ok(Some(Duration::from_secs_f64(wait.max(1.0))));
        }
        execute(
            &transaction,
            "-- registrations::count_attempt
             with old as (
                 delete from registration_attempts where at < now() - make_interval(secs => $2::float8)
             )
             insert into registration_attempts (key) select unnest($1::bytea[])",
            &[&keys, &seconds],
        )
        .await?;
        transaction.commit().await?;
        Ok(None)
    }
}

/// Held until the transaction ends.
pub(super) async fn lock(client: &impl GenericClient, key: &[u8]) -> Result<(), CatalogError> {
    execute(
        client,
        "-- registrations::lock
         select pg_advisory_xact_lock(hashtextextended(encode($1, 'hex'), 1))",
        &[&key],
    )
    .await
    .map(drop)
}
