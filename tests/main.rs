//! The suite: one binary, and this list is its table of contents.
//!
//! Every test runs against real PostgreSQL clusters and a real S3 server that live and die with it.

#![expect(clippy::unwrap_used, reason = "a panic is a test's message")]

mod harness;

mod admin_api;
mod adoption;
mod application;
mod architecture;
mod audit;
mod audit_log;
mod backups;
mod budget;
mod burst;
mod catalog_away;
mod catalog_crash;
mod catching_up;
mod cli;
mod clones;
mod conformance;
mod connections;
mod crash;
mod doctor;
mod domains;
mod drain;
mod drift;
mod drills;
mod edges;
mod erasure;
mod export;
mod faults;
mod first_use;
mod fleet;
mod freeze;
mod goals;
mod hardening;
mod identity;
mod imports;
mod keys;
mod large_fleets;
mod layer;
mod limits;
mod lock_queue;
mod majors;
mod migrations;
mod monitoring;
mod online;
mod openid;
mod operations;
mod passwords;
mod placement;
mod point_in_time;
mod production;
mod provisioning;
mod rebuild;
mod registration;
mod relocation;
mod rename;
mod replicas;
mod restores;
mod retention;
mod rollouts;
mod routing;
mod schedules;
mod scopes;
mod serving;
mod settings;
mod soak;
mod sql;
mod sso;
mod suspension;
mod takeover;
mod traces;
mod tracks;
mod usage;
