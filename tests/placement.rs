//! Where tenants go: rules that no name overrules, and a last place that only one gets.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use reqwest::Method;
use serde_json::{Value, json};
use tenantry::catalog::CatalogError;
use tenantry::catalog::audit_log::AuditFilter;
use tenantry::catalog::servers::{Edit, ServerChange};
use tenantry::catalog::tenants::NewTenant;
use tenantry::operations::ArchiveSettings;
use tenantry::operations::request::{BackupChoice, PointInTime, RestoreAs};
use tenantry::operations::rollouts::{RolloutError, RolloutPlan, Selection};
use tenantry::tenant::{Label, TenantSettings, Tier};
use tokio::task::JoinSet;

use crate::harness::replica::Replica;
use crate::harness::{BY, Fleet, new_tenant, process, slug};

mod tags;

/// Servers that nobody connects to here: only the catalog decides who comes there.
async fn fleet(servers: &[(&str, ServerChange)]) -> Fleet {
    let fleet = Fleet::start().await;
    for (number, (name, change)) in servers.iter().enumerate() {
        let url = format!("postgres://admin@127.0.0.1:{}/postgres", number + 1);
        fleet.catalog().add_server(name, &url.into()).await.unwrap();
        fleet.catalog().change_server(name, change).await.unwrap();
    }
    fleet
}

fn region(name: &str) -> ServerChange {
    ServerChange { region: Edit::Set(Label::parse(name).unwrap()), ..ServerChange::default() }
}

fn asked(name: &str, fleet: &Value) -> NewTenant {
    let settings = TenantSettings::parse(json!({ "fleet": fleet })).unwrap();
    NewTenant { settings, ..new_tenant(name) }
}

/// Asks for a tenant and tells its server.
async fn place(fleet: &Fleet, new: &NewTenant) -> Result<String, CatalogError> {
    fleet.environment.create_tenant(new, false, BY).await?;
    Ok(fleet.catalog().tenant(&new.slug).await.unwrap().server_name)
}

async fn refused(fleet: &Fleet, new: &NewTenant) -> String {
    let error = place(fleet, new).await.unwrap_err();
    assert!(matches!(error, CatalogError::Conflict(_)), "{error}");
    assert!(fleet.catalog().tenant(&new.slug).await.is_err(), "nothing is left of it");
    error.to_string()
}

#[tokio::test]
async fn a_region_is_a_rule_for_the_tenant_for_its_copies_and_for_its_return() {
    let servers = [("eu-1", region("eu")), ("eu-2", region("eu")), ("us-1", region("us"))];
    let fleet = fleet(&servers).await;
    let eu = json!({ "region": "eu" });

    assert_eq!(place(&fleet, &asked("acme", &eu)).await.unwrap(), "eu-1");
    assert_eq!(place(&fleet, &asked("globex", &eu)).await.unwrap(), "eu-2");
    let nowhere = refused(&fleet, &asked("hooli", &json!({ "region": "ap" }))).await;
    assert!(nowhere.contains("us-1: it is in region us"), "{nowhere}");
    assert!(nowhere.contains("default: it is in no region"), "{nowhere}");
    let named = NewTenant { server: Some("us-1".to_owned()), ..asked("hooli", &eu) };
    assert!(refused(&fleet, &named).await.contains("(us-1: it is in region us)"));

    let acme = fleet.tenant("acme").await;
    let moved = fleet.catalog().check_place(&acme, "us-1").await.unwrap_err();
    assert!(moved.to_string().contains("it is in region us"), "{moved}");
    assert!(fleet.catalog().check_place(&acme, "eu-2").await.is_ok());
    let missing = fleet.catalog().check_place(&acme, "eu-9").await.unwrap_err();
    assert!(matches!(missing, CatalogError::Missing { what: "server", .. }), "{missing}");
}

#[tokio::test]
async fn the_last_place_is_taken_once() {
    let small = ServerChange {
        max_tenants: Edit::Set(3),
        tier: Edit::Set(Tier::Dedicated),
        ..ServerChange::default()
    };
    let fleet = fleet(&[("small", small)]).await;
    let mut creators = JoinSet::new();
    for number in 0..12 {
        let environment = fleet.environment.clone();
        let tier = Tier::Dedicated;
        let new = NewTenant { tier, ..new_tenant(&format!("t{number}")) };
        creators.spawn(async move { environment.create_tenant(&new, false, BY).await.unwrap() });
    }
    creators.join_all().await;

    let mut hosted = BTreeMap::new();
    for server in fleet.catalog().servers().await.unwrap() {
        hosted.insert(server.name, server.tenants);
    }
    // One that is kept for the tier comes first, until it is full.
    let expected = [("default".to_owned(), 9), ("small".to_owned(), 3)];
    assert_eq!(hosted, BTreeMap::from(expected));
    let named =
        NewTenant { tier: Tier::Dedicated, server: Some("small".to_owned()), ..new_tenant("late") };
    assert!(refused(&fleet, &named).await.contains("it is full: it takes at most 3"));
    let shared = NewTenant { server: Some("small".to_owned()), ..new_tenant("late") };
    assert!(refused(&fleet, &shared).await.contains("it takes only tier dedicated"));
}

