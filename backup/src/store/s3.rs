//! Objects in an S3 bucket, or in one of anything that speaks S3's protocol.
//!
//! Every request has a deadline and the SDK's standard retries. Checksums are the SDK's default
//! (CRC32), declared on multipart uploads too, since some servers refuse them otherwise.

mod download;
mod failure;
mod protected;
mod upload;
mod versions;

use std::time::Duration;

use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::Credentials;
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::ObjectLockLegalHoldStatus;
use bytes::Bytes;
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use uuid::Uuid;

use self::failure::Attempt;
use super::protection::{ObjectLock, ServerEncryption};
use super::{MAX_SMALL_OBJECT_BYTES, ObjectReader, RawObject, StoreError};
use crate::object_key::parse_id;

/// Stores without regions of their own accept this one, and signatures need one.
const USUAL_REGION: &str = "us-east-1";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// One attempt at one request; uploads of parts have a longer one of their own.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_ATTEMPTS: u32 = 4;
/// How long an upload may stand still.
const STALL_GRACE: Duration = Duration::from_secs(20);

/// Which bucket, and how to reach it. `Debug` redacts the secret.
#[derive(Debug, Clone)]
pub struct S3Settings {
    /// The bucket; it has to exist.
    pub bucket: String,
    /// What every key begins with, without slashes at its ends; empty for none.
    pub prefix: String,
    /// The URL of a store other than AWS.
    pub endpoint: Option<String>,
    /// The region; without it, the environment's, then the AWS profile's (or `us-east-1` with an
    /// endpoint).
    pub region: Option<String>,
    /// Whether the bucket goes into the path instead of the host name; most stores but AWS want it.
    pub force_path_style: bool,
    /// Access key and secret; without them, the AWS chain (environment, profile, container, instance).
    pub credentials: Option<(String, SecretString)>,
    /// How long the bucket is to hold what is of a backup.
    pub object_lock: Option<ObjectLock>,
    /// With what the store is to encrypt what it keeps.
    pub encryption: Option<ServerEncryption>,
}

#[derive(Clone)]
pub(super) struct S3 {
    client: Client,
    bucket: String,
    /// Empty, or ends in a slash.
    prefix: String,
    endpoint: Option<String>,
    object_lock: Option<ObjectLock>,
    encryption: Option<ServerEncryption>,
}

impl S3 {
    pub(super) async fn new(settings: S3Settings) -> Result<Self, StoreError> {
        if settings.bucket.is_empty() {
            return Err(StoreError::Settings { reason: "the bucket has no name" });
        }
        if settings.endpoint.as_deref().is_some_and(|endpoint| endpoint.contains('@')) {
            return Err(StoreError::Settings { reason: "the endpoint must not carry credentials" });
        }
        let regions = RegionProviderChain::first_try(settings.region.map(Region::new));
        let regions = match settings.endpoint {
            // The rest of the AWS chain would ask the instance's metadata service, off AWS in vain.
            Some(_) => regions
                .or_else(EnvironmentVariableRegionProvider::new())
                .or_else(Region::from_static(USUAL_REGION)),
            None => regions.or_default_provider(),
        };
        let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
            .region(regions)
            .retry_config(RetryConfig::standard().with_max_attempts(MAX_ATTEMPTS))
            .timeout_config(timeouts(ATTEMPT_TIMEOUT))
            .stalled_stream_protection(
                StalledStreamProtectionConfig::enabled()
                    .upload_enabled(true)
                    // A reader that is slow for a good reason, such as `pg_restore` building an index,
                    // is no stalled stream. `download` has a deadline of its own.
                    .download_enabled(false)
                    .grace_period(STALL_GRACE)
                    .build(),
            );
        if let Some((access_key, secret)) = settings.credentials {
            let secret = secret.expose_secret().to_owned();
            loader = loader
                .credentials_provider(Credentials::new(access_key, secret, None, None, "settings"));
        }
        if let Some(endpoint) = &settings.endpoint {
            loader = loader.endpoint_url(endpoint);
        }
        let shared = loader.load().await;
        if shared.region().is_none() {
            return Err(StoreError::Settings { reason: "no region is set, and none was found" });
        }
        let config = aws_sdk_s3::config::Builder::from(&shared)
            .force_path_style(settings.force_path_style)
            .build();
        let prefix = settings.prefix.trim_matches('/');
        Ok(Self {
            client: Client::from_conf(config),
            bucket: settings.bucket,
            prefix: if prefix.is_empty() { String::new() } else { format!("{prefix}/") },
            endpoint: settings.endpoint,
            object_lock: settings.object_lock,
            encryption: settings.encryption,
        })
    }

