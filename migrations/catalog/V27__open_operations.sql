-- What of a batch is not settled yet: asked after every operation of a rollout, and few at any time.
create index operations_open on operations (batch_id)
    where batch_id is not null and state in ('queued', 'running');
