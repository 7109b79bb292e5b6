//! What has ended, and is removed once it is older than anybody looks: operations, rollouts, days of usage.
//!
//! Only what nothing leans on any more may go. What stays, however old it is:
//!
//! - what is queued or running, and all of a tenant that something is being done to, or that is stuck in that;
//! - what has failed, as somebody can try it again or give it up, and what it built may still be on a server. But
//!   backups, their pruning and migrations leave nothing there and come again by themselves, as often as the clock or
//!   a request says: the failed ones of these go;
//! - what a row elsewhere refers to: a kept database, a slug that is asked for, a spare, a mask, the last time that a
//!   tenant was brought up to date;
//! - the newest of each kind that somebody asked for of a tenant: by these, schedules know when it was its turn;
//! - the last word of those that suspended and resumed a tenant: by it, whoever is given up later knows that others
//!   have had their say since;
//! - the operations of a rollout that is there itself; and of rollouts those that are open, the newest, and the newest
//!   that reached a tenant, beside which files that were edited show.
//!
//! Of a tenant that is deleted only the last counts, and what refers to it.
//!
//! An idempotency key is forgotten with its operation. The audit log is not touched: it has who asked for each
//! operation and how that ended. Of a batch it has who asked for it, and what went wrong; that the others went well
//! stands in their operations alone. So of batches only those go whose trace is elsewhere too: migrations (in the
//! tenant's database), backups and drills of them (in `backups`, for as long as there is a backup to speak of), and
//! the resealing of these. Relocations, for one, stay.

use jiff::Timestamp;
use jiff::civil::Date;
use uuid::Uuid;

use super::{Catalog, CatalogError, execute, maybe};

/// Where the look at operations has come, from the oldest to the newest.
pub type Place = (Timestamp, Uuid);

/// What came of one look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pruned {
    /// How many operations were removed.
    pub removed: i64,
    /// The last one that was looked at: the next look goes on after it.
    pub last: Place,
}

/// Whether an operation `o` of the tenant `t` may go, but for its age.
const IS_OVER: &str = "
    o.state in ('succeeded', 'failed', 'cancelled')
    and t.state in ('active', 'suspended', 'deleted')
    and (o.batch_id is null or o.kind in ('migrate', 'backup', 'prune', 'drill', 'reseal_backups'))
    and (t.state = 'deleted'
         or (o.state <> 'failed' or o.kind in ('migrate', 'backup', 'prune'))
            and exists (select from operations n
                        where n.tenant_id = o.tenant_id and n.kind = o.kind and n.requested_by = o.requested_by
                          and (n.created_at, n.id) > (o.created_at, o.id))
            and (not o.memory ? 'word'
                 or exists (select from operations w
                            where w.tenant_id = o.tenant_id and w.kind in ('suspend', 'resume')
                              and w.state = 'succeeded'
                              and (w.memory -> 'word' ->> 'turn')::bigint
                                  > (o.memory -> 'word' ->> 'turn')::bigint)))
    and not exists (select from rollouts r where r.id = o.batch_id)
    and not exists (select from retained_databases r where r.operation_id = o.id)
    and not exists (select from tenant_slugs s where s.reserved_for = o.id)
    and not exists (select from spares s where s.claimed_by = o.id)
    and not exists (select from clone_masks m where m.operation_id = o.id)
    and not exists (select from catch_ups c where c.operation_id = o.id)";

impl Catalog {
    /// Looks at so many operations that were asked for before a moment, the oldest first, and removes those that
    /// ended before it too and that nothing leans on. `None` when there is none left to look at.
    pub async fn prune_operations(
        &self,
        before: Timestamp,
        after: Option<Place>,
        limit: i64,
    ) -> Result<Option<Pruned>, CatalogError> {
        let (after_at, after_id) = after.unwrap_or((Timestamp::UNIX_EPOCH, Uuid::nil()));
        // What is tried again meanwhile is looked at once more, and stays.
        let sql = format!(
            "-- history::prune_operations
             with looked as materialized (
                 select id, created_at from operations
                 where created_at < $1 and (created_at, id) > ($2, $3)
                 order by created_at, id limit $4
             ), gone as (
                 delete from operations o using looked l, tenants t
                 where o.id = l.id and t.id = o.tenant_id and o.finished_at < $1 and {IS_OVER}
                 returning o.id
             )
             select (select count(*) from gone), created_at, id
             from looked order by created_at desc, id desc limit 1"
        );
        let client = self.client().await?;
        let row = maybe(&client, &sql, &[&before, &after_at, &after_id, &limit]).await?;
        Ok(row.map(|row| Pruned { removed: row.get(0), last: (row.get(1), row.get(2)) }))
    }

    /// Removes the oldest rollout that ended before a moment and that nothing leans on, with its tenants and events.
    /// Its operations are like all others from then on. Says whether there was one.
    pub async fn prune_rollout(&self, before: Timestamp) -> Result<bool, CatalogError> {
        let removed = execute(
            &self.client().await?,
            "-- history::prune_rollout
             with old as materialized (
                 select r.id from rollouts r
                 where r.state in ('aborted', 'failed', 'succeeded') and r.finished_at < $1
                   and r.id <> (select id from rollouts order by created_at desc limit 1)
                   and r.id is distinct from (
                       select l.id from rollouts l
                       where exists (select from rollout_items i where i.rollout_id = l.id and i.state = 'succeeded')
                       order by l.created_at desc limit 1)
                   and not exists (select from operations o
                                   where o.batch_id = r.id and o.state in ('queued', 'running'))
                 order by r.created_at limit 1
                 for update
             ), tenants as (
                 delete from rollout_tenants i using old where i.rollout_id = old.id
             ), events as (
                 delete from rollout_events e using old where e.rollout_id = old.id
             )
             delete from rollouts r using old where r.id = old.id",
            &[&before],
        )
        .await?;
        Ok(removed > 0)
    }

    /// Removes so many of the oldest rows of usage of the days before this one. Returns how many there were.
    pub async fn prune_usage(&self, before: Date, limit: i64) -> Result<u64, CatalogError> {
        execute(
            &self.client().await?,
            "-- history::prune_usage
             delete from tenant_usage u
             using (select tenant_id, day from tenant_usage where day < $1 order by day limit $2) old
             where u.tenant_id = old.tenant_id and u.day = old.day",
            &[&before, &limit],
        )
        .await
    }
}
