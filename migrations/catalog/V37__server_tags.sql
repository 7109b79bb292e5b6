-- What a server is, in words of its operators: `{"disk": "nvme"}`. A tenant asks for tags in its settings
-- (`fleet.server_tags`), as it does for a region.
alter table servers
    add column tags jsonb not null default '{}' constraint servers_tags_form check (jsonb_typeof(tags) = 'object');
