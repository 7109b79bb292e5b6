-- The catalog: the one truth about which tenants exist and where each of them lives.

-- PostgreSQL servers that host tenant databases. The connection string carries the administrator's
-- password, so it is stored sealed under the master key, with the server's id as associated data.
create table servers (
    id          uuid primary key,
    name        text not null constraint servers_name_key unique
                constraint servers_name_form check (name ~ '^[a-z0-9]([a-z0-9-]{0,48}[a-z0-9])?$'),
    url_sealed  bytea not null,
    -- What people may see of the address: hosts and ports, no user, no password.
    address     text not null,
    created_at  timestamptz not null default now()
);

create table tenants (
    id                  uuid primary key,
    slug                text not null
                        constraint tenants_slug_form check (slug ~ '^[a-z0-9]([a-z0-9-]{0,48}[a-z0-9])?$'),
    name                text not null,
    tier                text not null default 'shared'
                        constraint tenants_tier check (tier in ('shared', 'dedicated')),
    state               text not null
                        constraint tenants_state check (state in
                            ('provisioning', 'active', 'suspended', 'restoring', 'deleting', 'deleted')),
    -- Why an operator suspended the tenant; null unless suspended.
    suspended_reason    text,
    settings            jsonb not null default '{}',
    server_id           uuid not null references servers,
    database_name       text not null,
    role_name           text not null,
    -- Raised whenever the tenant's data moves to another physical database; the stamp on that
    -- database says which epoch it belongs to, and a connection with another epoch is refused.
    epoch               bigint not null default 1,
    -- Raised by the trigger below on every change of place, state or secret; routers compare it.
    generation          bigint not null default 1,
    -- Secrets, sealed with the tenant's id as associated data; null once the tenant is deleted,
    -- which makes its backups unreadable for good.
    password_sealed     bytea,
    backup_key_sealed   bytea,
    -- What the last finished migration left behind; the database itself is checked by each run.
    schema_version      bigint not null default 0,
    created_at          timestamptz not null default now(),
    updated_at          timestamptz not null default now(),
    deleted_at          timestamptz
);

-- A slug is free again once its tenant is deleted; the old row stays for the record.
create unique index tenants_slug_key on tenants (slug) where state <> 'deleted';
create index tenants_server on tenants (server_id) where state <> 'deleted';

-- Routers on every replica listen to this. It is a trigger, so that no statement can forget it.
create function tenant_changed() returns trigger language plpgsql as $$
begin
    if tg_op = 'UPDATE' then
        new.updated_at := now();
        if (new.slug, new.state, new.server_id, new.database_name, new.role_name, new.epoch,
            new.password_sealed)
           is not distinct from
           (old.slug, old.state, old.server_id, old.database_name, old.role_name, old.epoch,
            old.password_sealed)
        then
            return new;
        end if;
        new.generation := old.generation + 1;
        if new.slug <> old.slug then
            perform pg_notify('tenantry_tenants', old.slug);
        end if;
    end if;
    perform pg_notify('tenantry_tenants', new.slug);
    return new;
end
$$;

create trigger tenant_changed before insert or update on tenants
    for each row execute function tenant_changed();
