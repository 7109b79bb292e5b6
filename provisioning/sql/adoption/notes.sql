-- adoption::notes
-- Run inside of the database that is to be adopted, with an empty search_path: what will be otherwise for those who
-- have used it, in sentences.
with here as materialized (
    select oid, datdba from pg_database where datname = current_database()
), parties as materialized (
    select r.oid, r.rolname from pg_roles r
    where r.oid <> 10 and r.rolname <> current_user and not r.rolsuper
      and (r.oid = (select datdba from here)
           or exists (select from here join pg_shdepend s on s.dbid = here.oid
                                  or s.classid = 'pg_database'::regclass and s.objid = here.oid
                      where s.refclassid = 'pg_authid'::regclass and s.refobjid = r.oid))
), elsewhere as materialized (
    select p.rolname, count(s.objid) filter (where s.deptype = 'o') as owned
    from parties p left join pg_shdepend s
      on s.refclassid = 'pg_authid'::regclass and s.refobjid = p.oid and s.dbid <> (select oid from here)
     and not (s.classid = 'pg_database'::regclass and s.objid = (select oid from here))
    group by p.rolname
)
select format('the role %I will have no access to it any more; it stays', rolname)
       || case owned when 0 then '' else format(', with the %s things that it owns elsewhere', owned) end as note
from elsewhere
union all
select format('the extension %I stays in the name of %I, as PostgreSQL has no statement to change that', extname,
              pg_get_userbyid(extowner))
from pg_extension where pg_get_userbyid(extowner) in (select rolname from parties)
union all
select format('row level security of %s will hold for the application, and did not for its owner %I', c.oid::regclass,
              pg_get_userbyid(c.relowner))
from pg_class c where c.relrowsecurity and not c.relforcerowsecurity
order by 1
