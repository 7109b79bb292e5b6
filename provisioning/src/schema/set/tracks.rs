//! [`Tracks`]: files that only some databases get, after those that all of them get.
//!
//! A track is a folder `tracks/<name>` beside the common files. It is a set like the common one, its versions are its
//! own, and a database has at most one. A track that cannot be used is in nobody's way who does not use it: its error
//! is told to whoever asks for it.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

use aws_lc_rs::digest::{Context, SHA256, digest};

use super::super::SchemaError;
use super::{MigrationSet, sources};

/// Where tracks lie, in the directory of the common files; and how the names of their files begin.
const FOLDER: &str = "tracks";
/// The longest name, in bytes.
const MAX_LEN: usize = 50;

/// The tracks of one directory.
#[derive(Default)]
pub(super) struct Tracks {
    /// By name: the files, or what keeps them from being used.
    known: BTreeMap<String, Result<MigrationSet, String>>,
    /// Name and SHA-256 of every file, also where it cannot be used.
    checksums: Vec<(String, String)>,
}

impl Tracks {
    /// Reads every track below a directory. Blocks on the disk.
    pub(super) fn load(dir: &Path) -> Self {
        let mut tracks = Self::default();
        match std::fs::read_dir(dir.join(FOLDER)) {
            Ok(entries) => {
                for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
                    if path.is_dir() {
                        tracks.add(&path);
                    }
                }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(dir = %dir.display(), %error, "the tracks cannot be read");
            }
        }
        tracks.checksums.sort();
        tracks
    }

    fn add(&mut self, path: &Path) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let prefix = format!("{FOLDER}/{name}/");
        let found = match sources(path, &prefix) {
            Err(error) => {
                self.checksums.push((prefix, error.to_string()));
                Err(error.to_string())
            }
            Ok(sources) => {
                let sum = |(file, sql): &(String, String)| {
                    (file.clone(), hex::encode(digest(&SHA256, sql.as_bytes())))
                };
                self.checksums.extend(sources.iter().map(sum));
                MigrationSet::build(sources, Some(name.clone()), Self::default())
                    .map_err(|error| error.to_string())
            }
        };
        let found = if is_name(&name) { found } else { Err(MISNAMED.to_owned()) };
        self.known.insert(name, found);
    }

    pub(super) fn get(&self, name: &str) -> Result<MigrationSet, SchemaError> {
        match self.known.get(name) {
            Some(Ok(files)) => Ok(files.clone()),
            Some(Err(problem)) => {
                let (track, problem) = (name.to_owned(), problem.clone());
                Err(SchemaError::BrokenTrack { track, problem })
            }
            None => {
                let known = self.known.keys().cloned().collect();
                Err(SchemaError::NoTrack { track: name.to_owned(), known })
            }
        }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (&str, Result<&MigrationSet, &str>)> {
        self.known
            .iter()
            .map(|(name, found)| (name.as_str(), found.as_ref().map_err(String::as_str)))
    }

    pub(super) fn checksums(&self) -> impl Iterator<Item = (&str, &str)> {
        self.checksums.iter().map(|(file, sha256)| (file.as_str(), sha256.as_str()))
    }

    /// The digest of the common files, and of these.
    pub(super) fn digest_with(&self, common: &str) -> String {
        if self.checksums.is_empty() {
            return common.to_owned();
        }
        let mut all = Context::new(&SHA256);
        all.update(format!("{common}\n").as_bytes());
        for (file, sha256) in &self.checksums {
            all.update(format!("{file}\n{sha256}\n").as_bytes());
        }
        hex::encode(all.finish())
    }
}

const MISNAMED: &str =
    "its folder is not named with up to 50 lowercase letters, digits and inner hyphens";

fn is_name(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=MAX_LEN).contains(&name.len())
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (file, sql) in files {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, sql).unwrap();
        }
        dir
    }

    #[test]
    fn a_track_is_a_set_of_its_own() {
        let common = ("V1__a.sql", "select 1");
        let dir = directory(&[
            common,
            ("tracks/gold/V1__b.sql", "select 2"),
            ("tracks/gold/R__views.sql", "select 3"),
            ("tracks/README.md", "no track"),
        ]);

        let set = MigrationSet::load(dir.path()).unwrap();
        let gold = set.track("gold").unwrap();

        assert_eq!((set.len(), set.of_track()), (1, None));
        assert_eq!((gold.target_version(), gold.of_track()), (1, Some("gold")));
        assert_eq!(gold.files().next().unwrap().file, "tracks/gold/V1__b.sql");
        assert_eq!(gold.repeatables()[0].file, "tracks/gold/R__views.sql");
        assert_eq!(gold.repeatables()[0].name, "views");
        let alone = MigrationSet::load(directory(&[common]).path()).unwrap();
        assert_eq!(set.digest(), alone.digest(), "templates have none of it");
        assert_eq!(alone.digest(), alone.directory_digest());
        assert_ne!(set.directory_digest(), alone.directory_digest());
        assert_eq!(set.checksums().count(), 3);
        assert_eq!(set.up_to(0).track("gold").unwrap().digest(), gold.digest());
    }

    #[test]
    fn a_track_that_cannot_be_used_keeps_nobody_else_from_loading() {
        let dir = directory(&[
            ("V1__a.sql", "select 1"),
            ("tracks/gold/V1__b.sql", "select 2"),
            ("tracks/silver/V2__b.sql", "select 2"),
            ("tracks/silver/V4__b.sql", "select 2"),
            ("tracks/Iron_1/V1__b.sql", "select 2"),
        ]);

        let set = MigrationSet::load(dir.path()).unwrap();
        let problem = |name: &str| set.track(name).err().map(|error| error.to_string());

        assert_eq!(problem("gold"), None);
        assert!(problem("silver").unwrap().contains("tracks/silver/V4__b.sql follows"));
        assert!(problem("Iron_1").unwrap().contains("not named"));
        let unknown = set.track("../gold").unwrap_err();
        assert!(matches!(unknown, SchemaError::NoTrack { .. }), "{unknown}");
        assert!(unknown.to_string().contains("Iron_1, gold, silver"), "{unknown}");
        let before = set.directory_digest();
        std::fs::write(dir.path().join("tracks/silver/V4__b.sql"), "select 3").unwrap();
        let after = MigrationSet::load(dir.path()).unwrap().directory_digest();
        assert_ne!(before, after, "what cannot be used counts too");
    }
}
