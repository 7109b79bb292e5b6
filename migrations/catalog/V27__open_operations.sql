-- What of a batch is not settled yet: asked after every operation of a rollout, and few at any time.
create index operations_open on operations (batch_id)
    where batch_id is not null and state in ('queued', 'running');

-- What was asked for last: so the queue is filled without a look at all that is done.
alter table rollout_tenants add column asked text
    constraint rollout_tenants_asked check (asked in ('backup', 'migration'));
update rollout_tenants i
set asked = case when o.id = i.operation_id then 'migration' else 'backup' end
from operations o
where o.id = i.operation_id
   or o.id = i.backup_id and not exists (select from operations m where m.id = i.operation_id);
create index rollout_tenants_waiting on rollout_tenants (rollout_id, (asked is null), tenant_id)
    where asked is distinct from 'migration';

-- Which operations read a backup: asked before it is removed.
create index operations_backup on operations ((input ->> 'backup')) where input ->> 'backup' is not null;
