-- Servers that are emptied, and taken out.
alter table servers
    -- The batch of the relocations that empty it; nobody comes there meanwhile, nor afterwards.
    add column drain uuid constraint servers_drain_is_cordoned check (drain is null or cordoned is not null);

-- A tenant that is deleted outlives, for the record, the server that it was on.
alter table tenants
    alter column server_id drop not null,
    add constraint tenants_server_is_there check (server_id is not null or state = 'deleted');

-- What is done to the data of a clone before it opens. Not with the operation's parameters, which the audit log has:
-- it may be long, and is needed no longer than the operation.
create table clone_masks (
    operation_id uuid primary key references operations,
    sql          text not null
);

create function forget_clone_mask() returns trigger language plpgsql as $$
begin
    delete from clone_masks where operation_id = new.id;
    return null;
end
$$;

create trigger clone_is_settled after update of state on operations
    for each row when (new.kind = 'clone' and new.state in ('succeeded', 'cancelled'))
    execute function forget_clone_mask();
