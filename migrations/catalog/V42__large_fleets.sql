-- What fleets of thousands of tenants and dozens of servers need.

-- That a template stands is news once: workers write it down again and again, and every router forgets its routes
-- when it hears of it.
drop trigger schema_tried on templates;
create trigger schema_tried after insert on templates
    for each row when (new.ready) execute function schema_wanted();
create trigger schema_tried_anew after update on templates
    for each row when (new.ready and not old.ready) execute function schema_wanted();

-- Among all the operations that there ever were, the few that are open, and the few that went wrong.
create index operations_unsettled on operations (kind, tenant_id) where state in ('queued', 'running');
create index operations_failed on operations (id) where state = 'failed';
create index operations_batch_failed on operations (batch_id)
    where batch_id is not null and state in ('failed', 'cancelled');

-- When a chore was last begun that any one replica does for all of them, every so often.
create table chores (
    name        text primary key,
    begun_at    timestamptz not null default now()
);

-- Its rows are changed once a minute: a page with room for that takes no change of its indexes.
alter table tenant_usage set (fillfactor = 50);

-- Where a tenant of a rollout is, so that whoever fills the slots of one server reads none of the others' tenants.
alter table rollout_tenants add column server_id uuid;
update rollout_tenants i set server_id = t.server_id from tenants t where t.id = i.tenant_id;
create index rollout_tenants_on_server on rollout_tenants (rollout_id, server_id, wave, (asked is null), tenant_id)
    where asked is distinct from 'migration';

create function rollout_tenant_moved() returns trigger language plpgsql as $$
begin
    update rollout_tenants set server_id = new.server_id
    where tenant_id = new.id
      and rollout_id in (select id from rollouts where state not in ('aborted', 'succeeded'));
    return null;
end
$$;

create trigger rollout_tenant_moved after update of server_id on tenants
    for each row when (old.server_id is distinct from new.server_id) execute function rollout_tenant_moved();
