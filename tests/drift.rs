//! Drift over the fleet: found by the commands and the API, kept in the catalog, and adopted on request.

use std::process::Output;

use serde_json::{Value, json};
use tenantry::catalog::operations::OperationState;
use tenantry::operations::request::BackupChoice;
use tenantry::operations::upkeep;

use crate::harness::process::command;
use crate::harness::replica::Replica;
use crate::harness::{BY, Fleet, slug};

/// PostgreSQL spells the check in another way once it was restored.
const V2: &str = "create table labels (id bigint primary key, name text not null,
        colour varchar(10) check (colour in ('red', 'green')));
    create index labels_name on labels (name);
    create view red as select * from labels where colour in ('red', 'ruby');";

async fn run(fleet: &Fleet, line: &str) -> Output {
    let mut command = command(fleet);
    command.args(line.split(' '));
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// The status of a command and the document that it printed.
async fn json(fleet: &Fleet, line: &str) -> (i32, Value) {
    let output = run(fleet, &format!("{line} --output-format json")).await;
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let document = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{stderr}"));
    (output.status.code().unwrap(), document)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn status_of<'a>(document: &'a Value, tenant: &str) -> &'a str {
    let tenants = document["tenants"].as_array().unwrap();
    tenants.iter().find(|one| one["tenant"] == tenant).unwrap()["status"].as_str().unwrap()
}

/// Tenants made by clone, in place and from a backup; one suspended, and one behind.
async fn fleet() -> Fleet {
    let fleet = Fleet::start().await;
    for name in ["behind", "in-place", "restored", "suspended"] {
        fleet.create_tenant(name).await;
    }
    fleet.add_migration("V2__labels.sql", V2);
    fleet.environment.reload_migrations().await.unwrap();
    let named = ["in-place", "restored", "suspended"].map(slug);
    let batch = fleet.environment.migrate_fleet(&named, "test").await.unwrap();
    fleet.runner().complete_batch(batch, 2).await.unwrap();
    upkeep::tend(&fleet.environment).await.unwrap();
    fleet.create_tenant("cloned").await;
    fleet.back_up("restored").await;
    let restored = slug("restored");
    let restore = fleet.environment.restore(&restored, BackupChoice::Latest, BY).await.unwrap();
    fleet.complete(&restore).await;
    let suspend = fleet.environment.suspend(&slug("suspended"), None, BY).await.unwrap();
    fleet.complete(&suspend).await;
    fleet
}

#[tokio::test]
async fn a_fleet_that_the_files_made_is_clean_and_a_change_by_hand_is_shown() {
    let fleet = fleet().await;
    let unchecked = fleet.environment.fleet_status().await.unwrap();
    let (status, clean) = json(&fleet, "migrate verify").await;
    assert_eq!((unchecked.drifted(), unchecked.unchecked()), (0, 5));
    assert!(unchecked.oldest_check.is_none());
    assert_eq!(status, 0, "{clean:#}");
    assert_eq!((&clean["clean"], &clean["behind"]), (&4.into(), &1.into()), "{clean:#}");
    assert_eq!(status_of(&clean, "behind"), "behind");

    let admin = fleet.admin("tenant_cloned").await;
    admin.batch_execute("drop index labels_name; alter table labels add extra int").await.unwrap();
    let admin = fleet.admin("tenant_behind").await;
    admin.batch_execute("alter table boards alter title drop not null").await.unwrap();

    let table = run(&fleet, "migrate verify --concurrency 2").await;
    let (shown, notes) = (text(&table.stdout), text(&table.stderr));
    assert_eq!(table.status.code(), Some(4), "{shown}{notes}");
    assert!(shown.contains("- CREATE INDEX labels_name ON public.labels"), "{shown}");
    assert!(shown.contains("+ alter table public.labels add column extra integer"), "{shown}");
    assert!(shown.contains("column public.boards.title"), "a tenant that is behind, too: {shown}");
    assert!(shown.contains("3 clean, 0 behind, 2 drifted, 0 unverified"), "{shown}");
    let (status, one) = json(&fleet, "migrate verify --tenant in-place --server default").await;
    assert_eq!((status, &one["clean"]), (0, &1.into()));
    let (_, status) = json(&fleet, "migrate status --detail").await;
    assert_eq!((&status["drifted"], &status["unchecked"]), (&2.into(), &0.into()), "{status:#}");
    assert!(status["checked_since"].is_string(), "{status:#}");
    assert_eq!(
        status["versions"][0],
        json!({ "version": 1, "tenants": 1, "status": "behind", "drifted": 1 })
    );
    assert_eq!(
        status["tenants"][1],
        json!({ "tenant_slug": "cloned", "schema_version": 2, "status": "current", "differences": 2 })
    );
    let found = tenantry::doctor::examine(&fleet.environment).await.unwrap().findings;
    assert!(found.len() == 1 && found[0].what.contains("2 tenants had drifted"), "{found:?}");
}

