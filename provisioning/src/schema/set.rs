//! [`MigrationSet`]: the SQL files that give every tenant's database its schema.
//!
//! refinery skips a file whose name it does not understand and applies versions that appear twice in
//! some order. A fleet must not find that out one database after the other, so a set is either in order
//! or it does not load.
//!
//! There are two kinds of files. `V<number>__<name>.sql` is run once and never changes. `R__<name>.sql`
//! is run again whenever it has changed, after all of the others.
//!
//! Files that only some databases get lie in [`tracks`], each of them a set of its own.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use refinery::Migration;

use super::SchemaError;

mod file;
mod tracks;

use file::{bare, parse, parse_repeatable};
use tracks::Tracks;

/// Versions of at least so many digits are points in time: there may be gaps between them.
const FIRST_TIMESTAMP: i64 = 10_000_000;

/// An ordered set of migration files; clones share it.
#[derive(Clone)]
pub struct MigrationSet {
    shared: Arc<Shared>,
    /// How many of the files count; the others lie above a ceiling.
    visible: usize,
    digest: Arc<str>,
}

struct Shared {
    files: Vec<MigrationFile>,
    migrations: Vec<Migration>,
    repeatables: Vec<RepeatableFile>,
    repeatables_digest: String,
    /// The track whose files these are; none where every database gets them.
    of_track: Option<String>,
    tracks: Tracks,
}

/// One migration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigrationFile {
    /// The number after the `V`.
    pub version: i64,
    /// The words after the two underscores.
    pub name: String,
    /// The name of the file; of a track, with the folder: `tracks/<track>/<file>`.
    pub file: String,
    /// SHA-256 over the file's bytes, in hexadecimal digits.
    pub sha256: String,
    /// Whether it runs in one transaction; not with `-- tenantry: no-transaction` in its first line.
    pub in_transaction: bool,
}

/// A file that is run again whenever it has changed: views and functions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepeatableFile {
    /// The words after the two underscores.
    pub name: String,
    /// The name of the file; of a track, with the folder: `tracks/<track>/<file>`.
    pub file: String,
    /// SHA-256 over the file's bytes, in hexadecimal digits.
    pub sha256: String,
    /// Whether it runs in one transaction; not with `-- tenantry: no-transaction` in its first line.
    pub in_transaction: bool,
    pub(super) sql: String,
}

impl MigrationSet {
    /// Reads the `V<number>__<name>.sql` and `R__<name>.sql` files of a directory. Files that do not end in `.sql`, and
    /// directories other than `tracks`, are left alone; an `.sql` file that does not fit is an error, but in a track
    /// only that of whoever asks for it. Blocks on the disk.
    ///
    /// A file counts byte by byte: if a checkout changes its line ends, it is another file.
    pub fn load(dir: &Path) -> Result<Self, SchemaError> {
        Self::build(sources(dir, "")?, None, Tracks::load(dir))
    }

    /// Makes a set of files given as name and content, in any order; it has no track.
    pub fn from_sources(sources: Vec<(String, String)>) -> Result<Self, SchemaError> {
        Self::build(sources, None, Tracks::default())
    }

    /// Files of the same track as this set, or of none if this is of none.
    pub(super) fn alike(&self, sources: Vec<(String, String)>) -> Result<Self, SchemaError> {
        Self::build(sources, self.shared.of_track.clone(), Tracks::default())
    }

    fn build(
        sources: Vec<(String, String)>,
        of_track: Option<String>,
        tracks: Tracks,
    ) -> Result<Self, SchemaError> {
        let (mut files, mut repeatables) = (Vec::with_capacity(sources.len()), Vec::new());
        for (file, sql) in sources {
            if bare(&file).starts_with("R__") {
                repeatables.push(parse_repeatable(file, sql)?);
            } else {
                files.push((parse(&file, &sql)?, sql));
            }
        }
        files.sort_by_key(|(file, _)| file.version);
        for pair in files.windows(2) {
            check_order(&pair[0].0, &pair[1].0)?;
        }
        repeatables.sort_by(|one, other| one.file.cmp(&other.file));

        let shared = Arc::new(Shared { of_track, tracks, ..share(files, repeatables) });
        let visible = shared.files.len();
        let digest = digest_of(&shared.files, &shared.repeatables).into();
        Ok(Self { shared, visible, digest })
    }

