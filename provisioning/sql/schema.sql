-- schema::read
-- One row for each thing that a migration can make or change: what it is, and a statement that says how it
-- is. Read with an empty search_path, so that every name is whole. No object ids, no positions of columns,
-- no statistics, no values of sequences, no comments; what extensions own is theirs, and the schema
-- `tenantry` is ours.
with ext as materialized (
    -- What an extension or a type brought along.
    select classid, objid from pg_depend
    where deptype = 'e' or deptype = 'i' and classid in ('pg_proc'::regclass, 'pg_cast'::regclass)
), n as materialized (
    select oid, quote_ident(nspname) as name, nspowner, nspacl from pg_namespace
    where nspname !~ '^pg_' and nspname not in ('information_schema', 'tenantry')
      and (('pg_namespace'::regclass, oid) not in (select classid, objid from ext) or nspname = 'public')
), c as materialized (
    select c.oid, n.name || '.' || quote_ident(c.relname) as name, c.relkind, c.relowner, c.relacl, c.relam,
           c.relpersistence, c.reltablespace, c.reloptions, c.reltoastrelid, c.relreplident, c.relrowsecurity,
           c.relforcerowsecurity, c.relispartition, c.relpartbound, c.reloftype,
           case c.relkind when 'v' then 'view' when 'm' then 'materialized view' when 'S' then 'sequence'
                          when 'f' then 'foreign table' else 'table' end as kind
    from pg_class c join n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p', 'v', 'm', 'S', 'f')
      and ('pg_class'::regclass, c.oid) not in (select classid, objid from ext)
), p as materialized (
    select p.*, p.oid::regprocedure::text as signature,
           case p.prokind when 'p' then 'procedure' when 'a' then 'aggregate' else 'function' end as kind
    from pg_proc p join n on n.oid = p.pronamespace
    where ('pg_proc'::regclass, p.oid) not in (select classid, objid from ext)
), t as materialized (
    select t.*, n.name || '.' || quote_ident(t.typname) as name,
           case t.typtype when 'd' then 'domain' else 'type' end as kind
    from pg_type t join n on n.oid = t.typnamespace
    where t.typtype in ('b', 'c', 'd', 'e', 'r')
      and not exists (select from pg_type e where e.typarray = t.oid)
      and (t.typrelid = 0 or exists (select from pg_class r where r.oid = t.typrelid and r.relkind = 'c'))
      and ('pg_type'::regclass, t.oid) not in (select classid, objid from ext)
), owning as materialized (
    -- Sequences that belong to a column: by `identity`, or by `serial` and `owned by`.
    select d.objid as sequence, d.deptype, d.refobjid::regclass::text || '.' || quote_ident(a.attname) as name
    from pg_depend d join pg_attribute a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
    where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass and d.deptype in ('a', 'i')
), o(object, grantable, owner, kind, acl) as (
    select 'schema ' || name, 'schema ' || name, nspowner, 'n'::"char", nspacl from n
    union all
    select c.kind || ' ' || c.name, case c.relkind when 'S' then 'sequence ' else 'table ' end || c.name,
           c.relowner, case c.relkind when 'S' then 's'::"char" else 'r' end, c.relacl
    from c
    union all
    select kind || ' ' || signature, replace(kind, 'aggregate', 'function') || ' ' || signature, proowner, 'f', proacl
    from p
    union all
    select kind || ' ' || name, kind || ' ' || name, typowner, 'T', typacl from t
    union all
    select 'server ' || quote_ident(srvname), 'foreign server ' || quote_ident(srvname), srvowner, 'S', srvacl
    from pg_foreign_server
    union all
    select 'foreign data wrapper ' || quote_ident(fdwname), 'foreign data wrapper ' || quote_ident(fdwname),
           fdwowner, 'F', fdwacl
    from pg_foreign_data_wrapper
    where ('pg_foreign_data_wrapper'::regclass, oid) not in (select classid, objid from ext)
    union all
    select 'publication ' || quote_ident(pubname), null, pubowner, null, null from pg_publication
    where pubname !~ '^tenantry_(move|back)_[0-9a-f]{32}$'
    union all
    select 'event trigger ' || quote_ident(evtname), null, evtowner, null, null from pg_event_trigger
    where ('pg_event_trigger'::regclass, oid) not in (select classid, objid from ext)
), g(object, grantable, owner, kind, acl, columns) as (
    select object, grantable, owner, kind, acl, '' from o where acl is not null
    union all
    select 'column ' || c.name || '.' || quote_ident(a.attname), 'table ' || c.name, c.relowner, 'c', a.attacl,
           ' (' || quote_ident(a.attname) || ')'
    from c join pg_attribute a on a.attrelid = c.oid
    where a.attnum > 0 and not a.attisdropped and a.attacl is not null
)

