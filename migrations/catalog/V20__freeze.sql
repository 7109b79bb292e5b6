-- How far tenants may be migrated, by whichever way, so that the program of before still understands all of
-- them. One row, or none where nothing is held back.
create table schema_freeze (
    is_only     boolean primary key default true constraint schema_freeze_only check (is_only),
    version     bigint not null,
    frozen_by   text not null,
    frozen_at   timestamptz not null default now()
);
