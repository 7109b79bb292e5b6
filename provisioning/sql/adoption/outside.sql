-- adoption::outside
-- $1 the database that is to be adopted, $2 what it is to be called, $3 the login role that it is to get. Run from
-- the maintenance database: what keeps the database from becoming a tenant's, a kind, what it is, and what to do about
-- it; `bars` is set where nobody is to enter the database before that has been done.
with d as materialized (
    select d.*, quote_ident(datname) as name, shobj_description(d.oid, 'pg_database') as comment
    from pg_database d where datname = $1
), me as materialized (
    select oid, rolname, rolsuper from pg_roles where rolname = current_user
), parties as materialized (
    -- Whoever owns something in it, or has a right to it.
    select distinct r.oid, r.rolname, r.rolsuper, shobj_description(r.oid, 'pg_authid') as comment
    from d join pg_shdepend s on s.dbid = d.oid or s.classid = 'pg_database'::regclass and s.objid = d.oid
    join pg_roles r on s.refclassid = 'pg_authid'::regclass and r.oid = s.refobjid
)
select 'missing' as kind, 'there is no database ' || $1::text as what,
       'name one that is on this server (`psql -l`)' as remedy, true as bars
where not exists (select from d)
union all
select 'shared', 'the database ' || name || ' is the server''s own, and no customer''s', 'name the customer''s', true
from d where datname in (current_database(), 'postgres', 'template0', 'template1')
union all
select 'ours', 'the database ' || name || ' is one of ours already',
       'see what `tenantry doctor` and `tenantry tenant list` say of it', true
from d where comment like 'tenantry %' or datname ~ '^tenantry_'
union all
select 'template', 'it is a template, which others may copy', format('alter database %s is_template false', name), true
from d where datistemplate
union all
select 'shut', 'it accepts no connections', format('alter database %s allow_connections true', name), true
from d where not datallowconn or datconnlimit = -2
union all
select 'setting', format('its sessions begin with %s', setting),
       format('give that to the application that needs it, then run: alter database %s reset %I', d.name,
              split_part(setting, '=', 1)),
       split_part(setting, '=', 1) <> 'search_path'
from d join pg_db_role_setting s on s.setdatabase = d.oid and s.setrole = 0 cross join unnest(s.setconfig) setting
where split_part(setting, '=', 1) in (
    'search_path', 'role', 'session_preload_libraries', 'local_preload_libraries', 'row_security',
    'session_replication_role', 'lo_compat_privileges', 'default_tablespace', 'temp_tablespaces',
    'dynamic_library_path', 'password_encryption', 'default_transaction_read_only', 'default_transaction_isolation',
    'standard_conforming_strings', 'backslash_quote', 'quote_all_identifiers', 'transform_null_equals',
    'synchronous_commit', 'statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout',
    'transaction_timeout', 'event_triggers')
union all
select 'event_trigger', 'event triggers run in it whenever somebody logs in',
       'as a superuser, in that database: drop its event triggers on login, then log in once more', true
from d where (to_jsonb(d) ->> 'dathasloginevt')::boolean
union all
select 'encoding', 'its text is in ' || pg_encoding_to_char(encoding),
       'dump it with `pg_dump -Fc --encoding=UTF8`, and `tenantry backup import` the dump', false
from d where pg_encoding_to_char(encoding) <> 'UTF8'
union all
select 'locale', format('it sorts by %s, and what is restored on this server by %s', d.datcollate, z.datcollate),
       'dump it with `pg_dump -Fc`, and `tenantry backup import` the dump', false
from d cross join (select * from pg_database where datname = 'template0') z
where (d.datcollate, d.datctype, to_jsonb(d) -> 'datlocprovider', to_jsonb(d) -> 'daticulocale', to_jsonb(d) -> 'datlocale')
      is distinct from
      (z.datcollate, z.datctype, to_jsonb(z) -> 'datlocprovider', to_jsonb(z) -> 'daticulocale', to_jsonb(z) -> 'datlocale')
union all
select 'prepared', format('the transaction %L is prepared in it, and open', gid),
       format('in that database: commit prepared %L, or rollback prepared %1$L', gid), false
from d join pg_prepared_xacts x on x.database = d.datname
union all
select 'slot', format('the replication slot %s sends its changes away', slot_name),
       format('end that replication, then run: select pg_drop_replication_slot(%L)', slot_name), false
from d join pg_replication_slots s on s.database = d.datname
union all
select 'subscription', format('the subscription %I brings changes into it', subname),
       format('in that database: drop subscription %I', subname), false
from d join pg_subscription s on s.subdbid = d.oid
union all
select 'name_taken', format('there is another database %I', $2::text), 'choose another slug, or rename that database', false
where $2::text <> $1::text and exists (select from pg_database where datname = $2)
union all
select 'name_taken', format('there is a role %I already', $3::text), 'choose another slug, or rename that role', false
where exists (select from pg_roles where rolname = $3)
union all
select 'superuser', format('%I has a part in it and is a superuser: nobody can shut it out', rolname),
       format('alter role %I nosuperuser, or give what it has to another role (`reassign owned`)', rolname), false
from parties where rolsuper and oid <> 10 and oid <> (select oid from me)
union all
select 'tenant_role', format('%I, which is ours, has a part in it', rolname),
       format('take that away: reassign what it owns there, and revoke its rights', rolname), false
from parties where comment like 'tenantry %' or rolname ~ '^tenantry_'
union all
select 'no_member', format('the administrator may not act as %s, to whom it belongs', pg_get_userbyid(d.datdba)),
       format('as a superuser: grant %I to %I', pg_get_userbyid(d.datdba), me.rolname), true
from d cross join me where not me.rolsuper and not pg_has_role(me.oid, d.datdba, 'member')
union all
select 'open_database', format('the database %I lets everybody connect, and so would the new tenant', datname),
       format('grant connect on database %1$I to those who need it, then: revoke connect, temporary on database %1$I '
              'from public', datname), false
from pg_database
where datname <> $1 and datallowconn and has_database_privilege('public', oid, 'connect') and exists (select from d)
order by 4 desc, 1, 2
