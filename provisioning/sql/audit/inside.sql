-- audit::inside
-- $1 the role of the tenant whose database this is. Rows as in databases.sql.
with ext as materialized (
    select classid, objid from pg_depend where deptype = 'e'
), tenants as materialized (
    select oid, rolname from pg_roles where rolname in ($1, 'tenantry_app')
), trusted as materialized (
    select oid, rolname from pg_roles
    where rolname in ('tenantry_owner', current_user) or rolsuper
), n as materialized (
    select n.*, quote_ident(nspname) as name,
           format('select nspowner::regrole, nspacl from pg_namespace where nspname = %L', nspname) as shows
    from pg_namespace n
    where nspname !~ '^pg_' and nspname <> 'information_schema'
      and ('pg_namespace'::regclass, oid) not in (select classid, objid from ext)
), c as materialized (
    select c.*, n.name || '.' || quote_ident(relname) as name,
           format('select relowner::regrole, relacl from pg_class where oid = %L::regclass',
                  n.name || '.' || quote_ident(relname)) as shows
    from pg_class c join n on n.oid = c.relnamespace
    where relkind in ('r', 'p', 'v', 'm', 'S', 'f')
      and ('pg_class'::regclass, c.oid) not in (select classid, objid from ext)
), p as materialized (
    select p.*, p.oid::regprocedure::text as signature, l.lanname, l.lanpltrusted,
           format('select proowner::regrole, prosecdef, proconfig from pg_proc where oid = %L::regprocedure',
                  p.oid::regprocedure) as shows
    from pg_proc p join n on n.oid = p.pronamespace join pg_language l on l.oid = p.prolang
    where ('pg_proc'::regclass, p.oid) not in (select classid, objid from ext)
), far(name) as (
    values ('dblink'), ('postgres_fdw'), ('file_fdw'), ('adminpack'), ('plpython3u'), ('plperlu'), ('pltclu'), ('plsh'),
           ('pageinspect'), ('pg_surgery'), ('pg_walinspect'), ('oracle_fdw'), ('mysql_fdw'), ('tds_fdw'), ('http'),
           ('pg_net'), ('pg_cron')
), powers(name) as (
    values ('pg_read_file'), ('pg_read_binary_file'), ('pg_ls_dir'), ('pg_stat_file'), ('lo_import'), ('lo_export'),
           ('pg_ls_logdir'), ('pg_ls_waldir'), ('pg_ls_tmpdir'), ('pg_hba_file_rules'), ('pg_show_all_file_settings'),
           ('pg_reload_conf'), ('pg_rotate_logfile'), ('pg_switch_wal'), ('pg_promote'), ('pg_create_restore_point'),
           ('pg_replication_origin_create'), ('pg_stat_reset')
)
select 'extension' as kind, e.extname::text as subject, 'it reaches out of the database' as evidence,
       format('select extname, extversion from pg_extension where extname = %L', e.extname) as shows, null as mend
from pg_extension e join far on far.name = e.extname
union all
select 'foreign_server', s.srvname::text, 'it leads out of the database through ' || w.fdwname,
       format('select srvname, srvoptions from pg_foreign_server where srvname = %L', s.srvname), null
from pg_foreign_server s join pg_foreign_data_wrapper w on w.oid = s.srvfdw
union all
select 'untrusted_language', lanname::text, 'a function in it does whatever the server may do',
       format('select lanname, lanpltrusted from pg_language where lanname = %L', lanname), null
from pg_language where lanispl and not lanpltrusted
union all
select 'untrusted_function', signature, 'it is written in ' || lanname, shows, null
from p
where not lanpltrusted and lanname <> 'sql'
  -- PostgreSQL itself writes an aggregate and what makes a range; what an aggregate calls is looked at by itself.
  and prokind <> 'a'
  and not exists (select from pg_depend w where w.classid = 'pg_proc'::regclass and w.objid = p.oid and w.deptype = 'i')
