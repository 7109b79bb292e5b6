//! Whether a server is away, and who asks it when.
//!
//! A server that is away is asked by one request at a time, after growing pauses; the others wait for its
//! answer, and once it has been away for long they are told at once.
//!
//! Must never: take one tenant's word for it. A role may change its own settings and its own password, and end
//! its own sessions, so what a tenant meets may be of its own making. Where it can be, the server's administrator
//! knocks too, and only if nobody opens the server is away.

use std::time::{Duration, Instant};

use aws_lc_rs::rand;
use tenantry_provisioning::ServerUrl;
use tokio::time::{sleep_until, timeout, timeout_at};

use super::Server;

/// The pauses between two attempts to reach a server that is away: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// How long the administrator waits to be let in.
const KNOCK: Duration = Duration::from_secs(1);

#[derive(Clone, Copy)]
pub(super) struct Away {
    since: Instant,
    pause: Duration,
    ask_at: Instant,
}

/// What an error says about the server that it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is there, and said no to this tenant.
    There,
    /// It is away, or it is this tenant's sessions alone that end.
    Unsure,
    /// It is away for everybody.
    Away,
}

/// Why a connection, of whichever kind, could not be opened.
pub(crate) trait OpenError: Sized {
    /// The server is known to be away, and was not asked.
    fn away() -> Self;
    /// What it says about the server.
    fn verdict(&self) -> Verdict;
    /// The same, of a server that is there for others.
    fn alone(self) -> Self;

    /// Whether the server may be away.
    fn is_away(&self) -> bool {
        self.verdict() != Verdict::There
    }
}

/// What an error says about the server, by PostgreSQL's code for it and by the routine that it came from.
pub(crate) fn verdict(sql_state: Option<&str>, routine: Option<&str>) -> Verdict {
    // Where the limits of a role and of a database are kept to.
    const LIMITS: [&str; 2] = ["InitializeSessionUserId", "CheckMyDatabase"];
    match sql_state {
        None | Some("57P01") => Verdict::Unsure,
        Some("53300") if routine.is_some_and(|routine| LIMITS.contains(&routine)) => Verdict::There,
        Some("53300" | "57P02" | "57P03") => Verdict::Away,
        Some(_) => Verdict::There,
    }
}

impl Server {
    /// Lets `open` ask the server, when it is time for that; see the module.
    pub async fn ask<T, E: OpenError>(
        &self,
        home: &ServerUrl,
        deadline: Instant,
        patience: Duration,
        open: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let _asking = match self.away() {
            None => None,
            Some(away) if away.since.elapsed() > patience && Instant::now() < away.ask_at => {
                return Err(E::away());
            }
            Some(_) => {
                let asking = timeout_at(deadline.into(), self.asking.lock()).await;
                let asking = asking.map_err(|_| E::away())?;
                if let Some(away) = self.away() {
                    sleep_until(away.ask_at.min(deadline).into()).await;
                    Some(asking)
                } else {
                    None
                }
            }
        };
        let error = match open.await {
            Err(error) if error.is_away() => error,
            outcome => {
                self.note_there();
                return outcome;
            }
        };
        if error.verdict() == Verdict::Unsure && lets_in(home).await {
            self.note_there();
            return Err(error.alone());
        }
        self.note_away();
        Err(error)
    }

    fn away(&self) -> Option<Away> {
        self.state().away
    }

    fn note_there(&self) {
        self.state().away = None;
    }

    fn note_away(&self) {
        let now = Instant::now();
        let mut state = self.state();
        let (since, pause) = match state.away {
            Some(away) => (away.since, (away.pause * 2).min(PAUSES.1)),
            None => (now, PAUSES.0),
        };
        state.away = Some(Away { since, pause, ask_at: now + jittered(pause) });
    }
}

/// Whether the server has a session for its administrator.
async fn lets_in(home: &ServerUrl) -> bool {
    timeout(KNOCK, home.connect()).await.is_ok_and(|opened| opened.is_ok())
}

/// Between half of it and all of it, so that replicas do not ask together.
fn jittered(pause: Duration) -> Duration {
    let mut byte = [0];
    rand::fill(&mut byte).expect("the system has randomness");
    pause / 2 + pause * u32::from(byte[0]) / 512
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_no_tenants_own_doing_speaks_for_the_server() {
        for (code, routine, expected) in [
            (None, None, Verdict::Unsure),
            (Some("57P01"), Some("ProcessInterrupts"), Verdict::Unsure),
            (Some("57P03"), Some("ProcessStartupPacket"), Verdict::Away),
            (Some("53300"), Some("InitProcess"), Verdict::Away),
            (Some("53300"), Some("InitializeSessionUserId"), Verdict::There),
            (Some("53300"), Some("CheckMyDatabase"), Verdict::There),
            (Some("28P01"), None, Verdict::There),
            (Some("57P05"), None, Verdict::There),
        ] {
            assert_eq!(verdict(code, routine), expected, "{code:?} {routine:?}");
        }
    }
}
