-- What a team has that moves in. Run by an administrator in a database of its own.
set role old_app;
create extension pgcrypto;
create extension citext;
create schema app;
create type mood as enum ('sad', 'ok', 'it''s; fine');
create type app.pair as (a int, b text);
create domain positive as int check (value > 0);
create sequence app.numbers start 7 increment 3;
create table boards (
    id bigint generated always as identity primary key,
    title text not null,
    keeper citext,
    mood mood default 'ok',
    size positive,
    pair app.pair,
    tags text[],
    raw bytea,
    made timestamptz default '2026-01-02 03:04:05+00',
    constraint short check (length(title) < 100)
);
create table app.cards (
    id serial primary key,
    board bigint references boards (id) on delete cascade,
    body text,
    twice int generated always as (length(body) * 2) stored
);
create index on app.cards (lower(body)) where board > 1;
create function app.touch() returns trigger language plpgsql as $body$
begin
    new.body := coalesce(new.body, 'none; $$ at all');
    return new;
end $body$;
create trigger touch before insert on app.cards for each row execute function app.touch();
create function app.add(a int, b int default 2) returns int language sql immutable
begin atomic
    select case when a is null then b else a + b end;
end;
create procedure app.nothing() language plpgsql as 'begin null; end';
create aggregate app.total (int) (sfunc = int4pl, stype = int, initcond = '0');
create view app.open_boards as select b.id, b.title, app.add(1) as two from boards b where b.mood <> 'sad';
create materialized view app.totals as select board, count(*) as cards from app.cards group by board;
create unique index on app.totals (board);
create table events (at date not null, what text) partition by range (at);
create table events_2025 partition of events for values from ('2025-01-01') to ('2026-01-01');
create table events_rest partition of events default;
create rule quiet as on delete to events_rest do instead nothing;
create table "Odd; name" ("a ""b"" c" int, "from" text, primary key ("a ""b"" c"));
create table no_columns ();
create statistics app.stat on board, body from app.cards;
alter table boards enable row level security;
create policy shown on boards using (title <> 'hidden') with check (true);
comment on table boards is E'a comment; with \\! and ''quotes''\n\\connect postgres\nand lines';
comment on column app.cards.body is 'words';
comment on function app.add(int, int) is 'adds; more';
insert into boards (title, keeper, mood, size, pair, tags, raw) values
    ('one', 'Ada', 'sad', 1, row (1, 'x'), '{a,"b;c"}', '\x00ff5c0a'),
    (E'tab\t, line\n, \\. and \\!', 'Bob', 'it''s; fine', 2, null, null, ''),
    (E'\\.', null, null, null, row (null, E'\n\\.\n'), '{}', null),
    ('größe; 漢字', 'ÄDA', 'ok', 3, null, null, null);
insert into app.cards (board, body)
    select 1 + n % 4, case when n % 7 = 0 then null else 'card ' || n || E'\n\\.' end from generate_series(1, 2500) n;
insert into events values ('2025-05-05', 'a'), ('2024-01-01', 'b');
insert into "Odd; name" values (1, 'select 1; -- '), (2, null);
refresh materialized view app.totals;
select nextval('app.numbers');
select lo_from_bytea(4711, '\x00ff5c0a');
comment on large object 4711 is 'a picture';
grant select on boards to public;
grant usage on schema app to public;
grant execute on function app.add(int, int) to public;
revoke execute on function app.touch() from public;
reset role;
