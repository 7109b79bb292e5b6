//! A tenant that is to be made of another one: its row, its operation, and what is done to the data before it opens.

use uuid::Uuid;

use super::operations::{NewOperation, OperationRecord};
use super::tenants::NewTenant;
use super::{Catalog, CatalogError, execute, maybe};

impl Catalog {
    /// [`Catalog::create_tenant`], with masking SQL that is kept until the operation has ended.
    pub async fn create_clone(
        &self,
        id: Uuid,
        new: &NewTenant,
        mask: Option<&str>,
        operation: &NewOperation<'_>,
    ) -> Result<OperationRecord, CatalogError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let record = self.insert_tenant(&transaction, id, new, operation).await?;
        if let Some(mask) = mask {
            execute(
                &transaction,
                "-- clones::keep_mask\ninsert into clone_masks (operation_id, sql) values ($1, $2)",
                &[&record.id, &mask],
            )
            .await?;
        }
        transaction.commit().await?;
        Ok(record)
    }

    /// The masking SQL of a clone that is being made, if it is to be masked.
    pub async fn clone_mask(&self, operation: Uuid) -> Result<Option<String>, CatalogError> {
        let client = self.client().await?;
        let row = maybe(
            &client,
            "-- clones::mask\nselect sql from clone_masks where operation_id = $1",
            &[&operation],
        )
        .await?;
        Ok(row.map(|row| row.get(0)))
    }
}