select 'database' as object,
       format('-- encoding %s, collate %s, ctype %s', pg_encoding_to_char(encoding), datcollate, datctype) as ddl
from pg_database where datname = current_database()

union all
select 'schema ' || name, 'create schema ' || name from n

union all
select 'owner of ' || object, format('alter %s owner to %I', object, pg_get_userbyid(owner))
from o
where not exists (select from owning where o.object = 'sequence ' || owning.sequence::regclass::text)

union all
-- What differs from what an owner and PUBLIC have without any grant.
select format('grant%s on %s to %s', r.option, g.object, r.grantee),
       case when r.granted then format('grant %s on %s to %s%s', r.rights, g.grantable, r.grantee, r.option)
            else format('revoke %s on %s from %s', r.rights, g.grantable, r.grantee) end
from g cross join lateral (
    select x.granted, case when x.is_grantable then ' with grant option' else '' end as option,
           case x.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(x.grantee)) end as grantee,
           string_agg(lower(x.privilege_type) || g.columns, ', ' order by x.privilege_type) as rights
    from (
        (select true as granted, grantee, privilege_type, bool_or(is_grantable) as is_grantable
         from aclexplode(g.acl) group by 2, 3
         except select true, grantee, privilege_type, is_grantable from aclexplode(acldefault(g.kind, g.owner)))
        union all
        (select false, grantee, privilege_type, is_grantable from aclexplode(acldefault(g.kind, g.owner))
         except select false, grantee, privilege_type, is_grantable from aclexplode(g.acl))
    ) x
    group by 1, 2, 3
) r

union all
select format('default privileges of %s%s on %s for %s%s', d.role, d.place, d.objects, r.grantee, r.option),
       case when r.granted
            then format('alter default privileges for role %s%s grant %s on %s to %s%s', d.role, d.place, r.rights,
                        d.objects, r.grantee, r.option)
            else format('alter default privileges for role %s%s revoke %s on %s from %s', d.role, d.place, r.rights,
                        d.objects, r.grantee) end
from (
    select d.defaclrole, d.defaclacl, d.defaclnamespace, quote_ident(pg_get_userbyid(d.defaclrole)) as role,
           coalesce(' in schema ' || n.name, '') as place, d.defaclobjtype,
           case d.defaclobjtype when 'r' then 'tables' when 'S' then 'sequences' when 'f' then 'functions'
                when 'T' then 'types' when 'n' then 'schemas' else 'large objects' end as objects
    from pg_default_acl d left join n on n.oid = d.defaclnamespace
    where d.defaclnamespace = 0 or n.oid is not null
) d cross join lateral (
    select acldefault(case d.defaclobjtype when 'S' then 's'::"char" else d.defaclobjtype end, d.defaclrole) as acl
) usual cross join lateral (
    select x.granted, case when x.is_grantable then ' with grant option' else '' end as option,
           case x.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(x.grantee)) end as grantee,
           string_agg(lower(x.privilege_type), ', ' order by x.privilege_type) as rights
    from (
        (select true as granted, grantee, privilege_type, is_grantable from aclexplode(d.defaclacl)
         except select true, grantee, privilege_type, is_grantable from aclexplode(usual.acl)
                where d.defaclnamespace = 0)
        union all
        (select false, grantee, privilege_type, is_grantable from aclexplode(usual.acl) where d.defaclnamespace = 0
         except select false, grantee, privilege_type, is_grantable from aclexplode(d.defaclacl))
    ) x
    group by 1, 2, 3
) r

union all
select 'extension ' || quote_ident(e.extname),
       format('create extension %I with schema %I version %L', e.extname, s.nspname, e.extversion)
from pg_extension e join pg_namespace s on s.oid = e.extnamespace

