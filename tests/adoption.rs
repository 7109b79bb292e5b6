//! Adopting: a database that somebody else made is a tenant's where it is, or it is as it was.

use std::process::Command;

use tenantry::audit::{Audit, AuditOptions};
use tenantry::catalog::operations::{OperationRecord, OperationState};
use tenantry::catalog::tenants::NewTenant;
use tenantry::embedded::PostgresSettings;
use tenantry::operations::request::BackupChoice;
use tenantry::operations::runner::Disturbance;
use tenantry::operations::{AdoptFrom, AdoptionError, adoption_differences};
use tenantry::tenant::TenantState;
use tenantry_provisioning::Obstacle;
use tokio_postgres::Client;

use crate::harness::{BY, Fleet, Options, connect, eventually, new_tenant, once, slug};
use crate::harness::{assert_each_is_refused, assert_each_runs};

mod commands;
mod elsewhere;
mod refusals;
pub(crate) mod story;

/// A database of a kind that teams have, and what comes to it over the years.
const OLD: &str = include_str!("imports/old.sql");
const LEGACY: &str = include_str!("adoption/legacy.sql");

/// Everything that an adoption may change, as one text: what a database is, and who has what in it.
const OUTSIDE: &str = "
    select concat_ws(' ', 'database', datname, pg_get_userbyid(datdba), datallowconn, datconnlimit, datacl,
                     shobj_description(oid, 'pg_database')) from pg_database
    union all select concat_ws(' ', 'setting', setdatabase, setrole, setconfig) from pg_db_role_setting
    union all select concat_ws(' ', 'role', rolname, rolcanlogin, shobj_description(oid, 'pg_authid')) from pg_roles
    union all select concat_ws(' ', 'member', roleid::regrole, member::regrole) from pg_auth_members
    order by 1";
const INSIDE: &str = "
    select concat_ws(' ', 'schema', nspname, nspowner::regrole, nspacl) from pg_namespace where nspname !~ '^pg_t'
    union all select concat_ws(' ', 'class', oid::regclass, relowner::regrole, relacl) from pg_class where oid >= 16384
    union all select concat_ws(' ', 'column', attrelid::regclass, attname, attacl) from pg_attribute
              where attrelid >= 16384 and attnum > 0
    union all select concat_ws(' ', 'routine', oid::regprocedure, proowner::regrole, proacl) from pg_proc
              where oid >= 16384
    union all select concat_ws(' ', 'type', oid::regtype, typowner::regrole, typacl) from pg_type where oid >= 16384
    union all select concat_ws(' ', 'default', defaclrole::regrole, defaclnamespace, defaclobjtype, defaclacl)
              from pg_default_acl
    union all select concat_ws(' ', 'object', oid, lomowner::regrole, lomacl) from pg_largeobject_metadata
    order by 1";

/// A fleet, and on its server databases that are nobody's tenant's.
struct Scene {
    fleet: Fleet,
}

impl Scene {
    /// With the databases `old`, which is to be adopted, and `other`, in which the same role owns a table.
    async fn start() -> Self {
        let mut postgres = PostgresSettings::scratch();
        let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        postgres.extra = vec![set("wal_level", "logical"), set("max_prepared_transactions", "2")];
        let fleet = Fleet::start_with(Options { postgres, ..Options::default() }).await;
        let scene = Self { fleet };
        let admin = scene.fleet.admin("postgres").await;
        admin.batch_execute("create role old_app login").await.unwrap();
        for name in ["old", "other"] {
            scene.database(name).await;
        }
        let other = scene.fleet.admin("other").await;
        other
            .batch_execute("create table theirs (id int); alter table theirs owner to old_app")
            .await
            .unwrap();
        scene
    }

    /// Makes a database of `old_app`'s.
    async fn database(&self, name: &str) {
        self.run("postgres", &format!("create database {name} owner old_app")).await;
        self.run("postgres", &format!("revoke connect on database {name} from public")).await;
    }

    async fn legacy() -> Self {
        let scene = Self::start().await;
        let old = scene.fleet.admin("old").await;
        old.batch_execute(OLD).await.unwrap();
        old.batch_execute(LEGACY).await.unwrap();
        scene
    }

    /// Makes another `old`, of the name `again`.
    async fn again(&self) {
        self.run("postgres", "create database again template old owner old_app").await;
        self.run("postgres", "revoke connect on database again from public").await;
    }

