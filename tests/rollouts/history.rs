//! A long history over a fleet whose tenants have come by different ways and stand at different versions.

use futures_util::StreamExt as _;
use tenantry::catalog::rollouts::RolloutState;
use tenantry::operations::request::BackupChoice;
use tenantry::operations::rollouts::{RolloutPlan, Selection};
use tenantry::operations::upkeep;
use tenantry::operations::verify::DriftState;

use super::{complete, start};
use crate::harness::{BY, Fleet, product, slug};

/// Lets the directory have the files up to a version, and the repeatable ones with the last.
fn write(fleet: &Fleet, upto: usize) {
    let files = product::files();
    let versions = files.iter().filter(|(name, _)| name.starts_with('V')).count();
    for (number, (name, sql)) in files.iter().enumerate() {
        if number < upto || upto == versions {
            fleet.add_migration(name, sql);
        }
    }
}

/// Slow: a history of seventy files on six databases, some of them from a template of their own.
#[tokio::test]
async fn tenants_of_every_age_end_at_the_same_schema() {
    let fleet = Fleet::start().await;
    std::fs::remove_file(fleet.migrations.path().join("V1__boards.sql")).unwrap();
    let newest = product::files().iter().filter(|(name, _)| name.starts_with('V')).count();
    for (age, name) in [(1, "eldest"), (20, "elder"), (40, "old"), (newest - 1, "recent")] {
        write(&fleet, age);
        fleet.environment.reload_migrations().await.unwrap();
        fleet.create_tenant(name).await;
    }
    fleet.back_up("elder").await;
    write(&fleet, newest);

    let plan = RolloutPlan {
        canary: vec![Selection::Tenant(slug("recent"))],
        waves: vec![Selection::Share(50)],
        ..RolloutPlan::default()
    };
    let rollout = start(&fleet, &plan).await;
    let ended = complete(&fleet, &rollout).await;
    upkeep::tend(&fleet.environment).await.unwrap();
    fleet.create_tenant("cloned").await;
    let elder = slug("elder");
    let restore = fleet.environment.restore(&elder, BackupChoice::Latest, BY).await.unwrap();
    fleet.complete(&restore).await;

    assert_eq!(ended.state, RolloutState::Succeeded, "{:?}", ended.reason);
    let tenants = fleet.environment.to_verify(&[], None).await.unwrap();
    assert_eq!(tenants.len(), 5);
    let looks: Vec<_> = fleet.environment.verify(tenants, 2).collect().await;
    for look in looks {
        assert_eq!(look.state, DriftState::Clean, "{}: {:?}", look.slug, look.differences);
        assert_eq!(look.version, i64::try_from(newest).unwrap());
    }
    let mut counted = Vec::new();
    for name in ["eldest", "elder", "old", "recent", "cloned"] {
        let admin = fleet.admin(&format!("tenant_{name}")).await;
        let row = admin.query_one(&product::census(), &[]).await.unwrap();
        counted.push(row.get::<_, String>(0));
    }
    assert!(counted.iter().all(|census| *census == counted[0]), "{counted:#?}");
    let status = fleet.environment.fleet_status().await.unwrap();
    assert_eq!((status.current(), status.drifted(), status.unchecked()), (5, 0, 0));
    fleet.assert_healthy().await;
}
