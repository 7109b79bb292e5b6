#![doc = include_str!("../README.md")]

mod certificate;
mod copy;
mod document;
mod dump;
mod foreign;
mod key;
mod manifest;
mod object_key;
mod pipe;
mod plain;
mod process;
mod restore;
mod store;
mod stream;
mod tools;

pub use certificate::{CERTIFICATE_FORMAT, Certificate, CertificateKey, ErasedBackup};
pub use copy::{CopyEnd, copy_database, copy_definitions, copy_schema};
pub use document::{DocumentError, sign_document, verify_document};
pub use dump::{DumpError, DumpProgress, DumpRequest, Dumped, ObjectClass, dump, finish};
pub use foreign::{
    DumpFormat, ForeignDump, ForeignError, ForeignScript, Input, Script, ScriptError, Statement,
};
pub use key::{BackupKey, KeyError, Recipient};
pub use manifest::{Manifest, ManifestError, TableRows};
pub use object_key::{KeyScope, ObjectKey};
pub use plain::dump_plain;
pub use restore::{
    RestoreError, RestoreRequest, Restored, RowDigest, TableDigest, digest_tables, list_contents,
    load_manifest, restore, verify_stored,
};
pub use store::{
    BackupStore, LockMode, MAX_SMALL_OBJECT_BYTES, NotAProtection, ObjectInfo, ObjectLock,
    ObjectReader, S3Settings, ServerEncryption, StoreError, Uploaded,
};
pub use tools::{PgTools, ToolError};
