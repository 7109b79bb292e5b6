//! Small tenants that are moved by their rows alone, beside those that need a dump: `pg_dump` tells no difference
//! afterwards, whichever it was.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tenantry::catalog::tenants::NewTenant;
use tenantry::operations::runner::Disturbance;
use tenantry::operations::{Copied, CopiedBy, upkeep};
use tenantry_provisioning::ServerUrl;

use super::Two;
use crate::harness::{BY, connect, new_tenant, once, slug};

/// What migrations make: of everything that rows have to be carried through, some.
const TEMPLATE: &str = "
    create type mood as enum ('well', 'ill');
    create domain short as text check (length(value) < 9);
    create function doubled(int) returns int language sql immutable as 'select $1 * 2';
    create function forbid() returns trigger language plpgsql as
        $$ begin raise exception 'a trigger fires'; end $$;
    create table plans (id serial primary key, name short not null unique);
    insert into plans (name) values ('free'), ('paid');
    create table money (id bigint generated always as identity (start 40) primary key, amount numeric(12, 4),
        twice numeric generated always as (amount * 2) stored, at timestamptz default now(), tags text[],
        price float8, took interval, raw bytea, doc jsonb, mark xml, cash money, mood mood, plan int references plans);
    create table hens (id int primary key, egg int);
    create table eggs (id int primary key, hen int not null references hens);
    alter table hens add foreign key (egg) references eggs deferrable initially deferred;
    create table \"Odd \"\" name\" (\"a \"\"b\" int unique deferrable initially deferred, nothing text);
    create table nobody ();
    create table ledger (day date, note text) partition by range (day);
    create table ledger_1 partition of ledger for values from ('2026-01-01') to ('2027-01-01');
    create unlogged table scratch (n int);
    create table secrets (n int);
    alter table secrets enable row level security, force row level security;
    create policy mine on secrets using (n > 0);
    create trigger forbidding before insert on hens for each row execute function forbid();
    create trigger sleeping before insert on eggs for each row execute function forbid();
    alter table eggs disable trigger sleeping;
    create view well as select * from money where mood = 'well';
    create sequence tickets start 1000 increment by 10;
    create statistics together on amount, price from money;
    alter table money replica identity full, alter column tags set statistics 10;
    alter table plans set (fillfactor = 50);
    create index soon on money (at desc) where plan is not null;
    comment on table money is 'whose';
    comment on column money.amount is 'how much';
    grant execute on function doubled(int) to tenantry_app with grant option;";

/// What a tenant writes.
const ROWS: &str = "
    set session_replication_role = replica;
    update plans set name = 'gratis' where name = 'free';
    insert into plans (name) values ('extra');
    insert into money (amount, tags, at, price, took, raw, doc, mark, cash, mood, plan)
    select n / 7.0, array['a', null, E'\\\\', n::text], timestamptz '2026-03-01 12:00+09' + n * interval '1 hour',
           n / 3.0, n * interval '1 day 2 hours -3 seconds', decode('00ff5c0a', 'hex'), '{\"a\": [1, null]}',
           'text, <b>no document</b>', (n / 100.0)::numeric::money, 'ill', 1 + n % 3
    from generate_series(1, 500) n;
    insert into hens values (1, 2), (3, null); insert into eggs values (2, 1);
    insert into \"Odd \"\" name\" values (1, E'tab\\tline\\nend\\\\.'), (null, '\\N'), (2, '');
    insert into nobody default values; insert into nobody default values;
    insert into ledger values ('2026-05-01', null), ('2026-05-02', 'x');
    insert into scratch values (1); insert into secrets values (-1), (1);
    select nextval('tickets'), nextval('tickets');
    insert into boards (title) select repeat(md5(n::text), 4) from generate_series(1, 300) n; delete from boards where id % 7 = 0;";

impl Two {
    /// With a template of the same files on both servers.
    async fn alike(files: &[(&str, &str)]) -> Self {
        let two = Self::start().await;
        for (name, sql) in files {
            two.fleet.add_migration(name, sql);
        }
        two.fleet.environment.reload_migrations().await.unwrap();
        upkeep::tend(&two.fleet.environment).await.unwrap();
        two
    }

    async fn create(&self, name: &str) {
        let new = NewTenant { server: Some("default".to_owned()), ..new_tenant(name) };
        let asked = self.fleet.environment.create_tenant(&new, true, BY).await.unwrap();
        self.fleet.complete(&asked).await;
    }

    async fn runs(&self, name: &str, sql: &str) {
        let url = self.database_url(name).await;
        connect(&url).await.unwrap().batch_execute(sql).await.unwrap();
    }

