//! Rows of `chores`: what any one replica does for all of them, every so often.
//!
//! [`Catalog::chore`](super::lock) keeps two replicas from doing a chore at once; this keeps them from doing it one
//! after the other. Replicas that ask at their own times leave it to the one that began first, for as long as that
//! one lives.

use std::time::Duration;

use super::{Catalog, CatalogError, execute};

impl Catalog {
    /// Whether it is time for a chore: nobody has begun it for this long. Whoever hears so has begun it.
    pub async fn begin_chore(&self, name: &str, every: Duration) -> Result<bool, CatalogError> {
        let begun = execute(
            &self.client().await?,
            "-- chores::begin
             insert into chores as c (name) values ($1)
             on conflict (name) do update set begun_at = now()
             where c.begun_at <= now() - $2::float8 * interval '1 second'",
            &[&name, &every.as_secs_f64()],
        )
        .await?;
        Ok(begun == 1)
    }
}
