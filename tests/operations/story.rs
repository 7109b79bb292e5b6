//! [`Story`]: what leads up to an operation of a kind, told once; a test of one of its steps begins with a copy.

use std::collections::BTreeMap;

use tenantry::catalog::operations::{OperationFilter, OperationRecord};
use tenantry::operations::drills::DrillChoice;
use tenantry::operations::request::{BackupChoice, CloneAs, RestoreAs};
use tenantry::operations::{Plan, Work};
use tokio::sync::{Mutex, OnceCell};
use uuid::Uuid;

use crate::harness::prepared::Prepared;
use crate::harness::{BY, Fleet, Options, clone_as, new_tenant, slug};

type Inventory = BTreeMap<&'static str, Vec<String>>;

/// What comes before an operation of a kind, and what an undisturbed run makes of it.
pub struct Story {
    asked: Uuid,
    prepared: Prepared,
    pub plan: &'static Plan,
    pub before: Inventory,
    pub after: Inventory,
}

impl Story {
    /// Found out once for each kind, and kept for as long as the process lives.
    pub async fn of(kind: &'static str) -> &'static Self {
        static KNOWN: Mutex<BTreeMap<&str, &OnceCell<Story>>> = Mutex::const_new(BTreeMap::new());

        let story: &'static OnceCell<Self> =
            KNOWN.lock().await.entry(kind).or_insert_with(|| Box::leak(Box::default()));
        story.get_or_init(|| Self::find_out(kind)).await
    }

    async fn find_out(kind: &'static str) -> Self {
        let fleet = fleet_for(kind).await;
        let operation = ask(&fleet, kind).await;
        let plan = Work::of(&operation).unwrap().plan();
        let before = fleet.inventory().await;
        let prepared = Prepared::of(fleet).await;
        let fleet = prepared.fleet().await;
        fleet.complete(&operation).await;
        fleet.assert_healthy().await;
        Self { asked: operation.id, prepared, plan, before, after: fleet.inventory().await }
    }

    /// A fleet at the moment before the operation, which has been asked for.
    pub async fn begin(&self) -> (Fleet, OperationRecord) {
        let fleet = self.prepared.fleet().await;
        let operation = fleet.catalog().operation(self.asked).await.unwrap();
        (fleet, operation)
    }
}

pub async fn fleet_for(kind: &str) -> Fleet {
    let spares = usize::from(kind == "provision");
    Fleet::start_with(Options { spares, ..Options::default() }).await
}

/// Brings a fleet to the moment before the operation, and asks for it.
pub async fn ask(fleet: &Fleet, kind: &str) -> OperationRecord {
    let environment = &fleet.environment;
    if kind.starts_with("provision") {
        return environment.create_tenant(&new_tenant("acme"), true, BY).await.unwrap();
    }
    if kind == "adopt" {
        return crate::adoption::story::ask(fleet).await;
    }
    fleet.create_tenant_with("acme", true).await;
    let acme = slug("acme");
    match kind {
        "migrate" => {
            fleet.add_migration("V2__labels.sql", "create table labels (id bigint primary key);");
            environment.reload_migrations().await.unwrap();
            let batch = environment.migrate_fleet(&[], "test").await.unwrap();
            let filter = OperationFilter { batch: Some(batch), limit: 2, ..Default::default() };
            fleet.catalog().operations(&filter).await.unwrap().remove(0).0
        }
        "baseline" => {
            let admin = fleet.admin("tenant_acme").await;
            admin.batch_execute("drop schema tenantry cascade").await.unwrap();
            environment.baseline(&acme, None, None, BY).await.unwrap()
        }
        "backup" => environment.back_up(&acme, BY).await.unwrap(),
        "restore" => {
            fleet.back_up("acme").await;
            fleet.admin("tenant_acme").await.batch_execute("delete from cards").await.unwrap();
            environment.restore(&acme, BackupChoice::Latest, BY).await.unwrap()
        }
        "restore_as" => {
            fleet.back_up("acme").await;
            let to = RestoreAs { slug: slug("globex"), server: None };
            environment.restore_as(&acme, BackupChoice::Latest, to, BY).await.unwrap()
        }
        "undo_restore" => {
            fleet.back_up("acme").await;
            let restore = environment.restore(&acme, BackupChoice::Latest, BY).await.unwrap();
            fleet.complete(&restore).await;
            environment.undo_restore(&acme, BY).await.unwrap()
        }
        "restore_table" => {
            fleet.back_up("acme").await;
            environment.restore_table(&acme, BackupChoice::Latest, "boards", BY).await.unwrap()
        }
        "clone" => {
            // Done twice, or not at all, the mask would show.
            let mask = "update boards set title = title || '!'".to_owned();
            let to = CloneAs { mask: Some(mask), ..clone_as("globex") };
            environment.clone_tenant(&acme, to, BY).await.unwrap()
        }
        "drill" => {
            fleet.back_up("acme").await;
            let batch = environment.drill(DrillChoice::Of(&[acme]), "test").await.unwrap();
            let filter = OperationFilter { batch: Some(batch), limit: 1, ..Default::default() };
            fleet.catalog().operations(&filter).await.unwrap().remove(0).0
        }
        "suspend" => environment.suspend(&acme, None, BY).await.unwrap(),
        "resume" => {
            let suspend = environment.suspend(&acme, None, BY).await.unwrap();
            fleet.complete(&suspend).await;
            environment.resume(&acme, BY).await.unwrap()
        }
        "rotate_password" => environment.rotate_password(&acme, BY).await.unwrap(),
        "rotate_backup_key" => environment.rotate_backup_key(&acme, BY).await.unwrap(),
        "reseal_backups" => {
            fleet.back_up("acme").await;
            let catalog = fleet.admin("tenantry").await;
            catalog.batch_execute("update backups set key_id = null").await.unwrap();
            let batch = environment.reseal_backups("test").await.unwrap();
            let filter = tenantry::catalog::operations::OperationFilter {
                batch,
                limit: 2,
                ..Default::default()
            };
            fleet.catalog().operations(&filter).await.unwrap().remove(0).0
        }
        "destroy_backup_keys" => {
            fleet.back_up("acme").await;
            environment.destroy_backup_keys(&acme, BY).await.unwrap()
        }
        "erase" => {
            fleet.back_up("acme").await;
            environment.erase(&acme, BY).await.unwrap()
        }
        "rename" => environment.rename(&acme, &slug("initech"), BY).await.unwrap(),
        "delete" => {
            fleet.back_up("acme").await;
            environment.delete(&acme, false, BY).await.unwrap()
        }
        other => panic!("no story leads to {other}"),
    }
}
