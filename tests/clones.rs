//! A tenant made of another one: what it has of it, what it has not, and what nobody sees of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use tenantry::catalog::operations::OperationState;
use tenantry::catalog::servers::{Edit, ServerChange};
use tenantry::embedded::{EmbeddedPostgres, PostgresSettings};
use tenantry::operations::Runner;
use tenantry::operations::request::CloneAs;
use tenantry::tenant::{Label, TenantSettings, TenantState};
use tokio_util::sync::CancellationToken;

use crate::harness::replica::Replica;
use crate::harness::{BY, Fleet, clone_as, process, slug};

/// Fails unless every board has the mark of a mask that ran once.
pub async fn assert_masked_once(fleet: &Fleet, name: &str) {
    let sql = "select count(*) from boards where title like '%!' and title not like '%!!'";
    let admin = fleet.admin(&format!("tenant_{name}")).await;
    assert_eq!(admin.query_one(sql, &[]).await.unwrap().get::<_, i64>(0), 3);
}

async fn another(fleet: &Fleet, region: &str) -> EmbeddedPostgres {
    let other = EmbeddedPostgres::start_scratch(PostgresSettings::scratch()).await.unwrap();
    let record = fleet.catalog().add_server("eu-2", &other.url().into()).await.unwrap();
    fleet.environment.server(record.id).await.unwrap().prepare().await.unwrap();
    let region = Edit::Set(Label::parse(region).unwrap());
    let change = ServerChange { region, ..ServerChange::default() };
    fleet.catalog().change_server("eu-2", &change).await.unwrap();
    other
}

async fn clone(fleet: &Fleet, to: CloneAs) {
    let asked = fleet.environment.clone_tenant(&slug("acme"), to, BY).await.unwrap();
    fleet.complete(&asked).await;
}

const LEDGER: &str = "
    create table debits (n int primary key); create table credits (n int primary key);
    create table secrets (id int primary key, name text);
    grant select, insert, update on debits, credits, secrets to tenantry_app;
    insert into secrets values (1, 'Jane Doe');
    create sequence tickets start 1000; grant usage on sequence tickets to tenantry_app; select nextval('tickets');
    select lo_from_bytea(4711, 'large'); alter large object 4711 owner to tenant_acme";