union all
select 'security_definer', signature,
       format('it runs with the rights of %s and with the search_path of its caller', pg_get_userbyid(proowner)), shows,
       null
from p
where prosecdef and not exists (select from unnest(proconfig) setting where setting like 'search_path=%')
union all
select 'event_trigger', evtname::text, 'it runs at ' || evtevent,
       format('select evtname, evtevent, evtfoid::regproc from pg_event_trigger where evtname = %L', evtname), null
from pg_event_trigger where ('pg_event_trigger'::regclass, oid) not in (select classid, objid from ext)
union all
select 'publication', pubname::text, case when puballtables then 'it offers every table' else 'it offers tables' end,
       format('select * from pg_publication where pubname = %L', pubname), null
from pg_publication
-- Of a move that is under way, or of what a move left: its slot is looked at, too.
where not (pubname ~ '^tenantry_(move|back)_[0-9a-f]{32}$'
           and exists (select from pg_replication_slots where slot_name = pubname and database = current_database()))
union all
select 'schema_right', 'schema ' || name,
       format('%s has %s', coalesce(g.rolname, 'PUBLIC'), lower(a.privilege_type)), shows,
       format('revoke %s on schema %s from %s', a.privilege_type, name, coalesce(quote_ident(g.rolname), 'public'))
from n cross join aclexplode(nspacl) a left join pg_roles g on g.oid = a.grantee
where a.grantee = 0
   or g.oid in (select oid from tenants) and (a.privilege_type = 'CREATE' or nspname = 'tenantry')
   or g.oid not in (select oid from tenants union all select oid from trusted) and a.grantee <> nspowner
union all
select 'object_right', name, format('%s has %s', coalesce(g.rolname, 'PUBLIC'), lower(a.privilege_type)), shows,
       format('revoke %s on %s %s from %s', a.privilege_type, case relkind when 'S' then 'sequence' else 'table' end,
              name, coalesce(quote_ident(g.rolname), 'public'))
from c cross join aclexplode(relacl) a left join pg_roles g on g.oid = a.grantee
where a.grantee = 0
   or g.oid in (select oid from tenants) and name like 'tenantry.%'
   or g.oid not in (select oid from tenants union all select oid from trusted) and a.grantee <> relowner
union all
select 'object_owner', 'schema ' || name, 'it belongs to ' || pg_get_userbyid(nspowner), shows,
       format('alter schema %s owner to tenantry_owner', name)
from n
where nspowner not in (select oid from trusted)
  and not (nspname = 'public' and pg_get_userbyid(nspowner) = 'pg_database_owner')
union all
select 'object_owner', name, 'it belongs to ' || pg_get_userbyid(relowner), shows,
       format('alter table %s owner to tenantry_owner', name)
from c where relowner not in (select oid from trusted)
union all
select 'object_owner', signature, 'it belongs to ' || pg_get_userbyid(proowner), shows,
       format('alter routine %s owner to tenantry_owner', signature)
from p where proowner not in (select oid from trusted)
union all
select 'default_privilege',
       pg_get_userbyid(d.defaclrole) || coalesce(' in schema ' || nullif(d.defaclnamespace, 0)::regnamespace, ''),
       format('%s gets %s on what it creates', coalesce(g.rolname, 'PUBLIC'), lower(a.privilege_type)),
       format('select * from pg_default_acl where oid = %s', d.oid),
       format('alter default privileges for role %I%s revoke %s on %s from %s', pg_get_userbyid(d.defaclrole),
              coalesce(' in schema ' || nullif(d.defaclnamespace, 0)::regnamespace, ''), a.privilege_type,
              case d.defaclobjtype when 'r' then 'tables' when 'S' then 'sequences' when 'f' then 'functions'
                                   when 'T' then 'types' else 'schemas' end, coalesce(quote_ident(g.rolname), 'public'))
