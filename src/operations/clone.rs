//! A clone: another tenant, with the data that one had at a moment. Its id, its role and password, its keys and its
//! stamp are its own, and nobody is a member of it.
//!
//! The data is copied from one snapshot while the original is served as ever, to the same server or to another. A
//! copy by `create database … template` would be quicker, but it takes a database without sessions: the original's
//! requests would wait for it. Whoever must not see the data as it is gives SQL that masks it, which runs before
//! anybody can enter. A clone that was to be masked never opens unmasked.

use aws_lc_rs::digest::{SHA256, digest};
use futures_util::FutureExt as _;
use tenantry_backup::{CopyEnd, TableRows, copy_database};
use tenantry_provisioning::{Connection, Error, Server, check_mask, current_version};
use uuid::Uuid;

use super::backup::{count_rows, open_snapshot};
use super::request::{CloneAs, Requester};
use super::restore_at::table_bytes;
use super::transfer::watched;
use super::{Environment, Plan, Step, StepContext, StepError, Work, delete, restore};
use crate::catalog::CatalogError;
use crate::catalog::operations::OperationRecord;
use crate::catalog::tenants::NewTenant;
use crate::tenant::{Tenant, TenantSlug, TenantState};

pub(super) const PLAN: Plan = Plan {
    steps: &[
        Step::new("copy_beside", |cx| restore::unless_there(cx, copy_beside(cx).boxed()).boxed()),
        Step::new("mask", |cx| restore::unless_there(cx, mask(cx).boxed()).boxed()),
        Step::new("migrate_beside", |cx| {
            restore::unless_there(cx, restore::migrate_beside(cx).boxed()).boxed()
        }),
        Step::new("take_possession", |cx| restore::take_possession(cx).boxed()),
        Step::new("activate", |cx| restore::activate(cx).boxed()),
    ],
    abandon: delete::STEPS,
    no_return: 5,
};

/// How far the masking is: `begun` may be done or not.
const MASKING: &str = "masking";
/// Most bytes of masking SQL.
const MAX_MASK_BYTES: usize = 256 * 1024;

impl Environment {
    /// Makes another tenant of what one has now. Its settings go along, but for those that say who may enter, and
    /// whose backups must stay.
    pub async fn clone_tenant(
        &self,
        slug: &TenantSlug,
        to: CloneAs,
        by: Requester<'_>,
    ) -> Result<OperationRecord, CatalogError> {
        if let Some(earlier) = self.earlier(by, "clone").await? {
            return Ok(earlier);
        }
        if let Some(mask) = &to.mask {
            require_mask(mask)?;
        }
        let original = self.settled(slug).await?;
        let mut settings = original.settings.for_clone();
        if let Some(tags) = to.tags {
            let mut fleet = settings.fleet().cloned().unwrap_or_default();
            fleet.tags = tags;
            settings.set_fleet(fleet);
        }
        let new = NewTenant {
            name: to.name.unwrap_or_else(|| to.slug.to_string()),
            slug: to.slug,
            tier: original.tier,
            settings,
            server: to.server,
            track: original.track_name().cloned(),
        };
        if let Some(track) = &new.track {
            self.require_track(track)?;
        }
        let id = Uuid::now_v7();
        let work = Work::Clone { of: original.id, mask: to.mask.as_deref().map(sha256) };
        let operation = by.operation(&work, id);
        let asked = self.catalog.create_clone(id, &new, to.mask.as_deref(), &operation).await;
        self.or_earlier(asked, by).await
    }
}

async fn copy_beside(cx: &StepContext<'_>) -> Result<(), StepError> {
    let original = original(cx).await?;
    let copied = copy(cx, &original).await;
    if copied.is_err() && self::original(cx).await?.generation != original.generation {
        return Err(moving(&original));
    }
    copied
}

/// Copies what the original has at one moment into the operation's build, and compares the two.
async fn copy(cx: &StepContext<'_>, original: &Tenant) -> Result<(), StepError> {
    let source = cx.environment.server(original.server_id).await?;
    let target = cx.server().await?;
    require_new_enough(&source, &target).await?;
    let session = source.connect(&original.database).await?;
    require_stamp(&session, original).await?;
    let lock_timeout = cx.environment.limits.migration_timeouts.lock;
    let snapshot = open_snapshot(&session, lock_timeout).await?.id;
    // Looking locks the tables against DDL, and `pg_dump` has locks of its own, which end with it.
    session.batch_execute("savepoint looked").await.map_err(Error::from)?;
    let tables = count_rows(&session).await?;
    let total_bytes = table_bytes(&session).await?;
    let version = current_version(&session).await?;
    session.batch_execute("rollback to savepoint looked").await.map_err(Error::from)?;

    let from = source.url().with_database(original.database.as_str()).libpq_env();
    let attempt = || {
        async {
            let (from_tools, _) = cx.environment.tools(&source).await?;
            let (to_tools, _) = cx.environment.tools(&target).await?;
            let to = restore::empty_build(cx, &target).await?;
            let _turn = cx.environment.turn().await;
            let from = CopyEnd { tools: &from_tools, libpq_env: &from };
            let to = CopyEnd { tools: &to_tools, libpq_env: &to };
            watched(cx, total_bytes, |progress| copy_database(from, to, Some(&snapshot), progress))
                .await
        }
        .boxed()
    };
    restore::with_lent_roles(cx, &target, attempt).await?;
    compare(cx, &target, &tables, version).await
}

