//! What leads up to an adoption, for the tests of every operation.

use tenantry::catalog::operations::OperationRecord;
use tenantry::operations::AdoptFrom;

use super::on_server;
use crate::harness::{BY, Fleet};

/// Asks for the adoption of a database that the first migration file has made.
pub(crate) async fn ask(fleet: &Fleet) -> OperationRecord {
    let admin = fleet.admin("postgres").await;
    admin.batch_execute("create database legacy").await.unwrap();
    admin.batch_execute("revoke connect on database legacy from public").await.unwrap();
    let schema = std::fs::read_to_string("migrations/tenant/V1__boards.sql").unwrap();
    fleet.admin("legacy").await.batch_execute(&schema).await.unwrap();
    let database = "legacy".to_owned();
    let from = AdoptFrom { database, baseline: Some(1), trust_functions: false };
    fleet.environment.adopt(&on_server("acme"), from, BY).await.unwrap()
}
