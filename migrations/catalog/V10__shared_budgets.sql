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
