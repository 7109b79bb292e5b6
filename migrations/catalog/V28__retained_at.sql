-- Since when a replaced database is kept. An operation that failed may be retried after later ones, so the order
-- in which restores were asked for is not that in which they replaced anything.
alter table retained_databases add column retained_at timestamptz not null default now();
