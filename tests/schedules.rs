//! Backups on a schedule: each tenant once for each moment, a few at a time, and none where nothing has changed.

use std::time::Instant;

use jiff::{SignedDuration, Timestamp};
use reqwest::Client;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tenantry::catalog::lock::Claim;
use tenantry::catalog::operations::{OperationFilter, OperationState};
use tenantry::catalog::tenants::NewTenant;
use tenantry::catalog::tokens::Scope;
use tenantry::embedded::{EmbeddedPostgres, PostgresSettings};
use tenantry::operations::Environment;
use tenantry::operations::backup::Look;
use tenantry::tenant::settings::BackupPolicy;
use tenantry::tenant::{TenantSettings, Tier};
use tenantry_backup::BackupKey;

use crate::harness::process::{Serving, command};
use crate::harness::{BY, Fleet, Options, connect, eventually, new_tenant, slug};

/// A fleet that is backed up every day, on a server that does nothing by itself.
async fn fleet(names: &[&str]) -> Fleet {
    let extra = [("autovacuum", "off"), ("max_prepared_transactions", "2")];
    let extra = extra.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let postgres = PostgresSettings { extra, ..PostgresSettings::scratch() };
    let mut fleet = Fleet::start_with(Options { postgres, ..Options::default() }).await;
    fleet.environment.limits.backups.policy = policy(json!({ "schedule": "@daily" }));
    for name in names {
        fleet.create_tenant_with(name, true).await;
    }
    fleet
}

fn policy(value: Value) -> BackupPolicy {
    BackupPolicy::parse(value).unwrap()
}

/// So many days from now.
fn day(number: i64) -> Timestamp {
    Timestamp::now() + SignedDuration::from_hours(24 * number)
}

/// Does everything that is queued.
async fn work(fleet: &Fleet) {
    while fleet.runner().run_one(Claim::Any).await.unwrap().is_some() {}
}

/// How many backups were asked for.
async fn asked(fleet: &Fleet) -> usize {
    let filter = OperationFilter { limit: 1000, ..OperationFilter::default() };
    let all = fleet.catalog().operations(&filter).await.unwrap();
    all.iter().filter(|(operation, _)| operation.kind == "backup").count()
}

/// How many backups acme has.
async fn backups(fleet: &Fleet) -> usize {
    fleet.backups_of("acme").await.len()
}

/// Waits until nobody is connected to acme's database: who has just been there may have written.
async fn quiet(fleet: &Fleet) {
    let admin = fleet.admin("postgres").await;
    let others = "select count(*) from pg_stat_activity where datname = 'tenant_acme'";
    eventually("the sessions have ended", async || {
        admin.query_one(others, &[]).await.unwrap().get::<_, i64>(0) == 0
    })
    .await;
}

/// Takes the backup that a day's schedule asks for; says whether there is a new one.
async fn scheduled(fleet: &Fleet, number: i64) -> bool {
    let before = backups(fleet).await;
    let look = fleet.environment.back_up_due(day(number)).await.unwrap();
    assert_eq!(look.asked, 1, "{look:?}");
    work(fleet).await;
    let filter = OperationFilter { limit: 1, ..OperationFilter::default() };
    let (operation, _) = fleet.catalog().operations(&filter).await.unwrap().remove(0);
    assert_eq!(operation.state, OperationState::Succeeded, "{:?}", operation.error);
    backups(fleet).await > before
}

#[tokio::test]
async fn tenants_are_backed_up_once_for_each_moment_and_a_few_at_a_time() {
    let fleet = fleet(&["acme", "globex", "hooli", "initech", "umbrella"]).await;
    assert_eq!(fleet.environment.back_up_due(Timestamp::now()).await.unwrap(), Look::default());

    // Ten moments were missed.
    let replica = fleet.environment.clone();
    let late = day(10);
    let look = fleet.environment.back_up_due(late).await.unwrap();
    assert_eq!(look, Look { asked: 2, waiting: 3, paused: 0 });
    let look = fleet.environment.back_up_due(late).await.unwrap();
    assert_eq!(look, Look { asked: 0, waiting: 3, paused: 0 }, "two are under way");
    for _ in 0..2 {
        work(&fleet).await;
        let (one, other) =
            tokio::join!(fleet.environment.back_up_due(late), replica.back_up_due(late));
        assert!(one.unwrap().asked + other.unwrap().asked <= 2);
    }
    work(&fleet).await;

    assert_eq!(asked(&fleet).await, 5);
    let look = fleet.environment.back_up_due(late).await.unwrap();
    assert_eq!(look, Look::default(), "nothing is left to be done");
    assert_eq!(fleet.catalog().backups(None, 100).await.unwrap().len(), 5);
}

