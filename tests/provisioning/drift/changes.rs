//! Files that have something of everything, what people change by hand, and what is no change.

/// Something of everything.
pub const FILES: &[(&str, &str)] = &[
    (
        "V1__boards.sql",
        "create type mood as enum ('sad', 'fine');
         create domain code as text constraint code_form check (value ~ '^[a-z]+$');
         create type spot as (x int, y int);
         create table boards (
             id bigint generated always as identity primary key,
             title varchar(50) not null default 'untitled',
             body text collate \"C\",
             mood mood not null default 'fine',
             code code,
             words int generated always as (length(title)) stored,
             place serial
         );
         create index boards_title on boards (title);
         create unique index boards_code on boards (code) where mood = 'fine';",
    ),
    (
        "V2__cards.sql",
        "create table cards (
             id bigint primary key,
             board_id bigint not null constraint cards_board references boards on delete cascade,
             points int constraint cards_points check (points >= 0)
         );
         create table days (day date not null, number int) partition by range (day);
         create table days_2026 partition of days for values from ('2026-01-01') to ('2027-01-01');
         create view busy as select board_id, count(*) as cards from cards group by board_id;
         create materialized view totals as select count(*) as cards from cards;
         create sequence tickets;
         create function touch() returns trigger language plpgsql as $$
         begin
             new.title := trim(new.title);
             return new;
         end $$;
         create trigger touch before update on boards for each row execute function touch();
         create statistics boards_moods on title, mood from boards;",
    ),
    (
        "V3__done.sql",
        "alter table cards add column done boolean not null default false;
         alter table boards drop column body;
         alter table boards add column notes text;
         create procedure tidy() language sql as 'delete from cards where done';
         grant execute on procedure tidy() to tenantry_app;
         create view titles as select id, title from boards;
         create operator === (function = texteq, leftarg = text, rightarg = text, restrict = eqsel, hashes);
         create publication feed for table boards (title, id) where (id > 0) with (publish = 'insert');",
    ),
];

