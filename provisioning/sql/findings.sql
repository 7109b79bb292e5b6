-- isolation::findings
-- $1 database, $2 role, $3 tenant, $4 stamp. One row for each thing that is not as lock_down.sql and
-- the possession of the database left it: a kind of finding, and what it is about.
with d as (
    select oid, datname, datdba, datistemplate, datacl from pg_database where datname = $1
), r as (
    select * from pg_roles where rolname = $2
), app as (
    select oid from pg_roles where rolname = 'tenantry_app'
), rights as (
    select a.grantee, a.privilege_type
    from d, aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a
    where a.grantee <> d.datdba
), settings as (
    select s.setdatabase, s.setrole, value
    from pg_db_role_setting s, unnest(s.setconfig) value
    where value like 'tenantry.tenant=%'
)
select 'database_missing' as kind, $1::text as subject where not exists (select from d)
union all
select 'role_missing', $2::text where not exists (select from r)
union all
select 'wrong_marker', 'database ' || d.datname from d
where shobj_description(d.oid, 'pg_database') is null
   or shobj_description(d.oid, 'pg_database') not like 'tenantry tenant=' || $3::text || ' operation=%'
union all
select 'wrong_marker', 'role ' || r.rolname from r
where shobj_description(r.oid, 'pg_authid') is null
   or shobj_description(r.oid, 'pg_authid') not like 'tenantry tenant=' || $3::text || ' operation=%'
union all
select 'wrong_stamp', coalesce(substr(s.value, length('tenantry.tenant=') + 1), 'none')
from d left join settings s on s.setdatabase = d.oid and s.setrole = 0
where s.value is distinct from 'tenantry.tenant=' || $4::text
union all
-- A role's own setting wins over its database's.
select 'wrong_stamp', substr(s.value, length('tenantry.tenant=') + 1)
from r, settings s where s.setrole = r.oid
union all
select 'public_right', lower(privilege_type) from rights where grantee = 0
union all
select 'foreign_right', pg_get_userbyid(a.grantee) || ' ' || lower(a.privilege_type)
from rights a left join pg_roles g on g.oid = a.grantee
where a.grantee <> 0 and not coalesce(g.rolsuper, false)
  and not (a.privilege_type = 'CONNECT' and a.grantee in (select oid from r))
  and not (a.privilege_type in ('CREATE', 'TEMPORARY') and g.rolname = 'tenantry_owner')
  -- Who reads the database while it is moved online, or while what it left follows it.
  and not (a.privilege_type = 'CONNECT' and g.rolname ~ '^tenantry_(move|back)_[0-9a-f]{32}$'
           and shobj_description(g.oid, 'pg_authid') like 'tenantry tenant=' || $3::text || ' operation=%')
union all
-- Whoever may create databases may clone a template, data and all.
select 'clonable', d.datname::text from d where d.datistemplate
union all
select 'role_attribute', attribute
from r, unnest(
    array['superuser', 'createdb', 'createrole', 'replication', 'bypassrls'],
    array[rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls]
) a(attribute, is_set)
where is_set
union all
select 'membership', pg_get_userbyid(m.roleid)::text
from pg_auth_members m
where (m.member in (select oid from r) and m.roleid not in (select oid from app))
   or m.member in (select oid from app)
union all
-- The administrator, who owns the database, may act as the tenant: he ends the tenant's sessions.
select distinct 'member', g.rolname::text
from pg_auth_members m join pg_roles g on g.oid = m.member
where m.roleid in (select oid from r) and not g.rolsuper and g.oid not in (select datdba from d)
union all
select 'reaches_database', o.datname::text
from r, pg_database o
where o.datname <> $1 and o.datallowconn and has_database_privilege(r.oid, o.oid, 'connect')
