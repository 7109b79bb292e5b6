-- Pruning asks which backups a tenant is still to be made of.
create index operations_restore_as on operations (created_at) where kind = 'restore_as';
