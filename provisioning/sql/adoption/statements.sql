-- adoption::statements
-- Run inside of the database that is to be adopted, with an empty search_path: the statements, in order, that give
-- everything in it to the owner of everything and take the rights to it from everybody. `reassign owned` and `drop
-- owned` would be shorter, and would reach into other databases.
with ext as materialized (
    select classid, objid from pg_depend where deptype = 'e'
), o as materialized (
    select oid from pg_roles where rolname = 'tenantry_owner'
), d as materialized (
    select oid, quote_ident(datname) as name, datdba, datacl from pg_database where datname = current_database()
), n as materialized (
    select oid, quote_ident(nspname) as name, nspname, nspacl,
           -- This one may stay whose it is.
           case when nspname = 'public' and (pg_get_userbyid(nspowner) = 'pg_database_owner' or nspowner = 10)
                then nspowner else (select oid from o) end as keeper,
           nspowner
    from pg_namespace
    where nspname !~ '^pg_' and nspname <> 'information_schema'
      and ('pg_namespace'::regclass, oid) not in (select classid, objid from ext)
), c as materialized (
    select c.oid, c.oid::regclass::text as name, relowner, relacl,
           case relkind when 'v' then 'view' when 'm' then 'materialized view' when 'S' then 'sequence' else 'table' end as what,
           -- The sequence of a column goes with its table.
           exists (select from pg_depend s where s.classid = 'pg_class'::regclass and s.objid = c.oid
                   and relkind = 'S' and s.deptype in ('a', 'i') and s.refclassid = 'pg_class'::regclass) as goes_along
    from pg_class c join n on n.oid = c.relnamespace
    where relkind in ('r', 'p', 'v', 'm', 'S') and ('pg_class'::regclass, c.oid) not in (select classid, objid from ext)
), p as materialized (
    select p.oid, p.oid::regprocedure::text as name, proowner, proacl, prosecdef
    from pg_proc p join n on n.oid = p.pronamespace
    where ('pg_proc'::regclass, p.oid) not in (select classid, objid from ext)
), t as materialized (
    select t.oid, t.oid::regtype::text as name, typowner, typacl, typtype
    from pg_type t join n on n.oid = t.typnamespace
    where (typrelid = 0 or exists (select from pg_class k where k.oid = typrelid and k.relkind = 'c'))
      and not exists (select from pg_type e where e.typarray = t.oid)
      and ('pg_type'::regclass, t.oid) not in (select classid, objid from ext)
), others as materialized (
    -- What is rarer, by its name as its statement takes it.
    select oid, 'operator ' || oid::regoperator as what, oprowner as owner, 'pg_operator'::regclass as class,
           oprnamespace as space from pg_operator
    union all
    select k.oid, format('operator class %s.%I using %I', n.name, opcname, amname), opcowner, 'pg_opclass'::regclass, n.oid
    from pg_opclass k join n on n.oid = opcnamespace join pg_am a on a.oid = opcmethod
    union all
    select k.oid, format('operator family %s.%I using %I', n.name, opfname, amname), opfowner, 'pg_opfamily'::regclass, n.oid
    from pg_opfamily k join n on n.oid = opfnamespace join pg_am a on a.oid = opfmethod
    union all
    select k.oid, format('collation %s.%I', n.name, collname), collowner, 'pg_collation'::regclass, n.oid
    from pg_collation k join n on n.oid = collnamespace
    union all
    select k.oid, format('conversion %s.%I', n.name, conname), conowner, 'pg_conversion'::regclass, n.oid
    from pg_conversion k join n on n.oid = connamespace
    union all
    select k.oid, format('statistics %s.%I', n.name, stxname), stxowner, 'pg_statistic_ext'::regclass, n.oid
    from pg_statistic_ext k join n on n.oid = stxnamespace
    union all
    select k.oid, format('text search dictionary %s.%I', n.name, dictname), dictowner, 'pg_ts_dict'::regclass, n.oid
    from pg_ts_dict k join n on n.oid = dictnamespace
    union all
    select k.oid, format('text search configuration %s.%I', n.name, cfgname), cfgowner, 'pg_ts_config'::regclass, n.oid
    from pg_ts_config k join n on n.oid = cfgnamespace
), rights as materialized (
    -- Whoever has a right to something, but for whoever owns it and will own it: those of PUBLIC to functions and types
    -- reach nobody who cannot enter.
    select 1 as rank, 'database ' || d.name as what, a.grantee
    from d cross join aclexplode(coalesce(datacl, acldefault('d', datdba))) a
    where a.grantee <> datdba and a.grantee <> (select oid from pg_roles where rolname = current_user)
    union
    select 2, 'schema ' || n.name, a.grantee from n cross join aclexplode(nspacl) a where a.grantee <> nspowner
    union
    select 3, case c.what when 'sequence' then 'sequence ' else 'table ' end || c.name, a.grantee
    from c left join pg_attribute t on t.attrelid = c.oid
    cross join lateral (select * from aclexplode(c.relacl) union all select * from aclexplode(t.attacl)) a
    where a.grantee <> relowner
    union
    select 4, 'routine ' || p.name, a.grantee from p cross join aclexplode(proacl) a where a.grantee not in (0, proowner)
    union
    select 5, 'type ' || t.name, a.grantee from t cross join aclexplode(typacl) a where a.grantee not in (0, typowner)
    union
    select 6, 'large object ' || m.oid, a.grantee
    from pg_largeobject_metadata m cross join aclexplode(lomacl) a where a.grantee <> lomowner
), defaults as materialized (
    -- What roles give away of what they will make; a dump that has any of it cannot be restored where they are missing.
    select format('alter default privileges for role %I', pg_get_userbyid(f.defaclrole)) as who,
           quote_ident(s.nspname) as space, f.defaclrole, f.defaclacl, f.defaclobjtype as kind,
           case f.defaclobjtype when 'r' then 'tables' when 'S' then 'sequences' when 'f' then 'routines'
                                when 'T' then 'types' when 'n' then 'schemas' else 'large objects' end as what
    from pg_default_acl f left join pg_namespace s on s.oid = f.defaclnamespace
    where f.defaclrole <> (select oid from o)
), s(rank, number, sql) as (
    select 1, 1, 'create schema public' where not exists (select from n where nspname = 'public')
    union all
    select 1, 2, 'grant usage, create on schema public to tenantry_owner'
    union all
    select 2, 1, format('alter database %s owner to %I', d.name, current_user)
    from d where pg_get_userbyid(datdba) <> current_user
    union all
    select 3, 1, format('alter schema %s owner to tenantry_owner', name) from n where nspowner <> keeper
    union all
    select 4, 1, format('alter %s %s owner to tenantry_owner', what, name)
    from c where relowner <> (select oid from o) and not goes_along
    union all
    select 5, 1, format('alter routine %s owner to tenantry_owner', name) from p where proowner <> (select oid from o)
    union all
    select 5, 2, format('alter type %s owner to tenantry_owner', name)
    from t where typowner <> (select oid from o)
    -- From this version on it goes with its range.
      and (typtype <> 'm' or current_setting('server_version_num')::int < 170000)
    union all
    select 5, 3, format('alter %s owner to tenantry_owner', what)
    from others join n on n.oid = space
    where owner <> (select oid from o) and (class, others.oid) not in (select classid, objid from ext)
    union all
    select 5, 4, format('alter large object %s owner to tenantry_owner', oid)
    from pg_largeobject_metadata where lomowner <> (select oid from o)
    union all
    select 6, rank, format('revoke all on %s from %s cascade', what,
                           string_agg(case grantee when 0 then 'public' else quote_ident(pg_get_userbyid(grantee)) end,
                                      ', ' order by grantee))
    from rights group by rank, what
    union all
    select 7, 1, format('%s%s revoke all on %s from %s cascade', who, ' in schema ' || space, what,
                        case grantee when 0 then 'public' else quote_ident(pg_get_userbyid(grantee)) end)
    from defaults cross join aclexplode(defaclacl) a
    where space is not null or grantee <> defaclrole and not (grantee = 0 and kind in ('f', 'T'))
    union all
    select 7, 2, format('%s grant all on %s to %I', who, what, pg_get_userbyid(defaclrole))
    from defaults where space is null
    union all
    select 7, 3, format('%s grant %s to public', who, case kind when 'f' then 'execute on routines' else 'usage on types' end)
    from defaults where space is null and kind in ('f', 'T')
    union all
    select 8, 1, format('grant create, temporary on database %s to tenantry_owner', name) from d
    union all
    select 8, 2, format('grant usage on schema %s to tenantry_app', name) from n
    union all
    select 8, 3, format('grant select, insert, update, delete on all tables in schema %s to tenantry_app', name) from n
    union all
    select 8, 4, format('grant usage, select on all sequences in schema %s to tenantry_app', name) from n
    union all
    -- Where not everybody may execute it, the application may; but not with somebody else's rights.
    select 8, 5, format('grant execute on routine %s to tenantry_app', name)
    from p where proacl is not null and not prosecdef
             and not exists (select from aclexplode(proacl) a where a.grantee = 0)
    union all
    select 8, 6, format('grant usage on type %s to tenantry_app', name)
    from t where typacl is not null and typtype <> 'm' and not exists (select from aclexplode(typacl) a where a.grantee = 0)
    union all
    select 8, 7, format('grant select, update on large object %s to tenantry_app', oid) from pg_largeobject_metadata
)
select distinct on (rank, number, sql) sql from s order by rank, number, sql
