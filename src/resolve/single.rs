//! [`SingleTenant`]: a deployment with one tenant and no identity provider. Requests need not name it,
//! may name no other, and come from anybody.

use axum::http::request::Parts;
use futures_util::future::BoxFuture;

use super::password::ProvenPassword;
use super::{Access, ResolveError, Resolved, Source, TenantResolver, named_in_header};
use crate::metrics;
use crate::tenant::TenantSlug;

/// Resolves every request to the same tenant.
pub struct SingleTenant {
    slug: TenantSlug,
}

impl SingleTenant {
    /// The one tenant.
    #[must_use]
    pub fn new(slug: TenantSlug) -> Self {
        Self { slug }
    }

    fn slug(&self, parts: &Parts) -> Result<TenantSlug, ResolveError> {
        let proven = parts.extensions.get().map(|ProvenPassword { slug, .. }| Ok(slug.clone()));
        let foreign = proven.filter(|slug| slug.as_ref().is_ok_and(|slug| *slug != self.slug));
        match foreign.or_else(|| named_in_header(&parts.headers)) {
            None => Ok(self.slug.clone()),
            Some(Ok(named)) if named == self.slug => Ok(named),
            Some(Ok(_)) => {
                metrics::isolation_violation("foreign_tenant");
                tracing::warn!("a request named another tenant than the only one");
                Err(ResolveError::Denied)
            }
            Some(Err(error)) => Err(error),
        }
    }
}

impl TenantResolver for SingleTenant {
    fn resolve<'a>(&'a self, parts: &'a Parts) -> BoxFuture<'a, Result<Resolved, ResolveError>> {
        Box::pin(async {
            let slug = self.slug(parts);
            let outcome = slug.as_ref().map_or_else(ResolveError::outcome, |_| "resolved");
            metrics::resolution(Source::SingleTenant.as_str(), outcome);
            let (user, access) = ("anybody".to_owned(), Access::ReadWrite);
            Ok(Resolved { slug: slug?, tenant: None, source: Source::SingleTenant, user, access })
        })
    }
}

#[cfg(test)]
mod tests {
    use axum::http::Request;
    use uuid::Uuid;

    use super::super::TENANT_HEADER;
    use super::*;

    async fn resolve(header: Option<&str>) -> Result<Resolved, ResolveError> {
        let mut request = Request::builder();
        if let Some(value) = header {
            request = request.header(TENANT_HEADER, value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        SingleTenant::new(TenantSlug::parse("acme").unwrap()).resolve(&parts).await
    }

    #[tokio::test]
    async fn the_one_tenant_needs_no_name() {
        for header in [None, Some("acme")] {
            let resolved = resolve(header).await.unwrap();

            assert_eq!((resolved.slug.as_str(), resolved.source), ("acme", Source::SingleTenant));
        }
    }

    #[tokio::test]
    async fn the_password_of_another_tenant_is_refused() {
        for (slug, served) in [("acme", true), ("globex", false)] {
            let mut request = Request::builder().header(TENANT_HEADER, "acme");
            let slug = TenantSlug::parse(slug).unwrap();
            let role = format!("tenant_{slug}");
            request.extensions_mut().unwrap().insert(ProvenPassword {
                slug,
                tenant: Uuid::nil(),
                role,
            });
            let (parts, ()) = request.body(()).unwrap().into_parts();

            let resolved =
                SingleTenant::new(TenantSlug::parse("acme").unwrap()).resolve(&parts).await;

            assert_eq!(resolved.is_ok(), served);
        }
    }

    #[tokio::test]
    async fn another_name_is_refused() {
        assert!(matches!(resolve(Some("globex")).await, Err(ResolveError::Denied)));
        assert!(matches!(resolve(Some("Acme")).await, Err(ResolveError::Malformed)));
    }
}
