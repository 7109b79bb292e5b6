-- Since when a fact is as it is: how old the master key is, for one.
alter table catalog_facts add column changed_at timestamptz not null default now();

update catalog_facts
set changed_at = coalesce((select max(at) from audit_log where action = 'master_key.rotated'),
                          (select min(created_at) from servers), now())
where name = 'master_key_check';
