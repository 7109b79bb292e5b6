//! What a bucket with versioning keeps of objects that were replaced or deleted.

use crate::object_key::ObjectKey;
use crate::store::StoreError;

use super::{S3, failure};

impl S3 {
    /// Deletes every version but the present one of the manifests below `prefix`. A store that cannot list
    /// versions has none.
    pub(in crate::store) async fn forget_versions(&self, prefix: &str) -> Result<(), StoreError> {
        let attempt = self.attempt("a listing of versions", prefix);
        let (mut key_marker, mut id_marker) = (None, None);
        let mut old = Vec::new();
        loop {
            let page = self
                .client
                .list_object_versions()
                .bucket(&self.bucket)
                .prefix(self.full(prefix))
                .set_key_marker(key_marker)
                .set_version_id_marker(id_marker)
                .send();
            let page = match page.await {
                Err(error) if failure::is_not_implemented(&error) => {
                    tracing::debug!("the store cannot list versions");
                    return Ok(());
                }
                page => page.map_err(|error| attempt.failed(&error))?,
            };
            for version in page.versions.unwrap_or_default() {
                if version.is_latest == Some(true) {
                    continue;
                }
                if let (Some(key), Some(id)) = (version.key, version.version_id)
                    && self.is_manifest(&key)
                {
                    old.push((key, id));
                }
            }
            if page.is_truncated != Some(true) || page.next_key_marker.is_none() {
                break;
            }
            (key_marker, id_marker) = (page.next_key_marker, page.next_version_id_marker);
        }
        for (key, id) in old {
            self.delete_version(&key, &id).await?;
        }
        Ok(())
    }

    /// Deletes one version for good. Takes the full key.
    async fn delete_version(&self, full_key: &str, id: &str) -> Result<(), StoreError> {
        let request =
            self.client.delete_object().bucket(&self.bucket).key(full_key).version_id(id).send();
        let attempt = self.attempt("a delete of a version", full_key);
        match request.await.map_err(|error| attempt.failed(&error)) {
            Err(StoreError::NotFound { .. }) | Ok(_) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn is_manifest(&self, full_key: &str) -> bool {
        let key = full_key.strip_prefix(&self.prefix).and_then(ObjectKey::parse);
        key.is_some_and(|key| key.is_manifest())
    }
}