    /// The same set with nothing above `ceiling`. Repeatable files speak of what the newest files make:
    /// if one of those is held back, so are they.
    #[must_use]
    pub fn up_to(&self, ceiling: i64) -> Self {
        let visible = self.files().filter(|file| file.version <= ceiling).count();
        if visible == self.visible {
            return self.clone();
        }
        let digest = digest_of(&self.shared.files[..visible], &[]).into();
        Self { shared: Arc::clone(&self.shared), visible, digest }
    }

    /// The newest version; 0 if there is no file.
    #[must_use]
    pub fn target_version(&self) -> i64 {
        self.files().next_back().map_or(0, |file| file.version)
    }

    /// SHA-256 over names and contents of all files, in hexadecimal digits; those of tracks are not in it.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The same over those of tracks too; where there are none, it is [`MigrationSet::digest`].
    #[must_use]
    pub fn directory_digest(&self) -> String {
        self.shared.tracks.digest_with(&self.digest)
    }

    /// Name and SHA-256 of every file that counts, the repeatable ones after the others, and those of tracks last.
    pub fn checksums(&self) -> impl Iterator<Item = (&str, &str)> {
        let files = self.files().map(|file| (file.file.as_str(), file.sha256.as_str()));
        files
            .chain(self.repeatables().iter().map(|file| (file.file.as_str(), file.sha256.as_str())))
            .chain(self.shared.tracks.checksums())
    }

    /// The track whose files these are; none where every database gets them.
    #[must_use]
    pub fn of_track(&self) -> Option<&str> {
        self.shared.of_track.as_deref()
    }

    /// The files of a track; whatever the ceiling, which is one of the common files.
    pub fn track(&self, name: &str) -> Result<Self, SchemaError> {
        self.shared.tracks.get(name)
    }

    /// Every track by name, with what keeps it from being used.
    pub fn tracks(&self) -> impl Iterator<Item = (&str, Result<&Self, &str>)> {
        self.shared.tracks.all()
    }

    /// SHA-256 over names and contents of the repeatable files; empty if there is none, and `None` where
    /// a ceiling holds them back.
    #[must_use]
    pub fn repeatables_digest(&self) -> Option<&str> {
        self.is_whole().then_some(&self.shared.repeatables_digest)
    }

    /// The number of files with a version.
    #[must_use]
    pub fn len(&self) -> usize {
        self.visible
    }

    /// Whether there is no file with a version.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.visible == 0
    }

    /// The files with a version, the oldest first.
    #[must_use]
    pub fn files(&self) -> impl ExactSizeIterator<Item = &MigrationFile> + DoubleEndedIterator {
        self.shared.files[..self.visible].iter()
    }

    /// The repeatable files, in the order of their names; none where a ceiling holds them back.
    #[must_use]
    pub fn repeatables(&self) -> &[RepeatableFile] {
        if self.is_whole() { &self.shared.repeatables } else { &[] }
    }

    /// The files that a database at `version` lacks, the oldest first.
    pub fn pending(&self, version: i64) -> impl Iterator<Item = &MigrationFile> {
        self.files().filter(move |file| file.version > version)
    }

    /// The same files up to a version; none if there is no file of that version, and it is not 0.
    #[must_use]
    pub fn at(&self, version: i64) -> Option<Self> {
        let set = self.up_to(version);
        (set.target_version() == version).then_some(set)
    }

    /// All of them, whatever the ceiling: a database may be above it.
    pub(super) fn migrations(&self) -> &[Migration] {
        &self.shared.migrations
    }

    /// Whatever the ceiling.
    pub(super) fn file(&self, version: i64) -> Option<&MigrationFile> {
        self.shared.files.iter().find(|file| file.version == version)
    }

    pub(super) fn sql(&self, version: i64) -> Option<&str> {
        self.migrations().iter().find(|known| known.version() == version)?.sql()
    }

    /// Whether no file is held back by a ceiling.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.visible == self.shared.files.len()
    }
}

impl fmt::Debug for MigrationSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MigrationSet({} files, version {})", self.len(), self.target_version())
    }
}

fn share(sources: Vec<(MigrationFile, String)>, repeatables: Vec<RepeatableFile>) -> Shared {
    let (mut files, mut migrations) = (Vec::new(), Vec::new());
    for (file, sql) in sources {
        let stem = format!("V{}__{}", file.version, file.name);
        migrations
            .push(Migration::unapplied(&stem, &sql).expect("parse admits what refinery reads"));
        files.push(file);
    }
    let repeatables_digest =
        if repeatables.is_empty() { String::new() } else { digest_of(&[], &repeatables) };
    let (of_track, tracks) = (None, Tracks::default());
    Shared { files, migrations, repeatables, repeatables_digest, of_track, tracks }
}

