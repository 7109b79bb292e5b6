//! A temporary directory that disappears with this process, even when the process is killed with
//! SIGKILL.
//!
//! A small shell waits at the other end of a pipe. When the pipe closes, because the value was
//! dropped or because the kernel closed it for a dead process, the shell removes the directory. One
//! way of removal for both cases.

use std::{
    fs::{self, Permissions},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use super::EmbeddedError;

/// A server that is still shutting down writes into the directory, so that one `rm` may meet a new
/// file: ask again for ten seconds.
const REAPER: &str = r#"
    trap '' INT TERM HUP
    read -r _
    tries=0
    until rm -rf -- "$1" 2>/dev/null || [ "$tries" -ge 100 ]; do
        tries=$((tries + 1))
        sleep 0.1
    done
"#;

/// The longest directory that leaves room for `/tenantry-XXXXXX/socket/.s.PGSQL.65535.lock` in the
/// 107 bytes of a socket's address.
const LONGEST_BASE: usize = 60;

/// A directory under the system's temporary directory; everybody may enter it, only we may list it.
#[derive(Debug)]
pub(super) struct Scratch {
    path: PathBuf,
    reaper: Child,
}

impl Scratch {
    /// Creates it. The path is short enough to hold a Unix socket.
    pub(super) fn new() -> Result<Self, EmbeddedError> {
        let base = Some(std::env::temp_dir())
            .filter(|dir| dir.is_absolute() && dir.as_os_str().len() <= LONGEST_BASE)
            .unwrap_or_else(|| PathBuf::from("/tmp"));
        let path = tempfile::Builder::new()
            .prefix("tenantry-")
            .tempdir_in(&base)
            .map_err(EmbeddedError::io(format!("create a directory in {}", base.display())))?
            .keep();
        let reaper = Command::new("/bin/sh")
            .args(["-c", REAPER, "tenantry-reaper"])
            .arg(&path)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C goes to our whole process group, and the reaper has work to do after it.
            .process_group(0)
            .spawn()
            .map_err(EmbeddedError::io("start /bin/sh"))?;
        let scratch = Self { path, reaper };
        fs::set_permissions(scratch.path(), Permissions::from_mode(0o711))
            .map_err(EmbeddedError::io(format!("open {}", scratch.path().display())))?;
        Ok(scratch)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(self.reaper.stdin.take());
        // The reaper gives up by itself; what it could not remove is left to the system.
        drop(self.reaper.wait());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scratch_directory_goes_away_with_its_content() {
        let scratch = Scratch::new().unwrap();
        let path = scratch.path().to_owned();
        fs::write(path.join("file"), "content").unwrap();

        drop(scratch);

        assert!(!path.exists());
    }
}
