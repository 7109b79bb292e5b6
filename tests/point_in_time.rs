//! Restores to a moment between two backups, out of a WAL archive: exactly the rows of then, of one tenant alone.
//! Of the whole server that is restored for it nothing stays, whatever happens.

use std::sync::{Arc, Mutex};

use jiff::{Timestamp, ToSpan as _};
use tenantry::catalog::lock::Claim;
use tenantry::catalog::operations::{OperationRecord, OperationState};
use tenantry::operations::request::PointInTime;
use tenantry::operations::runner::{Disturbance, StepPoint};
use tenantry::operations::{Runner, Transfer, Work, upkeep};
use tokio_util::sync::CancellationToken;

use crate::harness::process::{Serving, command};
use crate::harness::wal_archive::WalArchive;
use crate::harness::{BY, Fleet, eventually, new_tenant, slug};

async fn execute(fleet: &Fleet, tenant: &str, sql: &str) {
    fleet.admin(&format!("tenant_{tenant}")).await.batch_execute(sql).await.unwrap();
}

async fn add_board(fleet: &Fleet, tenant: &str, title: &str) {
    execute(fleet, tenant, &format!("insert into boards (title) values ('{title}')")).await;
}

/// Titles of boards, as the tenant's application sees them.
async fn boards(fleet: &Fleet, tenant: &str) -> Vec<String> {
    let connection = fleet.router().connection(&slug(tenant)).await.unwrap();
    let rows = connection.query("select title from boards order by id", &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

fn point(at: Timestamp) -> PointInTime<'static> {
    PointInTime { at, archive_of: None }
}

async fn ask(fleet: &Fleet, tenant: &str, at: Timestamp) -> OperationRecord {
    fleet.environment.restore_at(&slug(tenant), point(at), None, BY).await.unwrap()
}

/// Why a restore fails, and what is said to do about it.
async fn failure(fleet: &Fleet, runner: &Runner, asked: OperationRecord) -> (String, String) {
    let ended = runner.complete(asked.id).await.unwrap();
    assert_eq!(ended.state, OperationState::Failed);
    let error = ended.error.unwrap();
    fleet.environment.cancel(asked.id).await.unwrap();
    fleet.runner().complete(asked.id).await.unwrap();
    (error.message, error.remedy.unwrap())
}

/// A tenant with the boards A and B, the archive, and a moment at which it had A alone.
async fn between_two_boards() -> (Fleet, WalArchive, Timestamp) {
    let (fleet, archive) = WalArchive::with_fleet().await;
    fleet.create_tenant("acme").await;
    archive.back_up(&fleet).await;
    add_board(&fleet, "acme", "A").await;
    let between = Timestamp::now();
    add_board(&fleet, "acme", "B").await;
    (fleet, archive, between)
}

#[tokio::test]
async fn one_tenant_goes_back_to_a_moment_and_nobody_else_does() {
    let (fleet, archive) = WalArchive::with_fleet().await;
    for tenant in ["acme", "globex"] {
        fleet.create_tenant(tenant).await;
    }
    archive.back_up(&fleet).await;
    // A tenant that only the WAL knows.
    fleet.create_tenant("hooli").await;
    for tenant in ["acme", "globex", "hooli"] {
        add_board(&fleet, tenant, "A").await;
    }
    let between = Timestamp::now();
    for tenant in ["acme", "globex", "hooli"] {
        add_board(&fleet, tenant, "B").await;
    }
    execute(&fleet, "acme", "drop table cards; delete from boards where title = 'A'").await;

    let restored = fleet.complete(&ask(&fleet, "acme", between).await).await;

    assert_eq!(boards(&fleet, "acme").await, ["A"]);
    assert_eq!(fleet.count("acme", "cards").await, 0);
    assert_eq!(boards(&fleet, "globex").await, ["A", "B"]);
    assert_eq!(fleet.tenant("globex").await.epoch, 1);
    assert!(Transfer::of(&restored).unwrap().bytes > 0);
    assert_eq!(archive.left(), Vec::<String>::new());
    fleet.assert_healthy().await;

    let undo = fleet.environment.undo_restore(&slug("acme"), BY).await.unwrap();
    fleet.complete(&undo).await;
    assert_eq!(boards(&fleet, "acme").await, ["B"]);

    let moment = between.to_string();
    let mut command = command(&fleet);
    command.envs(archive.variables());
    command.args(["restore", "hooli", "--at", &moment, "--as", "hooli-then"]);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
    assert_eq!(boards(&fleet, "hooli-then").await, ["A"]);
    assert_eq!(boards(&fleet, "hooli").await, ["A", "B"]);
    assert_ne!(fleet.tenant("hooli").await.id, fleet.tenant("hooli-then").await.id);
    assert_eq!(archive.left(), Vec::<String>::new());
    fleet.assert_healthy().await;
}

#[tokio::test]
async fn a_moment_that_cannot_be_had_is_refused_with_the_next_step() {
    let (fleet, archive) = WalArchive::with_fleet().await;
    fleet.create_tenant("acme").await;
    let before_backup = Timestamp::now();
    archive.back_up(&fleet).await;
    let asked = fleet.environment.create_tenant(&new_tenant("globex"), false, BY).await.unwrap();
    let before_database = Timestamp::now();
    fleet.complete(&asked).await;

    // What can be told without a look into the archive is told at once.
    let refused = async |tenant: &str, at| {
        let refused = fleet.environment.restore_at(&slug(tenant), point(at), None, BY).await;
        refused.unwrap_err().to_string()
    };
    let in_future = refused("acme", Timestamp::now() + 1.hour()).await;
    assert!(in_future.contains("still to come"), "{in_future}");
    let too_early = refused("globex", before_backup).await;
    assert!(too_early.contains("did not exist") && too_early.contains("after"), "{too_early}");

    let (message, remedy) =
        failure(&fleet, &fleet.runner(), ask(&fleet, "acme", before_backup).await).await;
    assert!(message.contains("the oldest backup in the archive ended at"), "{message}");
    assert!(remedy.contains("a later time"), "{remedy}");
    assert_eq!(archive.left(), Vec::<String>::new());

    let (message, remedy) =
        failure(&fleet, &fleet.runner(), ask(&fleet, "globex", before_database).await).await;
    assert!(message.contains("had no database of this tenant at"), "{message}");
    assert!(remedy.contains("--archive-of"), "{remedy}");
    assert_eq!(archive.left(), Vec::<String>::new());

    let mut elsewhere = fleet.environment.clone();
    let archives = elsewhere.limits.archives.as_mut().unwrap();
    archives.stanzas.insert("default".to_owned(), "nobody".to_owned());
    let asked = ask(&fleet, "acme", Timestamp::now()).await;
    let runner = Runner::new(elsewhere.clone(), CancellationToken::new());
    let (message, remedy) = failure(&fleet, &runner, asked).await;
    assert!(message.contains("no backup of the stanza nobody"), "{message}");
    assert!(remedy.contains("stanza-create"), "{remedy}");

    elsewhere.limits.archives = None;
    let none = elsewhere.restore_at(&slug("acme"), point(before_backup), None, BY).await;
    assert!(none.unwrap_err().to_string().contains("TENANTRY_PITR_STANZAS"));
    fleet.assert_healthy().await;
}

#[tokio::test]
async fn every_step_may_fail_or_lose_its_worker_and_a_cancel_leaves_nothing() {
    let (fleet, archive, between) = between_two_boards().await;

    let asked = ask(&fleet, "acme", between).await;
    let mut other = fleet.environment.clone();
    other.limits.archives = None;
    let other = Runner::new(other, CancellationToken::new());
    let taken = other.run_one(Claim::Operation(asked.id)).await.unwrap();
    assert_eq!(taken, None, "a worker without the archive leaves it to others");
    let steps = Work::of(&asked).unwrap().plan().steps;
    // Each step fails before it begins, and is done twice, as its worker is lost before it is written down.
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&seen);
    let runner = fleet.disturbed_runner(Arc::new(move |point: &StepPoint<'_>| {
        let mut noted = noted.lock().unwrap();
        let moment = (point.step.to_owned(), point.done);
        if noted.contains(&moment) {
            return Disturbance::None;
        }
        noted.push(moment);
        if point.done { Disturbance::Vanish } else { Disturbance::Fail }
    }));
    let mut ended = runner.complete(asked.id).await.unwrap();
    while ended.state == OperationState::Failed {
        assert_eq!(ended.error.unwrap().message, "a test made this step fail");
        fleet.router().connection(&slug("acme")).await.unwrap();
        fleet.catalog().retry(asked.id).await.unwrap();
        ended = runner.complete(asked.id).await.unwrap();
    }
    assert_eq!(ended.state, OperationState::Succeeded);
    assert_eq!(seen.lock().unwrap().len(), 2 * steps.len());
    assert_eq!(boards(&fleet, "acme").await, ["A"]);
    assert_eq!(archive.left(), Vec::<String>::new());
    fleet.assert_healthy().await;

    let before = fleet.inventory().await;
    let asked = ask(&fleet, "acme", between).await;
    let runner = fleet.disturbed_runner(Arc::new(|point: &StepPoint<'_>| {
        if point.step == "restore_beside" { Disturbance::Fail } else { Disturbance::None }
    }));
    runner.complete(asked.id).await.unwrap();
    assert_eq!(archive.left(), [asked.id.to_string()], "it is needed to go on");
    fleet.environment.cancel(asked.id).await.unwrap();
    let cancelled = fleet.runner().complete(asked.id).await.unwrap();
    assert_eq!(cancelled.state, OperationState::Cancelled, "{:?}", cancelled.error);
    assert_eq!(archive.left(), Vec::<String>::new());
    assert_eq!(fleet.inventory().await, before);
}

