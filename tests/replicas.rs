//! Read replicas and failover: a server with a streaming standby that lags, dies, or takes its place.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tenantry::catalog::tenants::NewTenant;
use tenantry::embedded::{EmbeddedPostgres, PostgresSettings};
use tenantry::operations::request::BackupChoice;
use tenantry::router::{RouterError, RouterSettings, TenantConnection, TenantRouter};
use tenantry::tenant::TenantSlug;
use tokio::task::JoinSet;
use tokio_postgres::Client;

use crate::harness::{BY, Fleet, connect, eventually, new_tenant, router_settings, slug};

mod operating;

/// A fleet whose server has a read replica that the catalog knows.
struct Pair {
    fleet: Fleet,
    standby: EmbeddedPostgres,
}

impl Pair {
    async fn start(tenants: &[&str]) -> Self {
        let fleet = Fleet::start().await;
        for tenant in tenants {
            fleet.create_tenant(tenant).await;
        }
        let standby = fleet.postgres.start_standby().await.unwrap();
        let url = standby.url().into();
        fleet.catalog().add_read_replica("default", "copy", &url).await.unwrap();
        Self { fleet, standby }
    }

    fn router(&self, max_lag: Duration) -> TenantRouter {
        let settings = RouterSettings { replica_max_lag: max_lag, ..router_settings() };
        TenantRouter::new(self.fleet.catalog().clone(), self.fleet.changes.clone(), settings)
    }

    /// An administrator's session on the standby.
    async fn admin(&self) -> Client {
        connect(&self.standby.url()).await.unwrap()
    }
}

/// Clients that run a statement again and again, and how often they did.
struct Load {
    clients: JoinSet<()>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    done: AtomicUsize,
    failed: AtomicUsize,
    ended: AtomicBool,
}

