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
use crate::api::serving::{self, Edge};
use crate::api::{self, Health, Monitoring, Plane};
use crate::catalog::changes::Changes;
use crate::catalog::tenants::NewTenant;
use crate::catalog::{Catalog, CatalogError};
use crate::cli::{Error, Result, edge};
use crate::config::Settings;
use crate::extract::Tenancy;
use crate::metrics::{Detail, Exporter};
use crate::operations::Environment;
use crate::operations::request::Requester;
use crate::router::TenantRouter;
use crate::tenant::{TenantSettings, TenantSlug, Tier};
use crate::worker::Worker;

/// How often what the pools hold is measured.
const MEASURE: Duration = Duration::from_secs(5);
const ADMIN: &str = "the admin API";

/// A socket, and how it meets its clients.
struct Listener {
    socket: TcpListener,
    edge: Edge,
}

impl Listener {
    fn address(&self) -> Option<SocketAddr> {
        self.socket.local_addr().ok()
    }
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
        let admin = edge::admin_api(&settings.edge)?;
        let data = match data {
            Some(edge) => Some(listen(edge, settings.listen, "the data plane").await?),
            None => None,
        };
        let admin = listen(admin, settings.admin_listen, ADMIN).await?;
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
        let exporter = Exporter::install(Detail {
            times: settings.advanced_metrics,
            tenants: settings.metrics_per_tenant,
        });

        if let Some((environment, slug)) = environment.as_ref().zip(settings.only_tenant()) {
            make_only_tenant(environment, slug, settings.tenant_name.clone()).await?;
        }

        let mut replica = Self {
            data_address: data.as_ref().and_then(Listener::address),
            admin_address: admin.address(),
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
        let health = |plane| Health::new(catalog.clone(), plane, settings.multi_tenant_mode);
        let monitoring = |plane| Monitoring {
            administrators: settings.administrators(&catalog),
            exporter,
            health: health(plane),
        };
        match (environment, &replica.router) {
            (Some(environment), _) => {
                let monitoring = monitoring(Plane::Control(Box::new(environment.clone())));
                replica.start_control_plane(admin, settings, environment, changes, monitoring);
            }
            (None, Some(router)) => {
                let monitoring = monitoring(Plane::Data(router.clone()));
                replica.serve("monitoring", admin, monitoring.alone());
            }
            (None, None) => unreachable!("a replica routes or works"),
        }
        Ok(replica)
    }

    /// Where the data plane listens, if this replica has one.
    pub fn data_address(&self) -> Option<SocketAddr> {
        self.data_address
    }

    /// Where the admin API listens, or what is left of it on a replica that only routes.
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
        monitoring: Monitoring,
    ) {
        let domains = settings.domains(&environment.catalog);
        let application =
            api::control_plane(environment.clone(), changes.clone(), domains, monitoring);
        self.serve(ADMIN, listener, application);
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

async fn listen(edge: Edge, address: SocketAddr, what: &str) -> Result<Listener> {
    let socket = TcpListener::bind(address).await;
    let failed = |error| Error::failed(format!("{what} cannot listen on {address}"), error);
    Ok(Listener { socket: socket.map_err(failed)?, edge })
}

async fn tend_metrics(exporter: Exporter, shutdown: CancellationToken) {
    while shutdown.run_until_cancelled(sleep(MEASURE)).await.is_some() {
        exporter.upkeep();
    }
}
