-- How long each migration file took when a template was built of them, in milliseconds by the file's name: what
-- a file costs where there are no rows. Null where the template was made before this was kept.
alter table templates add column timings jsonb;
