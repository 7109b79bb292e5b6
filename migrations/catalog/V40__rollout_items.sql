-- The operations of a rollout are found by their batch: what looks at one rollout need not read those of all others.
create or replace view rollout_items as
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
left join operations m on m.id = i.operation_id and m.batch_id = i.rollout_id
left join operations b on b.id = i.backup_id and b.batch_id = i.rollout_id;
