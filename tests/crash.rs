//! `kill -9` of a real worker process at random moments, fifty times over. Afterwards catalog, server
//! and bucket are as an undisturbed run leaves them.

use std::process::Stdio;

use tenantry::catalog::operations::{OperationFilter, OperationRecord, OperationState};
use tenantry::operations::request::BackupChoice;
use tenantry::operations::upkeep;

use crate::harness::process::{Moments, serve_command};
use crate::harness::{BY, Fleet, Options, new_tenant, slug};

const ROUNDS: usize = 50;
const TENANTS: [&str; 6] = ["acme", "globex", "hooli", "initech", "pied-piper", "umbrella"];

/// The life of each tenant; every second one is deleted at its end.
const STORY: [&str; 8] =
    ["provision", "backup", "suspend", "backup", "resume", "restore", "migrate", "delete"];

fn story_of(tenant: usize) -> &'static [&'static str] {
    if tenant.is_multiple_of(2) { &STORY } else { &STORY[..STORY.len() - 1] }
}

async fn ask(fleet: &Fleet, name: &str, chapter: &str) -> OperationRecord {
    let (environment, tenant) = (&fleet.environment, slug(name));
    let asked = match chapter {
        "provision" => environment.create_tenant(&new_tenant(name), true, BY).await,
        "backup" => environment.back_up(&tenant, BY).await,
        "suspend" => environment.suspend(&tenant, None, BY).await,
        "resume" => environment.resume(&tenant, BY).await,
        "restore" => environment.restore(&tenant, BackupChoice::Latest, BY).await,
        "delete" => environment.delete(&tenant, false, BY).await,
        "migrate" => {
            let batch = environment.migrate_fleet(&[tenant], "test").await.unwrap();
            let filter =
                OperationFilter { batch: Some(batch), limit: 1, ..OperationFilter::default() };
            Ok(fleet.catalog().operations(&filter).await.unwrap().remove(0).0)
        }
        other => panic!("no chapter {other}"),
    };
    asked.unwrap()
}

async fn fleet() -> Fleet {
    Fleet::start_with(Options { spares: 2, ..Options::default() }).await
}

async fn undisturbed() -> Fleet {
    let fleet = fleet().await;
    for (index, name) in TENANTS.iter().enumerate() {
        for chapter in story_of(index) {
            let operation = ask(&fleet, name, chapter).await;
            fleet.complete(&operation).await;
        }
    }
    upkeep::tend(&fleet.environment).await.unwrap();
    fleet
}

#[tokio::test]
async fn killing_the_worker_fifty_times_changes_nothing() {
    let expected = undisturbed().await.inventory().await;
    let fleet = fleet().await;
    let mut chapters = [0; TENANTS.len()];
    let mut current: [Option<OperationRecord>; TENANTS.len()] = [const { None }; TENANTS.len()];
    let mut moments = Moments::new(30, 500);

    for round in 0..ROUNDS {
        for (index, name) in TENANTS.iter().enumerate() {
            let settled = match &current[index] {
                Some(operation) => {
                    fleet.catalog().operation(operation.id).await.unwrap().state.is_settled()
                }
                None => true,
            };
            if settled && let Some(chapter) = story_of(index).get(chapters[index]) {
                current[index] = Some(ask(&fleet, name, chapter).await);
                chapters[index] += 1;
            }
        }
        let mut worker = serve_command(&fleet, "worker").stderr(Stdio::inherit()).spawn().unwrap();
        // From before its first statement to the middle of a dump.
        let done: usize = chapters.iter().sum();
        let all: usize = (0..TENANTS.len()).map(|index| story_of(index).len()).sum();
        // Whoever has nothing left to do is not stuck.
        let progress = if done == all { done + round } else { done };
        tokio::time::sleep(moments.next(i64::try_from(progress).unwrap())).await;
        worker.kill().unwrap();
        worker.wait().unwrap();
    }

    assert!(
        chapters.iter().sum::<usize>() > TENANTS.len(),
        "the workers got nowhere: {chapters:?}"
    );
    for (index, name) in TENANTS.iter().enumerate() {
        if let Some(operation) = &current[index] {
            let ended = fleet.runner().complete(operation.id).await.unwrap();
            assert_eq!(
                ended.state,
                OperationState::Succeeded,
                "{name}: {} {:?}",
                ended.kind,
                ended.error
            );
        }
        for chapter in &story_of(index)[chapters[index]..] {
            let operation = ask(&fleet, name, chapter).await;
            fleet.complete(&operation).await;
        }
    }
    upkeep::tend(&fleet.environment).await.unwrap();

    assert_eq!(fleet.inventory().await, expected);
    fleet.assert_healthy().await;
}
