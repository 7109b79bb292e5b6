//! What the settings say.

use std::net::SocketAddr;
use std::path::Path;

use tenantry_provisioning::{Hardening, ServerUrl};

use super::Checklist;
use crate::config::{Deployment, Origin, Settings};
use crate::operations::chain;

/// Rights that a file with a secret gives to nobody: to write for its group, and any for everybody else.
const OPEN: u32 = 0o027;

impl Checklist {
    pub(super) fn settings(&mut self, settings: &Settings) {
        self.conclude("environment", environment(settings));
        self.conclude("identity", identity(settings));
        let plain = "the listeners speak plain HTTP, over loopback only";
        let plain = settings.edge.tls.is_none().then_some(plain);
        self.conclude_with("listeners", listeners(settings), plain);
        self.conclude("admin-api", admin_api(settings));
        self.conclude("secret-files", secret_files(settings));
        self.conclude("hardening", hardening(settings));
        self.conclude_with("catalog-tls", catalog_tls(settings), catalog_is_near(settings));
        self.conclude(
            "bucket",
            unless(settings.s3_bucket.is_some(), "TENANTRY_S3_BUCKET", "there are no backups"),
        );
        let is_set = settings.backups.policy.schedule.is_some();
        self.conclude(
            "backup-schedule",
            unless(is_set, "TENANTRY_BACKUP_SCHEDULE", "nobody is backed up unasked"),
        );
        let is_set = settings.drill_schedule.is_some();
        self.conclude(
            "drill-schedule",
            unless(is_set, "TENANTRY_DRILL_SCHEDULE", "no backup is proven unasked"),
        );
        let is_set = settings.audit_schedule.is_some();
        self.conclude(
            "audit-schedule",
            unless(is_set, "TENANTRY_AUDIT_SCHEDULE", "isolation is not audited unasked"),
        );
    }
}

type Problems = Vec<(String, String)>;

fn one(what: impl Into<String>, remedy: impl Into<String>) -> Problems {
    vec![(what.into(), remedy.into())]
}

fn unless(is_set: bool, variable: &str, what: &str) -> Problems {
    if is_set {
        return Problems::new();
    }
    one(
        format!("{what}: {variable} is not set"),
        format!("set {variable}; `tenantry config show` says what it takes"),
    )
}

fn environment(settings: &Settings) -> Problems {
    match settings.environment {
        Deployment::Production => Problems::new(),
        Deployment::Development | Deployment::Staging => one(
            "TENANTRY_ENVIRONMENT is not `production`",
            "set TENANTRY_ENVIRONMENT=production where the tenants are real",
        ),
    }
}

fn identity(settings: &Settings) -> Problems {
    if settings.has_identity_provider() {
        return Problems::new();
    }
    one(
        "nobody vouches for users: TENANTRY_AUTH_PROVIDER is `none`",
        "set TENANTRY_AUTH_PROVIDER to jwt or oidc, with what belongs to it",
    )
}

fn listeners(settings: &Settings) -> Problems {
    if settings.edge.tls.is_some() {
        return Problems::new();
    }
    let problem = |(name, address): (&str, SocketAddr)| {
        (
            format!("{name} is {address}, and speaks plain HTTP"),
            format!(
                "set TENANTRY_TLS_CERT and TENANTRY_TLS_KEY, or bind {name} to loopback behind a proxy with TLS"
            ),
        )
    };
    [("TENANTRY_LISTEN", settings.listen), ("TENANTRY_ADMIN_LISTEN", settings.admin_listen)]
        .into_iter()
        .filter(|(_, address)| !address.ip().is_loopback())
        .map(problem)
        .collect()
}

fn admin_api(settings: &Settings) -> Problems {
    if !settings.admin_listen.ip().is_unspecified() || settings.edge.admin_client_ca.is_some() {
        return Problems::new();
    }
    one(
        format!("the admin API listens on every network: {}", settings.admin_listen),
        "bind TENANTRY_ADMIN_LISTEN to an address of the operators' network, or ask for client certificates with \
         TENANTRY_ADMIN_TLS_CLIENT_CA",
    )
}

/// The files of secrets, a settings file that holds one, and the key of the listeners' certificate.
fn secret_files(settings: &Settings) -> Problems {
    let mut files: Vec<&Path> = Vec::new();
    for explained in settings.explain().iter().filter(|explained| explained.key.secret) {
        match (&explained.file, &explained.origin) {
            (Some(file), _) | (None, Origin::File(file)) => files.push(file),
            (None, Origin::Default | Origin::Environment | Origin::Flag) => {}
        }
    }
    files.extend(settings.edge.tls.as_ref().map(|tls| tls.key.as_path()));
    files.sort_unstable();
    files.dedup();
    files.into_iter().filter_map(is_open).collect()
}

#[cfg(unix)]
fn is_open(file: &Path) -> Option<(String, String)> {
    use std::os::unix::fs::PermissionsExt as _;

    let name = file.display();
    match std::fs::metadata(file) {
        Ok(found) => {
            let mode = found.permissions().mode() & 0o777;
            (mode & OPEN != 0).then(|| {
                (
                    format!("{name} holds a secret, and its mode is {mode:o}"),
                    format!("run `chmod 600 {name}`"),
                )
            })
        }
        Err(error) => Some((
            format!("{name} cannot be looked at: {error}"),
            "run this as the user that Tenantry runs as".to_owned(),
        )),
    }
}

#[cfg(not(unix))]
fn is_open(_: &Path) -> Option<(String, String)> {
    None
}

fn hardening(settings: &Settings) -> Problems {
    match settings.hardening {
        Hardening::Strict => Problems::new(),
        Hardening::Standard => one(
            "TENANTRY_HARDENING is `standard`: tenants see the names of each other",
            "set TENANTRY_HARDENING=strict, then run `tenantry tenant harden --all`",
        ),
    }
}

fn catalog_tls(settings: &Settings) -> Problems {
    match settings.catalog_server_url() {
        Ok(url) => unproven("the catalog", &url).into_iter().collect(),
        Err(error) => one(chain(&error), error.remedy()),
    }
}

/// What there is to say where nobody asks the catalog for a proof.
fn catalog_is_near(settings: &Settings) -> Option<&'static str> {
    let url = settings.catalog_server_url().ok()?;
    is_near(&url).then_some(
        "the catalog is on this machine: no certificate is asked for, over loopback or a socket",
    )
}

/// Whether a server is reached over loopback or a socket, and proves nothing.
pub(super) fn is_near(url: &ServerUrl) -> bool {
    url.is_local() && !url.is_verified()
}

/// What is wrong with how a server is reached: over a network, it has to prove who it is.
pub(super) fn unproven(what: &str, url: &ServerUrl) -> Option<(String, String)> {
    if url.is_local() || url.is_verified() {
        return None;
    }
    Some((
        format!("{what} ({}) is believed without a certificate", url.host_label()),
        "add `sslmode=verify-full` to its URL, and `sslrootcert=FILE` for a CA of your own"
            .to_owned(),
    ))
}
