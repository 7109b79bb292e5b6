//! What somebody meets who does not know the commands yet: what is wrong is told before anything is asked or done, and
//! nothing is left out in silence.

use tenantry::catalog::CatalogError;
use tenantry::catalog::tenants::NewTenant;
use tenantry::tenant::{TenantSettings, Tier};

use crate::cli::Cli;
use crate::harness::{BY, Fleet, slug};

#[tokio::test]
async fn what_makes_no_sense_is_refused_with_what_would() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    fleet.create_tenant("globex").await;
    let cli = Cli::new(&fleet);
    let long = "x".repeat(1_001);

    for (line, status, words) in [
        ("migrate up --bake 5m", 2, "--canary or --wave"),
        ("migrate plan --bake 5m", 2, "--canary or --wave"),
        ("restore acme --latest", 2, "--table <TABLE>"),
        ("tenant export acme --to -", 2, "a new file that ends in .zip"),
        ("audit-log verify --public-key bad", 2, "64 hexadecimal digits"),
        ("tenant settings set acme fleet.region=", 2, "`--unset fleet.region`"),
        ("tenant settings set acme limits.statement_timeout=30", 2, "such as `30s`"),
        ("tenant create --slug initech --name=", 2, "is not blank"),
        (&format!("tenant create --slug initech --name {}", &long[..201]), 2, "1 to 200"),
        (&format!("tenant suspend acme --reason {long}"), 2, "1 to 1000"),
        ("backup show nope", 2, "an id looks like"),
        ("audit show nope", 2, "`tenantry audit list` shows them"),
        ("migrate show nope", 2, "`tenantry migrate show` tells of the newest"),
        ("audit-log --tenant nope", 1, "there is no tenant `nope`"),
        ("audit-log --since 1h --until 2h", 2, "is not before"),
        ("tenant list --server nope", 1, "there is no server `nope`"),
        ("usage --from 2026-11-30 --to 2026-11-01", 2, "is after --to"),
        ("audit-log --limit -5", 2, "invalid value '-5'"),
        // None of these asks for a confirmation first.
        ("tenant rename globex --to acme", 4, "is taken"),
        ("tenant rename globex --to globex", 4, "is called `globex` already"),
        ("server remove default", 4, "it has 2 tenants"),
    ] {
        cli.refused(line, status, words).await;
    }

    let servers = cli.json("server list").await;
    assert_eq!(servers.as_array().unwrap().len(), 1);
    cli.refused("tenant rename globex --to hooli", 4, "add --yes").await;
}

#[tokio::test]
async fn what_is_cut_off_or_cannot_be_yet_is_told() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    for _ in 0..2 {
        fleet.back_up("acme").await;
        fleet
            .admin("tenant_acme")
            .await
            .batch_execute("create table if not exists t ()")
            .await
            .unwrap();
    }
    let cli = Cli::new(&fleet);
    let more = "are shown, and there are more";

    for (line, words, is_there) in [
        ("backup list --limit 1", more, true),
        ("backup list --limit 2", more, false),
        ("backup list", "(Debian", false),
        ("audit-log --limit 1", more, true),
        ("audit-log --limit 1 --csv", more, true),
        ("audit-log --all", more, false),
        ("audit-log", more, false),
        ("audit-log --limit 1 --quiet", more, false),
        ("key status", "STATE", true),
        ("tenant settings set acme fleet.region=eu", "No server is in eu yet", true),
        ("tenant settings set acme branding.primary_color=#1a2b3c", "No server is in", false),
        ("server set default --region eu", "", true),
        ("tenant settings set acme fleet.region=eu", "No server is in", false),
    ] {
        let (status, told) = cli.told(line).await;
        assert_eq!((status, told.contains(words)), (0, is_there), "{line}: {told}");
    }
}

/// Whoever was deleted is in the log still.
#[tokio::test]
async fn the_log_of_a_tenant_that_is_gone_can_be_read() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let cli = Cli::new(&fleet);
    cli.json("tenant delete acme --yes").await;

    let (status, told) = cli.told("audit-log --tenant acme").await;

    assert_eq!(status, 0, "{told}");
    assert!(told.contains("acme"), "{told}");
}

#[tokio::test]
async fn a_tenant_without_a_name_is_not_made() {
    let fleet = Fleet::start().await;
    for name in [" ".to_owned(), "x".repeat(201)] {
        let new = NewTenant {
            slug: slug("acme"),
            name,
            tier: Tier::Shared,
            settings: TenantSettings::default(),
            server: None,
            track: None,
        };

        let made = fleet.environment.create_tenant(&new, false, BY).await;

        assert!(matches!(made, Err(CatalogError::Conflict(_))), "{made:?}");
    }
}
