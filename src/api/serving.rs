//! Serving a route table on a listener until the shutdown signal.
//!
//! `axum::serve` lets a client that sends half a header, or nothing, sit there for ever, and takes as
//! many of them as there are file descriptors. Here each has a time and all together a number.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The longest that the first byte, and then the head of a request, may take.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a silent HTTP/2 client is asked whether it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Most connections of one listener; more wait in the system's queue.
const MAX_CONNECTIONS: usize = 4096;
/// How long requests under way may take to end after the shutdown signal.
const GRACE: Duration = Duration::from_secs(10);
/// After a failed accept, as when no file descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves until `shutdown`, then until the requests under way have ended; after ten seconds it cuts off
/// what is left.
pub async fn serve(listener: TcpListener, routes: Router, shutdown: CancellationToken) {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(KEEP_ALIVE);
    let builder = Arc::new(builder);
    let graceful = GracefulShutdown::new();
    let (connections, cut_off) = (TaskTracker::new(), CancellationToken::new());
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));

    let next = async || {
        let place = Arc::clone(&places).acquire_owned().await.expect("nobody closes it");
        (listener.accept().await, place)
    };
    while let Some((accepted, place)) = shutdown.run_until_cancelled(next()).await {
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (builder, routes, watcher) = (Arc::clone(&builder), routes.clone(), graceful.watcher());
        let (shutdown, cut_off) = (shutdown.clone(), cut_off.clone());
        connections.spawn(async move {
            if speaks(&stream, &shutdown).await {
                let served = converse(&builder, stream, routes, watcher);
                cut_off.run_until_cancelled(served).await;
            }
            drop(place);
        });
    }
    drop(listener);
    if timeout(GRACE, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests that did not end in time are cut off");
    }
    cut_off.cancel();
    connections.close();
    connections.wait().await;
}

/// Whether the client says anything in time.
async fn speaks(stream: &TcpStream, shutdown: &CancellationToken) -> bool {
    let mut byte = [0];
    let first_byte = timeout(HEADER_TIMEOUT, stream.peek(&mut byte));
    matches!(shutdown.run_until_cancelled(first_byte).await, Some(Ok(Ok(1))))
}

async fn converse(
    builder: &Builder<TokioExecutor>,
    stream: TcpStream,
    routes: Router,
    watcher: Watcher,
) {
    _ = stream.set_nodelay(true);
    let service = TowerToHyperService::new(routes);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(error, "a connection ended with an error");
    }
}
