-- Every slug that leads to a tenant: the one it has, those it had before, and the one that a rename has
-- asked for. A slug is one tenant's as long as it stands here, whichever of the three it is.
create table tenant_slugs (
    slug            text not null constraint tenant_slugs_key primary key,
    tenant_id       uuid not null references tenants,
    -- Whether requests that name it are for the tenant. One that is only asked for leads nowhere yet.
    leads           boolean not null default true,
    -- The rename that is to give it to the tenant; until that has ended, nobody may take it away.
    reserved_for    uuid references operations,
    created_at      timestamptz not null default now(),
    constraint tenant_slugs_purpose check (leads or reserved_for is not null)
);
create index tenant_slugs_tenant on tenant_slugs (tenant_id);

insert into tenant_slugs (slug, tenant_id, created_at)
select slug, id, created_at from tenants where state <> 'deleted';

-- A trigger, so that no statement can forget it: a tenant's own slug always leads to it, those that it had
-- go on doing so, and all of them are free once it is deleted.
create function tenant_slugs_follow() returns trigger language plpgsql as $$
begin
    if new.state = 'deleted' then
        delete from tenant_slugs where tenant_id = new.id;
        return null;
    end if;
    insert into tenant_slugs as s (slug, tenant_id) values (new.slug, new.id)
    on conflict (slug) do update set leads = true, reserved_for = null
    where s.tenant_id = excluded.tenant_id;
    if not found then
        raise exception 'slug % is not free', new.slug
            using errcode = 'unique_violation', constraint = 'tenant_slugs_key';
    end if;
    return null;
end
$$;

create trigger tenant_slugs_follow after insert or update of slug, state on tenants
    for each row execute function tenant_slugs_follow();

-- Routers remember a tenant by whichever slug they were asked with.
create function tenant_slug_freed() returns trigger language plpgsql as $$
begin
    perform pg_notify('tenantry_tenants', old.slug);
    return null;
end
$$;

create trigger tenant_slug_freed after delete on tenant_slugs
    for each row execute function tenant_slug_freed();

-- As before, and said of every slug that leads to the tenant.
create or replace function tenant_changed() returns trigger language plpgsql as $$
declare
    channel text := 'tenantry_tenants';
begin
    if tg_op = 'UPDATE' then
        new.updated_at := now();
        if (new.slug, new.state, new.server_id, new.database_name, new.role_name, new.epoch,
            new.password_sealed, new.settings -> 'limits')
           is distinct from
           (old.slug, old.state, old.server_id, old.database_name, old.role_name, old.epoch,
            old.password_sealed, old.settings -> 'limits')
        then
            new.generation := old.generation + 1;
        elsif (new.name, new.settings, new.schema_version)
              is distinct from (old.name, old.settings, old.schema_version)
        then
            channel := 'tenantry_settings';
        else
            return new;
        end if;
        perform pg_notify(channel, slug) from tenant_slugs where tenant_id = new.id;
    end if;
    perform pg_notify(channel, new.slug);
    return new;
end
$$;

-- While a tenant is being renamed, requests wait.
alter table tenants drop constraint tenants_state;
alter table tenants add constraint tenants_state check (state in
    ('provisioning', 'active', 'suspended', 'restoring', 'renaming', 'deleting', 'deleted'));
