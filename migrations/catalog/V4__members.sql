-- Who belongs to a tenant. A user is known by what an identity provider says of them: its issuer, and
-- the subject that is unique within it. An e-mail address is neither stable nor always proven.
create table members (
    tenant_id   uuid not null references tenants,
    issuer      text not null constraint members_issuer_form check (length(issuer) between 1 and 2000),
    subject     text not null constraint members_subject_form check (length(subject) between 1 and 255),
    role        text not null
                constraint members_role check (role in ('owner', 'admin', 'member', 'read_only')),
    created_at  timestamptz not null default now(),
    primary key (tenant_id, issuer, subject)
);
