-- What has ended is removed after a while, the oldest first.
create index operations_created on operations (created_at, id);

-- Whoever removes an operation asks what refers to it.
create index catch_ups_operation on catch_ups (operation_id);
create index retained_databases_operation on retained_databases (operation_id);
create index tenant_slugs_reserved_for on tenant_slugs (reserved_for) where reserved_for is not null;
