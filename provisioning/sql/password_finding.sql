-- Appended to findings.sql where the administrator may read the verifiers.
union all
select 'weak_password', a.rolname::text
from pg_authid a
where a.rolname = $2 and (a.rolpassword is null or a.rolpassword not like 'SCRAM-SHA-256$%')
