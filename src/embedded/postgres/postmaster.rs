//! One running postmaster, and the thread that it lives with.
//!
//! The kernel ends the postmaster when the *thread* that started it ends. So one thread starts it,
//! waits for it, and does nothing else: they end together, and however our process dies, the
//! postmaster gets SIGINT, its fast shutdown.

use std::{
    process::{Child, Command, ExitStatus},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use tokio::sync::watch;

use super::super::EmbeddedError;

/// What the kernel sends to the postmaster when we die: finish transactions no more, but leave a
/// clean cluster.
pub(super) const DEATH_SIGNAL: &str = "INT";

/// An immediate shutdown takes some 20 ms. Whoever drops a postmaster waits no longer than this.
const DROP_LIMIT: Duration = Duration::from_secs(3);

/// A handle on the postmaster. Dropping it is an immediate shutdown.
#[derive(Debug)]
pub(super) struct Postmaster {
    pub(super) pid: Pid,
    /// `None` while it runs.
    ended: watch::Receiver<Option<ExitStatus>>,
}

impl Postmaster {
    /// Starts `command`, which runs `postgres` in the foreground, on a thread of its own.
    pub(super) fn start(mut command: Command) -> Result<Self, EmbeddedError> {
        let (started, start) = mpsc::sync_channel(1);
        let (ended_sender, ended) = watch::channel(None);
        thread::Builder::new()
            .name("postmaster".to_owned())
            .spawn(move || match command.spawn() {
                Ok(child) => {
                    drop(started.send(Ok(pid_of(&child))));
                    reap(child, &ended_sender);
                }
                Err(error) => drop(started.send(Err(error))),
            })
            .map_err(EmbeddedError::io("start a thread"))?;
        let pid = start
            .recv()
            .expect("the thread sends one answer before anything else")
            .map_err(EmbeddedError::io("run setpriv (Debian's package util-linux brings it)"))?;
        Ok(Self { pid, ended })
    }

    pub(super) fn exit_status(&self) -> Option<ExitStatus> {
        *self.ended.borrow()
    }

    /// Sends a signal, unless the process has ended: then its number may belong to somebody else.
    pub(super) fn signal(&self, signal: Signal) {
        // The reaper needs the write side of this lock to free the number.
        let ended = self.ended.borrow();
        if ended.is_none() {
            let _ = kill_process(self.pid, signal);
        }
    }

    /// Returns when it has ended.
    pub(super) async fn ended(&self) {
        // An error would say that the thread is gone, and it goes after the process.
        drop(self.ended.clone().wait_for(Option::is_some).await);
    }
}

impl Drop for Postmaster {
    fn drop(&mut self) {
        self.signal(Signal::QUIT);
        let deadline = Instant::now() + DROP_LIMIT;
        while self.exit_status().is_none() {
            if Instant::now() > deadline {
                // Its children notice and end by themselves.
                self.signal(Signal::KILL);
                break;
            }
            thread::sleep(Duration::from_millis(2));
        }
    }
}

fn pid_of(child: &Child) -> Pid {
    let raw = i32::try_from(child.id()).expect("a process number fits an i32");
    Pid::from_raw(raw).expect("no child has the number 0")
}

/// Waits without freeing the process number, and frees it under the lock that
/// [`Postmaster::signal`] takes.
fn reap(mut child: Child, ended: &watch::Sender<Option<ExitStatus>>) {
    let pid = pid_of(&child);
    while let Err(rustix::io::Errno::INTR) =
        waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)
    {}
    ended.send_modify(|status| {
        *status = Some(child.wait().expect("a child that has ended and was not waited for"));
    });
}
