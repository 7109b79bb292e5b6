//! Serving a route table on a listener until the shutdown signal.
//!
//! `axum::serve` lets a client that sends half a header, or nothing, sit there for ever, and takes as
//! many of them as there are file descriptors. Here each has a time and all together a number. Whatever
//! waits for a client waits in that client's own task; the accept loop waits for nobody.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::header::STRICT_TRANSPORT_SECURITY;
use axum::http::{HeaderValue, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;
use tracing::Instrument as _;

use crate::resolve::TrustedProxies;

mod tls;

pub use tls::{Tls, TlsError, TlsFiles};

/// The longest that a TLS handshake, and then the head of a request, may take.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a silent HTTP/2 client is asked whether it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Most requests at a time of one HTTP/2 client, who need not read their answers.
const MAX_STREAMS: u32 = 32;
/// Most connections of one listener; more wait in the system's queue.
const MAX_CONNECTIONS: usize = 4096;
/// How long requests under way may take to end after the shutdown signal.
const GRACE: Duration = Duration::from_secs(10);
/// After a failed accept, as when no file descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// For a year, browsers come back by TLS only.
const TLS_ONLY: HeaderValue = HeaderValue::from_static("max-age=31536000");

/// How a listener meets its clients; by default in plain HTTP, and believing no proxy.
#[derive(Clone, Default)]
pub struct Edge {
    /// Encrypts.
    pub tls: Option<Tls>,
    /// Whose word about the client counts.
    pub proxies: TrustedProxies,
}

/// What every connection of a listener is served with.
struct Service {
    builder: Builder<TokioExecutor>,
    routes: Router,
    edge: Edge,
}

/// Serves until `shutdown`, then until the requests under way have ended; after ten seconds it cuts off
/// what is left.
pub async fn serve(listener: TcpListener, routes: Router, edge: Edge, shutdown: CancellationToken) {
    let service = Arc::new(Service::new(routes, edge));
    let graceful = GracefulShutdown::new();
    let (connections, cut_off) = (TaskTracker::new(), CancellationToken::new());
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    if let Some(tls) = &service.edge.tls {
        let address = listener.local_addr().ok().map(tracing::field::display);
        let span = tracing::info_span!("listener", address);
        connections.spawn(tls.clone().watch(shutdown.clone()).instrument(span));
    }

    let next = async || {
        let place = Arc::clone(&places).acquire_owned().await.expect("nobody closes it");
        (listener.accept().await, place)
    };
    while let Some((accepted, place)) = shutdown.run_until_cancelled(next()).await {
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (service, watcher) = (Arc::clone(&service), graceful.watcher());
        let (shutdown, cut_off) = (shutdown.clone(), cut_off.clone());
        connections.spawn(async move {
            let served = service.receive(stream, peer.ip(), watcher, &shutdown);
            cut_off.run_until_cancelled(served).await;
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

impl Service {
    fn new(routes: Router, edge: Edge) -> Self {
        let mut builder = Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
        let mut http2 = builder.http2();
        http2.timer(TokioTimer::new()).keep_alive_interval(KEEP_ALIVE);
        http2.max_concurrent_streams(MAX_STREAMS);
        Self { builder, routes, edge }
    }

    async fn receive(
        &self,
        stream: TcpStream,
        peer: IpAddr,
        watcher: Watcher,
        shutdown: &CancellationToken,
    ) {
        _ = stream.set_nodelay(true);
        let Some(tls) = &self.edge.tls else {
            return self.converse(stream, peer, watcher).await;
        };
        let handshake = timeout(HEADER_TIMEOUT, tls.accept(stream));
        match shutdown.run_until_cancelled(handshake).await {
            Some(Ok(Ok(stream))) => self.converse(stream, peer, watcher).await,
            Some(Ok(Err(error))) => tracing::debug!(%error, %peer, "a TLS handshake failed"),
            Some(Err(_)) => tracing::debug!(%peer, "a TLS handshake took too long"),
            None => {}
        }
    }

    async fn converse(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        peer: IpAddr,
        watcher: Watcher,
    ) {
        let heard = CancellationToken::new();
        let service = {
            let (heard, proxies) = (heard.clone(), self.edge.proxies.clone());
            let encrypted = self.edge.tls.is_some();
            self.routes
                .clone()
                .map_request(move |mut request: Request<_>| {
                    heard.cancel();
                    proxies.introduce(peer, &mut request);
                    request
                })
                .map_response(move |mut response: Response<_>| {
                    if encrypted {
                        response.headers_mut().insert(STRICT_TRANSPORT_SECURITY, TLS_ONLY);
                    }
                    response
                })
        };
        let service = TowerToHyperService::new(service);
        let connection = self.builder.serve_connection(TokioIo::new(stream), service);
        tokio::select! {
            ended = watcher.watch(connection) => if let Err(error) = ended {
                tracing::debug!(error, "a connection ended with an error");
            },
            () = silence(&heard) => tracing::debug!(%peer, "a connection without a request is cut off"),
        }
    }
}

/// Ends when the first request has not come in time; when it has, never. The timeouts of the HTTP
/// library begin only once it knows which HTTP is spoken.
async fn silence(heard: &CancellationToken) {
    if timeout(HEADER_TIMEOUT, heard.cancelled()).await.is_ok() {
        std::future::pending::<()>().await;
    }
}
