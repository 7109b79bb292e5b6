-- audit::server
-- $1 databases and $2 roles of the tenants that are looked at, each role beside its database. Rows as in
-- databases.sql.
with t as materialized (
    select * from unnest($1::text[], $2::text[]) t(database, role)
), ours as materialized (
    select oid, rolname from pg_roles
    where rolname in ('tenantry_app', 'tenantry_owner') or rolname in (select role from t)
), settings as materialized (
    select (select setting from pg_settings where name = 'listen_addresses') as listens,
           (select setting from pg_settings where name = 'ssl') as ssl
)
select 'replication_slot' as kind, slot_name::text as subject,
       'it copies what changes in database ' || database as evidence,
       format('select * from pg_replication_slots where slot_name = %L', slot_name) as shows, null as mend
from pg_replication_slots s
where slot_type = 'logical' and database in (select database from t)
  -- Of a move that is under way, or of what a move left: the role that reads through it is looked at, too.
  and not exists (select from pg_replication_slots m join pg_roles r on r.rolname = m.slot_name
                  where m.database = s.database and m.slot_name ~ '^tenantry_(move|back)_[0-9a-f]{32}$'
                    and (m.slot_name = s.slot_name or s.slot_name ~ '^pg_[0-9]+_sync_[0-9]+_[0-9]+$'))
union all
select 'subscription', s.subname::text, 'it writes into database ' || d.datname,
       format('select subname, subdbid from pg_subscription where subname = %L', s.subname), null
from pg_subscription s join pg_database d on d.oid = s.subdbid
where (d.datname in (select database from t) or d.datname ~ '^tenantry_')
  -- Into the build of the same move, or into what the same move left.
  and s.subname not in (replace(d.datname, 'tenantry_build_', 'tenantry_move_'),
                        replace(d.datname, 'tenantry_old_', 'tenantry_back_'))
union all
select 'tablespace_right', s.spcname::text, coalesce(o.rolname, 'PUBLIC') || ' may create in it',
       format('select spcacl from pg_tablespace where spcname = %L', s.spcname),
       format('revoke create on tablespace %I from %s', s.spcname, coalesce(quote_ident(o.rolname), 'public'))
from pg_tablespace s cross join aclexplode(s.spcacl) a left join ours o on o.oid = a.grantee
where a.grantee = 0 or o.oid is not null
union all
select 'stale_session', coalesce(a.usename, a.usesysid::text) || ' in ' || coalesce(a.datname, '?'),
       format('session %s, since %s', a.pid, date_trunc('second', a.backend_start)) || case
           when r.oid is null then ': its role is gone'
           when not r.rolcanlogin then ': its role may not log in any more'
           when not d.datallowconn then ': the database accepts no connections any more'
           else ': its role may not connect there any more' end,
       format('select pid, usename, datname, backend_start from pg_stat_activity where pid = %s', a.pid),
       format('select pg_terminate_backend(pid) from pg_stat_activity where pid = %s and backend_start = %L', a.pid,
              a.backend_start)
from pg_stat_activity a
left join pg_roles r on r.oid = a.usesysid left join t on t.role = r.rolname left join pg_database d on d.oid = a.datid
where a.backend_type = 'client backend' and a.datid is not null and a.usesysid is not null
  and (r.oid is null or t.role is not null and (not r.rolcanlogin or not d.datallowconn
       or not has_database_privilege(r.oid, d.oid, 'connect')))
union all
select 'server_setting', name, 'it is ' || setting, format('show %I', name), null
from pg_settings
where name = 'password_encryption' and setting <> 'scram-sha-256'
   or name in ('lo_compat_privileges', 'allow_system_table_mods') and setting = 'on'
union all
select 'no_tls', 'ssl', 'it is off, and the server listens on ' || listens, 'show ssl', null
from settings
where ssl = 'off' and listens !~ '^\s*((localhost|127\.[0-9.]+|::1)(\s*,\s*|\s*$))*$'
order by 1, 2, 3
