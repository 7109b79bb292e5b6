-- audit::passwords
-- $1 roles. Only a superuser may read how passwords are kept. Rows as in databases.sql.
select 'weak_password' as kind, rolname::text as subject,
       case when rolpassword is null then 'it has no password' else 'its password is not kept as SCRAM-SHA-256' end
       as evidence,
       format('select rolpassword is null, left(rolpassword, 14) from pg_authid where rolname = %L', rolname) as shows,
       null as mend
from pg_authid
where rolname = any ($1::text[]) and coalesce(rolpassword, '') not like 'SCRAM-SHA-256$%'
order by 1, 2, 3
