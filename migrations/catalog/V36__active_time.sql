-- How long sessions of each tenant's database ran statements, as its server counts it.
alter table tenant_usage add column active_seconds double precision not null default 0;

-- What the server had counted when it was last looked at. Another database counts anew, and so does a server that
-- was told to, since then.
create table usage_marks (
    tenant_id uuid primary key references tenants (id) on delete cascade,
    server_id uuid not null references servers (id) on delete cascade,
    database_oid oid not null,
    counted_since timestamptz,
    active_seconds double precision not null
);
