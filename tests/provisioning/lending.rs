//! Sessions that are lent to PostgreSQL's programs, and how sessions are opened.

use std::os::unix::fs::PermissionsExt as _;
use std::process::{Output, Stdio};

use tenantry_provisioning::{Connection, DatabaseName, Error, Loan, Server, ServerUrl};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

use super::ground::Ground;
use super::subject::run;
use crate::harness::eventually;

const BEGIN: &str = "begin isolation level repeatable read, read only";

/// What is in a database that no setting of a session may change in its dump.
const CONTENTS: &str = "
    create table things (id serial primary key, at timestamptz, took interval, price float8, raw bytea, name text);
    insert into things (at, took, price, raw, name)
    select timestamptz '2026-03-01 12:00+09' + n * interval '1 hour', n * interval '1 day 2 hours', n / 3.0,
           '\\x00ff', null
    from generate_series(1, 2000) n;
    create view late as select * from things where at > now();
    create function twice(int) returns int language sql as 'select 2 * $1';
    comment on table things is 'kept';
    select lo_from_bytea(0, 'large')";

fn program(env: &[(&'static str, String)], arguments: &[&str]) -> Command {
    let mut command = Command::new("pg_dump");
    command.args(["--restrict-key=key", "--no-password"]).args(arguments);
    command.envs(env.iter().map(|(name, value)| (*name, value))).kill_on_drop(true);
    command
}

/// Lends a session to `pg_dump`, and says how both have ended.
async fn lend(
    server: &Server,
    session: &Connection,
    arguments: &[&str],
) -> (Output, Result<(), Error>) {
    let loan = Loan::open(session).await.unwrap().expect("it can be lent");
    let mut dump = program(&loan.libpq_env(server.url()), arguments);
    let (output, ended) = tokio::join!(dump.output(), loan.serve(session));
    (output.unwrap(), ended)
}

async fn open(server: &Server, database: &str) -> Connection {
    server.connect(&DatabaseName::parse(database).unwrap()).await.unwrap()
}

#[tokio::test]
async fn a_dump_in_our_session_is_the_one_that_pg_dump_makes_by_itself() {
    let ground = Ground::new().await;
    let server = ground.bare_server();
    for (encoding, name) in [("UTF8", r"\xc3\xa9"), ("LATIN1", r"\xe9"), ("SQL_ASCII", r"\xe9\xff")]
    {
        let database = format!("tenant_{}", encoding.to_lowercase().replace('_', "-"));
        run(
            &server,
            &format!(
                "create database \"{database}\" encoding '{encoding}' locale 'C' template template0"
            ),
        )
        .await;
        run(
            &server,
            &format!(
                "alter database \"{database}\" set timezone = 'Asia/Tokyo';
                 alter database \"{database}\" set datestyle = 'SQL, DMY';
                 alter database \"{database}\" set extra_float_digits = -3;
                 alter database \"{database}\" set bytea_output = 'escape'"
            ),
        )
        .await;
        let session = open(&server, &database).await;
        session.batch_execute(CONTENTS).await.unwrap();
        session.batch_execute(&format!("update things set name = e'{name}'")).await.unwrap();
        let url = server.url().with_database(&database);
        let mut env = url.libpq_env();
        env.push(("PGTZ", "UTC".to_owned()));

        let by_itself = program(&env, &[]).output().await.unwrap();
        let session = open(&server, &database).await;
        session.batch_execute(BEGIN).await.unwrap();
        let (lent, ended) = lend(&server, &session, &[]).await;

        ended.unwrap();
        assert!(by_itself.status.success() && lent.status.success(), "{lent:?}");
        assert!(by_itself.stdout.len() > 50_000, "{encoding}");
        assert!(by_itself.stdout == lent.stdout, "the two differ in {encoding}");
    }
}

#[tokio::test]
async fn a_dump_in_our_session_reads_in_our_snapshot_and_leaves_it_open() {
    let ground = Ground::new().await;
    let server = ground.bare_server();
    let other = open(&server, "postgres").await;
    other
        .batch_execute("create table things (name text); insert into things values ('before')")
        .await
        .unwrap();
    let session = open(&server, "postgres").await;
    session.batch_execute(BEGIN).await.unwrap();
    let count = "select count(*) from public.things";
    assert_eq!(session.query_one(count, &[]).await.unwrap().get::<_, i64>(0), 1);
    other.batch_execute("insert into things values ('after')").await.unwrap();

    let (dumped, ended) = lend(&server, &session, &[]).await;

    ended.unwrap();
    let text = String::from_utf8(dumped.stdout).unwrap();
    assert!(text.contains("before") && !text.contains("after"), "{text}");
    assert_eq!(session.query_one(count, &[]).await.unwrap().get::<_, i64>(0), 1);
    let encoding = session.query_one("show client_encoding", &[]).await.unwrap();
    assert_eq!(encoding.get::<_, &str>(0), "UTF8");
    session.batch_execute("commit").await.unwrap();
    assert_eq!(session.query_one(count, &[]).await.unwrap().get::<_, i64>(0), 2);
}

#[tokio::test]
async fn a_program_that_fails_gives_the_session_back() {
    let ground = Ground::new().await;
    let server = ground.bare_server();
    let session = open(&server, "postgres").await;
    session.batch_execute(BEGIN).await.unwrap();

    let (dumped, ended) = lend(&server, &session, &["--table=nobody"]).await;

    assert!(!dumped.status.success());
    ended.unwrap();
    session.batch_execute("rollback; select 1").await.unwrap();
}

#[tokio::test]
async fn a_program_that_is_killed_takes_the_session_with_it() {
    let ground = Ground::new().await;
    let server = ground.bare_server();
    let watch = open(&server, "postgres").await;
    watch
        .batch_execute(
            "create table things as select repeat('x', 1000) from generate_series(1, 20000)",
        )
        .await
        .unwrap();
    let session = open(&server, "postgres").await;
    let pid: i32 = session.query_one("select pg_backend_pid()", &[]).await.unwrap().get(0);
    session.batch_execute(BEGIN).await.unwrap();
    let loan = Loan::open(&session).await.unwrap().unwrap();
    // Nobody reads what it writes, so it stands still.
    let mut dump =
        program(&loan.libpq_env(server.url()), &[]).stdout(Stdio::piped()).spawn().unwrap();
    let state = "select count(*) from pg_stat_activity where pid = $1 and query like 'COPY%'";
    let kill = async {
        eventually("it copies", async || {
            watch.query_one(state, &[&pid]).await.unwrap().get::<_, i64>(0) == 1
        })
        .await;
        dump.kill().await.unwrap();
    };

    let (ended, ()) = tokio::join!(loan.serve(&session), kill);

    assert!(matches!(ended, Err(Error::Lent(_))), "{ended:?}");
    assert!(session.batch_execute("select 1").await.is_err());
    eventually("the server's process is gone", async || {
        let left = "select count(*) from pg_stat_activity where pid = $1";
        watch.query_one(left, &[&pid]).await.unwrap().get::<_, i64>(0) == 0
    })
    .await;
}

#[tokio::test]
async fn nobody_else_comes_to_the_socket_and_nothing_is_left_of_it() {
    let ground = Ground::new().await;
    let server = ground.bare_server();
    let session = open(&server, "postgres").await;

    let loan = Loan::open(&session).await.unwrap().unwrap();

    let env = loan.libpq_env(server.url());
    let folder = env.iter().find(|(name, _)| *name == "PGHOST").unwrap().1.clone();
    assert_eq!(std::fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
    assert!(env.iter().all(|(name, _)| *name != "PGPASSWORD"));
    drop(loan);
    assert!(!std::fs::exists(&folder).unwrap());
    session.batch_execute("select 1").await.unwrap();
}

#[tokio::test]
async fn an_encrypted_session_is_lent_too() {
    let ground = Ground::new().await;
    encrypt(&ground).await;
    let server = Server::new(ServerUrl::parse(&ground.url()).unwrap(), 2);
    let tied = format!("{}?sslmode=require&channel_binding=require", ground.url());
    let tied = Server::new(ServerUrl::parse(&tied).unwrap(), 2);
    let ssl = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";

    let session = open(&server, "postgres").await;
    assert!(session.query_one(ssl, &[]).await.unwrap().get::<_, bool>(0));
    session.batch_execute(BEGIN).await.unwrap();
    let (dumped, ended) = lend(&server, &session, &[]).await;

    ended.unwrap();
    assert!(dumped.status.success(), "{dumped:?}");
    let session = open(&tied, "postgres").await;
    assert!(session.query_one(ssl, &[]).await.unwrap().get::<_, bool>(0));
    assert!(Loan::open(&session).await.unwrap().is_none(), "the driver holds the line itself");
}

/// Has the server take TLS, with a certificate of nobody's.
async fn encrypt(ground: &Ground) {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let mut texts = Vec::new();
    for (name, text) in [("server.crt", cert.pem()), ("server.key", signing_key.serialize_pem())] {
        let lines = format!("select unnest(string_to_array($t${text}$t$, e'\\n'))");
        texts.push(format!("copy ({lines}) to program 'umask 077; cat > {name}'"));
    }
    texts.extend(["alter system set ssl = on", "select pg_reload_conf()"].map(str::to_owned));
    let admin = open(&ground.bare_server(), "postgres").await;
    for text in &texts {
        admin.batch_execute(text).await.unwrap();
    }
    let url = ServerUrl::parse(&format!("{}?sslmode=require", ground.url())).unwrap();
    eventually("it takes TLS", async || url.connect().await.is_ok()).await;
}

#[tokio::test]
async fn a_new_password_is_taken_and_the_old_one_refused() {
    let ground = Ground::new().await;
    let server = ground.bare_server();
    run(&server, "create role keeper login password 'one'").await;
    let as_keeper = |password: &str| server.url().with_user("keeper", &password.to_owned().into());
    as_keeper("one").connect().await.unwrap();
    as_keeper("one").connect().await.unwrap();

    run(&server, "alter role keeper password 'two'").await;

    let refused = as_keeper("one").connect().await.unwrap_err();
    assert_eq!(refused.sql_state().map(tokio_postgres::error::SqlState::code), Some("28P01"));
    as_keeper("two").connect().await.unwrap();
    run(&server, "alter role keeper password 'zwölf'").await;
    as_keeper("zwölf").connect().await.unwrap();
}

#[tokio::test]
async fn a_server_that_cannot_show_that_it_knows_the_password_is_not_believed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let url = format!("postgres://keeper:secret@127.0.0.1:{port}/postgres?sslmode=disable");
    let url = ServerUrl::parse(&url).unwrap();

    let (connected, ()) = tokio::join!(url.connect(), async {
        pretend(listener.accept().await.unwrap().0).await;
    });

    let refused = connected.expect_err("it knows no password").to_string();
    assert!(refused.contains("cannot prove that it knows the password"), "{refused}");
}

/// Lets anybody in, as one who only wants to hear what is said then.
async fn pretend(mut client: TcpStream) {
    let length = client.read_u32().await.unwrap();
    client.read_exact(&mut vec![0; length as usize - 4]).await.unwrap();
    say(&mut client, 10, b"SCRAM-SHA-256\0\0").await;
    let first = hear(&mut client).await;
    let nonce = first.rsplit("r=").next().unwrap();
    let challenge = format!("r={nonce}more,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096");
    say(&mut client, 11, challenge.as_bytes()).await;
    hear(&mut client).await;
    say(&mut client, 12, b"v=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=").await;
    say(&mut client, 0, b"").await;
    _ = client.write_all(b"Z\0\0\0\x05I").await;
}

async fn say(client: &mut TcpStream, kind: u32, text: &[u8]) {
    let mut message = vec![b'R'];
    message.extend(u32::try_from(8 + text.len()).unwrap().to_be_bytes());
    message.extend(kind.to_be_bytes());
    message.extend(text);
    // Whoever does not believe us is gone by the end.
    _ = client.write_all(&message).await;
}

async fn hear(client: &mut TcpStream) -> String {
    client.read_u8().await.unwrap();
    let length = client.read_u32().await.unwrap();
    let mut text = vec![0; length as usize - 4];
    client.read_exact(&mut text).await.unwrap();
    String::from_utf8_lossy(&text).into_owned()
}
