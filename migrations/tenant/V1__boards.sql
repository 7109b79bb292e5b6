-- The example application: boards with cards. Replace this directory by your own
-- (`TENANTRY_TENANT_MIGRATIONS_DIR`); every tenant database gets every file, in order.
create table boards (
    id          bigint generated always as identity primary key,
    title       text not null,
    created_at  timestamptz not null default now()
);

create table cards (
    id          bigint generated always as identity primary key,
    board_id    bigint not null references boards on delete cascade,
    title       text not null,
    done        boolean not null default false,
    created_at  timestamptz not null default now()
);
create index cards_board on cards (board_id);
