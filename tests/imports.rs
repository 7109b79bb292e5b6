//! Moving in: a dump that somebody else took becomes a tenant like any other, or nothing at all.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use tenantry::catalog::lock::Claim;
use tenantry::catalog::operations::{OperationRecord, OperationState};
use tenantry::operations::import::Imported;
use tenantry::operations::request::BackupChoice;
use tenantry::operations::runner::Disturbance;
use tenantry::operations::{Transfer, Work};

use crate::harness::{BY, Fleet, assert_each_is_refused, assert_each_runs, new_tenant, once, slug};

mod commands;
mod hostile;

/// A database of a kind that teams have, with something of everything in it.
const OLD: &str = include_str!("imports/old.sql");

/// A fleet, and on its server a database `old` that belongs to nobody's tenant.
struct Scene {
    fleet: Fleet,
    folder: TempDir,
}

impl Scene {
    async fn start() -> Self {
        let fleet = Fleet::start().await;
        let admin = fleet.admin("postgres").await;
        admin.batch_execute("create role old_app login").await.unwrap();
        admin.batch_execute("create database old owner old_app").await.unwrap();
        admin.batch_execute("revoke connect on database old from public").await.unwrap();
        let old = fleet.admin("old").await;
        old.batch_execute(OLD).await.unwrap();
        Self { fleet, folder: TempDir::new().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// Dumps `old` as its team would.
    async fn dump(&self, name: &str, arguments: &[&str]) -> PathBuf {
        let path = self.path(name);
        let mut command = Command::new("pg_dump");
        command.args(arguments).arg("--file").arg(&path);
        run(command.arg(self.fleet.postgres.database_url("old"))).await;
        path
    }

    /// A database as `pg_dump` writes it, without owners and rights, and without what is ours.
    async fn content(&self, database: &str) -> String {
        let mut command = Command::new("pg_dump");
        command.args(["--no-owner", "--no-privileges", "--exclude-schema=tenantry"]);
        let text = run(command.arg(self.fleet.postgres.database_url(database))).await;
        let is_same = |line: &&str| !line.contains("restrict ");
        text.lines().filter(is_same).collect::<Vec<_>>().join("\n")
    }

    async fn ask(&self, file: &Path, name: &str, trust: bool) -> OperationRecord {
        let environment = &self.fleet.environment;
        let source = environment.open_dump(file, None).await.unwrap();
        environment.import(&new_tenant(name), source, trust, BY).await.unwrap()
    }

    async fn import(&self, file: &Path, name: &str) -> OperationRecord {
        let asked = self.ask(file, name, false).await;
        self.fleet.complete(&asked).await
    }

    /// An import that must fail, with these words, and leave nothing.
    async fn refuse(&self, file: &Path, name: &str, words: &str) {
        assert_eq!(self.complain(file, name, words).await, None);
    }

    /// What is wrong with how an import fails.
    async fn complain(&self, file: &Path, name: &str, words: &str) -> Option<String> {
        let before = self.left().await;
        let asked = self.ask(file, name, false).await;
        let failed = self.fleet.runner().complete(asked.id).await.unwrap();
        let Some(error) = failed.error else { return Some(format!("{name} was taken")) };
        assert!(error.remedy.is_some_and(|remedy| !remedy.is_empty()), "{name}");
        self.give_up(&asked).await;
        assert_eq!(self.left().await, before, "{name}");
        self.fleet.assert_healthy().await;
        (!error.message.contains(words)).then(|| format!("{name}: {}", error.message))
    }

    async fn give_up(&self, asked: &OperationRecord) {
        self.fleet.environment.cancel(asked.id).await.unwrap();
        let ended = self.fleet.runner().complete(asked.id).await.unwrap();
        assert_eq!(ended.state, OperationState::Cancelled, "{:?}", ended.error);
    }

    /// Every database and role of the server, and every tenant that lives.
    async fn left(&self) -> Vec<String> {
        let admin = self.fleet.admin("postgres").await;
        let sql = "select 'database ' || datname from pg_database
                   union all select 'role ' || rolname from pg_roles
                   union all select 'prepared ' || gid from pg_prepared_xacts order by 1";
        let rows = admin.query(sql, &[]).await.unwrap();
        let mut left: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        let catalog = self.fleet.admin("tenantry").await;
        let sql = "select 'tenant ' || slug from tenants where state <> 'deleted' order by 1";
        left.extend(catalog.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)));
        left
    }
}

