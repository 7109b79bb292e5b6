//! Where requests come in: TLS and its certificates, other people's pages, proxies in between.

use std::net::IpAddr;
use std::time::Duration;

use axum::routing::get;
use axum::{Extension, Router};
use reqwest::{Client, Method, StatusCode, Version};
use secrecy::ExposeSecret as _;
use serde_json::Value;
use tenantry::api::serving::{self, Edge, Tls, TlsFiles};
use tenantry::catalog::tokens::Scope;
use tenantry::resolve::{ClientAddress, TrustedProxies};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::harness::certificates::{Authority, Leaf, Mount};
use crate::harness::process::{Serving, command};
use crate::harness::{Fleet, eventually};

/// A listener whose one endpoint tells the client's address.
struct Listener {
    address: String,
    serving: JoinHandle<()>,
    shutdown: DropGuard,
}

impl Listener {
    async fn open(edge: Edge) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap().to_string();
        let tell = async |Extension(ClientAddress(address))| IpAddr::to_string(&address);
        let routes = Router::new().route("/", get(tell));
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(serving::serve(socket, routes, edge, shutdown.clone()));
        Self { address, serving, shutdown: shutdown.drop_guard() }
    }

    /// Sooner than requests under way would be cut off.
    async fn close(self) {
        drop(self.shutdown);
        timeout(Duration::from_secs(9), self.serving).await.expect("it ends").unwrap();
    }

    async fn encrypted(mount: &Mount, client_ca: bool) -> Self {
        let tls = Some(Tls::load(files(mount, client_ca)).unwrap());
        Self::open(Edge { tls, ..Edge::default() }).await
    }
}

fn files(mount: &Mount, client_ca: bool) -> TlsFiles {
    TlsFiles {
        certificate: mount.path("tls.crt"),
        key: mount.path("tls.key"),
        client_ca: client_ca.then(|| mount.path("ca.crt")),
    }
}

/// Asks on a connection that stays; returns the first line of the answer.
async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> std::io::Result<String> {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n127.0.0.1") {
        if stream.read_buf(&mut answer).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned())
}

async fn is_shown(leaf: &Leaf, address: &str, authority: &Authority) -> bool {
    let stream = authority.connect(address, None).await.unwrap();
    let (_, session) = stream.get_ref();
    session.peer_certificates().unwrap()[0] == *leaf.certificate.der()
}

#[tokio::test]
async fn both_versions_of_http_are_spoken_over_tls() {
    let authority = Authority::new("ours");
    let listener = Listener::encrypted(&Mount::new(&authority.issue(), &authority), false).await;
    let url = format!("https://localhost:{}/", listener.address.rsplit(':').next().unwrap());
    let plain = Listener::open(Edge::default()).await;

    let second = authority.client().build().unwrap().get(&url).send().await.unwrap();
    let first = authority.client().http1_only().build().unwrap().get(&url).send().await.unwrap();
    let bare = reqwest::get(format!("http://{}/", plain.address)).await.unwrap();

    assert_eq!((second.version(), second.status()), (Version::HTTP_2, StatusCode::OK));
    assert_eq!((first.version(), first.status()), (Version::HTTP_11, StatusCode::OK));
    assert_eq!(first.headers()["strict-transport-security"], "max-age=31536000");
    assert!(!bare.headers().contains_key("strict-transport-security"));
}

#[tokio::test]
async fn a_new_certificate_is_shown_and_old_connections_go_on() {
    let authority = Authority::new("ours");
    let (old, new) = (authority.issue(), authority.issue());
    let mount = Mount::new(&old, &authority);
    let listener = Listener::encrypted(&mount, false).await;
    let mut open = authority.connect(&listener.address, None).await.unwrap();
    assert_eq!(ask(&mut open).await.unwrap(), "HTTP/1.1 200 OK");
    assert!(is_shown(&old, &listener.address, &authority).await);

    mount.swap(&new.certificate.pem(), &new.key.serialize_pem(), &authority.pem());

    eventually("the new one is shown", async || {
        is_shown(&new, &listener.address, &authority).await
    })
    .await;
    assert_eq!(ask(&mut open).await.unwrap(), "HTTP/1.1 200 OK");
}