    pub(super) fn describe(&self) -> String {
        let place = format!("s3://{}/{}", self.bucket, self.prefix);
        let place = place.trim_end_matches('/');
        match &self.endpoint {
            Some(endpoint) => format!("{place} at {endpoint}"),
            None => place.to_owned(),
        }
    }

    /// Says clearly that the bucket is missing, which a write does not do everywhere.
    pub(super) async fn require_bucket(&self) -> Result<(), StoreError> {
        let found = self.client.head_bucket().bucket(&self.bucket).send().await;
        match found.map_err(|error| self.attempt("a look at the bucket", "").failed(&error)) {
            Err(StoreError::NotFound { .. }) => {
                Err(StoreError::NoSuchBucket { place: format!("s3://{}", self.bucket) })
            }
            // The answer has no body to say why; the next request's has.
            Err(StoreError::Denied { .. }) => Ok(()),
            found => found.map(drop),
        }
    }

    pub(super) async fn put(&self, key: &str, body: Bytes) -> Result<(), StoreError> {
        let deadline = upload::attempt_timeout(body.len());
        let protected = self.protected(key);
        self.client
            .put_object()
            .bucket(&self.bucket)
            .key(self.full(key))
            .set_object_lock_mode(protected.mode)
            .set_object_lock_retain_until_date(protected.until)
            .set_server_side_encryption(protected.encryption)
            .set_ssekms_key_id(protected.key_id)
            .body(ByteStream::from(body))
            .customize()
            .config_override(aws_sdk_s3::config::Builder::new().timeout_config(timeouts(deadline)))
            .send()
            .await
            .map_err(|error| self.attempt("a write", key).failed(&error))?;
        Ok(())
    }

    pub(super) async fn get(&self, key: &str) -> Result<Bytes, StoreError> {
        let too_large =
            || StoreError::TooLarge { key: key.to_owned(), limit: MAX_SMALL_OBJECT_BYTES };
        let attempt = self.attempt("a read", key);
        let found = self.client.get_object().bucket(&self.bucket).key(self.full(key)).send();
        let found = found.await.map_err(|error| attempt.failed(&error))?;
        let mut body = found.body;
        let mut whole = Vec::new();
        let read = async {
            while let Some(chunk) = body.try_next().await.map_err(|error| attempt.broken(error))? {
                whole.extend_from_slice(&chunk);
                if whole.len() as u64 > MAX_SMALL_OBJECT_BYTES {
                    return Err(too_large());
                }
            }
            Ok(())
        };
        tokio::time::timeout(ATTEMPT_TIMEOUT, read)
            .await
            .unwrap_or_else(|_| Err(attempt.timed_out(ATTEMPT_TIMEOUT)))?;
        Ok(whole.into())
    }

    pub(super) async fn open(&self, key: &str) -> Result<ObjectReader, StoreError> {
        download::open(self.clone(), key.to_owned()).await
    }

