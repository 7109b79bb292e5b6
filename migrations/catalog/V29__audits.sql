-- Audits of isolation: what was tried and what was found, as a signed document.
create table audits (
    id           uuid primary key,
    started_at   timestamptz not null,
    finished_at  timestamptz not null,
    requested_by text not null,
    -- Whether everything could be looked at and tried.
    complete     boolean not null,
    -- Whether all tenants were looked at, and not only some.
    whole        boolean not null,
    -- What was found and nobody has accepted.
    critical     int not null,
    high         int not null,
    medium       int not null,
    low          int not null,
    report       jsonb not null
);
create index audits_newest on audits (finished_at desc);

-- Findings that somebody takes on, for a reason and for a time. Afterwards they are findings again.
create table audit_acceptances (
    -- What an audit calls the finding; the same thing found again has the same.
    finding     text primary key,
    reason      text not null,
    accepted_by text not null,
    accepted_at timestamptz not null default now(),
    until       timestamptz not null
);
