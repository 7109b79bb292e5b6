-- Sample rows for `tenantry tenant create --sample-data` (`TENANTRY_TENANT_SAMPLE_DATA`).
insert into boards (title) values ('Welcome'), ('Roadmap'), ('Support');
insert into cards (board_id, title)
select b.id, b.title || ' card ' || n from boards b cross join generate_series(1, 4) n;
