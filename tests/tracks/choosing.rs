//! Which track a tenant is in, and when that may change.

use tenantry::catalog::audit_log::AuditFilter;
use tenantry::catalog::lock::{Claim, Claimant};

use super::*;

async fn set(fleet: &Fleet, name: &str, track: Option<&str>) -> Result<Tenant, String> {
    let track = track.map(label);
    let set = fleet.environment.set_track(&slug(name), track.as_ref(), "test").await;
    set.map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_tenant_comes_into_a_track_at_any_time_and_leaves_it_while_it_has_nothing_of_it() {
    let fleet = fleet().await;
    fleet.create_tenant("acme").await;

    set(&fleet, "acme", Some("silver")).await.unwrap();
    set(&fleet, "acme", Some("gold")).await.unwrap();
    set(&fleet, "acme", None).await.unwrap();
    set(&fleet, "acme", Some("gold")).await.unwrap();
    set(&fleet, "acme", Some("gold")).await.unwrap();
    let before = fleet.environment.fleet_status().await.unwrap();
    assert_eq!((standing(&fleet, "acme").await, before.behind()), (in_gold(1, 0), 1));
    assert_eq!(migrate(&fleet, "acme").await.state, OperationState::Succeeded);

    assert_eq!(standing(&fleet, "acme").await, in_gold(1, 1));
    for other in [Some("silver"), None] {
        let refused = set(&fleet, "acme", other).await.unwrap_err();
        assert!(refused.contains("has files of track gold already"), "{refused}");
    }
    assert_clean(&fleet, "acme").await;
    let filter = AuditFilter { limit: 100, ..AuditFilter::default() };
    let log = fleet.catalog().audit_log(&filter).await.unwrap();
    let changes: Vec<Value> = log
        .iter()
        .filter(|entry| entry.action == "track.changed")
        .map(|entry| entry.detail.clone())
        .collect();
    assert_eq!(changes.len(), 4, "what changes nothing is no news");
    assert!(changes.contains(&json!({ "before": "silver", "after": "gold" })), "{changes:?}");
}

#[tokio::test]
async fn a_track_whose_first_file_failed_may_be_left_again() {
    let fleet = fleet().await;
    fleet.create_tenant("acme").await;
    add(&fleet, "iron", "V1__typo.sql", "create tabel oops (id bigint)");
    fleet.environment.reload_migrations().await.unwrap();

    set(&fleet, "acme", Some("iron")).await.unwrap();
    let failed = migrate(&fleet, "acme").await;
    set(&fleet, "acme", Some("gold")).await.unwrap();
    let migrated = migrate(&fleet, "acme").await;

    assert!(failed.error.unwrap().message.contains("tracks/iron/V1__typo.sql:1"));
    assert_eq!(migrated.state, OperationState::Succeeded, "{:?}", migrated.error);
    assert_eq!(standing(&fleet, "acme").await, in_gold(1, 1));
    assert_clean(&fleet, "acme").await;
}

#[tokio::test]
async fn a_track_and_an_operation_of_the_tenant_wait_for_each_other() {
    let fleet = fleet().await;
    let acme = fleet.create_tenant("acme").await;
    let operation = fleet.environment.rotate_password(&slug("acme"), BY).await.unwrap();
    let claim = Claim::Operation(operation.id);

    let hold = fleet.catalog().try_hold(acme.id).await.unwrap().unwrap();
    let taken = fleet.runner().run_one(claim).await.unwrap();
    hold.end().await;
    let digest = fleet.environment.migrations().directory_digest();
    let claimant = Claimant { name: "worker", migrations_digest: &digest, reads_archives: false };
    let worker = fleet.catalog().claim(claim, claimant).await.unwrap().unwrap();
    let refused = set(&fleet, "acme", Some("gold")).await.unwrap_err();
    drop(worker);

    assert_eq!(taken, None, "nobody works on a tenant whose track is being changed");
    assert!(refused.contains("an operation of tenant acme is under way"), "{refused}");
    crate::harness::eventually("the worker's death is seen", async || {
        set(&fleet, "acme", Some("gold")).await.is_ok()
    })
    .await;
    fleet.catalog().release_all_abandoned().await.unwrap();
    fleet.complete(&operation).await;
    assert_eq!(standing(&fleet, "acme").await, in_gold(1, 0));
}

#[tokio::test]
async fn a_track_that_is_not_there_is_refused_with_those_that_are() {
    let fleet = fleet().await;
    fleet.create_tenant("acme").await;

    let unknown = set(&fleet, "acme", Some("platinum")).await.unwrap_err();
    let new = NewTenant { track: Some(label("platinum")), ..new_tenant("late") };
    let create = fleet.environment.create_tenant(&new, false, BY).await.unwrap_err().to_string();
    let gone = set(&fleet, "nobody", Some("gold")).await.unwrap_err();

    for refused in [unknown, create] {
        assert!(refused.contains("no track platinum; there are gold, silver"), "{refused}");
    }
    assert!(gone.contains("no tenant `nobody`"), "{gone}");
    assert!(fleet.catalog().tenant(&slug("late")).await.is_err());
    for hostile in
        ["../gold", "gold/../../x", "Gold", "a b", "x'; drop table tenants; --", "", "-a"]
    {
        assert!(Label::parse(hostile).is_err(), "{hostile}");
    }
    let catalog = fleet.admin("tenantry").await;
    let forged = "update tenants set track = '../gold' where slug = 'acme'";
    assert!(catalog.batch_execute(forged).await.is_err());
}