#[tokio::test]
async fn a_backup_that_failed_is_tried_again_after_an_hour() {
    let fleet = fleet(&["acme"]).await;
    let admin = fleet.admin("tenantry").await;
    let earlier = "update tenants set created_at = now() - interval '2 days'";
    admin.batch_execute(earlier).await.unwrap();
    let look = async || fleet.environment.back_up_due(Timestamp::now()).await.unwrap();
    let fail = async |minutes: i64| {
        let fail = format!(
            "update operations set state = 'failed', finished_at = now() - {minutes} * interval '1 minute'
             where kind = 'backup'"
        );
        admin.batch_execute(&fail).await.unwrap();
    };
    assert_eq!(look().await.asked, 1);

    fail(50).await;
    assert_eq!(look().await, Look::default());
    fail(70).await;
    assert_eq!(look().await.asked, 1);
    assert_eq!(look().await, Look::default(), "it is under way");
    work(&fleet).await;

    assert_eq!((asked(&fleet).await, backups(&fleet).await), (1, 1), "it is the same one");
    fail(70).await;
    assert_eq!(look().await, Look::default(), "there is a backup by now");
}

#[tokio::test]
async fn the_nearest_schedule_counts() {
    let mut fleet = fleet(&["acme", "globex"]).await;
    let settings = TenantSettings::parse(json!({ "backup": { "schedule": "off" } })).unwrap();
    fleet.catalog().change_settings(&slug("acme"), "test", |_| Ok(settings)).await.unwrap();
    assert_eq!(fleet.environment.back_up_due(day(1)).await.unwrap().asked, 1, "globex alone");
    work(&fleet).await;
    fleet.environment.limits.backups.policy = BackupPolicy::default();
    assert_eq!(fleet.environment.back_up_due(day(3)).await.unwrap(), Look::default());

    let hourly =
        |(_, backup): (&mut Value, &mut Value)| *backup = json!({ "schedule": "0 * * * *" });
    fleet.catalog().change_tier(Tier::Shared, "test", hourly).await.unwrap();

    assert_eq!(fleet.environment.back_up_due(day(3)).await.unwrap().asked, 1);
}

#[tokio::test]
async fn no_backup_begins_on_a_server_under_pressure() {
    let mut fleet = fleet(&["acme"]).await;
    fleet.environment.limits.backups.pause_above = 1;
    let admin = fleet.admin("postgres").await;
    let limit: i32 = admin
        .query_one("select current_setting('max_connections')::int", &[])
        .await
        .unwrap()
        .get(0);
    let mut busy = Vec::new();
    for _ in 0..=limit / 100 {
        let session = fleet.admin("postgres").await;
        busy.push(tokio::spawn(async move {
            _ = session.batch_execute("select pg_sleep(60) -- busy").await;
        }));
    }
    let at_work =
        "select count(*) from pg_stat_activity where query = 'select pg_sleep(60) -- busy'
                   and state = 'active'";
    let number = i64::try_from(busy.len()).unwrap();
    eventually("the server is busy", async || {
        admin.query_one(at_work, &[]).await.unwrap().get::<_, i64>(0) == number
    })
    .await;

    let look = fleet.environment.back_up_due(day(1)).await.unwrap();
    assert_eq!(look, Look { asked: 0, waiting: 0, paused: 1 });
    let end = "select pg_terminate_backend(pid) from pg_stat_activity where query like '% -- busy'";
    admin.batch_execute(end).await.unwrap();
    for session in busy {
        session.await.unwrap();
    }
    eventually("they have left", async || {
        admin.query_one(at_work, &[]).await.unwrap().get::<_, i64>(0) == 0
    })
    .await;

    let look = fleet.environment.back_up_due(day(1)).await.unwrap();
    assert_eq!(look.asked, 1, "it waits no longer");
}

/// Twenty backups, each after another kind of change: some ten seconds.
#[tokio::test]
async fn a_backup_stands_for_as_long_as_nothing_is_written() {
    let fleet = fleet(&["acme"]).await;
    let mut number = 0;
    let mut next = async || {
        quiet(&fleet).await;
        number += 1;
        scheduled(&fleet, number).await
    };
    assert!(next().await, "the first one");
    let newest = async || fleet.backups_of("acme").await.remove(0);
    assert_eq!(newest().await.confirmed_at, None);

    assert!(!next().await, "nothing was written");
    let confirmed = newest().await.confirmed_at.unwrap();
    fleet.count("acme", "boards").await;
    assert!(!next().await, "a reader writes nothing");
    assert!(newest().await.confirmed_at.unwrap() > confirmed);

    for change in [
        "insert into boards (title) values ('new')",
        "update boards set title = 'other' where title = 'new'",
        "delete from boards where title = 'other'",
        "truncate cards",
        "create table empty ()",
        "comment on table boards is 'seen'",
        "create materialized view copy as select * from boards",
        "refresh materialized view copy",
        "select nextval(pg_get_serial_sequence('boards', 'id'))",
        "select nextval(pg_get_serial_sequence('boards', 'id')) -- already in the log",
        "select setval(pg_get_serial_sequence('boards', 'id'), 500, false)",
        "select lo_from_bytea(70000, 'large')",
        "select lo_put(70000, 0, 'lArge')",
        "do $$ begin insert into boards (title) values ('new'); commit; end $$",
        "begin; insert into boards (title) values ('later'); prepare transaction 'later'",
        "commit prepared 'later'",
        "select pg_stat_reset()",
    ] {
        fleet.admin("tenant_acme").await.batch_execute(change).await.unwrap();
        assert!(next().await, "{change}");
    }
    assert!(!next().await, "and now nothing");
}

