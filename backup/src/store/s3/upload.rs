//! A stream of unknown length into one object: one request when it fits one part, else a multipart
//! upload with two parts in flight.
//!
//! Whatever happens, an error, a panic or a caller who goes away, the multipart upload is aborted, so
//! that no invisible parts stay and cost money. Only the death of the process leaves one behind; a
//! lifecycle rule or `abort_unfinished` removes that.

use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::runtime::Handle;
use tokio::task::{JoinError, JoinSet};

use super::super::{StoreError, Uploaded};
use super::{S3, timeouts};

const MIB: usize = 1024 * 1024;
const PART_BYTES: usize = 8 * MIB;
/// Parts up to this one have the same size (some stores insist on it); that makes 40 GB.
const EVEN_PARTS: i32 = 5_000;
/// After them the size doubles every so many parts, so that 10,000 parts hold more than 5 TB, the
/// most that one object can have.
const PARTS_PER_DOUBLING: i32 = 500;
const LARGEST_PART_BYTES: usize = 4_096 * MIB;
const PARTS_IN_FLIGHT: usize = 2;
/// The slowest line for which a part still arrives within its deadline.
const SLOWEST_BYTES_PER_SEC: usize = 128 * 1024;
const COMPLETE_TIMEOUT: Duration = Duration::from_mins(5);

impl S3 {
    pub(in super::super) async fn upload(
        &self,
        key: &str,
        mut reader: Pin<&mut (impl AsyncRead + Send)>,
    ) -> Result<Uploaded, StoreError> {
        let mut sha256 = digest::Context::new(&digest::SHA256);
        let buffers = Buffers::default();
        let first = buffers.fill(reader.as_mut(), part_bytes(1)).await?;
        sha256.update(&first);
        if first.len() < part_bytes(1) {
            let bytes = first.len() as u64;
            self.put(key, first).await?;
            return Ok(Uploaded { bytes, sha256: hex::encode(sha256.finish()) });
        }

        let mut multipart = Multipart::begin(self.clone(), key.to_owned()).await?;
        let sent = multipart.send_all(first, reader, &buffers, &mut sha256).await;
        let completed = match sent {
            Ok((parts, bytes)) => multipart.complete(parts, bytes).await.map(|()| bytes),
            Err(error) => Err(error),
        };
        match completed {
            Ok(bytes) => Ok(Uploaded { bytes, sha256: hex::encode(sha256.finish()) }),
            Err(error) => {
                multipart.abort().await;
                Err(error)
            }
        }
    }
}

/// How long one attempt at sending this many bytes may take.
pub(super) fn attempt_timeout(bytes: usize) -> Duration {
    let sending = bytes / SLOWEST_BYTES_PER_SEC;
    super::ATTEMPT_TIMEOUT + Duration::from_secs(sending as u64)
}

/// A multipart upload that aborts itself unless it is completed.
struct Multipart {
    s3: S3,
    key: String,
    /// Empty once the upload is completed or aborted.
    upload_id: String,
    in_flight: JoinSet<Result<CompletedPart, StoreError>>,
}

impl Multipart {
    async fn begin(s3: S3, key: String) -> Result<Self, StoreError> {
        // In a task of its own: when the caller goes away while the store creates the upload, the task
        // still gets its id, and dropping it aborts it.
        let begun = tokio::spawn(async move {
            let attempt = s3.attempt("the start of an upload", &key);
            let protected = s3.protected(&key);
            let created = s3
                .client
                .create_multipart_upload()
                .bucket(&s3.bucket)
                .key(s3.full(&key))
                .checksum_algorithm(ChecksumAlgorithm::Crc32)
                .set_object_lock_mode(protected.mode)
                .set_object_lock_retain_until_date(protected.until)
                .set_server_side_encryption(protected.encryption)
                .set_ssekms_key_id(protected.key_id)
                .send()
                .await
                .map_err(|error| attempt.failed(&error))?;
            let upload_id = created.upload_id.unwrap_or_default();
            Ok(Self { s3, key, upload_id, in_flight: JoinSet::new() })
        });
        begun.await.unwrap_or_else(|stopped| Err(task_stopped(stopped)))
    }

    /// Sends `part` and the rest of the stream; gives the parts in order and the bytes in all.
    async fn send_all(
        &mut self,
        mut part: Bytes,
        mut reader: Pin<&mut (impl AsyncRead + Send)>,
        buffers: &Buffers,
        sha256: &mut digest::Context,
    ) -> Result<(Vec<CompletedPart>, u64), StoreError> {
        let mut done = Vec::new();
        let mut bytes = 0;
        let mut number = 1;
        while !part.is_empty() {
            if self.in_flight.len() == PARTS_IN_FLIGHT {
                done.extend(self.landed().await?);
            }
            bytes += part.len() as u64;
            let last = part.len() < part_bytes(number);
            self.send(number, mem::take(&mut part));
            if last {
                break;
            }
            number += 1;
            part = buffers.fill(reader.as_mut(), part_bytes(number)).await?;
            sha256.update(&part);
        }
        while let Some(part) = self.landed().await? {
            done.push(part);
        }
        done.sort_by_key(|part| part.part_number);
        Ok((done, bytes))
    }

