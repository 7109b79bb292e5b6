//! Rows of `tenant_usage`: what each tenant used on each day.
//!
//! Replicas count for themselves and add what they have counted, so nothing is counted twice that several of them
//! serve. A note that nobody heard the arrival of is sent again under the same number, and added once.

use std::time::SystemTime;

use jiff::Timestamp;
use jiff::civil::Date;
use serde::Serialize;
use tokio_postgres::Row;
use utoipa::ToSchema;
use uuid::Uuid;

use super::slugs::LEADS_TO;
use super::{Catalog, CatalogError, execute, one, rows};
use crate::tenant::TenantSlug;

/// What one tenant used on one day.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Usage {
    /// The day, in UTC.
    #[schema(value_type = String, format = Date)]
    pub day: Date,
    /// The tenant's slug as it is now.
    #[schema(value_type = String)]
    pub tenant_slug: TenantSlug,
    /// The tenant.
    pub tenant_id: Uuid,
    /// The size of its database when it was last looked at on that day.
    pub database_bytes: Option<i64>,
    /// The largest size that was seen on that day.
    pub largest_database_bytes: Option<i64>,
    /// When it was last looked at.
    pub sized_at: Option<Timestamp>,
    /// Connections times the seconds that they were open, in use or idle.
    pub connection_seconds: f64,
    /// Sessions times the seconds in which they ran statements, whoever ran them, as the server counts them.
    pub active_seconds: f64,
    /// Statements that ran, of applications and of SQL over HTTP.
    pub queries: i64,
    /// Rows in answers of SQL over HTTP.
    pub sql_rows: i64,
    /// Bytes of answers of SQL over HTTP.
    pub sql_bytes: i64,
    /// Backups that were taken.
    pub backups: i64,
    /// Bytes of these backups, as they lie in the bucket.
    pub backup_bytes: i64,
}

/// Which days of which tenants to list: the newest day first, and within it by tenant.
#[derive(Clone, Debug, Default)]
pub struct UsageFilter {
    /// Of this tenant.
    pub tenant: Option<TenantSlug>,
    /// From this day on.
    pub from: Option<Date>,
    /// To this day, and with it.
    pub to: Option<Date>,
    /// After this tenant's of this day, for the next page.
    pub after: Option<(Date, Uuid)>,
    /// At most this many.
    pub limit: i64,
}

/// What a replica has counted for one tenant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Counted {
    /// The tenant.
    pub tenant: Uuid,
    /// Statements.
    pub queries: i64,
    /// Connections times the seconds that they were open.
    pub connection_seconds: f64,
    /// Rows in answers of SQL over HTTP.
    pub sql_rows: i64,
    /// Bytes of these answers.
    pub sql_bytes: i64,
}

/// What the database of a tenant takes of its server.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// The tenant.
    pub tenant: Uuid,
    /// The database, as its server numbers them.
    pub oid: u32,
    /// Its size.
    pub bytes: i64,
    /// When the server was last told to count anew.
    pub counted_since: Option<SystemTime>,
    /// How many seconds sessions have run statements in it since the server began to count.
    pub active_seconds: f64,
}

impl Catalog {
    /// What tenants used, one page.
    pub async fn usage(&self, filter: &UsageFilter) -> Result<Vec<Usage>, CatalogError> {
        let sql = format!(
            "-- usage::list
             select u.*, t.slug from tenant_usage u join tenants t on t.id = u.tenant_id
             where ($1::text is null or t.slug = $1 or t.id = {LEADS_TO})
               and ($2::date is null or u.day >= $2) and ($3::date is null or u.day <= $3)
               and ($4::date is null or u.day < $4 or u.day = $4 and u.tenant_id > $5)
             order by u.day desc, u.tenant_id limit $6"
        );
        let found = rows(
            &self.client().await?,
            &sql,
            &[
                &filter.tenant.as_ref().map(TenantSlug::as_str),
                &filter.from,
                &filter.to,
                &filter.after.map(|(day, _)| day),
                &filter.after.map(|(_, tenant)| tenant),
                &filter.limit,
            ],
        )
        .await?;
        found.iter().map(from_row).collect()
    }

