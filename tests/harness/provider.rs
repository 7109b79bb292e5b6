//! An identity provider of the tests' own: discovery, a key set and tokens, over real HTTP.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::encoding::Pkcs8V1Der;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use tenantry::oidc::{KeySource, ProviderSettings, Timing};
use tokio::net::TcpListener;

pub const AUDIENCE: &str = "the-application";

/// An RSA key and its name.
#[derive(Clone)]
pub struct SigningKey {
    pub id: String,
    pub private: EncodingKey,
    pub public: Jwk,
}

pub struct Provider {
    pub issuer: String,
    shared: Arc<Shared>,
}

struct Shared {
    keys: Mutex<Vec<SigningKey>>,
    /// How often the key set was fetched.
    fetched: AtomicUsize,
    away: AtomicBool,
}

impl SigningKey {
    pub fn generate(id: &str) -> Self {
        let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
        let der: Pkcs8V1Der<'_> = pair.as_der().unwrap();
        let pem = format!(
            "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
            STANDARD.encode(der.as_ref())
        );
        let private = EncodingKey::from_rsa_pem(pem.as_bytes()).unwrap();
        let mut public = Jwk::from_encoding_key(&private, Algorithm::RS256).unwrap();
        public.common.key_id = Some(id.to_owned());
        Self { id: id.to_owned(), private, public }
    }

    pub fn sign(&self, claims: &Value) -> String {
        let mut header = Header::new(Algorithm::RS256);
        header.kid = Some(self.id.clone());
        encode(&header, claims, &self.private).unwrap()
    }

    /// Signs whatever header and claims there are, well formed or not.
    pub fn sign_raw(&self, header: &str, claims: &str) -> String {
        let message =
            format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature =
            jsonwebtoken::crypto::sign(message.as_bytes(), &self.private, Algorithm::RS256);
        format!("{message}.{}", signature.unwrap())
    }
}

impl Provider {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::new(Shared {
            keys: Mutex::new(vec![SigningKey::generate("first")]),
            fetched: AtomicUsize::new(0),
            away: AtomicBool::new(false),
        });
        let discovery = json!({ "issuer": issuer, "jwks_uri": format!("{issuer}/keys") });
        let serving = Arc::clone(&shared);
        let keys = async move || {
            serving.fetched.fetch_add(1, Ordering::Relaxed);
            if serving.away.load(Ordering::Relaxed) {
                return Err(StatusCode::SERVICE_UNAVAILABLE);
            }
            let keys: Vec<Jwk> =
                serving.keys.lock().unwrap().iter().map(|key| key.public.clone()).collect();
            Ok(Json(json!({ "keys": keys })))
        };
        let routes = Router::new()
            .route("/.well-known/openid-configuration", get(async || Json(discovery)))
            .route("/keys", get(keys));
        tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        Self { issuer, shared }
    }

    /// As a platform team sets it up, but for the pause between two fetches.
    pub fn settings(&self, pause: Duration) -> ProviderSettings {
        ProviderSettings {
            issuer: self.issuer.clone(),
            audiences: vec![AUDIENCE.to_owned()],
            algorithms: Vec::new(),
            keys: KeySource::Discovery,
            timing: Timing { pause, ..Timing::default() },
        }
    }

    /// The newest key.
    pub fn key(&self) -> SigningKey {
        self.shared.keys.lock().unwrap().last().unwrap().clone()
    }

    /// A new key signs from now on; the old ones are gone.
    pub fn rotate(&self, id: &str) {
        *self.shared.keys.lock().unwrap() = vec![SigningKey::generate(id)];
    }

    pub fn set_away(&self, away: bool) {
        self.shared.away.store(away, Ordering::Relaxed);
    }

    pub fn fetched(&self) -> usize {
        self.shared.fetched.load(Ordering::Relaxed)
    }

    /// What a good token says, with some of it replaced.
    pub fn claims(&self, other: &Value) -> Value {
        let now = jsonwebtoken::get_current_timestamp();
        let mut claims = json!({
            "iss": self.issuer, "aud": AUDIENCE, "sub": "user-1", "iat": now, "exp": now + 300
        });
        for (name, value) in other.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims
    }

    pub fn token(&self, other: &Value) -> String {
        self.key().sign(&self.claims(other))
    }
}