#[tokio::test]
async fn nobody_comes_to_a_cordoned_server_and_its_tenants_stay() {
    let fleet = fleet(&[("eu-1", ServerChange::default())]).await;
    assert_eq!(place(&fleet, &new_tenant("acme")).await.unwrap(), "default");
    let catalog = fleet.catalog();
    let cordoned = |why: Option<&str>| ServerChange {
        cordoned: why.map(str::to_owned).into(),
        ..ServerChange::default()
    };
    catalog.change_server("eu-1", &cordoned(Some("disks"))).await.unwrap();

    assert_eq!(place(&fleet, &new_tenant("globex")).await.unwrap(), "default");
    let named = NewTenant { server: Some("eu-1".to_owned()), ..new_tenant("hooli") };
    assert!(refused(&fleet, &named).await.contains("it is cordoned: disks"));

    catalog.change_server("eu-1", &cordoned(None)).await.unwrap();
    catalog.change_server("default", &cordoned(Some(""))).await.unwrap();
    assert_eq!(place(&fleet, &new_tenant("hooli")).await.unwrap(), "eu-1");
    let acme = fleet.tenant("acme").await;
    assert_eq!(acme.server_name, "default");
    assert!(catalog.check_place(&acme, "default").await.is_ok(), "it stays where it is");
    let newest = AuditFilter { limit: 9, ..AuditFilter::default() };
    let mut log = catalog.audit_log(&newest).await.unwrap();
    log.retain(|event| event.action == "server.changed" && event.detail.get("cordoned").is_some());
    let told: Vec<_> = log.iter().map(|event| (&*event.action, &event.detail)).collect();
    let told_of = |server, before: Option<&str>, after: Option<&str>| json!({ "server": server, "cordoned": { "before": before, "after": after } });
    let changes = [
        told_of("default", None, Some("")),
        told_of("eu-1", Some("disks"), None),
        told_of("eu-1", None, Some("disks")),
    ];
    assert_eq!(told, changes.each_ref().map(|change| ("server.changed", change)));
}

#[tokio::test]
async fn rivals_are_kept_apart_in_both_directions_and_under_any_name() {
    let fleet = fleet(&[("eu-1", ServerChange::default())]).await;
    assert_eq!(place(&fleet, &new_tenant("acme")).await.unwrap(), "default");
    let apart = json!({ "apart_from": ["acme"] });
    assert_eq!(place(&fleet, &asked("globex", &apart)).await.unwrap(), "eu-1");
    let alias = "insert into tenant_slugs (slug, tenant_id, leads)
                 select 'acme-old', id, true from tenants where slug = 'acme'";
    fleet.admin("tenantry").await.batch_execute(alias).await.unwrap();
    let by_alias = asked("hooli", &json!({ "apart_from": "acme-old" }));
    assert_eq!(place(&fleet, &by_alias).await.unwrap(), "eu-1");

    // The other way round: who is there already does not want to be beside this one.
    let mut late = asked("initech", &json!({ "apart_from": ["umbrella"] }));
    late.server = Some("default".to_owned());
    assert_eq!(place(&fleet, &late).await.unwrap(), "default");
    assert_eq!(place(&fleet, &new_tenant("umbrella")).await.unwrap(), "eu-1");

    let catalog = fleet.catalog();
    assert!(catalog.contradictions().await.unwrap().is_empty());
    let by_hand = "update tenants set server_id = (select id from servers where name = 'default')
                   where slug = 'globex';
                   update tenants set settings = '{\"fleet\": {\"region\": \"eu\"}}' where slug = 'acme'";
    fleet.admin("tenantry").await.batch_execute(by_hand).await.unwrap();
    let found = catalog.contradictions().await.unwrap();
    let found: Vec<_> = found.iter().map(|one| (one.kind.as_str(), one.subject.as_str())).collect();
    assert_eq!(found, [("not_apart", "globex"), ("out_of_region", "acme")]);
}

#[tokio::test]
async fn what_a_tenant_had_comes_back_only_where_the_tenant_may_be() {
    let mut fleet = fleet(&[("us-1", region("us"))]).await;
    fleet.catalog().change_server("default", &region("eu")).await.unwrap();
    fleet.environment.limits.archives = Some(Box::new(ArchiveSettings {
        config: None,
        stanzas: BTreeMap::from([("default".to_owned(), "default".to_owned())]),
        scratch_dir: PathBuf::new(),
    }));
    let acme = fleet.create_tenant("acme").await.slug;
    let eu = TenantSettings::parse(json!({ "fleet": { "region": "eu" } })).unwrap();
    fleet.catalog().update_tenant(&acme, None, Some(&eu), "test").await.unwrap();
    fleet.complete(&fleet.environment.back_up(&acme, BY).await.unwrap()).await;
    let point = PointInTime { at: Timestamp::now(), archive_of: None };
    let to = |name: &str| RestoreAs { slug: slug(name), server: None };

    let refused = [
        fleet.environment.restore_on(&acme, BackupChoice::Latest, Some("us-1"), BY).await,
        fleet.environment.restore_at(&acme, point, Some("us-1"), BY).await,
    ];
    for asked in refused {
        assert!(
            matches!(&asked, Err(CatalogError::Conflict(why)) if why.contains("region us")),
            "{asked:?}"
        );
    }
    fleet.environment.restore_as(&acme, BackupChoice::Latest, to("copy"), BY).await.unwrap();
    fleet.environment.restore_at_as(&acme, point, to("earlier"), BY).await.unwrap();

    for copy in ["copy", "earlier"] {
        let copy = fleet.tenant(copy).await;
        assert_eq!((copy.server_name.as_str(), &copy.settings), ("default", &eu), "{}", copy.slug);
    }
}

