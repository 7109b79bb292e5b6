-- adoption::inside
-- Run inside of the database that is to be adopted, with an empty search_path: what keeps it from becoming a tenant's,
-- as outside.sql says it. What an audit of tenants would find there is asked of the audit itself.
with ext as materialized (
    select classid, objid from pg_depend where deptype = 'e'
), relations as materialized (
    select c.oid, c.relowner, c.reltablespace, c.relkind, c.oid::regclass::text as name from pg_class c
    where c.oid >= 16384 and c.relpersistence <> 't' and c.relnamespace <> 'pg_toast'::regnamespace
      and ('pg_class'::regclass, c.oid) not in (select classid, objid from ext)
), owners as materialized (
    select distinct refobjid as oid from pg_shdepend
    where refclassid = 'pg_authid'::regclass and deptype = 'o'
      and dbid = (select oid from pg_database where datname = current_database())
)
select 'our_schema' as kind, 'it has a schema `tenantry`, which is the name of our own' as what,
       'alter schema tenantry rename to another name' as remedy
from pg_namespace where nspname = 'tenantry'
union all
select 'extension', format('it has the extension %I, which is none that PostgreSQL trusts', extname),
       format('drop extension %I, or adopt it on a server that trusts it', extname)
from pg_extension e
where not exists (select from pg_available_extension_versions v where v.name = e.extname and v.trusted)
union all
select 'extension_member',
       format('%s was added to the extension %I by hand: no dump has it', pg_describe_object(e.classid, e.objid, 0), x.extname),
       format('alter extension %I drop %s %s', x.extname, i.type, i.identity)
from pg_depend e
join pg_extension x on e.refclassid = 'pg_extension'::regclass and x.oid = e.refobjid
join pg_shdepend s on s.classid = e.classid and s.objid = e.objid and s.objsubid = 0 and s.deptype = 'o'
 and s.dbid = (select oid from pg_database where datname = current_database())
join pg_roles r on r.oid = s.refobjid and not r.rolsuper
cross join lateral pg_identify_object(e.classid, e.objid, 0) i
where e.deptype = 'e' and e.classid <> 'pg_language'::regclass
union all
select 'policy', format('the policy %I of %s is for roles that will have no part in it', polname, polrelid::regclass),
       format('alter policy %I on %s to public', polname, polrelid::regclass)
from pg_policy where polroles <> '{0}'
union all
select 'tablespace', format('%s is in the tablespace %I, which no other server has', r.name, t.spcname),
       case r.relkind when 'i' then 'alter index ' when 'I' then 'alter index ' when 'm' then 'alter materialized view '
                      else 'alter table ' end || r.name || ' set tablespace pg_default'
from relations r join pg_tablespace t on t.oid = r.reltablespace
union all
select 'in_catalog', format('%s was made among PostgreSQL''s own', what), 'drop it, or make it in a schema of your own'
from (
    select oid::regprocedure::text as what from pg_proc
    where oid >= 16384 and pronamespace = 'pg_catalog'::regnamespace
      and ('pg_proc'::regclass, oid) not in (select classid, objid from ext)
    union all
    select oid::regoperator::text from pg_operator
    where oid >= 16384 and oprnamespace = 'pg_catalog'::regnamespace
      and ('pg_operator'::regclass, oid) not in (select classid, objid from ext)
    union all
    select name from relations r join pg_class c using (oid) where c.relnamespace = 'pg_catalog'::regnamespace
) made
union all
select 'no_member', format('the administrator may not act as %s, who owns things in it', pg_get_userbyid(o.oid)),
       format('as a superuser: grant %I to %I', pg_get_userbyid(o.oid), m.rolname)
from owners o cross join (select oid, rolname, rolsuper from pg_roles where rolname = current_user) m
where not m.rolsuper and not pg_has_role(m.oid, o.oid, 'member')
order by 1, 2