#[tokio::test]
async fn what_cannot_be_proven_counts_as_changed() {
    let fleet = fleet(&["acme"]).await;
    assert!(scheduled(&fleet, 1).await);
    quiet(&fleet).await;
    let session = fleet.admin("tenant_acme").await;

    session.batch_execute("select 1").await.unwrap();
    assert!(scheduled(&fleet, 2).await, "a session that may not have told all it did");
    session.batch_execute("begin").await.unwrap();
    assert!(scheduled(&fleet, 3).await, "a session that is in the middle of something");
    drop(session);
    quiet(&fleet).await;
    let off = "alter database tenant_acme set track_counts = off";
    fleet.admin("postgres").await.batch_execute(off).await.unwrap();
    assert!(scheduled(&fleet, 4).await, "counters that may be off");
    let on = "alter database tenant_acme reset track_counts";
    fleet.admin("postgres").await.batch_execute(on).await.unwrap();
    quiet(&fleet).await;
    assert!(scheduled(&fleet, 5).await, "counters that were off");
    quiet(&fleet).await;
    assert!(!scheduled(&fleet, 6).await);

    let tenant = fleet.tenant("acme").await.id.to_string();
    let newest = fleet.backups_of("acme").await[0].id.to_string();
    let folder = fleet.s3.data_dir().join("backups/tenantry").join(tenant).join(newest);
    std::fs::remove_file(folder.join("dump")).unwrap();
    quiet(&fleet).await;
    assert!(scheduled(&fleet, 7).await, "a backup that is no longer there");
}

#[tokio::test]
async fn a_backup_that_nobody_can_read_does_not_stand() {
    let fleet = fleet(&["acme"]).await;
    assert!(scheduled(&fleet, 1).await);
    quiet(&fleet).await;
    assert!(!scheduled(&fleet, 2).await);

    let bad = "update backups set problem = 'altered'";
    fleet.admin("tenantry").await.batch_execute(bad).await.unwrap();
    quiet(&fleet).await;
    assert!(scheduled(&fleet, 3).await, "a backup that is known to be bad");

    let destroyed = fleet.environment.destroy_backup_keys(&slug("acme"), BY).await.unwrap();
    fleet.complete(&destroyed).await;
    quiet(&fleet).await;
    assert!(scheduled(&fleet, 4).await, "a backup whose key is destroyed");

    let own = json!({ "encryption": { "recipient": BackupKey::generate().public() } });
    let settings = TenantSettings::parse(own).unwrap();
    fleet.catalog().change_settings(&slug("acme"), "test", |_| Ok(settings)).await.unwrap();
    quiet(&fleet).await;
    assert!(scheduled(&fleet, 5).await, "a backup that the tenant's own key does not open");
    quiet(&fleet).await;
    assert!(!scheduled(&fleet, 6).await);
}

