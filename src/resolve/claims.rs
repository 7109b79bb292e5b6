//! The tenant that a proven token is for, by its claims.
//!
//! Pure: what an organisation's *name* stands for is for the catalog to say. A value is never bent into
//! a slug: whatever is not one already is refused, or looked up as it stands.

use serde_json::Value;

use super::ResolveError;
use crate::tenant::{DomainName, EmailAddress, TenantSlug, is_free_mail};

/// Claims that hold a slug, in the order in which they are asked. Where one has another form, such as
/// a list of teams, the token is refused rather than the next one asked.
const SLUGS: [&str; 2] = ["tenant", "org_slug"];
/// Claims that other systems use for other things too: they count where they hold a slug.
const OFTEN_SLUGS: [&str; 4] = ["namespace", "group", "team", "workspace"];
/// Claims that hold a slug or an organisation's name.
const ORGANISATIONS: [&str; 2] = ["org", "organization"];
/// The claim that holds an organisation's name, even where it looks like a slug.
const NAME: &str = "org_name";
/// The longest name that is looked up, in characters.
const MAX_NAME_CHARS: usize = 200;

/// What a token names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Named {
    /// A tenant.
    Slug(TenantSlug),
    /// An organisation, by the name that people know it by.
    Organisation(String),
}

/// Where in a token the tenant stands: `tenant`, `app.tenant` or `orgs.0.slug` for nested claims, or a
/// JSON pointer (RFC 6901) such as `/https:~1~1acme.com~1tenant` for a name that has dots in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimPath {
    pointer: String,
}

impl ClaimPath {
    /// Reads a path; `None` if it is empty or has an empty part.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.starts_with('/') {
            return Some(Self { pointer: text.to_owned() });
        }
        let mut pointer = String::new();
        for part in text.split('.') {
            if part.is_empty() {
                return None;
            }
            pointer.push('/');
            pointer.push_str(&part.replace('~', "~0").replace('/', "~1"));
        }
        Some(Self { pointer })
    }

    pub(super) fn find<'a>(&self, claims: &'a Value) -> Option<&'a Value> {
        claims.pointer(&self.pointer)
    }
}

/// The tenant that claims name, or none. `path` is asked first, where there is one.
pub(super) fn tenant_of(
    claims: &Value,
    path: Option<&ClaimPath>,
) -> Result<Option<Named>, ResolveError> {
    let refused = || ResolveError::Denied;
    let slug = |value: &Value| value.as_str().and_then(|text| TenantSlug::parse(text).ok());
    let present = |name: &str| claims.get(name).filter(|value| !value.is_null());

    let at_path = path.and_then(|path| path.find(claims)).filter(|value| !value.is_null());
    if let Some(value) = at_path.or_else(|| SLUGS.iter().find_map(|name| present(name))) {
        return slug(value).map(Named::Slug).map(Some).ok_or_else(refused);
    }
    for name in ORGANISATIONS {
        if let Some(value) = present(name) {
            return match slug(value) {
                Some(slug) => Ok(Some(Named::Slug(slug))),
                None => organisation(value).map(Some).ok_or_else(refused),
            };
        }
    }
    if let Some(value) = present(NAME) {
        return organisation(value).map(Some).ok_or_else(refused);
    }
    Ok(OFTEN_SLUGS.iter().find_map(|name| slug(present(name)?)).map(Named::Slug))
}

/// The domains that the owner's proven e-mail address speaks for: its own, then the one that its
/// organisation registered. None of an address that anybody may have.
pub(super) fn email_domains(claims: &Value) -> Vec<DomainName> {
    let Some(domain) = verified_email(claims).map(|address| address.domain().clone()) else {
        return Vec::new();
    };
    match domain.registrable() {
        Some(_) if is_free_mail(&domain) => Vec::new(),
        Some(registered) if registered == domain => vec![domain],
        Some(registered) => vec![domain, registered],
        None => Vec::new(),
    }
}

/// The address that the provider has proven to be the user's.
#[must_use]
pub fn verified_email(claims: &Value) -> Option<EmailAddress> {
    let verified = claims.get("email_verified") == Some(&Value::Bool(true));
    let address = claims.get("email").and_then(Value::as_str).filter(|_| verified)?;
    EmailAddress::parse(address).ok()
}

