-- hardening::look
-- $1 roles that must see no more than PUBLIC does. Run inside of a database, with an empty search_path. One row for
-- each thing in it by which a tenant learns of others, or gets around a bound of its session, where PUBLIC had a right
-- to it from the beginning: what it is, whether tenants have it, a query that shows that, and the statements that hide
-- it and that take this back. There are none for pg_roles, which is replaced (strict_roles.sql). What no profile shows
-- tenants is not here. Whoever adds something raises the number in `Hardening::template_digest`.
with tenants(oid) as materialized (
    select 0::oid union all select oid from pg_roles where rolname = any ($1::text[])
), whom(list) as materialized (
    select concat_ws(', ', 'public', (select string_agg(quote_ident(rolname), ', ' order by rolname)
                                      from pg_roles where rolname = any ($1::text[])))
), relation as materialized (
    -- Catalogs that all databases of a server share, and views of what all its sessions do. psql and pg_dump need the
    -- names of tablespaces.
    select oid, 'pg_catalog.' || quote_ident(relname) as name, relacl, relowner,
           case relname when 'pg_tablespace' then '{oid,spcname}'::text[] else '{}' end as kept
    from pg_class
    where relnamespace = 'pg_catalog'::regnamespace and relkind in ('r', 'v')
      and (relisshared or relname ~ '^pg_stat_(progress|database|subscription|replication)'
           or relname in ('pg_user', 'pg_group', 'pg_seclabels', 'pg_locks', 'pg_prepared_xacts',
                          'pg_replication_slots', 'pg_stat_activity', 'pg_stat_ssl', 'pg_stat_gssapi',
                          'pg_stat_wal_receiver'))
), usual as materialized (
    -- What PUBLIC may read from the beginning: all of it, or some columns.
    select r.*, u.whole,
           case when u.whole then '' else ' (' || u.columns || ')' end as part
    from relation r cross join lateral (
        select coalesce(bool_or(i.objsubid = 0), false) as whole,
               string_agg(quote_ident(t.attname), ', ' order by t.attnum) filter (where i.objsubid > 0) as columns
        from pg_init_privs i cross join aclexplode(i.initprivs) a
        left join pg_attribute t on t.attrelid = i.objoid and t.attnum = i.objsubid
        where i.classoid = 'pg_class'::regclass and i.objoid = r.oid and a.grantee = 0 and a.privilege_type = 'SELECT'
    ) u
    where u.whole or u.columns is not null
), callable as materialized (
    -- What reads them without asking for a right to them, or gives a database's name for its number.
    select p.oid::regprocedure::text as name, p.proacl, p.proowner
    from pg_proc p left join pg_init_privs i on i.classoid = 'pg_proc'::regclass and i.objoid = p.oid and i.objsubid = 0
    where p.pronamespace = 'pg_catalog'::regnamespace
      and (p.proname ~ '^pg_stat_get_(db|backend)_'
           or p.proname in ('pg_stat_get_activity', 'pg_stat_get_progress_info', 'pg_stat_get_wal_senders',
                            'pg_stat_get_wal_receiver', 'pg_stat_get_subscription', 'pg_stat_get_subscription_stats',
                            'pg_stat_get_replication_slot', 'pg_get_replication_slots', 'pg_prepared_xact',
                            'pg_lock_status', 'pg_database_size', 'pg_tablespace_size', 'pg_tablespace_databases',
                            'pg_tablespace_location', 'pg_describe_object', 'pg_identify_object',
                            'pg_identify_object_as_address', 'pg_get_object_address'))
      and exists (select from aclexplode(coalesce(i.initprivs, acldefault('f', p.proowner))) a
                  where a.grantee = 0 and a.privilege_type = 'EXECUTE')
), withheld as materialized (
    -- Before version 16 these write in a transaction that is read-only.
    select p.oid::regprocedure::text as name, 'execute on function ' || p.oid::regprocedure as what,
           coalesce(p.proacl, acldefault('f', p.proowner)) as acl,
           format('select proacl from pg_proc where oid = %L::regprocedure', p.oid::regprocedure) as shows
    from pg_proc p
    where p.pronamespace = 'pg_catalog'::regnamespace and current_setting('server_version_num')::int < 160000
      and p.proname in ('lo_creat', 'lo_create', 'lo_from_bytea', 'lo_put', 'lo_truncate', 'lo_truncate64', 'lo_unlink',
                        'lowrite')
    union all
    -- A `do` block can catch that it was cancelled, and go on. Functions in it are made by the owner, and run for all.
    select 'the language plpgsql', 'usage on language plpgsql', coalesce(lanacl, acldefault('l', lanowner)),
           'select lanacl from pg_language where lanname = ''plpgsql'''
    from pg_language where lanname = 'plpgsql'
), look(subject, is_open, shows, hide, unhide) as (
    select name,
           exists (select from aclexplode(coalesce(relacl, acldefault('r', relowner))) a
                   where a.privilege_type = 'SELECT' and a.grantee in (select oid from tenants))
           or exists (select from pg_attribute t cross join aclexplode(t.attacl) a
                      where t.attrelid = u.oid and t.attname <> all (u.kept)
                        and a.privilege_type = 'SELECT' and a.grantee in (select oid from tenants)),
           format('select relacl from pg_class where oid = %L::regclass', name),
           format('revoke select on %s from %s; grant select%s on %1$s to tenantry_owner, pg_monitor',
                  name, w.list, part)
           || case when kept = '{}' then ''
                   else format('; grant select (%s) on %s to public', array_to_string(kept, ', '), name) end,
           format('revoke select on %s from public, tenantry_owner, pg_monitor; grant select%s on %1$s to public',
                  name, part)
    from usual u cross join whom w
    union all
    select name,
           exists (select from aclexplode(coalesce(proacl, acldefault('f', proowner))) a
                   where a.privilege_type = 'EXECUTE' and a.grantee in (select oid from tenants)),
           format('select proacl from pg_proc where oid = %L::regprocedure', name),
           format('revoke execute on function %s from %s; grant execute on function %1$s to tenantry_owner, pg_monitor',
                  name, w.list),
           format('revoke execute on function %s from tenantry_owner, pg_monitor; '
                  'grant execute on function %1$s to public', name)
    from callable cross join whom w
    union all
    select name, exists (select from aclexplode(acl) a where a.grantee in (select oid from tenants)), shows,
           format('revoke %s from %s; grant %1$s to tenantry_owner', what, w.list),
           format('revoke %s from tenantry_owner; grant %1$s to public', what)
    from withheld cross join whom w
    union all
    select 'pg_catalog.pg_roles',
           'security_barrier=true' <> all (coalesce(reloptions, '{}'))
           or pg_get_viewdef(oid) not like '%''tenantry_owner''%',
           'select reloptions, pg_get_viewdef(oid) from pg_class where oid = ''pg_catalog.pg_roles''::regclass',
           null, null
    from pg_class where oid = 'pg_catalog.pg_roles'::regclass
)
select subject, shows, hide, unhide from look where is_open = $2 order by 1
