-- Erasures of what a tenant had in backups: the certificates, for good, also when the tenant is gone.
create table erasures (
    -- The operation that did it.
    id          uuid primary key,
    tenant_id   uuid not null references tenants,
    erased_at   timestamptz not null,
    certificate jsonb not null
);
create index erasures_tenant on erasures (tenant_id);

-- The key that signs certificates, sealed under the master key with this id as associated data.
create table certificate_key (
    is_only     boolean primary key default true constraint certificate_key_only check (is_only),
    id          uuid not null,
    key_sealed  bytea not null
);

-- When the key of a backup was destroyed; its objects may still lie in the bucket.
alter table backups add column erased_at timestamptz;