/// Name and content of the `.sql` files at the top of a directory; each name behind `prefix`.
fn sources(dir: &Path, prefix: &str) -> Result<Vec<(String, String)>, SchemaError> {
    let unreadable = |source| SchemaError::Directory { path: dir.to_owned(), source };
    let mut sources = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let is_sql =
            path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("sql"));
        if !is_sql || path.is_dir() {
            continue;
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let file = format!("{prefix}{name}");
        let sql = std::fs::read_to_string(&path).map_err(|source| SchemaError::File {
            problem: format!("cannot be read: {source}"),
            file: file.clone(),
        })?;
        sources.push((file, sql));
    }
    Ok(sources)
}

fn digest_of(files: &[MigrationFile], repeatables: &[RepeatableFile]) -> String {
    let mut all = Context::new(&SHA256);
    let files = files.iter().map(|file| (&file.file, &file.sha256));
    let repeatables = repeatables.iter().map(|file| (&file.file, &file.sha256));
    for (file, sha256) in files.chain(repeatables) {
        all.update(format!("{file}\n{sha256}\n").as_bytes());
    }
    hex::encode(all.finish())
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
            (vec!["R__a-b.sql"], "not named R__"),
        ] {
            let error = set(&files).unwrap_err().to_string();
            assert!(error.contains(what), "{files:?}: {error}");
        }
    }

    #[test]
    fn a_ceiling_holds_back_newer_and_repeatable_files() {
        let whole = set(&["V1__a.sql", "V2__b.sql", "R__views.sql"]).unwrap();

        let held = whole.up_to(1);
        let not_held = whole.up_to(7);

        assert_eq!((held.target_version(), held.len(), held.repeatables().len()), (1, 1, 0));
        assert_eq!(held.digest(), set(&["V1__a.sql"]).unwrap().digest());
        assert_eq!(held.repeatables_digest(), None);
        assert_eq!((not_held.digest(), not_held.len()), (whole.digest(), 2));
        assert_eq!(not_held.repeatables()[0].name, "views");
        assert_eq!(set(&["V1__a.sql"]).unwrap().repeatables_digest(), Some(""));
    }

    #[test]
    fn a_file_without_a_transaction_must_be_able_to_go_on() {
        let load = |sql: &str| {
            MigrationSet::from_sources(vec![("V1__a.sql".to_owned(), sql.to_owned())])
                .map(|set| set.files().all(|file| file.in_transaction))
                .map_err(|error| error.to_string())
        };
        let marked = |sql: &str| load(&format!("-- tenantry: no-transaction\n{sql}"));

        assert_eq!(load("vacuum"), Ok(true));
        let copy = "select 1;\nCOPY t (n) FROM STDIN;\n1\n\\.\n";
        assert!(load(copy).unwrap_err().contains("stdin"));
        assert!(marked(copy).unwrap_err().contains("line 3"));
        assert_eq!(load("copy t from program 'x'; select 'from stdin'"), Ok(true));
        assert!(load("\u{feff}select 1").unwrap_err().contains("byte order mark"));
        assert_eq!(load("select 1;\n-- tenantry: no-transaction"), Ok(true));
        assert_eq!(marked("vacuum"), Ok(false));
        assert!(marked("vacuum;\nbegin; select 1; commit").unwrap_err().contains("line 3"));
        assert!(marked("create index concurrently on a (b)").unwrap_err().contains("name"));
    }

    #[test]
    fn timestamps_may_have_gaps() {
        let set = set(&["V20260101120000__a.sql", "V20260301120000__b.sql"]).unwrap();

        assert_eq!(set.target_version(), 20_260_301_120_000);
    }

    #[test]
    fn the_files_up_to_a_version_are_the_set_that_it_had() {
        let all = set(&["V1__a.sql", "V2__b.sql", "V3__c.sql"]).unwrap();

        let two = all.at(2).unwrap();
        assert_eq!(two.digest(), set(&["V1__a.sql", "V2__b.sql"]).unwrap().digest());
        assert_eq!(all.at(3).unwrap().digest(), all.digest());
        assert!(all.at(0).unwrap().is_empty());
        assert!(all.at(4).is_none());
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
