//! `kill -9` of a real worker process in the middle of a move, at one moment after the other.

use std::process::Stdio;
use std::time::Duration;

use tenantry::catalog::lock::Claim;
use tenantry::catalog::operations::{OperationRecord, OperationState};
use tenantry::operations::runner::Disturbance;
use tenantry::operations::upkeep;
use tenantry::router::{RouterSettings, TenantRouter};

use super::{Two, Writers};
use crate::harness::process::{KillOnDrop, Moments, serve_command};
use crate::harness::{connect, once, router_settings};

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

/// A worker may die between the last change that came across and the end of the switch. What is written to the database
/// that it has shut, once that is open again, would not come across: nobody is let in, and the copy begins anew.
#[tokio::test]
async fn a_switch_that_died_after_its_last_change_lets_nobody_write_behind_it() {
    let two = Two::start().await;
    two.fleet.create_tenant_with("acme", true).await;
    let asked = two.ask("eu-2").await;
    let runner = two.fleet.disturbed_runner(once("move", false, Disturbance::Vanish));
    runner.run_one(Claim::Operation(asked.id)).await.unwrap();
    let begun = "update operations o
                 set memory = memory || jsonb_build_object('before', jsonb_build_object(
                         'state', t.state, 'server_id', t.server_id, 'epoch', t.epoch,
                         'marker', (select id from operations where kind = 'provision')))
                 from tenants t where o.id = $1";
    let kept = "insert into retained_databases (database_name, server_id, tenant_id, operation_id, drop_after)
                select $2, server_id, id, $1, now() + interval '1 day' from tenants";
    let catalog = two.fleet.admin("tenantry").await;
    let (id, old) = (asked.id, format!("tenantry_old_{}", asked.id.simple()));
    assert_eq!(catalog.execute(begun, &[&id]).await.unwrap(), 1);
    assert_eq!(catalog.execute(kept, &[&id, &old]).await.unwrap(), 1);
    catalog.batch_execute("update tenants set state = 'restoring'").await.unwrap();
    let live = two.fleet.admin("tenant_acme").await;
    let withdraw = format!("drop publication \"tenantry_move_{}\"", id.simple());
    live.batch_execute(&withdraw).await.unwrap();
    drop(live);
    let shut = "/* it died here */ alter database tenant_acme allow_connections false";
    two.fleet.admin("postgres").await.batch_execute(shut).await.unwrap();

    let ended = two.fleet.runner().complete(id).await.unwrap();

    assert_eq!(ended.state, OperationState::Succeeded, "{:?}", ended.error);
    let said = ended.attempts;
    assert!(said > 2, "it was tried again: {said}");
    let log = std::fs::read_to_string(two.fleet.postgres.log_path()).unwrap();
    let since = log.split_once("it died here").unwrap().1;
    let opened = since.find("\"tenant_acme\" allow_connections true").unwrap();
    assert!(since.find("\"tenant_acme\" nologin").is_some_and(|shut| shut < opened));
    let boards = two.at_home().await.query_one("select count(*) from boards", &[]).await.unwrap();
    assert_eq!(boards.get::<_, i64>(0), 3);
    let there = connect(&two.other.url()).await.unwrap();
    let login = "select rolcanlogin from pg_roles where rolname = 'tenant_acme'";
    assert!(there.query_one(login, &[]).await.unwrap().get::<_, bool>(0));
    two.assert_tidy("at the end").await;
}
