-- What the tenants of a tier may use, where their own settings do not say it.
create table tiers (
    name       text primary key
               constraint tiers_name check (name in ('shared', 'dedicated')),
    limits     jsonb not null default '{}',
    updated_at timestamptz not null default now()
);

insert into tiers (name) values ('shared'), ('dedicated');

-- One word for all tenants of a tier, however many there are: their generations stay, and routers look again
-- at each tenant when somebody asks for it.
create function tier_changed() returns trigger language plpgsql as $$
begin
    new.updated_at := now();
    perform pg_notify('tenantry_tiers', new.name);
    return new;
end
$$;

create trigger tier_changed before update on tiers
    for each row when (new.limits is distinct from old.limits) execute function tier_changed();
