//! Free tags of servers: as hard a rule as a region, for those who ask for them.

use reqwest::Method;
use serde_json::{Value, json};
use tenantry::catalog::audit_log::AuditFilter;
use tenantry::catalog::servers::ServerChange;
use tenantry::tenant::Tag;

use super::{asked, fleet, place, refused};
use crate::harness::replica::Replica;
use crate::harness::{process, slug};

fn tagged(tags: &[&str]) -> ServerChange {
    let tags = tags.iter().map(|text| Tag::parse(text).unwrap());
    let tags = tags.map(|tag| (tag.key, Some(tag.value))).collect();
    ServerChange { tags, ..ServerChange::default() }
}

#[tokio::test]
async fn a_tenant_comes_only_where_every_tag_is_that_it_asks_for() {
    let servers = [("a", tagged(&["disk=ssd", "rack=7"])), ("b", tagged(&["disk=nvme", "rack=7"]))];
    let fleet = fleet(&servers).await;
    let fast = json!({ "server_tags": ["disk=nvme", "rack=7"] });

    assert_eq!(place(&fleet, &asked("acme", &fast)).await.unwrap(), "b");
    let nowhere = refused(&fleet, &asked("hooli", &json!({ "server_tags": "disk=tape" }))).await;
    assert!(nowhere.contains("a: it is not tagged disk=tape"), "{nowhere}");
    let mut named = asked("hooli", &fast);
    named.server = Some("default".to_owned());
    let why = refused(&fleet, &named).await;
    assert!(why.contains("it is not tagged disk=nvme, it is not tagged rack=7"), "{why}");

    // Whoever is where it must not be any more is named, and is first to be moved.
    let mut away = tagged(&["disk=ssd"]);
    away.tags.insert(Tag::parse_key("rack").unwrap(), None);
    let record = fleet.catalog().change_server("b", &away).await.unwrap();
    assert_eq!(serde_json::to_value(&record.tags).unwrap(), json!({ "disk": "ssd" }));
    let found = fleet.catalog().contradictions().await.unwrap();
    let found: Vec<_> = found.iter().map(|one| (one.kind.as_str(), one.subject.as_str())).collect();
    assert_eq!(found, [("not_tagged", "acme"), ("not_tagged", "acme")]);
    let log = fleet.catalog().audit_log(&AuditFilter { limit: 50, ..AuditFilter::default() }).await;
    let log = log.unwrap();
    let changed = log.iter().find(|entry| entry.action == "server.changed").unwrap();
    let tags = json!({ "before": { "disk": "nvme", "rack": "7" }, "after": { "disk": "ssd" } });
    assert_eq!(changed.detail["tags"], tags);
    assert!(fleet.catalog().tenant(&slug("acme")).await.is_ok(), "it stays where it is");
}

#[tokio::test]
async fn operators_tag_servers_on_the_command_line_and_over_http() {
    let replica = Replica::start().await;
    let run = |arguments: &[&str]| {
        let mut command = process::command(&replica.fleet);
        let output = command.args(arguments).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };

    let set =
        ["server", "set", "default", "--tag", "disk=nvme", "--tag", "rack=7", "--untag", "old"];
    assert_eq!(run(&set).0, Some(0));
    let (_, list) = run(&["server", "list"]);
    assert!(list.contains("disk=nvme, rack=7"), "{list}");
    let (_, shown) = run(&["server", "show", "default"]);
    assert!(shown.contains("disk=nvme, rack=7"), "{shown}");
    assert_eq!(run(&["server", "plan", "--server-tag", "disk=nvme"]).0, Some(0));
    assert_eq!(run(&["server", "plan", "--server-tag", "disk=tape"]).0, Some(1));
    for bad in ["disk", "region=eu", "Disk=nvme", "disk="] {
        assert_eq!(run(&["server", "set", "default", "--tag", bad]).0, Some(2), "{bad}");
    }
    let create = ["tenant", "create", "--slug", "acme", "--server-tag", "disk=nvme", "--explain"];
    assert_eq!(run(&create).0, Some(0));

    let change = async |body: Value| {
        let (status, answer) =
            replica.call(Method::PATCH, "/api/servers/default", Some(body)).await;
        (status.as_u16(), answer)
    };
    let (status, server) = change(json!({ "tags": { "disk": null, "os": "12" } })).await;
    assert_eq!((status, &server["tags"]), (200, &json!({ "os": "12", "rack": "7" })), "{server}");
    for bad in
        [json!({ "tags": { "tier": "x" } }), json!({ "tags": { "a": 1 } }), json!({ "tags": [] })]
    {
        assert_eq!(change(bad.clone()).await.0, 422, "{bad}");
    }
}
