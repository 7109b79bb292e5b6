//! [`TenantScope`]: what a background job carries to say whose work it is.
//!
//! A slug can become another tenant's once its own is deleted; an id never does. So a scope has both: the
//! slug finds the tenant, the id tells whether it is still the same one. Whoever uses a scope has it checked
//! again, because it may have waited in a queue for days.
//!
//! Must never: make a key that another tenant's scope could make, or that leads out of its own prefix.

use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

use super::{Tenant, TenantSlug};

/// One tenant, named for later. As JSON it is `{"slug": "acme", "id": "0193…"}`.
///
/// It is a name and no right: it says nothing about what a caller may do there.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TenantScope {
    slug: TenantSlug,
    id: Uuid,
}

/// Why a text can be no part of a tenant's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum KeyError {
    /// Nothing was given.
    #[error("a key cannot be empty; name what is kept under it")]
    Empty,
    /// A line break, a NUL or the like.
    #[error("a key cannot hold control characters; encode what it is made of")]
    Control,
    /// A leading `/`, or `.` and `..` between slashes, however they are written.
    #[error(
        "a key cannot begin with `/` or have `.` or `..` as a segment; name it from its tenant's own root"
    )]
    Path,
}

impl TenantScope {
    /// The tenant's slug when the scope was made.
    #[must_use]
    pub fn slug(&self) -> &TenantSlug {
        &self.slug
    }

    /// The tenant's id, which is never used again.
    #[must_use]
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// `tenant:{id}:{key}`, for a cache that all tenants share.
    pub fn cache_key(&self, key: &str) -> Result<String, KeyError> {
        check(key)?;
        Ok(format!("tenant:{}:{key}", self.id))
    }

    /// `{id}/{key}`, for an object store that all tenants share.
    pub fn object_key(&self, key: &str) -> Result<String, KeyError> {
        check(key)?;
        Ok(format!("{}/{key}", self.id))
    }
}

impl From<&Tenant> for TenantScope {
    fn from(tenant: &Tenant) -> Self {
        Self { slug: tenant.slug.clone(), id: tenant.id }
    }
}

/// Refuses what a store, a file system or a URL could read as a way out of the prefix.
fn check(key: &str) -> Result<(), KeyError> {
    if key.is_empty() {
        return Err(KeyError::Empty);
    }
    if key.chars().any(char::is_control) {
        return Err(KeyError::Control);
    }
    let plain = key
        .to_ascii_lowercase()
        .replace("%2e", ".")
        .replace("%2f", "/")
        .replace("%5c", "/")
        .replace('\\', "/");
    // In a URL a path ends before its query or fragment.
    let is_way_out = |segment: &str| matches!(segment.split(['?', '#']).next(), Some("." | ".."));
    if plain.starts_with('/') || plain.split('/').any(is_way_out) {
        return Err(KeyError::Path);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::{Component, Path};

    use proptest::prelude::*;
    use url::Url;

    use super::*;

    fn scope(id: u128) -> TenantScope {
        TenantScope { slug: TenantSlug::parse("acme").unwrap(), id: Uuid::from_u128(id) }
    }

    #[test]
    fn keys_begin_with_the_id_and_never_with_the_slug() {
        let id = "00000000-0000-0000-0000-000000000007";

        assert_eq!(scope(7).cache_key("boards:1").unwrap(), format!("tenant:{id}:boards:1"));
        assert_eq!(scope(7).object_key("logo/v1.png").unwrap(), format!("{id}/logo/v1.png"));
    }

    #[test]
    fn ordinary_names_are_keys() {
        for key in ["a", "report..pdf", "a/b/c", "über/straße.txt", "50% off", "...", "a/", "a.b"]
        {
            assert!(scope(1).object_key(key).is_ok(), "{key}");
        }
    }

    #[test]
    fn ways_out_of_the_prefix_are_not() {
        for (key, error) in [
            ("", KeyError::Empty),
            ("a\nb", KeyError::Control),
            ("a\0", KeyError::Control),
            ("a\u{85}b", KeyError::Control),
            ("/a", KeyError::Path),
            ("\\a", KeyError::Path),
            ("%2Fa", KeyError::Path),
            ("..", KeyError::Path),
            ("../other", KeyError::Path),
            ("a/../../other", KeyError::Path),
            ("a/..", KeyError::Path),
            ("a\\..\\..\\other", KeyError::Path),
            ("%2e%2E/other", KeyError::Path),
            (".%2e%2fother", KeyError::Path),
            ("./a", KeyError::Path),
            ("..?", KeyError::Path),
            ("a/..#b", KeyError::Path),
        ] {
            assert_eq!(scope(1).object_key(key), Err(error), "{key:?}");
            assert_eq!(scope(1).cache_key(key), Err(error), "{key:?}");
        }
    }

    #[test]
    fn a_queue_gives_back_what_it_was_given() {
        let text = r#"{"slug":"acme","id":"00000000-0000-0000-0000-000000000007"}"#;

        assert_eq!(serde_json::to_string(&scope(7)).unwrap(), text);
        assert_eq!(serde_json::from_str::<TenantScope>(text).unwrap(), scope(7));
        for bad in
            [r#"{"slug":"acme"}"#, r#"{"slug":"../x","id":"00000000-0000-0000-0000-000000000007"}"#]
        {
            assert!(serde_json::from_str::<TenantScope>(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn every_scope_survives_its_queue(slug in "[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", id: u128) {
            if let Ok(slug) = TenantSlug::parse(&slug) {
                let scope = TenantScope { slug, id: Uuid::from_u128(id) };
                let text = serde_json::to_string(&scope).unwrap();
                prop_assert_eq!(serde_json::from_str::<TenantScope>(&text).unwrap(), scope);
            }
        }

        #[test]
        fn no_key_leaves_its_prefix(id: u128, key in "(\\PC|[./\\\\]|\\.\\.|%2[eEfF]|%5[cC]){0,12}") {
            let scope = scope(id);
            if let Ok(object) = scope.object_key(&key) {
                let prefix = format!("{}/", scope.id());
                prop_assert!(object.starts_with(&prefix));
                let base = Url::parse("https://store.example/bucket/").unwrap();
                let path = base.join(&object).unwrap().path().to_owned();
                prop_assert!(path.starts_with(&format!("/bucket/{prefix}")), "{path}");
                let mut parts = Path::new(&object).components();
                let first = Path::new(parts.next().unwrap().as_os_str()).join("");
                prop_assert_eq!(first, Path::new(&prefix));
                prop_assert!(parts.all(|part| matches!(part, Component::Normal(_))));
            }
        }

        #[test]
        fn no_two_tenants_share_a_key(one: u128, other: u128, a in "\\PC{1,12}", b in "\\PC{1,12}") {
            prop_assume!(one != other);
            let (one, other) = (scope(one), scope(other));
            if let (Ok(a), Ok(b)) = (one.cache_key(&a), other.cache_key(&b)) {
                prop_assert_ne!(a, b);
            }
            if let (Ok(a), Ok(b)) = (one.object_key(&a), other.object_key(&b)) {
                prop_assert_ne!(a, b);
            }
        }
    }
}