    pub(super) async fn list(&self, prefix: &str) -> Result<Vec<RawObject>, StoreError> {
        let attempt = self.attempt("a listing", prefix);
        let mut pages = self
            .client
            .list_objects_v2()
            .bucket(&self.bucket)
            .prefix(self.full(prefix))
            .into_paginator()
            .send();
        let mut found = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| attempt.failed(&error))?;
            for object in page.contents.unwrap_or_default() {
                let key = object.key.as_deref().and_then(|key| key.strip_prefix(&self.prefix));
                if let Some(key) = key {
                    found.push(RawObject {
                        key: key.to_owned(),
                        size: object.size.and_then(|size| size.try_into().ok()).unwrap_or_default(),
                        last_modified: timestamp(object.last_modified.as_ref()),
                    });
                }
            }
        }
        Ok(found)
    }

    pub(super) async fn delete(&self, key: &str) -> Result<(), StoreError> {
        let deleted = self.client.delete_object().bucket(&self.bucket).key(self.full(key)).send();
        match deleted.await.map_err(|error| self.attempt("a delete", key).failed(&error)) {
            // S3 itself calls this a success; not every other store does.
            Err(StoreError::NotFound { .. }) | Ok(_) => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn locked_until(&self, key: &str) -> Result<Option<Timestamp>, StoreError> {
        let found = self.client.head_object().bucket(&self.bucket).key(self.full(key)).send();
        match found.await.map_err(|error| self.attempt("a look", key).failed(&error)) {
            Err(StoreError::NotFound { .. }) => Ok(None),
            found => Ok(lock_of(&found?)),
        }
    }

    pub(super) async fn abort_unfinished(
        &self,
        prefix: &str,
        before: Timestamp,
    ) -> Result<u64, StoreError> {
        let attempt = self.attempt("a listing of unfinished uploads", prefix);
        let (mut key_marker, mut id_marker) = (None, None);
        let mut aborted = 0;
        loop {
            let page = self
                .client
                .list_multipart_uploads()
                .bucket(&self.bucket)
                .prefix(self.full(prefix))
                .set_key_marker(key_marker)
                .set_upload_id_marker(id_marker)
                .send();
            let page = match page.await {
                Err(error) if failure::is_not_implemented(&error) => {
                    tracing::debug!("the store cannot list unfinished uploads");
                    return Ok(aborted);
                }
                page => page.map_err(|error| attempt.failed(&error))?,
            };
            for unfinished in page.uploads.unwrap_or_default() {
                if timestamp(unfinished.initiated.as_ref()) >= before {
                    continue;
                }
                if let (Some(key), Some(id)) = (unfinished.key, unfinished.upload_id) {
                    self.abort_upload(&key, &id).await?;
                    aborted += 1;
                }
            }
            if page.is_truncated != Some(true) || page.next_key_marker.is_none() {
                return Ok(aborted);
            }
            (key_marker, id_marker) = (page.next_key_marker, page.next_upload_id_marker);
        }
    }

    pub(super) async fn tenants(&self) -> Result<Vec<Uuid>, StoreError> {
        let attempt = self.attempt("a listing", "");
        let mut pages = self
            .client
            .list_objects_v2()
            .bucket(&self.bucket)
            .prefix(&self.prefix)
            .delimiter("/")
            .into_paginator()
            .send();
        let mut tenants = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| attempt.failed(&error))?;
            let folders = page.common_prefixes.unwrap_or_default();
            tenants.extend(folders.iter().filter_map(|folder| {
                let name = folder.prefix()?.strip_prefix(&self.prefix)?.strip_suffix('/')?;
                parse_id(name)
            }));
        }
        Ok(tenants)
    }

    /// Ends an upload and frees its parts; one that is gone is fine. Takes the full key.
    async fn abort_upload(&self, full_key: &str, upload_id: &str) -> Result<(), StoreError> {
        let aborted = self
            .client
            .abort_multipart_upload()
            .bucket(&self.bucket)
            .key(full_key)
            .upload_id(upload_id)
            .send();
        let attempt = self.attempt("an abort of an upload", full_key);
        match aborted.await.map_err(|error| attempt.failed(&error)) {
            Err(StoreError::NotFound { .. }) | Ok(_) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn full(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    fn attempt(&self, operation: &'static str, key: &str) -> Attempt {
        Attempt { operation, bucket: self.bucket.clone(), key: key.to_owned() }
    }
}

/// Deadlines for one attempt at a request.
fn timeouts(attempt: Duration) -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .operation_attempt_timeout(attempt)
        .build()
}

/// When the lock of an object ends. That of a legal hold has no end.
fn lock_of(object: &HeadObjectOutput) -> Option<Timestamp> {
    if object.object_lock_legal_hold_status() == Some(&ObjectLockLegalHoldStatus::On) {
        return Some(Timestamp::MAX);
    }
    let until = object.object_lock_retain_until_date()?;
    Some(Timestamp::new(until.secs(), 0).unwrap_or(Timestamp::MAX))
}

/// Every store gives a time; if one does not, "just now" is the answer that never gets an object
/// deleted for its age.
fn timestamp(time: Option<&DateTime>) -> Timestamp {
    time.and_then(|time| Timestamp::new(time.secs(), 0).ok()).unwrap_or_else(Timestamp::now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_ends_when_it_says_and_a_hold_never() {
        let object = HeadObjectOutput::builder();
        let until =
            object.clone().object_lock_retain_until_date(DateTime::from_secs(1_800_000_000));
        let held = until.clone().object_lock_legal_hold_status(ObjectLockLegalHoldStatus::On);

        assert_eq!(lock_of(&object.build()), None);
        assert_eq!(lock_of(&until.build()), Timestamp::from_second(1_800_000_000).ok());
        assert_eq!(lock_of(&held.build()), Some(Timestamp::MAX));
    }
}
