//! [`Interrupt`]: the wish that the process ends, by Ctrl-C or by a service manager.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Listens for SIGINT and SIGTERM. From its first use on, these no longer end the process by
/// themselves, so whoever listens must act on them.
#[derive(Debug)]
pub struct Interrupt {
    interrupted: Signal,
    terminated: Signal,
}

impl Interrupt {
    /// Starts listening.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupted: signal(SignalKind::interrupt())?,
            terminated: signal(SignalKind::terminate())?,
        })
    }

    /// The next signal.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupted.recv() => {}
            _ = self.terminated.recv() => {}
        }
    }
}
