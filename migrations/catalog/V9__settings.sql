-- What a change of a tenant means to the routers. Limits are in force in connections, so other limits are
-- another generation, with pools of its own. A change of the name, of the schema (what routers have prepared
-- may return something else now) or of any other setting is news too, but under a name of its own: no
-- connection is closed for it.
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
