-- audit::databases
-- $1 databases, $2 roles, $3 tenants and $4 stamps of the tenants that are looked at, $5 the other databases
-- that the catalog knows, $6 the tenants that are on the move. One row for each thing that is not as it was
-- made: a kind of hole, what it is about, what is seen, a query that shows it, and a statement that fixes it
-- where one does no harm.
with t as materialized (
    select * from unnest($1::text[], $2::text[], $3::text[], $4::text[]) t(database, role, tenant, stamp)
), d as materialized (
    select d.*, t.role, t.tenant, t.stamp, r.oid as role_oid,
           format('select datname, datdba::regrole, datacl, datistemplate, datallowconn, datconnlimit, '
                  'shobj_description(oid, ''pg_database'') from pg_database where datname = %L', d.datname) as shows
    from pg_database d left join t on t.database = d.datname left join pg_roles r on r.rolname = t.role
), ours as materialized (
    select oid, rolname from pg_roles
    where rolname in ('tenantry_app', 'tenantry_owner') or rolname in (select role from t)
), rights as materialized (
    select d.*, a.grantee, a.privilege_type as privilege, g.rolname as grantee_name,
           format('revoke %s on database %I from %s', lower(a.privilege_type), d.datname,
                  case a.grantee when 0 then 'public' else quote_ident(g.rolname) end) as mend
    from d cross join aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a
    left join pg_roles g on g.oid = a.grantee
    where a.grantee <> d.datdba and not coalesce(g.rolsuper, false)
), settings as materialized (
    select s.setdatabase, substr(value, length('tenantry.tenant=') + 1) as stamp
    from pg_db_role_setting s, unnest(s.setconfig) value
    where s.setrole = 0 and value like 'tenantry.tenant=%'
)
select 'database_missing' as kind, t.database as subject, 'there is no such database' as evidence,
       format('select from pg_database where datname = %L', t.database) as shows, null as mend
from t where not exists (select from pg_database p where p.datname = t.database)
union all
select 'wrong_marker', 'database ' || datname,
       coalesce('its comment is: ' || shobj_description(oid, 'pg_database'), 'it has no comment'), shows, null
from d where tenant is not null
  and coalesce(shobj_description(oid, 'pg_database'), '') not like 'tenantry tenant=' || tenant || ' operation=%'
union all
select 'wrong_marker', 'database ' || datname,
       coalesce('its comment is: ' || shobj_description(oid, 'pg_database'), 'it has no comment'), shows, null
from d where datname = any ($5::text[]) and datname ~ '^tenantry_(template|spare)_'
  and coalesce(shobj_description(oid, 'pg_database'), '') not like 'tenantry %'
union all
select 'wrong_stamp', 'database ' || d.datname, 'its stamp is ' || coalesce(s.stamp, 'none') || ', not ' || d.stamp,
       format('select setconfig from pg_db_role_setting where setrole = 0 and setdatabase = '
              '(select oid from pg_database where datname = %L)', d.datname),
       -- It tells a database from one that a restore or a move left behind: nobody is to set it unseen.
       null
from d left join settings s on s.setdatabase = d.oid
where d.tenant is not null and s.stamp is distinct from d.stamp
  -- Of a database that is another tenant's, the stamp is no mistake.
  and coalesce(shobj_description(d.oid, 'pg_database'), '') like 'tenantry tenant=' || d.tenant || ' operation=%'
union all
select 'wrong_owner', 'database ' || datname, 'it belongs to ' || pg_get_userbyid(datdba), shows,
       format('alter database %I owner to %I', datname, current_user)
from d left join pg_roles o on o.oid = d.datdba
where (tenant is not null or datname = any ($5::text[])) and o.rolname is distinct from current_user
  and not coalesce(o.rolsuper, false)
union all
select 'clonable', 'database ' || datname, 'it is a template', shows,
       format('alter database %I is_template false', datname)
from d where tenant is not null and datistemplate
union all
select 'connection_limit', 'database ' || datname, 'its connection limit is ' || datconnlimit, shows,
       format('alter database %I connection limit -1', datname)
from d where tenant is not null and datconnlimit <> -1
union all
select 'accepts_connections', 'database ' || datname, 'it accepts connections, and nobody has anything to do there',
       shows, format('alter database %I allow_connections false', datname)
from d where datname ~ '^tenantry_(template|spare|old)_' and datallowconn
  -- Whoever writes into what follows a tenant's database has.
  and not exists (select from pg_subscription
                  where subdbid = d.oid and subname = replace(d.datname, 'tenantry_old_', 'tenantry_back_'))
union all
select 'public_right', 'database ' || datname, 'PUBLIC has ' || lower(privilege), shows, mend
from rights where grantee = 0 and (tenant is not null or datname ~ '^tenantry_(template|spare|old|build)_')
union all
select 'open_database', 'database ' || datname, 'PUBLIC may connect to it', shows,
       format('revoke connect, temporary on database %I from public', datname)
from rights where grantee = 0 and privilege = 'CONNECT' and datallowconn and tenant is null
  and datname !~ '^tenantry_(template|spare|old|build)_'
union all
select 'reaches_database', grantee_name::text,
       format('it has %s on database %s', lower(privilege), datname), shows, mend
from rights
where grantee in (select oid from ours) and grantee is distinct from role_oid and (tenant is null or privilege = 'CONNECT')
  and not (grantee_name = 'tenantry_owner' and privilege in ('CREATE', 'TEMPORARY'))
union all
select 'foreign_right', 'database ' || datname,
       format('%s has %s', coalesce(grantee_name, grantee::text), lower(privilege)), shows, mend
from rights
where tenant is not null and grantee <> 0
  and not (privilege = 'CONNECT' and grantee in (select oid from ours))
  and not (privilege in ('CREATE', 'TEMPORARY') and grantee_name = 'tenantry_owner')
  -- Who reads the database while it is moved online, or while what it left follows it.
  and not (privilege = 'CONNECT' and grantee_name ~ '^tenantry_(move|back)_[0-9a-f]{32}$' and tenant = any ($6::text[])
           and shobj_description(grantee, 'pg_authid') like 'tenantry tenant=' || tenant || ' operation=%')
union all
select 'stray_database', 'database ' || datname, 'it has a name or a comment of ours', shows, null
from d
where tenant is null and datname <> all ($5::text[])
  and coalesce(substring(shobj_description(oid, 'pg_database') from '^tenantry tenant=(\S+) '), '')
      <> all ($6::text[])
  and (datname ~ '^tenant(ry)?_' or shobj_description(oid, 'pg_database') like 'tenantry %')
order by 1, 2, 3
