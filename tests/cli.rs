//! The binary as its user meets it: real commands, wrong input, exit statuses, and no secret printed.

use std::path::Path;
use std::process::{Command, Output};

use secrecy::ExposeSecret as _;
use serde_json::Value;

use crate::harness::Fleet;
use crate::harness::process::{KillOnDrop, command};

pub struct Cli<'a> {
    fleet: &'a Fleet,
    extra: Vec<(&'static str, String)>,
}

impl<'a> Cli<'a> {
    pub fn new(fleet: &'a Fleet) -> Self {
        Self { fleet, extra: Vec::new() }
    }

    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.extra.push((name, value.into()));
        self
    }

    pub async fn run(&self, line: &str) -> Output {
        let mut command = command(self.fleet);
        command.args(line.split(' '));
        for (name, value) in &self.extra {
            if value.is_empty() {
                command.env_remove(name)
            } else {
                command.env(name, value)
            };
        }
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    }

    /// Its status, and all that it prints and says.
    pub async fn told(&self, line: &str) -> (i32, String) {
        let output = self.run(line).await;
        (output.status.code().unwrap(), text(&[output.stdout, output.stderr].concat()))
    }

    pub async fn json(&self, line: &str) -> Value {
        let output = self.run(&format!("{line} --output-format json")).await;
        assert_eq!(output.status.code(), Some(0), "{line}: {}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// One clear error: this status, these words, help, no panic and no secret.
    pub async fn refused(&self, line: &str, status: i32, words: &str) {
        let output = self.run(line).await;
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{line}: {stderr}");
        assert!(stderr.contains(words), "{line}: {stderr}");
        assert!(!stderr.contains("panicked"), "{line}: {stderr}");
        for secret in [self.fleet.postgres.password(), self.fleet.master_key.expose_secret()] {
            assert!(!stderr.contains(secret), "{line} prints a secret");
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test]
async fn the_commands_run_the_main_job() {
    let fleet = Fleet::start().await;
    let cli = Cli::new(&fleet);

    let tenant = cli.json("tenant create --slug acme --sample-data").await;
    assert!(tenant.to_string().contains("acme"), "{tenant}");
    assert_eq!(cli.json("tenant show acme").await["status"], "active");
    cli.json("backup run acme").await;
    fleet.admin("tenant_acme").await.batch_execute("delete from cards").await.unwrap();
    cli.json("restore acme --latest --in-place --yes").await;
    assert_eq!(fleet.count("acme", "cards").await, 12);

    fleet.add_migration("V2__labels.sql", "create table labels (id bigint primary key);");
    let output = cli.run("migrate up --output-format json").await;
    let last = text(&output.stdout).lines().last().map(str::to_owned).unwrap();
    let end: Value = serde_json::from_str(&last).unwrap();
    assert_eq!((&end["status"], &end["succeeded"]), (&"succeeded".into(), &1.into()), "{end}");
    assert_eq!(fleet.tenant("acme").await.schema_version, 2);
    assert!(cli.json("migrate status").await.to_string().contains('2'));

    let url = text(&cli.run("tenant url acme").await.stdout);
    let client = crate::harness::connect(url.trim()).await.unwrap();
    assert_eq!(
        client.query_one("select current_user", &[]).await.unwrap().get::<_, &str>(0),
        "tenant_acme"
    );
    drop(client);

    cli.json("tenant suspend acme --reason unpaid").await;
    cli.json("tenant resume acme").await;
    let renamed = cli.json("tenant rename acme --to initech --yes").await;
    assert_eq!((&renamed["kind"], &renamed["status"]), (&"rename".into(), &"succeeded".into()));
    assert_eq!(cli.json("tenant show acme").await["aliases"][0], "acme");
    assert_eq!(cli.json("tenant alias list initech").await[0]["slug"], "acme");
    cli.refused("tenant create --slug acme", 4, "choose another").await;
    cli.refused("tenant rename acme --to hooli", 4, "add --yes").await;
    cli.refused("tenant create --slug hooli --apart-from nobody", 1, "there is no tenant `nobody`")
        .await;
    let (status, plan) = cli.told("server drain default --plan").await;
    assert_eq!(status, 1);
    assert!(plan.contains("there is no other server; `tenantry server add`"), "{plan}");
    cli.json("tenant alias remove initech acme").await;
    cli.refused("tenant show acme", 1, "there is no tenant").await;
    cli.json("doctor").await;
    cli.json("server list").await;
    cli.json("server check").await;
    cli.json("operation list").await;
    cli.json("config show").await;
    cli.json("tenant delete initech --yes").await;
    fleet.assert_healthy().await;
}

#[tokio::test]
async fn bad_slugs_are_wrong_usage() {
    let fleet = Fleet::start().await;
    let cli = Cli::new(&fleet);
    let long = "a".repeat(51);

    for slug in [
        "",
        &long,
        "Acme",
        "-acme",
        "acme-",
        "a_b",
        "../x",
        "acme\";drop",
        "postgres",
        "template1",
        "tenantry",
        "admin",
        "аcme",
    ] {
        let output = cli.run(&format!("tenant create --slug={slug}")).await;
        assert_eq!(output.status.code(), Some(2), "{slug:?}: {}", text(&output.stderr));
    }
}

#[tokio::test]
async fn wrong_settings_are_named() {
    let fleet = Fleet::start().await;
    let nowhere = "postgres://nobody:hush@127.0.0.1:1/tenantry";

    let cases: [(&'static str, &str, i32, &str); 7] = [
        ("TENANTRY_CATALOG_URL", nowhere, 1, "cannot be reached"),
        ("TENANTRY_CATALOG_URL", "ftp://x", 2, "TENANTRY_CATALOG_URL"),
        ("TENANTRY_MASTER_KEY", "", 2, "TENANTRY_MASTER_KEY"),
        ("TENANTRY_MASTER_KEY", "short", 2, "TENANTRY_MASTER_KEY"),
        ("TENANTRY_COLOUR", "red", 2, "TENANTRY_COLOUR"),
        ("TENANTRY_TENANT_MIGRATIONS_DIR", "/nowhere", 1, "/nowhere"),
        ("TENANTRY_POOL_MAX_SIZE", "many", 2, "TENANTRY_POOL_MAX_SIZE"),
    ];
    for (name, value, status, words) in cases {
        let cli = Cli::new(&fleet).with(name, value);
        let line = if name.ends_with("DIR") { "tenant create --slug acme" } else { "tenant list" };
        cli.refused(line, status, words).await;
    }
    let other = tenantry::sealing::MasterKey::generate();
    let cli = Cli::new(&fleet).with("TENANTRY_MASTER_KEY", other.expose_secret());
    cli.refused("tenant list", 1, "sealed under the master key").await;
}

#[tokio::test]
async fn a_catalog_of_another_version_is_refused() {
    let fleet = Fleet::start().await;
    let catalog = fleet.admin("tenantry").await;
    let cli = Cli::new(&fleet);

    catalog
        .batch_execute(
            "update refinery_schema_history set version = 99
             where version = (select max(version) from refinery_schema_history)",
        )
        .await
        .unwrap();
    cli.refused("tenant list", 1, "install a newer tenantry").await;
    catalog.batch_execute("delete from refinery_schema_history where version = 99").await.unwrap();
    cli.refused("tenant list", 1, "run `tenantry init`").await;
    let empty =
        Cli::new(&fleet).with("TENANTRY_CATALOG_URL", fleet.postgres.database_url("postgres"));
    empty.refused("tenant list", 1, "run `tenantry init`").await;
}

#[tokio::test]
async fn members_are_users_of_an_identity_provider() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let nobody = Cli::new(&fleet);
    let cli = Cli::new(&fleet)
        .with("TENANTRY_AUTH_PROVIDER", "oidc")
        .with("TENANTRY_OIDC_ISSUER", "https://id.example")
        .with("TENANTRY_OIDC_CLIENT_ID", "app");

    nobody.refused("tenant member add acme user-1", 2, "--issuer").await;
    cli.refused("tenant member add acme user-1 --role king", 2, "owner, admin, member, read_only")
        .await;
    cli.refused("tenant member add nobody user-1", 1, "no tenant `nobody`").await;
    let added = cli.json("tenant member add acme user-1 --role read_only").await;
    assert_eq!(
        (&added["issuer"], &added["role"]),
        (&"https://id.example".into(), &"read_only".into())
    );
    nobody.json("tenant member add acme user-1 --role owner --issuer https://other.example").await;

    let members = nobody.json("tenant member list acme").await;
    assert_eq!(members.as_array().unwrap().len(), 2, "{members}");
    cli.json("tenant member remove acme user-1").await;
    cli.refused("tenant member remove acme user-1", 1, "no member `user-1`").await;
    assert_eq!(nobody.json("tenant member list acme").await[0]["role"], "owner");
}

#[tokio::test]
async fn destruction_needs_a_yes() {
    let fleet = Fleet::start().await;
    fleet.create_tenant_with("acme", true).await;
    fleet.back_up("acme").await;
    let cli = Cli::new(&fleet);

    cli.refused("tenant delete acme", 4, "--yes").await;
    cli.refused("restore acme --latest --in-place", 4, "--yes").await;

    assert_eq!(fleet.count("acme", "boards").await, 3);
}

/// A program reads what went wrong as it reads the rest: the last line of stderr, and nothing on stdout.
#[tokio::test]
async fn whoever_asks_for_json_gets_errors_as_json() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let cli = Cli::new(&fleet);

    for (line, status, error, detail, code) in [
        (
            "tenant show nobody",
            1,
            "there is no tenant `nobody`",
            "`tenantry tenant list`",
            "not_found",
        ),
        (
            "tenant create --slug acme",
            1,
            "tenant `acme` exists already",
            "choose another name",
            "exists",
        ),
        ("tenant delete acme", 4, "delet", "add --yes", ""),
        (
            "tenant show acme --colour",
            2,
            "unexpected argument '--colour'",
            "Usage: tenantry tenant show",
            "",
        ),
        ("tenant", 2, "requires a subcommand", "--help", ""),
    ] {
        let output = cli.run(&format!("{line} --output-format json")).await;
        let said = text(&output.stderr);
        let told: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();

        assert_eq!((output.status.code(), text(&output.stdout)), (Some(status), String::new()));
        assert!(told["error"].as_str().unwrap().contains(error), "{line}: {told}");
        assert!(told["detail"].as_str().unwrap().contains(detail), "{line}: {told}");
        assert_eq!(told["code"].as_str().unwrap_or_default(), code, "{line}: {told}");
    }
    let wrong = cli.with("TENANTRY_COLOUR", "red");
    let output = wrong.run("tenant list --output-format=json").await;
    let told: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert!(told["error"].as_str().unwrap().contains("TENANTRY_COLOUR"), "{told}");
}

#[tokio::test]
async fn a_fleet_run_with_a_failure_is_partly_done() {
    let fleet = Fleet::start().await;
    fleet.create_tenant_with("acme", true).await;
    fleet.create_tenant("globex").await;
    fleet.add_migration(
        "V2__empty.sql",
        "alter table boards add constraint none check (title <> 'Welcome');",
    );

    let cli = Cli::new(&fleet);
    let output = cli.run("migrate up").await;

    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
    let said = text(&output.stdout) + &text(&output.stderr);
    assert!(said.contains("acme") && said.contains("V2__empty.sql"), "{said}");
}

#[tokio::test]
async fn init_creates_what_is_missing_and_can_be_repeated() {
    let fleet = Fleet::start().await;
    let cli =
        Cli::new(&fleet).with("TENANTRY_CATALOG_URL", fleet.postgres.database_url("fresh_catalog"));

    let first = cli.run("init").await;
    assert_eq!(first.status.code(), Some(0), "{}", text(&first.stderr));
    assert!(text(&first.stdout).contains("tenantry_"), "the first token is printed");
    let second = cli.run("init").await;
    assert_eq!(second.status.code(), Some(0), "{}", text(&second.stderr));
    assert!(!text(&second.stdout).contains("tenantry_"), "it cannot be had again");
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let fleet = Fleet::start().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let cli = Cli::new(&fleet)
        .with("TENANTRY_LISTEN", &address)
        .with("TENANTRY_ADMIN_LISTEN", "127.0.0.1:0");

    cli.refused("serve", 1, &address).await;
}

#[tokio::test]
async fn a_store_that_hangs_is_given_up() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let store = tenantry_backup::S3Settings {
        endpoint: Some(endpoint),
        ..crate::harness::s3_settings(&fleet.s3)
    };

    let store = tenantry_backup::BackupStore::s3(store).await.unwrap();
    let checked = tokio::time::timeout(std::time::Duration::from_mins(1), store.check()).await;

    assert!(checked.expect("it ends by itself").unwrap_err().is_transient());
}

/// `dev` keeps what it has: a second start finds the tenants of the first.
#[tokio::test]
async fn a_second_start_of_dev_finds_its_data() {
    let folder = tempfile::Builder::new().prefix("tenantry-dev-").tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    let settings = folder.path().join("tenantry.toml");

    for round in 0..2 {
        let mut dev = KillOnDrop(start_dev(folder.path()));
        crate::harness::eventually("dev has its server", async || {
            text(&run_with(&settings, "server list").await.stdout).contains("default")
        })
        .await;
        if round == 0 {
            let created = run_with(&settings, "tenant create --slug acme --sample-data").await;
            assert!(created.status.success(), "{}", text(&created.stderr));
        }
        let listed = run_with(&settings, "tenant list").await;
        assert!(text(&listed.stdout).contains("acme"), "{}", text(&listed.stdout));
        let interrupt =
            Command::new("kill").args(["-INT", &dev.0.id().to_string()]).status().unwrap();
        assert!(interrupt.success());
        assert!(dev.0.wait().unwrap().success());
    }
}

fn start_dev(folder: &Path) -> std::process::Child {
    Command::new(env!("CARGO_BIN_EXE_tenantry"))
        .args(["dev", "--port", "0", "--quiet", "--data-dir"])
        .arg(folder)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .spawn()
        .unwrap()
}

async fn run_with(settings: &Path, line: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tenantry"));
    command.args(line.split(' ')).env_clear().env("TENANTRY_CONFIG", settings);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}
