-- replication::unfollowable
-- One row for each thing in a database that logical replication leaves behind or stumbles over, and what to do
-- about it. Read with an empty search_path, so that every name is whole.
with ext as materialized (
    select objid from pg_depend where deptype = 'e' and classid = 'pg_class'::regclass
), t as materialized (
    select c.oid, c.oid::regclass::text as name, c.relkind, c.relpersistence, c.relreplident,
           c.oid in (select objid from ext) as of_extension
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'm') and c.relpersistence <> 't'
      and n.nspname <> 'information_schema' and n.nspname !~ '^pg_'
), unlike(type) as (
    -- Types without an equality by which a whole row could be found again.
    values ('json'::regtype), ('xml'), ('point'), ('lseg'), ('path'), ('box'), ('polygon'), ('line'), ('circle')
)
select format('table %s has neither a primary key nor a replica identity', name) as what,
       format('give it a primary key, or `alter table %s replica identity full`', name) as remedy
from t
where relkind = 'r' and relpersistence = 'p' and not of_extension
  and case relreplident
      when 'f' then false
      when 'd' then not exists (select from pg_index i where i.indrelid = t.oid and i.indisprimary and i.indisvalid
                                and i.indimmediate)
      when 'i' then not exists (select from pg_index i where i.indrelid = t.oid and i.indisreplident and i.indisvalid)
      else true end
union all
select format('table %s is known by its whole rows, and column %I has a type without equality', t.name, a.attname),
       format('give it a primary key, and `alter table %s replica identity default`', t.name)
from t join pg_attribute a on a.attrelid = t.oid and a.attnum > 0 and not a.attisdropped
where t.relkind = 'r' and t.relreplident = 'f' and a.atttypid in (select type from unlike)
  and not exists (select from pg_index i where i.indrelid = t.oid and i.indisprimary)
union all
select format('table %s is unlogged, so its rows are in no log', name), format('`alter table %s set logged`', name)
from t where relkind = 'r' and relpersistence = 'u'
union all
select format('materialized view %s holds what it held when it was last refreshed', name), 'drop it first, and make it again afterwards'
from t where relkind = 'm'
union all
select format('table %s belongs to an extension', name), 'nobody can tell its own rows from the tenant''s'
from t where relkind = 'r' and of_extension
union all
select 'the database has large objects', 'keep such things in a column of type bytea'
where exists (select from pg_largeobject_metadata)
union all
select format('trigger %I on %s fires for what is replicated, too', g.tgname, g.tgrelid::regclass),
       format('`alter table %s enable trigger %I`', g.tgrelid::regclass, g.tgname)
from pg_trigger g where g.tgenabled in ('A', 'R') and not g.tgisinternal
union all
select format('rule %I on %s applies to what is replicated, too', r.rulename, r.ev_class::regclass),
       format('`alter table %s enable rule %I`', r.ev_class::regclass, r.rulename)
from pg_rewrite r where r.ev_enabled in ('A', 'R')
union all
select format('event trigger %I runs when the schema is changed', evtname), format('`alter event trigger %I disable`', evtname)
from pg_event_trigger where evtenabled <> 'D'
union all
select format('publication %I offers the tenant''s tables to somebody else', pubname), 'drop it, if nobody needs that copy'
from pg_publication where pubname !~ '^tenantry_(move|back)_[0-9a-f]{32}$'
union all
select format('replication slot %I is somebody else''s, and would be left behind', slot_name), 'drop it, if nobody needs that copy'
from pg_replication_slots
where database = current_database() and slot_name !~ '^tenantry_(move|back)_[0-9a-f]{32}$'
  and slot_name !~ '^pg_[0-9]+_sync_[0-9]+_[0-9]+$'
union all
select format('subscription %I writes into the database', s.subname), 'drop it, or wait until it is done'
from pg_subscription s join pg_database d on d.oid = s.subdbid
where d.datname = current_database() and s.subname !~ '^tenantry_(move|back)_[0-9a-f]{32}$'
order by 1
