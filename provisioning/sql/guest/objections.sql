-- guest::objections
-- $1 the guest. Run inside a build after a dump from elsewhere came in, with an empty search_path: a kind of
-- objection, and what it is about. Once that has been adopted, it is the same. What extensions made is theirs, and the
-- server trusts it; whoever owns an extension can add functions to it, and those are not a superuser's.
with recursive made as materialized (
    select p.oid, p.proname, p.pronamespace, p.prosecdef, p.proargtypes, p.oid::regprocedure::text as signature
    from pg_proc p
    where p.oid >= 16384
      and not exists (select from pg_depend d join pg_roles r on r.oid = p.proowner
                      where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e' and r.rolsuper)
), operators as materialized (
    select o.oid, o.oprname, o.oprnamespace, o.oprleft, o.oprright, o.oprcode, o.oid::regoperator::text as signature
    from pg_operator o
    where o.oid >= 16384
      and not exists (select from pg_depend d join pg_roles r on r.oid = o.oprowner
                      where d.classid = 'pg_operator'::regclass and d.objid = o.oid and d.deptype = 'e' and r.rolsuper)
), written as materialized (
    -- PostgreSQL itself writes what makes a range.
    select oid from made m
    where not exists (select from pg_depend w
                      where w.classid = 'pg_proc'::regclass and w.objid = m.oid and w.deptype = 'i')
), harmless as materialized (
    -- They answer by the clock, the time zone or another setting, and so are not immutable; none runs what it is given.
    select p.oid from pg_proc p
    where p.pronamespace = 'pg_catalog'::regnamespace and p.oid < 16384 and p.provolatile = 's'
      and (p.proname in (
               'now', 'transaction_timestamp', 'statement_timestamp', 'date', 'time', 'timetz', 'timestamp',
               'timestamptz', 'timezone', 'age', 'date_part', 'extract', 'date_trunc', 'date_add', 'date_subtract',
               'overlaps', 'make_timestamptz', 'to_char', 'to_date', 'to_timestamp', 'to_number', 'money', 'numeric',
               'concat', 'concat_ws', 'format', 'quote_literal', 'quote_nullable', 'array_to_string', 'textanycat',
               'anytextcat', 'convert_from', 'convert_to', 'length', 'to_json', 'to_jsonb', 'row_to_json',
               'array_to_json', 'json_build_array', 'json_build_object', 'jsonb_build_array', 'jsonb_build_object',
               'enum_first', 'enum_last', 'enum_range', 'to_tsvector', 'to_tsquery', 'plainto_tsquery',
               'phraseto_tsquery', 'websearch_to_tsquery', 'xml', 'xml_is_well_formed', 'pg_typeof', 'current_setting',
               'current_database', 'current_schema')
           or p.proname ~ '^(date|timestamp|timestamptz|interval)_[a-z]+_(date|timestamp|timestamptz|interval)$')
), unknown as materialized (
    select oid from written
    union
    -- `table_to_xml` reads a view, and whatever that calls runs along.
    select oid from pg_proc where provolatile <> 'i' and oid not in (select oid from harmless)
), run_text as materialized (
    -- Those of PostgreSQL, and of the extensions that it trusts, that run a query which they are given.
    select oid from pg_proc
    where proname ~ '^(query|table|schema|database|cursor)_to_xml'
       or proname in ('ts_stat', 'ts_rewrite', 'crosstab', 'crosstab2', 'crosstab3', 'crosstab4', 'connectby', 'xpath_table')
), looked_in as (
    -- Where sessions of ours look for names that are not whole.
    select oid from pg_namespace where nspname in ('public', 'tenantry_owner', current_user)
), evaluated as (
    -- What `copy`, an index or `analyze` evaluates for each row. The trees name every function, those of PostgreSQL too.
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
    union all
    -- As the owner of everything, who could change what the administrator evaluates; and as he, while the tenant is moved.
    select format('the index %s of %s', indexrelid::regclass, indrelid::regclass), concat(indexprs, indpred)
    from pg_index where indexprs is not null or indpred is not null
    union all
    select format('the statistics %I of %s', stxname, stxrelid::regclass), stxexprs::text
    from pg_statistic_ext where stxexprs is not null
), called as (
    select e.what, (regexp_matches(e.tree, ':(?:(?:op|hash|neg)?func|aggfn|winfn)o?id (\d+)', 'g'))[1]::oid as function
    from evaluated e
), refreshed(view, relation) as (
    -- Every materialized view, with what it reads through plain ones.
    select oid, oid from pg_class where relkind = 'm'
    union
    select r.view, d.refobjid
    from refreshed r join pg_class c on c.oid = r.relation and (c.relkind = 'v' or c.oid = r.view)
    join pg_rewrite w on w.ev_class = c.oid
    join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = w.oid and d.refclassid = 'pg_class'::regclass
), read as (
    select r.view, w.ev_action::text as tree
    from refreshed r join pg_class c on c.oid = r.relation and (c.relkind = 'v' or c.oid = r.view)
    join pg_rewrite w on w.ev_class = c.oid
    union all
    select r.view, p.polqual::text
    from refreshed r join pg_class c on c.oid = r.relation and c.relforcerowsecurity join pg_policy p on p.polrelid = c.oid
), called_by_view as (
    select view, (regexp_matches(tree, ':(?:(?:op|hash|neg)?func|aggfn|winfn)o?id (\d+)', 'g'))[1]::oid as function
    from read
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
select distinct 'runs_on_restore', c.what || ', which calls ' || c.function::regprocedure
from called c where c.function in (select oid from unknown)
union all
select distinct 'runs_on_restore', format('the materialized view %s, which calls %s', view::regclass, function::regprocedure)
from called_by_view where function in (select oid from written union select oid from run_text)
union all
-- A foreign key runs an implicit one, and `to_json` and its like one to json.
select 'runs_on_restore', format('the cast of %s to %s, which calls %s', castsource::regtype, casttarget::regtype,
                                 castfunc::regprocedure)
from pg_cast where castfunc in (select oid from written)
union all
select 'runs_on_restore', format('the range %s, which calls %s', rngtypid::regtype, called::oid::regprocedure)
from pg_range cross join unnest(array[rngcanonical, rngsubdiff]) called
where called in (select oid from written)
union all
-- Only a superuser makes these: indexes, unique constraints and foreign keys compare by them.
select 'runs_on_restore', format('the operator family %s.%I, which calls %s', opfnamespace::regnamespace, opfname,
                                 called::regprocedure)
from (select amprocfamily as family, amproc::oid as called from pg_amproc
      union select amopfamily, oprcode::oid from pg_amop join pg_operator o on o.oid = amopopr) s
join pg_opfamily f on f.oid = family
where called in (select oid from written)
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
