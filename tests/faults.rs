//! Backups, restores, verifying and pruning while what lies between us and the bucket breaks.
//!
//! Each round disturbs one deed with one fault. Whatever it is:
//!
//! - a backup is either good, which means that it restores row for row, or it is reported as failed;
//! - what rots in the bucket is never called good, and what is whole there never called bad;
//! - the tenant has its database, with the rows of before or those of the backup;
//! - after `prune` the bucket has no object that the catalog does not know, and none is missing.
//!
//! `TENANTRY_FAULTS` is the number of rounds, and `TENANTRY_FAULTS_SEED` repeats those of an earlier run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use serde_json::json;
use tenantry::catalog::lock::Claim;
use tenantry::catalog::operations::{OperationRecord, OperationState};
use tenantry::operations::request::BackupChoice;
use tenantry::operations::{Environment, Runner, upkeep};
use tenantry::tenant::settings::BackupPolicy;
use tenantry_backup::{BackupStore, S3Settings};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::harness::faulty_s3::{Dice, Fault, FaultyS3, Trouble};
use crate::harness::{BY, Fleet, s3_settings, slug};

mod pipe;

/// Unless `TENANTRY_FAULTS` says otherwise, once through the matrix; `make soak` asks for a thousand.
const ROUNDS: u64 = 42;
/// Most of a round is waiting, so several go on at once, each with tenants of its own.
const LANES: u64 = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Deed {
    Backup,
    Restore,
    Verify,
    Drill,
    Prune,
}

/// What can happen to each.
fn matrix() -> Vec<(Deed, Fault)> {
    let everywhere = [
        Fault::CutUp,
        Fault::CutDown,
        Fault::Error,
        Fault::SlowDown,
        Fault::Slow,
        Fault::LostAnswer,
        Fault::ErrorAfter,
        Fault::FlipDown,
    ];
    let deeds = [Deed::Backup, Deed::Restore, Deed::Verify, Deed::Drill, Deed::Prune];
    let mut matrix = vec![(Deed::Backup, Fault::FlipUp), (Deed::Backup, Fault::ErrorInOk)];
    matrix.extend(everywhere.iter().flat_map(|fault| deeds.map(|deed| (deed, *fault))));
    matrix
}

#[expect(clippy::disallowed_methods, reason = "a knob of this test, not a setting of the product")]
fn knob(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a whole number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_fault_makes_a_bad_backup_look_good_or_takes_a_database_away() {
    let rounds = knob("TENANTRY_FAULTS").unwrap_or(ROUNDS);
    let seed = knob("TENANTRY_FAULTS_SEED").unwrap_or(1);
    println!("the seed of the faults is {seed}");
    let mut fleet = Fleet::start().await;
    fleet.environment.limits.restore_keep = Duration::ZERO;

    let lanes = (0..LANES).map(async |number| {
        let mut lane = Lane::new(&fleet, number).await;
        for round in (0..rounds).filter(|round| round % LANES == number) {
            lane.round(seed, round).await;
        }
        lane.told
    });
    let told = join_all(lanes).await;

    upkeep::tend(&fleet.environment).await.unwrap();
    fleet.assert_healthy().await;
    let mut all: BTreeMap<_, [u64; 3]> = BTreeMap::new();
    for ((deed, fault), counts) in told.into_iter().flatten() {
        let all = all.entry((deed, fault)).or_default();
        *all = std::array::from_fn(|index| all[index] + counts[index]);
    }
    for ((deed, fault), [hits, good, failed]) in all {
        println!("{deed:?} {fault:?}: {hits} requests, {good} good, {failed} reported");
    }
}

/// Two tenants, one of a backup in one piece and one of several, and the way to the bucket that breaks.
struct Lane<'a> {
    fleet: &'a Fleet,
    faulty: FaultyS3,
    /// The fleet, with the bucket behind the faults.
    disturbed: Environment,
    tenants: [String; 2],
    /// The newest good backup of each, and what was in it.
    newest: BTreeMap<String, (Uuid, String)>,
    /// Requests that a fault met, deeds that succeeded, and deeds reported as failed.
    told: BTreeMap<(Deed, Fault), [u64; 3]>,
    dice: Dice,
}

