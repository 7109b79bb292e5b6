//! [`TenantLock`]: proof that this worker, and no other, may change one tenant now.
//!
//! It is a PostgreSQL advisory lock on the tenant, held by one catalog session for as long as an
//! operation runs, together with the operation's lease token. Writes about the tenant go through that
//! session. A worker that dies takes its session and so its lock with it, which is how another worker
//! knows a second later that the operation is free; a worker that hangs keeps the lock, but loses the lease
//! when it expires, and whoever takes over ends the hanging session first. A worker that lives and has lost its
//! session drops its step within that second.

use std::sync::Mutex;
use std::time::Duration;

use deadpool_postgres::Object;
use futures_util::future;
use tokio::time::sleep;
use uuid::Uuid;

use super::operations::OperationRecord;
use super::{Catalog, CatalogError, execute, maybe, one, rows, tenants};
use crate::tenant::{SchemaState, Tenant};

/// How long a silent worker keeps an operation.
pub const LEASE: Duration = Duration::from_secs(20);

/// How long an operation is left alone whose worker has lost its lock: if it lives, it notices within that.
const GRACE: Duration = Duration::from_secs(1);

/// How often to ask for a chore that somebody is at.
const CHORE_PAUSE: Duration = Duration::from_millis(50);

/// The advisory lock of one tenant, and the lease on the operation that it was taken for.
pub struct TenantLock {
    session: Held,
    tenant: Uuid,
    operation: Uuid,
    token: Uuid,
    ceiling: Option<i64>,
    has_way_back: bool,
    /// What is to be written down with the operation's end.
    pub(super) schema: Mutex<Option<SchemaState>>,
}

/// Proof that no other replica does a certain chore now, or that no worker is at a certain tenant; that ends with this,
/// or a moment after it was dropped.
pub struct ChoreLock {
    session: Held,
}

/// A session that may hold a lock: closed, and so the lock is given back, unless it is kept in order.
pub(super) struct Held(Option<Object>);

/// An operation that a worker has taken.
pub struct Claimed {
    /// The operation.
    pub record: OperationRecord,
    /// Its tenant, as it is under the lock.
    pub tenant: Tenant,
    /// The tenant's lock.
    pub lock: TenantLock,
}

/// What a session has taken.
pub(super) struct Taken {
    record: OperationRecord,
    tenant: Tenant,
    token: Uuid,
    ceiling: Option<i64>,
    has_way_back: bool,
}

/// A worker that asks for operations.
#[derive(Clone, Copy, Debug)]
pub struct Claimant<'a> {
    /// Its name in `operation show`.
    pub name: &'a str,
    /// The digest of its migration files.
    pub migrations_digest: &'a str,
    /// Whether it can read a WAL archive.
    pub reads_archives: bool,
}

/// Which queued operation a worker asks for.
#[derive(Clone, Copy, Debug)]
pub enum Claim {
    /// The oldest that is due.
    Any,
    /// This one.
    Operation(Uuid),
    /// The oldest of this batch.
    Batch(Uuid),
}

impl Catalog {
    /// Takes a queued operation together with its tenant's lock; `None` when nothing is due.
    ///
    /// An operation that needs a set of migration files is taken only by a worker whose own set has
    /// the same digest; one that reads a WAL archive, only by a worker that can; an import that has not
    /// read its dump, only by whoever asks for it by its id. Those of a rollout that is paused stay where they are,
    /// and while one is open so do those that bring a tenant up to date without anybody asking.
    pub async fn claim(
        &self,
        claim: Claim,
        claimant: Claimant<'_>,
    ) -> Result<Option<Claimed>, CatalogError> {
        let session = self.session_to_lock().await?;
        let taken = session.take(claim, claimant).await?;
        Ok(session.into_claimed(taken).await)
    }

    /// Takes a chore, such as tending the templates of one server; `None` when a replica is at it.
    pub async fn try_chore(&self, name: &str) -> Result<Option<ChoreLock>, CatalogError> {
        let sql =
            "-- lock::try_chore\nselect pg_try_advisory_lock(hashtextextended('chore ' || $1, 1))";
        self.try_lock(sql, name).await
    }

    /// Keeps workers from a tenant, for something short that is no operation; `None` while one is at it.
    pub async fn try_hold(&self, tenant: Uuid) -> Result<Option<ChoreLock>, CatalogError> {
        let sql = "-- lock::try_hold\nselect pg_try_advisory_lock(hashtextextended($1, 0))";
        self.try_lock(sql, &tenant.to_string()).await
    }

    async fn try_lock(&self, sql: &str, name: &str) -> Result<Option<ChoreLock>, CatalogError> {
        let session = self.session_to_lock().await?;
        let taken = one(session.get()?, sql, &[&name]).await?;
        if taken.get(0) {
            return Ok(Some(ChoreLock { session }));
        }
        session.keep();
        Ok(None)
    }

