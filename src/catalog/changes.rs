//! [`Changes`]: what the catalog tells its replicas, as it happens.
//!
//! One connection of its own listens, because a pooled one drops notifications. PostgreSQL delivers a
//! notification only to sessions that listen at that moment, so after every reconnect the listener
//! says [`Change::Unknown`]: whatever was cached may be stale. A probe every few seconds finds a
//! connection that died without a word.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use tenantry_provisioning::ServerUrl;
use tokio::sync::{broadcast, mpsc};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_postgres::AsyncMessage;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Catalog;
use super::operations::OperationState;
use crate::tenant::TenantSlug;

/// How often a silent connection is probed, and how long it may take to answer.
const PROBE: Duration = Duration::from_secs(5);
/// Pause between attempts to connect.
const RECONNECT: Duration = Duration::from_millis(250);
/// Changes that a slow reader may fall behind before it is told [`Change::Unknown`].
const BACKLOG: usize = 4096;

const LISTEN: &str = "listen tenantry_tenants; listen tenantry_settings; listen tenantry_operations; \
     listen tenantry_registrations; listen tenantry_routers; listen tenantry_read_replicas; \
     listen tenantry_tiers; listen tenantry_rollouts; listen tenantry_migrations";

/// Something happened in the catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A tenant was created, or its place, state, secret or limits changed.
    Tenant(TenantSlug),
    /// A tenant's name, schema or other settings changed; it is served as before.
    Settings(TenantSlug),
    /// An operation changed its state.
    Operation(Uuid, OperationState),
    /// A registration was approved.
    Registration,
    /// A replica came or went, or a server's budget changed.
    Routers,
    /// A server got or lost a read replica, or one of them another address.
    ReadReplicas,
    /// A tier has other limits, and with it every tenant that has none of its own.
    Tiers,
    /// Something happened in a rollout.
    Rollout(Uuid),
    /// Tenants should be at another version than before.
    Migrations,
    /// Changes may have been missed.
    Unknown,
}

/// A source of changes; clones and subscribers share one connection, which lives until the last
/// handle is dropped.
#[derive(Clone, Debug)]
pub struct Changes {
    sender: broadcast::Sender<Change>,
    _stop: std::sync::Arc<tokio_util::sync::DropGuard>,
}

/// One reader's view of the changes.
#[derive(Debug)]
pub struct Subscription(broadcast::Receiver<Change>);

impl Catalog {
    /// Starts listening.
    #[must_use]
    pub fn changes(&self) -> Changes {
        let (sender, _) = broadcast::channel(BACKLOG);
        let stop = CancellationToken::new();
        tokio::spawn(listen(self.url().clone(), sender.clone(), stop.clone()));
        Changes { sender, _stop: std::sync::Arc::new(stop.drop_guard()) }
    }
}

impl Changes {
    /// Everything from now on.
    #[must_use]
    pub fn subscribe(&self) -> Subscription {
        Subscription(self.sender.subscribe())
    }
}

impl Subscription {
    /// The next change. Never ends: when the listener is gone, it waits forever.
    pub async fn next(&mut self) -> Change {
        match self.0.recv().await {
            Ok(change) => change,
            Err(broadcast::error::RecvError::Lagged(_)) => Change::Unknown,
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}

async fn listen(url: ServerUrl, sender: broadcast::Sender<Change>, stop: CancellationToken) {
    let mut healthy = true;
    loop {
        let ended = tokio::select! {
            () = stop.cancelled() => return,
            ended = listen_once(&url, &sender) => ended,
        };
        if let Err(error) = ended
            && healthy
        {
            tracing::warn!(
                error = &*error,
                "the catalog's notifications are interrupted; reconnecting"
            );
        }
        healthy = false;
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(RECONNECT) => {}
        }
    }
}

/// Listens until the connection fails.
async fn listen_once(
    url: &ServerUrl,
    sender: &broadcast::Sender<Change>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let (client, mut connection) = timeout(PROBE, url.config().connect(url.tls())).await??;
    let (messages, mut received) = mpsc::unbounded_channel();
    let driver = async move {
        let mut stream = stream::poll_fn(move |cx| connection.poll_message(cx));
        while let Some(message) = stream.next().await {
            match message {
                Ok(AsyncMessage::Notification(note)) => _ = messages.send(note),
                Ok(_) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    };
    let relay = async {
        client.batch_execute(LISTEN).await?;
        _ = sender.send(Change::Unknown);
        let mut probe = interval(PROBE);
        probe.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                note = received.recv() => match note {
                    Some(note) => if let Some(change) = parse(note.channel(), note.payload()) {
                        _ = sender.send(change);
                    },
                    None => return Ok(()),
                },
                _ = probe.tick() => timeout(PROBE, client.batch_execute("")).await??,
            }
        }
    };
    tokio::select! {
        ended = driver => Ok(ended?),
        ended = relay => ended,
    }
}

fn parse(channel: &str, payload: &str) -> Option<Change> {
    match channel {
        "tenantry_tenants" => TenantSlug::parse(payload).ok().map(Change::Tenant),
        "tenantry_settings" => TenantSlug::parse(payload).ok().map(Change::Settings),
        "tenantry_operations" => {
            let (id, state) = payload.split_once(' ')?;
            Some(Change::Operation(id.parse().ok()?, OperationState::parse(state)?))
        }
        "tenantry_registrations" => Some(Change::Registration),
        "tenantry_routers" => Some(Change::Routers),
        "tenantry_read_replicas" => Some(Change::ReadReplicas),
        "tenantry_tiers" => Some(Change::Tiers),
        "tenantry_migrations" => Some(Change::Migrations),
        "tenantry_rollouts" => payload.parse().ok().map(Change::Rollout),
        _ => None,
    }
}
