//! Settings of which there are a few to choose from.

use tenantry_provisioning::Hardening;

use super::reader::Reader;

/// What a deployment is for. Only development relaxes anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deployment {
    /// One person's machine.
    Development,
    /// A rehearsal of production, under the same rules.
    Staging,
    /// Real tenants.
    Production,
}

/// Who vouches for users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthProvider {
    /// Nobody: callers need a token of ours, and come over loopback.
    None,
    /// Whoever has the key of the settings.
    Jwt,
    /// An OpenID provider.
    Oidc,
}

/// When a tenant that is behind is migrated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MigrationMode {
    /// When somebody asks for it.
    Manual,
    /// When it is next used, too.
    OnDemand,
    /// One after the other, too.
    Background,
}

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Pretty,
    /// One JSON object a line.
    Json,
}

/// Reads what tenants may see of each other. Whoever does without strictness outside of development says so.
pub(super) fn hardening(r: &mut Reader, environment: Deployment) -> Hardening {
    let usual = match environment {
        Deployment::Development => Hardening::Standard,
        Deployment::Staging | Deployment::Production => Hardening::Strict,
    };
    r.get("hardening").unwrap_or(usual)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    #[test]
    fn tenants_are_strict_unless_somebody_says_so_and_in_development() {
        let hardening = |settings: &[(&str, &str)]| {
            let given: Vec<_> =
                settings.iter().map(|(name, value)| (name.into(), value.into())).collect();
            Settings::read(None, &given, &[]).unwrap().hardening
        };
        let (production, staging) =
            (("TENANTRY_ENVIRONMENT", "production"), ("TENANTRY_ENVIRONMENT", "staging"));
        let (standard, strict) =
            (("TENANTRY_HARDENING", "standard"), ("TENANTRY_HARDENING", "strict"));

        assert_eq!(hardening(&[]), Hardening::Standard);
        assert_eq!(hardening(&[strict]), Hardening::Strict);
        assert_eq!(hardening(&[production]), Hardening::Strict);
        assert_eq!(hardening(&[staging]), Hardening::Strict);
        assert_eq!(hardening(&[production, standard]), Hardening::Standard);
    }
}