    /// Takes a chore as soon as no other replica is at it.
    pub async fn await_chore(&self, name: &str) -> Result<ChoreLock, CatalogError> {
        loop {
            if let Some(lock) = self.try_chore(name).await? {
                return Ok(lock);
            }
            sleep(CHORE_PAUSE).await;
        }
    }

    /// Does a chore, which is free again when this returns; `None` when a replica is at it.
    pub async fn chore<T, E: From<CatalogError>>(
        &self,
        name: &str,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<Option<T>, E> {
        let Some(lock) = self.try_chore(name).await? else { return Ok(None) };
        let done = work.await;
        lock.end().await;
        done.map(Some)
    }

    async fn session_to_lock(&self) -> Result<Held, CatalogError> {
        let session = self.shared.locks.client().await.map_err(CatalogError::Unreachable)?;
        Ok(Held(Some(session)))
    }

    /// Puts operations back into the queue whose worker has died or gone silent, a moment after that was first
    /// seen, and ends the sessions of the silent ones. An import whose dump was with that worker is to be undone.
    /// Returns how many.
    pub async fn release_abandoned(&self) -> Result<u64, CatalogError> {
        self.look_for_abandoned().await.map(|(released, _)| released)
    }

    /// The same, and waits for those of which it has just been seen.
    pub async fn release_all_abandoned(&self) -> Result<(), CatalogError> {
        while self.look_for_abandoned().await?.1 > 0 {
            sleep(CHORE_PAUSE).await;
        }
        Ok(())
    }

    /// How many operations are back in the queue, and how many soon will be.
    async fn look_for_abandoned(&self) -> Result<(u64, i64), CatalogError> {
        let client = self.client().await?;
        let grace = GRACE.as_secs_f64();
        rows(
            &client,
            "-- operations::end_silent_workers
             update operations o set lease_until = now() + $1::float8 * interval '1 second'
             from pg_locks l
             where l.locktype = 'advisory' and l.objsubid = 1
               and l.database = (select oid from pg_database where datname = current_database())
               and ((l.classid::bigint << 32) | l.objid::bigint) = hashtextextended(o.tenant_id::text, 0)
               and o.state = 'running' and o.lease_until < now()
             returning pg_terminate_backend(l.pid)",
            &[&grace],
        )
        .await?;
        let orphaned = "o.state = 'running'
               and not exists (
                 select from pg_locks l
                 where l.locktype = 'advisory' and l.objsubid = 1
                   and l.database = (select oid from pg_database where datname = current_database())
                   and ((l.classid::bigint << 32) | l.objid::bigint)
                       = hashtextextended(o.tenant_id::text, 0))";
        let sql = format!(
            "-- operations::release_abandoned
             update operations o
             set state = 'queued', lease_token = null, lease_until = null, leased_by = null,
                 abandoning = o.abandoning or o.kind = 'import' and o.completed_steps = 0
             where {orphaned} and (o.lease_until < now()) is not false"
        );
        let released = execute(&client, &sql, &[]).await?;
        let sql = format!(
            "-- operations::miss_worker
             with missed as (
                 update operations o set lease_until = now() + $1::float8 * interval '1 second'
                 where {orphaned} and o.lease_until > now() + $1::float8 * interval '1 second'
             )
             select count(*) from operations o where {orphaned}"
        );
        let missed = one(&client, &sql, &[&grace]).await?.get(0);
        Ok((released, missed))
    }
}

impl TenantLock {
    /// The tenant that is locked.
    #[must_use]
    pub fn tenant(&self) -> Uuid {
        self.tenant
    }

    /// The operation that the lock was taken for.
    #[must_use]
    pub fn operation(&self) -> Uuid {
        self.operation
    }

    /// How far tenants may be migrated, as it was when the lock was taken.
    #[must_use]
    pub fn ceiling(&self) -> Option<i64> {
        self.ceiling
    }

    /// Whether the tenant had left a database that follows its own when the lock was taken.
    #[must_use]
    pub fn has_way_back(&self) -> bool {
        self.has_way_back
    }

    /// Whether the session that holds the lock is still there, as far as one knows.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.session().is_ok()
    }

    /// The lease token that writes about the operation must carry.
    pub(super) fn token(&self) -> Uuid {
        self.token
    }

    /// The session that holds the lock.
    pub(super) fn session(&self) -> Result<&Object, CatalogError> {
        self.session.get()
    }

    /// The same, to ask for the next operation with.
    pub(super) fn holder(&self) -> &Held {
        &self.session
    }

