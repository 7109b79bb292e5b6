//! Who vouches for users: the identity providers of the settings, made ready. One may stand in the
//! environment (`TENANTRY_JWT_…`, `TENANTRY_OIDC_…`), any number in the settings file:
//!
//! ```toml
//! [[auth.provider]]
//! issuer = "https://id.acme.com"          # keys: discovery, unless one of the next is there
//! audience = ["tenantry"]
//! # secret_file, public_key (a PEM file), public_key_url (a key set), algorithm, tenant_claim
//! tenants = ["acme-corp"]                 # it can name no other, and they accept no other issuer
//! ```

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use secrecy::{ExposeSecret as _, SecretString};

use super::AuthProvider;
use super::error::Problem;
use super::key;
use super::reader::Reader;
use super::value::{Algorithms, List, Value};
use crate::oidc::{KeySource, ProviderSettings, Timing, TokenVerifier};
use crate::resolve::{AdminClaim, ClaimPath, IdentitySettings, Trust};
use crate::tenant::TenantSlug;

/// The settings that count for one kind of provider only.
const OF_JWT: [&str; 6] = [
    "jwt_issuer",
    "jwt_audience",
    "jwt_secret",
    "jwt_public_key",
    "jwt_public_key_url",
    "jwt_algorithm",
];
const OF_OIDC: [&str; 3] = ["oidc_issuer", "oidc_client_id", "oidc_audience"];

/// Who is believed, and how far.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub provider: AuthProvider,
    pub verifier: TokenVerifier,
    pub settings: IdentitySettings,
    pub admin_claim: Option<AdminClaim>,
}

/// Reads everything about identity.
pub(super) fn read(r: &mut Reader) -> Identity {
    let mut provider = r.get("auth_provider").unwrap_or(AuthProvider::None);
    refuse_idle(r, provider);
    let settings = match provider {
        AuthProvider::None => None,
        AuthProvider::Jwt => jwt(r),
        AuthProvider::Oidc => oidc(r),
    };
    let tenant_claim: Option<ClaimPath> = r.get("jwt_tenant_claim");
    let trust = Trust { tenants: Vec::new(), tenant_claim };
    let mut trusted: Vec<_> = settings.into_iter().map(|one| (one, trust.clone())).collect();
    for (index, fields) in r.take_providers().into_iter().enumerate() {
        let place = |name: &str| format!("`{name}` of [[auth.provider]] number {}", index + 1);
        let table = Table { fields, place: &place };
        match table.read(&trust) {
            Ok(one) => trusted.push(one),
            Err(problem) => r.problem(problem),
        }
    }
    if !trusted.is_empty() && provider == AuthProvider::None {
        if r.is_set("auth_provider") {
            r.problem(Problem::Contradiction {
                message: "the auth_provider is `none`, but the settings file has [[auth.provider]]"
                    .to_owned(),
                remedy: "take one of the two away".to_owned(),
            });
        }
        provider = AuthProvider::Oidc;
    }

    let trusts: HashMap<_, _> =
        trusted.iter().map(|(one, trust)| (one.issuer.clone(), trust.clone())).collect();
    if trusts.len() < trusted.len() {
        r.problem(Problem::Contradiction {
            message: "two identity providers have the same issuer".to_owned(),
            remedy: "take one of them away: a token could not say which it is from".to_owned(),
        });
    }
    let audiences = trusted.first().map_or_else(Vec::new, |(one, _)| one.audiences.clone());
    let providers = trusted.into_iter().map(|(one, _)| one).collect();
    let verifier = TokenVerifier::new(providers).unwrap_or_else(|error| {
        r.problem(Problem::Contradiction {
            message: format!("an identity provider cannot be used: {error}"),
            remedy: "see the settings that begin with jwt_ or oidc_, and [[auth.provider]]"
                .to_owned(),
        });
        TokenVerifier::new(Vec::new()).expect("nothing is wrong with nobody")
    });
    let base_domain = r.get("base_domain");
    let settings =
        IdentitySettings { trusts, audiences, base_domain, ..IdentitySettings::default() };
    Identity { provider, verifier, settings, admin_claim: r.get("admin_claim") }
}

/// One `[[auth.provider]]`.
struct Table<'a> {
    fields: BTreeMap<String, SecretString>,
    place: &'a dyn Fn(&str) -> String,
}