#[tokio::test]
async fn only_clients_of_the_authority_get_through_the_handshake() {
    let (authority, other) = (Authority::new("ours"), Authority::new("theirs"));
    let server = authority.issue();
    let mount = Mount::new(&server, &authority);
    let listener = Listener::encrypted(&mount, true).await;
    let (good, wrong) = (authority.issue(), other.issue());
    // In TLS 1.3 a client hears only after its own handshake that it was refused.
    let enters = async |own: Option<&Leaf>| {
        let stream = authority.connect(&listener.address, own).await;
        match stream {
            Ok(stream) => ask(stream).await.is_ok(),
            Err(_) => false,
        }
    };

    assert!(enters(Some(&good)).await);
    assert!(!enters(None).await);
    assert!(!enters(Some(&wrong)).await);

    mount.swap(&server.certificate.pem(), &server.key.serialize_pem(), &other.pem());
    eventually("the other authority counts", async || enters(Some(&wrong)).await).await;
    assert!(!enters(Some(&good)).await);
}

#[tokio::test]
async fn plain_http_gets_nothing_from_a_tls_port() {
    let authority = Authority::new("ours");
    let listener = Listener::encrypted(&Mount::new(&authority.issue(), &authority), false).await;
    let mut stream = TcpStream::connect(&listener.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();

    let mut answer = Vec::new();
    // How it ends is the system's affair: closed or reset.
    let end = timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await;

    assert!(end.is_ok(), "it is still open");
    assert!(!answer.starts_with(b"HTTP/"));
}

#[tokio::test]
async fn handshakes_that_do_not_go_on_hold_nobody_up_and_are_cut_off() {
    let authority = Authority::new("ours");
    let listener = Listener::encrypted(&Mount::new(&authority.issue(), &authority), false).await;
    let mut stuck = Vec::new();
    for _ in 0..64 {
        let mut stream = TcpStream::connect(&listener.address).await.unwrap();
        stream.write_all(b"\x16\x03\x01\x02\x00").await.unwrap();
        stuck.push(stream);
    }
    // Shakes hands, and then has nothing to say.
    let mut silent = authority.connect(&listener.address, None).await.unwrap();

    let served = async { ask(authority.connect(&listener.address, None).await?).await };
    let head = timeout(Duration::from_secs(8), served).await.expect("it waits for nobody").unwrap();

    assert_eq!(head, "HTTP/1.1 200 OK");
    let mut answer = Vec::new();
    for mut stream in stuck {
        let end = timeout(Duration::from_secs(15), stream.read_to_end(&mut answer)).await;
        assert!(end.is_ok(), "a handshake is still open");
    }
    let end = timeout(Duration::from_secs(15), silent.read_to_end(&mut answer)).await;
    assert!(end.is_ok(), "a silent client is still there");
}

#[tokio::test]
async fn a_shutdown_waits_for_no_client_that_has_not_asked_yet() {
    let authority = Authority::new("ours");
    let plain = Listener::open(Edge::default()).await;
    let encrypted = Listener::encrypted(&Mount::new(&authority.issue(), &authority), false).await;
    let mut waiting = Vec::new();
    for (listener, begin) in
        [(&plain, "PRI"), (&plain, ""), (&encrypted, "\x16\x03"), (&encrypted, "")]
    {
        let mut stream = TcpStream::connect(&listener.address).await.unwrap();
        stream.write_all(begin.as_bytes()).await.unwrap();
        waiting.push(stream);
    }
    let _silent = authority.connect(&encrypted.address, None).await.unwrap();
    // Whoever came before is accepted once these are answered.
    ask(TcpStream::connect(&plain.address).await.unwrap()).await.unwrap();
    ask(authority.connect(&encrypted.address, None).await.unwrap()).await.unwrap();

    plain.close().await;
    encrypted.close().await;
}

#[tokio::test]
async fn files_that_make_no_tls_are_refused_with_what_to_do() {
    let (authority, other) = (Authority::new("ours"), Authority::new("theirs"));
    let leaf = authority.issue();
    let (certificate, key) = (leaf.certificate.pem(), leaf.key.serialize_pem());
    let (half, foreign) = (&certificate[..certificate.len() / 2], other.issue().key);
    let chain = format!("{certificate}{half}");
    let ca = authority.pem();
    let cases = [
        ("", key.as_str(), ca.as_str(), "holds no whole certificate"),
        (half, &key, &ca, "holds no whole certificate"),
        (&chain, &key, &ca, "holds no whole certificate"),
        (&key, &certificate, &ca, "holds no whole certificate"),
        (&certificate, &certificate, &ca, "holds no private key"),
        (&certificate, &key[..key.len() / 2], &ca, "holds no private key"),
        (&certificate, &foreign.serialize_pem(), &ca, "cannot be used with the key"),
        (&certificate, &key, "rubbish", "holds no whole certificate"),
    ];

    for (certificate, key, ca, words) in cases {
        let mount = Mount::new(&leaf, &authority);
        mount.swap(certificate, key, ca);
        let error = Tls::load(files(&mount, true)).err().unwrap();
        assert!(error.to_string().contains(words), "{words}: {error}");
        assert!(!error.remedy().is_empty());
    }
    let mount = Mount::new(&leaf, &authority);
    let missing = TlsFiles { key: mount.path("nowhere"), ..files(&mount, false) };
    assert!(Tls::load(missing).err().unwrap().to_string().contains("nowhere cannot be read"));
}

#[tokio::test]
async fn a_handler_sees_the_client_that_a_trusted_proxy_names() {
    let proxies = TrustedProxies::parse(["127.0.0.2"]).unwrap();
    let listener = Listener::open(Edge { proxies, ..Edge::default() }).await;
    let seen = async |from: &str| {
        let from: IpAddr = from.parse().unwrap();
        let client = Client::builder().local_address(from).build().unwrap();
        let request = client.get(format!("http://{}/", listener.address));
        let request = request.header("X-Forwarded-For", "1.1.1.1, 203.0.113.9, 127.0.0.2");
        request.send().await.unwrap().text().await.unwrap()
    };

    assert_eq!(seen("127.0.0.1").await, "127.0.0.1");
    assert_eq!(seen("127.0.0.2").await, "203.0.113.9");
}

#[tokio::test]
async fn serve_encrypts_and_a_broken_pair_is_kept_out() {
    let fleet = Fleet::start().await;
    let token = token(&fleet).await;
    let (authority, clients) = (Authority::new("ours"), Authority::new("clients"));
    let (old, new) = (authority.issue(), authority.issue());
    let mount = Mount::new(&old, &clients);
    let path = |name| mount.path(name).to_str().unwrap().to_owned();
    let mut serving = Serving::start_with(
        &fleet,
        &[
            ("TENANTRY_TLS_CERT", &path("tls.crt")),
            ("TENANTRY_TLS_KEY", &path("tls.key")),
            ("TENANTRY_ADMIN_TLS_CLIENT_CA", &path("ca.crt")),
        ],
    );
    let public = serving.address("the data plane").await.replace("http:", "https:");
    let admin = serving.address("the admin API").await.replace("http:", "https:");
    let own = clients.issue();
    let identity = own.certificate.pem() + &own.key.serialize_pem();
    let identity = reqwest::Identity::from_pem(identity.as_bytes()).unwrap();
    let client = authority.client().build().unwrap();
    let operator = authority.client().identity(identity).build().unwrap();
    let list = format!("{admin}/api/setup/tenants");

    // Anybody reaches the data plane; the admin API wants certificate and token.
    let livez = client.get(format!("{public}/livez")).send().await.unwrap();
    assert_eq!(livez.headers()["strict-transport-security"], "max-age=31536000");
    assert!(client.get(&list).bearer_auth(&token).send().await.is_err());
    assert_eq!(operator.get(&list).send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
    let listed = operator.get(&list).bearer_auth(&token).send().await.unwrap();
    assert_eq!(listed.status(), StatusCode::OK);

    // First the certificate, later its key: in between, the old pair serves on.
    let (certificate, key) = (new.certificate.pem(), new.key.serialize_pem());
    mount.swap(&certificate, &old.key.serialize_pem(), &clients.pem());
    let warning = serving.logged("the old certificate stays in force").await;
    serving.logged("the old certificate stays in force").await;
    assert_eq!(warning["level"], "WARN");
    assert!(warning["help"].as_str().unwrap().contains("made for each other"), "{warning}");
    let address = public.trim_start_matches("https://");
    assert!(is_shown(&old, address, &authority).await);
    tokio::time::sleep(Duration::from_secs(5)).await;
    mount.swap(&certificate, &key, &clients.pem());
    eventually("the new one is shown", async || is_shown(&new, address, &authority).await).await;

    let (exit, log) = serving.terminate().await;
    assert!(exit.success());
    let warnings = log.iter().filter(|line| line["message"] == warning["message"]);
    assert_eq!(warnings.count(), 2, "one for each listener");
    assert!(log.iter().all(|line| !line.to_string().contains("PRIVATE KEY")));
}

#[tokio::test]
async fn a_certificate_that_cannot_be_used_is_an_error_at_the_start() {
    let fleet = Fleet::start().await;
    let authority = Authority::new("ours");
    let mount = Mount::new(&authority.issue(), &authority);
    let foreign = authority.issue().key.serialize_pem();
    mount.swap(&authority.issue().certificate.pem(), &foreign, &authority.pem());

    for (line, status) in [("serve", 2), ("config check", 1)] {
        let mut command = command(&fleet);
        command
            .args(line.split(' '))
            .env("TENANTRY_TLS_CERT", mount.path("tls.crt"))
            .env("TENANTRY_TLS_KEY", mount.path("tls.key"));
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();

        assert_eq!(output.status.code(), Some(status), "{said}");
        for words in ["cannot be used with the key", "help: ", "made for each other"] {
            assert!(said.contains(words), "{line}: {said}");
        }
    }
}

#[tokio::test]
async fn pages_of_the_named_origins_may_call_the_data_plane_and_no_others() {
    let fleet = Fleet::start().await;
    let origins = "https://app.example.com, http://localhost:3000";
    let mut serving = Serving::start_with(&fleet, &[("TENANTRY_CORS_ORIGINS", origins)]);
    let public = serving.address("the data plane").await;
    let admin = serving.address("the admin API").await;
    let client = Client::new();
    let preflight = async |url: &str, origin: &str| {
        let request = client
            .request(Method::OPTIONS, format!("{url}/api/tenant"))
            .header("Origin", origin)
            .header("Access-Control-Request-Method", "GET")
            .header("Access-Control-Request-Headers", "authorization,x-tenant");
        request.send().await.unwrap().headers().clone()
    };
    let allowed = "access-control-allow-origin";

    for origin in ["https://app.example.com", "http://localhost:3000"] {
        let headers = preflight(&public, origin).await;
        assert_eq!(headers[allowed], origin);
        let names = headers["access-control-allow-headers"].to_str().unwrap();
        for name in ["authorization", "content-type", "x-tenant", "x-request-id", "idempotency-key"]
        {
            assert!(names.contains(name), "{names}");
        }
        assert!(!headers.contains_key("access-control-allow-credentials"));
    }
    for origin in ["https://evil.example", "https://app.example.com.evil.example", "null"] {
        assert!(!preflight(&public, origin).await.contains_key(allowed), "{origin}");
    }
    assert!(!preflight(&admin, "https://app.example.com").await.contains_key(allowed));

    // A page must be able to read a refusal too.
    let request = client.get(format!("{public}/api/tenant"));
    let refusal = request.header("Origin", "https://app.example.com").send().await.unwrap();
    assert_eq!(refusal.status(), StatusCode::BAD_REQUEST);
    assert_eq!(refusal.headers()[allowed], "https://app.example.com");
    let exposed = refusal.headers()["access-control-expose-headers"].to_str().unwrap();
    assert_eq!(exposed, "x-request-id,retry-after,location");
    serving.terminate().await;
}

#[tokio::test]
async fn what_is_forwarded_counts_from_a_trusted_proxy_only() {
    let fleet = Fleet::start().await;
    let token = token(&fleet).await;
    for name in ["acme", "globex"] {
        fleet.create_tenant(name).await;
    }
    let settings = [
        ("TENANTRY_BASE_DOMAIN", "app.example"),
        ("TENANTRY_TRUSTED_PROXIES", "127.0.0.2, 10.0.0.0/8"),
    ];
    let mut serving = Serving::start_with(&fleet, &settings);
    let public = serving.address("the data plane").await;
    let ask = async |from: &str, forwarded: &str| {
        let from: IpAddr = from.parse().unwrap();
        let client = Client::builder().local_address(from).build().unwrap();
        let request = client
            .get(format!("{public}/api/tenant"))
            .bearer_auth(&token)
            .header("Host", "acme.app.example")
            .header("X-Forwarded-Host", forwarded)
            .header("X-Forwarded-For", "1.1.1.1, 203.0.113.9, 10.1.1.1");
        let answer = request.send().await.unwrap();
        (answer.status(), answer.json::<Value>().await.unwrap())
    };

    assert_eq!(ask("127.0.0.1", "globex.app.example").await.1["slug"], "acme");
    assert_eq!(ask("127.0.0.1", "rub bish").await.1["slug"], "acme");
    assert_eq!(ask("127.0.0.2", "globex.app.example").await.1["slug"], "globex");
    for bad in ["globex.app.example, acme.app.example", "rub bish"] {
        let (status, body) = ask("127.0.0.2", bad).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert_eq!(body["code"], "host_malformed");
    }

    let (_, log) = serving.terminate().await;
    let clients: Vec<_> = log
        .iter()
        .filter(|line| line["target"] == "tenantry::access")
        .map(|line| line["client"].as_str().unwrap())
        .collect();
    let (direct, forwarded) = ("127.0.0.1", "203.0.113.9");
    assert_eq!(clients, [direct, direct, forwarded, forwarded, forwarded]);
}

async fn token(fleet: &Fleet) -> String {
    let token = fleet.catalog().create_token("test", &Scope::ALL).await.unwrap();
    token.expose_secret().to_owned()
}
