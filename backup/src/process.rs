//! Runs PostgreSQL's programs.
//!
//! A child gets the connection through libpq's environment variables, never its arguments, and of our
//! own environment only what it needs: no secret of ours, and no `PG…` variable that would send it
//! elsewhere. It dies with the future that runs it. Of what it writes to stderr the end is kept,
//! without the lines that quote a tenant's rows.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;

/// How much of the end of stderr is kept.
const STDERR_BYTES: usize = 8 * 1024;

/// How a line begins after which values of rows may follow ...
const QUOTING: [&str; 2] = ["DETAIL:", "CONTEXT:"];
/// ... and one after which a program speaks again.
const SPEAKING: [&str; 4] = ["pg_dump: ", "pg_restore: ", "Command was: ", "HINT:"];

/// What a child inherits, where we have it.
const INHERITED: [&str; 8] = [
    "PATH",
    "HOME",
    "LD_LIBRARY_PATH",
    "TMPDIR",
    "TZ",
    "KRB5CCNAME",
    "KRB5_CONFIG",
    "SSL_CERT_FILE",
];

/// A running program.
pub(crate) struct Process {
    child: Child,
    stderr: JoinHandle<String>,
}

/// How a program ended.
pub(crate) struct Exit {
    pub(crate) status: ExitStatus,
    pub(crate) stderr: String,
}

impl Process {
    pub(crate) fn start(
        program: &Path,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
        libpq_env: &[(&'static str, String)],
        stdin: Stdio,
        stdout: Stdio,
    ) -> io::Result<Self> {
        let mut command = command(program, libpq_env);
        command.args(arguments).stdin(stdin).stdout(stdout).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let stderr = child.stderr.take().expect("stderr was asked to be a pipe");
        Ok(Self { child, stderr: tokio::spawn(last_lines(stderr)) })
    }

    /// The program's stdin; once, and only if it was started with a pipe.
    pub(crate) fn take_stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().expect("stdin was asked to be a pipe, and is taken once")
    }

    /// The program's stdout; once, and only if it was started with a pipe.
    pub(crate) fn take_stdout(&mut self) -> ChildStdout {
        self.child.stdout.take().expect("stdout was asked to be a pipe, and is taken once")
    }

    /// Waits for the program's own end; once.
    pub(crate) async fn wait(&mut self) -> io::Result<Exit> {
        let status = self.child.wait().await?;
        let stderr = (&mut self.stderr).await.unwrap_or_default();
        Ok(Exit { status, stderr })
    }

    /// Ends the program if it still runs, and returns when it is gone.
    pub(crate) async fn kill(&mut self) {
        if let Err(error) = self.child.kill().await {
            tracing::debug!(error = &error as &dyn std::error::Error, "a child was gone already");
        }
    }
}

pub(crate) fn command(program: &Path, libpq_env: &[(&'static str, String)]) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("LC_ALL", "C").kill_on_drop(true);
    for name in INHERITED {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.envs(libpq_env.iter().map(|(name, value)| (*name, value)));
    command
}

/// Whether a program that could not be run may run another time.
pub(crate) fn may_run_later(error: &io::Error) -> bool {
    let lasting =
        [io::ErrorKind::NotFound, io::ErrorKind::PermissionDenied, io::ErrorKind::InvalidInput];
    !lasting.contains(&error.kind())
}

/// Names the variables without their values, one of which is a password.
pub(crate) fn names(libpq_env: &[(&'static str, String)]) -> Vec<&'static str> {
    libpq_env.iter().map(|(name, _)| *name).collect()
}

async fn last_lines(mut stderr: impl AsyncRead + Unpin) -> String {
    let mut kept = VecDeque::with_capacity(STDERR_BYTES);
    let mut buffer = [0; 4096];
    let mut cut = false;
    while let Ok(read @ 1..) = stderr.read(&mut buffer).await {
        kept.extend(&buffer[..read]);
        let surplus = kept.len().saturating_sub(STDERR_BYTES);
        cut |= surplus > 0;
        kept.drain(..surplus);
    }
    without_rows(&String::from_utf8_lossy(kept.make_contiguous()), cut)
}

/// `DETAIL` and `CONTEXT` quote values of rows, over several lines if need be, and an error must not
/// carry a tenant's data. A text whose beginning was `cut` off may begin within such a quotation.
fn without_rows(stderr: &str, cut: bool) -> String {
    let mut quoting = cut;
    let mut kept = Vec::new();
    for line in stderr.lines() {
        if QUOTING.iter().any(|start| line.starts_with(start)) {
            quoting = true;
        } else if SPEAKING.iter().any(|start| line.starts_with(start)) {
            quoting = false;
        }
        if !quoting {
            kept.push(line);
        }
    }
    kept.join("\n").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_of_a_long_stderr_is_kept() {
        let mut text = "x".repeat(3 * STDERR_BYTES);
        text.push_str("\npg_dump: error: the last words\n");

        let kept = last_lines(text.as_bytes()).await;

        assert!(kept.ends_with("pg_dump: error: the last words"));
        assert!(kept.len() <= STDERR_BYTES);
    }

    #[test]
    fn lines_that_quote_rows_are_left_out() {
        let stderr = "pg_restore: error: COPY failed for table \"notes\": ERROR:  duplicate key\n\
                      DETAIL:  Failing row contains (1, ada@example.com,\n\
                      and her second line).\n\
                      CONTEXT:  COPY notes, line 1\n\
                      pg_restore: warning: errors ignored on restore: 1\n";

        assert_eq!(
            without_rows(stderr, false),
            "pg_restore: error: COPY failed for table \"notes\": ERROR:  duplicate key\n\
             pg_restore: warning: errors ignored on restore: 1"
        );
        assert_eq!(
            without_rows("da@example.com).\npg_restore: error: x", true),
            "pg_restore: error: x"
        );
    }
}
