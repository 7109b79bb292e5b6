//! Where PostgreSQL's programs are on this machine, and as whom they run.
//!
//! PostgreSQL refuses to run as root, so root hands it to an unprivileged user. Every program is
//! started through util-linux' `setpriv`, which also asks the kernel to end it when the thread that
//! started it ends.

use std::{
    fs::{self, DirBuilder},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, chown},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use super::super::EmbeddedError;

/// Where Debian and Ubuntu keep one directory a major version.
const DEBIAN: &str = "/usr/lib/postgresql";
/// Nothing else of our environment reaches PostgreSQL: `PGPORT`, `PGDATA` and the like would change
/// what it does.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// A failing program's output is quoted up to this many lines.
const QUOTED_LINES: usize = 20;

/// The programs of one major version.
#[derive(Debug, Clone)]
pub(super) struct Installation {
    pub(super) bin_dir: PathBuf,
}

impl Installation {
    /// The highest major version there is, or exactly the one that made the data; in `bin_dir` and nowhere
    /// else if it is given.
    pub(super) fn find(major: Option<u32>, bin_dir: Option<&Path>) -> Result<Self, EmbeddedError> {
        let wanted = |(version, _): &(u32, PathBuf)| major.is_none_or(|major| major == *version);
        let found = match bin_dir {
            Some(dir) => installation_in(dir).filter(wanted),
            None => debian_installations()
                .into_iter()
                .filter(wanted)
                .max_by_key(|(version, _)| *version)
                .or_else(|| installation_on_path().filter(wanted)),
        };
        let place = match bin_dir {
            Some(dir) => format!("not in {}", dir.display()),
            None => format!("neither in {DEBIAN}/*/bin nor on the PATH"),
        };
        found.map(|(_, bin_dir)| Self { bin_dir }).ok_or_else(|| match major {
            None => EmbeddedError::NotInstalled {
                missing: format!("PostgreSQL's initdb and postgres are {place}"),
                package: "postgresql".to_owned(),
            },
            Some(major) => EmbeddedError::NotInstalled {
                missing: format!(
                    "the data was made by PostgreSQL {major}, which is not on this machine"
                ),
                package: format!("postgresql-{major}"),
            },
        })
    }

    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.bin_dir.join(name)
    }
}

fn debian_installations() -> Vec<(u32, PathBuf)> {
    let Ok(entries) = fs::read_dir(DEBIAN) else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| {
            let major = entry.file_name().to_str()?.parse().ok()?;
            let bin_dir = entry.path().join("bin");
            has_server_programs(&bin_dir).then_some((major, bin_dir))
        })
        .collect()
}

fn installation_on_path() -> Option<(u32, PathBuf)> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).find_map(|dir| installation_in(&dir))
}

fn installation_in(dir: &Path) -> Option<(u32, PathBuf)> {
    if !has_server_programs(dir) {
        return None;
    }
    // Behind a symbolic link are the other programs of the same version.
    let bin_dir = dir.join("postgres").canonicalize().ok()?.parent()?.to_owned();
    // "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"
    let output = Command::new(bin_dir.join("postgres")).arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let major = text.split_whitespace().nth(2)?.split(|c: char| !c.is_ascii_digit()).next()?;
    Some((major.parse().ok()?, bin_dir))
}

fn has_server_programs(dir: &Path) -> bool {
    dir.is_absolute() && dir.join("initdb").is_file() && dir.join("postgres").is_file()
}

/// The operating system's user who owns the cluster and runs its processes.
#[derive(Debug, Clone)]
pub(super) struct Account {
    name: String,
    uid: u32,
    gid: u32,
    /// We are root and have to become this user.
    switched: bool,
}

impl Account {
    /// Ourselves, or, when we are root, whoever owns the cluster; for a new one `postgres`, else
    /// `nobody`.
    pub(super) fn choose(cluster: &Path) -> Result<Self, EmbeddedError> {
        let uid = rustix::process::geteuid();
        if !uid.is_root() {
            let gid = rustix::process::getegid().as_raw();
            return Ok(Self { name: "us".to_owned(), uid: uid.as_raw(), gid, switched: false });
        }
        let users =
            fs::read_to_string("/etc/passwd").map_err(EmbeddedError::io("read /etc/passwd"))?;
        if let Ok(owner) = fs::metadata(cluster)
            && owner.uid() != 0
        {
            let (uid, gid) = (owner.uid(), owner.gid());
            let name = user_where(&users, |user| user.uid == uid)
                .map_or_else(|| uid.to_string(), |user| user.name);
            return Ok(Self { name, uid, gid, switched: true });
        }
        user_where(&users, |user| user.name == "postgres")
            .or_else(|| user_where(&users, |user| user.name == "nobody"))
            .ok_or_else(|| EmbeddedError::NotInstalled {
                missing:
                    "PostgreSQL refuses to run as root, and there is no user `postgres` or `nobody`"
                        .to_owned(),
                package: "postgresql-common".to_owned(),
            })
    }

