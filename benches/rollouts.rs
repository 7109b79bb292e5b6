//! `make bench`: a change of a whole fleet's schema, by the program itself, beside the loop of a shell. Prints
//! rows of the same table as the other parts. `cargo bench --bench rollouts -- up` measures only that part.

#[path = "../tests/harness/mod.rs"]
#[expect(dead_code, reason = "the tests use the rest")]
mod harness;
#[expect(dead_code, reason = "other parts use the rest")]
mod table;

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use harness::{Fleet, product, slug};
use table::{figure, middle, row, shell};
use tenantry::operations::upkeep;
use tenantry::router::TenantRouter;
use tenantry::tenant::TenantSlug;
use tokio::task::JoinSet;

const TENANTS: usize = 1000;
/// Files that all of them get, one after the other.
const ROUNDS: i64 = 3;
/// How many of them are written to while they are migrated, and by how many clients.
const BUSY: usize = 200;
const CLIENTS: usize = 8;

#[tokio::main]
async fn main() {
    table::head();
    let wanted = table::wanted();
    if wanted("history") {
        history().await;
    }
    if wanted("up") {
        let fleet = table::start().await;
        let slugs: Vec<_> = (0..TENANTS).map(|number| slug(&format!("t{number}"))).collect();
        for tenant in &slugs {
            fleet.create_tenant_with(tenant.as_str(), true).await;
        }
        verify(&fleet);
        up(&fleet, &slugs).await;
        nothing_to_do(&fleet).await;
        under_load(&fleet, &slugs[..BUSY]).await;
    }
}

/// A tenant of a product that is some years old, beside its files run one by one.
async fn history() {
    const ROUNDS: usize = 5;
    let fleet = table::start().await;
    let files = product::files();
    for (name, sql) in &files {
        fleet.add_migration(name, sql);
    }
    std::fs::remove_file(fleet.migrations.path().join("V1__boards.sql"))
        .expect("the sample's file");
    fleet.environment.reload_migrations().await.expect("the files are good");
    upkeep::tend(&fleet.environment).await.expect("a template");
    let (mut clones, mut loops) = (Vec::new(), Vec::new());
    let folder = fleet.migrations.path().display();
    for round in 0..ROUNDS {
        let started = Instant::now();
        fleet.create_tenant(&format!("clone{round}")).await;
        clones.push(started.elapsed());
        loops.push(shell(
            &fleet,
            &format!(
                "createdb peer{round}
                 for file in $(cd {folder}; ls V*.sql | sort -V; ls R*.sql); do
                     psql -qX -v ON_ERROR_STOP=1 -d peer{round} -f {folder}/$file
                 done"
            ),
        ));
        // Beside a database that is open to everybody no tenant is isolated.
        shell(&fleet, &format!("psql -qXc 'revoke all on database peer{round} from public'"));
    }
    let what = format!("a tenant of {} files / createdb and psql -f of each", files.len());
    row(&what, middle(clones), middle(loops), "<= 0.05");
}

/// Every tenant compared with what its files make.
fn verify(fleet: &Fleet) {
    let time = tenantry(fleet, &["migrate", "verify"]);
    let tenants = f64::from(u32::try_from(TENANTS).expect("a thousand"));
    let rate = tenants / time.as_secs_f64();
    println!("{:<70} {rate:>10.0}/s {:>12} {:>8}  (rate)", "verify 1,000 tenants", "", "");
}

/// One added column on all of them, in turns: four at a time, as `migrate up` does when nothing else is said.
async fn up(fleet: &Fleet, slugs: &[TenantSlug]) {
    let folder = tempfile::tempdir().expect("a folder");
    let (file, names) = (folder.path().join("column.sql"), folder.path().join("names"));
    let databases: Vec<_> = slugs.iter().map(|slug| format!("tenant_{slug}\n")).collect();
    std::fs::write(&names, databases.concat()).expect("a file");
    let loops = format!(
        "xargs -P 4 -I{{}} psql -qX -v ON_ERROR_STOP=1 -d {{}} -f {} < {}",
        file.display(),
        names.display()
    );
    let (mut ours, mut peer) = (Vec::new(), Vec::new());
    for version in 2..2 + ROUNDS {
        let column = |name: &str| format!("alter table cards add column {name}{version} date;");
        std::fs::write(&file, column("peer")).expect("a file");
        peer.push(shell(fleet, &loops));
        fleet.add_migration(&format!("V{version}__due.sql"), &column("due"));
        ours.push(tenantry(fleet, &["migrate", "up"]));
        assert_eq!(at(fleet, version).await, slugs.len(), "every tenant is recorded");
    }
    row("migrate 1,000 tenants / xargs -P 4 psql", middle(ours), middle(peer), "<= 0.5");
}

