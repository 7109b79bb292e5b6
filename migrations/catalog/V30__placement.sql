-- Where servers stand, and whom they take. What a tenant asks for is in its settings.
alter table servers
    add column region       text
                            constraint servers_region_form check (region ~ '^[a-z0-9]([a-z0-9-]{0,48}[a-z0-9])?$'),
    -- Only tenants of this tier come there; null takes everybody.
    add column tier         text constraint servers_tier check (tier in ('shared', 'dedicated')),
    add column max_tenants  int constraint servers_max_tenants check (max_tenants between 1 and 1000000),
    -- Nobody comes there any more, and why; who is there stays.
    add column cordoned     text;