    /// Mode for a directory on the way to the cluster: the other user must pass through, and see
    /// nothing.
    pub(super) fn passage_mode(&self) -> u32 {
        if self.switched { 0o711 } else { 0o700 }
    }

    /// Gives a file or directory to this user.
    pub(super) fn own(&self, path: &Path) -> Result<(), EmbeddedError> {
        if !self.switched {
            return Ok(());
        }
        chown(path, Some(self.uid), Some(self.gid)).map_err(EmbeddedError::io(format!(
            "give {} to {}",
            path.display(),
            self.name
        )))
    }

    /// Creates a directory that only this user may enter.
    pub(super) fn create_directory(&self, path: &Path) -> Result<(), EmbeddedError> {
        DirBuilder::new()
            .mode(0o700)
            .create(path)
            .map_err(EmbeddedError::io(format!("create {}", path.display())))?;
        self.own(path)
    }

    /// Fails, naming the directory that refuses, unless this user can reach `directory`. Asks the
    /// kernel by trying, so that access lists and mounts count too.
    pub(super) fn check_reach(&self, directory: &Path) -> Result<(), EmbeddedError> {
        if !self.switched || self.may_enter(directory)? {
            return Ok(());
        }
        let mut ancestors: Vec<_> = directory.ancestors().collect();
        ancestors.reverse();
        for ancestor in ancestors {
            if !self.may_enter(ancestor)? {
                let user = self.name.clone();
                return Err(EmbeddedError::Unreachable { directory: ancestor.to_owned(), user });
            }
        }
        Ok(())
    }

    fn may_enter(&self, directory: &Path) -> Result<bool, EmbeddedError> {
        let output = run_raw(self.command(Path::new("test"), "KILL").arg("-x").arg(directory))?;
        match output.status.code() {
            Some(0) => Ok(true),
            // `test` is silent when it says no; `setpriv` explains why it could not run it.
            Some(1) if output.stderr.is_empty() => Ok(false),
            _ => Err(failure("setpriv", &output)),
        }
    }

    /// A program as this user, which gets `death_signal` when the thread that starts it ends.
    pub(super) fn command(&self, program: &Path, death_signal: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", death_signal]);
        if self.switched {
            command.arg("--reuid").arg(self.uid.to_string());
            command.arg("--regid").arg(self.gid.to_string());
            command.arg("--clear-groups");
        }
        command.arg("--").arg(program);
        command.env_clear().env("PATH", PATH).env("LC_ALL", "C.UTF-8");
        command.current_dir("/").stdin(Stdio::null());
        command
    }
}

/// The first user of a password file that is wanted, as an account to switch to.
fn user_where(passwd: &str, wanted: impl Fn(&Account) -> bool) -> Option<Account> {
    passwd
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?.to_owned();
            let uid = fields.nth(1)?.parse().ok()?;
            let gid = fields.next()?.parse().ok()?;
            Some(Account { name, uid, gid, switched: true })
        })
        .find(wanted)
}

/// Runs a program to its end and fails unless it succeeds.
pub(super) fn run(command: &mut Command, name: &str) -> Result<(), EmbeddedError> {
    let output = run_raw(command)?;
    if output.status.success() { Ok(()) } else { Err(failure(name, &output)) }
}

fn run_raw(command: &mut Command) -> Result<Output, EmbeddedError> {
    command.output().map_err(EmbeddedError::io(format!(
        "run {} (Debian's packages util-linux and coreutils bring what we need)",
        command.get_program().display()
    )))
}

fn failure(program: &str, output: &Output) -> EmbeddedError {
    let text = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    EmbeddedError::Program {
        program: program.to_owned(),
        status: output.status.to_string(),
        output: last_lines(&String::from_utf8_lossy(&text)),
    }
}

/// The end of a program's output, short enough to quote.
pub(super) fn last_lines(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(QUOTED_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_name_in_the_password_file() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\npostgres:x:105:112:,,,:/var:/bin/sh\n";

        let account = user_where(passwd, |user| user.name == "postgres").unwrap();

        assert_eq!((account.uid, account.gid), (105, 112));
    }

    #[test]
    fn data_of_a_version_that_is_not_here_names_its_package() {
        let error = Installation::find(Some(8), None).unwrap_err();

        assert!(error.to_string().contains("postgresql-8"), "{error}");
    }
}