#[tokio::test]
async fn whoever_waits_for_a_repeatable_file_has_not_drifted() {
    let fleet = Fleet::start().await;
    let view = "create or replace view titles as select title from boards";
    fleet.add_migration("R__titles.sql", view);
    fleet.environment.reload_migrations().await.unwrap();
    for name in ["acme", "globex"] {
        fleet.create_tenant(name).await;
    }

    fleet.add_migration("V2__labels.sql", V2);
    let (status, older) = json(&fleet, "migrate verify").await;
    assert_eq!((status, &older["behind"]), (0, &2.into()), "{older:#}");
    fleet.add_migration("R__more.sql", "create or replace view more as select * from labels");
    let (status, lacking) = json(&fleet, "migrate verify").await;
    assert_eq!((status, &lacking["behind"]), (0, &2.into()), "{lacking:#}");
    fleet.add_migration("R__titles.sql", &format!("{view} where title <> ''"));
    let (status, changed) = json(&fleet, "migrate verify").await;
    assert_eq!((status, &changed["unverified"]), (1, &2.into()), "{changed:#}");
    assert!(changed.to_string().contains("R__titles.sql in an older form"), "{changed:#}");

    assert_eq!(run(&fleet, "migrate up").await.status.code(), Some(0));
    let (status, clean) = json(&fleet, "migrate verify").await;
    assert_eq!((status, &clean["clean"]), (0, &2.into()), "{clean:#}");
}

#[tokio::test]
async fn a_history_that_the_files_contradict_is_drift_and_a_missing_database_is_not() {
    let fleet = Fleet::start().await;
    for name in ["acme", "globex", "initech"] {
        fleet.create_tenant(name).await;
    }
    let admin = fleet.admin("tenant_acme").await;
    admin.batch_execute("update tenantry.schema_history set checksum = '1'").await.unwrap();
    let server = fleet.admin("postgres").await;
    server.batch_execute("alter database tenant_globex rename to lost").await.unwrap();

    let (status, found) = json(&fleet, "migrate verify").await;
    let (partly, _) = json(&fleet, "migrate verify --tenant globex --tenant initech").await;

    assert_eq!((status, partly), (4, 3), "{found:#}");
    assert_eq!(status_of(&found, "acme"), "drifted");
    assert_eq!(status_of(&found, "globex"), "unverified");
    assert_eq!(status_of(&found, "initech"), "clean");
    assert!(found.to_string().contains("V1__boards.sql was changed"), "{found:#}");
    let unknown = run(&fleet, "migrate verify --server nowhere").await;
    assert!(text(&unknown.stderr).contains("server list"), "{}", text(&unknown.stderr));
    server.batch_execute("alter database lost rename to tenant_globex").await.unwrap();
}

#[tokio::test]
async fn a_database_with_a_schema_and_no_history_is_adopted() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    fleet.add_migration("V2__labels.sql", V2);
    let admin = fleet.admin("tenant_acme").await;
    let refused = run(&fleet, "migrate baseline acme").await;
    assert_eq!(refused.status.code(), Some(4));
    assert!(text(&refused.stderr).contains("has a migration history already"));
    admin.batch_execute("drop schema tenantry cascade").await.unwrap();

    // The files up to V2 make a table that is not there.
    let (status, compared) = json(&fleet, "migrate baseline acme").await;
    assert_eq!(status, 4);
    assert!(compared["differences"].to_string().contains("public.labels"), "{compared:#}");
    let verified = json(&fleet, "migrate verify").await;
    assert_eq!(verified.0, 4);
    assert!(verified.1.to_string().contains("tenantry migrate baseline acme"), "{:#}", verified.1);
    let (status, _) = json(&fleet, "migrate baseline acme --version 1").await;
    assert_eq!(status, 0);
    assert_eq!(json(&fleet, "migrate verify").await.1["behind"], 1);
    assert_eq!(run(&fleet, "migrate up").await.status.code(), Some(0));
    assert_eq!(json(&fleet, "migrate verify").await.1["clean"], 1);
    assert_eq!(fleet.tenant("acme").await.schema_version, 2);
    fleet.assert_healthy().await;
}

