-- shape::sample_data
-- Which operation has loaded the sample rows. Made when it is first needed, by the owner of everything; running it
-- again changes nothing.
create table if not exists tenantry.sample_data (operation uuid primary key);
revoke all on tenantry.sample_data from tenantry_app;
