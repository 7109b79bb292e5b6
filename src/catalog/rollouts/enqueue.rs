//! What a wave may have in the queue: asked for at each look of the leader, and after each operation that ends.

use deadpool_postgres::GenericClient;
use serde_json::Value;
use uuid::Uuid;

use super::super::{Catalog, CatalogError, execute};

/// What a wave's operations are enqueued with.
#[derive(Clone, Debug)]
pub struct Enqueue {
    /// The input of the migrations.
    pub migrate: Value,
    /// The input of the backups before them.
    pub backup: Value,
    /// The set of migration files that their worker needs.
    pub migrations_digest: String,
    /// At most so many that are not settled, over all servers.
    pub overall: Option<i64>,
    /// At most so many that are not settled, on one server.
    pub per_server: Option<i64>,
}

/// The statement that enqueues: who is `waiting`, and who of them is `due`. They are noted by an array: a join with
/// nobody knows how many would read all tenants of the rollout.
fn enqueue(waiting: &str, due: &str) -> String {
    format!(
        "-- rollouts::enqueue
         with lazy as materialized (
             select set_config('synchronous_commit', 'off', true)
         ), rollout as materialized (
             select r.* from lazy, rollouts r
             where r.id = $1 and r.state = 'running' and r.begun_at is not null for update of r
         ), open as (
             select t.server_id, count(*) as operations
             from operations o join tenants t on t.id = o.tenant_id
             where o.batch_id = $1 and o.state in ('queued', 'running')
               and t.state not in ('deleting', 'deleted')
             group by t.server_id
         ), waiting as ({waiting}), {due}, noted as (
             update rollout_tenants set asked = 'migration'
             where rollout_id = $1 and tenant_id = any (array(select tenant_id from due where backed_up))
         ), noted_first as (
             update rollout_tenants set asked = 'backup' where rollout_id = $1 and asked is null
               and tenant_id = any (array(select tenant_id from due where not backed_up))
         )
         insert into operations (id, tenant_id, kind, input, batch_id, migrations_digest, requested_by)
         select case when backed_up then operation_id else backup_id end, tenant_id,
                case when backed_up then 'migrate' else 'backup' end,
                case when backed_up then $2::jsonb else $3::jsonb end, $1,
                case when backed_up then $4::text end, (select requested_by from rollout)
         from due
         on conflict (id) do nothing"
    )
}

/// Tenants that something may be asked for, of those that are `like` this; the first ones in this `order`, so many.
fn waiting(like: &str, order: &str, limit: &str) -> String {
    format!(
        "select i.tenant_id, i.operation_id, i.backup_id, t.server_id, i.asked is null as is_first,
                i.backup_id is null or i.asked is not null as backed_up
         from rollout_tenants i
         join tenants t on t.id = i.tenant_id and t.state not in ('deleting', 'deleted')
         left join operations b on b.id = i.backup_id
         where i.rollout_id = $1 and {like} and i.wave <= (select wave from rollout)
           and i.asked is distinct from 'migration' and (i.asked is null or b.state = 'succeeded')
         order by {order}
         limit {limit}"
    )
}

impl Enqueue {
    /// See [`Catalog::enqueue_wave`].
    pub(in crate::catalog) async fn run(
        &self,
        client: &impl GenericClient,
        id: Uuid,
    ) -> Result<u64, CatalogError> {
        let Self { migrate, backup, migrations_digest, overall, per_server } = self;
        let Some(per_server) = per_server else {
            // Asked after each tenant of a fleet: it is planned anew each time, and this is half of the planning.
            let room = "case when $5::bigint is not null
                             then greatest($5 - (select coalesce(sum(operations), 0) from open), 0) end";
            let waiting = waiting("true", "(i.asked is null), i.tenant_id", room);
            let sql = enqueue(&waiting, "due as (select * from waiting)");
            return execute(client, &sql, &[&id, migrate, backup, migrations_digest, overall])
                .await;
        };
        // No more of any server than it has room for: whoever asks after a tenant has ended reads a few rows, and not
        // the fleet.
        let of_server =
            waiting("i.server_id = s.id", "i.wave, (i.asked is null), i.tenant_id", "s.room");
        let waiting = format!(
            "select w.* from (
                 select s.id, $6 - coalesce(o.operations, 0) as room
                 from servers s left join open o on o.server_id = s.id
             ) s cross join lateral ({of_server}) w where s.room > 0"
        );
        let due = "on_servers as (
                 select w.*, coalesce(o.operations, 0) + row_number() over (
                     partition by w.server_id order by w.is_first, w.tenant_id) as on_server
                 from waiting w left join open o on o.server_id = w.server_id
             ), numbered as (
                 select *, (select coalesce(sum(operations), 0) from open) + row_number() over (
                     order by is_first, on_server, tenant_id) as overall
                 from on_servers where on_server <= $6
             ), due as (
                 select * from numbered where $5::bigint is null or overall <= $5
             )";
        let sql = enqueue(&waiting, due);
        execute(client, &sql, &[&id, migrate, backup, migrations_digest, overall, per_server]).await
    }
}

impl Catalog {
    /// Enqueues what the wave under way may have in the queue now. Returns how many operations that were. Need not
    /// reach the disk: what is lost is enqueued again.
    pub async fn enqueue_wave(&self, id: Uuid, new: &Enqueue) -> Result<u64, CatalogError> {
        new.run(&self.client().await?, id).await
    }
}
