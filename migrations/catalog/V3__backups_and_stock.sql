-- Backups whose manifest has been written. The manifest in the bucket is the truth; this is its index.
create table backups (
    id              uuid primary key,
    tenant_id       uuid not null references tenants,
    dump_bytes      bigint not null,
    plain_bytes     bigint not null,
    schema_version  bigint not null,
    server_version  text not null,
    started_at      timestamptz not null,
    finished_at     timestamptz not null
);
create index backups_tenant on backups (tenant_id, started_at desc);

-- Clones of the template made ahead of time, so that a new tenant costs a rename.
-- 'building' rows name databases that may exist in any shape; only 'ready' ones are taken.
create table spares (
    id          uuid primary key,
    server_id   uuid not null references servers,
    digest      text not null,
    version     bigint not null,
    ready       boolean not null default false,
    claimed_by  uuid references operations,
    created_at  timestamptz not null default now()
);
create index spares_ready on spares (server_id, digest, created_at) where ready and claimed_by is null;
create unique index spares_claimed_key on spares (claimed_by);

-- Databases that a restore replaced, kept for a while in case the restore was the mistake.
create table retained_databases (
    database_name   text not null,
    server_id       uuid not null references servers,
    tenant_id       uuid not null references tenants,
    operation_id    uuid not null references operations,
    drop_after      timestamptz not null,
    primary key (server_id, database_name)
);

-- Tokens for the admin API. Only the SHA-256 of a token is kept: it has 256 random bits, so a
-- slow hash would add nothing.
create table admin_tokens (
    id              uuid primary key,
    name            text not null constraint admin_tokens_name_key unique,
    token_sha256    bytea not null constraint admin_tokens_token_key unique,
    scopes          text[] not null,
    created_at      timestamptz not null default now(),
    revoked_at      timestamptz
);

-- Facts about this catalog itself; for example the check value of the master key in use.
create table catalog_facts (
    name    text primary key,
    value   bytea not null
);

-- Template databases: one for each server and set of migration files. The row is written before the
-- database is made, and removed after it is dropped.
create table templates (
    server_id   uuid not null references servers,
    digest      text not null,
    version     bigint not null,
    ready       boolean not null default false,
    created_at  timestamptz not null default now(),
    primary key (server_id, digest)
);