async fn nothing_to_do(fleet: &Fleet) {
    let before = sessions(fleet).await;
    let time = tenantry(fleet, &["migrate", "up"]);
    let opened = sessions(fleet).await - before;
    figure("migrate 1,000 tenants, nothing to do", &format!("{time:.0?}"), "< 1 s");
    figure("  connections to their databases", &opened.to_string(), "0");
}

/// A column and an index that is built concurrently, while clients write all the time.
async fn under_load(fleet: &Fleet, slugs: &[TenantSlug]) {
    let last = 1 + ROUNDS;
    fleet.add_migration(
        &format!("V{}__done_at.sql", last + 1),
        "alter table cards add column done_at timestamptz;",
    );
    fleet.add_migration(
        &format!("V{}__titles.sql", last + 2),
        "-- tenantry: no-transaction\ncreate index concurrently cards_titles on cards (title);",
    );
    let router = fleet.router();
    let running = Arc::new(AtomicBool::new(true));
    let (written, failed) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let (router, running) = (router.clone(), Arc::clone(&running));
        let (written, failed) = (Arc::clone(&written), Arc::clone(&failed));
        let slugs: Vec<_> = slugs.iter().skip(client).step_by(CLIENTS).cloned().collect();
        clients.spawn(async move {
            for slug in slugs.iter().cycle() {
                if !running.load(Ordering::Relaxed) {
                    return;
                }
                match write(&router, slug).await {
                    Ok(()) => written.fetch_add(1, Ordering::Relaxed),
                    Err(_) => failed.fetch_add(1, Ordering::Relaxed),
                };
            }
        });
    }
    let mut arguments = vec!["migrate", "up", "--concurrency", "4"];
    arguments.extend(slugs.iter().flat_map(|slug| ["--tenant", slug.as_str()]));
    let time = tenantry(fleet, &arguments);
    running.store(false, Ordering::Relaxed);
    clients.join_all().await;
    assert_eq!(at(fleet, last + 2).await, slugs.len(), "every tenant is recorded");
    let (written, failed) = (written.load(Ordering::Relaxed), failed.load(Ordering::Relaxed));
    figure(
        &format!("failed of {written} writes while 200 tenants get a column and an index"),
        &failed.to_string(),
        &format!("0 (took {time:.1?})"),
    );
}

async fn write(router: &TenantRouter, slug: &TenantSlug) -> Result<(), Box<dyn std::error::Error>> {
    let sql = "insert into cards (board_id, title) select min(id), 'while it changes' from boards";
    let connection = router.connection(slug).await?;
    connection.execute(sql, &[]).await?;
    Ok(())
}

/// How many tenants have a version, by the catalog.
async fn at(fleet: &Fleet, version: i64) -> usize {
    let session = fleet.admin("tenantry").await;
    let sql = "select count(*) from tenants where schema_version = $1";
    let row = session.query_one(sql, &[&version]).await.expect("the catalog answers");
    usize::try_from(row.get::<_, i64>(0)).expect("it is positive")
}

/// Sessions that there ever were on the tenants' databases.
async fn sessions(fleet: &Fleet) -> i64 {
    // A backend that has ended may tell a moment later.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let session = fleet.admin("postgres").await;
    let sql = "select sum(sessions)::bigint from pg_stat_database where datname like 'tenant\\_t%'";
    session.query_one(sql, &[]).await.expect("the server answers").get(0)
}

/// Runs the program and returns how long it took.
fn tenantry(fleet: &Fleet, arguments: &[&str]) -> Duration {
    let started = Instant::now();
    let mut command = harness::process::command(fleet);
    let command = command.env("TENANTRY_WARM_SPARES", "0").args(arguments);
    let ended = command.stdout(Stdio::null()).output().expect("the program runs");
    let time = started.elapsed();
    assert!(ended.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&ended.stderr));
    time
}
