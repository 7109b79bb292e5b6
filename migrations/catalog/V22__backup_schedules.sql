-- How the tenants of a tier are backed up, where their own settings do not say it.
alter table tiers add column backup jsonb not null default '{}';

-- What shows later whether anything was written since a backup, as it was when the backup began; and until when
-- that was shown: a backup that is confirmed holds the data of that moment too.
alter table backups
    add column witness jsonb,
    add column confirmed_at timestamptz;