impl<'a> Lane<'a> {
    async fn new(fleet: &'a Fleet, number: u64) -> Self {
        let faulty = FaultyS3::before(&fleet.s3.endpoint()).await;
        let mut disturbed = fleet.environment.clone();
        disturbed.store = Some(store_at(fleet, faulty.endpoint()).await);
        let tenants = ["small", "large"].map(|size| format!("{size}-{number}"));
        let mut newest = BTreeMap::new();
        for name in &tenants {
            fleet.create_tenant_with(name, true).await;
            if name.starts_with("large") {
                fill(fleet, name).await;
            }
            let backup = fleet.back_up(name).await.id;
            newest.insert(name.clone(), (backup, digest(fleet, name).await));
        }
        let dice = Dice::new(0, 0);
        Self { fleet, faulty, disturbed, tenants, newest, told: BTreeMap::new(), dice }
    }

    async fn round(&mut self, seed: u64, round: u64) {
        self.dice = Dice::new(seed, round);
        let matrix = matrix();
        let (deed, fault) = matrix[usize::try_from(round).unwrap() % matrix.len()];
        let is_large = fault == Fault::ErrorInOk || self.dice.roll(4) == 0;
        let name = self.tenants[usize::from(is_large)].clone();
        // A request is tried four times, so five faults in a row are one that stays.
        let times = [1, 1, 1, 2, 3, 5][usize::try_from(self.dice.roll(6)).unwrap()];
        let requests = match (deed, fault) {
            (_, Fault::ErrorInOk) => 1,
            (Deed::Backup, _) if is_large => 5,
            (Deed::Backup | Deed::Verify, _) => 2,
            (Deed::Restore | Deed::Drill | Deed::Prune, _) => 4,
        };
        let skip = self.dice.roll(requests);
        let trouble = Trouble { fault, skip, times, at: self.dice.roll(1000) };
        println!("round {round}: {deed:?} of {name} with {trouble:?}");

        let is_good = match deed {
            Deed::Backup => self.back_up(&name, trouble).await,
            Deed::Restore => self.restore(&name, trouble).await,
            Deed::Verify | Deed::Drill => self.look(&name, deed, trouble).await,
            Deed::Prune => self.prune(&name, trouble).await,
        };

        let hits = self.faulty.calm();
        let told = self.told.entry((deed, fault)).or_default();
        *told = [told[0] + hits, told[1] + u64::from(is_good), told[2] + u64::from(!is_good)];
        self.tidy(&name).await;
    }

    async fn back_up(&mut self, name: &str, trouble: Trouble) -> bool {
        self.write(name).await;
        let rows = digest(self.fleet, name).await;
        let asked = self.disturbed.back_up(&slug(name), BY).await.unwrap();

        let ended = self.run(&asked, trouble).await;

        let is_good = ended.state == OperationState::Succeeded;
        if !is_good {
            assert!(ended.error.is_some());
            // What comes once passes by itself; nobody is called for it.
            assert!(trouble.times > 1 || ended.state == OperationState::Queued, "{ended:?}");
            assert!(self.fleet.catalog().backup(asked.id).await.is_err(), "no backup as yet");
            if self.gives_up(&ended).await {
                let left = files(&self.folder(name).await.join(asked.id.to_string()));
                assert!(left.is_empty(), "{left:?}");
                return false;
            }
        }
        self.newest.insert(name.to_owned(), (asked.id, rows.clone()));
        let admin = self.fleet.admin(&format!("tenant_{name}")).await;
        admin.batch_execute("truncate boards cascade").await.unwrap();
        let asked = self.ask_restore(&self.fleet.environment, name).await;
        self.fleet.complete(&asked).await;
        assert_eq!(digest(self.fleet, name).await, rows, "it is not what was backed up");
        is_good
    }

