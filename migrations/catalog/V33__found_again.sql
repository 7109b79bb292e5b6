-- Whether the problem of a backup is only that it could not be found: one that is found again is good again.
alter table backups add column missing boolean not null default false;
update backups set missing = true where problem like '%has no complete backup%';

-- A failure is told when it begins, and once a day for as long as it lasts; then the first success after it.
create or replace function backup_settled() returns trigger language plpgsql as $$
declare
    last backup_events;
begin
    select * into last from backup_events e
    where e.tenant_id = new.tenant_id and e.kind in ('backup_failed', 'backup_recovered')
    order by e.seq desc limit 1;
    if new.state = 'failed' then
        if last.kind is distinct from 'backup_failed' or last.at <= now() - interval '1 day' then
            insert into backup_events (tenant_id, kind, detail)
            values (new.tenant_id, 'backup_failed', jsonb_build_object('operation_id', new.id, 'error', new.error));
        end if;
    elsif last.kind = 'backup_failed' then
        insert into backup_events (tenant_id, kind, detail)
        values (new.tenant_id, 'backup_recovered', jsonb_build_object('operation_id', new.id));
    end if;
    return null;
end
$$;