impl Table<'_> {
    fn read(mut self, usual: &Trust) -> Result<(ProviderSettings, Trust), Problem> {
        let issuer: Option<String> = self.take("issuer")?;
        let audiences: Option<List> = self.take("audience")?;
        let algorithms = self.take("algorithm")?.map_or_else(Vec::new, |Algorithms(all)| all);
        let List(tenants) = self.take("tenants")?.unwrap_or(List(Vec::new()));
        let tenants: Result<Vec<TenantSlug>, _> =
            tenants.iter().map(|text| self.value("tenants", text)).collect();
        let tenant_claim = self.take("tenant_claim")?.or_else(|| usual.tenant_claim.clone());
        let keys = self.keys()?;
        if let Some(name) = self.fields.keys().next() {
            return Err(Problem::Unknown { place: (self.place)(name), nearest: None });
        }
        let missing = |name, remedy| Problem::Missing { place: (self.place)(name), remedy };
        let issuer = issuer.ok_or_else(|| missing("issuer", "the `iss` of its tokens"))?;
        let List(audiences) = audiences.ok_or_else(|| {
            missing("audience", "whom its tokens must be meant for: this application")
        })?;
        let timing = Timing::default();
        let settings = ProviderSettings { issuer, audiences, algorithms, keys, timing };
        Ok((settings, Trust { tenants: tenants?, tenant_claim }))
    }

    /// Where the keys come from; without a word about it, from the issuer's discovery document.
    fn keys(&mut self) -> Result<KeySource, Problem> {
        let secret = match self.take::<PathBuf>("secret_file")? {
            Some(path) => Some(self.contents("secret_file", path)?.trim_end().into()),
            None => self.fields.remove("secret"),
        };
        let pem = match self.take::<PathBuf>("public_key")? {
            Some(path) => Some(self.contents("public_key", path)?),
            None => None,
        };
        let url = self.take("public_key_url")?;
        let sources =
            [secret.map(KeySource::Secret), pem.map(KeySource::Pem), url.map(KeySource::Jwks)];
        let mut sources = sources.into_iter().flatten();
        let keys = sources.next().unwrap_or(KeySource::Discovery);
        match sources.next() {
            None => Ok(keys),
            Some(_) => Err(Problem::Contradiction {
                message: format!("{} has more than one key", (self.place)("issuer")),
                remedy: "give it one of secret_file, public_key and public_key_url, or none"
                    .to_owned(),
            }),
        }
    }

    fn contents(&self, name: &str, path: PathBuf) -> Result<String, Problem> {
        std::fs::read_to_string(&path).map_err(|source| Problem::SecretFile {
            place: (self.place)(name),
            path,
            source,
        })
    }

    fn take<T: Value>(&mut self, name: &str) -> Result<Option<T>, Problem> {
        let text = self.fields.remove(name);
        text.map(|text| self.value(name, text.expose_secret())).transpose()
    }

    fn value<T: Value>(&self, name: &str, text: &str) -> Result<T, Problem> {
        T::read(text).map_err(|expected| Problem::Value {
            place: (self.place)(name),
            value: Some(text.to_owned()),
            expected: expected.unwrap_or_else(|| T::EXPECTED.to_owned()),
        })
    }
}

/// A setting of another kind of provider would look as if it did something.
fn refuse_idle(r: &mut Reader, provider: AuthProvider) {
    let idle = |of: &[&'static str]| of.iter().copied().find(|name| r.is_set(name));
    let found = match provider {
        AuthProvider::None => idle(&OF_JWT).or(idle(&OF_OIDC)),
        AuthProvider::Jwt => idle(&OF_OIDC),
        AuthProvider::Oidc => idle(&OF_JWT),
    };
    if let Some(name) = found {
        let kind = if OF_JWT.contains(&name) { "jwt" } else { "oidc" };
        r.problem(Problem::Contradiction {
            message: format!(
                "{} is set, but the auth_provider is another one",
                key::variable(name)
            ),
            remedy: format!("set TENANTRY_AUTH_PROVIDER={kind}, or take the setting away"),
        });
    }
}

fn jwt(r: &mut Reader) -> Option<ProviderSettings> {
    let issuer =
        r.require("jwt_issuer", "tokens of any issuer would count: name the one that does");
    let audiences = r.require(
        "jwt_audience",
        "tokens for other applications would count: name this one as the provider does",
    );
    let algorithms = r.get("jwt_algorithm").map_or_else(Vec::new, |Algorithms(all)| all);
    let sources = [
        r.get("jwt_secret").map(|secret: SecretString| KeySource::Secret(secret)),
        pem(r).map(KeySource::Pem),
        r.get("jwt_public_key_url").map(KeySource::Jwks),
    ];
    let mut sources = sources.into_iter().flatten();
    let (keys, another) = (sources.next(), sources.next());
    if keys.is_none() || another.is_some() {
        r.problem(Problem::Contradiction {
            message: "with auth_provider `jwt` one key is needed, and not more".to_owned(),
            remedy: "set one of TENANTRY_JWT_SECRET, TENANTRY_JWT_PUBLIC_KEY and \
                     TENANTRY_JWT_PUBLIC_KEY_URL"
                .to_owned(),
        });
    }
    let List(audiences) = audiences?;
    Some(ProviderSettings {
        issuer: issuer?,
        audiences,
        algorithms,
        keys: keys?,
        timing: Timing::default(),
    })
}

fn oidc(r: &mut Reader) -> Option<ProviderSettings> {
    let issuer =
        r.require("oidc_issuer", "the provider's address, as its discovery document has it");
    let audiences = if r.is_set("oidc_audience") {
        r.get("oidc_audience")
    } else {
        r.require("oidc_client_id", "what the provider calls this application")
    };
    let List(audiences) = audiences?;
    Some(ProviderSettings {
        issuer: issuer?,
        audiences,
        algorithms: Vec::new(),
        keys: KeySource::Discovery,
        timing: Timing::default(),
    })
}

fn pem(r: &mut Reader) -> Option<String> {
    let path: PathBuf = r.get("jwt_public_key")?;
    match std::fs::read_to_string(&path) {
        Ok(pem) => Some(pem),
        Err(source) => {
            let place = key::variable("jwt_public_key");
            r.problem(Problem::SecretFile { place, path, source });
            None
        }
    }
}