union all
select c.kind || ' ' || c.name,
       format('create %s%s %s%s%s%s%s',
              case c.relpersistence when 'u' then 'unlogged ' else '' end, c.kind, c.name,
              case when c.reloftype <> 0 then ' of ' || format_type(c.reloftype, null) else '' end,
              coalesce(' partition by ' || pg_get_partkeydef(c.oid), ''),
              coalesce(' using ' || quote_ident(nullif(am.amname, 'heap')), '')
                  || coalesce(' tablespace ' || quote_ident(ts.spcname), ''),
              coalesce(' server ' || quote_ident(s.srvname), '')
                  || coalesce(' options (' || array_to_string(f.ftoptions, ', ') || ')', ''))
from c
left join pg_am am on am.oid = c.relam
left join pg_tablespace ts on ts.oid = c.reltablespace
left join pg_foreign_table f on f.ftrelid = c.oid
left join pg_foreign_server s on s.oid = f.ftserver
where c.relkind in ('r', 'p', 'f')

union all
select c.kind || ' ' || c.name,
       format('create %s %s as%s%s', c.kind, c.name, E'\n', pg_get_viewdef(c.oid))
from c where c.relkind in ('v', 'm')

union all
select 'sequence ' || c.name,
       format('create %ssequence %s as %s increment by %s minvalue %s maxvalue %s start with %s cache %s%s',
              case c.relpersistence when 'u' then 'unlogged ' else '' end, c.name,
              format_type(s.seqtypid, null), s.seqincrement, s.seqmin, s.seqmax, s.seqstart, s.seqcache,
              case when s.seqcycle then ' cycle' else '' end)
from c join pg_sequence s on s.seqrelid = c.oid

union all
select 'place of sequence ' || c.name, format('alter sequence %s owned by %s', c.name, owning.name)
from c join owning on owning.sequence = c.oid where c.relkind = 'S' and owning.deptype = 'a'

union all
select 'parameters of ' || c.kind || ' ' || c.name,
       format('alter %s %s set (%s)', c.kind, c.name,
              (select string_agg(option, ', ' order by option)
               from (select unnest(c.reloptions) union all select 'toast.' || unnest(toast.reloptions)) o(option)))
from c left join pg_class toast on toast.oid = c.reltoastrelid
where c.reloptions is not null or toast.reloptions is not null

union all
select 'replica identity of ' || c.name,
       format('alter table %s replica identity %s', c.name,
              case c.relreplident when 'n' then 'nothing' when 'f' then 'full'
                   else 'using index ' || (select i.indexrelid::regclass::text from pg_index i
                                           where i.indrelid = c.oid and i.indisreplident) end)
from c where c.relkind in ('r', 'p') and c.relreplident <> 'd'

union all
select 'row level security of ' || c.name, format('alter table %s enable row level security', c.name)
from c where c.relrowsecurity

union all
select 'forced row level security of ' || c.name, format('alter table %s force row level security', c.name)
from c where c.relforcerowsecurity

union all
select format('parent %s of table %s', i.inhparent::regclass, c.name),
       case when c.relispartition
            then format('alter table %s attach partition %s %s', i.inhparent::regclass, c.name,
                        pg_get_expr(c.relpartbound, c.oid))
            else format('alter table %s inherit %s', c.name, i.inhparent::regclass) end
from c join pg_inherits i on i.inhrelid = c.oid

union all
select format('column %s.%I', c.name, a.attname),
       format('alter %s %s add column %I %s%s%s%s', c.kind, c.name, a.attname, format_type(a.atttypid, a.atttypmod),
              case when a.attcollation <> ty.typcollation then ' collate ' || a.attcollation::regcollation else '' end,
              case when a.attgenerated = 's' then format(' generated always as (%s) stored', pg_get_expr(d.adbin, d.adrelid))
                   when a.attgenerated <> '' then format(' generated always as (%s) virtual', pg_get_expr(d.adbin, d.adrelid))
                   when a.attidentity = 'a' then ' generated always as identity'
                   when a.attidentity = 'd' then ' generated by default as identity'
                   else coalesce(' default ' || pg_get_expr(d.adbin, d.adrelid), '') end,
              case when a.attnotnull then ' not null' else '' end)
from c
join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
join pg_type ty on ty.oid = a.atttypid
left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
where c.relkind in ('r', 'p', 'f')

