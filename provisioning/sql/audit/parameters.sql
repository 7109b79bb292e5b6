-- audit::parameters
-- $1 roles. From version 15 on a setting can be granted. Rows as in databases.sql.
select 'parameter_right' as kind, p.parname as subject,
       format('%s has %s', coalesce(r.rolname, 'PUBLIC'), lower(a.privilege_type)) as evidence,
       format('select parname, paracl from pg_parameter_acl where parname = %L', p.parname) as shows,
       format('revoke %s on parameter %s from %s', a.privilege_type, p.parname,
              coalesce(quote_ident(r.rolname), 'public')) as mend
from pg_parameter_acl p cross join aclexplode(p.paracl) a left join pg_roles r on r.oid = a.grantee
where a.grantee = 0 or r.rolname = any ($1::text[]) or r.rolname in ('tenantry_app', 'tenantry_owner')
order by 1, 2, 3
