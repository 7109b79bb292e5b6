-- hardening::plain_roles
-- pg_roles as PostgreSQL makes it: every role.
set local allow_system_table_mods = on;
create or replace view pg_catalog.pg_roles as
select rolname, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication, rolconnlimit,
       '********'::text as rolpassword, rolvaliduntil, rolbypassrls, setconfig as rolconfig, pg_authid.oid
from pg_catalog.pg_authid
left join pg_catalog.pg_db_role_setting s on pg_authid.oid = s.setrole and s.setdatabase = 0;
alter view pg_catalog.pg_roles reset (security_barrier)
