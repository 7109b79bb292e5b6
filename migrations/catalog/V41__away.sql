-- When a worker last found that a server does not answer. Nobody is placed on one that was away a moment ago.
alter table servers add column away_at timestamptz;
