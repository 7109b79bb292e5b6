-- audit::roles
-- $1 roles, $2 tenants and $3 databases of the tenants that are looked at, $4 the other roles that the catalog
-- knows, $5 the tenants that are on the move. Rows as in databases.sql.
with recursive t as materialized (
    select * from unnest($1::text[], $2::text[], $3::text[]) t(role, tenant, database)
), r as materialized (
    select r.*, t.tenant, t.database, t.role is not null as is_tenant,
           format('select * from pg_roles where rolname = %L', r.rolname) as shows
    from pg_roles r left join t on t.role = r.rolname
), ours as materialized (
    select * from r where is_tenant or rolname in ('tenantry_app', 'tenantry_owner')
), reach as (
    select m.member as start, m.roleid, null::oid as through
    from pg_auth_members m where m.member in (select oid from ours)
    union
    -- What all of them are through their group is said once, of the group.
    select c.start, m.roleid, coalesce(c.through, c.roleid)
    from reach c join pg_auth_members m on m.member = c.roleid
    where c.roleid <> all (select oid from ours where not is_tenant)
), reached as materialized (
    select o.rolname as role, o.is_tenant, g.rolname as reached, g.rolsuper, pg_get_userbyid(c.through) as through,
           c.through is null as is_direct
    from reach c join ours o on o.oid = c.start join pg_roles g on g.oid = c.roleid
    where not (o.is_tenant and g.rolname = 'tenantry_app')
), settings as materialized (
    select s.setdatabase, s.setrole, d.datname, o.rolname, split_part(value, '=', 1) as name,
           substr(value, strpos(value, '=') + 1) as value, coalesce(o.is_tenant, false) as is_tenant
    from pg_db_role_setting s cross join unnest(s.setconfig) value
    left join pg_database d on d.oid = s.setdatabase left join ours o on o.oid = s.setrole
    where o.oid is not null or s.setrole = 0 and (s.setdatabase = 0 or d.datname in (select database from t))
)
select 'role_missing' as kind, t.role as subject, 'there is no such role' as evidence,
       format('select from pg_roles where rolname = %L', t.role) as shows, null as mend
from t where not exists (select from pg_roles p where p.rolname = t.role)
union all
select 'role_missing', g.name, 'there is no such role', format('select from pg_roles where rolname = %L', g.name), null
from unnest(array['tenantry_app', 'tenantry_owner']) g(name)
where not exists (select from pg_roles p where p.rolname = g.name)
union all
select 'wrong_marker', 'role ' || rolname,
       coalesce('its comment is: ' || shobj_description(oid, 'pg_authid'), 'it has no comment'),
       format('select shobj_description(oid, ''pg_authid'') from pg_roles where rolname = %L', rolname),
       case when not is_tenant then format('comment on role %I is ''tenantry group role''', rolname) end
from ours
where coalesce(shobj_description(oid, 'pg_authid'), '')
      not like case when is_tenant then 'tenantry tenant=' || tenant || ' operation=%' else 'tenantry group role' end
union all
select 'role_attribute', rolname::text, 'it has ' || attribute, shows, format('alter role %I no%s', rolname, attribute)
from ours, unnest(
    array['superuser', 'createdb', 'createrole', 'replication', 'bypassrls', 'login'],
    array[rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls, rolcanlogin and not is_tenant]
) a(attribute, is_set)
where is_set
union all
select 'connection_limit', 'role ' || rolname, 'its connection limit is ' || rolconnlimit, shows,
       format('alter role %I connection limit -1', rolname)
from ours where rolconnlimit <> -1
union all
select 'valid_until', rolname::text, 'its password is valid until ' || rolvaliduntil, shows,
       format('alter role %I valid until ''infinity''', rolname)
from ours where rolvaliduntil <> 'infinity'
union all
select case when reached ~ '^pg_' then 'predefined_role' else 'membership' end, role::text,
       format('it is a member of %s', reached) || case when is_direct then '' else ' through ' || through end
       || case when rolsuper then ', which is a superuser' else '' end,
       format('select roleid::regrole, member::regrole from pg_auth_members where member = %L::regrole '
              'or roleid = %L::regrole', quote_ident(role), quote_ident(reached)),
       case when is_direct then format('revoke %I from %I', reached, role) end
from reached
union all
-- The administrator may act as a tenant: he ends its sessions.
select 'member', o.rolname::text, format('%s is a member of it', g.rolname),
       format('select member::regrole from pg_auth_members where roleid = %L::regrole', quote_ident(o.rolname)),
       format('revoke %I from %I', o.rolname, g.rolname)
from pg_auth_members m join ours o on o.oid = m.roleid join r g on g.oid = m.member
where g.rolname <> current_user and not g.rolsuper
  and not (o.rolname = 'tenantry_app' and (g.is_tenant or g.rolname = any ($4::text[])))
  and coalesce(substring(shobj_description(g.oid, 'pg_authid') from '^tenantry tenant=(\S+) '), '') <> all ($5::text[])
  -- What a tenant is a member of is said of the tenant.
  and g.oid not in (select oid from ours)
union all
select 'wrong_stamp', 'role ' || rolname, 'it overrides the stamp of its database by ' || value,
       format('select setconfig from pg_db_role_setting where setrole = %L::regrole', quote_ident(rolname)),
       format('alter role %I%s reset tenantry.tenant', rolname, ' in database ' || quote_ident(datname))
from settings where rolname is not null and name = 'tenantry.tenant'
union all
select 'setting',
       coalesce('role ' || rolname || coalesce(' in database ' || datname, ''), 'database ' || datname, 'every role'),
       format('%s is set to %s', name, value),
       format('select setconfig from pg_db_role_setting where setrole = %s and setdatabase = %s', setrole, setdatabase),
       case when rolname is null and datname is not null then format('alter database %I reset %I', datname, name)
            else format('alter role %s%s reset %I', coalesce(quote_ident(rolname), 'all'),
                        coalesce(' in database ' || quote_ident(datname), ''), name) end
from settings
-- Nothing is ever set for a tenant's role, which can set most for itself: a timeout, or that it only reads.
where is_tenant and name <> 'tenantry.tenant'
   or name in ('search_path', 'role', 'session_preload_libraries', 'local_preload_libraries', 'row_security',
               'session_replication_role', 'lo_compat_privileges', 'default_tablespace', 'temp_tablespaces',
               'dynamic_library_path', 'password_encryption')
union all
select 'stray_role', rolname::text, 'it has a name or a comment of ours', shows, null
from r
where not is_tenant and rolname not in ('tenantry_app', 'tenantry_owner') and rolname <> all ($4::text[])
  and rolname <> current_user
  and coalesce(substring(shobj_description(oid, 'pg_authid') from '^tenantry tenant=(\S+) '), '') <> all ($5::text[])
  and (rolname ~ '^tenant(ry)?_' or shobj_description(oid, 'pg_authid') like 'tenantry %')
union all
select 'powerful_role', rolname::text,
       case when rolsuper then 'it is a superuser' else 'it bypasses row level security' end || ' and can log in',
       shows, null
from r
where rolcanlogin and (rolsuper or rolbypassrls) and oid <> 10 and rolname <> current_user and not is_tenant
  and rolname not in ('tenantry_app', 'tenantry_owner')
  -- Who reads a database while it is moved online, or while what it left follows it.
  and not (rolname ~ '^tenantry_(move|back)_[0-9a-f]{32}$' and not rolsuper
           and coalesce(substring(shobj_description(oid, 'pg_authid') from '^tenantry tenant=(\S+) '), '')
               = any ($5::text[]))
order by 1, 2, 3
