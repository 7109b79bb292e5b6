//! Hardening: who can, and who says that they cannot.

use tenantry_provisioning::{
    DatabaseName, Error, Hardening, Server, Source, random_password, scram_verifier,
};
use uuid::Uuid;

use super::ground::Ground;

#[tokio::test]
async fn only_a_superuser_can_harden_and_others_hear_what_to_do() {
    let ground = Ground::new().await;
    let superuser = ground.server().await.hardened(Hardening::Strict);
    assert!(superuser.check().await.unwrap().is_empty());
    let secret = random_password();
    let verifier = scram_verifier(&secret);
    ground
        .superuser_runs(&format!(
            "create role keeper login createdb createrole password '{verifier}' in role tenantry_owner;
             grant set on parameter tenantry.tenant to keeper;
             grant connect on database postgres, template1 to keeper"
        ))
        .await;
    let keeper = Server::new(ground.bare_server().url().with_user("keeper", &secret), 2);
    assert!(keeper.check().await.unwrap().is_empty());
    let keeper = keeper.hardened(Hardening::Strict);
    let build = DatabaseName::build(Uuid::new_v4());
    keeper.create_build(&build, Source::Zero).await.unwrap();

    let problems = keeper.check().await.unwrap();
    let refused = keeper.open_build(&build).await.unwrap_err();

    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].remedy.contains("TENANTRY_HARDENING=standard"), "{problems:?}");
    assert!(matches!(refused, Error::MissingPrivilege { .. }), "{refused}");
    assert!(refused.remedy().unwrap().contains("alter role \"keeper\" superuser"), "{refused:?}");
    // What a superuser has hidden already asks for no right.
    assert!(superuser.harden(&build).await.unwrap() > 80);
    keeper.open_build(&build).await.unwrap();
}
