//! [`MigrationSet`]: the SQL files that give every tenant's database its schema.
//!
//! refinery skips a file whose name it does not understand and applies versions that appear twice in
//! some order. A fleet must not find that out one database after the other, so a set is either in order
//! or it does not load.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256, digest};
use refinery_core::Migration;

use super::SchemaError;

/// Versions of at least so many digits are points in time: there may be gaps between them.
const FIRST_TIMESTAMP: i64 = 10_000_000;

/// An ordered set of migration files; clones share it.
#[derive(Clone)]
pub struct MigrationSet {
    shared: Arc<Shared>,
}

struct Shared {
    files: Vec<MigrationFile>,
    migrations: Vec<Migration>,
    digest: String,
}

/// One migration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigrationFile {
    /// The number after the `V`.
    pub version: i64,
    /// The words after the two underscores.
    pub name: String,
    /// The name of the file.
    pub file: String,
    /// SHA-256 over the file's bytes, in hexadecimal digits.
    pub sha256: String,
}

impl MigrationSet {
    /// Reads the `V<number>__<name>.sql` files of a directory. Files that do not end in `.sql`, and
    /// directories, are left alone; an `.sql` file that does not fit is an error. Blocks on the disk.
    ///
    /// A file counts byte by byte: if a checkout changes its line ends, it is another file.
    pub fn load(dir: &Path) -> Result<Self, SchemaError> {
        let unreadable = |source| SchemaError::Directory { path: dir.to_owned(), source };
        let mut sources = Vec::new();
        for entry in std::fs::read_dir(dir).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            let is_sql =
                path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("sql"));
            if !is_sql || path.is_dir() {
                continue;
            }
            let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let sql = std::fs::read_to_string(&path).map_err(|source| SchemaError::File {
                problem: format!("cannot be read: {source}"),
                file: file.clone(),
            })?;
            sources.push((file, sql));
        }
        Self::from_sources(sources)
    }

    /// Makes a set of files given as name and content, in any order.
    pub fn from_sources(sources: Vec<(String, String)>) -> Result<Self, SchemaError> {
        let mut files = Vec::with_capacity(sources.len());
        for (file, sql) in sources {
            let parsed = parse(&file, &sql)?;
            files.push((parsed, sql));
        }
        files.sort_by_key(|(file, _)| file.version);
        for pair in files.windows(2) {
            check_order(&pair[0].0, &pair[1].0)?;
        }

        Ok(Self { shared: Arc::new(share(files)) })
    }

    /// The newest version; 0 if there is no file.
    #[must_use]
    pub fn target_version(&self) -> i64 {
        self.shared.files.last().map_or(0, |file| file.version)
    }

    /// SHA-256 over names and contents of all files, in hexadecimal digits.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.shared.digest
    }

    /// The number of files.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.files.len()
    }

    /// Whether there is no file.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.shared.files.is_empty()
    }

    /// The files, the oldest first.
    #[must_use]
    pub fn files(&self) -> impl ExactSizeIterator<Item = &MigrationFile> {
        self.shared.files.iter()
    }

    /// The files that a database at `version` lacks, the oldest first.
    pub fn pending(&self, version: i64) -> impl Iterator<Item = &MigrationFile> {
        self.files().filter(move |file| file.version > version)
    }

    /// The files up to a version. It is the same set to whoever asks for its digest: it knows the others.
    #[must_use]
    pub fn until(&self, version: i64) -> Self {
        let files: Vec<_> = self.files().filter(|file| file.version <= version).cloned().collect();
        let migrations = self.shared.migrations[..files.len()].to_vec();
        let digest = self.shared.digest.clone();
        Self { shared: Arc::new(Shared { files, migrations, digest }) }
    }

    pub(super) fn migrations(&self) -> &[Migration] {
        &self.shared.migrations
    }

    pub(super) fn file(&self, version: i64) -> Option<&MigrationFile> {
        self.files().find(|file| file.version == version)
    }
}

impl fmt::Debug for MigrationSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MigrationSet({} files, version {})", self.len(), self.target_version())
    }
}

fn share(sources: Vec<(MigrationFile, String)>) -> Shared {
    let mut all = Context::new(&SHA256);
    let (mut files, mut migrations) = (Vec::new(), Vec::new());
    for (file, sql) in sources {
        all.update(format!("{}\n{}\n", file.file, file.sha256).as_bytes());
        let stem = format!("V{}__{}", file.version, file.name);
        migrations
            .push(Migration::unapplied(&stem, &sql).expect("parse admits what refinery reads"));
        files.push(file);
    }
    Shared { files, migrations, digest: hex::encode(all.finish()) }
}

