-- guest::objections
-- $1 the guest. Run inside a build after a dump from elsewhere came in, with an empty search_path: a kind of
-- objection, and what it is about. Once that has been adopted, it is the same. What extensions made is theirs, and the server trusts it.
with made as (
    select p.oid, p.proname, p.pronamespace, p.prosecdef, p.proargtypes, p.oid::regprocedure::text as signature
    from pg_proc p
    where p.oid >= 16384
      and not exists (select from pg_depend d
                      where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')
), operators as (
    select o.oid, o.oprname, o.oprnamespace, o.oprleft, o.oprright, o.oid::regoperator::text as signature
    from pg_operator o
    where o.oid >= 16384
      and not exists (select from pg_depend d
                      where d.classid = 'pg_operator'::regclass and d.objid = o.oid and d.deptype = 'e')
), looked_in as (
    -- Where sessions of ours look for names that are not whole.
    select oid from pg_namespace where nspname in ('public', 'tenantry_owner', current_user)
), evaluated as (
    -- What `copy` evaluates for each row that it writes. The trees name every function, those of PostgreSQL too.
    select 'the check ' || quote_ident(conname) || ' of '
           || case when conrelid <> 0 then conrelid::regclass::text else contypid::regtype::text end as what,
           conbin::text as tree
    from pg_constraint where contype = 'c'
    union all
    select 'the generated column ' || quote_ident(a.attname) || ' of ' || a.attrelid::regclass, f.adbin::text
    from pg_attrdef f join pg_attribute a on a.attrelid = f.adrelid and a.attnum = f.adnum
    where a.attgenerated <> ''
    union all
    select 'the partition key of ' || partrelid::regclass, partexprs::text
    from pg_partitioned_table where partexprs is not null
), called as (
    select e.what, (regexp_matches(e.tree, ':(?:func|opfunc|aggfn|winfn)o?id (\d+)', 'g'))[1]::oid as function
    from evaluated e
)
select 'our_schema' as kind, nspname::text as subject from pg_namespace
where nspname = 'tenantry' and pg_get_userbyid(nspowner) = $1
union all
select 'publication', pubname::text from pg_publication
union all
select distinct 'foreign_right', r.rolname::text
from pg_shdepend s join pg_roles r on r.oid = s.refobjid
where s.refclassid = 'pg_authid'::regclass
  and s.dbid = (select oid from pg_database where datname = current_database())
  and r.rolname not in ($1, 'tenantry_owner', 'tenantry_app', current_user)
union all
select 'security_definer', signature from made where prosecdef
union all
select distinct 'runs_on_restore', c.what || ', which calls ' || p.oid::regprocedure
from called c join pg_proc p on p.oid = c.function
where p.provolatile = 'v' or p.oid in (select oid from made)
union all
-- `to_json` and its like look it up when they run.
select 'runs_on_restore', format('the cast of %s to json, which calls %s', castsource::regtype, castfunc::regprocedure)
from pg_cast
where casttarget in ('json'::regtype, 'jsonb'::regtype) and castfunc in (select oid from made)
union all
select 'shadows', 'the function ' || signature
from made m
where pronamespace in (select oid from looked_in)
  and exists (select from pg_proc b where b.pronamespace = 'pg_catalog'::regnamespace and b.proname = m.proname)
  and not exists (select from unnest(m.proargtypes) argument where argument >= 16384)
union all
select 'shadows', 'the operator ' || signature
from operators o
where oprnamespace in (select oid from looked_in)
  and exists (select from pg_operator b
              where b.oprnamespace = 'pg_catalog'::regnamespace and b.oprname = o.oprname)
  and oprleft < 16384 and oprright < 16384
order by 1, 2
