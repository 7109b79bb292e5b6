//! [`Refused`]: why a place gave no session.

use crate::router::STALE_CODES;
use crate::router::server::{OpenError, Verdict};
use crate::sql::wire::WireError;

/// Why a place gave no session.
pub(super) enum Refused {
    /// All that may be open is in use.
    Busy,
    /// The database is another one.
    Stamp,
    /// The server is known to be away, and was not asked again.
    Away,
    Wire(WireError),
    /// The server lets others in: it is the tenant's own sessions that end.
    Alone(WireError),
}

impl Refused {
    /// Whether it can come from a route that is a moment behind the catalog, or from a server that was away for
    /// a moment.
    pub fn may_be_stale(&self) -> bool {
        match self {
            Self::Busy | Self::Away => false,
            Self::Stamp | Self::Alone(_) => true,
            Self::Wire(error) => error.sql_state().is_some_and(|code| STALE_CODES.contains(&code)),
        }
    }
}

impl OpenError for Refused {
    fn away() -> Self {
        Self::Away
    }

    fn verdict(&self) -> Verdict {
        match self {
            Self::Away => Verdict::Away,
            Self::Busy | Self::Stamp | Self::Alone(_) => Verdict::There,
            Self::Wire(error) => error.verdict(),
        }
    }

    fn alone(self) -> Self {
        match self {
            Self::Wire(error) => Self::Alone(error),
            other => other,
        }
    }
}
