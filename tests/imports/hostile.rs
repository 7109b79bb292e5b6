//! Dumps that are broken, or that were written to do harm: each is refused or harmless, and leaves nothing.

use std::process::Command;

use tenantry::catalog::operations::OperationState;

use super::{Scene, run};
use crate::harness::{BY, Fleet, Options, new_tenant, slug};

/// What a victim is: a tenant with rows, and its database as it must stay.
async fn victim(scene: &Scene) -> String {
    scene.fleet.create_tenant_with("victim", true).await;
    scene.content("tenant_victim").await
}

/// A name, what a dump says, and what is said of it.
const HARM: &[(&str, &str, &str)] = &[
    ("shell", "select 1;\n\\! touch /tmp/owned\n", "line 2 is a command to psql"),
    ("client-copy", "create table t (a text);\n\\copy t from '/etc/passwd'\n", "line 2"),
    ("include", "\\i /etc/passwd\n", "line 1"),
    ("connect", "create database x;\n\\connect x\n", "`create database`"),
    ("other-database", "\\connect tenant_victim\ndelete from boards;\n", "line 1"),
    ("drop-database", "select 1;\ndrop database tenant_victim;\n", "`drop database`"),
    ("role", "create role evil superuser login;", "`create role`"),
    (
        "superuser",
        "do $$ begin execute 'alter role tenantry_owner superuser'; end $$;",
        "must be superuser",
    ),
    (
        "become",
        "reset role; create table t (); set session authorization postgres; reset role;
                    do $$ begin execute 'set role tenantry_owner'; end $$;",
        "permission denied",
    ),
    (
        "become-admin",
        "do $$ begin execute 'set session authorization tenant_victim'; end $$;",
        "permission denied",
    ),
    ("program", "create table t (a text);\ncopy t from program 'id';", "program of the server"),
    (
        "hidden-program",
        "create table t (a text); do $$ begin execute 'copy t from program ''id'''; end $$;",
        "pg_execute_server_program",
    ),
    ("file", "create table t (a text);\ncopy t from '/etc/passwd';", "file of the server"),
    ("read-file", "select pg_read_file('/etc/passwd');", "permission denied"),
    ("server-lo", "select lo_import('/etc/passwd');", "permission denied"),
    ("system", "alter system set log_statement = 'all';", "change of the server"),
    ("hidden-system", "do $$ begin execute 'alter system set x.y = 1'; end $$;", "ALTER SYSTEM"),
    (
        "c",
        "create function f() returns int language c as '/lib/libc.so.6', 'system';",
        "permission denied",
    ),
    ("untrusted", "create language plpython3u;", "the language plpython3u"),
    ("dblink", "create extension dblink;", "the extension dblink, which only a superuser"),
    ("unknown", "create extension not_there;", "the extension not_there, which the server has not"),
    (
        "event",
        "do $$ begin execute 'create event trigger e on ddl_command_end execute function pg_notify()'; end $$;",
        "",
    ),
    ("foreign", "create server far foreign data wrapper x;", "the foreign server far"),
    (
        "tenantry",
        "create schema tenantry; create table tenantry.schema_history (version int);",
        "our own",
    ),
    ("hidden-tenantry", "do $$ begin execute 'create schema tenantry'; end $$;", "our own"),
    (
        "hidden-publication",
        "create table t (); do $$ begin execute 'create publication p for table t'; end $$;",
        "publication p",
    ),
    (
        "grant",
        "create table t (); do $$ begin execute 'grant all on t to tenant_victim'; end $$;",
        "tenant_victim",
    ),
    (
        "policy",
        "create table t (); create policy p on t to tenant_victim using (true);",
        "the role tenant_victim",
    ),
    ("prepared", "begin; create table t (); prepare transaction 'x';", "prepared"),
    ("open", "begin; create table t (); insert into t default values;", "within a transaction"),
    (
        "many",
        "do $$ begin perform 1; end $$; select 1 from no_such_table;",
        "line 1 of the dump, select 1 from no_such_table",
    ),
    ("encoding", "set client_encoding = 'LATIN1';", "text in latin1"),
    (
        "unquoted",
        "set standard_conforming_strings = off; select '\\'; drop table x; --';",
        "backslash",
    ),
    (
        "newer",
        "-- PostgreSQL database dump\n-- Dumped from database version 99.1\nselect 1;",
        "of PostgreSQL 99.1",
    ),
    ("drop-owned", "create table t (a int references t2);", "does not exist"),
];

