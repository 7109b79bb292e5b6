-- Which operations read a backup: asked before it is removed.
create index operations_backup on operations ((input ->> 'backup')) where input ->> 'backup' is not null;