impl Load {
    /// A client for each of these tenants. It must always get a connection, in this way.
    fn start<F>(
        tenants: &[&'static str],
        sql: &'static str,
        connect: impl Fn(TenantSlug) -> F + Clone + Send + 'static,
    ) -> Self
    where
        F: Future<Output = Result<TenantConnection, RouterError>> + Send,
    {
        let (mut clients, counts) = (JoinSet::new(), Arc::new(Counts::default()));
        for &tenant in tenants {
            let (connect, counts) = (connect.clone(), Arc::clone(&counts));
            clients.spawn(async move {
                while !counts.ended.load(Ordering::Relaxed) {
                    let connection = connect(slug(tenant)).await.expect("it is served");
                    let failed = connection.execute(sql, &[]).await.is_err();
                    counts.failed.fetch_add(usize::from(failed), Ordering::Relaxed);
                    counts.done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        Self { clients, counts }
    }

    fn done(&self) -> usize {
        self.counts.done.load(Ordering::Relaxed)
    }

    /// How many statements failed.
    async fn stop(mut self) -> usize {
        self.counts.ended.store(true, Ordering::Relaxed);
        while let Some(ended) = self.clients.join_next().await {
            ended.unwrap();
        }
        self.counts.failed.load(Ordering::Relaxed)
    }
}

/// A cluster that answers nothing, as behind a network that swallows everything.
struct Frozen(Vec<u32>);

impl Frozen {
    fn new(cluster: &EmbeddedPostgres) -> Self {
        let frozen = Self(cluster.processes());
        frozen.signal("-STOP");
        frozen
    }

    fn signal(&self, signal: &str) {
        let processes = self.0.iter().map(ToString::to_string);
        // One of them may have ended meanwhile.
        Command::new("kill").arg(signal).args(processes).status().unwrap();
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.signal("-CONT");
    }
}

/// Whether readers of this tenant are led to a standby.
async fn reads_elsewhere(router: &TenantRouter, tenant: &str) -> bool {
    let connection = router.read_only(&slug(tenant)).await.unwrap();
    let row = connection.query_one("select pg_is_in_recovery()", &[]).await.unwrap();
    row.get(0)
}

async fn write(router: &TenantRouter, tenant: &str, title: &str) {
    let connection = router.connection(&slug(tenant)).await.unwrap();
    let sql = "insert into boards (title) values ($1)";
    connection.execute(sql, &[&title]).await.unwrap();
}

async fn titles(router: &TenantRouter, tenant: &str) -> Vec<String> {
    let connection = router.read_only(&slug(tenant)).await.unwrap();
    let rows = connection.query("select title from boards order by id", &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

const SHORT: Duration = Duration::from_secs(3);

#[tokio::test]
async fn readers_are_led_to_a_read_replica_and_writers_are_not() {
    let pair = Pair::start(&["acme", "globex"]).await;
    let router = pair.router(SHORT);
    eventually("readers are led there", async || reads_elsewhere(&router, "acme").await).await;

    write(&router, "acme", "new").await;

    eventually("the row is there", async || titles(&router, "acme").await == ["new"]).await;
    eventually("all are", async || reads_elsewhere(&router, "globex").await).await;
    assert!(titles(&router, "globex").await.is_empty());
    let reader = router.read_only(&slug("acme")).await.unwrap();
    let refused = reader.execute("insert into boards (title) values ('x')", &[]).await;
    assert_eq!(refused.unwrap_err().code().unwrap().code(), "25006");
    let writer = router.connection(&slug("acme")).await.unwrap();
    let row = writer.query_one("select pg_is_in_recovery()", &[]).await.unwrap();
    assert!(!row.get::<_, bool>(0));
}

#[tokio::test]
async fn readers_leave_a_read_replica_that_lags_and_come_back() {
    let pair = Pair::start(&["acme"]).await;
    let router = pair.router(SHORT);
    eventually("readers are led there", async || reads_elsewhere(&router, "acme").await).await;

    pair.admin().await.batch_execute("select pg_wal_replay_pause()").await.unwrap();
    write(&router, "acme", "new").await;
    eventually("it lags too much", async || !reads_elsewhere(&router, "acme").await).await;
    assert_eq!(titles(&router, "acme").await, ["new"]);

    pair.admin().await.batch_execute("select pg_wal_replay_resume()").await.unwrap();
    eventually("it has caught up", async || reads_elsewhere(&router, "acme").await).await;
    assert_eq!(titles(&router, "acme").await, ["new"]);
}

#[tokio::test]
async fn a_read_replica_that_is_cut_off_does_not_take_itself_for_up_to_date() {
    let pair = Pair::start(&["acme"]).await;
    let router = pair.router(SHORT);
    eventually("readers are led there", async || reads_elsewhere(&router, "acme").await).await;

    let cut = "alter system set primary_conninfo = ''";
    let admin = pair.admin().await;
    admin.batch_execute(cut).await.unwrap();
    admin.batch_execute("select pg_reload_conf()").await.unwrap();
    write(&router, "acme", "new").await;

    eventually("it lags too much", async || !reads_elsewhere(&router, "acme").await).await;
    assert_eq!(titles(&router, "acme").await, ["new"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_replica_that_dies_costs_the_statements_that_it_was_running() {
    const READERS: usize = 4;
    let mut pair = Pair::start(&["acme"]).await;
    let router = pair.router(Duration::from_secs(30));
    write(&router, "acme", "old").await;
    eventually("readers are led there", async || reads_elsewhere(&router, "acme").await).await;
    eventually("it has the row", async || titles(&router, "acme").await == ["old"]).await;
    let reader = router.clone();
    let load = Load::start(&["acme"; READERS], "select title from boards", move |tenant| {
        let reader = reader.clone();
        async move { reader.read_only(&tenant).await }
    });

    pair.standby.kill();
    pair.standby.ended().await;
    let after = load.done();
    eventually("they go on", async || load.done() > after + 100).await;
    assert!(!reads_elsewhere(&router, "acme").await);
    let failed = load.stop().await;

    assert!(failed <= READERS, "{failed} statements failed");
    pair.standby.restart().await.unwrap();
    eventually("readers come back", async || reads_elsewhere(&router, "acme").await).await;
}

#[tokio::test]
async fn a_read_replica_that_hangs_is_left_within_a_moment() {
    let pair = Pair::start(&["acme"]).await;
    let router = pair.router(Duration::from_secs(30));
    eventually("readers are led there", async || reads_elsewhere(&router, "acme").await).await;
    // Nobody who holds the one that lies idle gives it back: the next reader opens another.
    let _held = router.read_only(&slug("acme")).await.unwrap();

    let frozen = Frozen::new(&pair.standby);
    let started = Instant::now();
    assert!(!reads_elsewhere(&router, "acme").await);
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    drop(frozen);

    eventually("readers come back", async || reads_elsewhere(&router, "acme").await).await;
}

#[tokio::test]
async fn what_a_read_replica_has_not_replayed_yet_is_read_from_the_primary() {
    let pair = Pair::start(&["acme", "globex"]).await;
    let router = pair.router(Duration::from_mins(1));
    eventually("readers are led there", async || reads_elsewhere(&router, "acme").await).await;
    pair.fleet.back_up("globex").await;
    write(&router, "globex", "after the backup").await;
    eventually("readers see it", async || titles(&router, "globex").await.len() == 1).await;

    // From now on it knows no new tenant, no new password, and no restored database.
    pair.admin().await.batch_execute("select pg_wal_replay_pause()").await.unwrap();
    pair.fleet.create_tenant("initech").await;
    let environment = &pair.fleet.environment;
    let rotated = environment.rotate_password(&slug("acme"), BY).await.unwrap();
    pair.fleet.complete(&rotated).await;
    let restored = environment.restore(&slug("globex"), BackupChoice::Latest, BY).await.unwrap();
    pair.fleet.complete(&restored).await;

    for tenant in ["initech", "acme", "globex"] {
        eventually("it reads at home", async || !reads_elsewhere(&router, tenant).await).await;
    }
    assert!(titles(&router, "globex").await.is_empty());
    let suspended =
        environment.suspend(&slug("acme"), Some("unpaid".to_owned()), BY).await.unwrap();
    pair.fleet.complete(&suspended).await;
    eventually("it is not served", async || {
        matches!(router.read_only(&slug("acme")).await, Err(RouterError::NotServed { .. }))
    })
    .await;

    pair.admin().await.batch_execute("select pg_wal_replay_resume()").await.unwrap();
    for tenant in ["initech", "globex"] {
        eventually("readers come back", async || reads_elsewhere(&router, tenant).await).await;
    }
    assert!(titles(&router, "globex").await.is_empty());
}

/// A server of its own with a standby, known by the addresses of both.
async fn add_server(fleet: &Fleet, tenants: &[&str]) -> (EmbeddedPostgres, EmbeddedPostgres) {
    let primary = EmbeddedPostgres::start_scratch(PostgresSettings::scratch()).await.unwrap();
    let standby = primary.start_standby().await.unwrap();
    let (one, other) = (primary.port().unwrap(), standby.port().unwrap());
    let url = format!(
        "postgres://postgres:{}@127.0.0.1:{one},127.0.0.1:{other}/postgres?target_session_attrs=read-write",
        primary.password()
    );
    let catalog = fleet.catalog();
    let id = catalog.add_server("eu-2", &url.into()).await.unwrap().id;
    catalog.add_read_replica("eu-2", "copy", &standby.url().into()).await.unwrap();
    fleet.environment.server(id).await.unwrap().prepare().await.unwrap();
    for tenant in tenants {
        let new = NewTenant { server: Some("eu-2".to_owned()), ..new_tenant(tenant) };
        let operation = fleet.environment.create_tenant(&new, false, BY).await.unwrap();
        fleet.complete(&operation).await;
    }
    (primary, standby)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_costs_the_statements_that_were_running_and_nothing_else() {
    const TENANTS: [&str; 6] = ["t0", "t1", "t2", "t3", "t4", "t5"];
    let fleet = Fleet::start().await;
    fleet.create_tenant("near").await;
    let (primary, standby) = add_server(&fleet, &TENANTS).await;
    let settings =
        RouterSettings { pool_wait_timeout: Duration::from_secs(20), ..router_settings() };
    let router = TenantRouter::new(fleet.catalog().clone(), fleet.changes.clone(), settings);
    for tenant in TENANTS {
        write(&router, tenant, "before").await;
        eventually("it is replicated", async || titles(&router, tenant).await == ["before"]).await;
    }
    let writer = router.clone();
    let load = Load::start(&TENANTS, "update boards set title = title", move |tenant| {
        let writer = writer.clone();
        async move { writer.connection(&tenant).await }
    });
    eventually("they work", async || load.done() > 100).await;

    primary.kill();
    primary.ended().await;
    let mut waiting = JoinSet::new();
    for tenant in TENANTS {
        let router = router.clone();
        waiting.spawn(async move { write(&router, tenant, "after").await });
    }
    // Meanwhile the others are served as ever.
    for _ in 0..20 {
        let started = Instant::now();
        write(&router, "near", "new").await;
        assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    }
    let promoted = connect(&standby.url()).await.unwrap();
    promoted.batch_execute("select pg_promote()").await.unwrap();

    while let Some(written) = waiting.join_next().await {
        written.unwrap();
    }
    let after = load.done();
    eventually("they go on", async || load.done() > after + 100).await;
    let failed = load.stop().await;
    assert!(failed <= TENANTS.len(), "{failed} statements failed");
    for tenant in TENANTS {
        assert_eq!(titles(&router, tenant).await, ["before", "after"]);
        assert!(!reads_elsewhere(&router, tenant).await, "there is no standby any more");
    }
}

#[tokio::test]
async fn a_server_with_another_address_is_reached_there_at_once() {
    let fleet = Fleet::start().await;
    let (primary, standby) = add_server(&fleet, &["acme"]).await;
    let first = primary.url().into();
    fleet.catalog().set_server_url("eu-2", &first).await.unwrap();
    let router = fleet.router();
    write(&router, "acme", "before").await;
    eventually("it is replicated", async || titles(&router, "acme").await == ["before"]).await;

    primary.kill();
    primary.ended().await;
    let promoted = connect(&standby.url()).await.unwrap();
    promoted.batch_execute("select pg_promote()").await.unwrap();
    fleet.catalog().set_server_url("eu-2", &standby.url().into()).await.unwrap();

    write(&router, "acme", "after").await;
    assert_eq!(titles(&router, "acme").await, ["before", "after"]);
}
