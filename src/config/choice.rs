//! Settings of which there are a few to choose from.

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
