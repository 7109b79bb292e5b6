-- Domains of tenants. One that is verified names its tenant in the Host header and in the e-mail
-- addresses of its users; before, it means nothing, and several tenants may be trying.
create table domains (
    tenant_id   uuid not null references tenants,
    domain      text not null constraint domains_form check (length(domain) between 3 and 253),
    -- What the domain's DNS must say, to show that whoever asks also holds the domain.
    challenge   text not null,
    created_at  timestamptz not null default now(),
    verified_at timestamptz,
    primary key (tenant_id, domain)
);
create unique index domains_verified_key on domains (domain) where verified_at is not null;