union all
select format('default of column %s.%I', c.name, a.attname),
       format('alter view %s alter column %I set default %s', c.name, a.attname, pg_get_expr(d.adbin, d.adrelid))
from c
join pg_attribute a on a.attrelid = c.oid
join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
where c.relkind = 'v'

union all
select format('%s of column %s.%I', x.what, c.name, a.attname),
       format('alter %s %s alter column %I set %s', c.kind, c.name, a.attname, x.setting)
from c
join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
join pg_type ty on ty.oid = a.atttypid
cross join lateral (values
    ('storage', case when a.attstorage <> ty.typstorage then 'storage ' ||
        case a.attstorage when 'p' then 'plain' when 'e' then 'external' when 'm' then 'main' else 'extended' end end),
    ('compression', 'compression ' || case a.attcompression when 'p' then 'pglz' when 'l' then 'lz4' end),
    ('statistics target', 'statistics ' || nullif(a.attstattarget, -1)),
    ('parameters', '(' || array_to_string(a.attoptions, ', ') || ')'),
    ('options', 'options (' || array_to_string(a.attfdwoptions, ', ') || ')')
) x(what, setting)
where c.relkind in ('r', 'p', 'm', 'f') and x.setting is not null

union all
select format('constraint %I on %s', k.conname, c.name),
       format('alter %s %s add constraint %I %s', c.kind, c.name, k.conname, pg_get_constraintdef(k.oid))
from c join pg_constraint k on k.conrelid = c.oid
where k.contype <> 't' and k.conparentid = 0

union all
select format('constraint %I on %s', k.conname, t.name),
       format('alter domain %s add constraint %I %s', t.name, k.conname, pg_get_constraintdef(k.oid))
from t join pg_constraint k on k.contypid = t.oid

union all
select 'index ' || i.indexrelid::regclass, pg_get_indexdef(i.indexrelid)
from c join pg_index i on i.indrelid = c.oid
where not exists (select from pg_constraint k where k.conindid = i.indexrelid and k.contype in ('p', 'u', 'x'))

union all
select 'validity of index ' || i.indexrelid::regclass,
       format('-- index %s is invalid: drop it and build it again', i.indexrelid::regclass)
from c join pg_index i on i.indrelid = c.oid
where not (i.indisvalid and i.indisready)

union all
select 'clustering of ' || c.name, format('alter table %s cluster on %s', c.name, i.indexrelid::regclass)
from c join pg_index i on i.indrelid = c.oid where i.indisclustered

union all
select 'trigger ' || quote_ident(g.tgname) || ' on ' || c.name, pg_get_triggerdef(g.oid)
from c join pg_trigger g on g.tgrelid = c.oid
where not g.tgisinternal

union all
select distinct format('state of trigger %s on %s', quote_ident(g.name), c.name),
       format('alter %s %s %s trigger %s', c.kind, c.name,
              case g.tgenabled when 'D' then 'disable' when 'R' then 'enable replica' else 'enable always' end,
              case when g.tgisinternal then 'all -- those of constraint ' else '' end || quote_ident(g.name))
from c join (
    -- The names of the triggers behind a constraint hold object ids.
    select g.*, case when g.tgisinternal then k.conname else g.tgname end as name
    from pg_trigger g left join pg_constraint k on k.oid = g.tgconstraint
) g on g.tgrelid = c.oid
where g.tgenabled <> 'O' and g.name is not null

union all
select format('rule %I on %s', r.rulename, c.name),
       pg_get_ruledef(r.oid) || case r.ev_enabled when 'O' then '' when 'D' then ' -- disabled' else ' -- enabled ' || r.ev_enabled::text end
from c join pg_rewrite r on r.ev_class = c.oid
where r.rulename <> '_RETURN'

union all
select format('policy %I on %s', y.polname, c.name),
       format('create policy %I on %s as %s for %s to %s%s%s', y.polname, c.name,
              case when y.polpermissive then 'permissive' else 'restrictive' end,
              case y.polcmd when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update'
                            when 'd' then 'delete' else 'all' end,
              (select string_agg(case role when 0 then 'public' else quote_ident(pg_get_userbyid(role)) end, ', '
                                 order by pg_get_userbyid(role))
               from unnest(y.polroles) role),
              coalesce(' using (' || pg_get_expr(y.polqual, y.polrelid) || ')', ''),
              coalesce(' with check (' || pg_get_expr(y.polwithcheck, y.polrelid) || ')', ''))