async fn run(command: &mut Command) -> String {
    let mut command = std::mem::replace(command, Command::new("true"));
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn a_dump_of_any_format_becomes_the_same_database() {
    let scene = Scene::start().await;
    let expected = scene.content("old").await;
    assert!(expected.contains("a comment; with"));
    let plain = scene.dump("plain.sql", &["-Fp"]).await;
    run(Command::new("gzip").arg("--keep").arg(&plain)).await;
    for (name, file) in [
        ("custom", scene.dump("custom.dump", &["-Fc"]).await),
        ("tar", scene.dump("tar.dump", &["-Ft"]).await),
        ("gz", scene.path("plain.sql.gz")),
        ("inserts", scene.dump("inserts.sql", &["--inserts", "--rows-per-insert=3"]).await),
        ("clean", scene.dump("clean.sql", &["--clean", "--if-exists"]).await),
        ("session", scene.dump("session.sql", &["--use-set-session-authorization"]).await),
        ("plain", plain),
    ] {
        let done = scene.import(&file, name).await;

        assert_eq!(scene.content(&format!("tenant_{name}")).await, expected, "{name}");
        let imported = Imported::of(&done).unwrap();
        let rows =
            |table: &str| imported.tables.iter().find(|rows| rows.table == table).unwrap().rows;
        assert_eq!((rows("boards"), rows("cards"), rows("events_2025")), (4, 2500, 1), "{name}");
        assert!(imported.dumped_from.unwrap().starts_with("15."), "{name}");
        let transfer = Transfer::of(&done).unwrap();
        assert!(transfer.bytes > 0 && transfer.bytes == transfer.total_bytes, "{transfer:?}");
    }
    scene.fleet.assert_healthy().await;
}

#[tokio::test]
async fn an_imported_tenant_is_like_any_other() {
    let scene = Scene::start().await;
    let file = scene.dump("old.dump", &["-Fc"]).await;
    let (fleet, acme) = (&scene.fleet, slug("acme"));

    let done = scene.import(&file, "acme").await;

    let left_out = Imported::of(&done).unwrap().left_out;
    assert!(left_out["owners"] > 10 && left_out["grants"] >= 3, "{left_out:?}");
    let admin = fleet.admin("tenant_acme").await;
    let strangers = "select c.oid::regclass::text from pg_class c
        where c.oid >= 16384 and c.relowner <> 'tenantry_owner'::regrole
          and not exists (select from pg_depend d where d.objid = c.oid and d.deptype = 'e')
          and c.relnamespace <> 'pg_toast'::regnamespace
        union all select oid::regprocedure::text from pg_proc p
        where p.oid >= 16384 and p.proowner <> 'tenantry_owner'::regrole
          and not exists (select from pg_depend d where d.objid = p.oid and d.deptype = 'e')
        union all select nspname from pg_namespace
        where oid >= 16384 and nspowner <> 'tenantry_owner'::regrole
        union all select lomowner::regrole::text from pg_largeobject_metadata
        where lomowner <> 'tenantry_owner'::regrole";
    assert!(admin.query(strangers, &[]).await.unwrap().is_empty());
    let tenant = fleet.router().connection(&acme).await.unwrap();
    let allowed = [
        "insert into boards (title) values ('new')",
        "update app.cards set body = 'x' where id = 1",
        "select * from app.open_boards",
        "select nextval('app.numbers')",
        "select app.add(1)",
        "select lo_get(4711)",
        "select digest('x', 'sha256')",
    ];
    assert_each_runs(&tenant, &allowed).await;
    let refused = [
        "create table x ()",
        "create table app.x ()",
        "alter table boards disable row level security",
    ];
    assert_each_is_refused(&tenant, &refused).await;
    drop(tenant);
    assert_eq!(fleet.tenant("acme").await.schema_version, 0);
    // And it can be backed up, drilled and restored, with none of the files that it has no history of.
    let expected = scene.content("tenant_acme").await;
    fleet.back_up("acme").await;
    let drill = fleet.environment.drill_tenant(&acme, BY).await.unwrap();
    fleet.complete(&drill).await;
    admin.batch_execute("delete from app.cards").await.unwrap();
    drop(admin);
    let restore = fleet.environment.restore(&acme, BackupChoice::Latest, BY).await.unwrap();
    fleet.complete(&restore).await;
    assert_eq!(scene.content("tenant_acme").await, expected);
    let undo = fleet.environment.undo_restore(&acme, BY).await.unwrap();
    fleet.complete(&undo).await;
    assert_eq!(fleet.count("acme", "app.cards").await, 0);
    fleet.assert_healthy().await;
}

#[tokio::test]
async fn what_belongs_to_the_old_server_is_left_out_and_named() {
    let scene = Scene::start().await;
    let old = scene.fleet.admin("old").await;
    old.batch_execute(
        "create function note() returns event_trigger language plpgsql as 'begin end';
         create event trigger log_ddl on ddl_command_end execute function note();
         create publication news for table boards;
         alter default privileges grant select on tables to old_app",
    )
    .await
    .unwrap();
    let file = scene.dump("old.dump", &["-Fc"]).await;

    let done = scene.import(&file, "acme").await;

    let left_out = Imported::of(&done).unwrap().left_out;
    assert_eq!(left_out["event trigger log_ddl"], 1, "{left_out:?}");
    assert!(left_out["publication news"] >= 1, "{left_out:?}");
    let admin = scene.fleet.admin("tenant_acme").await;
    let sql =
        "select (select count(*) from pg_event_trigger) + (select count(*) from pg_publication)";
    assert_eq!(admin.query_one(sql, &[]).await.unwrap().get::<_, i64>(0), 0);
}

/// Disturbs one step, once.
async fn disturb(
    scene: &Scene,
    asked: &OperationRecord,
    step: &'static str,
    done: bool,
    disturbance: Disturbance,
) -> OperationRecord {
    let runner = scene.fleet.disturbed_runner(once(step, done, disturbance));
    runner.complete(asked.id).await.unwrap()
}

/// As for every operation; but for the dump, which is gone with the worker that had it.
#[tokio::test]
async fn any_step_may_fail_or_be_cut_off_or_done_twice() {
    let scene = Scene::start().await;
    let file = scene.dump("old.dump", &["-Fc"]).await;
    let expected = scene.content("old").await;
    let before = scene.left().await;
    let work = Work::Import { file: String::new(), trust_functions: false };
    for step in work.plan().steps.iter().map(|step| step.name) {
        for (done, disturbance) in [
            (false, Disturbance::Vanish),
            (true, Disturbance::Vanish),
            (false, Disturbance::Repeat),
            (false, Disturbance::Fail),
        ] {
            let asked = scene.ask(&file, "acme", false).await;

            let ended = disturb(&scene, &asked, step, done, disturbance).await;

            let told = format!("{step}: {disturbance:?}, {done}: {:?}", ended.error);
            if disturbance == Disturbance::Fail {
                assert_eq!(ended.state, OperationState::Failed, "{told}");
                scene.give_up(&asked).await;
            } else if disturbance == Disturbance::Vanish && step == "load_dump" {
                assert_eq!(ended.state, OperationState::Cancelled, "{told}");
            } else {
                assert_eq!(ended.state, OperationState::Succeeded, "{told}");
                assert_eq!(scene.content("tenant_acme").await, expected, "{told}");
                scene.fleet.assert_healthy().await;
                let delete =
                    scene.fleet.environment.delete(&slug("acme"), false, BY).await.unwrap();
                scene.fleet.complete(&delete).await;
            }
            assert_eq!(scene.left().await, before, "{told}");
            scene.fleet.assert_healthy().await;
        }
    }
}

#[tokio::test]
async fn nobody_else_takes_an_import_before_its_dump_is_in() {
    let scene = Scene::start().await;
    let file = scene.write("one.sql", "create table one (id int);");
    let asked = scene.ask(&file, "acme", false).await;

    let taken = scene.fleet.runner().run_one(Claim::Any).await.unwrap();

    assert_eq!(taken, None);
    let failed = disturb(&scene, &asked, "adopt", false, Disturbance::Fail).await;
    scene.fleet.catalog().retry(failed.id).await.unwrap();
    let taken = scene.fleet.runner().run_one(Claim::Any).await.unwrap();
    assert_eq!(taken, Some(asked.id), "what is left needs no file");
    assert_eq!(scene.fleet.count("acme", "one").await, 0);
    // Another process has no such file.
    let again = scene.ask(&file, "globex", false).await;
    let other = tenantry::operations::Environment::new(
        scene.fleet.catalog().clone(),
        None,
        scene.fleet.environment.limits.clone(),
    )
    .await
    .unwrap();
    let runner =
        tenantry::operations::Runner::new(other, tokio_util::sync::CancellationToken::new());
    let failed = runner.complete(again.id).await.unwrap();
    assert!(failed.error.unwrap().message.contains("with the process that asked"));
    scene.give_up(&again).await;
}
