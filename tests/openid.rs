//! With an OpenID provider that nobody here wrote: discovery, every kind of signature, new keys in
//! mid-run, and its end.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use reqwest::{Client, StatusCode};
use serde_json::Value;
use tenantry::oidc::{KeySource, ProviderSettings, Timing, TokenVerifier};
use tenantry::resolve::IdentitySettings;

use crate::harness::replica::{Replica, Setup};

/// `oidc-provider` from npm; it ends with its standard input, so also with this process.
struct OpenIdProvider {
    process: Child,
    issuer: String,
    client: Client,
}

impl OpenIdProvider {
    fn start() -> Self {
        let mut process = Command::new("node")
            .arg("tests/oidc-provider/provider.mjs")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("node runs; `make test` installs it");
        let stdout = BufReader::new(process.stdout.take().unwrap());
        let issuer = stdout.lines().map_while(Result::ok).find(|line| line.starts_with("http"));
        let issuer = issuer.expect("the provider starts; `make test` installs it");
        Self { process, issuer, client: Client::new() }
    }

    async fn token(&self, algorithm: &str) -> String {
        let form = format!("grant_type=client_credentials&resource=urn%3A{algorithm}");
        let request = self
            .client
            .post(format!("{}/token", self.issuer))
            .basic_auth("machine", Some("a%20secret%20of%20the%20tests"))
            .header("Content-Type", "application/x-www-form-urlencoded")
            .body(form);
        let answer: Value = request.send().await.unwrap().json().await.unwrap();
        answer["access_token"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    }

    async fn rotate(&self) {
        let url = format!("{}/test/rotate", self.issuer);
        assert!(self.client.post(url).send().await.unwrap().status().is_success());
    }

    fn stop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for OpenIdProvider {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

#[tokio::test]
async fn a_real_provider_is_believed_through_new_keys_and_its_absence() {
    let mut provider = OpenIdProvider::start();
    let settings = ProviderSettings {
        issuer: provider.issuer.clone(),
        audiences: vec!["the-application".to_owned()],
        algorithms: Vec::new(),
        keys: KeySource::Discovery,
        timing: Timing { pause: Duration::ZERO, ..Timing::default() },
    };
    let verifier = TokenVerifier::new(vec![settings]).unwrap();
    let identity = IdentitySettings::default();
    let replica = Replica::start_with(Setup { verifier, identity, ..Setup::default() }).await;
    replica.create("acme").await;
    let ask = async |token: &str| {
        let request = replica.client.get(format!("{}/api/tenant", replica.public));
        let answer = request.bearer_auth(token).send().await.unwrap();
        (answer.status(), answer.json::<Value>().await.unwrap())
    };

    let old = provider.token("RS256").await;
    for algorithm in ["RS256", "PS256", "ES256", "EdDSA"] {
        let (status, body) = ask(&provider.token(algorithm).await).await;
        assert_eq!(
            (status, &body["slug"]),
            (StatusCode::OK, &"acme".into()),
            "{algorithm}: {body}"
        );
    }

    provider.rotate().await;
    let new = provider.token("ES256").await;
    assert_eq!(ask(&new).await.0, StatusCode::OK);
    assert_eq!(ask(&old).await.0, StatusCode::UNAUTHORIZED);

    provider.stop();
    assert_eq!(ask(&new).await.0, StatusCode::OK);
    assert_eq!(ask(&old).await.0, StatusCode::UNAUTHORIZED);
}
