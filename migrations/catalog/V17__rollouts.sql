-- Fleet migrations. Which tenants come in which wave is decided once, at the start, and written down here, so
-- that any replica can go on where another one stopped. A rollout's id is the batch of its operations.
create table rollouts (
    id                  uuid primary key,
    target_version      bigint not null,
    -- Only who has loaded exactly this set of migration files may drive it.
    migrations_digest   text not null,
    state               text not null default 'running'
                        constraint rollouts_state check (state in
                            ('running', 'paused', 'aborted', 'failed', 'succeeded')),
    -- What was asked for, as the code wrote it.
    plan                jsonb not null,
    -- The names of the waves, in order; tenants that fell behind on the way come in one more.
    waves               text[] not null,
    wave                int not null default 0,
    -- More failed tenants than this stop it; null where a wave runs to its end whatever fails in it.
    max_failures        int,
    -- When the templates stood and the first wave began.
    begun_at            timestamptz,
    -- The wave under way has ended, and the next one waits until then.
    bake_until          timestamptz,
    -- Why it is paused or has failed.
    reason              jsonb,
    requested_by        text not null,
    created_at          timestamptz not null default now(),
    finished_at         timestamptz
);

-- One at a time. The queue asks through this index which batch is to be left alone.
create unique index rollouts_open_key on rollouts ((true)) where state in ('running', 'paused');
create index rollouts_created on rollouts (created_at desc);

-- The ids of the operations are made with the plan: whoever enqueues twice inserts nothing the second time.
create table rollout_tenants (
    rollout_id      uuid not null references rollouts,
    tenant_id       uuid not null references tenants,
    wave            int not null,
    operation_id    uuid not null,
    -- The backup that comes first, where one was asked for.
    backup_id       uuid,
    primary key (rollout_id, tenant_id)
);

-- Where each tenant of a rollout stands, by its operations. One that is deleted on the way is nobody's failure.
create view rollout_items as
select i.rollout_id, i.tenant_id, i.wave, i.operation_id, i.backup_id,
       t.slug, t.server_id, t.state as tenant_state, t.schema_version,
       i.backup_id is null or coalesce(b.state = 'succeeded', false) as backed_up,
       coalesce(m.id, b.id) as latest_operation,
       coalesce(m.error, b.error) as error,
       coalesce(m.finished_at, b.finished_at) as finished_at,
       case when m.state = 'succeeded' then 'succeeded'
            when t.state in ('deleting', 'deleted') then 'skipped'
            when m.state in ('failed', 'cancelled') or b.state in ('failed', 'cancelled') then 'failed'
            when m.state = 'running' or b.state = 'running' then 'running'
            when m.state = 'queued' or b.state = 'queued' then 'queued'
            else 'waiting' end as state
from rollout_tenants i
join tenants t on t.id = i.tenant_id
left join operations m on m.id = i.operation_id
left join operations b on b.id = i.backup_id;

-- What has happened, for whoever watches, and for the webhook. Rows are written under the lock of their rollout,
-- so that the numbers of one rollout become visible in order.
create table rollout_events (
    seq             bigint generated always as identity primary key,
    rollout_id      uuid not null references rollouts,
    kind            text not null,
    detail          jsonb not null,
    at              timestamptz not null default now(),
    -- The webhook: how often it was tried, when to try again, and when it was received.
    attempts        int not null default 0,
    deliver_after   timestamptz not null default now(),
    delivered_at    timestamptz
);
create index rollout_events_rollout on rollout_events (rollout_id, seq);
create index rollout_events_due on rollout_events (at) where delivered_at is null;

create function rollout_told() returns trigger language plpgsql as $$
begin
    perform pg_notify('tenantry_rollouts', new.rollout_id::text);
    return null;
end
$$;

create trigger rollout_told after insert on rollout_events
    for each row execute function rollout_told();
