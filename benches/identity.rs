//! `make bench`, its last part: what it costs to prove a token and to find its tenant, beside a bare
//! `jsonwebtoken::decode`.

#[path = "../tests/harness/mod.rs"]
#[expect(dead_code, reason = "the tests use the rest")]
mod harness;

use std::hint::black_box;
use std::time::{Duration, Instant};

use axum::http::Request;
use harness::Fleet;
use harness::provider::{AUDIENCE, Provider};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
use serde_json::{Map, Value, json};
use tenantry::oidc::TokenVerifier;
use tenantry::resolve::{IdentityResolver, IdentitySettings, TenantResolver as _};

const ROUNDS: usize = 5;
const TOKENS: u32 = 4000;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let (fleet, provider) = (Fleet::start().await, Provider::start().await);
    fleet.create_tenant("acme").await;
    let verifier = TokenVerifier::new(vec![provider.settings(Duration::from_secs(10))]);
    let resolver = IdentityResolver::new(
        fleet.catalog().clone(),
        verifier.expect("the settings are good"),
        IdentitySettings::default(),
    );
    let token = provider.token(&json!({ "tenant": "acme", "email": "ada@acme.example" }));
    let request = Request::builder().header("Authorization", format!("Bearer {token}"));
    let (parts, ()) = request.body(()).expect("a request").into_parts();
    let key = DecodingKey::from_jwk(&provider.key().public).expect("a key");
    let mut validation = Validation::new(Algorithm::RS256);
    validation.set_audience(&[AUDIENCE]);
    resolver.resolve(&parts).await.expect("it is good");

    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let started = Instant::now();
        for _ in 0..TOKENS {
            black_box(resolver.resolve(&parts).await.expect("it is good"));
        }
        ours.push(started.elapsed() / TOKENS);
        let started = Instant::now();
        for _ in 0..TOKENS {
            black_box(decode::<Map<String, Value>>(&token, &key, &validation).expect("good"));
        }
        bare.push(started.elapsed() / TOKENS);
    }
    ours.sort();
    bare.sort();
    let (ours, bare) = (ours[ROUNDS / 2], bare[ROUNDS / 2]);
    println!(
        "{:<70} {:>12} {:>12} {:>8.3}  <= 1.3, < 60 µs",
        "prove an RS256 token and find its tenant / jsonwebtoken::decode",
        format!("{ours:.1?}"),
        format!("{bare:.1?}"),
        ours.as_secs_f64() / bare.as_secs_f64()
    );
}