    async fn run(&self, database: &str, sql: &str) {
        let client = self.fleet.admin(database).await;
        client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// Asks for the adoption, once nobody is in the database any more.
    async fn try_adopt(
        &self,
        name: &str,
        from: AdoptFrom,
    ) -> Result<OperationRecord, AdoptionError> {
        self.fleet.environment.adopt(&on_server(name), from, BY).await
    }

    async fn adopt(&self, name: &str, from: AdoptFrom) -> OperationRecord {
        self.try_adopt(name, from).await.unwrap()
    }

    async fn obstacles(&self, name: &str, from: &AdoptFrom) -> Vec<Obstacle> {
        self.fleet.environment.plan_adoption(&on_server(name), from).await.unwrap().obstacles
    }

    /// Everything that may change, of the server and of a database of it.
    async fn state(&self, database: &str) -> Vec<String> {
        let mut state = lines(&self.fleet.admin("postgres").await, OUTSIDE).await;
        state.extend(lines(&self.fleet.admin(database).await, INSIDE).await);
        state
    }

    /// A database as `pg_dump` writes it, without owners and rights, and without what is ours.
    async fn content(&self, database: &str) -> String {
        let mut command = Command::new("pg_dump");
        command.args(["--no-owner", "--no-privileges", "--exclude-schema=tenantry"]);
        command.arg(self.fleet.postgres.database_url(database));
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        let is_same =
            |line: &&str| !line.contains("restrict ") && !line.starts_with("COMMENT ON DATABASE");
        text.lines().filter(is_same).collect::<Vec<_>>().join("\n")
    }

    async fn disturb(
        &self,
        asked: &OperationRecord,
        step: &'static str,
        done: bool,
        disturbance: Disturbance,
    ) -> OperationRecord {
        let runner = self.fleet.disturbed_runner(once(step, done, disturbance));
        runner.complete(asked.id).await.unwrap()
    }

    async fn assert_no_findings(&self) {
        let begun = Audit::begin(&self.fleet.environment, AuditOptions::default(), "test").await;
        let report = begun.unwrap().unwrap().run().await.unwrap().report;
        assert!(report.findings.is_empty(), "{:#?}", report.findings);
    }
}

async fn lines(client: &Client, sql: &str) -> Vec<String> {
    client.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

fn on_server(name: &str) -> NewTenant {
    NewTenant { server: Some("default".to_owned()), ..new_tenant(name) }
}

fn from(database: &str) -> AdoptFrom {
    AdoptFrom { database: database.to_owned(), baseline: None, trust_functions: false }
}

#[tokio::test]
async fn a_database_of_many_years_is_a_tenant_like_any_other() {
    let scene = Scene::legacy().await;
    let (fleet, acme) = (&scene.fleet, slug("acme"));
    fleet.create_tenant("globex").await;
    let expected = scene.content("old").await;
    let others = lines(&fleet.admin("other").await, INSIDE).await;

    let asked = scene.adopt("acme", from("old")).await;
    fleet.complete(&asked).await;

    assert_eq!(scene.content("tenant_acme").await, expected);
    assert_eq!(lines(&fleet.admin("other").await, INSIDE).await, others);
    let admin = fleet.admin("tenant_acme").await;
    let parts = "select r.rolname || ' ' || s.deptype::text || ' ' || pg_describe_object(s.classid, s.objid, 0)
        from pg_shdepend s join pg_roles r on s.refclassid = 'pg_authid'::regclass and r.oid = s.refobjid
        where (s.dbid = (select oid from pg_database where datname = current_database())
               or s.classid = 'pg_database'::regclass
                  and s.objid = (select oid from pg_database where datname = current_database()))
          and r.rolname not in ('tenantry_owner', 'tenantry_app', 'tenant_acme') order by 1";
    assert_eq!(
        lines(&admin, parts).await,
        ["old_app o extension citext", "old_app o extension pgcrypto"],
        "PostgreSQL cannot give these away"
    );
    for role in ["old_app", "old_report", "old_staff", "public", "tenant_globex"] {
        let sql = "select has_database_privilege($1, 'tenant_acme', 'connect')";
        assert!(!admin.query_one(sql, &[&role]).await.unwrap().get::<_, bool>(0), "{role}");
    }
    let tenant = fleet.router().connection(&acme).await.unwrap();
    let allowed = [
        "insert into boards (title) values ('new')",
        "update app.cards set body = 'x' where id = 1",
        "select * from app.open_boards, app.totals, made_by_admin",
        "select nextval('app.numbers'), app.add(1), app.secret(2), app.total(id) from app.cards",
        "select 'x'::app.hidden, '[1,2]'::app.span, 1 operator(app.===) 1",
        "select lo_get(4711)",
        "select digest('x', 'sha256')",
    ];
    assert_each_runs(&tenant, &allowed).await;
    let refused = [
        "create table x ()",
        "create table app.x ()",
        "drop table boards",
        "select * from tenantry.schema_history",
    ];
    assert_each_is_refused(&tenant, &refused).await;
    drop((tenant, admin));
    scene.assert_no_findings().await;
    fleet.assert_healthy().await;
}

#[tokio::test]
async fn an_adopted_tenant_is_migrated_backed_up_restored_and_renamed() {
    let scene = Scene::legacy().await;
    let (fleet, acme) = (&scene.fleet, slug("acme"));
    let asked = scene.adopt("acme", from("old")).await;
    fleet.complete(&asked).await;
    let environment = &fleet.environment;

    let tenant = fleet.tenant("acme").await;
    let found = environment.compare(&tenant, 1).await.unwrap().found;
    let accepted = Some(found.schema.fingerprint());
    let baseline = environment.baseline(&acme, Some(1), accepted, BY).await.unwrap();
    fleet.complete(&baseline).await;
    fleet.add_migration(
        "V2__later.sql",
        "alter table boards add column later int; drop view app.open_boards; create schema later;
         create table later.notes (id int); alter type mood add value 'new';",
    );
    environment.reload_migrations().await.unwrap();
    let batch = environment.migrate_fleet(&[], "test").await.unwrap();
    fleet.runner().complete_batch(batch, 1).await.unwrap();
    assert_eq!(fleet.tenant("acme").await.schema_version, 2);

    let expected = scene.content("tenant_acme").await;
    fleet.back_up("acme").await;
    let drill = environment.drill_tenant(&acme, BY).await.unwrap();
    fleet.complete(&drill).await;
    scene.run("tenant_acme", "delete from app.cards").await;
    let restore = environment.restore(&acme, BackupChoice::Latest, BY).await.unwrap();
    fleet.complete(&restore).await;
    assert_eq!(scene.content("tenant_acme").await, expected);
    let rename = environment.rename(&acme, &slug("initech"), BY).await.unwrap();
    fleet.complete(&rename).await;
    fleet.router().connection(&slug("initech")).await.unwrap();
    scene.assert_no_findings().await;
    let delete = environment.delete(&slug("initech"), false, BY).await.unwrap();
    fleet.complete(&delete).await;
    let roles = "select rolname::text from pg_roles where rolname ~ '^(tenant_|old_)' order by 1";
    let left = lines(&fleet.admin("postgres").await, roles).await;
    assert_eq!(left, ["old_app", "old_report", "old_staff"], "what was there before stays");
    fleet.assert_healthy().await;
}

#[tokio::test]
async fn the_history_is_written_where_the_files_made_the_schema() {
    let scene = Scene::start().await;
    let v1 = std::fs::read_to_string("migrations/tenant/V1__boards.sql").unwrap();
    scene.run("old", &format!("set role old_app; {v1}")).await;
    scene
        .run("other", &format!("set role old_app; {v1}; alter table boards add column more int"))
        .await;
    let at_1 = |name: &str| AdoptFrom { baseline: Some(1), ..from(name) };

    let same = scene.fleet.complete(&scene.adopt("same", at_1("old")).await).await;
    let drifted = scene.fleet.complete(&scene.adopt("drifted", at_1("other")).await).await;

    assert_eq!(
        (adoption_differences(&same), scene.fleet.tenant("same").await.schema_version),
        (Some(0), 1)
    );
    assert!(adoption_differences(&drifted).unwrap() > 0);
    assert_eq!(scene.fleet.tenant("drifted").await.schema_version, 0);
    let history = "select count(*) from tenantry.schema_history";
    for (name, expected) in [("same", 1), ("drifted", 0)] {
        let admin = scene.fleet.admin(&format!("tenant_{name}")).await;
        assert_eq!(
            admin.query_one(history, &[]).await.unwrap().get::<_, i64>(0),
            expected,
            "{name}"
        );
    }
    scene.fleet.assert_healthy().await;
}

#[tokio::test]
async fn a_dry_run_shows_every_statement_and_changes_nothing() {
    let scene = Scene::legacy().await;
    let before = scene.state("old").await;

    let plan =
        scene.fleet.environment.plan_adoption(&on_server("acme"), &from("old")).await.unwrap();

    assert!(plan.obstacles.is_empty(), "{:#?}", plan.obstacles);
    assert_eq!(scene.state("old").await, before);
    assert!(!scene.fleet.inventory().await["tenants"].iter().any(|tenant| tenant.contains("acme")));
    let notes = plan.notes.join("\n");
    assert!(
        notes.contains("old_app will have no access to it any more; it stays, with the"),
        "{notes}"
    );
    assert!(
        notes.contains("row level security of public.boards")
            || notes.contains("row level security of boards"),
        "{notes}"
    );
    // Run by hand, in this order, they do the same.
    let admin = scene.fleet.admin("postgres").await;
    let url = format!("{}?options=-csearch_path%3D", scene.fleet.postgres.database_url("old"));
    let inside = connect(&url).await.unwrap();
    let (shut, rest) = plan.statements.split_first().unwrap();
    admin.batch_execute(shut).await.unwrap();
    let role = rest.iter().position(|statement| statement.starts_with("create role")).unwrap();
    let (hardening, possession) = rest.split_at(role);
    for statement in hardening {
        inside
            .batch_execute(statement)
            .await
            .unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    }
    drop(inside);
    for statement in possession {
        admin
            .batch_execute(statement)
            .await
            .unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    }
    let by_hand = lines(&scene.fleet.admin("tenant_acme").await, INSIDE).await;
    let again = Scene::legacy().await;
    again.fleet.complete(&again.adopt("acme", from("old")).await).await;
    assert_eq!(
        without_ids(&lines(&again.fleet.admin("tenant_acme").await, INSIDE).await),
        without_ids(&by_hand)
    );
}

/// Names that hold the number of something.
fn without_ids(lines: &[String]) -> Vec<String> {
    lines.iter().filter(|line| !line.contains("pg_toast")).cloned().collect()
}

/// Until everything has been tried, an adoption that is given up has changed nothing at all.
#[tokio::test]
async fn what_is_given_up_before_there_is_only_forward_is_as_it_was() {
    let scene = Scene::legacy().await;
    let before = scene.state("old").await;
    for step in ["examine", "shut", "rehearse"] {
        for done in [false, true] {
            let asked = scene.adopt("acme", from("old")).await;
            // After a step there is no failing; the one that follows fails instead.
            let (step, cancels) = match (step, done) {
                (step, false) => (step, true),
                ("examine", true) => ("shut", true),
                ("shut", true) => ("rehearse", true),
                _ => ("harden", false),
            };
            let failed = scene.disturb(&asked, step, false, Disturbance::Fail).await;
            assert_eq!(failed.state, OperationState::Failed, "{step}");
            if cancels {
                scene.fleet.environment.cancel(asked.id).await.unwrap();
                let ended = scene.fleet.runner().complete(asked.id).await.unwrap();
                assert_eq!(ended.state, OperationState::Cancelled, "{step}: {:?}", ended.error);
            } else {
                scene.fleet.environment.cancel(asked.id).await.unwrap_err();
                // Whoever does not want it any more deletes the tenant, which has no database yet.
                let delete =
                    scene.fleet.environment.delete(&slug("acme"), false, BY).await.unwrap();
                scene.fleet.complete(&delete).await;
            }
            settled(&scene).await;
            assert_eq!(scene.state("old").await, before, "{step}");
            scene.fleet.assert_healthy().await;
        }
    }
}

/// What has looked into the database is gone from it.
async fn settled(scene: &Scene) {
    let admin = scene.fleet.admin("postgres").await;
    eventually("nobody is in the database", async || {
        let sql = "select count(*) from pg_stat_activity where datname = 'old'";
        admin.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 0
    })
    .await;
}

#[tokio::test]
async fn what_is_the_tenants_goes_with_it() {
    let scene = Scene::legacy().await;
    for step in ["take_possession", "write_history", "activate"] {
        let admin = scene.fleet.admin("postgres").await;
        scene.again().await;
        let asked = scene.adopt("acme", from("again")).await;
        scene.disturb(&asked, step, false, Disturbance::Fail).await;

        let delete = scene.fleet.environment.delete(&slug("acme"), false, BY).await.unwrap();
        scene.fleet.complete(&delete).await;

        let left =
            "select datname::text from pg_database where datname in ('again', 'tenant_acme')";
        assert!(lines(&admin, left).await.is_empty(), "{step}");
        scene.fleet.assert_healthy().await;
    }
}

#[tokio::test]
async fn any_step_may_be_cut_off_or_done_twice() {
    let scene = Scene::legacy().await;
    let expected = scene.content("old").await;
    let steps =
        ["examine", "shut", "rehearse", "harden", "take_possession", "write_history", "activate"];
    let mut adopted = None;
    for step in steps {
        for (done, disturbance) in [
            (false, Disturbance::Vanish),
            (true, Disturbance::Vanish),
            (false, Disturbance::Repeat),
        ] {
            scene.again().await;
            let asked = scene.adopt("acme", from("again")).await;

            let ended = scene.disturb(&asked, step, done, disturbance).await;

            let told = format!("{step}: {disturbance:?}, {done}: {:?}", ended.error);
            assert_eq!(ended.state, OperationState::Succeeded, "{told}");
            assert_eq!(scene.content("tenant_acme").await, expected, "{told}");
            let state = lines(&scene.fleet.admin("tenant_acme").await, INSIDE).await;
            assert_eq!(without_ids(&state), *adopted.get_or_insert(without_ids(&state)), "{told}");
            assert_eq!(scene.fleet.tenant("acme").await.state, TenantState::Active, "{told}");
            scene.fleet.assert_healthy().await;
            let delete = scene.fleet.environment.delete(&slug("acme"), false, BY).await.unwrap();
            scene.fleet.complete(&delete).await;
        }
    }
}