#[tokio::test]
async fn drift_is_adopted_only_as_it_was_seen() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let admin = fleet.admin("tenant_acme").await;
    admin.batch_execute("drop schema tenantry cascade; create table extra (id int)").await.unwrap();
    let (_, seen) = json(&fleet, "migrate baseline acme").await;
    let fingerprint = seen["fingerprint"].as_str().unwrap().to_owned();
    let (acme, environment) = (slug("acme"), &fleet.environment);

    admin.batch_execute("alter table extra add column more int").await.unwrap();
    let other = Some(fingerprint.clone());
    let operation = environment.baseline(&acme, None, other, BY).await.unwrap();
    let failed = fleet.runner().complete(operation.id).await.unwrap();
    let error = failed.error.unwrap();
    assert_eq!(failed.state, OperationState::Failed);
    assert!(error.message.contains("differences, the first in"), "{error:?}");
    environment.cancel(operation.id).await.unwrap();
    fleet.runner().complete(operation.id).await.unwrap();
    let unsure = run(&fleet, "migrate baseline acme --accept-drift").await;
    assert_eq!(unsure.status.code(), Some(4));
    assert!(text(&unsure.stderr).contains("add --yes"), "{}", text(&unsure.stderr));

    admin.batch_execute("alter table extra drop column more").await.unwrap();
    let operation = environment.baseline(&acme, None, Some(fingerprint), BY).await.unwrap();
    fleet.complete(&operation).await;
    assert_eq!(fleet.count("acme", "tenantry.schema_history").await, 1);
    let none = environment.baseline(&acme, Some(7), None, BY).await.unwrap_err();
    assert!(none.to_string().contains("no migration file of version 7"), "{none}");
}

#[tokio::test]
async fn drift_is_found_and_adopted_over_http() {
    let replica = Replica::start().await;
    for name in ["acme", "globex"] {
        replica.create(name).await;
    }
    let admin = replica.fleet.admin("tenant_acme").await;
    admin.batch_execute("drop schema tenantry cascade; create table extra (id int)").await.unwrap();
    let verify = async |body: Value| -> Vec<Value> {
        let address = format!("{}/api/migrations/verify", replica.admin);
        let request = replica.client.post(address).bearer_auth(&replica.token).json(&body);
        let answer = request.send().await.unwrap();
        assert_eq!(answer.headers()["content-type"], "application/x-ndjson");
        let lines = answer.text().await.unwrap();
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };

    let mut found = verify(json!({})).await;
    found.sort_by_key(|one| one["tenant"].to_string());
    assert_eq!((&found[0]["status"], &found[1]["status"]), (&json!("drifted"), &json!("clean")));
    let seen = verify(json!({ "tenants": ["acme"], "server": "default" })).await.remove(0);
    assert_eq!(seen["version"], 0);
    let path = "/api/setup/tenants/acme/baseline";
    let (_, operation) = replica.post(path, Value::Null).await;
    assert_eq!(operation["kind"], "baseline");
    let id = operation["id"].as_str().unwrap();
    let (_, failed) = replica.get(&format!("/api/operations/{id}?wait=true")).await;
    assert_eq!(failed["status"], "failed", "{failed:#}");
    replica.post(&format!("/api/operations/{id}/cancel"), Value::Null).await;
    let body = json!({ "accept_fingerprint": seen["fingerprint"] });
    let (_, operation) = replica.post(path, body).await;
    replica.settle(&operation).await;

    let again = verify(json!({ "tenants": ["acme"] })).await.remove(0);
    assert_eq!((&again["version"], &again["status"]), (&json!(1), &json!("drifted")));
    assert_eq!(again["differences"].as_array().unwrap().len(), 3, "{again:#}");
    for (body, status) in [
        (json!({ "tenants": [] }), 422),
        (json!({ "tenants": ["Acme"] }), 422),
        (json!({ "tenants": ["nobody"] }), 404),
        (json!({ "server": "nowhere" }), 404),
    ] {
        assert_eq!(replica.post("/api/migrations/verify", body).await.0.as_u16(), status);
    }
    assert_eq!(replica.post(path, json!({ "version": 9 })).await.0.as_u16(), 409);
}
