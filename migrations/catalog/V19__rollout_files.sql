-- The files that a rollout was planned with, by name and SHA-256, so that whoever has others can say which.
alter table rollouts add column migration_files jsonb not null default '{}';
