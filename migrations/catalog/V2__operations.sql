-- Durable, resumable changes to a tenant. The steps stand in the code; a row remembers how far
-- they came, who is working on them and what went wrong.
create table operations (
    id              uuid primary key,
    tenant_id       uuid not null references tenants,
    kind            text not null,
    -- The parameters of this kind, as the code wrote them.
    input           jsonb not null,
    state           text not null default 'queued'
                    constraint operations_state check (state in
                        ('queued', 'running', 'succeeded', 'failed', 'cancelled')),
    -- An operator gave the operation up: the worker runs its list of undoing steps instead.
    abandoning      boolean not null default false,
    completed_steps int not null default 0,
    -- What a step must know about an earlier attempt, for example the size of a finished upload.
    memory          jsonb not null default '{}',
    attempts        int not null default 0,
    run_after       timestamptz not null default now(),
    error           jsonb,
    -- Operations enqueued together, such as one fleet migration.
    batch_id        uuid,
    -- A worker takes the operation only if it has loaded exactly this set of migration files.
    migrations_digest text,
    requested_by    text not null,
    idempotency_key text constraint operations_idempotency_key unique,
    -- The lease: only the worker that holds this token, before this time, may go on.
    lease_token     uuid,
    lease_until     timestamptz,
    leased_by       text,
    created_at      timestamptz not null default now(),
    started_at      timestamptz,
    finished_at     timestamptz
);

-- One tenant, one running operation: the rule that everything else leans on.
create unique index operations_running_key on operations (tenant_id) where state = 'running';
create index operations_queue on operations (created_at, id) where state = 'queued';
create index operations_tenant on operations (tenant_id, created_at desc);
create index operations_batch on operations (batch_id) where batch_id is not null;

-- Workers wake on a queued operation, waiting clients on a finished one.
create function operation_changed() returns trigger language plpgsql as $$
begin
    perform pg_notify('tenantry_operations', new.id::text || ' ' || new.state);
    return null;
end
$$;

create trigger operation_queued after insert on operations
    for each row execute function operation_changed();
create trigger operation_changed after update on operations
    for each row when (old.state is distinct from new.state)
    execute function operation_changed();