fn parse(file: &str, sql: &str) -> Result<MigrationFile, SchemaError> {
    let refused =
        |problem: &str| SchemaError::File { file: file.to_owned(), problem: problem.to_owned() };
    let misnamed =
        || refused("is not named V<number>__<name>.sql, with a-z, 0-9 and _ in the name");

    let stem =
        file.strip_suffix(".sql").and_then(|stem| stem.strip_prefix('V')).ok_or_else(misnamed)?;
    let (version, name) = stem.split_once("__").ok_or_else(misnamed)?;
    let is_word = |text: &str| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    if version.is_empty() || !version.bytes().all(|byte| byte.is_ascii_digit()) || !is_word(name) {
        return Err(misnamed());
    }
    let version = version.parse().map_err(|_| refused("has a version that is too large"))?;
    if version == 0 {
        return Err(refused("has version 0, which stands for a database without any"));
    }
    if sql.trim().is_empty() {
        return Err(refused("is empty"));
    }
    if sql.contains('\0') {
        return Err(refused("holds a NUL byte"));
    }
    let sha256 = hex::encode(digest(&SHA256, sql.as_bytes()));
    Ok(MigrationFile { version, name: name.to_owned(), file: file.to_owned(), sha256 })
}

fn check_order(before: &MigrationFile, after: &MigrationFile) -> Result<(), SchemaError> {
    let problem = if before.version == after.version {
        format!("has the same version as {}", before.file)
    } else if after.version != before.version + 1 && after.version < FIRST_TIMESTAMP {
        format!("follows {}: version {} is missing", before.file, before.version + 1)
    } else {
        return Ok(());
    };
    Err(SchemaError::File { file: after.file.clone(), problem })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(files: &[&str]) -> Result<MigrationSet, SchemaError> {
        MigrationSet::from_sources(
            files.iter().map(|file| ((*file).to_owned(), "select 1".to_owned())).collect(),
        )
    }

    #[test]
    fn files_are_ordered_by_number() {
        let set = set(&["V10__j.sql", "V9__i.sql", "V11__k.sql"]).unwrap();

        let versions: Vec<i64> = set.files().map(|file| file.version).collect();
        assert_eq!(versions, [9, 10, 11]);
        assert_eq!((set.target_version(), set.len()), (11, 3));
        assert_eq!(set.pending(9).count(), 2);
    }

    #[test]
    fn a_set_out_of_order_does_not_load() {
        for (files, what) in [
            (vec!["V1__a.sql", "V3__c.sql"], "version 2 is missing"),
            (vec!["V1__a.sql", "V01__b.sql"], "same version"),
            (vec!["V0__a.sql"], "version 0"),
            (vec!["U1__a.sql"], "not named"),
            (vec!["V1_a.sql"], "not named"),
            (vec!["V1__a-b.sql"], "not named"),
            (vec!["V1.2__a.sql"], "not named"),
            (vec!["V1__a.SQL"], "not named"),
            (vec!["V99999999999999999999__a.sql"], "too large"),
        ] {
            let error = set(&files).unwrap_err().to_string();
            assert!(error.contains(what), "{files:?}: {error}");
        }
    }

    #[test]
    fn timestamps_may_have_gaps() {
        let set = set(&["V20260101120000__a.sql", "V20260301120000__b.sql"]).unwrap();

        assert_eq!(set.target_version(), 20_260_301_120_000);
    }

    #[test]
    fn the_digest_depends_on_every_byte_and_not_on_the_order_given() {
        let one = ("V1__a.sql".to_owned(), "select 1".to_owned());
        let two = ("V2__b.sql".to_owned(), "select 2".to_owned());
        let crlf = ("V2__b.sql".to_owned(), "select 2\r\n".to_owned());
        let digest = |files: &[&(String, String)]| {
            MigrationSet::from_sources(files.iter().copied().cloned().collect())
                .unwrap()
                .digest()
                .to_owned()
        };

        assert_eq!(digest(&[&one, &two]), digest(&[&two, &one]));
        assert_ne!(digest(&[&one, &two]), digest(&[&one, &crlf]));
        assert_eq!(digest(&[]).len(), 64);
    }

    #[test]
    fn a_directory_is_read_at_its_top_level() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("V1__a.sql"), "select 1").unwrap();
        std::fs::write(dir.path().join("README.md"), "no migration").unwrap();
        std::fs::create_dir(dir.path().join("old")).unwrap();
        std::fs::write(dir.path().join("old/V2__b.sql"), "select 2").unwrap();
        assert_eq!(MigrationSet::load(dir.path()).unwrap().len(), 1);

        std::fs::write(dir.path().join("V2__b.sql"), " \n").unwrap();
        let error = MigrationSet::load(dir.path()).unwrap_err().to_string();
        assert!(error.contains("V2__b.sql") && error.contains("empty"), "{error}");

        let absent = MigrationSet::load(&dir.path().join("absent")).unwrap_err();
        assert!(matches!(absent, SchemaError::Directory { .. }), "{absent}");
    }
}
