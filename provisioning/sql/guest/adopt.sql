-- guest::adopt
-- Run by the administrator inside a build, with an empty search_path, after a dump from elsewhere came in as the
-- guest. `tenantry_guest` stands for that role. Running it again changes nothing.
do $adopt$
declare
    space record;
    object oid;
begin
    -- A dump may have dropped it, to make it anew.
    if not exists (select from pg_namespace where nspname = 'public') then
        create schema public;
    end if;
    grant usage, create on schema public to tenantry_owner;

    -- Schemas first: whoever is to own what is in them must be allowed to create there.
    for space in select nspname, nspowner::regrole::text as owner from pg_namespace
                 where nspname !~ '^pg_' and nspname not in ('information_schema', 'tenantry')
    loop
        if space.owner = 'tenantry_guest' then
            execute format('alter schema %I owner to tenantry_owner', space.nspname);
        end if;
        execute format('revoke all on schema %I from public', space.nspname);
    end loop;
    for object in select m.oid from pg_largeobject_metadata m where m.lomowner = 'tenantry_guest'::regrole loop
        execute format('grant select, update on large object %s to tenantry_app', object);
    end loop;
    reassign owned by tenantry_guest to tenantry_owner;
    -- What is left of it: rights, here and on the database, and defaults for what it would make.
    drop owned by tenantry_guest;

    -- What tenants have to everything that migrations make.
    for space in select nspname from pg_namespace
                 where nspname !~ '^pg_' and nspname not in ('information_schema', 'tenantry')
    loop
        execute format('grant usage on schema %I to tenantry_app', space.nspname);
        execute format('revoke all on all tables in schema %I from public', space.nspname);
        execute format('grant select, insert, update, delete on all tables in schema %I to tenantry_app', space.nspname);
        execute format('grant usage, select on all sequences in schema %I to tenantry_app', space.nspname);
    end loop;
end $adopt$;
