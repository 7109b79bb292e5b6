//! The catalog's server dies and takes the last moments of its log with it, or is put back to an earlier moment: what
//! was begun on the servers of tenants comes to its end all the same, and nobody loses what was acknowledged.

use tenantry::catalog::lock::Claim;
use tenantry::catalog::operations::{OperationRecord, OperationState};
use tenantry::catalog::tenants::NewTenant;
use tenantry::embedded::{EmbeddedPostgres, PostgresSettings};
use tenantry::operations::Way;
use tenantry::operations::request::BackupChoice;
use tenantry::operations::runner::Disturbance;
use tenantry::tenant::{Tenant, TenantState};

use crate::harness::{BY, Fleet, Options, connect, eventually, new_tenant, once, slug};

/// A catalog whose log stays in memory unless a commit waits for it, and the tenant `acme` on another server.
struct Apart {
    fleet: Fleet,
    home: EmbeddedPostgres,
    other: EmbeddedPostgres,
}

fn settings(name: &str, value: &str) -> PostgresSettings {
    let mut settings = PostgresSettings::scratch();
    settings.extra = vec![
        (name.to_owned(), value.to_owned()),
        ("wal_retrieve_retry_interval".to_owned(), "100ms".to_owned()),
    ];
    settings
}

impl Apart {
    async fn start() -> Self {
        let postgres = settings("wal_writer_delay", "10s");
        let fleet = Fleet::start_with(Options { postgres, ..Options::default() }).await;
        let home = add(&fleet, "eu-2").await;
        let other = add(&fleet, "eu-3").await;
        let new = NewTenant { server: Some("eu-2".to_owned()), ..new_tenant("acme") };
        let made = fleet.environment.create_tenant(&new, true, BY).await.unwrap();
        fleet.complete(&made).await;
        Self { fleet, home, other }
    }

    /// Has a worker die at a step; nothing that it has written so far is on the disk by chance.
    async fn die_at(&self, asked: &OperationRecord, step: &'static str, done: bool) {
        let runner = self.fleet.disturbed_runner(once(step, done, Disturbance::Vanish));
        assert_eq!(runner.run_one(Claim::Operation(asked.id)).await.unwrap(), Some(asked.id));
    }

    /// What came before is on the disk, and what comes next begins on a page of its own.
    async fn settle_log(&self) {
        self.fleet.catalog().release_all_abandoned().await.unwrap();
        let admin = self.fleet.admin("tenantry").await;
        admin.batch_execute("select pg_switch_wal(); checkpoint").await.unwrap();
    }

    async fn crash(&mut self) {
        self.fleet.postgres.kill();
        self.fleet.postgres.restart().await.unwrap();
        let catalog = self.fleet.catalog();
        eventually("the catalog answers", async || {
            catalog.tenants_after(uuid::Uuid::nil(), 1).await.is_ok()
        })
        .await;
    }

    /// A worker goes on, which must end well.
    async fn go_on(&self, asked: &OperationRecord) {
        self.fleet.catalog().release_all_abandoned().await.unwrap();
        self.fleet.complete(asked).await;
    }

    /// A client that gets its answer.
    async fn write(&self, name: &str) {
        let connection = self.fleet.router().connection(&slug(name)).await.unwrap();
        connection.execute("insert into boards (title) values ('written')", &[]).await.unwrap();
    }

    async fn assert_served(&self, name: &str, server: &str, boards: i64) -> Tenant {
        let acme = self.fleet.tenant(name).await;
        assert_eq!((&*acme.server_name, acme.state), (server, TenantState::Active));
        let connection = self.fleet.router().connection(&slug(name)).await.unwrap();
        let row = connection.query_one("select count(*) from boards", &[]).await.unwrap();
        assert_eq!(row.get::<_, i64>(0), boards);
        self.fleet.assert_healthy().await;
        acme
    }

    /// Has the catalog forget what an operation has said since it was asked for.
    async fn forget(&self, asked: &OperationRecord, before: &Tenant) {
        self.fleet.catalog().release_all_abandoned().await.unwrap();
        let catalog = self.fleet.admin("tenantry").await;
        let forget = format!(
            "update operations set completed_steps = 0, memory = '{{}}' where id = '{}';
             delete from retained_databases;
             update tenants set state = 'active', epoch = {}, server_id = '{}', slug = '{}',
                    database_name = '{}', role_name = '{}'",
            asked.id, before.epoch, before.server_id, before.slug, before.database, before.role
        );
        catalog.batch_execute(&forget).await.unwrap();
    }
}

async fn add(fleet: &Fleet, name: &str) -> EmbeddedPostgres {
    let server = EmbeddedPostgres::start_scratch(settings("wal_level", "logical")).await.unwrap();
    let record = fleet.catalog().add_server(name, &server.url().into()).await.unwrap();
    fleet.environment.server(record.id).await.unwrap().prepare().await.unwrap();
    server
}

#[tokio::test]
async fn a_move_whose_end_the_catalog_had_heard_is_not_forgotten() {
    for way in [Way::Offline, Way::Online] {
        let mut apart = Apart::start().await;
        let asked = apart.fleet.environment.relocate_by(&slug("acme"), "eu-3", way, BY).await;
        let asked = asked.unwrap();
        if way == Way::Online {
            apart.die_at(&asked, "move", false).await;
        }
        apart.settle_log().await;
        apart.die_at(&asked, "move", true).await;
        apart.write("acme").await;
        apart.crash().await;

        apart.go_on(&asked).await;

        apart.assert_served("acme", "eu-3", 4).await;
    }
}