    fn send(&mut self, number: i32, body: Bytes) {
        let deadline = timeouts(attempt_timeout(body.len()));
        let request = self
            .s3
            .client
            .upload_part()
            .bucket(&self.s3.bucket)
            .key(self.s3.full(&self.key))
            .upload_id(&self.upload_id)
            .part_number(number)
            .checksum_algorithm(ChecksumAlgorithm::Crc32)
            .body(ByteStream::from(body))
            .customize()
            .config_override(aws_sdk_s3::config::Builder::new().timeout_config(deadline));
        let attempt = self.s3.attempt("an upload", &self.key);
        self.in_flight.spawn(async move {
            let sent = request.send().await.map_err(|error| attempt.failed(&error))?;
            Ok(CompletedPart::builder()
                .part_number(number)
                .set_e_tag(sent.e_tag)
                .set_checksum_crc32(sent.checksum_crc32)
                .build())
        });
    }

    async fn landed(&mut self) -> Result<Option<CompletedPart>, StoreError> {
        match self.in_flight.join_next().await {
            Some(landed) => landed.unwrap_or_else(|stopped| Err(task_stopped(stopped))).map(Some),
            None => Ok(None),
        }
    }

    async fn complete(&mut self, parts: Vec<CompletedPart>, bytes: u64) -> Result<(), StoreError> {
        let completed = self
            .s3
            .client
            .complete_multipart_upload()
            .bucket(&self.s3.bucket)
            .key(self.s3.full(&self.key))
            .upload_id(&self.upload_id)
            .multipart_upload(CompletedMultipartUpload::builder().set_parts(Some(parts)).build())
            .customize()
            .config_override(
                aws_sdk_s3::config::Builder::new().timeout_config(timeouts(COMPLETE_TIMEOUT)),
            )
            .send()
            .await
            .map_err(|error| self.s3.attempt("the end of an upload", &self.key).failed(&error));
        if let Err(error) = completed {
            // When the answer gets lost, the store is asked again, and some know the upload no longer.
            if !self.is_stored(bytes).await {
                return Err(error);
            }
            tracing::debug!(
                key = self.key,
                "the store had completed an upload, and did not say so"
            );
        }
        self.upload_id.clear();
        Ok(())
    }

    /// Whether the object is there, as large as it is to be. There was none before this upload.
    async fn is_stored(&self, bytes: u64) -> bool {
        let request = self.s3.client.head_object().bucket(&self.s3.bucket);
        let found = request.key(self.s3.full(&self.key)).send().await;
        let size = found.ok().and_then(|object| object.content_length);
        size.map(i64::unsigned_abs) == Some(bytes)
    }

    async fn abort(&mut self) {
        let upload_id = mem::take(&mut self.upload_id);
        let in_flight = mem::take(&mut self.in_flight);
        abort(self.s3.clone(), self.s3.full(&self.key), upload_id, in_flight).await;
    }
}

impl Drop for Multipart {
    fn drop(&mut self) {
        let upload_id = mem::take(&mut self.upload_id);
        let in_flight = mem::take(&mut self.in_flight);
        if upload_id.is_empty() {
            return;
        }
        if let Ok(runtime) = Handle::try_current() {
            let key = self.s3.full(&self.key);
            runtime.spawn(abort(self.s3.clone(), key, upload_id, in_flight));
        }
    }
}

/// Parts that land after an abort would stay: they are stopped first.
async fn abort<T: 'static>(s3: S3, key: String, upload_id: String, mut in_flight: JoinSet<T>) {
    in_flight.shutdown().await;
    if let Err(error) = s3.abort_upload(&key, &upload_id).await {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            key,
            "an unfinished upload could not be aborted; the bucket's lifecycle rule will remove it"
        );
    }
}

/// How large part `number` (from 1) is.
fn part_bytes(number: i32) -> usize {
    if number <= EVEN_PARTS {
        return PART_BYTES;
    }
    let doublings = (number - EVEN_PARTS - 1) / PARTS_PER_DOUBLING + 1;
    PART_BYTES
        .checked_shl(doublings.unsigned_abs())
        .map_or(LARGEST_PART_BYTES, |bytes| bytes.min(LARGEST_PART_BYTES))
}

/// The memory of parts, used over and over: of buffers of this size that are freed, the allocator keeps some.
#[derive(Clone, Default)]
struct Buffers(Arc<Mutex<Vec<Vec<u8>>>>);

/// A part, whose memory goes back when the last who reads it is done.
struct Part {
    bytes: Vec<u8>,
    home: Buffers,
}

impl Buffers {
    /// Reads exactly `size` bytes, or fewer at the end of the stream.
    async fn fill(
        &self,
        reader: Pin<&mut (impl AsyncRead + Send)>,
        size: usize,
    ) -> Result<Bytes, StoreError> {
        let bytes = self.free().pop().unwrap_or_default();
        let mut part = Part { bytes, home: self.clone() };
        part.bytes.clear();
        part.bytes.reserve_exact(size);
        let mut reader = reader.take(size as u64);
        while part.bytes.len() < size {
            if reader.read_buf(&mut part.bytes).await.map_err(StoreError::Source)? == 0 {
                break;
            }
        }
        Ok(Bytes::from_owner(part))
    }

    fn free(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.home.free().push(mem::take(&mut self.bytes));
    }
}

fn task_stopped(stopped: JoinError) -> StoreError {
    StoreError::Other { operation: "an upload", source: stopped.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_thousand_parts_hold_the_largest_object() {
        let all: u64 = (1..=10_000).map(|number| part_bytes(number) as u64).sum();
        let largest_object = 5 << 40;

        assert!(all > largest_object, "{all}");
        assert!((1..=EVEN_PARTS).all(|number| part_bytes(number) == PART_BYTES));
        assert!((1..10_000).all(|number| part_bytes(number) <= part_bytes(number + 1)));
        assert_eq!(part_bytes(EVEN_PARTS + 1), 2 * PART_BYTES);
        assert_eq!(part_bytes(10_000), LARGEST_PART_BYTES);
    }
}
