-- shape::read
-- What schema.sql does not look at, and a dump carries. Read with an empty search_path, so that every name is whole.
-- `same` has to be the same in both databases; `odd` is what rows alone do not bring across, or what nobody here
-- compares; `rows` are the tables to carry, and `sequence` the sequences. $1: so many bytes are few.
with ext as materialized (
    select classid, objid from pg_depend where deptype = 'e'
), n as materialized (
    select oid, nspname = 'tenantry' as is_ours, quote_ident(nspname) as name, nspowner, nspacl from pg_namespace
    where nspname <> 'information_schema' and nspname !~ '^pg_'
), c as materialized (
    select c.oid, n.is_ours, n.name || '.' || quote_ident(c.relname) as name, c.relkind, c.relowner, c.relacl,
           c.reltablespace, c.reloptions, c.relispartition,
           ('pg_class'::regclass, c.oid) in (select classid, objid from ext) as of_extension
    from pg_class c join n on n.oid = c.relnamespace
), a as materialized (
    select attrelid, string_agg(quote_ident(attname), ', ' order by attnum) as names,
           string_agg(format('%s %s', format_type(atttypid, atttypmod), attnotnull), ', ' order by attnum) as types,
           string_agg(attcollation::regcollation::text, ', ' order by attnum) as collations,
           -- Since version 17 it is null.
           bool_or(coalesce(attstattarget, -1) <> -1) as has_targets
    from pg_attribute where attnum > 0 and not attisdropped and attrelid >= 16384 group by attrelid
)

select 'rows' as kind, name as object, '' as detail from c where relkind = 'r'
union all
select 'sequence', name, '' from c where relkind = 'S'

union all
select 'same', 'the version of PostgreSQL', (current_setting('server_version_num')::int / 10000)::text
union all
select 'same', 'the order of columns of ' || c.name, a.names
from c join a on a.attrelid = c.oid where c.relkind in ('r', 'p', 'v') and not c.is_ours
union all
select 'same', 'the collations of ' || c.name, a.collations from c join a on a.attrelid = c.oid where c.relkind = 'c'
union all
-- The fingerprint leaves those to the parent, and a dump does not.
select 'same', format('the constraint %I of the partition %s', k.conname, c.name), pg_get_constraintdef(k.oid)
from c join pg_constraint k on k.conrelid = c.oid where k.conparentid <> 0 and k.contype in ('p', 'u', 'x')
union all
select 'same', 'the parent of the index ' || c.name, i.inhparent::regclass::text
from c join pg_inherits i on i.inhrelid = c.oid where c.relkind in ('i', 'I')
union all
select 'same', 'the parameters of ' || name, reloptions::text
from c where relkind in ('i', 'I') and reloptions is not null
union all
select 'same', format('the owner of the statistics %s.%I', n.name, s.stxname), pg_get_userbyid(s.stxowner)::text
from pg_statistic_ext s join n on n.oid = s.stxnamespace
union all
select 'same', 'the table ' || c.name,
       concat_ws('; ', pg_get_userbyid(c.relowner), a.names, a.types,
           (select string_agg(pg_get_expr(d.adbin, d.adrelid), ', ' order by d.adnum) from pg_attrdef d
            where d.adrelid = c.oid),
           (select string_agg(pg_get_constraintdef(k.oid), ', ' order by k.conname) from pg_constraint k
            where k.conrelid = c.oid),
           (select string_agg(pg_get_indexdef(i.indexrelid), ', ' order by i.indexrelid::regclass::text) from pg_index i
            where i.indrelid = c.oid))
from c join a on a.attrelid = c.oid
-- It is made when it is first needed.
where c.is_ours and c.relkind = 'r' and c.name <> 'tenantry.sample_data'
union all
select 'same', 'the owner of the schema ' || name, pg_get_userbyid(nspowner)::text from n where is_ours
union all
-- The administrator, who owns the language, may have another name elsewhere.
select 'same', 'the rights to ' || o.object,
       string_agg(concat_ws(' ', case r.grantee when 0 then 'PUBLIC' when o.owner then 'its owner'
                                 else pg_get_userbyid(r.grantee)::text end, r.privilege_type, r.is_grantable), ', '
                  order by r.grantee = o.owner, pg_get_userbyid(r.grantee), r.privilege_type)
