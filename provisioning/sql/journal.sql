-- journal::prepare
-- What refinery's history has no place for. Made with every database, and in an older one when it is
-- first needed, by its owner; running it again changes nothing.

-- The statements of files that run outside of a transaction, one row each.
create table if not exists tenantry.schema_statements (
    file text,
    number int4,
    sha256 text not null,
    begun_at timestamptz not null default now(),
    -- Null: it was begun, and nobody knows yet how it ended.
    ended_at timestamptz,
    primary key (file, number)
);
alter table tenantry.schema_statements owner to tenantry_owner;
revoke all on tenantry.schema_statements from tenantry_app;

-- The repeatable files, as they were when they last ran.
create table if not exists tenantry.schema_repeatables (
    file text primary key,
    sha256 text not null,
    applied_at timestamptz not null default now()
);
alter table tenantry.schema_repeatables owner to tenantry_owner;
revoke all on tenantry.schema_repeatables from tenantry_app;