#[tokio::test]
async fn a_clone_has_the_data_of_one_moment_and_nothing_else() {
    let fleet = Fleet::start().await;
    let other = another(&fleet, "eu").await;
    let acme = fleet.create_tenant_with("acme", true).await;
    fleet.admin("tenant_acme").await.batch_execute(LEDGER).await.unwrap();
    let settings = json!({
        "branding": { "display_name": "Acme" }, "sso": { "issuer": "https://sso.acme.example" },
        "backup": { "legal_hold": true, "goal_rpo": "26h" }, "fleet": { "tags": ["beta"] },
    });
    let settings = TenantSettings::parse(settings).unwrap();
    fleet.catalog().update_tenant(&slug("acme"), None, Some(&settings), "test").await.unwrap();
    let (router, running) = (fleet.router(), Arc::new(AtomicBool::new(true)));
    let (writing, on) = (router.clone(), Arc::clone(&running));
    let writer = tokio::spawn(async move {
        let mut n = 0;
        while on.load(Ordering::Relaxed) {
            let acme = writing.connection(&slug("acme")).await.unwrap();
            let both = format!(
                "begin; insert into debits values ({n}); insert into credits values ({n}); commit"
            );
            acme.batch_execute(&both).await.expect("nobody disturbs the original");
            n += 1;
        }
        n
    });

    for (name, server) in [("here", "default"), ("there", "eu-2")] {
        clone(&fleet, CloneAs { server: Some(server.to_owned()), ..clone_as(name) }).await;
    }

    running.store(false, Ordering::Relaxed);
    assert!(writer.await.unwrap() > 0);
    for (name, server) in [("here", &fleet.postgres), ("there", &other)] {
        let tenant = fleet.tenant(name).await;
        assert_eq!((tenant.state, tenant.epoch), (TenantState::Active, 1));
        assert_ne!((tenant.id, &tenant.role), (acme.id, &acme.role));
        let kept = json!({
            "branding": { "display_name": "Acme" }, "backup": { "goal_rpo": "26h" }, "fleet": { "tags": ["beta"] },
        });
        assert_eq!(tenant.settings.to_value(), kept);
        let clone = router.connection(&slug(name)).await.unwrap();
        let sql = "select (select count(*) from debits), (select count(*) from credits), (select count(*) from cards),
                          nextval('tickets'), convert_from(lo_get(4711), 'utf8'), inet_server_port()";
        let row = clone.query_one(sql, &[]).await.unwrap();
        assert_eq!(row.get::<_, i64>(0), row.get::<_, i64>(1), "one moment");
        assert_eq!(
            (row.get::<_, i64>(2), row.get::<_, i64>(3), row.get::<_, &str>(4)),
            (12, 1001, "large")
        );
        assert!(server.url().contains(&format!(":{}/", row.get::<_, i32>(5))));
        clone.execute("insert into debits values (-1)", &[]).await.unwrap();
    }
    let alone: i64 = fleet
        .admin("tenant_acme")
        .await
        .query_one("select count(*) from debits where n < 0", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(alone, 0);
    fleet.assert_healthy().await;
}

#[tokio::test]
async fn a_clone_keeps_to_the_region_of_its_original_and_takes_other_tags() {
    let fleet = Fleet::start().await;
    let _other = another(&fleet, "us").await;
    fleet.create_tenant("acme").await;
    let settings =
        TenantSettings::parse(json!({ "fleet": { "region": "eu", "tags": ["beta"] } })).unwrap();
    fleet.catalog().update_tenant(&slug("acme"), None, Some(&settings), "test").await.unwrap();
    let eu =
        ServerChange { region: Edit::Set(Label::parse("eu").unwrap()), ..ServerChange::default() };
    fleet.catalog().change_server("default", &eu).await.unwrap();
    let ask = async |to: CloneAs| fleet.environment.clone_tenant(&slug("acme"), to, BY).await;

    let us =
        ask(CloneAs { server: Some("eu-2".to_owned()), ..clone_as("globex") }).await.unwrap_err();
    assert!(us.to_string().contains("eu-2: it is in region us"), "{us}");
    assert!(ask(clone_as("acme")).await.unwrap_err().to_string().contains("exists"));
    let tags = [Label::parse("test").unwrap()].into();
    clone(&fleet, CloneAs { tags: Some(tags), ..clone_as("globex") }).await;

    let globex = fleet.tenant("globex").await;
    assert_eq!(globex.server_name, "default");
    assert_eq!(
        globex.settings.to_value(),
        json!({ "fleet": { "region": "eu", "tags": ["test"] } })
    );
}

/// Triggers run with a mask, and can do no more than the tenant; what cannot be masked does not open.
#[tokio::test]
async fn a_mask_runs_as_the_tenant_and_without_it_nothing_opens() {
    let fleet = Fleet::start().await;
    fleet.create_tenant_with("acme", true).await;
    let hostile = "create table secrets (id int primary key, name text, who text);
        insert into secrets values (1, 'Jane Doe');
        grant select, update on secrets to tenantry_app;
        create function spy() returns trigger language plpgsql as $$
        begin
            begin create role intruder superuser; exception when others then null; end;
            begin execute 'reset role'; exception when others then null; end;
            begin insert into tenantry.schema_history values (99); exception when others then null; end;
            new.who := session_user || ' ' || current_user || ' ' || pg_has_role('tenantry_owner', 'usage');
            return new;
        end $$;
        create trigger spy before update on secrets for each row execute function spy();
        create function nap() returns int language sql set statement_timeout = 0 as 'select 1 from pg_sleep(60)';";
    fleet.admin("tenant_acme").await.batch_execute(hostile).await.unwrap();
    let acme = slug("acme");
    let masked = |mask: &str| CloneAs { mask: Some(mask.to_owned()), ..clone_as("globex") };
    let ask = async |mask: &str| fleet.environment.clone_tenant(&acme, masked(mask), BY).await;

    for bad in [
        "update secrets set name = 'x'; commit",
        "copy secrets from stdin",
        "select '\0'",
        "set standard_conforming_strings = off; select '\\'; rollback; select '\\'",
    ] {
        assert!(ask(bad).await.is_err(), "{bad}");
    }
    let mut impatient = fleet.environment.clone();
    impatient.limits.migration_timeouts.statement = Duration::from_secs(8);
    let impatient = Runner::new(impatient, CancellationToken::new());
    for (bad, said, help) in [
        ("update secrets set name = 1 / 0", "refused: division by zero", "fix the masking SQL"),
        ("\nselect nothing from nowhere", "line 2: relation", "fix the masking SQL"),
        ("update tenantry.schema_history set version = 7", "permission denied", "and no more"),
        ("drop table secrets", "must be owner", "and no more"),
        ("select nap()", "ran for longer than 8s", "let it do less"),
    ] {
        let asked = ask(bad).await.unwrap();
        let ended = impatient.complete(asked.id).await.unwrap();
        let error = ended.error.unwrap();
        assert_eq!((ended.state, &*error.step), (OperationState::Failed, "mask"), "{bad}");
        assert!(error.message.contains(said), "{bad}: {}", error.message);
        assert!(error.remedy.unwrap_or_default().contains(help), "{bad}");
        assert!(fleet.router().connection(&slug("globex")).await.is_err(), "{bad}");
        fleet.environment.cancel(asked.id).await.unwrap();
        let ended = fleet.runner().complete(asked.id).await.unwrap();
        assert_eq!(ended.state, OperationState::Cancelled, "{:?}", ended.error);
    }

    clone(
        &fleet,
        masked("update secrets set name = 'N. N.'; update boards set title = title || '!'"),
    )
    .await;

    assert_masked_once(&fleet, "globex").await;
    let globex = fleet.admin("tenant_globex").await;
    let row = globex.query_one("select name, who from secrets", &[]).await.unwrap();
    assert_eq!(
        (row.get::<_, &str>(0), row.get::<_, &str>(1)),
        ("N. N.", "tenant_globex tenant_globex false")
    );
    let left = "select (select count(*) from pg_roles where rolname = 'intruder'),
                       (select count(*) from tenantry.schema_history where version > 1)";
    let row = globex.query_one(left, &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (0, 0));
    let catalog = fleet.admin("tenantry").await;
    let kept = "select count(*) from clone_masks";
    assert_eq!(
        catalog.query_one(kept, &[]).await.unwrap().get::<_, i64>(0),
        0,
        "it is needed no more"
    );
    let original =
        fleet.admin("tenant_acme").await.query_one("select name from secrets", &[]).await;
    assert_eq!(original.unwrap().get::<_, &str>(0), "Jane Doe");
    fleet.assert_healthy().await;
}

#[tokio::test]
async fn operators_clone_on_the_command_line_and_over_http() {
    let replica = Replica::start().await;
    replica.create("acme").await;
    let mask = replica.fleet.migrations.path().join("mask.txt");
    std::fs::write(&mask, "update boards set title = title || '!'").unwrap();
    let run = |arguments: &[&str]| {
        let mut command = process::command(&replica.fleet);
        command.args(["tenant", "clone", "acme"]).args(arguments).output().unwrap()
    };

    let done =
        run(&["--as", "test-1", "--mask", mask.to_str().unwrap(), "--output-format", "json"]);
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "{said}");
    assert_masked_once(&replica.fleet, "test-1").await;
    assert_eq!(run(&["--as", "test-1"]).status.code(), Some(1));
    assert_eq!(run(&["--as", "Test 2"]).status.code(), Some(2));

    let path = "/api/setup/tenants/acme/clone";
    let body = json!({ "as": "test-2", "tags": ["test"], "mask": "update boards set title = title || '!'" });
    let (status, asked) = replica.call(Method::POST, path, Some(body)).await;
    assert_eq!((status.as_u16(), &asked["kind"]), (202, &json!("clone")), "{asked}");
    assert!(!asked.to_string().contains("update boards"), "only its digest is told: {asked}");
    replica.settle(&asked).await;
    assert_masked_once(&replica.fleet, "test-2").await;
    for (body, expected) in [
        (json!({ "as": "test-2" }), 409),
        (json!({ "as": "Test" }), 422),
        (json!({}), 422),
        (json!({ "as": "test-3", "server": "nowhere" }), 404),
        (json!({ "as": "test-3", "mask": "commit" }), 409),
    ] {
        let (status, answer) = replica.call(Method::POST, path, Some(body.clone())).await;
        assert_eq!(status.as_u16(), expected, "{body}: {answer}");
    }
}
