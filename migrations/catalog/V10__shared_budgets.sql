-- How many connections all replicas together may hold on a server; null leaves each to its own settings.
alter table servers add column connection_budget int
    constraint servers_connection_budget check (connection_budget between 1 and 100000);

-- The replicas that route, and when each last said that it lives. They share the budgets.
create table routers (
    id      uuid primary key,
    seen_at timestamptz not null default now()
);

create function routers_changed() returns trigger language plpgsql as $$
begin
    perform pg_notify('tenantry_routers', '');
    return null;
end
$$;

-- For each row: an insert that finds its row there already is a sign of life, and no news.
create trigger routers_changed after insert or delete on routers
    for each row execute function routers_changed();
create trigger budgets_changed after update of connection_budget on servers
    for each row execute function routers_changed();

-- A migration is news to routers too: what they have prepared may return something else now.
create or replace function tenant_changed() returns trigger language plpgsql as $$
begin
    if tg_op = 'UPDATE' then
        new.updated_at := now();
        if (new.slug, new.state, new.server_id, new.database_name, new.role_name, new.epoch,
            new.password_sealed, new.settings -> 'limits')
           is not distinct from
           (old.slug, old.state, old.server_id, old.database_name, old.role_name, old.epoch,
            old.password_sealed, old.settings -> 'limits')
        then
            if (new.name, new.settings, new.schema_version)
               is distinct from (old.name, old.settings, old.schema_version)
            then
                perform pg_notify('tenantry_settings', new.slug);
            end if;
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
