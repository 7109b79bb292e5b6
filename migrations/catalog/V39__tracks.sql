-- Tenants with a schema of their own: files of a track, beyond those that every tenant gets.
alter table tenants
    -- Null gets the common files alone.
    add column track             text constraint tenants_track_form
                                 check (track ~ '^[a-z0-9]([a-z0-9-]{0,48}[a-z0-9])?$'),
    -- The newest file of the track that it has, and the digest of the repeatable ones that it was last brought to.
    add column track_version     bigint not null default 0,
    add column track_repeatables text not null default '';

create index tenants_track on tenants (track) where track is not null;

-- As before, and said of the track too.
create or replace function tenant_changed() returns trigger language plpgsql as $$
declare
    channel text := 'tenantry_tenants';
begin
    if tg_op = 'UPDATE' then
        new.updated_at := now();
        if (new.slug, new.state, new.server_id, new.database_name, new.role_name, new.epoch,
            new.password_sealed, new.settings -> 'limits')
           is distinct from
           (old.slug, old.state, old.server_id, old.database_name, old.role_name, old.epoch,
            old.password_sealed, old.settings -> 'limits')
        then
            new.generation := old.generation + 1;
        elsif (new.name, new.settings, new.schema_version, new.track, new.track_version)
              is distinct from (old.name, old.settings, old.schema_version, old.track, old.track_version)
        then
            channel := 'tenantry_settings';
        else
            return new;
        end if;
        perform pg_notify(channel, slug) from tenant_slugs where tenant_id = new.id;
    end if;
    perform pg_notify(channel, new.slug);
    return new;
end
$$;

-- Of the files of a worker: each track that can be used, with its newest version and the digest of its repeatable
-- files. Empty where a freeze holds common files back.
alter table wanted_schemas add column tracks jsonb not null default '{}';

create or replace view wanted_schema as
select * from wanted_schemas w
where w.seen_at > now() - interval '1 minute'
  and w.version <= coalesce((select version from schema_freeze), w.version)
  and not exists (select from rollouts where state in ('running', 'paused'))
order by w.version desc, w.first_seen_at desc, w.digest
limit 1;

-- Nobody is brought to common files that have not run in a template of the same server.
create or replace view tenants_behind as
select t.id as tenant_id, t.server_id, w.digest, w.version, t.track
from wanted_schema w
join tenants t on t.state in ('active', 'suspended')
 and (t.schema_version < w.version
      or (t.schema_version = w.version
          and (t.repeatables_digest <> w.repeatables
               or t.track_version < (w.tracks -> t.track ->> 'version')::bigint
               or (t.track_version = (w.tracks -> t.track ->> 'version')::bigint
                   and t.track_repeatables <> w.tracks -> t.track ->> 'repeatables'))))
join templates p on p.server_id = t.server_id and p.digest = w.template and p.ready;

-- The tracks whose last three tenants failed in a row, null for those of none: what is wrong with one track keeps
-- nobody else waiting.
create view catch_ups_stopped as
select track
from (select t.track, o.state, row_number() over (partition by t.track order by o.finished_at desc) as nth
      from wanted_schema w
      join catch_ups c on c.digest = w.digest
      join operations o on o.id = c.operation_id
      join tenants t on t.id = c.tenant_id
      left join tenants_behind b on b.tenant_id = c.tenant_id
      where o.state = 'succeeded' or o.state = 'failed' and b.tenant_id is not null) last_ones
where nth <= 3
group by track
having count(*) = 3 and bool_and(state = 'failed');

create or replace view catching_up as
select w.mode, w.version, w.digest,
       (select count(*) from catch_ups c join operations o on o.id = c.operation_id
        join tenants_behind b on b.tenant_id = c.tenant_id
        where c.digest = w.digest and o.state = 'failed') as failed,
       exists (select from catch_ups_stopped) as is_stopped
from wanted_schema w;

drop trigger schema_wanted_anew on wanted_schemas;
create trigger schema_wanted_anew after update on wanted_schemas
    for each row when ((old.mode, old.version, old.repeatables, old.template, old.tracks)
                       is distinct from (new.mode, new.version, new.repeatables, new.template, new.tracks))
    execute function schema_wanted();