    /// Adds what a replica has counted on a day, unless the note with this number has come before. Notes of one
    /// replica have rising numbers.
    pub async fn add_usage(
        &self,
        replica: Uuid,
        number: i64,
        day: Date,
        counted: &[Counted],
    ) -> Result<(), CatalogError> {
        let tenants: Vec<Uuid> = counted.iter().map(|one| one.tenant).collect();
        let queries: Vec<i64> = counted.iter().map(|one| one.queries).collect();
        let seconds: Vec<f64> = counted.iter().map(|one| one.connection_seconds).collect();
        let sql_rows: Vec<i64> = counted.iter().map(|one| one.sql_rows).collect();
        let sql_bytes: Vec<i64> = counted.iter().map(|one| one.sql_bytes).collect();
        execute(
            &self.client().await?,
            // In the order of the tenants, so that two replicas never wait for each other.
            "-- usage::add
             with note as (
                 insert into usage_notes as known (replica, number) values ($1, $2)
                 on conflict (replica) do update set number = excluded.number, at = now()
                 where known.number < excluded.number
                 returning number
             )
             insert into tenant_usage as u (tenant_id, day, queries, connection_seconds, sql_rows, sql_bytes)
             select t.id, $3, c.queries, c.seconds, c.sql_rows, c.sql_bytes
             from unnest($4::uuid[], $5::bigint[], $6::float8[], $7::bigint[], $8::bigint[])
                  as c (tenant, queries, seconds, sql_rows, sql_bytes)
             join tenants t on t.id = c.tenant
             where exists (select from note)
             order by t.id
             on conflict (tenant_id, day) do update
             set queries = u.queries + excluded.queries,
                 connection_seconds = u.connection_seconds + excluded.connection_seconds,
                 sql_rows = u.sql_rows + excluded.sql_rows,
                 sql_bytes = u.sql_bytes + excluded.sql_bytes",
            &[&replica, &number, &day, &tenants, &queries, &seconds, &sql_rows, &sql_bytes],
        )
        .await
        .map(drop)
    }

    /// Whether nobody has looked at the sizes of databases for this long.
    pub async fn sizes_due(&self, seconds: f64) -> Result<bool, CatalogError> {
        let row = one(
            &self.client().await?,
            "-- usage::sizes_due
             select not exists (
                 select from tenant_usage
                 where day >= (now() at time zone 'utc')::date - 1
                   and sized_at > now() - $1::float8 * interval '1 second') as due",
            &[&seconds],
        )
        .await?;
        Ok(row.get("due"))
    }

    /// Writes down how large the databases on a server are now, and how long they have been at work since the last
    /// look. Of a database that is seen for the first time nobody knows when it was.
    pub async fn record_measured(
        &self,
        server: Uuid,
        measured: &[Measured],
    ) -> Result<(), CatalogError> {
        let tenants: Vec<Uuid> = measured.iter().map(|one| one.tenant).collect();
        let oids: Vec<u32> = measured.iter().map(|one| one.oid).collect();
        let bytes: Vec<i64> = measured.iter().map(|one| one.bytes).collect();
        let since: Vec<_> = measured.iter().map(|one| one.counted_since).collect();
        let active: Vec<f64> = measured.iter().map(|one| one.active_seconds).collect();
        execute(
            &self.client().await?,
            // A server that counts less than it did has begun anew too, as after a crash.
            "-- usage::record_measured
             with seen as (
                 select t.id, s.*
                 from unnest($1::uuid[], $2::oid[], $3::bigint[], $4::timestamptz[], $5::float8[])
                      as s (tenant, database_oid, bytes, counted_since, active)
                 join tenants t on t.id = s.tenant
             ), since as (
                 select s.*, case when m.active_seconds is null then 0
                                  when m.counted_since is distinct from s.counted_since
                                    or m.active_seconds > s.active then s.active
                                  else s.active - m.active_seconds end as more
                 from seen s left join usage_marks m
                   on m.tenant_id = s.id and m.server_id = $6 and m.database_oid = s.database_oid
             ), marked as (
                 insert into usage_marks (tenant_id, server_id, database_oid, counted_since, active_seconds)
                 select id, $6, database_oid, counted_since, active from seen order by id
                 on conflict (tenant_id) do update
                 set server_id = excluded.server_id, database_oid = excluded.database_oid,
                     counted_since = excluded.counted_since, active_seconds = excluded.active_seconds
             )
             insert into tenant_usage as u
                 (tenant_id, day, database_bytes, largest_database_bytes, sized_at, active_seconds)
             select id, (now() at time zone 'utc')::date, bytes, bytes, now(), more from since order by id
             on conflict (tenant_id, day) do update
             set database_bytes = excluded.database_bytes, sized_at = excluded.sized_at,
                 largest_database_bytes = greatest(u.largest_database_bytes, excluded.largest_database_bytes),
                 active_seconds = u.active_seconds + excluded.active_seconds",
            &[&tenants, &oids, &bytes, &since, &active, &server],
        )
        .await
        .map(drop)
    }

    /// Forgets the notes of replicas that have not been heard of for a week.
    pub async fn forget_usage_notes(&self) -> Result<(), CatalogError> {
        execute(
            &self.client().await?,
            "-- usage::forget_notes\ndelete from usage_notes where at < now() - interval '7 days'",
            &[],
        )
        .await
        .map(drop)
    }
}

fn from_row(row: &Row) -> Result<Usage, CatalogError> {
    Ok(Usage {
        day: row.get("day"),
        tenant_slug: super::tenants::slug_of(row)?,
        tenant_id: row.get("tenant_id"),
        database_bytes: row.get("database_bytes"),
        largest_database_bytes: row.get("largest_database_bytes"),
        sized_at: row.get("sized_at"),
        connection_seconds: row.get("connection_seconds"),
        active_seconds: row.get("active_seconds"),
        queries: row.get("queries"),
        sql_rows: row.get("sql_rows"),
        sql_bytes: row.get("sql_bytes"),
        backups: row.get("backups"),
        backup_bytes: row.get("backup_bytes"),
    })
}
