//! Clients that ask for much and read little.

use std::time::{Duration, Instant};

use serde_json::json;
use tenantry::router::RouterSettings;
use tenantry::sql::SqlSettings;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::harness::replica::Replica;
use crate::harness::router_settings;
use crate::sql::Sql;

const LONG: &str = "select repeat('x', 15000000) as x";

/// Asks for much, and gives the line on which nobody has read any of it.
async fn unread(sql: &Sql) -> TcpStream {
    let address = sql.url.trim_start_matches("http://").trim_end_matches("/sql");
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(address.parse().unwrap()).await.unwrap();
    let (body, token) = (json!({ "query": LONG }).to_string(), &sql.token);
    let request = format!(
        "POST /sql HTTP/1.1\r\nHost: {address}\r\nX-Tenant: acme\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    // Its head is there: the answer is made.
    assert_eq!(stream.read_u8().await.unwrap(), b'H');
    stream
}

#[tokio::test]
async fn an_http2_client_has_so_many_requests_at_a_time() {
    const SETTINGS: u8 = 4;
    const MAX_CONCURRENT_STREAMS: u16 = 3;
    let replica = Replica::start().await;
    let address = replica.public.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).await.unwrap();
    let hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    stream.write_all(hello).await.unwrap();

    let mut head = [0; 9];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(head[3], SETTINGS);
    let mut settings = vec![0; usize::from(u16::from_be_bytes([head[1], head[2]]))];
    stream.read_exact(&mut settings).await.unwrap();

    let most = settings.chunks(6).find(|one| one[..2] == MAX_CONCURRENT_STREAMS.to_be_bytes());
    assert_eq!(most.expect("a bound")[2..], 32_u32.to_be_bytes());
}

#[tokio::test]
async fn an_answer_that_nobody_reads_is_given_up() {
    let settings = SqlSettings { send_timeout: Duration::from_secs(1), ..SqlSettings::default() };
    let sql = Sql::start_with(settings, router_settings()).await;
    let mut stream = unread(&sql).await;
    tokio::time::sleep(Duration::from_millis(2500)).await;

    let mut got = Vec::new();
    let end = timeout(Duration::from_secs(20), stream.read_to_end(&mut got)).await;

    _ = end.expect("it is cut off");
    assert!(got.len() < 10_000_000, "{} bytes", got.len());
    sql.query(LONG).await.ok();
}

#[tokio::test]
async fn a_tenants_unread_answers_have_a_bound_and_keep_no_neighbour_waiting() {
    let settings = SqlSettings { send_timeout: Duration::from_secs(10), ..SqlSettings::default() };
    let wide = RouterSettings { pool_max_size: 20, ..router_settings() };
    let sql = Sql::start_with(settings, wide).await;
    let mut lines = Vec::new();
    for _ in 0..4 {
        lines.push(unread(&sql).await);
    }

    // 64 MiB of its own wait to be read; for more it has to wait until they are given up.
    let began = Instant::now();
    let (one_more, neighbour, short) = tokio::join!(
        sql.query(LONG),
        async {
            sql.ask("globex", json!({ "query": LONG })).await.ok();
            began.elapsed()
        },
        async {
            sql.query("select 1").await.ok();
            began.elapsed()
        },
    );

    assert!(one_more.status.is_success() || one_more.status.as_u16() == 503, "{one_more:?}");
    assert!(began.elapsed() > Duration::from_secs(1), "it had to wait");
    assert!(neighbour.max(short) < began.elapsed(), "others need not");
    drop(lines);
}
