#![doc = include_str!("../README.md")]

mod activity;
mod adoption;
mod attack;
mod audit;
mod belongings;
mod carry;
mod database;
mod error;
mod guest;
mod hardening;
mod isolation;
mod marker;
mod name;
mod pace;
mod replication;
mod role;
mod schema;
mod server;
mod shape;

pub use activity::{Activity, DatabaseActivity, DatabaseUsage, activity, database_usage};
pub use adoption::{Adoption, AdoptionPlan, Commit, Obstacle};
pub use attack::{ACTS, Act, Attacker, Attempt, Login, Visible, is_shut_out};
pub use audit::{Expectation, ExpectedTenant, Hole, Looked};
pub use carry::{SAME_TEXT, UNTIMED, carry_published};
pub use database::{DatabaseFacts, Possession, Proof, Rename, Retirement, Source, Swap};
pub use error::{Cause, Error};
pub use guest::{Objection, ObjectionKind};
pub use hardening::Hardening;
pub use isolation::{Finding, FindingKind, lock_down};
pub use marker::{Marker, Owner};
pub use name::{DatabaseName, NameError, RoleName};
pub use pace::{NICE_RATIO, Pace};
pub use replication::{
    CopyState, FollowerFacts, Halt, Leftover, Link, Lsn, Offered, SlotFacts,
    drop_link_publications, drop_publication, offered, unfollowable,
};
pub use role::{RoleFacts, random_password, scram_verifier};
pub use schema::{
    Applied, AppliedFile, Blocker, Difference, DryRun, Effect, FileEffects, Labour, MaskError,
    MigrationFile, MigrationSet, MigrationTimeouts, Reading, RepeatableFile, Risk, Rule, Schema,
    SchemaError, TableLock, TableSize, TrackVersion, apply, baseline, build_from_zero, check_mask,
    current_version, database_sizes, dry_run, read_schema, reference_schema, table_sizes,
    track_version,
};
pub use server::{
    Connection, Loan, PooledClient, Problem, Server, ServerFacts, ServerUrl, TlsConnector, dial,
};
pub use shape::{Blank, SAMPLE_DATA, Shape};
