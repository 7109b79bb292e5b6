-- What the last look at a tenant's schema found: a summary, so that the fleet can be counted without asking
-- any tenant's database. Whoever looks later overwrites it.
create table schema_checks (
    tenant_id   uuid primary key references tenants on delete cascade,
    -- The version of the database, which the tenant may have left behind since.
    version     bigint not null,
    fingerprint text not null,
    differences int not null,
    checked_at  timestamptz not null default now()
);
