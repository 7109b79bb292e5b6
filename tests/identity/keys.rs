//! The keys of identity providers: new ones, unknown ones, none.

use std::time::Duration;

use serde_json::json;
use tenantry::oidc::{Algorithm, KeySource, ProviderSettings, Timing, TokenError, TokenVerifier};

use crate::harness::provider::{AUDIENCE, Provider, SigningKey};

const NO_PAUSE: Duration = Duration::ZERO;

#[tokio::test]
async fn keys_are_fetched_anew_when_the_provider_rotates_them() {
    let provider = Provider::start().await;
    let verifier = TokenVerifier::new(vec![provider.settings(NO_PAUSE)]).unwrap();
    let before = provider.token(&json!({}));
    verifier.verify(&before).await.unwrap();

    provider.rotate("second");

    verifier.verify(&provider.token(&json!({}))).await.unwrap();
    assert!(matches!(verifier.verify(&before).await, Err(TokenError::UnknownKey)));
}

#[tokio::test]
async fn many_who_wait_are_one_fetch_and_made_up_keys_are_none() {
    let provider = Provider::start().await;
    let verifier = TokenVerifier::new(vec![provider.settings(Duration::from_mins(1))]).unwrap();
    let good = provider.token(&json!({}));
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let (verifier, good) = (verifier.clone(), good.clone());
        callers.spawn(async move { verifier.verify(&good).await.is_ok() });
    }
    assert!(callers.join_all().await.into_iter().all(|verified| verified));
    assert_eq!(provider.fetched(), 1);

    for number in 0..50 {
        let key = SigningKey { id: format!("made-up-{number}"), ..provider.key() };
        let refused = verifier.verify(&key.sign(&provider.claims(&json!({})))).await;
        assert!(matches!(refused, Err(TokenError::UnknownKey)));
    }
    assert_eq!(provider.fetched(), 1);
}

#[tokio::test]
async fn a_provider_that_is_away_is_an_error_only_while_its_keys_are_unknown() {
    let provider = Provider::start().await;
    let mut settings = provider.settings(NO_PAUSE);
    settings.timing.max_age = Duration::from_secs(5);
    let verifier = TokenVerifier::new(vec![settings]).unwrap();
    let good = provider.token(&json!({}));
    provider.set_away(true);
    assert!(verifier.verify(&good).await.unwrap_err().is_transient());

    provider.set_away(false);
    verifier.verify(&good).await.unwrap();
    provider.set_away(true);
    verifier.verify(&good).await.unwrap();
    let aged = async {
        while !matches!(verifier.verify(&good).await, Err(TokenError::KeysAway(_))) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), aged).await.expect("keys do not count for ever");
}

#[tokio::test]
async fn a_discovery_document_of_somebody_else_gives_no_keys() {
    let provider = Provider::start().await;
    let mut settings = provider.settings(NO_PAUSE);
    settings.issuer = provider.issuer.replace("127.0.0.1", "localhost");
    let verifier = TokenVerifier::new(vec![settings.clone()]).unwrap();

    let refused = verifier.verify(&provider.token(&json!({ "iss": settings.issuer }))).await;

    assert!(matches!(refused, Err(TokenError::KeysAway(_))), "{refused:?}");
}

#[test]
fn weak_and_wrong_keys_are_refused_at_the_start() {
    let new = |keys, algorithms: &[Algorithm]| {
        TokenVerifier::new(vec![ProviderSettings {
            issuer: "https://id.example".into(),
            audiences: vec![AUDIENCE.into()],
            algorithms: algorithms.to_vec(),
            keys,
            timing: Timing::default(),
        }])
    };
    let secret = |length| KeySource::Secret("x".repeat(length).into());

    assert!(new(secret(32), &[]).is_ok());
    for (keys, algorithms) in [
        (secret(31), &[][..]),
        (secret(32), &[Algorithm::RS256]),
        (KeySource::Pem("no key".into()), &[]),
        (KeySource::Jwks("http://id.example/keys".into()), &[]),
        (KeySource::Discovery, &[Algorithm::HS256]),
    ] {
        assert!(new(keys, algorithms).is_err());
    }
}