from (
    select 'the table ' || name as object, relowner as owner, coalesce(relacl, acldefault('r', relowner)) as acl
    from c where is_ours and relkind = 'r' and name <> 'tenantry.sample_data'
    union all
    select 'the schema ' || name, nspowner, coalesce(nspacl, acldefault('n', nspowner)) from n where is_ours
    union all
    select 'the language ' || lanname, lanowner, coalesce(lanacl, acldefault('l', lanowner)) from pg_language
) o cross join lateral aclexplode(o.acl) r
group by o.object
union all
select 'same', format('the comment on %s %s', i.type, i.identity), d.description
from pg_description d cross join lateral pg_identify_object(d.classoid, d.objoid, d.objsubid) i
where d.objoid >= 16384 or d.classoid = 'pg_extension'::regclass or d.objoid = to_regnamespace('public')

union all
select 'odd', 'more than ' || pg_size_pretty($1), ''
where pg_database_size(current_database()) > $1
union all
select 'odd', case when relkind = 'm' then 'the materialized view ' else 'the foreign table ' end || name, ''
from c where relkind in ('m', 'f')
union all
select 'odd', 'the tablespace of ' || name, '' from c where reltablespace <> 0
union all
select 'odd', 'what an extension has in ' || name, '' from c where of_extension and relkind in ('r', 'p', 'v', 'S')
union all
select 'odd', 'the schema ' || name, '' from n
where ('pg_namespace'::regclass, oid) in (select classid, objid from ext) and name <> 'public'
union all
select 'odd', 'what depends on an extension', '' where exists (select from pg_depend where deptype = 'x')
union all
select 'odd', 'the parents of ' || c.name, ''
from c join pg_inherits i on i.inhrelid = c.oid where c.relkind = 'r' and not c.relispartition
union all
select 'odd', 'the statistics targets of ' || c.name, ''
from c join a on a.attrelid = c.oid where c.relkind in ('i', 'I') and a.has_targets
union all
select 'odd', 'what is in our own schema: ' || name, '' from c where is_ours and relkind not in ('r', 'i')
union all
select 'odd', 'something unusual about ' || c.name, '' from c join pg_class r on r.oid = c.oid
where c.is_ours and c.relkind = 'r'
  and (r.reloptions is not null or r.relpersistence <> 'p' or r.relreplident <> 'd' or r.relrowsecurity
       or r.relforcerowsecurity or r.relispartition
       or exists (select from pg_index i where i.indrelid = c.oid and (i.indisclustered or i.indisreplident))
       or exists (select from pg_attribute t join pg_type y on y.oid = t.atttypid
                  where t.attrelid = c.oid and t.attnum > 0 and not t.attisdropped
                    and (t.attacl is not null or t.attoptions is not null or t.attcompression <> ''
                         or coalesce(t.attstattarget, -1) <> -1 or t.attstorage <> y.typstorage
                         or t.attcollation <> y.typcollation or t.attidentity <> '')))
union all
select 'odd', 'a function in our own schema', '' from pg_proc p join n on n.oid = p.pronamespace where is_ours
union all
select 'odd', 'a type in our own schema', '' from pg_type t join n on n.oid = t.typnamespace
where is_ours and t.typtype <> 'c' and t.typinput <> 'array_in'::regproc
union all
select 'odd', 'default privileges in our own schema', ''
from pg_default_acl d join n on n.oid = d.defaclnamespace where is_ours
union all
select 'odd', 'a trigger, rule or policy in our own schema', ''
from c where is_ours and (exists (select from pg_trigger g where g.tgrelid = c.oid)
                          or exists (select from pg_policy y where y.polrelid = c.oid)
                          or exists (select from pg_rewrite r where r.ev_class = c.oid))
