//! A fleet in bad weather: tenants come, go, move and change while their servers and the catalog come and
//! go too, under load from clients that know what they were promised.
//!
//! Half a minute of it is part of the suite; `make soak` is a quarter of an hour. What it holds to:
//!
//! - no client ever reads another tenant's row;
//! - a write that was acknowledged is there, unless a restore to a time before it undid it;
//! - nobody is refused or cut off but in the windows that [`Cause`] names.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use secrecy::ExposeSecret as _;
use tenantry::catalog::tenants::NewTenant;
use tenantry::catalog::tokens::Scope;
use tenantry::embedded::{EmbeddedPostgres, PostgresSettings};
use tenantry::oidc::TokenVerifier;
use tenantry::operations::request::BackupChoice;
use tenantry::resolve::{IdentityResolver, IdentitySettings};
use tenantry::router::{RouterSettings, TenantRouter};
use tenantry::sql::SqlSettings;
use tenantry::{Tenancy, api};
use tenantry_provisioning::{Server, ServerUrl};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};

use self::client::{Client, Door};
use self::ledger::{Cause, Ledger};
use crate::harness::replica::serve;
use crate::harness::{BY, Fleet, Options, connect, eventually, new_tenant, slug};

mod client;
mod ledger;

/// Unless `TENANTRY_SOAK_SECONDS` says otherwise; `TENANTRY_SOAK_SEED` repeats the changes of an earlier run.
const IN_SUITE: Duration = Duration::from_secs(30);
const TENANTS: usize = 10;
/// Between two pieces of a client's work. In the suite other tests need the processors, too.
const PAUSE: Duration = Duration::from_millis(20);
const PAUSE_IN_SUITE: Duration = Duration::from_millis(100);
/// Of each replica; far fewer than there are clients.
const BUDGET: usize = 12;