fn organisation(value: &Value) -> Option<Named> {
    let name = value.as_str()?;
    let plausible = !name.trim().is_empty()
        && name.chars().count() <= MAX_NAME_CHARS
        && !name.chars().any(char::is_control);
    plausible.then(|| Named::Organisation(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[expect(clippy::needless_pass_by_value, reason = "the cases read better")]
    fn tenant(claims: Value, path: Option<&str>) -> Result<Option<Named>, ResolveError> {
        let path = path.map(|path| ClaimPath::parse(path).unwrap());
        tenant_of(&claims, path.as_ref())
    }

    fn slug(text: &str) -> Named {
        Named::Slug(TenantSlug::parse(text).unwrap())
    }

    #[test]
    fn each_claim_names_a_tenant() {
        for name in
            ["tenant", "org_slug", "org", "organization", "namespace", "group", "team", "workspace"]
        {
            assert_eq!(
                tenant(json!({ name: "acme" }), None).unwrap(),
                Some(slug("acme")),
                "{name}"
            );
        }
        assert_eq!(tenant(json!({ "sub": "1" }), None).unwrap(), None);
        assert_eq!(tenant(json!({ "tenant": null }), None).unwrap(), None);
    }

    #[test]
    fn the_path_of_the_settings_comes_first() {
        let claims = json!({
            "tenant": "globex", "app": { "orgs": [{ "slug": "acme" }] }, "https://a.com/t": "hooli"
        });

        let at = |path| tenant(claims.clone(), Some(path)).unwrap();

        assert_eq!(at("app.orgs.0.slug"), Some(slug("acme")));
        assert_eq!(at("/https:~1~1a.com~1t"), Some(slug("hooli")));
        assert_eq!(at("app.orgs.1.slug"), Some(slug("globex")));
        assert!(tenant(claims.clone(), Some("app")).is_err());
    }

    #[test]
    fn a_name_is_looked_up_and_never_made_into_a_slug() {
        let named = |claims| tenant(claims, None).unwrap();

        assert_eq!(named(json!({ "org_name": "acme" })), Some(Named::Organisation("acme".into())));
        assert_eq!(
            named(json!({ "org": "Acme Corp" })),
            Some(Named::Organisation("Acme Corp".into()))
        );
    }

    #[test]
    fn a_value_that_cannot_be_a_slug_is_refused() {
        for value in [
            json!(["acme"]),
            json!({ "slug": "acme" }),
            json!(7),
            json!(true),
            json!(""),
            json!("Acme"),
            json!("acme "),
            json!("аcme"),
            json!("acme/../globex"),
            json!("postgres"),
        ] {
            assert!(tenant(json!({ "tenant": value }), None).is_err(), "{value}");
        }
        for value in
            [json!(["acme"]), json!({}), json!(" "), json!("a\u{0}b"), json!("x".repeat(201))]
        {
            assert!(tenant(json!({ "org": value }), None).is_err(), "{value}");
        }
    }

    #[test]
    fn claims_that_mean_other_things_elsewhere_only_count_as_slugs() {
        assert_eq!(
            tenant(json!({ "group": ["admins"], "team": "acme" }), None).unwrap(),
            Some(slug("acme"))
        );
        assert_eq!(tenant(json!({ "group": "Admins" }), None).unwrap(), None);
    }

    #[test]
    fn only_a_proven_address_of_an_organisation_speaks_for_it() {
        let domains = |claims| -> Vec<String> {
            email_domains(&claims).iter().map(ToString::to_string).collect()
        };
        let of = |email: &str| domains(json!({ "email": email, "email_verified": true }));

        assert_eq!(of("ana@acme.com"), ["acme.com"]);
        assert_eq!(of("ana@eu.mail.ACME.co.uk"), ["eu.mail.acme.co.uk", "acme.co.uk"]);
        for nobodys in ["ana@gmail.com", "ana@eu.mailinator.com", "ana@co.uk", "a@acme.com@b.com"] {
            assert!(of(nobodys).is_empty(), "{nobodys}");
        }
        for verified in [json!(false), json!("true"), json!(1), json!(null), json!(["true"])] {
            let claims = json!({ "email": "ana@acme.com", "email_verified": verified });
            assert!(domains(claims).is_empty(), "{verified}");
        }
        assert!(domains(json!({ "email": "ana@acme.com" })).is_empty());
        assert!(domains(json!({ "email": ["ana@acme.com"], "email_verified": true })).is_empty());
    }

    #[test]
    fn a_path_has_no_empty_part() {
        for bad in ["", ".", "a.", ".a", "a..b"] {
            assert_eq!(ClaimPath::parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_path_and_no_value_makes_it_panic(path in ".{0,40}", name in ".{0,10}", value in ".{0,40}") {
            let path = ClaimPath::parse(&path);
            let claims = json!({ name: value, "tenant": value });
            _ = tenant_of(&claims, path.as_ref());
        }
    }
}
