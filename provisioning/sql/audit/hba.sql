-- audit::hba
-- The lines of pg_hba.conf, as they are in the file now. Rows as in databases.sql.
with line as (
    select line_number, type, auth_method, error,
           type like 'host%' and not (address ~ '^(127\.|::1$|localhost$|samehost$)') as is_far,
           concat_ws(' ', type, array_to_string(database, ','), array_to_string(user_name, ','), address, auth_method)
           as text,
           format('select * from pg_hba_file_rules where line_number = %s', line_number) as shows
    from pg_hba_file_rules
)
select 'hba_trust' as kind, 'pg_hba.conf' as subject, format('line %s lets in whoever comes: %s', line_number, text)
       as evidence, shows, null as mend
from line where auth_method = 'trust'
union all
select 'hba_cleartext', 'pg_hba.conf', format('line %s takes a password in clear text, or none: %s', line_number, text),
       shows, null
from line where auth_method = 'password' and type <> 'hostssl' and type <> 'local' or auth_method = 'ident'
union all
select 'hba_no_tls', 'pg_hba.conf', format('line %s lets in without TLS: %s', line_number, text), shows, null
from line where type in ('host', 'hostnossl') and is_far and auth_method not in ('reject', 'trust')
union all
select 'hba_error', 'pg_hba.conf', format('line %s cannot be read: %s', line_number, error), shows, null
from line where error is not null
order by 1, 2, 3