/// The other tenant, while it is where the catalog says.
async fn original(cx: &StepContext<'_>) -> Result<Tenant, StepError> {
    let Work::Clone { of, .. } = cx.work else { unreachable!("only a clone has these steps") };
    let original = cx.environment.catalog.tenant_by_id(*of).await?;
    match original.state {
        state if state.is_settled() => Ok(original),
        TenantState::Deleting | TenantState::Deleted => Err(StepError::fail(
            format!("tenant `{}` has been deleted", original.slug),
            "give the clone up (`tenantry operation cancel`)",
        )),
        _ => Err(moving(&original)),
    }
}

fn moving(original: &Tenant) -> StepError {
    let what = format!("tenant `{}` is being moved or changed", original.slug);
    StepError::Retry(what.into(), Some("wait until its operation has ended, then retry".to_owned()))
}

async fn require_new_enough(source: &Server, target: &Server) -> Result<(), StepError> {
    let (here, there) = (source.facts().await?, target.facts().await?);
    if there.major >= here.major {
        return Ok(());
    }
    Err(StepError::fail(
        format!(
            "the original is on PostgreSQL {}, and the server of the clone is PostgreSQL {}",
            here.version, there.version
        ),
        "give the clone up (`tenantry operation cancel`), and choose a server of the same or a newer major version",
    ))
}

/// Whoever is found under the name must be who is meant.
async fn require_stamp(session: &Connection, original: &Tenant) -> Result<(), StepError> {
    let sql = "-- clone::stamp\nselect pg_catalog.current_setting('tenantry.tenant', true)";
    let stamp = session.query_one(sql, &[]).await.map_err(Error::from)?;
    if stamp.get::<_, Option<&str>>(0) == Some(&*format!("{}:{}", original.id, original.epoch)) {
        return Ok(());
    }
    Err(StepError::fail(
        format!("the database `{}` does not carry the stamp of its tenant", original.database),
        "see what `tenantry doctor` says of it, then retry",
    ))
}

async fn compare(
    cx: &StepContext<'_>,
    target: &Server,
    tables: &[TableRows],
    version: i64,
) -> Result<(), StepError> {
    let session = target.connect(&cx.build()).await?;
    let difference = match restore::difference(tables, &count_rows(&session).await?) {
        None if current_version(&session).await? == version => return Ok(()),
        None => "its schema version".to_owned(),
        Some(table) => table,
    };
    Err(StepError::fail(
        format!("the copy differs from the original in {difference}"),
        "retry, and report this if it comes back; the original is untouched",
    ))
}

/// Runs the masking SQL, once: of one that was cut off nobody can tell whether it was done, so the data is copied anew.
async fn mask(cx: &StepContext<'_>) -> Result<(), StepError> {
    let Work::Clone { mask: Some(wanted), .. } = cx.work else { return Ok(()) };
    match cx.recall::<String>(MASKING)?.as_deref() {
        Some("done") => return Ok(()),
        Some(_) => copy_beside(cx).await?,
        None => {}
    }
    let sql = cx.environment.catalog.clone_mask(cx.operation.id).await?;
    let sql = sql.filter(|sql| sha256(sql) == *wanted).ok_or_else(|| {
        StepError::fail(
            "the catalog has no longer the SQL that was to mask the data",
            "give the clone up (`tenantry operation cancel`), and clone again",
        )
    })?;
    cx.remember(MASKING, &"begun").await?;
    let server = cx.server().await?;
    let owner = cx.owner();
    let timeouts = cx.environment.limits.migration_timeouts;
    let build = cx.build();
    server.mask(&build, &cx.tenant.role, owner, &sql, timeouts).await?;
    cx.remember(MASKING, &"done").await
}

/// Refuses at once what could only fail.
fn require_mask(sql: &str) -> Result<(), CatalogError> {
    if sql.len() > MAX_MASK_BYTES || sql.contains('\0') {
        return Err(CatalogError::Conflict(format!(
            "masking SQL has at most {MAX_MASK_BYTES} bytes, and none of them is NUL; make it shorter"
        )));
    }
    check_mask(sql).map_err(|error| CatalogError::Conflict(format!("{error}; take that out of it")))
}

fn sha256(text: &str) -> String {
    hex::encode(digest(&SHA256, text.as_bytes()))
}
