//! Requests that come again, by their `Idempotency-Key`.

use super::Requester;
use crate::catalog::CatalogError;
use crate::catalog::operations::OperationRecord;
use crate::operations::Environment;

impl Environment {
    /// The same request may have come a moment before, by another way.
    pub(in crate::operations) async fn or_earlier(
        &self,
        asked: Result<OperationRecord, CatalogError>,
        by: Requester<'_>,
    ) -> Result<OperationRecord, CatalogError> {
        match asked {
            Err(error @ CatalogError::Exists { .. }) => match by.idempotency_key {
                Some(key) => self.catalog.operation_by_key(key).await?.ok_or(error),
                None => Err(error),
            },
            other => other,
        }
    }

    /// What the same request asked for before. Its key is for no other kind of request.
    pub(in crate::operations) async fn earlier(
        &self,
        by: Requester<'_>,
        kind: &str,
    ) -> Result<Option<OperationRecord>, CatalogError> {
        let Some(key) = by.idempotency_key else { return Ok(None) };
        match self.catalog.operation_by_key(key).await? {
            Some(earlier) if earlier.kind != kind => Err(key_reused()),
            earlier => Ok(earlier),
        }
    }
}

/// The key came with another request before.
pub(super) fn key_reused() -> CatalogError {
    CatalogError::Conflict(
        "this Idempotency-Key was used for another request; choose a new key".to_owned(),
    )
}