#[tokio::test]
async fn what_a_killed_worker_leaves_is_taken_up_or_removed() {
    let (fleet, archive, between) = between_two_boards().await;
    let scratch = archive.scratch_dir();

    let asked = ask(&fleet, "acme", between).await;
    let place = scratch.join(asked.id.to_string());
    let variables = archive.variables();
    let variables = variables.each_ref().map(|(name, value)| (*name, value.as_str()));
    // One dies while files come, the next while the server of then runs.
    for sign in ["cluster/base", "cluster/postmaster.pid"] {
        let mut worker = Serving::start_with(&fleet, &variables);
        worker.logged("restoring a server").await;
        eventually(sign, async || place.join(sign).exists()).await;
        drop(worker);
        fleet.catalog().release_all_abandoned().await.unwrap();
    }
    fleet.complete(&asked).await;

    assert_eq!(boards(&fleet, "acme").await, ["A"]);
    assert_eq!(archive.left(), Vec::<String>::new());

    // One that nobody goes on with.
    std::fs::create_dir(&place).unwrap();
    std::fs::create_dir(scratch.join(uuid::Uuid::now_v7().to_string())).unwrap();
    upkeep::tend(&fleet.environment).await.unwrap();
    assert_eq!(archive.left().len(), 1, "what is not ours stays");
    assert!(!place.exists());
    fleet.assert_healthy().await;
}
