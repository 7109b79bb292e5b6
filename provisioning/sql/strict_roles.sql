-- hardening::strict_roles
-- pg_roles as a tenant sees it: itself, what it is a member of, and the roles that every server has. psql and pg_dump
-- read it, so it cannot be shut; a policy cannot be put on it either. Whoever may act as tenantry_owner sees it all.
set local allow_system_table_mods = on;
create or replace view pg_catalog.pg_roles with (security_barrier = true) as
select rolname, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication, rolconnlimit,
       '********'::text as rolpassword, rolvaliduntil, rolbypassrls, setconfig as rolconfig, a.oid
from pg_catalog.pg_authid a
left join pg_catalog.pg_db_role_setting s on a.oid = s.setrole and s.setdatabase = 0
-- Smaller numbers are PostgreSQL's own.
where a.oid < 16384 or a.rolname in ('tenantry_owner', 'tenantry_app')
   or pg_catalog.pg_has_role(a.oid, 'member')
   or exists (select from pg_catalog.pg_authid o
              where o.rolname = 'tenantry_owner' and pg_catalog.pg_has_role(o.oid, 'usage'))
