//! The embedded cluster against real PostgreSQL programs, and against the ends that a process can meet.

use std::{
    error::Error as _,
    io::{BufRead as _, BufReader},
    net::{Ipv4Addr, TcpListener},
    process::{Child, ChildStdin},
};

use tokio_postgres::{Client, NoTls};

use super::*;

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// A directory that goes away after the test; root's PostgreSQL can reach it.
fn data_dir() -> (Scratch, PathBuf) {
    let scratch = Scratch::new().unwrap();
    let path = scratch.path().join("data");
    (scratch, path)
}

#[tokio::test]
async fn a_cluster_answers_over_tcp_and_over_its_socket() {
    let cluster = EmbeddedPostgres::start_scratch(PostgresSettings::scratch()).await.unwrap();

    for url in [cluster.url(), cluster.socket_url()] {
        let row = connect(&url).await.query_one("select current_user::text", &[]).await.unwrap();

        assert_eq!(row.get::<_, &str>(0), "postgres");
    }
}

#[tokio::test]
async fn a_wrong_password_is_refused_on_the_socket_too() {
    let cluster = EmbeddedPostgres::start_scratch(PostgresSettings::scratch()).await.unwrap();

    for url in [cluster.url(), cluster.socket_url()] {
        let url = url.replace(cluster.password(), "guessed");
        let error = tokio_postgres::connect(&url, NoTls).await.err().expect("no access");

        assert_eq!(error.code().map(tokio_postgres::error::SqlState::code), Some("28P01"));
    }
}

#[tokio::test]
async fn a_socket_only_cluster_has_no_port() {
    let settings = PostgresSettings { port: Port::SocketOnly, ..PostgresSettings::scratch() };
    let cluster = EmbeddedPostgres::start_scratch(settings).await.unwrap();

    assert_eq!(cluster.port(), None);
    let row = connect(&cluster.url()).await.query_one("show listen_addresses", &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "");
}

#[tokio::test]
async fn a_cluster_finds_its_data_again() {
    let (_scratch, path) = data_dir();
    let cluster = EmbeddedPostgres::start(PostgresSettings::new(&path)).await.unwrap();
    connect(&cluster.url()).await.batch_execute("create table kept ()").await.unwrap();
    cluster.stop().await.unwrap();

    let cluster = EmbeddedPostgres::start(PostgresSettings::new(&path)).await.unwrap();

    connect(&cluster.url()).await.batch_execute("select from kept").await.unwrap();
}

#[tokio::test]
async fn a_killed_cluster_recovers_under_the_same_url() {
    let mut cluster = EmbeddedPostgres::start_scratch(PostgresSettings::scratch()).await.unwrap();
    let url = cluster.url();
    connect(&url).await.batch_execute("create table kept ()").await.unwrap();

    cluster.kill();
    cluster.ended().await;
    cluster.restart().await.unwrap();

    assert_eq!(cluster.url(), url);
    connect(&url).await.batch_execute("select from kept").await.unwrap();
}

#[tokio::test]
async fn a_dropped_cluster_leaves_no_process_and_no_scratch_directory() {
    let cluster = EmbeddedPostgres::start_scratch(PostgresSettings::scratch()).await.unwrap();
    let _idle = connect(&cluster.url()).await;
    let place = Arc::downgrade(&cluster.place);
    let (pids, directory) = (cluster.processes(), cluster.place.socket_dir.clone());
    assert!(!pids.is_empty());

    drop(cluster);

    assert!(place.upgrade().is_none());
    assert!(!directory.exists());
    assert!(pids.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists()));
}

#[tokio::test]
async fn two_starts_on_one_directory_are_refused() {
    let (_scratch, path) = data_dir();
    let _cluster = EmbeddedPostgres::start(PostgresSettings::new(&path)).await.unwrap();

    let error = EmbeddedPostgres::start(PostgresSettings::new(&path)).await.unwrap_err();

    assert!(matches!(error, EmbeddedError::InUse { .. }), "{error}");
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let taken = listener.local_addr().unwrap().port();
    let settings = PostgresSettings { port: Port::Tcp(taken), ..PostgresSettings::scratch() };

    let error = EmbeddedPostgres::start_scratch(settings).await.unwrap_err();

    assert!(matches!(error, EmbeddedError::PortInUse { port } if port == taken), "{error}");
}

#[tokio::test]
async fn a_failed_start_quotes_the_log() {
    let extra = vec![("shared_buffers".to_owned(), "plenty".to_owned())];
    let settings = PostgresSettings { extra, ..PostgresSettings::scratch() };

    let error = EmbeddedPostgres::start_scratch(settings).await.unwrap_err();

    assert!(error.to_string().contains("plenty"), "{error}");
    assert!(error.source().is_none());
}

