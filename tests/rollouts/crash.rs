//! `kill -9` of three workers at once, at moments spread by a fixed rule, over rollouts of forty tenants. Slow:
//! forty databases, and a start of three processes a round.

use std::process::Stdio;
use std::time::Duration;

use tenantry::catalog::rollouts::RolloutState;
use tenantry::operations::rollouts::{RolloutPlan, Selection};

use super::{complete, start};
use crate::harness::Fleet;
use crate::harness::process::{KillOnDrop, Moments, serve_command};

const TENANTS: usize = 40;
/// How often, unless `TENANTRY_CRASH_ROUNDS` says otherwise; `make soak` asks for a hundred.
const ROUNDS: usize = 14;

fn name(number: usize) -> String {
    format!("tenant-{number}")
}

/// Every file writes down that it ran; a file that ran twice has two rows.
fn add_file(fleet: &Fleet, version: usize) {
    let ledger = if version == 2 { "create table ledger (version bigint);" } else { "" };
    let sql = format!(
        "{ledger}\ncreate table step_{version} (id bigint);\ninsert into ledger values ({version});"
    );
    fleet.add_migration(&format!("V{version}__step.sql"), &sql);
}

#[expect(clippy::disallowed_methods, reason = "a knob of this test, not a setting of the product")]
fn rounds() -> usize {
    let rounds = std::env::var("TENANTRY_CRASH_ROUNDS");
    rounds.map_or(ROUNDS, |text| text.parse().expect("a whole number"))
}

fn worker(fleet: &Fleet) -> KillOnDrop {
    let mut command = serve_command(fleet, "worker");
    command.env("TENANTRY_WARM_SPARES", "0").env("TENANTRY_LOG_LEVEL", "off");
    KillOnDrop(command.stderr(Stdio::null()).spawn().unwrap())
}

#[tokio::test]
async fn killing_three_workers_at_once_runs_every_file_once() {
    let fleet = Fleet::start().await;
    for number in 0..TENANTS {
        fleet.create_tenant(&name(number)).await;
    }
    let rounds = rounds();
    let plan = RolloutPlan {
        canary: vec![Selection::Share(5)],
        waves: vec![Selection::Share(50)],
        ..RolloutPlan::default()
    };
    let mut version = 1;
    let mut current = None;
    let catalog = fleet.admin("tenantry").await;
    let migrated = "select count(*) from operations where kind = 'migrate' and state = 'succeeded'";
    let migrated = async || catalog.query_one(migrated, &[]).await.unwrap().get::<_, i64>(0);
    let mut moments = Moments::new(200, 1800);

    for round in 0..rounds {
        let open = match &current {
            None => false,
            Some(id) => {
                let found = fleet.catalog().rollout(*id).await.unwrap();
                assert_ne!(found.state, RolloutState::Failed, "{:?}", found.reason);
                assert_ne!(found.state, RolloutState::Paused, "{:?}", found.reason);
                found.state == RolloutState::Running
            }
        };
        if !open {
            for _ in 0..2 {
                version += 1;
                add_file(&fleet, version);
            }
            current = Some(start(&fleet, &plan).await.id);
        }
        let mut workers = [worker(&fleet), worker(&fleet), worker(&fleet)];
        // From before the first statement to the middle of a wave.
        tokio::time::sleep(moments.next(migrated().await)).await;
        for worker in &mut workers {
            worker.kill();
            tokio::time::sleep(Duration::from_millis((round as u64 * 31) % 60)).await;
        }
    }

    let migrated = migrated().await;
    let open = fleet.catalog().rollout(current.unwrap()).await.unwrap();
    if open.state == RolloutState::Running {
        let last = complete(&fleet, &open).await;
        assert_eq!(last.state, RolloutState::Succeeded, "{:?}", last.reason);
    }
    assert!(migrated > 0, "the workers got nowhere");
    let expected: Vec<i64> = (2..=i64::try_from(version).unwrap()).collect();
    for number in 0..TENANTS {
        let admin = fleet.admin(&format!("tenant_{}", name(number))).await;
        let rows = admin.query("select version from ledger order by version", &[]).await.unwrap();
        let ran: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
        assert_eq!(ran, expected, "{}", name(number));
        let tenant = fleet.tenant(&name(number)).await;
        assert_eq!(tenant.schema_version, *expected.last().unwrap());
    }
    fleet.assert_healthy().await;
}
