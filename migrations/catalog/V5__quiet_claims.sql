-- Nobody waits for a worker to take an operation, and a notification is a lock that all commits share.
drop trigger operation_changed on operations;
create trigger operation_changed after update on operations
    for each row when (old.state is distinct from new.state and new.state <> 'running')
    execute function operation_changed();
