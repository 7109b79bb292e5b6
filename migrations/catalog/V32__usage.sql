-- What each tenant used on each day (UTC). Replicas add what they have counted, about once a minute.
create table tenant_usage (
    tenant_id               uuid not null references tenants,
    day                     date not null,
    -- The size of its database when it was last looked at, and the largest that was seen.
    database_bytes          bigint,
    largest_database_bytes  bigint,
    -- When that was.
    sized_at                timestamptz,
    -- Connections times the seconds that they were open, in use or idle, on whichever server.
    connection_seconds      double precision not null default 0,
    -- Statements of applications and of SQL over HTTP.
    queries                 bigint not null default 0,
    -- What answers of SQL over HTTP held.
    sql_rows                bigint not null default 0,
    sql_bytes               bigint not null default 0,
    -- Backups that were taken, whether or not they are still there.
    backups                 bigint not null default 0,
    backup_bytes            bigint not null default 0,
    primary key (tenant_id, day)
);
create index tenant_usage_day on tenant_usage (day desc, tenant_id);

-- The last note that each replica has added. One that comes twice, because nobody heard that it had arrived, is added
-- once.
create table usage_notes (
    replica uuid primary key,
    number  bigint not null,
    at      timestamptz not null default now()
);

create function meter_backup() returns trigger language plpgsql as $$
begin
    insert into tenant_usage as u (tenant_id, day, backups, backup_bytes)
    values (new.tenant_id, (new.finished_at at time zone 'utc')::date, 1, new.dump_bytes)
    on conflict (tenant_id, day) do update
    set backups = u.backups + 1, backup_bytes = u.backup_bytes + excluded.backup_bytes;
    return null;
end
$$;

create trigger backup_is_metered after insert on backups
    for each row execute function meter_backup();

-- What the catalog knows of the days before.
insert into tenant_usage (tenant_id, day, backups, backup_bytes)
select tenant_id, (finished_at at time zone 'utc')::date, count(*), sum(dump_bytes) from backups group by 1, 2;