#[tokio::test]
async fn waves_follow_regions() {
    let fleet = Fleet::start().await;
    fleet.catalog().change_server("default", &region("eu")).await.unwrap();
    fleet.create_tenant("acme").await;
    fleet.add_migration("V2__labels.sql", "create table labels (id bigint primary key);");
    fleet.environment.reload_migrations().await.unwrap();
    let plan = |region: &str| RolloutPlan {
        waves: vec![Selection::parse(&format!("region={region}")).unwrap()],
        ..RolloutPlan::default()
    };

    let nobody = fleet.environment.start_rollout(&plan("us"), "test").await.unwrap_err();
    assert!(matches!(nobody, RolloutError::Plan(_)), "{nobody}");
    let rollout = fleet.environment.start_rollout(&plan("eu"), "test").await.unwrap().unwrap();

    assert_eq!(rollout.waves, ["region=eu"]);
}

#[tokio::test]
async fn an_operator_sees_where_a_tenant_would_go_and_why() {
    let fleet = fleet(&[("eu-1", ServerChange::default()), ("us-1", region("us"))]).await;
    let run = |arguments: &[&str]| {
        let mut command = process::command(&fleet);
        let output = command.args(arguments).args(["--output-format", "json"]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), serde_json::from_str::<Value>(&text).unwrap_or(json!(said)))
    };

    let (status, server) =
        run(&["server", "set", "eu-1", "--region", "eu", "--tier", "any", "--max-tenants", "1"]);
    assert_eq!(
        (status, &server["region"], &server["max_tenants"]),
        (Some(0), &json!("eu"), &json!(1))
    );
    let (status, server) = run(&["server", "cordon", "us-1", "--reason", "disks"]);
    assert_eq!((status, &server["cordoned"]), (Some(0), &json!("disks")));

    let explain =
        ["tenant", "create", "--slug", "acme", "--region", "eu", "--tag", "beta", "--explain"];
    let (status, judged) = run(&explain);
    assert_eq!(status, Some(0), "{judged}");
    assert_eq!((&judged[0]["server"], &judged[0]["chosen"]), (&json!("eu-1"), &json!(true)));
    let unfit = json!(["it is in region us", "it is cordoned: disks"]);
    assert_eq!(judged[2]["unfit"], unfit);
    assert!(fleet.catalog().tenant(&slug("acme")).await.is_err(), "it only explains");

    let (status, judged) = run(&["server", "plan", "--region", "ap"]);
    assert_eq!((status, &judged[0]["chosen"]), (Some(1), &json!(false)));
    for bad in [
        &["server", "set", "eu-1"][..],
        &["server", "set", "eu-1", "--region", "EU West"],
        &["server", "set", "eu-1", "--tier", "gold"],
        &["tenant", "create", "--slug", "acme", "--tag", "Beta"],
    ] {
        assert_eq!(run(bad).0, Some(2), "{bad:?}");
    }
    let (status, _) = run(&["server", "cordon", "nowhere"]);
    assert_eq!(status, Some(1));
}

#[tokio::test]
async fn the_api_says_whom_a_server_takes() {
    let replica = Replica::start().await;
    let change = async |name: &str, body: Value| {
        let path = format!("/api/servers/{name}");
        let (status, answer) = replica.call(Method::PATCH, &path, Some(body)).await;
        (status.as_u16(), answer)
    };

    let (status, server) =
        change("default", json!({ "region": "eu", "max_tenants": 9, "cordoned": "disks" })).await;
    assert_eq!((status, &server["region"]), (200, &json!("eu")), "{server}");
    let (_, server) = change("default", json!({ "cordoned": null })).await;
    assert_eq!((&server["cordoned"], &server["max_tenants"]), (&Value::Null, &json!(9)));
    for bad in [
        json!({ "region": "EU" }),
        json!({ "max_tenants": 0 }),
        json!({ "connection_budget": 1_000_000 }),
        json!({ "tier": "gold" }),
        json!({ "cordoned": "\0" }),
        json!({ "colour": "red" }),
        json!({}),
    ] {
        assert_eq!(change("default", bad.clone()).await.0, 422, "{bad}");
    }
    assert_eq!(change("nowhere", json!({ "region": "eu" })).await.0, 404);
}
