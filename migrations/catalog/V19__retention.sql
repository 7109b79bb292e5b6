-- When a restore last showed that a backup is good, and how long that took from the first step to the last.
alter table backups
    add column proven_at timestamptz,
    add column proven_seconds float8;