union all
-- It fires for what is loaded, too.
select distinct 'odd', 'a trigger on ' || tgrelid::regclass, '' from pg_trigger where tgenabled in ('A', 'R')
union all
select distinct 'odd', 'a rule on ' || ev_class::regclass, '' from pg_rewrite where ev_enabled in ('A', 'R')
union all
-- It may look at other tables, which are all there only at the end.
select distinct 'odd', 'the index ' || c.name, ''
from c join pg_depend d on d.classid = 'pg_class'::regclass and d.objid = c.oid
where c.relkind in ('i', 'I') and d.refclassid in ('pg_proc'::regclass, 'pg_operator'::regclass)
union all
select 'odd', 'large objects', '' where exists (select from pg_largeobject_metadata)
union all
select 'odd', 'security labels', '' where exists (select from pg_seclabel)
union all
select 'odd', 'a setting of the database', ''
from pg_db_role_setting s join pg_database d on d.oid = s.setdatabase, unnest(s.setconfig) setting
where d.datname = current_database() and not (s.setrole = 0 and setting like 'tenantry.tenant=%')
union all
select 'odd', 'rights to what an extension has', ''
from (
    select 'pg_proc'::regclass as class, p.oid, p.proacl as acl
    from ext join pg_proc p on ext.classid = 'pg_proc'::regclass and p.oid = ext.objid
    union all
    select 'pg_type'::regclass, t.oid, t.typacl
    from ext join pg_type t on ext.classid = 'pg_type'::regclass and t.oid = ext.objid
    union all
    select 'pg_foreign_data_wrapper'::regclass, w.oid, w.fdwacl
    from ext join pg_foreign_data_wrapper w on ext.classid = 'pg_foreign_data_wrapper'::regclass and w.oid = ext.objid
) has left join pg_init_privs i on i.objoid = has.oid and i.classoid = has.class and i.objsubid = 0
where has.acl::text is distinct from i.initprivs::text
union all
-- Nobody compares who gave a right.
select distinct 'odd', 'rights that ' || quote_ident(pg_get_userbyid(r.grantor)) || ' gave', ''
from (
    select relowner as owner, relacl as acl from c
    union all
    select c.relowner, t.attacl from c join pg_attribute t on t.attrelid = c.oid
    union all
    select nspowner, nspacl from n
    union all
    select proowner, proacl from pg_proc where oid >= 16384
    union all
    select typowner, typacl from pg_type where oid >= 16384
) o cross join lateral aclexplode(o.acl) r where r.grantor <> o.owner
union all
select 'odd', 'a subscription', '' from pg_subscription s join pg_database d on d.oid = s.subdbid
where d.datname = current_database()
union all
select 'odd', 'the publication ' || quote_ident(pubname), '' from pg_publication
where pubname !~ '^tenantry_(move|back)_[0-9a-f]{32}$'
union all
select 'odd', 'the event trigger ' || quote_ident(evtname), '' from pg_event_trigger
union all
select 'odd', what, '' from (
    select 'an aggregate' as what, 'pg_proc'::regclass as class, oid from pg_proc where prokind = 'a'
    union all select 'a type', 'pg_type'::regclass, oid from pg_type
              where typtype in ('b', 'r', 'm', 'p') and typinput <> 'array_in'::regproc
    union all select 'an operator', 'pg_operator'::regclass, oid from pg_operator
    union all select 'an operator class', 'pg_opclass'::regclass, oid from pg_opclass
    union all select 'an operator family', 'pg_opfamily'::regclass, oid from pg_opfamily
    union all select 'a cast', 'pg_cast'::regclass, oid from pg_cast
    union all select 'a collation', 'pg_collation'::regclass, oid from pg_collation
    union all select 'a conversion', 'pg_conversion'::regclass, oid from pg_conversion
    union all select 'a language', 'pg_language'::regclass, oid from pg_language
    union all select 'a transform', 'pg_transform'::regclass, oid from pg_transform
    union all select 'an access method', 'pg_am'::regclass, oid from pg_am
    union all select 'a foreign data wrapper', 'pg_foreign_data_wrapper'::regclass, oid from pg_foreign_data_wrapper
    union all select 'a server', 'pg_foreign_server'::regclass, oid from pg_foreign_server
    union all select 'a text search configuration', 'pg_ts_config'::regclass, oid from pg_ts_config
    union all select 'a text search dictionary', 'pg_ts_dict'::regclass, oid from pg_ts_dict
    union all select 'a text search parser', 'pg_ts_parser'::regclass, oid from pg_ts_parser
    union all select 'a text search template', 'pg_ts_template'::regclass, oid from pg_ts_template
) rare
where oid >= 16384 and (class, oid) not in (select classid, objid from ext)