from pg_default_acl d cross join aclexplode(d.defaclacl) a left join pg_roles g on g.oid = a.grantee
where a.grantee <> d.defaclrole and not (pg_get_userbyid(d.defaclrole) = 'tenantry_owner'
                                         and g.rolname is not distinct from 'tenantry_app')
  -- Whoever may execute a function or use a type may do so by default.
  and not (a.grantee = 0 and d.defaclobjtype in ('f', 'T'))
union all
select 'catalog_right', 'pg_catalog.' || k.relname,
       format('%s has %s', coalesce(g.rolname, 'PUBLIC'), lower(a.privilege_type)),
       format('select relacl from pg_class where oid = %L::regclass', 'pg_catalog.' || k.relname),
       format('revoke %s on pg_catalog.%I from %s', a.privilege_type, k.relname,
              coalesce(quote_ident(g.rolname), 'public'))
from pg_class k cross join aclexplode(k.relacl) a left join tenants g on g.oid = a.grantee
where k.relnamespace = 'pg_catalog'::regnamespace and (a.grantee = 0 or g.oid is not null)
  and (k.relname in ('pg_authid', 'pg_shadow', 'pg_statistic', 'pg_user_mapping', 'pg_largeobject', 'pg_subscription',
                     'pg_hba_file_rules', 'pg_file_settings')
       or a.privilege_type <> 'SELECT' and k.relname <> 'pg_settings')
union all
select 'catalog_right', format('pg_catalog.%I (%I)', k.relname, t.attname),
       format('%s has %s', coalesce(g.rolname, 'PUBLIC'), lower(a.privilege_type)),
       format('select attacl from pg_attribute where attrelid = %L::regclass and attname = %L', 'pg_catalog.' || k.relname, t.attname),
       format('revoke %s (%I) on pg_catalog.%I from %s', a.privilege_type, t.attname, k.relname,
              coalesce(quote_ident(g.rolname), 'public'))
from pg_class k join pg_attribute t on t.attrelid = k.oid
cross join aclexplode(t.attacl) a left join tenants g on g.oid = a.grantee
where k.relnamespace = 'pg_catalog'::regnamespace and (a.grantee = 0 or g.oid is not null)
  and (k.relname in ('pg_authid', 'pg_shadow', 'pg_statistic', 'pg_user_mapping', 'pg_largeobject',
                     'pg_hba_file_rules', 'pg_file_settings')
       or k.relname = 'pg_subscription' and t.attname = 'subconninfo'
       or a.privilege_type <> 'SELECT' and k.relname <> 'pg_settings')
union all
select 'server_function', f.oid::regprocedure::text, coalesce(g.rolname, 'PUBLIC') || ' may execute it',
       format('select proacl from pg_proc where oid = %L::regprocedure', f.oid::regprocedure),
       format('revoke execute on function %s from %s', f.oid::regprocedure, coalesce(quote_ident(g.rolname), 'public'))
from pg_proc f join powers on powers.name = f.proname
cross join aclexplode(coalesce(f.proacl, acldefault('f', f.proowner))) a left join tenants g on g.oid = a.grantee
where f.pronamespace = 'pg_catalog'::regnamespace and (a.grantee = 0 or g.oid is not null)
union all
select 'large_object', o.oid::text,
       case when o.lomowner in (select oid from trusted union all select oid from tenants)
            then 'PUBLIC has a right to it' else 'it belongs to ' || pg_get_userbyid(o.lomowner) end,
       format('select lomowner::regrole, lomacl from pg_largeobject_metadata where oid = %s', o.oid),
       case when o.lomowner in (select oid from trusted union all select oid from tenants)
            then format('revoke all on large object %s from public', o.oid)
            else format('alter large object %s owner to tenantry_owner', o.oid) end
from pg_largeobject_metadata o
where o.lomowner not in (select oid from trusted union all select oid from tenants)
   or exists (select from aclexplode(o.lomacl) a where a.grantee = 0)
order by 1, 2, 3
