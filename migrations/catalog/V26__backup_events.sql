-- What has happened to backups, for the webhook. The numbers are those of rollouts' events, so that a receiver
-- sees each of them once.
create table backup_events (
    seq             bigint primary key default nextval('rollout_events_seq_seq'),
    tenant_id       uuid not null references tenants,
    kind            text not null,
    detail          jsonb not null,
    at              timestamptz not null default now(),
    attempts        int not null default 0,
    deliver_after   timestamptz not null default now(),
    delivered_at    timestamptz
);
create index backup_events_tenant on backup_events (tenant_id, seq desc);
create index backup_events_due on backup_events (at) where delivered_at is null;

-- Tenants whose newest backup is older than it may be.
create table missed_backup_goals (
    tenant_id   uuid primary key references tenants,
    since       timestamptz not null default now()
);

-- A failure is told each time, and the first success after it. A trigger, so that no statement can forget it.
create function backup_settled() returns trigger language plpgsql as $$
begin
    if new.state = 'failed' then
        insert into backup_events (tenant_id, kind, detail)
        values (new.tenant_id, 'backup_failed', jsonb_build_object('operation_id', new.id, 'error', new.error));
    elsif (select e.kind from backup_events e
           where e.tenant_id = new.tenant_id and e.kind in ('backup_failed', 'backup_recovered')
           order by e.seq desc limit 1) = 'backup_failed'
    then
        insert into backup_events (tenant_id, kind, detail)
        values (new.tenant_id, 'backup_recovered', jsonb_build_object('operation_id', new.id));
    end if;
    return null;
end
$$;

create trigger backup_settled after update on operations
    for each row when (new.kind = 'backup' and new.state in ('failed', 'succeeded')
                       and old.state is distinct from new.state)
    execute function backup_settled();
