-- What is known of a backup beyond its being there.
alter table backups
    -- Every byte of it was read, decrypted and compared with its manifest.
    add column verified_at timestamptz,
    -- A drill restored it and compared what came of it.
    add column proven_at timestamptz,
    -- How long that restore took: the recovery time achieved.
    add column proven_seconds double precision,
    -- Why it is not to be relied on; a drill that succeeds takes it back.
    add column problem text;

-- A drill is due by the clock, and what the last one was tells when it ran.
create index operations_drills on operations (created_at desc) where kind = 'drill';
