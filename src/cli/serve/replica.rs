//! [`Replica`]: the parts of one process, put together and started. The two planes share nothing but
//! the catalog and the news from it.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::Role;
use crate::api;
use crate::api::serving::{self, Edge};
use crate::catalog::changes::Changes;
use crate::catalog::tenants::NewTenant;
use crate::catalog::{Catalog, CatalogError};
use crate::cli::{Error, Result, edge};
use crate::config::Settings;
use crate::extract::Tenancy;
use crate::metrics::Exporter;
use crate::operations::Environment;
use crate::operations::request::Requester;
use crate::router::TenantRouter;
use crate::tenant::{TenantSettings, TenantSlug, Tier};
use crate::worker::Worker;

/// How often what the pools hold is measured.
const MEASURE: Duration = Duration::from_secs(5);

/// A socket, and how it meets its clients.
struct Listener {
    socket: TcpListener,
    edge: Edge,
}

/// A running replica; ends with the token that it was started with.
pub(in crate::cli) struct Replica {
    data_address: Option<SocketAddr>,
    admin_address: Option<SocketAddr>,
    router: Option<TenantRouter>,
    parts: JoinSet<()>,
    shutdown: CancellationToken,
}

impl Replica {
    /// Starts the parts of a role. A part that ends before its time cancels `shutdown`, so that the
    /// process ends rather than limps.
    pub async fn start(
        settings: &Settings,
        role: Role,
        shutdown: CancellationToken,
    ) -> Result<Self> {
        if role.routes() {
            settings.refuse_open_data_plane()?;
        }
        // First of all: a port that is taken, or a bad certificate, must not cost a start-up.
        let data = role.routes().then(|| edge::data_plane(&settings.edge)).transpose()?;
        let admin = role.works().then(|| edge::admin_api(&settings.edge)).transpose()?;
        let data = listen(data, settings.listen, "the data plane").await?;
        let admin = listen(admin, settings.admin_listen, "the admin API").await?;
        let catalog = settings.catalog()?;
        catalog.verify().await?;
        let environment = if role.works() {
            let store = settings.store().await?;
            let environment = Environment::new(catalog.clone(), store, settings.limits()).await?;
            Some(environment.with_webhook(settings.webhook.clone()))
        } else {
            None
        };
        let changes = catalog.changes();
        let exporter = Exporter::install();

        if let Some((environment, slug)) = environment.as_ref().zip(settings.only_tenant()) {
            make_only_tenant(environment, slug, settings.tenant_name.clone()).await?;
        }

        let mut replica = Self {
            data_address: address(data.as_ref()),
            admin_address: address(admin.as_ref()),
            router: None,
            parts: JoinSet::new(),
            shutdown,
        };
        if let Some(exporter) = exporter.clone() {
            replica.spawn("metrics", |shutdown| tend_metrics(exporter, shutdown));
        }
        if let Some(listener) = data {
            replica.start_data_plane(listener, settings, &catalog, &changes);
        }
        if let Some((listener, environment)) = admin.zip(environment) {
            replica.start_control_plane(listener, settings, environment, changes, exporter);
        }
        Ok(replica)
    }

    /// Where the data plane listens, if this replica has one.
    pub fn data_address(&self) -> Option<SocketAddr> {
        self.data_address
    }

    /// Where the admin API listens, if this replica has one.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin_address
    }

    /// Waits until everything has ended; cancel the token first.
    pub async fn join(mut self) {
        while self.parts.join_next().await.is_some() {}
        if let Some(router) = self.router.take() {
            router.close().await;
        }
    }

    fn start_data_plane(
        &mut self,
        listener: Listener,
        settings: &Settings,
        catalog: &Catalog,
        changes: &Changes,
    ) {
        let router = TenantRouter::new(catalog.clone(), changes.clone(), settings.router());
        let tenancy = Tenancy { router: router.clone(), resolver: settings.resolver(catalog) };
        let application = api::data_plane(
            tenancy,
            catalog.clone(),
            settings.registration(catalog),
            &settings.edge.cors_origins,
            settings.sql.clone(),
        );
        self.serve("the data plane", listener, application);
        self.router = Some(router);
    }

    fn start_control_plane(
        &mut self,
        listener: Listener,
        settings: &Settings,
        environment: Environment,
        changes: Changes,
        exporter: Option<Exporter>,
    ) {
        let administrators = settings.administrators(&environment.catalog);
        let domains = settings.domains(&environment.catalog);
        let application = api::control_plane(
            environment.clone(),
            changes.clone(),
            administrators,
            domains,
            exporter,
        );
        self.serve("the admin API", listener, application);
        let worker = Worker::new(environment, changes, settings.worker_concurrency);
        self.spawn("worker", |shutdown| worker.run(shutdown));
    }

    fn serve(&mut self, what: &'static str, listener: Listener, application: Router) {
        let Listener { socket, edge } = listener;
        if let Ok(address) = socket.local_addr() {
            tracing::info!(%address, tls = edge.tls.is_some(), "{what} listens");
        }
        self.spawn(what, |shutdown| serving::serve(socket, application, edge, shutdown));
    }

    fn spawn<F>(&mut self, what: &'static str, part: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let part = part(self.shutdown.clone());
        // Cancels when it is dropped, so also when the part panics.
        let ending = self.shutdown.clone().drop_guard();
        self.parts.spawn(async move {
            part.await;
            tracing::debug!("{what} has ended");
            drop(ending);
        });
    }
}

/// Asks for the one tenant of a single-tenant deployment, if nobody has yet.
async fn make_only_tenant(
    environment: &Environment,
    slug: TenantSlug,
    name: Option<String>,
) -> Result<()> {
    // It may have been renamed since; the slug in the settings still leads to it.
    if environment.catalog.tenant(&slug).await.is_ok() {
        return Ok(());
    }
    let new = NewTenant {
        name: name.unwrap_or_else(|| slug.to_string()),
        slug,
        tier: Tier::Shared,
        settings: TenantSettings::default(),
        server: None,
        track: None,
    };
    let by = Requester { name: "serve", idempotency_key: None };
    match environment.create_tenant(&new, false, by).await {
        Ok(_) | Err(CatalogError::Exists { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

async fn listen(wanted: Option<Edge>, address: SocketAddr, what: &str) -> Result<Option<Listener>> {
    let Some(edge) = wanted else { return Ok(None) };
    let socket = TcpListener::bind(address).await;
    let failed = |error| Error::failed(format!("{what} cannot listen on {address}"), error);
    Ok(Some(Listener { socket: socket.map_err(failed)?, edge }))
}

fn address(listener: Option<&Listener>) -> Option<SocketAddr> {
    listener.and_then(|listener| listener.socket.local_addr().ok())
}

async fn tend_metrics(exporter: Exporter, shutdown: CancellationToken) {
    while shutdown.run_until_cancelled(sleep(MEASURE)).await.is_some() {
        exporter.upkeep();
    }
}
