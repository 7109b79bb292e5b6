-- Keys that a tenant's backups were encrypted to before it got another one; a backup stays readable for as long as
-- its key is here. Sealed as the present one is, with the tenant's id as associated data.
create table retired_backup_keys (
    -- The operation that gave the tenant another key.
    id          uuid primary key,
    tenant_id   uuid not null references tenants,
    key_sealed  bytea not null,
    retired_at  timestamptz not null default now()
);
create index retired_backup_keys_tenant on retired_backup_keys (tenant_id, retired_at desc);

-- The master key under which a backup's manifest keeps its key; null where nobody has looked since this is kept.
alter table backups add column key_id text;

-- The same secret under another master key is no news: nobody has to log in again for it.
create function resealing() returns boolean language sql stable as $$
    select coalesce(current_setting('tenantry.resealing', true), '') = 'on'
$$;

drop trigger tenant_changed on tenants;
create trigger tenant_changed before insert or update on tenants
    for each row when (not resealing()) execute function tenant_changed();
drop trigger server_moved on servers;
create trigger server_moved after update of url_sealed on servers
    for each row when (not resealing()) execute function server_moved();
drop trigger read_replicas_changed on servers;
create trigger read_replicas_changed after update of url_sealed on servers
    for each statement when (not resealing()) execute function read_replicas_changed();
drop trigger read_replicas_changed on read_replicas;
create trigger read_replicas_changed after insert or update or delete on read_replicas
    for each statement when (not resealing()) execute function read_replicas_changed();
