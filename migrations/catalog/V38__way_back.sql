-- What a relocation has left may follow the tenant's database, so that the tenant can go back and lose nothing.
alter table retained_databases
    -- The server of the database that it follows; it stays until nothing of that is left on either server.
    add column follows uuid references servers on delete set null,
    -- The fingerprint of the schema that both have.
    add column schema text,
    -- Why it follows no more, or never did.
    add column unfollowed text;

create index retained_databases_follow on retained_databases (tenant_id) where follows is not null;
