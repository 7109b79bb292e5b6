-- Tokens of some providers name a tenant by the name that people know it by: a look-up for each request of
-- theirs, which nobody remembers while there is no such tenant. A hash, as names may have any length.
create index tenants_name on tenants using hash (name) where state <> 'deleted';
