-- Tenants that users ask for themselves. The data plane writes a registration down, an operator or the
-- settings approve it, and a worker makes the tenant.
create table registrations (
    id                  uuid primary key,
    -- The id that the tenant gets; told to the user before there is a tenant.
    tenant_id           uuid not null constraint registrations_tenant_key unique,
    slug                text not null
                        constraint registrations_slug_form check (slug ~ '^[a-z0-9]([a-z0-9-]{0,48}[a-z0-9])?$'),
    organization_name   text not null,
    admin_email         text not null,
    use_case            text,
    organization_size   text,
    -- Who asks, and becomes the owner.
    issuer              text not null,
    subject             text not null,
    state               text not null
                        constraint registrations_state check (state in ('pending', 'approved', 'rejected')),
    -- Why it was rejected.
    reason              text,
    decided_by          text,
    decided_at          timestamptz,
    -- When the tenant was made.
    fulfilled_at        timestamptz,
    idempotency_key     text,
    created_at          timestamptz not null default now(),
    constraint registrations_idempotency_key unique (issuer, subject, idempotency_key)
);

-- A slug that somebody was promised is nobody else's to register.
create unique index registrations_slug_key on registrations (slug)
    where state <> 'rejected' and fulfilled_at is null;
create index registrations_open on registrations (created_at) where fulfilled_at is null;

-- Workers wake on an approved one.
create function registration_approved() returns trigger language plpgsql as $$
begin
    perform pg_notify('tenantry_registrations', new.id::text);
    return null;
end
$$;

create trigger registration_approved after insert or update on registrations
    for each row when (new.state = 'approved' and new.fulfilled_at is null)
    execute function registration_approved();

-- Who has tried to register lately: the hash of a user or of an address. All replicas count here.
create table registration_attempts (
    key     bytea not null,
    at      timestamptz not null default now()
);
create index registration_attempts_key on registration_attempts (key, at);
create index registration_attempts_at on registration_attempts (at);
