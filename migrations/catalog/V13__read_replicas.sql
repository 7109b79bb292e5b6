-- Standbys of the servers, from which routers may read. The connection string is sealed as a server's is,
-- with the read replica's own id as associated data.
create table read_replicas (
    id          uuid primary key,
    server_id   uuid not null references servers,
    name        text not null
                constraint read_replicas_name_form check (name ~ '^[a-z0-9]([a-z0-9-]{0,48}[a-z0-9])?$'),
    url_sealed  bytea not null,
    -- What people may see of the address: hosts and ports, no user, no password.
    address     text not null,
    created_at  timestamptz not null default now(),
    constraint read_replicas_name_key unique (server_id, name)
);

create function read_replicas_changed() returns trigger language plpgsql as $$
begin
    perform pg_notify('tenantry_read_replicas', '');
    return null;
end
$$;

create trigger read_replicas_changed after insert or update or delete on read_replicas
    for each statement execute function read_replicas_changed();
-- Who watches a read replica compares it with its server, and must know where that is now.
create trigger read_replicas_changed after update of url_sealed on servers
    for each statement execute function read_replicas_changed();

-- A server's tenants are served at its address: another one is another generation of each, with connections
-- of its own.
create function server_moved() returns trigger language plpgsql as $$
begin
    update tenants set generation = generation + 1 where server_id = new.id and state <> 'deleted';
    perform pg_notify('tenantry_tenants', s.slug)
    from tenant_slugs s join tenants t on t.id = s.tenant_id where t.server_id = new.id;
    return null;
end
$$;

create trigger server_moved after update of url_sealed on servers
    for each row execute function server_moved();
