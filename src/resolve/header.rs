//! [`HeaderResolver`]: the `X-Tenant` header, for a caller with an admin token that may act as an
//! application (scope `data`).

use axum::http::request::Parts;
use futures_util::future::BoxFuture;

use super::{ResolveError, Resolved, Source, TenantResolver, Tokens, counted, named_in_header};
use crate::catalog::Catalog;
use crate::catalog::tokens::Scope;
use crate::metrics;
use crate::tenant::TenantSlug;

/// Takes the tenant from the `X-Tenant` header.
pub struct HeaderResolver {
    tokens: Tokens,
}

impl HeaderResolver {
    /// Believes callers whose token this catalog knows.
    #[must_use]
    pub fn new(catalog: Catalog) -> Self {
        Self { tokens: Tokens::new(catalog) }
    }

    async fn slug(&self, parts: &Parts) -> Result<TenantSlug, ResolveError> {
        let slug = named_in_header(&parts.headers).ok_or(ResolveError::Missing)??;
        let token = self.tokens.of(&parts.headers).await.map_err(ResolveError::Catalog)?;
        let token = token.ok_or(ResolveError::Unauthenticated)?;
        if !token.scopes.contains(&Scope::Data) {
            metrics::isolation_violation("not_a_member");
            tracing::warn!(tenant = %slug, token = token.name, "a token without the scope `data` named a tenant");
            return Err(ResolveError::Denied);
        }
        Ok(slug)
    }
}

impl TenantResolver for HeaderResolver {
    fn resolve<'a>(&'a self, parts: &'a Parts) -> BoxFuture<'a, Result<Resolved, ResolveError>> {
        Box::pin(async { counted(Source::Header, self.slug(parts).await) })
    }
}
