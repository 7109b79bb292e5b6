//! An object as a stream that survives broken connections.
//!
//! A restore can take hours, and a server closes a connection on which `pg_restore` has not read for
//! a while. The stream then goes on with a ranged request for the same version of the object (its
//! `ETag`); an object that was replaced meanwhile is an error, never a mixture.

use std::io;
use std::time::Duration;

use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use futures_util::stream;
use tokio_util::io::StreamReader;

use super::super::{ObjectReader, StoreError};
use super::S3;

/// How often in a row a connection may break without a byte from it.
const MAX_FRUITLESS: u32 = 5;
/// How long the store may send nothing while we are waiting.
const SILENCE: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_millis(200);

pub(super) async fn open(s3: S3, key: String) -> Result<ObjectReader, StoreError> {
    let found = s3
        .client
        .get_object()
        .bucket(&s3.bucket)
        .key(s3.full(&key))
        .send()
        .await
        .map_err(|error| s3.attempt("a read", &key).failed(&error))?;
    let attempt = s3.attempt("a read", &key);
    let size = found
        .content_length
        .and_then(|size| u64::try_from(size).ok())
        .ok_or_else(|| attempt.broken(io::Error::other("the store does not tell the size")))?;
    let etag = found.e_tag.clone();
    let download =
        Download { s3, key, size, etag, offset: 0, body: Some(found.body), fruitless: 0 };
    let chunks = stream::try_unfold(download, |mut download| async move {
        match download.next().await {
            Ok(Some(chunk)) => Ok(Some((chunk, download))),
            Ok(None) => Ok(None),
            Err(error) => Err(io::Error::other(error)),
        }
    });
    Ok(ObjectReader::new(size, StreamReader::new(Box::pin(chunks))))
}

struct Download {
    s3: S3,
    key: String,
    size: u64,
    etag: Option<String>,
    offset: u64,
    /// `None` between a broken connection and the next.
    body: Option<ByteStream>,
    fruitless: u32,
}

impl Download {
    async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        while self.offset < self.size {
            match self.read().await {
                Ok(chunk) if chunk.is_empty() => {}
                Ok(chunk) => {
                    self.fruitless = 0;
                    self.offset += chunk.len() as u64;
                    if self.offset > self.size {
                        return Err(self.s3.attempt("a read", &self.key).changed());
                    }
                    return Ok(Some(chunk));
                }
                Err(error) => self.broke(error).await?,
            }
        }
        Ok(None)
    }

    async fn read(&mut self) -> Result<Bytes, StoreError> {
        let body = match self.body.take() {
            Some(body) => body,
            None => self.resume().await?,
        };
        let body = self.body.insert(body);
        let attempt = self.s3.attempt("a read", &self.key);
        match tokio::time::timeout(SILENCE, body.try_next()).await {
            Ok(Ok(Some(chunk))) => Ok(chunk),
            Ok(Ok(None)) => Err(attempt.broken(io::Error::from(io::ErrorKind::UnexpectedEof))),
            Ok(Err(error)) => Err(attempt.broken(error)),
            Err(_) => Err(attempt.timed_out(SILENCE)),
        }
    }

    /// Decides whether to go on after a broken connection, and waits a little.
    async fn broke(&mut self, error: StoreError) -> Result<(), StoreError> {
        self.body = None;
        self.fruitless += 1;
        if self.fruitless > MAX_FRUITLESS || !error.is_transient() {
            return Err(error);
        }
        tracing::debug!(
            error = &error as &dyn std::error::Error,
            key = self.key,
            offset = self.offset,
            "a download broke and goes on"
        );
        tokio::time::sleep(FIRST_PAUSE * 2_u32.pow(self.fruitless - 1)).await;
        Ok(())
    }

    async fn resume(&self) -> Result<ByteStream, StoreError> {
        let attempt = self.s3.attempt("a read", &self.key);
        let found = self
            .s3
            .client
            .get_object()
            .bucket(&self.s3.bucket)
            .key(self.s3.full(&self.key))
            .range(format!("bytes={}-", self.offset))
            .set_if_match(self.etag.clone())
            .send()
            .await
            .map_err(|error| attempt.failed(&error))?;
        // A store may ignore either header, so the answer is what counts.
        let same = found.e_tag.is_some() && found.e_tag == self.etag;
        if same && self.continues(&found) { Ok(found.body) } else { Err(attempt.changed()) }
    }

    fn continues(&self, found: &GetObjectOutput) -> bool {
        if self.offset == 0 {
            return found.content_length.is_some_and(|size| size.unsigned_abs() == self.size);
        }
        let expected = format!("bytes {}-{}/{}", self.offset, self.size - 1, self.size);
        found.content_range.as_deref() == Some(&expected)
    }
}