    async fn database_url(&self, name: &str) -> String {
        let there = self.fleet.tenant(name).await.server_name != "default";
        let server = if there { &self.other } else { &self.fleet.postgres };
        server.database_url(&format!("tenant_{name}"))
    }

    /// All that `pg_dump` knows of a tenant's database.
    async fn dump(&self, name: &str) -> String {
        let url = ServerUrl::parse(&self.database_url(name).await).unwrap();
        let mut command = Command::new(self.fleet.postgres.bin_dir().join("pg_dump"));
        command.args(["--exclude-schema=pg_catalog", "--restrict-key=key"]).envs(url.libpq_env());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Moves a tenant, which has to go by this.
    async fn carry(&self, name: &str, to: &str, by: CopiedBy) {
        let asked = self.ask(name, to).await;
        let copied = Copied::of(&self.fleet.complete(&asked).await).unwrap();
        assert_eq!(copied.by, by, "{name}: {copied}");
    }
}

#[tokio::test]
async fn moved_by_its_rows_a_tenant_is_what_a_dump_would_have_made_of_it() {
    let two = Two::alike(&[("V2__all.sql", TEMPLATE)]).await;
    for name in ["acme", "globex"] {
        two.create(name).await;
        two.runs(name, ROWS).await;
    }
    two.runs("globex", "alter database tenant_globex set work_mem = '5MB'").await;
    let (acme, globex) = (two.dump("acme").await, two.dump("globex").await);

    two.carry("acme", "eu-2", CopiedBy::Rows).await;
    two.carry("globex", "eu-2", CopiedBy::Dump).await;

    assert_eq!(two.dump("acme").await, acme);
    assert_eq!(two.dump("globex").await, globex);
    let names = ["acme", "globex"].map(slug);
    let found = two.fleet.environment.to_verify(&names, None).await.unwrap();
    for tenant in found {
        let version = tenant.schema_version;
        let compared = two.fleet.environment.compare(&tenant, version).await.unwrap();
        assert_eq!((compared.differences, compared.found.version()), (vec![], 2));
    }
    // Constraints and triggers are as awake as they were.
    let there = connect(&two.other.database_url("tenant_acme")).await.unwrap();
    for (sql, why) in [
        ("insert into hens values (9)", "a trigger fires"),
        ("insert into eggs values (9, 9)", "foreign key"),
        ("insert into \"Odd \"\" name\" values (1)", "unique"),
    ] {
        let refused = there.batch_execute(sql).await.unwrap_err();
        assert!(refused.as_db_error().unwrap().message().contains(why), "{refused:?}");
    }
    let row = there.query_one("select nextval('tickets'), count(*) from money", &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (1020, 500));
    let router = two.fleet.router();
    let tenant = router.connection(&slug("acme")).await.unwrap();
    tenant.execute("insert into boards (title) values ('new')", &[]).await.unwrap();
    two.carry("acme", "default", CopiedBy::Rows).await;
    two.carry("acme", "eu-2", CopiedBy::Rows).await;
    two.fleet.assert_healthy().await;
}

/// What in a database may be otherwise than in the template, and whether the rows alone bring it across.
const ODDITIES: &[(&str, CopiedBy)] = &[
    ("delete from cards; delete from boards; alter sequence boards_id_seq restart", CopiedBy::Rows),
    ("vacuum full boards", CopiedBy::Rows),
    ("alter table boards drop column created_at;
         alter table boards add column created_at timestamptz not null default now();
         alter table boards drop column title; alter table boards add column title text not null default 'x';
         alter table boards alter title drop default", CopiedBy::Dump),
    ("create materialized view m as select 1 as one", CopiedBy::Dump),
    ("select lo_from_bytea(4711, 'large')", CopiedBy::Dump),
    ("comment on constraint boards_pkey on boards is 'whose'", CopiedBy::Dump),
    ("grant usage on schema public to public", CopiedBy::Dump),
    ("revoke usage on language plpgsql from public", CopiedBy::Dump),
    ("alter default privileges in schema tenantry grant select on tables to tenantry_app", CopiedBy::Dump),
    ("create publication theirs for table boards", CopiedBy::Dump),
    ("create extension pg_trgm", CopiedBy::Dump),
    ("create function f() returns event_trigger language plpgsql as 'begin end';
         create event trigger e on ddl_command_end execute function f()", CopiedBy::Dump),
    ("alter table tenantry.schema_history add column x int", CopiedBy::Dump),
    ("create table child () inherits (boards); insert into child (id, title) values (1, 'x')", CopiedBy::Dump),
    ("alter table boards add constraint c check (id > 1000000) not valid", CopiedBy::Dump),
];

#[tokio::test]
async fn whatever_is_unusual_comes_across_whole_by_a_dump() {
    let two = Two::alike(&[]).await;
    for (number, (sql, by)) in ODDITIES.iter().enumerate() {
        let name = format!("t{number}");
        two.create(&name).await;
        two.runs(&name, sql).await;
        let before = two.dump(&name).await;

        two.carry(&name, "eu-2", *by).await;

        assert_eq!(two.dump(&name).await, before, "{sql}");
    }
}

#[tokio::test]
async fn what_a_template_has_that_rows_do_not_bring_goes_by_a_dump_each_time() {
    for sql in [
        "create materialized view m as select count(*) as n from boards",
        "create function f(text) returns text language sql immutable as 'select $1'; create index i on boards (f(title))",
        "create function f() returns trigger language plpgsql as 'begin new.title = new.title || ''!''; return new; end';
         create trigger g before insert on boards for each row execute function f();
         alter table boards enable always trigger g",
    ] {
        let two = Two::alike(&[("V2__odd.sql", sql)]).await;
        two.create("acme").await;
        two.runs("acme", "update boards set title = 'now'").await;
        if sql.contains("materialized") {
            two.runs("acme", "refresh materialized view m").await;
        }
        let before = two.dump("acme").await;

        two.carry("acme", "eu-2", CopiedBy::Dump).await;

        assert_eq!(two.dump("acme").await, before, "{sql}");
    }
}

#[tokio::test]
async fn without_a_template_of_its_version_a_tenant_goes_by_a_dump() {
    let two = Two::start().await;
    two.create("acme").await;

    two.carry("acme", "eu-2", CopiedBy::Dump).await;
    upkeep::tend(&two.fleet.environment).await.unwrap();
    two.carry("acme", "default", CopiedBy::Rows).await;
    two.fleet.add_migration("V2__more.sql", "create table more (n int)");
    two.fleet.environment.reload_migrations().await.unwrap();
    upkeep::tend(&two.fleet.environment).await.unwrap();
    two.carry("acme", "eu-2", CopiedBy::Dump).await;
    assert_eq!(two.fleet.tenant("acme").await.schema_version, 1);
}

/// Sessions of the copy are ended in the middle of it, on either side.
#[tokio::test]
async fn when_a_session_is_lost_on_the_way_a_dump_begins_anew() {
    let two = Two::alike(&[]).await;
    two.create("acme").await;
    let before = two.dump("acme").await;
    for (to, victim) in [("eu-2", "_build_"), ("default", "_old_")] {
        let ended = Arc::new(AtomicBool::new(false));
        let hunter = connect(&two.other.url()).await.unwrap();
        let seen = Arc::clone(&ended);
        let hunting = tokio::spawn(async move {
            let sql = format!(
                "select pg_terminate_backend(pid) from pg_stat_activity
                 where datname ~ '{victim}' and query ~ 'shape::|copy ' and state <> 'idle'"
            );
            while !seen.load(Ordering::Relaxed) {
                if !hunter.query(&sql, &[]).await.unwrap().is_empty() {
                    seen.store(true, Ordering::Relaxed);
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });

        two.carry("acme", to, CopiedBy::Dump).await;

        assert!(ended.load(Ordering::Relaxed), "nobody was hit");
        hunting.await.unwrap();
        assert_eq!(two.dump("acme").await, before);
    }
    two.fleet.assert_healthy().await;
}

/// Killed, failed and repeated before and after the step that brings the rows.
#[tokio::test]
async fn wherever_it_dies_the_rows_are_there_once() {
    let two = Two::alike(&[]).await;
    two.create("acme").await;
    let before = two.dump("acme").await;
    for (step, done, what) in [
        ("move", false, Disturbance::Vanish),
        ("move", true, Disturbance::Vanish),
        ("move", false, Disturbance::Repeat),
        ("move", false, Disturbance::Fail),
        ("leave_server", false, Disturbance::Vanish),
        ("leave_server", true, Disturbance::Vanish),
    ] {
        let from = two.fleet.tenant("acme").await.server_name;
        let to = if from == "default" { "eu-2" } else { "default" };
        let asked = two.ask("acme", to).await;
        let runner = two.fleet.disturbed_runner(once(step, done, what));
        let mut ended = runner.complete(asked.id).await.unwrap();
        if what == Disturbance::Fail {
            assert_eq!(two.fleet.tenant("acme").await.server_name, from);
            two.fleet.catalog().retry(asked.id).await.unwrap();
            ended = two.fleet.complete(&asked).await;
        }

        let copied = Copied::of(&ended).unwrap();
        assert_eq!(copied.by, CopiedBy::Rows, "{step} {done} {what:?}: {copied}");
        assert_eq!(two.fleet.tenant("acme").await.server_name, to);
        assert_eq!(two.dump("acme").await, before, "{step} {done} {what:?}");
        two.fleet.assert_healthy().await;
    }
}