    /// Extends the lease by [`LEASE`].
    pub async fn renew(&self) -> Result<(), CatalogError> {
        let changed = execute(
            self.session()?,
            "-- operations::renew
             update operations set lease_until = now() + $3::float8 * interval '1 second'
             where id = $1 and lease_token = $2 and state = 'running'",
            &[&self.operation, &self.token, &LEASE.as_secs_f64()],
        )
        .await?;
        if changed == 1 { Ok(()) } else { Err(CatalogError::LostLock) }
    }

    /// The session alone; the lock must have been given back.
    pub(super) fn into_holder(self) -> Held {
        self.session
    }
}

impl ChoreLock {
    /// Gives the chore back, and the session.
    pub async fn end(self) {
        self.session.unlock().await;
    }
}

impl Held {
    /// Asks for an operation, and for its tenant under the lock, in one round trip.
    pub(super) async fn take(
        &self,
        claim: Claim,
        claimant: Claimant<'_>,
    ) -> Result<Option<Taken>, CatalogError> {
        let session = self.get()?;
        let token = Uuid::now_v7();
        let (operation, batch) = match claim {
            Claim::Any => (None, None),
            Claim::Operation(id) => (Some(id), None),
            Claim::Batch(id) => (None, Some(id)),
        };
        let Claimant { name, migrations_digest, reads_archives } = claimant;
        let (row, tenant) = future::join(
            maybe(
                session,
                "-- operations::claim
                 with candidate as (
                     select o.id, o.tenant_id
                     from operations o
                     where o.state = 'queued' and o.run_after <= now()
                       and ($4::uuid is null or o.id = $4)
                       and (o.kind <> 'import' or o.completed_steps > 0 or o.abandoning or o.id = $4)
                       and ($5::uuid is null or o.batch_id = $5)
                       and (o.migrations_digest is null or o.migrations_digest = $6)
                       and ($7 or o.kind not in ('restore_at', 'restore_at_as'))
                       and (o.batch_id = (select r.id from rollouts r where r.state = 'paused')) is not true
                       and (o.urgency = 0
                            or not exists (select from rollouts r where r.state in ('running', 'paused')))
                       and not exists (select from operations r
                                       where r.tenant_id = o.tenant_id and r.state = 'running')
                     order by o.urgency desc, o.created_at, o.id
                     limit 1
                     for update skip locked
                 )
                 update operations o
                 set state = 'running', lease_token = $1, lease_until = now() + $2::float8 * interval '1 second',
                     leased_by = $3, attempts = o.attempts + 1, started_at = coalesce(o.started_at, now())
                 from candidate c
                 where o.id = c.id and pg_try_advisory_lock(hashtextextended(c.tenant_id::text, 0))
                 returning o.*, (select version from schema_freeze) as ceiling,
                           exists (select from retained_databases r
                                   where r.tenant_id = o.tenant_id and r.follows is not null) as has_way_back",
                &[
                    &token,
                    &LEASE.as_secs_f64(),
                    &name,
                    &operation,
                    &batch,
                    &migrations_digest,
                    &reads_archives,
                ],
            ),
            tenants::claimed(session, token),
        )
        .await;
        let Some(row) = row? else { return Ok(None) };
        let record = OperationRecord::from_row(&row);
        let tenant = match tenant? {
            Some(tenant) => tenant,
            // Asked first, where only one of the two had still to be prepared.
            None => tenants::by_id(session, record.tenant_id).await?,
        };
        let (ceiling, has_way_back) = (row.get("ceiling"), row.get("has_way_back"));
        Ok(Some(Taken { record, tenant, token, ceiling, has_way_back }))
    }

    /// The lock of what was taken with this session. Of nothing it may hold the lock all the same.
    pub(super) async fn into_claimed(self, taken: Option<Taken>) -> Option<Claimed> {
        let Some(taken) = taken else {
            self.unlock().await;
            return None;
        };
        let Taken { record, tenant, token, ceiling, has_way_back } = taken;
        let lock = TenantLock {
            session: self,
            tenant: record.tenant_id,
            operation: record.id,
            token,
            ceiling,
            has_way_back,
            schema: Mutex::default(),
        };
        Some(Claimed { record, tenant, lock })
    }

    fn get(&self) -> Result<&Object, CatalogError> {
        self.0.as_ref().filter(|session| !session.is_closed()).ok_or(CatalogError::LostLock)
    }

    /// Gives back what it holds, and then itself.
    async fn unlock(self) {
        let Ok(session) = self.get() else { return };
        if execute(session, "select pg_advisory_unlock_all()", &[]).await.is_ok() {
            self.keep();
        }
    }

    /// Back to the pool; it must hold nothing any more.
    pub(super) fn keep(mut self) {
        drop(self.0.take());
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(session) = self.0.take() {
            drop(Object::take(session));
        }
    }
}
