//! Renaming a database together with its role: what is let end, what is ended, and what is refused.

use std::time::Duration;

use tenantry_provisioning::{DatabaseName, Error, Rename, RoleName, Server};
use tokio::time::Instant;
use uuid::Uuid;

use super::ground::Ground;
use super::subject::Subject;

async fn rename(
    server: &Server,
    acme: &Subject,
    to: &str,
    tenant: Uuid,
    grace: Duration,
) -> Result<(), Error> {
    let (database, role) = (DatabaseName::tenant(to).unwrap(), RoleName::tenant(to).unwrap());
    let from = (&acme.database, &acme.role);
    server.rename(Rename { from, to: (&database, &role), tenant, grace }).await
}

#[tokio::test]
async fn work_in_progress_may_end_and_what_takes_too_long_is_ended() {
    let ground = Ground::new().await;
    let server = ground.server().await;
    let mut acme = Subject::made("acme", &server).await;
    let (tenant, grace) = (acme.owner.tenant, Duration::from_secs(30));
    let quick = acme.connect(&server).await.unwrap();
    quick.batch_execute("begin; insert into boards (title) values ('x')").await.unwrap();
    let quick =
        tokio::spawn(async move { quick.batch_execute("select pg_sleep(0.3); commit").await });

    let began = Instant::now();
    rename(&server, &acme, "initech", tenant, grace).await.unwrap();
    assert!(began.elapsed() < grace / 2, "nobody waits longer than for what is in progress");
    quick.await.unwrap().unwrap();
    rename(&server, &acme, "initech", tenant, grace).await.expect("once equals twice");
    acme.database = DatabaseName::tenant("initech").unwrap();
    acme.role = RoleName::tenant("initech").unwrap();
    let slow = acme.connect(&server).await.unwrap();
    let row = slow.query_one("select count(*) from boards", &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 1);
    let slow = tokio::spawn(async move { slow.batch_execute("select pg_sleep(60)").await });

    rename(&server, &acme, "acme", tenant, Duration::from_millis(100)).await.unwrap();

    assert!(slow.await.unwrap().is_err());
    let again = Subject { database: DatabaseName::tenant("acme").unwrap(), ..acme };
    let again = Subject { role: RoleName::tenant("acme").unwrap(), ..again };
    again.connect(&server).await.unwrap();
    assert_eq!(again.findings(&server, 1).await, []);
}

#[tokio::test]
async fn what_is_not_the_tenants_is_neither_renamed_nor_overwritten() {
    let ground = Ground::new().await;
    let server = ground.server().await;
    let acme = Subject::made("acme", &server).await;
    Subject::made("globex", &server).await;
    let (tenant, grace) = (acme.owner.tenant, Duration::ZERO);

    for (to, tenant) in [("globex", tenant), ("initech", Uuid::new_v4())] {
        let refused = rename(&server, &acme, to, tenant, grace).await.unwrap_err();
        assert!(matches!(refused, Error::NotOurs { .. }), "{refused}");
    }
    ground.superuser_runs("create role tenant_initech").await;
    let refused = rename(&server, &acme, "initech", tenant, grace).await.unwrap_err();
    assert!(matches!(refused, Error::NotOurs { kind: "role", .. }), "{refused}");
    let missing = Subject { database: DatabaseName::tenant("hooli").unwrap(), ..acme };
    let refused = rename(&server, &missing, "hooli-2", tenant, grace).await.unwrap_err();
    assert!(matches!(refused, Error::Missing { .. }), "{refused}");
}
