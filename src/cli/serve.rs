//! `tenantry serve`: one replica, until it is told to stop.

use std::time::Duration;

use clap::{Args, ValueEnum};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{Context, Error, Interrupt, Outcome, Result};

mod replica;

pub(super) use replica::Replica;

/// How long requests and steps under way may take to end.
const GRACE: Duration = Duration::from_secs(30);

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry serve
  tenantry serve --role worker --admin-listen 0.0.0.0:8081
  tenantry serve --role router --listen 127.0.0.1:9000

Replicas need nothing of each other: start as many as you like. SIGTERM and Ctrl-C stop one in order:
it takes no more work, hands back what it has between two steps, and closes its connections.")]
pub(super) struct Options {
    /// Which parts this replica runs
    #[arg(long, value_enum, default_value_t)]
    role: Role,
    /// Where the data plane listens [setting: TENANTRY_LISTEN]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Where the admin API, health and metrics are [setting: TENANTRY_ADMIN_LISTEN]
    #[arg(long, value_name = "ADDRESS")]
    admin_listen: Option<String>,
}

/// Which parts a replica runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Role {
    /// Both.
    #[default]
    All,
    /// The data plane; of the admin listener only health and metrics.
    Router,
    /// The admin API and the workers only.
    Worker,
}

impl Options {
    /// The settings that the flags give.
    pub fn flags(&self) -> Vec<(&'static str, String)> {
        let listen = self.listen.clone().map(|address| ("listen", address));
        let admin_listen = self.admin_listen.clone().map(|address| ("admin_listen", address));
        listen.into_iter().chain(admin_listen).collect()
    }
}

impl Role {
    /// Whether requests of tenants are answered.
    pub fn routes(self) -> bool {
        matches!(self, Self::All | Self::Router)
    }

    /// Whether operations are driven and the admin API is answered.
    pub fn works(self) -> bool {
        matches!(self, Self::All | Self::Worker)
    }
}

pub(super) async fn run(options: Options, context: &Context) -> Result<Outcome> {
    let shutdown = CancellationToken::new();
    let mut interrupt = Interrupt::listen()
        .map_err(|error| Error::failed("signals cannot be listened for", error))?;
    let replica = tokio::select! {
        started = Replica::start(&context.settings, options.role, shutdown.clone()) => started?,
        () = interrupt.next() => return Ok(Outcome::Done),
    };

    let outcome = tokio::select! {
        () = interrupt.next() => Outcome::Done,
        // A part ended that nobody had asked to.
        () = shutdown.cancelled() => Outcome::Failed,
    };
    tracing::info!("stopping; a second signal leaves at once");
    shutdown.cancel();
    tokio::select! {
        () = replica.join() => tracing::info!("stopped"),
        () = interrupt.next() => tracing::warn!("left at once; another replica goes on with the rest"),
        () = sleep(GRACE) => tracing::warn!("left what did not end in time to other replicas"),
    }
    Ok(outcome)
}