from c join pg_policy y on y.polrelid = c.oid

union all
select kind || ' ' || signature, pg_get_functiondef(oid) from p where prokind <> 'a'

union all
select 'aggregate ' || p.signature,
       format('create aggregate %s (sfunc = %s, stype = %s%s%s%s%s%s, parallel = %s)', p.signature, a.aggtransfn,
              format_type(a.aggtranstype, null),
              ', initcond = ' || quote_literal(a.agginitval),
              case when a.aggfinalfn <> 0 then ', finalfunc = ' || a.aggfinalfn else '' end,
              case when a.aggcombinefn <> 0 then ', combinefunc = ' || a.aggcombinefn else '' end,
              case when a.aggmtransfn <> 0 then ', msfunc = ' || a.aggmtransfn else '' end,
              case when a.aggsortop <> 0 then ', sortop = ' || a.aggsortop::regoperator else '' end, p.proparallel)
from p join pg_aggregate a on a.aggfnoid = p.oid

union all
select t.kind || ' ' || t.name,
       case t.typtype
           when 'e' then format('create type %s as enum (%s)', t.name,
               (select string_agg(quote_literal(enumlabel), ', ' order by enumsortorder) from pg_enum where enumtypid = t.oid))
           when 'd' then format('create domain %s as %s%s%s%s', t.name, format_type(t.typbasetype, t.typtypmod),
               case when t.typcollation <> b.typcollation then ' collate ' || t.typcollation::regcollation else '' end,
               coalesce(' default ' || t.typdefault, ''), case when t.typnotnull then ' not null' else '' end)
           when 'c' then format('create type %s as (%s)', t.name,
               (select string_agg(format('%I %s', attname, format_type(atttypid, atttypmod)), ', ' order by attnum)
                from pg_attribute where attrelid = t.typrelid and attnum > 0 and not attisdropped))
           when 'r' then (select format('create type %s as range (subtype = %s%s%s)', t.name, format_type(r.rngsubtype, null),
               case when r.rngsubdiff <> 0 then ', subtype_diff = ' || r.rngsubdiff else '' end,
               case when r.rngcanonical <> 0 then ', canonical = ' || r.rngcanonical else '' end)
               from pg_range r where r.rngtypid = t.oid)
           else format('create type %s (input = %s, output = %s)', t.name, t.typinput, t.typoutput) end
from t left join pg_type b on b.oid = t.typbasetype

union all
select 'statistics ' || n.name || '.' || quote_ident(s.stxname),
       pg_get_statisticsobjdef(s.oid) || coalesce(' -- target ' || nullif(s.stxstattarget, -1), '')
from pg_statistic_ext s join n on n.oid = s.stxnamespace

union all
select 'collation ' || n.name || '.' || quote_ident(l.collname),
       format('create collation %s.%I (provider = %s, locale = %L, deterministic = %s)', n.name, l.collname,
              l.collprovider,
              coalesce(l.collcollate, to_jsonb(l) ->> 'colllocale', to_jsonb(l) ->> 'colliculocale'),
              l.collisdeterministic)
from pg_collation l join n on n.oid = l.collnamespace
where ('pg_collation'::regclass, l.oid) not in (select classid, objid from ext)

union all
select 'operator ' || r.oid::regoperator,
       format('create operator %s (function = %s%s%s%s%s%s%s)', r.oid::regoperator, r.oprcode,
              case when r.oprrest <> 0 then ', restrict = ' || r.oprrest else '' end,
              case when r.oprjoin <> 0 then ', join = ' || r.oprjoin else '' end,
              case when r.oprcanhash then ', hashes' else '' end,
              case when r.oprcanmerge then ', merges' else '' end,
              case when r.oprcom <> 0 then ', commutator = ' || r.oprcom::regoperator else '' end,
              case when r.oprnegate <> 0 then ', negator = ' || r.oprnegate::regoperator else '' end)
from pg_operator r join n on n.oid = r.oprnamespace
where ('pg_operator'::regclass, r.oid) not in (select classid, objid from ext)

