//! Finds `pg_dump`, `pg_restore` and `psql` of the server's major version.
//!
//! An older `pg_dump` refuses a newer server, and a newer one writes archives that older tools cannot
//! read and settings that older servers do not know. So the majors have to be equal, and that is
//! settled before any dump begins.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use crate::process;

const VERSION_TIMEOUT: Duration = Duration::from_secs(10);

/// PostgreSQL's client programs of one major version. Finding them runs them: keep the value.
#[derive(Debug, Clone)]
pub struct PgTools {
    pg_dump: PathBuf,
    pg_restore: PathBuf,
    psql: PathBuf,
    major: u32,
    version: String,
}

/// Why there are no usable client programs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ToolError {
    /// Nowhere on this machine.
    #[error(
        "pg_dump, pg_restore and psql of PostgreSQL {major} are not installed (looked in {searched})"
    )]
    NotFound {
        /// The major version of the server.
        major: u32,
        /// The directories that were searched.
        searched: String,
    },
    /// Installed, but of another major version.
    #[error("{} is of PostgreSQL {found}, and the server is of PostgreSQL {major}", program.display())]
    WrongMajor {
        /// The major version of the server.
        major: u32,
        /// What the program says its version is.
        found: String,
        /// The program.
        program: PathBuf,
    },
    /// Installed, but it does not run.
    #[error("{} does not run", program.display())]
    Broken {
        /// The major version of the server.
        major: u32,
        /// The program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl ToolError {
    /// What an operator can do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        let (Self::NotFound { major, .. }
        | Self::WrongMajor { major, .. }
        | Self::Broken { major, .. }) = self;
        format!(
            "install the Debian package postgresql-client-{major} (or the like elsewhere), or set the \
             directory of PostgreSQL {major}'s programs"
        )
    }
}

impl PgTools {
    /// Finds the programs for a server of version `major`: in `bin_dirs` and nowhere else if any are given;
    /// else where Debian and PostgreSQL's own packages put them, then on the `PATH`.
    pub async fn for_server(major: u32, bin_dirs: &[PathBuf]) -> Result<Self, ToolError> {
        let folders = if bin_dirs.is_empty() { usual_folders(major) } else { bin_dirs.to_owned() };
        let mut refused = None;
        for folder in &folders {
            if ["pg_dump", "pg_restore", "psql"].iter().all(|name| folder.join(name).is_file()) {
                match Self::in_folder(major, folder).await {
                    Ok(tools) => return Ok(tools),
                    Err(error) => refused = refused.or(Some(error)),
                }
            }
        }
        Err(refused.unwrap_or_else(|| {
            let searched: Vec<_> = folders.iter().map(|folder| folder.to_string_lossy()).collect();
            ToolError::NotFound { major, searched: searched.join(", ") }
        }))
    }

    /// The path of `pg_dump`.
    #[must_use]
    pub fn pg_dump(&self) -> &Path {
        &self.pg_dump
    }

    /// The path of `pg_restore`.
    #[must_use]
    pub fn pg_restore(&self) -> &Path {
        &self.pg_restore
    }

    /// The path of `psql`.
    #[must_use]
    pub fn psql(&self) -> &Path {
        &self.psql
    }

    /// The major version, equal to the server's.
    #[must_use]
    pub fn major(&self) -> u32 {
        self.major
    }

    /// The whole version as `pg_dump` names it, such as `15.18`: the manifest's `client_version`.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    async fn in_folder(major: u32, folder: &Path) -> Result<Self, ToolError> {
        let (pg_dump, pg_restore) = (folder.join("pg_dump"), folder.join("pg_restore"));
        version_of(major, &pg_restore).await?;
        let version = version_of(major, &pg_dump).await?;
        Ok(Self { pg_dump, pg_restore, psql: folder.join("psql"), major, version })
    }
}

/// The leading number of a version such as `15.18 (Debian 15.18-0)` or `19beta1`.
pub(crate) fn major_of(version: &str) -> Option<u32> {
    let digits = version.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

fn usual_folders(major: u32) -> Vec<PathBuf> {
    let mut folders = vec![
        PathBuf::from(format!("/usr/lib/postgresql/{major}/bin")),
        PathBuf::from(format!("/usr/pgsql-{major}/bin")),
    ];
    let path = std::env::var_os("PATH").unwrap_or_default();
    folders.extend(std::env::split_paths(&path).filter(|folder| folder.is_absolute()));
    folders
}

/// Runs a program for its version, and refuses one of another major.
async fn version_of(major: u32, program: &Path) -> Result<String, ToolError> {
    let broken = |source| ToolError::Broken { major, program: program.to_owned(), source };
    let mut command = process::command(program, &[]);
    command.arg("--version").stdin(Stdio::null());
    let output = tokio::time::timeout(VERSION_TIMEOUT, command.output())
        .await
        .map_err(|_| broken(io::ErrorKind::TimedOut.into()))?
        .map_err(broken)?;
    // `pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.split(") ").nth(1).and_then(|rest| rest.split_whitespace().next());
    let found = version.filter(|_| output.status.success()).ok_or_else(|| {
        broken(io::Error::new(io::ErrorKind::InvalidData, "it does not tell its version"))
    })?;
    if major_of(found) == Some(major) {
        return Ok(found.to_owned());
    }
    Err(ToolError::WrongMajor { major, found: found.to_owned(), program: program.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_major_is_the_leading_number() {
        assert_eq!(major_of("15.18"), Some(15));
        assert_eq!(major_of("15.18 (Debian 15.18-0+deb12u1)"), Some(15));
        assert_eq!(major_of("19beta1"), Some(19));
        assert_eq!(major_of("unknown"), None);
    }
}
