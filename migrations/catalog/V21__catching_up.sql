-- Tenants that are brought up to date without anybody asking: when they are next used, or one after the other.

-- The files that workers have which do so. A worker says every few seconds that it lives; once it has been silent
-- for a minute, nobody can run its files, and nobody is behind them.
create table wanted_schemas (
    -- Of all of its files: only a worker with the same ones may take the operation.
    digest          text primary key,
    mode            text not null constraint wanted_schemas_mode check (mode in ('on-demand', 'background')),
    -- Where its tenants should be; a freeze may hold them back from the newest file.
    version         bigint not null,
    -- The digest of the repeatable files; null where these are held back.
    repeatables     text,
    -- The templates in which the files have been tried.
    template        text not null,
    first_seen_at   timestamptz not null default now(),
    seen_at         timestamptz not null default now()
);

-- The newest of them. While a rollout is open it decides who is migrated, and nobody else does.
create view wanted_schema as
select * from wanted_schemas w
where w.seen_at > now() - interval '1 minute'
  and w.version <= coalesce((select version from schema_freeze), w.version)
  and not exists (select from rollouts where state in ('running', 'paused'))
order by w.version desc, w.first_seen_at desc, w.digest
limit 1;

-- Nobody is brought to files that have not run in a template of the same server.
create view tenants_behind as
select t.id as tenant_id, t.server_id, w.digest, w.version
from wanted_schema w
join tenants t on t.state in ('active', 'suspended')
 and (t.schema_version < w.version or (t.schema_version = w.version and t.repeatables_digest <> w.repeatables))
join templates p on p.server_id = t.server_id and p.digest = w.template and p.ready;

-- The last time that a tenant was brought up to date, or was to be. One that fails is tried again after a pause
-- that grows with every failure in a row, or with other files.
create table catch_ups (
    tenant_id       uuid primary key references tenants on delete cascade,
    operation_id    uuid not null references operations,
    digest          text not null,
    failures        int not null default 0
);

create function catch_up_pause(failures int) returns interval language sql immutable as $$
    select least(interval '1 minute' * power(2, least(failures, 10)), interval '6 hours')
$$;

-- How it goes. The tenants that failed last, three of them in a row, stop those that nobody is waiting for.
create view catching_up as
select w.mode, w.version, w.digest,
       (select count(*) from catch_ups c join operations o on o.id = c.operation_id
        join tenants_behind b on b.tenant_id = c.tenant_id
        where c.digest = w.digest and o.state = 'failed') as failed,
       (select count(*) = 3 and bool_and(state = 'failed') from (
            select o.state from catch_ups c join operations o on o.id = c.operation_id
            left join tenants_behind b on b.tenant_id = c.tenant_id
            where c.digest = w.digest and (o.state = 'succeeded' or o.state = 'failed' and b.tenant_id is not null)
            order by o.finished_at desc limit 3) last_ones) as is_stopped
from wanted_schema w;

-- Of the operations above: who is waited for comes first, who is not comes last. All others have none.
alter table operations add column urgency smallint not null default 0;
drop index operations_queue;
create index operations_queue on operations (urgency desc, created_at, id) where state = 'queued';

-- Routers look again at tenants that they took to be up to date, and workers at how far they may go: when files
-- come, when they have run in a template, when a rollout has ended or a freeze has changed. Where nobody wants it,
-- nobody is told.
create function schema_wanted() returns trigger language plpgsql as $$
begin
    if tg_table_name = 'wanted_schemas' or exists (select from wanted_schemas) then
        perform pg_notify('tenantry_migrations', '');
    end if;
    return null;
end
$$;

create trigger schema_wanted after insert or delete on wanted_schemas
    for each row execute function schema_wanted();
create trigger schema_wanted_anew after update on wanted_schemas
    for each row when ((old.mode, old.version, old.repeatables, old.template)
                       is distinct from (new.mode, new.version, new.repeatables, new.template))
    execute function schema_wanted();
create trigger schema_tried after insert or update on templates
    for each row when (new.ready) execute function schema_wanted();
create trigger schema_free after update on rollouts
    for each row when (old.state in ('running', 'paused') and new.state not in ('running', 'paused'))
    execute function schema_wanted();
create trigger schema_frozen after insert or update or delete on schema_freeze
    for each row execute function schema_wanted();
