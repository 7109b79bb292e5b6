//! [`Administrators`]: who may use the admin API. Programs come with a token of ours, people with a
//! token of an identity provider that carries the claim of the settings.

use std::net::IpAddr;
use std::sync::Arc;

use axum::http::HeaderMap;
use serde_json::Value;

use super::bearer::{bearer, is_ours, prove};
use super::denials::{Denial, Denials};
use super::{ClaimPath, IdentitySettings, ResolveError, Tokens};
use crate::catalog::Catalog;
use crate::catalog::tokens::Scope;
use crate::oidc::TokenVerifier;

/// The claim that makes a user an administrator: a path and what must stand there, alone or in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminClaim {
    path: ClaimPath,
    value: String,
}

/// Tells administrators from others. Cheap to clone.
#[derive(Clone)]
pub struct Administrators {
    tokens: Tokens,
    verifier: TokenVerifier,
    identity: Arc<IdentitySettings>,
    claim: Option<AdminClaim>,
    denials: Denials,
}

/// Who sends a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sender {
    /// Somebody who may use the admin API.
    Administrator(Administrator),
    /// Somebody else.
    Stranger(Stranger),
}

/// Somebody who may not use the admin API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stranger {
    /// Why not, as a stable name.
    pub violation: &'static str,
    /// Who vouches for the user, where somebody does.
    pub issuer: Option<String>,
    /// Who it is, for the record, where that is proven: `user:SUBJECT`.
    pub name: Option<String>,
}

/// Somebody who may use the admin API, within scopes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Administrator {
    /// For the record: `token:NAME` or `user:SUBJECT`.
    pub name: String,
    /// Never of two administrators.
    pub id: String,
    /// What they may do.
    pub scopes: Vec<Scope>,
}

impl AdminClaim {
    /// Reads `path=value`, such as `groups=platform` or `realm_access.roles=tenantry-admin`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (path, value) = text.split_once('=')?;
        let (path, value) = (ClaimPath::parse(path)?, value.to_owned());
        (!value.is_empty()).then_some(Self { path, value })
    }

    fn is_met(&self, claims: &Value) -> bool {
        match self.path.find(claims) {
            Some(Value::String(text)) => *text == self.value,
            Some(Value::Array(list)) => list.iter().any(|one| one.as_str() == Some(&self.value)),
            _ => false,
        }
    }
}

impl Administrators {
    /// Believes this catalog's own tokens and, where there is a claim, users of these providers; but
    /// no provider that is bound to tenants, since what it says of its users is their affair.
    #[must_use]
    pub fn new(
        catalog: Catalog,
        verifier: TokenVerifier,
        identity: &IdentitySettings,
        claim: Option<AdminClaim>,
    ) -> Self {
        let identity = Arc::new(identity.clone());
        let denials = Denials::new(catalog.clone());
        Self { tokens: Tokens::new(catalog), verifier, identity, claim, denials }
    }

    /// Who sends a request.
    pub async fn of(&self, headers: &HeaderMap) -> Result<Sender, ResolveError> {
        let Some(text) = bearer(headers) else { return Ok(Sender::nobody("no_token")) };
        if is_ours(text) {
            let token = self.tokens.of(headers).await?;
            let Some(token) = token else { return Ok(Sender::nobody("unknown_token")) };
            return Ok(Sender::Administrator(Administrator {
                name: format!("token:{}", token.name),
                id: token.id.to_string(),
                scopes: token.scopes.clone(),
            }));
        }
        let Some(claim) = &self.claim else { return Ok(Sender::nobody("invalid_token")) };
        let verified = match prove(&self.verifier, text).await {
            Ok(verified) => verified,
            Err(ResolveError::Unauthenticated) => return Ok(Sender::nobody("invalid_token")),
            Err(error) => return Err(error),
        };
        if !self.identity.is_unbound(&verified.issuer) || !claim.is_met(&verified.claims) {
            tracing::warn!(user = verified.subject, "a user without the admin claim was refused");
            let (issuer, name) =
                (Some(verified.issuer), Some(format!("user:{}", verified.subject)));
            return Ok(Sender::Stranger(Stranger { violation: "no_admin_claim", issuer, name }));
        }
        // To reach tenants' data one is a member, or a program that an administrator has let in.
        let scopes = Scope::ALL.into_iter().filter(|scope| *scope != Scope::Data).collect();
        let id = format!("{} {}", verified.issuer, verified.subject);
        let name = format!("user:{}", verified.subject);
        Ok(Sender::Administrator(Administrator { name, id, scopes }))
    }

    /// Has it written down, in time, that the request that is being answered was refused.
    pub fn refused(&self, denial: Denial, client: Option<IpAddr>) {
        self.denials.gather(denial, client);
    }
}

impl Sender {
    fn nobody(violation: &'static str) -> Self {
        Self::Stranger(Stranger { violation, issuer: None, name: None })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_claim_is_met_alone_or_in_a_list() {
        let claim = AdminClaim::parse("realm.roles=platform").unwrap();

        for good in [json!("platform"), json!(["other", "platform"])] {
            assert!(claim.is_met(&json!({ "realm": { "roles": good } })));
        }
        for bad in [
            json!("Platform"),
            json!("platform "),
            json!({ "platform": true }),
            json!(null),
            json!([["platform"]]),
        ] {
            assert!(!claim.is_met(&json!({ "realm": { "roles": bad } })), "{bad}");
        }
        assert!(!claim.is_met(&json!({ "roles": "platform" })));
    }

    #[test]
    fn a_claim_has_a_path_and_a_value() {
        for bad in ["", "groups", "groups=", "=platform", "a..b=c"] {
            assert_eq!(AdminClaim::parse(bad), None, "{bad}");
        }
    }
}
