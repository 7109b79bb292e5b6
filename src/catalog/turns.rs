//! The turns of suspensions and resumptions: which of a tenant's operations had the last word on whether it is served.

use super::{CatalogError, TenantLock, one};

/// Where a tenant's suspensions and resumptions stand; zero where there was none.
#[derive(Clone, Copy, Debug)]
pub struct Turns {
    /// The newest turn.
    pub newest: i64,
    /// The newest that another operation took and that was not given up.
    pub others: i64,
}

impl TenantLock {
    /// The turns that operations have taken, as they noted them.
    pub async fn turns(&self) -> Result<Turns, CatalogError> {
        let row = one(
            self.session()?,
            "-- turns::turns
             select coalesce(max(turn), 0),
                    coalesce(max(turn) filter (where id <> $2 and state <> 'cancelled'), 0)
             from (select id, state, (memory -> 'word' ->> 'turn')::bigint as turn
                   from operations where tenant_id = $1 and kind in ('suspend', 'resume')) said",
            &[&self.tenant(), &self.operation()],
        )
        .await?;
        Ok(Turns { newest: row.get(0), others: row.get(1) })
    }
}