/// A standby counts nothing of what it replays.
#[tokio::test]
async fn a_standby_proves_nothing() {
    let mut fleet = fleet(&[]).await;
    let primary = EmbeddedPostgres::start_scratch(PostgresSettings::scratch()).await.unwrap();
    let standby = primary.start_standby().await.unwrap();
    let id = fleet.catalog().add_server("eu-2", &primary.url().into()).await.unwrap().id;
    fleet.environment.server(id).await.unwrap().prepare().await.unwrap();
    let new = NewTenant { server: Some("eu-2".to_owned()), ..new_tenant("acme") };
    let made = fleet.environment.create_tenant(&new, true, BY).await.unwrap();
    fleet.complete(&made).await;
    // Whoever led the address of the primary to the standby did not mean to.
    fleet.catalog().set_server_url("eu-2", &standby.url().into()).await.unwrap();
    let Environment { catalog, store, limits, .. } = fleet.environment.clone();
    fleet.environment = Environment::new(catalog, store, limits).await.unwrap();
    let has = async |titles: &str| {
        let Ok(session) = connect(&standby.database_url("tenant_acme")).await else { return false };
        let sql = format!("select count(*) = 3 from boards where title {titles}");
        session.query_one(&sql, &[]).await.is_ok_and(|row| row.get(0))
    };
    eventually("it is replicated", async || has("<> 'new'").await).await;
    assert!(scheduled(&fleet, 1).await);

    let session = connect(&primary.database_url("tenant_acme")).await.unwrap();
    session.batch_execute("update boards set title = 'new'").await.unwrap();
    eventually("it is replicated", async || has("= 'new'").await).await;
    let admin = connect(&standby.url()).await.unwrap();
    let others = "select count(*) from pg_stat_activity where datname = 'tenant_acme'";
    eventually("the sessions have ended", async || {
        admin.query_one(others, &[]).await.unwrap().get::<_, i64>(0) == 0
    })
    .await;

    assert!(scheduled(&fleet, 2).await);
}

#[tokio::test]
async fn a_crash_that_loses_the_counts_counts_as_a_change() {
    let fleet = fleet(&["acme"]).await;
    assert!(scheduled(&fleet, 1).await);
    quiet(&fleet).await;
    assert!(!scheduled(&fleet, 2).await);

    let session = fleet.admin("tenant_acme").await;
    session.batch_execute("insert into boards (title) values ('committed')").await.unwrap();
    let pid: i32 = session.query_one("select pg_backend_pid()", &[]).await.unwrap().get(0);
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let url = fleet.postgres.database_url("tenant_acme");
    eventually("the server is back", async || {
        let Ok(session) = crate::harness::connect(&url).await else { return false };
        session.batch_execute("select 1").await.is_ok()
            && fleet.catalog().tenant(&slug("acme")).await.is_ok()
    })
    .await;
    quiet(&fleet).await;

    assert!(scheduled(&fleet, 3).await);
    assert_eq!(fleet.count("acme", "boards").await, 4);
}

#[tokio::test]
async fn a_replica_backs_up_what_is_due_one_after_the_other_without_a_look_at_all_for_each() {
    let names = ["acme", "globex", "hooli", "initech", "umbrella", "vandelay", "wonka", "zorg"];
    let fleet = fleet(&names).await;
    let earlier = "update tenants set created_at = now() - interval '2 days'";
    fleet.admin("tenantry").await.batch_execute(earlier).await.unwrap();
    let token = fleet.catalog().create_token("metrics", &[Scope::Metrics]).await.unwrap();

    let began = Instant::now();
    let settings = [("TENANTRY_BACKUP_SCHEDULE", "@daily"), ("TENANTRY_BACKUP_CONCURRENCY", "1")];
    let mut serving = Serving::start_as(&fleet, "worker", &settings);
    let admin = serving.address("the admin API").await;

    eventually("all are backed up", async || {
        fleet.catalog().backups(None, 10).await.unwrap().len() == names.len()
    })
    .await;
    let asked = Client::new().get(format!("{admin}/metrics")).bearer_auth(token.expose_secret());
    let metrics = asked.send().await.unwrap().text().await.unwrap();
    let looks = metrics
        .lines()
        .find_map(|line| {
            line.strip_prefix("tenantry_catalog_queries_total{query=\"protection::list\"} ")
        })
        .map(|number| number.parse::<u64>().unwrap());
    // One for what is due and one for the goals, and more of them as time goes by.
    let most = 2 + began.elapsed().as_secs() / 12 + began.elapsed().as_secs() / 54;
    assert!(looks.is_some_and(|looks| looks <= most), "{looks:?} of {most}: {metrics}");
    serving.terminate().await;
}

#[tokio::test]
async fn the_command_line_shows_and_changes_schedules() {
    let fleet = fleet(&["acme"]).await;

    for (line, status, words) in [
        ("tier list", 0, "as the fleet"),
        ("tier set shared --backup-schedule @hourly connections=5", 0, "are changed"),
        ("tier show shared", 0, "schedule @hourly"),
        ("tier unset shared backup.schedule", 0, "are changed"),
        ("tier show shared", 0, "as the fleet"),
        ("tier set shared --backup-schedule hourly", 2, "a cron expression of five fields"),
        ("tenant settings set acme backup.schedule=off", 0, "are changed"),
        ("tenant settings set acme backup.schedule=soon", 2, "a cron expression of five fields"),
    ] {
        let mut command = command(&fleet);
        command.args(line.split(' '));
        let ended = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let text = [ended.stdout, ended.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        assert_eq!(ended.status.code(), Some(status), "{line}: {text}");
        assert!(text.contains(words), "{line}: {text}");
    }
}
