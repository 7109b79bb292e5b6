-- journal::prepare_track
-- Which files of a track a database has. Made when it gets the first of them, by its owner; running it again
-- changes nothing. A database has at most one track; each row says which.
create table if not exists tenantry.track_history (
    version int8 primary key,
    name varchar(255),
    applied_on varchar(255),
    checksum varchar(255),
    track text not null
);
alter table tenantry.track_history owner to tenantry_owner;
revoke all on tenantry.track_history from tenantry_app;