    async fn restore(&mut self, name: &str, trouble: Trouble) -> bool {
        self.write(name).await;
        let (live, backed_up) = (digest(self.fleet, name).await, self.newest[name].1.clone());
        let asked = self.ask_restore(&self.disturbed, name).await;

        let ended = self.run(&asked, trouble).await;

        let is_good = ended.state == OperationState::Succeeded;
        self.fleet.router().connection(&slug(name)).await.unwrap();
        let expected = if is_good { &backed_up } else { &live };
        assert_eq!(digest(self.fleet, name).await, *expected, "{:?}", ended.error);
        if !is_good {
            let expected = if self.gives_up(&ended).await { live } else { backed_up };
            assert_eq!(digest(self.fleet, name).await, expected);
        }
        is_good
    }

    /// Verifies or drills a backup that is whole or rotten.
    async fn look(&mut self, name: &str, deed: Deed, trouble: Trouble) -> bool {
        let backup = self.newest[name].0;
        let file = if self.dice.roll(2) == 0 { "dump" } else { "manifest.json" };
        let path = self.folder(name).await.join(backup.to_string()).join(file);
        let whole = std::fs::read(&path).unwrap();
        let is_rotten = self.dice.roll(2) == 0;
        if is_rotten {
            self.rot(&path, whole.clone());
        }

        let mut drill = None;
        let is_good = if deed == Deed::Verify {
            let record = self.fleet.catalog().backup(backup).await.unwrap();
            self.faulty.arm(trouble);
            self.disturbed.verify_backup(&record).await.is_ok()
        } else {
            let asked = self.disturbed.drill_tenant(&slug(name), BY).await.unwrap();
            let ended = self.run(&asked, trouble).await;
            drill = Some(ended).filter(|ended| ended.state != OperationState::Succeeded);
            drill.is_none()
        };

        let problem = self.fleet.catalog().backup(backup).await.unwrap().proof.problem;
        // What is damaged on its way each time cannot be told from what rots.
        let is_damaged = trouble.fault == Fault::FlipDown && trouble.times > 1;
        assert!(!(is_rotten && is_good), "{file} is rotten");
        assert!(is_rotten || is_damaged || problem.is_none(), "it is whole: {problem:?}");
        std::fs::write(&path, whole).unwrap();
        if let Some(drill) = drill {
            self.gives_up(&drill).await;
        }
        let sql = format!("update backups set problem = null where id = '{backup}'");
        self.fleet.admin("tenantry").await.batch_execute(&sql).await.unwrap();
        is_good
    }

    async fn prune(&mut self, name: &str, trouble: Trouble) -> bool {
        self.write(name).await;
        let rows = digest(self.fleet, name).await;
        let newest = self.fleet.back_up(name).await.id;
        self.newest.insert(name.to_owned(), (newest, rows));
        let mut disturbed = self.disturbed.clone();
        disturbed.limits.backups.policy = keep_one();
        std::mem::swap(&mut disturbed, &mut self.disturbed);
        let asked = self.disturbed.prune(&slug(name), BY).await.unwrap();

        let ended = self.run(&asked, trouble).await;

        std::mem::swap(&mut disturbed, &mut self.disturbed);
        let is_good = ended.state == OperationState::Succeeded;
        if !is_good {
            self.gives_up(&ended).await;
        }
        is_good
    }

    /// Has one worker take one turn with an operation, in trouble.
    async fn run(&self, asked: &OperationRecord, trouble: Trouble) -> OperationRecord {
        let runner = Runner::new(self.disturbed.clone(), CancellationToken::new());
        self.faulty.arm(trouble);
        runner.run_one(Claim::Operation(asked.id)).await.unwrap();
        self.fleet.catalog().operation(asked.id).await.unwrap()
    }

    /// An operation that did not succeed is tried again in calm weather, or given up.
    async fn gives_up(&mut self, ended: &OperationRecord) -> bool {
        let calm = &self.fleet.environment;
        let gives_up = self.dice.roll(2) == 0 && ended.kind != "prune";
        if gives_up {
            calm.cancel(ended.id).await.unwrap();
        } else if ended.state == OperationState::Failed {
            calm.catalog.retry(ended.id).await.unwrap();
        } else {
            let admin = self.fleet.admin("tenantry").await;
            let sql = format!("update operations set run_after = now() where id = '{}'", ended.id);
            admin.batch_execute(&sql).await.unwrap();
        }
        let ended = self.fleet.runner().complete(ended.id).await.unwrap();
        let expected = if gives_up { OperationState::Cancelled } else { OperationState::Succeeded };
        assert_eq!(ended.state, expected, "{:?}", ended.error);
        gives_up
    }

