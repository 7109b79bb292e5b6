//! A stored dump, decrypted and checked while it is read.

use std::io;

use age::DecryptError;
use async_compression::tokio::bufread::ZstdDecoder;
use tokio::io::AsyncReadExt;

use super::{BUFFER_BYTES, RestoreError, Restored};
use crate::key::BackupKey;
use crate::manifest::Manifest;
use crate::store::{BackupStore, StoreError};
use crate::stream::{self, Compressed, Meter, Metered};

/// `pg_dump`'s archive inside a stored dump.
pub(super) struct Archive<'a> {
    manifest: &'a Manifest,
    plain: ZstdDecoder<Compressed>,
    plain_bytes: u64,
    /// What has been read of the stored object.
    stored: Meter,
}

impl<'a> Archive<'a> {
    /// Opens the dump of a manifest that was verified. A wrong size shows here already.
    pub(super) async fn open(
        store: &BackupStore,
        manifest: &'a Manifest,
        key: &BackupKey,
    ) -> Result<Self, RestoreError> {
        let object = store.open(&manifest.dump_key()).await?;
        let (expected, found) = (manifest.dump_bytes, object.size());
        if found < expected {
            return Err(RestoreError::Truncated { expected, found });
        }
        if found > expected {
            return Err(RestoreError::Altered);
        }
        let (metered, stored) = Metered::new(object);
        let compressed = match stream::decrypt(key, metered).await {
            Err(DecryptError::NoMatchingKeys) => return Err(RestoreError::WrongKey),
            Err(DecryptError::Io(error)) => return Err(blame(error, manifest, &stored)),
            Err(_) => return Err(RestoreError::Altered),
            Ok(compressed) => compressed,
        };
        Ok(Self { manifest, plain: stream::decompress(compressed), plain_bytes: 0, stored })
    }

    /// Reads on; 0 at the end of the archive, which is not yet proof that it was all of it.
    pub(super) async fn read(&mut self, buffer: &mut [u8]) -> Result<usize, RestoreError> {
        let read = self.plain.read(buffer).await;
        let read = read.map_err(|error| blame(error, self.manifest, &self.stored))?;
        self.plain_bytes += read as u64;
        if self.plain_bytes > self.manifest.plain_bytes {
            return Err(RestoreError::Altered);
        }
        Ok(read)
    }

    /// Reads what is left, and compares the whole with the manifest.
    pub(super) async fn finish(mut self) -> Result<Restored, RestoreError> {
        let mut buffer = vec![0; BUFFER_BYTES];
        while self.read(&mut buffer).await? > 0 {}
        // The decompressor stops where its frame ends. Only the end of the encrypted stream proves that
        // nothing was cut off it, and nothing hung on.
        let mut rest = self.plain.into_inner();
        let more = rest.read(&mut buffer).await;
        let more = more.map_err(|error| blame(error, self.manifest, &self.stored))?;
        let same = more == 0
            && self.plain_bytes == self.manifest.plain_bytes
            && self.stored.bytes() == self.manifest.dump_bytes
            && self.stored.sha256() == self.manifest.dump_sha256;
        if !same {
            return Err(RestoreError::Altered);
        }
        Ok(Restored { dump_bytes: self.stored.bytes(), plain_bytes: self.plain_bytes })
    }
}

/// Tells a store that failed from a stream that was cut, and that from one that was altered.
fn blame(error: io::Error, manifest: &Manifest, stored: &Meter) -> RestoreError {
    if stored.failed() {
        let unknown =
            |error: io::Error| StoreError::Other { operation: "a read", source: error.into() };
        return StoreError::from_stream(error).unwrap_or_else(unknown).into();
    }
    let (expected, found) = (manifest.dump_bytes, stored.bytes());
    if stored.ended() && found < expected {
        return RestoreError::Truncated { expected, found };
    }
    RestoreError::Altered
}