#[expect(clippy::disallowed_methods, reason = "a knob of this test, not a setting of the product")]
fn knob(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a whole number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_weathers_trouble() {
    let time = knob("TENANTRY_SOAK_SECONDS").map_or(IN_SUITE, Duration::from_secs);
    let mut weather = Weather::new().await;
    for _ in 0..TENANTS {
        weather.create().await;
    }
    weather.started = Instant::now();
    while weather.started.elapsed() < time {
        weather.change().await;
        sleep(Duration::from_millis(100)).await;
    }
    weather.clear_up().await;
}

/// The fleet, its clients, and what happens to them.
struct Weather {
    fleet: Fleet,
    /// Where the tenants are; the catalog has a server of its own.
    server: EmbeddedPostgres,
    doors: Vec<Door>,
    clients: JoinSet<()>,
    tenants: Vec<Arc<Ledger>>,
    created: usize,
    migrations: usize,
    random: u64,
    changes: BTreeMap<&'static str, u32>,
    started: Instant,
    /// Sends the clients home.
    stop: CancellationToken,
    _serving: DropGuard,
}

impl Weather {
    async fn new() -> Self {
        let fleet = Fleet::start_with(Options { template: false, ..Options::default() }).await;
        let server = EmbeddedPostgres::start_scratch(PostgresSettings::scratch()).await.unwrap();
        Server::new(ServerUrl::parse(&server.url()).unwrap(), 2).prepare().await.unwrap();
        fleet.catalog().add_server("eu-1", &server.url().into()).await.unwrap();
        fleet.add_migration(
            "V2__promises.sql",
            "create table promises (number bigint primary key, value text not null);",
        );
        fleet.environment.reload_migrations().await.unwrap();

        let token = fleet.catalog().create_token("soak", &Scope::ALL).await.unwrap();
        let serving = CancellationToken::new();
        let mut doors = Vec::new();
        for _ in 0..2 {
            let router = router(&fleet);
            let catalog = || fleet.catalog().clone();
            let verifier = TokenVerifier::new(Vec::new()).unwrap();
            let identity = IdentityResolver::new(catalog(), verifier, IdentitySettings::default());
            let tenancy = Tenancy { router: router.clone(), resolver: Arc::new(identity) };
            let data = api::data_plane(tenancy, catalog(), None, &[], SqlSettings::default());
            let url = format!("{}/sql", serve(data, &serving).await);
            doors.push(Door::Library(router));
            doors.push(Door::Http { url, token: token.expose_secret().to_owned() });
        }
        let random = knob("TENANTRY_SOAK_SEED").unwrap_or(1);
        println!("the weather's seed is {random}");
        Self {
            fleet,
            server,
            doors,
            clients: JoinSet::new(),
            tenants: Vec::new(),
            created: 0,
            migrations: 2,
            random,
            changes: BTreeMap::new(),
            started: Instant::now(),
            stop: CancellationToken::new(),
            _serving: serving.drop_guard(),
        }
    }

    /// Something happens.
    async fn change(&mut self) {
        let what = match self.below(20) {
            0..=2 => "created",
            3..=5 => "suspended and resumed",
            6..=8 => "restored",
            9..=10 => "migrated, all",
            11..=12 => "deleted",
            13 => "password changed",
            14..=15 => "renamed",
            16 => "server restarted",
            17 => "server killed",
            _ => "catalog away",
        };
        println!("{:5.1} s: {what}", self.started.elapsed().as_secs_f32());
        *self.changes.entry(what).or_default() += 1;
        match what {
            "created" => self.create().await,
            "suspended and resumed" => self.suspend_and_resume().await,
            "restored" => self.restore().await,
            "migrated, all" => self.migrate().await,
            "deleted" => self.delete().await,
            "password changed" => self.change_password().await,
            "renamed" => self.rename().await,
            "server restarted" => self.restart_server(false).await,
            "server killed" => self.restart_server(true).await,
            _ => self.take_catalog_away().await,
        }
    }

    /// A new tenant, with a client at each door.
    async fn create(&mut self) {
        if self.tenants.len() >= 2 * TENANTS {
            return self.delete().await;
        }
        self.created += 1;
        let new = NewTenant {
            server: Some("eu-1".to_owned()),
            ..new_tenant(&format!("tenant-{}", self.created))
        };
        let operation = self.fleet.environment.create_tenant(&new, false, BY).await.unwrap();
        self.fleet.complete(&operation).await;
        let ledger = Arc::new(Ledger::new(new.slug, self.started));
        let alone = knob("TENANTRY_SOAK_SECONDS").is_some();
        let pause = if alone { PAUSE } else { PAUSE_IN_SUITE };
        for door in &self.doors {
            let client = Client::new(door.clone(), Arc::clone(&ledger), pause, self.stop.clone());
            self.clients.spawn(client.work());
        }
        self.tenants.push(ledger);
    }

    async fn suspend_and_resume(&mut self) {
        let tenant = self.any();
        let window = tenant.open(Cause::Suspended);
        let operation = self.fleet.environment.suspend(&tenant.slug, None, BY).await.unwrap();
        self.fleet.complete(&operation).await;
        sleep(Duration::from_millis(200)).await;
        let operation = self.fleet.environment.resume(&tenant.slug, BY).await.unwrap();
        self.fleet.complete(&operation).await;
        window.close();
    }

    /// Takes a backup, lets time pass, and goes back to it.
    async fn restore(&mut self) {
        let tenant = self.any();
        let window = tenant.open(Cause::Restored);
        let operation = self.fleet.environment.back_up(&tenant.slug, BY).await.unwrap();
        self.fleet.complete(&operation).await;
        sleep(Duration::from_millis(200)).await;
        let restoring = self.fleet.environment.restore(&tenant.slug, BackupChoice::Latest, BY);
        let operation = restoring.await.unwrap();
        self.fleet.complete(&operation).await;
        window.close();
    }

    /// Every tenant gets a column more: what is prepared as `select *` returns something else.
    async fn migrate(&mut self) {
        self.migrations += 1;
        let number = self.migrations;
        let sql = format!("alter table promises add column more{number} int not null default 1;");
        self.fleet.add_migration(&format!("V{number}__more.sql"), &sql);
        self.fleet.environment.reload_migrations().await.unwrap();
        let slugs: Vec<_> = self.tenants.iter().map(|tenant| tenant.slug.clone()).collect();
        let batch = self.fleet.environment.migrate_fleet(&slugs, "soak").await.unwrap();
        self.fleet.runner().complete_batch(batch, 4).await.unwrap();
        for slug in slugs {
            let version = self.fleet.catalog().tenant(&slug).await.unwrap().schema_version;
            assert_eq!(version, i64::try_from(number).unwrap(), "{slug}");
        }
    }

    async fn delete(&mut self) {
        if self.tenants.len() <= TENANTS / 2 {
            return;
        }
        let index = self.below(self.tenants.len());
        let tenant = self.tenants.swap_remove(index);
        let _for_good = tenant.open(Cause::Deleted);
        let operation = self.fleet.environment.delete(&tenant.slug, false, BY).await.unwrap();
        self.fleet.complete(&operation).await;
        tenant.retire();
    }

    async fn change_password(&mut self) {
        let tenant = self.any();
        let operation = self.fleet.environment.rotate_password(&tenant.slug, BY).await.unwrap();
        self.fleet.complete(&operation).await;
    }

    /// Its clients go on with the old slug: it leads to the tenant all the same.
    async fn rename(&mut self) {
        let tenant = self.any();
        self.created += 1;
        let to = slug(&format!("tenant-{}", self.created));
        let operation = self.fleet.environment.rename(&tenant.slug, &to, BY).await.unwrap();
        self.fleet.complete(&operation).await;
    }

    async fn restart_server(&mut self, kill: bool) {
        let windows: Vec<_> =
            self.tenants.iter().map(|tenant| tenant.open(Cause::ServerRestarted)).collect();
        if kill {
            self.server.kill();
            sleep(Duration::from_millis(300)).await;
        }
        self.server.restart().await.unwrap();
        windows.into_iter().for_each(ledger::Window::close);
    }

    /// Known tenants are served all the same.
    async fn take_catalog_away(&mut self) {
        self.fleet.postgres.kill();
        sleep(Duration::from_secs(2)).await;
        self.fleet.postgres.restart().await.unwrap();
        // Operations need it; a replica would try again by itself.
        eventually("the catalog answers", async || {
            self.fleet.catalog().tenant(&self.tenants[0].slug).await.is_ok()
        })
        .await;
    }

    /// Looks whether every promise was kept.
    async fn clear_up(mut self) {
        let time = self.started.elapsed();
        self.stop.cancel();
        while let Some(ended) = self.clients.join_next().await {
            ended.expect("a client does not panic");
        }
        let mut tally = ledger::Tally::default();
        for tenant in &self.tenants {
            let now = self.fleet.catalog().tenant(&tenant.slug).await.unwrap();
            let url = self.server.database_url(now.database.as_str());
            let session = connect(&url).await.unwrap();
            let rows = session.query("select number, value from promises", &[]).await.unwrap();
            tenant.settle(rows.iter().map(|row| (row.get(0), row.get(1))));
            tally.add(tenant);
        }
        println!("in {} s: {:?}\n{tally}", time.as_secs(), self.changes);
        assert!(tally.faults.is_empty(), "{:#?}", tally.faults);
        assert!(tally.writes > 100, "the clients got somewhere");
        self.fleet.assert_healthy().await;
    }

    fn any(&mut self) -> Arc<Ledger> {
        let index = self.below(self.tenants.len());
        Arc::clone(&self.tenants[index])
    }

    /// A number below another, by an xorshift generator.
    fn below(&mut self, bound: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        usize::try_from(self.random >> 33).unwrap() % bound
    }
}

fn router(fleet: &Fleet) -> TenantRouter {
    let settings = RouterSettings {
        server_budget: BUDGET,
        pool_wait_timeout: Duration::from_secs(30),
        ..RouterSettings::default()
    };
    TenantRouter::new(fleet.catalog().clone(), fleet.catalog().changes(), settings)
}