    /// Two days later, the bucket has what the catalog knows, and nothing else.
    async fn tidy(&self, name: &str) {
        let folder = self.folder(name).await;
        let two_days_ago = SystemTime::now() - Duration::from_hours(48);
        for path in files(&folder) {
            let file = std::fs::File::options().write(true).open(path).unwrap();
            file.set_modified(two_days_ago).unwrap();
        }
        let mut calm = self.fleet.environment.clone();
        calm.limits.backups.policy = keep_one();
        let asked = calm.prune(&slug(name), BY).await.unwrap();
        let done = Runner::new(calm.clone(), CancellationToken::new()).complete(asked.id).await;
        assert_eq!(done.unwrap().state, OperationState::Succeeded);

        let tenant = self.fleet.tenant(name).await.id;
        let known = self.fleet.catalog().backups_of(tenant).await.unwrap();
        let mut expected: Vec<PathBuf> = known
            .iter()
            .flat_map(|backup| ["dump", "manifest.json"].map(|file| (backup.id, file)))
            .map(|(backup, file)| folder.join(backup.to_string()).join(file))
            .collect();
        expected.sort();
        assert_eq!(files(&folder), expected);
        assert!(known.iter().any(|backup| backup.id == self.newest[name].0));
        upkeep::tend(&calm).await.unwrap();
    }

    async fn ask_restore(&self, environment: &Environment, name: &str) -> OperationRecord {
        let choice = BackupChoice::Id(self.newest[name].0);
        environment.restore(&slug(name), choice, BY).await.unwrap()
    }

    /// Changes a tenant's rows, so that no two backups hold the same.
    async fn write(&mut self, name: &str) {
        let mark = self.dice.roll(u64::MAX);
        let sql = format!("insert into boards (title) values ('{mark}')");
        let admin = self.fleet.admin(&format!("tenant_{name}")).await;
        admin.batch_execute(&sql).await.unwrap();
    }

    /// Has an object rot where it lies.
    fn rot(&mut self, path: &Path, mut bytes: Vec<u8>) {
        let index = usize::try_from(self.dice.roll(bytes.len() as u64)).unwrap();
        match self.dice.roll(3) {
            0 => bytes.truncate(index),
            1 => bytes[index] ^= 1,
            _ => bytes.push(0),
        }
        std::fs::write(path, bytes).unwrap();
    }

    /// Where the bucket's server keeps a tenant's objects.
    async fn folder(&self, name: &str) -> PathBuf {
        let tenant = self.fleet.tenant(name).await.id;
        self.fleet.s3.data_dir().join("backups/tenantry").join(tenant.to_string())
    }
}

fn keep_one() -> BackupPolicy {
    BackupPolicy::parse(json!({ "retention": "last=1" })).unwrap()
}

/// The fleet's bucket, by another way.
async fn store_at(fleet: &Fleet, endpoint: String) -> BackupStore {
    let settings = S3Settings { endpoint: Some(endpoint), ..s3_settings(&fleet.s3) };
    BackupStore::s3(settings).await.unwrap()
}

/// Gives a tenant what makes a backup of two parts.
async fn fill(fleet: &Fleet, name: &str) {
    let sql = "insert into boards (title)
               select string_agg(encode(sha512(format('%s %s', n, k)::bytea), 'base64'), '')
               from generate_series(1, 1500) n, generate_series(1, 100) k group by n";
    fleet.admin(&format!("tenant_{name}")).await.batch_execute(sql).await.unwrap();
}

/// A digest of a tenant's rows.
async fn digest(fleet: &Fleet, name: &str) -> String {
    let sql = "select coalesce((select md5(string_agg(md5(b::text), '' order by id)) from boards b), '')
                   || coalesce((select md5(string_agg(md5(c::text), '' order by id)) from cards c), '')";
    fleet.admin(&format!("tenant_{name}")).await.query_one(sql, &[]).await.unwrap().get(0)
}

/// Every file below a folder, in order.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = std::fs::read_dir(folder) else { return found };
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}
