-- Which repeatable migration files (views, functions) a tenant was last brought to: their digest, and
-- nothing where there is none. Beside the version, it says whether the tenant is behind.
alter table tenants add column repeatables_digest text not null default '';
