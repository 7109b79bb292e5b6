//! Shapes: whatever a dump carries beside rows is told apart, and what it does not carry makes no difference.

use std::time::Duration;

use tenantry_provisioning::{
    Blank, DatabaseName, MigrationTimeouts, Server, Shape, build_from_zero,
};
use uuid::Uuid;

use super::ground::Ground;
use super::subject::migrations;

const BOARDS: &str = include_str!("../../migrations/tenant/V1__boards.sql");

const SLICES: &str = "create table slices (n int primary key) partition by range (n);
                      create table slices_1 partition of slices for values from (0) to (10);";

/// What no dump carries, or what rows bring across.
const ALIKE: &[&str] = &[
    "select 1",
    "delete from cards; delete from boards; alter sequence boards_id_seq restart",
    "create temporary table t (n int)",
    "vacuum full boards",
    "alter table boards add column x int; alter table boards drop column x",
    "insert into boards (title) values ('x'); insert into cards (board_id, title) select id, 'y' from boards",
    "analyze; set default_statistics_target = 1; analyze boards",
    "alter table boards alter title set default 'x'; alter table boards alter title drop default",
];

/// What makes a dump another one.
const UNLIKE: &[&str] = &[
    "alter table boards add column x int",
    "alter table boards drop column created_at;
         alter table boards add column created_at timestamptz not null default now();
         alter table boards drop column title; alter table boards add column title text not null default 'x';
         alter table boards alter title drop default",
    "alter table boards alter title set default 'x'",
    "create table more (n int); insert into more values (1)",
    "create schema theirs; create table theirs.t (n int)",
    "create view v as select 1 as one",
    "create materialized view m as select 1 as one",
    "select lo_from_bytea(4711, 'large')",
    "comment on table boards is 'whose'",
    "comment on constraint boards_pkey on boards is 'whose'",
    "comment on schema public is null",
    "grant select (title) on boards to public",
    "revoke delete on boards from tenantry_app",
    "alter table boards owner to current_user",
    "grant usage on schema public to public",
    "revoke usage on language plpgsql from public",
    "alter default privileges for role tenantry_owner grant execute on functions to tenantry_app",
    "alter default privileges in schema tenantry grant select on tables to tenantry_app",
    "alter table boards replica identity full",
    "alter table boards set (fillfactor = 70)",
    "alter index boards_pkey set (fillfactor = 70)",
    "create index on boards (title)",
    "create statistics s on id, title from boards",
    "alter table boards enable row level security",
    "create rule r as on delete to boards do instead nothing",
    "create publication theirs for table boards",
    "create extension pg_trgm",
    "create aggregate summed(int) (sfunc = int4pl, stype = int)",
    "create collation german from \"C\"",
    "create cast (text as int) with inout",
    "create foreign data wrapper w",
    "create type floats as range (subtype = float8)",
    "create text search configuration c (copy = simple)",
    "create function f() returns event_trigger language plpgsql as 'begin end';
         create event trigger e on ddl_command_end execute function f()",
    "create function f() returns trigger language plpgsql as 'begin return new; end';
         create trigger g before insert on boards for each row execute function f();
         alter table boards enable always trigger g",
    "create function tenantry.f() returns int language sql as 'select 1'",
    "alter table tenantry.schema_history add column x int",
    "create table child () inherits (boards); insert into child (id, title) values (1, 'x')",
    "alter table boards add constraint c check (id > 1000000) not valid",
    "alter table cards disable trigger all",
    "create function f(text) returns text language sql immutable as 'select $1'; create index on boards (f(title))",
    "alter table cards add constraint k unique (title) deferrable",
    "alter index cards_board rename to other",
    "create domain short as text check (length(value) < 9)",
    "alter table boards alter title set statistics 10",
    "alter table boards alter title set storage external",
    "create policy mine on boards using (id > 0)",
    "alter sequence boards_id_seq increment by 2",
    "alter table cards drop constraint cards_board_id_fkey",
    "drop table cards",
    "create unlogged table u (n int)",
    "create table parted (n int) partition by range (n)",
    "create type shell",
    "create operator ### (leftarg = int, rightarg = int, function = int4pl)",
    "create function tenantry_owned() returns int language sql as 'select 1'; alter function tenantry_owned() depends on extension plpgsql",
    "grant select on tenantry.schema_history to tenantry_app",
    "alter schema tenantry owner to current_user",
    "alter table tenantry.schema_history set (autovacuum_enabled = off)",
    "alter table tenantry.schema_history replica identity full",
    "alter table tenantry.schema_history set unlogged",
    "grant select (version) on tenantry.schema_history to tenantry_app",
    "alter index slices_1_pkey rename to other",
    "grant select on boards to tenantry_app with grant option; set role tenantry_app; grant select on boards to public",
    "create rule r as on delete to boards do instead nothing; alter table boards enable always rule r",
    "create trigger g before update on tenantry.schema_history for each row execute function suppress_redundant_updates_trigger()",
];

/// A blank template, and databases that were made from it.
struct Mould {
    server: Server,
    template: DatabaseName,
    blank: Blank,
    _ground: Ground,
}

impl Mould {
    async fn new() -> Self {
        let ground = Ground::new().await;
        let server = ground.server().await;
        let template = DatabaseName::build(Uuid::new_v4());
        let timeouts =
            MigrationTimeouts { lock: Duration::from_secs(5), statement: Duration::from_mins(1) };
        let files = migrations(&[("V1__boards.sql", BOARDS), ("V2__slices.sql", SLICES)]);
        build_from_zero(&server, &template, &files, timeouts).await.unwrap();
        let first = DatabaseName::build(Uuid::new_v4());
        server.create_clone(&first, &template).await.unwrap();
        let blank = Blank::read(&server.connect_apart(&first).await.unwrap()).await.unwrap();
        Self { server, template, blank, _ground: ground }
    }

    /// What is in the way of carrying a clone in which somebody has done this by its rows alone.
    async fn obstacle_after(&self, sql: &str) -> Option<String> {
        let clone = DatabaseName::build(Uuid::new_v4());
        self.server.create_clone(&clone, &self.template).await.unwrap();
        let somebody = self.server.connect(&clone).await.unwrap();
        somebody.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        let session = self.server.connect_apart(&clone).await.unwrap();
        self.blank.obstacle(&Shape::read(&session).await.unwrap())
    }
}

#[tokio::test]
async fn whatever_a_dump_carries_beside_rows_makes_a_difference() {
    let mould = Mould::new().await;

    for sql in UNLIKE {
        assert!(mould.obstacle_after(sql).await.is_some(), "{sql}");
    }
    let settings = "do $$ begin execute format('alter database %I set work_mem = 100', current_database()); end $$";
    assert_eq!(mould.obstacle_after(settings).await.unwrap(), "it has a setting of the database");
}

#[tokio::test]
async fn what_no_dump_carries_and_what_rows_bring_makes_none() {
    let mould = Mould::new().await;

    for sql in ALIKE {
        assert_eq!(mould.obstacle_after(sql).await, None, "{sql}");
    }
}
