-- isolation::lock_down
-- Run once by the administrator, inside a database that nobody else can enter yet. Running it again
-- changes nothing. What is granted here is proven, from outside, by findings.sql.

-- Tenants get no right from PUBLIC, so that the two group roles say everything.
revoke all on schema public from public;
grant usage, create on schema public to tenantry_owner;
grant usage on schema public to tenantry_app;

-- Whatever a migration creates, tenants may read and write its data and change nothing of its shape.
alter default privileges for role tenantry_owner
    grant select, insert, update, delete on tables to tenantry_app;
alter default privileges for role tenantry_owner
    grant usage, select on sequences to tenantry_app;
alter default privileges for role tenantry_owner
    grant usage on schemas to tenantry_app;

-- Our own schema. A tenant who could write the history could make migrations skip or fail.
create schema if not exists tenantry authorization tenantry_owner;
revoke all on schema tenantry from public, tenantry_app;
create table if not exists tenantry.schema_history (
    version int8 primary key,
    name varchar(255),
    applied_on varchar(255),
    checksum varchar(255)
);
alter table tenantry.schema_history owner to tenantry_owner;
revoke all on tenantry.schema_history from tenantry_app;