#[tokio::test]
async fn a_script_that_does_harm_is_refused_and_leaves_nothing() {
    let scene = Scene::start().await;
    let victim = victim(&scene).await;
    let mut complaints = Vec::new();
    for (name, script, words) in HARM {
        let file = scene.write("evil.sql", script);

        complaints.extend(scene.complain(&file, &format!("x-{name}"), words).await);
    }
    assert_eq!(complaints, [] as [String; 0]);
    assert_eq!(scene.content("tenant_victim").await, victim);
}

#[tokio::test]
async fn code_that_could_take_more_rights_later_needs_somebody_who_knows_it() {
    let scene = Scene::start().await;
    let mut complaints = Vec::new();
    for (name, script, words) in [
        ("definer", "create function f() returns int language sql security definer as 'select 1';", "f() runs with the rights"),
        (
            "check",
            "create function evil(int) returns bool language plpgsql immutable as 'begin return true; end';
             create table t (a int check (evil(a)));",
            "would run with more than the tenant's rights",
        ),
        ("domain", "create function evil(int) returns bool language sql as 'select true';
                    create domain d as int check (evil(value));", "evil(integer)"),
        ("operator", "create function evil(int, int) returns bool language sql as 'select true';
                      create schema s; create operator s.=== (function = evil, leftarg = int, rightarg = int);
                      create table t (a int, check (a operator(s.===) a));", "evil(integer,integer)"),
        ("generated", "create function evil(int) returns int language sql immutable as 'select 1';
                       create table t (a int, b int generated always as (evil(a)) stored);", "column b of"),
        ("partition", "create function evil(int) returns int language plpgsql immutable as 'begin return $1; end';
                       create table t (a int) partition by list (evil(a));", "partition key of"),
        ("built-in", "create table t (a oid check (current_user <> 'postgres' or lo_export(a, '/tmp/x') = 1));", "lo_export"),
        ("cast", "create type e as enum ('a'); create table p (i int primary key); insert into p values (1);
                  create function evil(e) returns int language plpgsql as 'begin return 1; end';
                  create cast (e as int) with function evil(e) as implicit;
                  create table f (x e references p); insert into f values ('a');", "the cast of public.e to integer"),
        ("explicit-cast", "create type e as enum ('a'); create function evil(e) returns text language sql as 'select null::text';
                           create cast (e as text) with function evil(e);", "the cast of public.e to text"),
        ("xml", "create function evil() returns int language sql as 'select 1'; create view v as select evil();
                 create table t (i int, check (table_to_xml('v', true, false, '') is not null)); insert into t values (1);", "calls table_to_xml"),
        ("index", "create function evil(int) returns int language sql immutable as 'select 1';
                   create table t (a int); create index i on t (a) where evil(a) = 1;", "the index public.i of public.t"),
        ("statistics", "create function evil(int) returns int language sql immutable as 'select 1';
                        create table t (a int); create statistics s on (evil(a)), a from t;", "the statistics s of"),
        ("refresh", "create function evil() returns int language sql as 'select 1'; create view v as select evil();
                     create materialized view m as select * from v;", "the materialized view public.m"),
        ("refresh-xml", "create materialized view m as select query_to_xml('select 1', true, false, '');", "calls query_to_xml"),
        ("range", "create function evil(int, int) returns float8 language sql immutable as 'select 1.0::float8';
                   create type r as range (subtype = int, subtype_diff = evil);", "the range public.r"),
        ("shadow-in-extension", "create extension citext; create function public.format(text, oid) returns text language sql as 'select ''x''';
                                 do $$ begin execute 'alter extension citext add function public.format(text, oid)'; end $$;", "public.format(text,oid)"),
        ("shadow", "create function public.format(text, oid) returns text language sql as 'select ''x''';", "public.format(text,oid)"),
        ("shadow-operator", "create function f(name, text) returns bool language sql as 'select true';
                             create operator public.= (function = f, leftarg = name, rightarg = text);", "the operator"),
    ] {
        let file = scene.write("code.sql", script);

        complaints.extend(scene.complain(&file, &format!("x-{name}"), words).await);

        let trusted = scene.ask(&file, &format!("x-{name}"), true).await;
        scene.fleet.complete(&trusted).await;
    }
    assert_eq!(complaints, [] as [String; 0]);
    scene.fleet.assert_healthy().await;
}

/// What most databases have: PostgreSQL's own functions, also those that the clock or a setting has a part in.
#[tokio::test]
async fn what_every_application_checks_needs_nobodys_word() {
    let scene = Scene::start().await;
    let file = scene.write(
        "usual.sql",
        "create extension citext; create extension pg_trgm; create type mood as enum ('fine');
         create type span as range (subtype = int4); create cast (mood as varchar) with inout as implicit;
         create table t (
             a timestamptz check (a <= now() and extract(year from a) > 2000 and a::date > '2020-01-01'),
             b date check (b < current_date and to_char(b, 'YYYY') < '3000' and b::timestamptz > timestamp '2000-01-01'),
             c text check (c = lower(c) and c ~ 'x' and length(c) < 10),
             d citext check (d <> ''),
             e text generated always as (upper(c)) stored,
             f jsonb check (jsonb_typeof(f -> 'a') = 'string' and f ? 'b'),
             g mood check (g >= enum_first(g)),
             h span check (h <> span(1, 2)),
             i text check (current_setting('my.role', true) is null or i <> concat('x', i)));
         insert into t (a, b, c, d, g) values ('2026-01-01', '2026-01-01', 'x', 'y', 'fine');
         create index on t (lower(c)); create index on t using gin (c gin_trgm_ops); create index on t using gist (h);
         create materialized view m as
         select now(), random(), count(*), row_number() over () from t, generate_series(1, 3);",
    );

    let done = scene.import(&file, "acme").await;

    assert_eq!(done.state, OperationState::Succeeded, "{:?}", done.error);
    scene.fleet.back_up("acme").await;
    let drill = scene.fleet.environment.drill_tenant(&slug("acme"), BY).await.unwrap();
    scene.fleet.complete(&drill).await;
    scene.fleet.assert_healthy().await;
}

/// What is harmless because it can reach nothing.
#[tokio::test]
async fn a_script_that_tries_without_rights_does_no_harm() {
    let scene = Scene::start().await;
    let victim = victim(&scene).await;
    let admin = scene.fleet.admin("postgres").await;
    let before = "select rolname || rolsuper || rolcanlogin from pg_roles where rolname !~ 'acme|guest' order by 1";
    let roles = async || -> Vec<String> {
        admin.query(before, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
    };
    let known = roles().await;
    let file = scene.write(
        "tries.sql",
        "select pg_terminate_backend(pid) from pg_stat_activity where usename = current_user and pid <> pg_backend_pid();
         select pg_notify('tenantry_operations', 'x');
         do $$ begin execute 'alter role current_user set search_path = evil'; end $$;
         do $$ begin execute 'alter default privileges grant all on tables to public'; end $$;
         do $$ begin execute 'create schema evil'; execute 'grant all on schema evil to public'; end $$;
         do $$ begin execute 'set session_replication_role = replica'; exception when others then null; end $$;
         create function evil.now() returns text language sql as 'select ''x''';
         create schema \"$user\"; create schema postgres;
         create table evil.t (a int); insert into evil.t values (1);
         create table \"select\" (\"from\" text);
         comment on table evil.t is 'tenantry tenant=00000000-0000-0000-0000-000000000001 operation=00000000-0000-0000-0000-000000000002';
         select set_config('tenantry.tenant', 'x', false);",
    );

    let done = scene.import(&file, "acme").await;

    assert_eq!(done.state, OperationState::Succeeded);
    assert_eq!(scene.content("tenant_victim").await, victim);
    assert!(roles().await.starts_with(&known[..1]) && roles().await.len() == known.len());
    let tenant = scene.fleet.router().connection(&slug("acme")).await.unwrap();
    tenant.query("select * from evil.t", &[]).await.unwrap();
    tenant.query("create table evil.x ()", &[]).await.unwrap_err();
    drop(tenant);
    scene.fleet.assert_healthy().await;
}

#[tokio::test]
async fn a_transaction_that_is_left_prepared_cannot_keep_the_database() {
    let extra = vec![("max_prepared_transactions".to_owned(), "2".to_owned())];
    let postgres = tenantry::embedded::PostgresSettings {
        extra,
        ..tenantry::embedded::PostgresSettings::scratch()
    };
    let fleet = Fleet::start_with(Options { postgres, ..Options::default() }).await;
    let scene = Scene { fleet, folder: tempfile::TempDir::new().unwrap() };
    for (name, script) in [
        ("plain", "begin; create table t (); prepare transaction 'x';"),
        (
            "hidden",
            "do $$ begin perform set_config('standard_conforming_strings', 'off', false); end $$;
             begin; create table t ();
             select '\\'; prepare transaction 'x'; --';",
        ),
    ] {
        let file = scene.write("evil.sql", script);
        scene.refuse(&file, name, "").await;
    }
}

#[tokio::test]
async fn a_dump_that_is_cut_anywhere_leaves_nothing() {
    let scene = Scene::start().await;
    let plain = scene.dump("plain.sql", &["-Fp"]).await;
    run(Command::new("gzip").arg("--keep").arg(&plain)).await;
    for file in [
        scene.dump("custom.dump", &["-Fc"]).await,
        scene.dump("tar.dump", &["-Ft"]).await,
        scene.path("plain.sql.gz"),
        plain,
    ] {
        let whole = std::fs::read(&file).unwrap();
        for tenths in [2, 5, 8] {
            let cut = scene.write("cut", &whole[..whole.len() * tenths / 10]);
            scene.refuse(&cut, "cut", "").await;
        }
        // What `pg_dump` says last is that it has said everything; a tar archive ends with many zeros.
        let end = if file.ends_with("tar.dump") { 1100 } else { 150 };
        let cut = scene.write("cut", &whole[..whole.len() - end]);
        scene.refuse(&cut, "cut", "").await;
    }
}

#[tokio::test]
async fn a_file_of_another_kind_makes_no_tenant() {
    let scene = Scene::start().await;
    for (bytes, words) in [
        (&b""[..], "empty"),
        (b"\x7fELF\x02\x01\x01\0\0", "binary"),
        (b"PK\x03\x04zip", "zip"),
        (b"\xfd7zXZ\0", "xz"),
    ] {
        let file = scene.write("other", bytes);
        let refused = scene.fleet.environment.open_dump(&file, None).await.unwrap_err();
        assert!(refused.to_string().contains(words), "{refused}");
    }
    let refused = scene.fleet.environment.open_dump(scene.folder.path(), None).await.unwrap_err();
    assert!(refused.to_string().contains("directory"), "{refused}");
    for (bytes, words) in [
        (&b"PGDMP\x01\x0e\0garbage that is none"[..], "damaged"),
        (b"PGDMP\x01\x63\0\x04\x08", "newer pg_dump"),
        (b"Dear Sir or Madam;", "syntax error"),
    ] {
        let file = scene.write("other", bytes);
        scene.refuse(&file, "other", words).await;
    }
    // Nothing at all is a database too.
    let file = scene.write("nothing.sql", "-- nothing\n");
    let source = scene.fleet.environment.open_dump(&file, None).await.unwrap();
    let asked = scene.fleet.environment.import(&new_tenant("nothing"), source, false, BY).await;
    scene.fleet.complete(&asked.unwrap()).await;
}
