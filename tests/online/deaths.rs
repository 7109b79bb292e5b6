//! `kill -9` of a real worker process in the middle of a move, at one moment after the other.

use std::process::Stdio;
use std::time::Duration;

use tenantry::catalog::operations::{OperationRecord, OperationState};
use tenantry::operations::upkeep;
use tenantry::router::{RouterSettings, TenantRouter};

use super::{Two, Writers};
use crate::harness::process::{KillOnDrop, Moments, serve_command};
use crate::harness::router_settings;

/// How often, unless `TENANTRY_CRASH_ROUNDS` says otherwise; `make soak` asks for a hundred.
const ROUNDS: usize = 10;

#[expect(clippy::disallowed_methods, reason = "a knob of this test, not a setting of the product")]
fn rounds() -> usize {
    let rounds = std::env::var("TENANTRY_CRASH_ROUNDS");
    rounds.map_or(ROUNDS, |text| text.parse().expect("a whole number"))
}

/// The writers wait while nobody is there to end a switch, and lose nothing. It takes a second for each death.
#[tokio::test]
async fn killing_the_worker_in_the_middle_of_a_move_loses_nothing() {
    let two = Two::start().await;
    two.fleet.create_tenant_with("acme", true).await;
    Writers::prepare(&two.fleet.admin("tenant_acme").await).await;
    let patient = RouterSettings { pool_wait_timeout: Duration::from_mins(5), ..router_settings() };
    let (catalog, changes) = (two.fleet.catalog(), two.fleet.changes.clone());
    let writers = Writers::start(&TenantRouter::new(catalog.clone(), changes, patient), 3);
    let mut asked: Option<OperationRecord> = None;
    let mut moves = 0;
    let mut moments = Moments::new(200, 2300);

    for round in 0..rounds() {
        let settled = match &asked {
            Some(operation) => two.fleet.catalog().operation(operation.id).await.unwrap().state,
            None => OperationState::Succeeded,
        };
        if settled.is_settled() {
            assert_eq!(settled, OperationState::Succeeded, "after {round} deaths");
            let on = two.fleet.tenant("acme").await.server_name;
            asked = Some(two.ask(if on == "default" { "eu-2" } else { "default" }).await);
            moves += 1;
        }
        let mut worker = serve_command(&two.fleet, "worker");
        worker.env("TENANTRY_WARM_SPARES", "0").env("TENANTRY_LOG_LEVEL", "off");
        let worker = KillOnDrop(worker.stderr(Stdio::null()).spawn().unwrap());
        // From before its first statement to after the move.
        let under_way = asked.as_ref().expect("one is under way").id;
        let done = catalog.operation(under_way).await.unwrap().completed_steps;
        tokio::time::sleep(moments.next(i64::from(moves * 10 + done))).await;
        drop(worker);
    }

    let under_way = catalog.operation(asked.as_ref().unwrap().id).await.unwrap();
    assert!(moves > 1 || under_way.completed_steps > 0, "the workers got nowhere");
    let ended = two.fleet.runner().complete(asked.unwrap().id).await.unwrap();
    assert_eq!(ended.state, OperationState::Succeeded, "{:?}", ended.error);
    writers.stop_and_check(&two.at_home().await).await;
    // Some of them died over the template of the other server.
    upkeep::tend(&two.fleet.environment).await.unwrap();
    two.assert_tidy(&format!("after {moves} moves")).await;
}