/// A change that somebody makes by hand, the object that differs, and a part of what is shown.
pub const CHANGES: &[(&str, &str, &str)] = &[
    ("drop index boards_title", "index public.boards_title", "- CREATE INDEX boards_title"),
    ("alter table boards alter title set default ''", "column public.boards.title", "'untitled'"),
    ("alter table boards alter place drop default", "column public.boards.place", "nextval"),
    (
        "alter table boards alter notes set default 'x'",
        "column public.boards.notes",
        "+ alter table",
    ),
    ("alter table cards alter points type bigint", "column public.cards.points", "points bigint"),
    (
        "alter table boards add colour text",
        "column public.boards.colour",
        "+ alter table public.boards add column colour text",
    ),
    (
        "alter table cards drop done",
        "column public.cards.done",
        "- alter table public.cards add column done",
    ),
    ("alter table boards alter title drop not null", "column public.boards.title", "not null"),
    ("alter table boards rename notes to remarks", "column public.boards.notes", "- alter table"),
    (
        "alter table cards rename constraint cards_points to points",
        "constraint cards_points on public.cards",
        "- alter table",
    ),
    (
        "alter table cards drop constraint cards_board",
        "constraint cards_board on public.cards",
        "ON DELETE CASCADE",
    ),
    (
        "alter table cards add constraint positive check (id > 0) not valid",
        "constraint positive on public.cards",
        "NOT VALID",
    ),
    (
        "alter table cards alter constraint cards_board deferrable",
        "constraint cards_board on public.cards",
        "DEFERRABLE",
    ),
    (
        "alter domain code drop constraint code_form",
        "constraint code_form on public.code",
        "- alter domain",
    ),
    ("alter domain code set default 'x'", "domain public.code", "default"),
    (
        "create or replace function touch() returns trigger language plpgsql as $$\nbegin\n    return null;\nend $$",
        "function public.touch()",
        "+     return null;",
    ),
    ("alter function touch() security definer", "function public.touch()", "SECURITY DEFINER"),
    (
        "create function touch(int) returns int language sql as 'select 1'",
        "function public.touch(integer)",
        "+ CREATE OR REPLACE",
    ),
    (
        "revoke execute on function touch() from public",
        "grant on function public.touch() to public",
        "+ revoke execute",
    ),
    ("drop procedure tidy", "procedure public.tidy()", "- CREATE OR REPLACE PROCEDURE"),
    (
        "alter table boards disable trigger touch",
        "state of trigger touch on public.boards",
        "disable trigger touch",
    ),
    (
        "alter table cards disable trigger all",
        "state of trigger cards_board on public.cards",
        "constraint cards_board",
    ),
    ("drop trigger touch on boards", "trigger touch on public.boards", "- CREATE TRIGGER"),
    (
        "alter table boards owner to postgres",
        "owner of table public.boards",
        "+ alter table public.boards owner to postgres",
    ),
    (
        "grant truncate on boards to tenantry_app",
        "grant on table public.boards to tenantry_app",
        "truncate",
    ),
    (
        "revoke delete on cards from tenantry_app",
        "grant on table public.cards to tenantry_app",
        "delete",
    ),
    (
        "grant select (title) on boards to public",
        "grant on column public.boards.title to public",
        "select (title)",
    ),
    ("create table extra (id int)", "table public.extra", "+ create table public.extra"),
    ("drop table days_2026", "table public.days_2026", "- create table"),
    (
        "alter table days detach partition days_2026",
        "parent public.days of table public.days_2026",
        "attach partition",
    ),
    ("alter type mood add value 'great'", "type public.mood", "'great'"),
    ("alter type spot add attribute z int", "type public.spot", "z integer"),
    (
        "create or replace view busy as select board_id, count(*) as cards from cards where not done group by board_id",
        "view public.busy",
        "done",
    ),
    (
        "drop materialized view totals",
        "materialized view public.totals",
        "- create materialized view",
    ),
    (
        "alter view busy set (security_barrier)",
        "parameters of view public.busy",
        "security_barrier",
    ),
    (
        "create rule quiet as on delete to cards do instead nothing",
        "rule quiet on public.cards",
        "+ CREATE RULE",
    ),
    (
        "alter table boards enable row level security",
        "row level security of public.boards",
        "enable row level security",
    ),
    (
        "alter table boards force row level security",
        "forced row level security of public.boards",
        "force",
    ),
    (
        "create policy own on boards using (id > 0)",
        "policy own on public.boards",
        "using ((id > 0))",
    ),
    (
        "update pg_index set indisvalid = false where indexrelid = 'boards_title'::regclass",
        "validity of index public.boards_title",
        "is invalid",
    ),
    (
        "drop index boards_code; create unique index boards_code on boards (code)",
        "index public.boards_code",
        "WHERE",
    ),
    ("cluster boards using boards_title", "clustering of public.boards", "cluster on"),
    (
        "alter table boards alter notes type text collate \"C\"",
        "column public.boards.notes",
        "collate \"C\"",
    ),
    (
        "alter table boards drop words; alter table boards add words int generated always as (length(title) + 1) stored",
        "column public.boards.words",
        "+ 1",
    ),
    (
        "alter table boards alter id set generated by default",
        "column public.boards.id",
        "by default as identity",
    ),
    (
        "alter table boards alter id set increment 10",
        "sequence public.boards_id_seq",
        "increment by 10",
    ),
    ("alter sequence tickets increment 2", "sequence public.tickets", "increment by 2"),
    (
        "alter sequence tickets owned by cards.id",
        "place of sequence public.tickets",
        "owned by public.cards.id",
    ),
    (
        "update pg_extension set extversion = '0.9' where extname = 'plpgsql'",
        "extension plpgsql",
        "version '0.9'",
    ),
    (
        "alter default privileges for role tenantry_owner grant truncate on tables to tenantry_app",
        "default privileges of tenantry_owner on tables for tenantry_app",
        "truncate",
    ),
    (
        "alter default privileges for role tenantry_owner revoke execute on functions from public",
        "default privileges of tenantry_owner on functions for public",
        "revoke",
    ),
    ("alter table cards set unlogged", "table public.cards", "+ create unlogged table"),
    (
        "alter table boards replica identity full",
        "replica identity of public.boards",
        "replica identity full",
    ),
    (
        "alter table boards set (fillfactor = 70)",
        "parameters of table public.boards",
        "fillfactor=70",
    ),
    (
        "alter table boards set (toast.autovacuum_enabled = off)",
        "parameters of table public.boards",
        "toast.autovacuum_enabled",
    ),
    (
        "alter table boards alter notes set storage external",
        "storage of column public.boards.notes",
        "storage external",
    ),
    (
        "alter table boards alter notes set statistics 500",
        "statistics target of column public.boards.notes",
        "500",
    ),
    ("drop statistics boards_moods", "statistics public.boards_moods", "- CREATE STATISTICS"),
    ("create schema more", "schema more", "+ create schema more"),
    ("grant usage on schema public to public", "grant on schema public to public", "+ grant usage"),
    (
        "create aggregate product (int) (sfunc = int4mul, stype = int)",
        "aggregate public.product(integer)",
        "int4mul",
    ),
    ("create type span as range (subtype = int)", "type public.span", "as range"),
    ("create collation plain from \"C\"", "collation public.plain", "create collation"),
    ("create cast (spot as mood) with inout", "cast from public.spot to public.mood", "with inout"),
    (
        "create event trigger watch on ddl_command_end execute function told()",
        "event trigger watch",
        "ddl_command_end",
    ),
    (
        "alter publication feed set table boards (id) where (id > 0)",
        "publication feed",
        "+ create publication feed for table public.boards (id) where (id > 0)",
    ),
    (
        "alter publication feed set table boards (id, title) where (id > 1)",
        "publication feed",
        "(id, title) where (id > 1)",
    ),
    (
        "alter publication feed set (publish_via_partition_root)",
        "publication feed",
        "publish_via_partition_root",
    ),
    (
        "alter view titles alter title set default 'x'",
        "default of column public.titles.title",
        "set default 'x'",
    ),
    (
        "alter statistics boards_moods set statistics 100",
        "statistics public.boards_moods",
        "target 100",
    ),
    (
        "alter operator === (text, text) set (restrict = none)",
        "operator public.===(text,text)",
        "restrict = eqsel",
    ),
    ("create publication news for table cards", "publication news", "public.cards"),
    (
        "create text search configuration words (copy = simple)",
        "text search configuration public.words",
        "simple",
    ),
    (
        "create foreign data wrapper far; create server away foreign data wrapper far",
        "server away",
        "foreign data wrapper far",
    ),
];

/// What is no change, however much it moves in the system tables.
pub const NOISE: &[&str] = &[
    "insert into boards (title) select 'x' from generate_series(1, 50)",
    "select nextval('tickets')",
    "analyze",
    "refresh materialized view totals",
    "comment on table boards is 'of cards'",
    "alter table boards drop notes; alter table boards add notes text",
    "alter table cards drop points; alter table cards add points int constraint cards_points check (points >= 0)",
    "drop view busy; create view busy as select board_id, count(*) as cards from cards group by board_id; alter view busy owner to tenantry_owner; grant select, insert, update, delete on busy to tenantry_app",
    "revoke select on boards from tenantry_app; grant select on boards to tenantry_app",
    "truncate boards, cards restart identity",
    "reindex table boards",
    "alter table cards alter points type bigint; alter table cards alter points type int",
];
