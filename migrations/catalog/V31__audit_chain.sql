-- The audit log as a chain: every entry has a link with the digest of what the entry says and of the link before,
-- so that nobody alters, removes, inserts or reorders entries without breaking it. Signed checkpoints in the bucket
-- hold the end of the chain against whoever makes a whole new one.

-- The request that an entry comes from; nothing that began by itself has one.
alter table audit_log add column request_id text;
create index audit_log_at on audit_log (at);

-- Not on the entry itself: the link of the last entry that a retention removed outlives it, as the beginning of the
-- chain.
create table audit_chain (
    -- Without gaps: a gap is something that was removed.
    number  bigint primary key,
    entry   bigint not null unique,
    -- The SHA-256 of what the entry says.
    content bytea not null,
    -- The SHA-256 of the link before, of these three, in this order.
    hash    bytea not null
);

-- A field with its length before it, so that no two entries have the same text.
create function audit_field(value text) returns text immutable language sql as $$
    select coalesce(octet_length(value) || ':' || value, '-')
$$;

create function audit_content(entry audit_log) returns bytea stable language sql as $$
    select sha256(convert_to(
        'tenantry audit entry 1'
        || audit_field((extract(epoch from entry.at) * 1000000)::bigint::text)
        || audit_field(entry.actor)
        || audit_field(entry.action)
        || audit_field(entry.tenant_slug)
        || audit_field(entry.tenant_id::text)
        || audit_field(entry.request_id)
        || audit_field(entry.detail::text), 'UTF8'))
$$;

-- Links an entry to the end of the chain. Whoever else would add one waits until this transaction is over.
create function chain_audit_entry() returns trigger language plpgsql as $$
declare
    before audit_chain;
    link   audit_chain;
begin
    perform pg_advisory_xact_lock(hashtextextended('audit chain', 2));
    select * into before from audit_chain order by number desc limit 1;
    link.number := coalesce(before.number, 0) + 1;
    link.entry := new.id;
    link.content := audit_content(new);
    link.hash := sha256(coalesce(before.hash, decode(repeat('00', 32), 'hex'))
                        || int8send(link.number) || int8send(link.entry) || link.content);
    insert into audit_chain select link.*;
    return null;
end
$$;

-- At the commit, and not before: until then a transaction may still wait for others, and with the end of the chain in
-- its hands they would wait for it. So the chain costs those who write entries one commit after the other, and nobody
-- else anything.
create constraint trigger audit_log_is_chained after insert on audit_log
    deferrable initially deferred for each row execute function chain_audit_entry();

-- Only a retention removes entries, and says so in one: a guard against mistakes, not against who owns the catalog.
create or replace function audit_log_is_for_good() returns trigger language plpgsql as $$
begin
    if tg_op = 'DELETE' and current_setting('tenantry.audit_retention', true) = 'on' then
        return old;
    end if;
    raise exception 'rows of the audit log are neither changed nor removed';
end
$$;

create trigger audit_chain_is_for_good before update or delete on audit_chain
    for each row execute function audit_log_is_for_good();
create trigger audit_chain_is_kept before truncate on audit_chain
    for each statement execute function audit_log_is_for_good();

-- Up to where a signed checkpoint was made, and whether it lies in the bucket. Written before it is signed: with this
-- commit everything before it has reached the disk, so no crash takes back what a checkpoint tells of.
create table audit_checkpoint (
    is_only boolean primary key default true constraint audit_checkpoint_is_one check (is_only),
    number  bigint not null,
    stored  boolean not null default false,
    at      timestamptz not null default now()
);

-- What is in the log already.
do $$
declare
    earlier audit_log;
    hash    bytea := decode(repeat('00', 32), 'hex');
    number  bigint := 0;
    content bytea;
begin
    for earlier in select * from audit_log order by id loop
        number := number + 1;
        content := audit_content(earlier);
        hash := sha256(hash || int8send(number) || int8send(earlier.id) || content);
        insert into audit_chain values (number, earlier.id, content, hash);
    end loop;
end
$$;

-- Operations, however they are asked for: who asked, and how it ended. Of the thousand operations of a batch only
-- those that go wrong have an entry: who asked for the batch has one, and the rest is in the operations themselves.
alter table operations add column request_id text;

create function audit_operation() returns trigger language plpgsql as $$
begin
    insert into audit_log (actor, action, tenant_slug, tenant_id, request_id, detail)
    select new.requested_by,
           'operation.' || case tg_op when 'INSERT' then 'asked' else new.state end,
           t.slug, t.id, new.request_id,
           jsonb_build_object('operation', new.id, 'kind', new.kind)
           || case when new.batch_id is null then '{}' else jsonb_build_object('batch', new.batch_id) end
           || case when tg_op = 'INSERT' and new.input <> '{}' then jsonb_build_object('input', new.input)
                   when new.state = 'failed' then jsonb_build_object('error', new.error) else '{}' end
    from tenants t where t.id = new.tenant_id;
    return null;
end
$$;

create trigger operation_is_asked after insert on operations
    for each row when (new.batch_id is null) execute function audit_operation();
create trigger operation_is_settled after update of state on operations
    for each row when (old.state is distinct from new.state and new.state in ('succeeded', 'failed', 'cancelled')
                       and (new.batch_id is null or new.state <> 'succeeded'))
    execute function audit_operation();