#[tokio::test]
async fn a_lost_password_file_is_explained() {
    let (_scratch, path) = data_dir();
    EmbeddedPostgres::start(PostgresSettings::new(&path)).await.unwrap().stop().await.unwrap();
    fs::remove_file(path.join("superuser-password")).unwrap();

    let error = EmbeddedPostgres::start(PostgresSettings::new(&path)).await.unwrap_err();

    assert!(matches!(error, EmbeddedError::Unusable { .. }), "{error}");
}

#[tokio::test]
async fn an_interrupted_initdb_is_begun_anew() {
    let (_scratch, path) = data_dir();
    fs::create_dir_all(path.join("cluster.new/base")).unwrap();
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();

    EmbeddedPostgres::start(PostgresSettings::new(&path)).await.unwrap();
}

/// The process that [`a_process_killed_with_sigkill_takes_its_cluster_along`] kills: this test binary
/// with this one test. It holds a cluster until its standard input closes.
#[tokio::test]
#[ignore = "the other half of another test, which runs it in a process of its own"]
async fn hold_a_cluster() {
    let Some(path) = std::env::var_os("TENANTRY_TEST_CLUSTER") else { return };
    let cluster = EmbeddedPostgres::start(PostgresSettings::new(path)).await.unwrap();
    let client = connect(&cluster.url()).await;
    client.batch_execute("create table if not exists kept ()").await.unwrap();
    println!("\nready {}", cluster.place.socket_dir.display());
    std::io::stdin().lines().next();
}

fn hold_a_cluster_elsewhere(data_dir: &Path) -> (Child, ChildStdin, PathBuf) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture"])
        .arg("embedded::postgres::tests::hold_a_cluster")
        .env("TENANTRY_TEST_CLUSTER", data_dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let stdin = child.stdin.take().unwrap();
    let directory = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .find_map(|line| line.unwrap().strip_prefix("ready ").map(PathBuf::from))
        .unwrap();
    (child, stdin, directory)
}

#[tokio::test]
async fn a_process_killed_with_sigkill_takes_its_cluster_along() {
    let (_scratch, path) = data_dir();
    let (mut child, _stdin, directory) = hold_a_cluster_elsewhere(&path);
    let cluster = path.join("cluster");
    assert!(!data_directory::processes_in(&cluster).is_empty());

    child.kill().unwrap();
    child.wait().unwrap();

    let deadline = Instant::now() + Duration::from_secs(10);
    while directory.exists() || !data_directory::processes_in(&cluster).is_empty() {
        assert!(Instant::now() < deadline, "something outlives the process");
        tokio::time::sleep(READY_POLL).await;
    }
    let cluster = EmbeddedPostgres::start(PostgresSettings::new(&path)).await.unwrap();
    connect(&cluster.url()).await.batch_execute("select from kept").await.unwrap();
}

#[tokio::test]
async fn a_start_right_after_a_kill_waits_for_the_old_cluster() {
    let (_scratch, path) = data_dir();
    let (mut child, _stdin, _) = hold_a_cluster_elsewhere(&path);

    child.kill().unwrap();
    child.wait().unwrap();
    let cluster = EmbeddedPostgres::start(PostgresSettings::new(&path)).await.unwrap();

    connect(&cluster.url()).await.batch_execute("select from kept").await.unwrap();
}

#[tokio::test]
async fn a_standby_follows_its_primary_and_can_take_its_place() {
    let primary = EmbeddedPostgres::start_scratch(PostgresSettings::scratch()).await.unwrap();
    let standby = primary.start_standby().await.unwrap();
    let (writer, reader) = (connect(&primary.url()).await, connect(&standby.url()).await);

    writer.batch_execute("create table kept ()").await.unwrap();
    while reader.batch_execute("select from kept").await.is_err() {
        tokio::time::sleep(READY_POLL).await;
    }
    assert!(reader.batch_execute("insert into kept default values").await.is_err());

    primary.kill();
    reader.batch_execute("select pg_promote()").await.unwrap();
    reader.batch_execute("insert into kept default values").await.unwrap();
}

#[tokio::test]
async fn a_copy_begins_with_what_its_template_holds_and_changes_nothing_there() {
    let cluster = EmbeddedPostgres::start_scratch(PostgresSettings::scratch()).await.unwrap();
    connect(&cluster.url()).await.batch_execute("create table kept ()").await.unwrap();
    let template = cluster.into_template().await;

    for _ in 0..2 {
        let copy =
            EmbeddedPostgres::start_copy(&template, PostgresSettings::scratch()).await.unwrap();
        connect(&copy.url()).await.batch_execute("drop table kept").await.unwrap();
    }
}