/// Between the old place, which is shut, and the new one, which is not open yet.
#[tokio::test]
async fn a_catalog_that_dies_in_the_middle_of_a_cutover_knows_of_it() {
    let mut apart = Apart::start().await;
    let asked = apart.fleet.environment.relocate_by(&slug("acme"), "eu-3", Way::Offline, BY).await;
    let asked = asked.unwrap();
    let holder = connect(&apart.other.url()).await.unwrap();
    let hold = "select pg_advisory_lock(hashtextextended('tenantry tenant_acme', 0))";
    holder.batch_execute(hold).await.unwrap();
    apart.settle_log().await;
    let (runner, id) = (apart.fleet.runner(), asked.id);
    let working = tokio::spawn(async move { runner.run_one(Claim::Operation(id)).await });
    eventually("it waits for its new place", async || {
        let waits = "select from pg_locks where locktype = 'advisory' and not granted";
        !holder.query(waits, &[]).await.unwrap().is_empty()
    })
    .await;

    apart.crash().await;
    drop(working.await.unwrap());
    drop(holder);
    apart.go_on(&asked).await;

    apart.write("acme").await;
    apart.assert_served("acme", "eu-3", 4).await;
}

#[tokio::test]
async fn a_rename_whose_cutover_is_done_goes_on() {
    let mut apart = Apart::start().await;
    let asked = apart.fleet.environment.rename(&slug("acme"), &slug("initech"), BY).await.unwrap();
    apart.settle_log().await;
    apart.die_at(&asked, "cut_over", true).await;
    apart.crash().await;

    apart.go_on(&asked).await;

    apart.write("initech").await;
    apart.assert_served("initech", "eu-2", 4).await;
}

#[tokio::test]
async fn a_restore_that_is_done_is_not_forgotten() {
    let mut apart = Apart::start().await;
    apart.fleet.back_up("acme").await;
    let restore = apart.fleet.environment.restore(&slug("acme"), BackupChoice::Latest, BY).await;
    let asked = restore.unwrap();
    apart.die_at(&asked, "migrate_beside", false).await;
    apart.settle_log().await;
    apart.die_at(&asked, "cut_over", true).await;
    apart.write("acme").await;
    apart.crash().await;

    apart.go_on(&asked).await;

    apart.assert_served("acme", "eu-2", 4).await;
}

/// As after a failover to a standby that lacked the last moments.
#[tokio::test]
async fn a_move_is_found_on_the_server_where_it_came_to() {
    for way in [Way::Offline, Way::Online] {
        let apart = Apart::start().await;
        let before = apart.fleet.tenant("acme").await;
        let asked = apart.fleet.environment.relocate_by(&slug("acme"), "eu-3", way, BY).await;
        let asked = asked.unwrap();
        apart.die_at(&asked, "move", true).await;
        apart.write("acme").await;
        apart.forget(&asked, &before).await;

        let runner = apart.fleet.disturbed_runner(once("follow", false, Disturbance::Fail));
        assert_eq!(runner.complete(asked.id).await.unwrap().state, OperationState::Failed);
        apart.fleet.environment.cancel(asked.id).await.unwrap();
        let refused = apart.fleet.runner().complete(asked.id).await.unwrap();
        let error = refused.error.unwrap();
        assert!(error.message.contains("on the other server already"), "{error:?}");
        let catalog = apart.fleet.admin("tenantry").await;
        let anew = "update operations set abandoning = false, completed_steps = 0 where id = $1";
        catalog.execute(anew, &[&asked.id]).await.unwrap();
        apart.fleet.catalog().retry(asked.id).await.unwrap();
        apart.fleet.complete(&asked).await;

        apart.assert_served("acme", "eu-3", 4).await;
        let slots = "select count(*) from pg_replication_slots where slot_name ~ '^tenantry_move'";
        let home = connect(&apart.home.url()).await.unwrap();
        assert_eq!(home.query_one(slots, &[]).await.unwrap().get::<_, i64>(0), 0);
    }
}

#[tokio::test]
async fn a_rename_is_found_on_the_server() {
    for is_given_up in [false, true] {
        let apart = Apart::start().await;
        let before = apart.fleet.tenant("acme").await;
        let (from, to) = (slug("acme"), slug("initech"));
        let asked = apart.fleet.environment.rename(&from, &to, BY).await.unwrap();
        apart.die_at(&asked, "cut_over", true).await;
        apart.forget(&asked, &before).await;

        if is_given_up {
            let runner =
                apart.fleet.disturbed_runner(once("check_names", false, Disturbance::Fail));
            assert_eq!(runner.complete(asked.id).await.unwrap().state, OperationState::Failed);
            apart.fleet.environment.cancel(asked.id).await.unwrap();
            let ended = apart.fleet.runner().complete(asked.id).await.unwrap();
            assert_eq!(ended.state, OperationState::Cancelled, "{:?}", ended.error);
            apart.assert_served("acme", "eu-2", 3).await;
        } else {
            apart.fleet.complete(&asked).await;
            apart.assert_served("initech", "eu-2", 3).await;
        }
    }
}