union all
select format('operator class %s.%I for %s using %I', n.name, r.opcname, format_type(r.opcintype, null), am.amname),
       format('create operator class %s.%I%s for type %s using %I', n.name, r.opcname,
              case when r.opcdefault then ' default' else '' end, format_type(r.opcintype, null), am.amname)
from pg_opclass r join n on n.oid = r.opcnamespace join pg_am am on am.oid = r.opcmethod
where ('pg_opclass'::regclass, r.oid) not in (select classid, objid from ext)

union all
select format('cast from %s to %s', format_type(k.castsource, null), format_type(k.casttarget, null)),
       format('create cast (%s as %s) %s as %s', format_type(k.castsource, null), format_type(k.casttarget, null),
              case k.castmethod when 'f' then 'with function ' || k.castfunc::regprocedure
                   when 'i' then 'with inout' else 'without function' end,
              case k.castcontext when 'a' then 'assignment' when 'i' then 'implicit' else 'explicit' end)
from pg_cast k
where k.oid >= 16384 and ('pg_cast'::regclass, k.oid) not in (select classid, objid from ext)

union all
select 'text search configuration ' || n.name || '.' || quote_ident(g.cfgname),
       format('create text search configuration %s.%I (%s)', n.name, g.cfgname,
              (select string_agg(format('%s %s', m.maptokentype, m.mapdict::regdictionary), ', '
                                 order by m.maptokentype, m.mapseqno)
               from pg_ts_config_map m where m.mapcfg = g.oid))
from pg_ts_config g join n on n.oid = g.cfgnamespace
where ('pg_ts_config'::regclass, g.oid) not in (select classid, objid from ext)

union all
select 'text search dictionary ' || n.name || '.' || quote_ident(d.dictname),
       format('create text search dictionary %s.%I (%s)', n.name, d.dictname, d.dictinitoption)
from pg_ts_dict d join n on n.oid = d.dictnamespace
where ('pg_ts_dict'::regclass, d.oid) not in (select classid, objid from ext)

union all
select 'event trigger ' || quote_ident(evtname),
       format('create event trigger %I on %s%s execute function %s -- enabled %s', evtname, evtevent,
              coalesce(' when tag in (' || array_to_string(evttags, ', ') || ')', ''), evtfoid::regprocedure, evtenabled)
from pg_event_trigger
where ('pg_event_trigger'::regclass, oid) not in (select classid, objid from ext)

union all
select 'publication ' || quote_ident(b.pubname),
       format('create publication %I%s with (publish = %s%s)', b.pubname,
              case when b.puballtables then ' for all tables'
                   -- Columns and rows can be chosen from version 15 on.
                   else coalesce(' for table ' || (
                       select string_agg(format('%I.%I%s%s', r.schemaname, r.tablename,
                                  (select format(' (%s)', string_agg(quote_ident(column_name), ', ' order by column_name))
                                   from jsonb_array_elements_text(to_jsonb(r) -> 'attnames') column_name),
                                  ' where ' || (to_jsonb(r) ->> 'rowfilter')), ', ' order by r.schemaname, r.tablename)
                       from pg_publication_tables r where r.pubname = b.pubname), '') end,
              concat_ws(',', case when b.pubinsert then 'insert' end, case when b.pubupdate then 'update' end,
                        case when b.pubdelete then 'delete' end, case when b.pubtruncate then 'truncate' end),
              case when b.pubviaroot then ', publish_via_partition_root' else '' end)
from pg_publication b
-- What joins a database to its copy comes and goes.
where b.pubname !~ '^tenantry_(move|back)_[0-9a-f]{32}$'

union all
select 'foreign data wrapper ' || quote_ident(fdwname), 'create foreign data wrapper ' || quote_ident(fdwname)
from pg_foreign_data_wrapper
where ('pg_foreign_data_wrapper'::regclass, oid) not in (select classid, objid from ext)

union all
select 'server ' || quote_ident(s.srvname),
       format('create server %I foreign data wrapper %I%s', s.srvname, w.fdwname,
              coalesce(' options (' || array_to_string(s.srvoptions, ', ') || ')', ''))
from pg_foreign_server s join pg_foreign_data_wrapper w on w.oid = s.srvfdw

union all
-- Its options may hold a password.
select format('user mapping for %I on %I', usename, srvname), format('create user mapping for %I server %I', usename, srvname)
from pg_user_mappings

order by object, ddl
