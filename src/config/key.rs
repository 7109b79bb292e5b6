//! The table of settings: every name there is, in the order in which `config show` lists them.

/// One setting, as people see it.
#[derive(Debug)]
pub struct Key {
    /// Its name in the settings file; in the environment, `TENANTRY_` and this in capitals.
    pub name: &'static str,
    /// The value that it has when nobody sets it, in words where it is no constant.
    pub default: &'static str,
    /// Whether its value is never shown, and may be given as a file.
    pub secret: bool,
    /// What it is for.
    pub meaning: &'static str,
}

const fn plain(name: &'static str, default: &'static str, meaning: &'static str) -> Key {
    Key { name, default, secret: false, meaning }
}

const fn secret(name: &'static str, default: &'static str, meaning: &'static str) -> Key {
    Key { name, default, secret: true, meaning }
}

/// What every setting in the environment begins with.
pub(super) const PREFIX: &str = "TENANTRY_";

/// The variable that names the settings file; it is no setting itself.
pub(super) const CONFIG_VARIABLE: &str = "TENANTRY_CONFIG";

/// Every setting.
pub const KEYS: &[Key] = &[
    plain(
        "environment",
        "development",
        "development, staging or production; only the first relaxes anything",
    ),
    secret("catalog_url", "", "PostgreSQL URL of the control database"),
    secret("server_url", "the catalog's server", "PostgreSQL URL of the first tenant server"),
    secret("master_key", "", "32 random bytes in base64 or hex, which seal the catalog's secrets"),
    secret(
        "master_key_previous",
        "",
        "keys that were the master key before, or will be: they open and do not seal; several with commas \
         between",
    ),
    plain("listen", "127.0.0.1:8080", "where the data plane listens"),
    plain("admin_listen", "127.0.0.1:8081", "where the admin API, health and metrics are"),
    plain("tls_cert", "", "PEM file of the certificate that both listeners show, and its chain"),
    plain(
        "tls_key",
        "",
        "PEM file of its key; files that change are read again, without a restart",
    ),
    plain(
        "admin_tls_client_ca",
        "",
        "PEM file of the CA whose certificate a client of the admin API must have, beside its token",
    ),
    plain(
        "cors_origins",
        "",
        "the web pages that may call the data plane, such as https://app.example.com; several with \
         commas between",
    ),
    plain(
        "trusted_proxies",
        "",
        "addresses and networks whose X-Forwarded-For and X-Forwarded-Host count; several with commas \
         between",
    ),
    plain("multi_tenant_mode", "true", "whether requests name their tenant"),
    plain("tenant_slug", "", "the one tenant, when multi_tenant_mode is false"),
    plain("tenant_name", "", "that tenant's name for people"),
    plain(
        "auth_provider",
        "none",
        "who vouches for users: none, jwt or oidc; `none` starts only in development on loopback",
    ),
    plain("jwt_issuer", "", "the `iss` of the tokens, when auth_provider is jwt"),
    plain("jwt_audience", "", "whom they must be meant for; several with commas between"),
    secret("jwt_secret", "", "a secret of at least 256 bits that they are signed with, or …"),
    plain("jwt_public_key", "", "… the PEM file of the public key, or …"),
    plain("jwt_public_key_url", "", "… the https address of a JSON Web Key Set"),
    plain("jwt_algorithm", "all that the key can make", "the signatures that are accepted"),
    plain(
        "jwt_tenant_claim",
        "tenant, org_slug, …",
        "the claim that names the tenant, asked first",
    ),
    plain("oidc_issuer", "", "the OpenID provider, when auth_provider is oidc"),
    plain("oidc_client_id", "", "this application at that provider"),
    plain("oidc_audience", "oidc_client_id", "whom its tokens must be meant for"),
    plain("admin_claim", "", "path=value: whose token says so may use the admin API"),
    plain("base_domain", "", "a domain under which every tenant has a name: acme.BASE_DOMAIN"),
    plain(
        "dns_server",
        "the system's",
        "whom to ask for the proof of a domain, such as 9.9.9.9:53",
    ),
    plain(
        "tenant_registration_requires_approval",
        "true",
        "whether somebody must approve the tenants that users ask for",
    ),
    plain(
        "tenant_registration_allowed_domains",
        "all",
        "where the proven e-mail addresses of those users must be; several with commas between",
    ),
    plain("tenant_registration_rate", "3/hour", "how often a user, and an address, may ask"),
    plain("max_tenants_per_user", "3", "most tenants that one user may own"),
    plain("frontend_base_url", "", "where users go; the slug stands at {slug}, or at its end"),
    plain(
        "tenant_migrations_dir",
        "./migrations/tenant",
        "the V<n>__<name>.sql and R__<name>.sql files that every tenant gets",
    ),
    plain(
        "tenant_sample_data",
        "./migrations/sample/boards.sql, if it is there",
        "the SQL file that --sample-data loads",
    ),
    plain(
        "hardening",
        "strict, and standard in development",
        "what tenants see of each other: standard (names, as PostgreSQL shows them to every role) or strict (nothing)",
    ),
    plain(
        "tenant_compliance_schema",
        "",
        "the JSON Schema file that `compliance` of a tenant's settings must keep to",
    ),
    plain("pool_max_size", "10", "most connections to one tenant's database, per replica"),
    plain(
        "server_connection_budget",
        "80",
        "most connections to one server, over all its tenants, per replica",
    ),
    plain("pool_idle_timeout", "300s", "after this time without use a connection is closed"),
    plain("pool_wait_timeout", "10s", "how long a request waits for a connection"),
    plain(
        "replica_max_lag",
        "10s",
        "how far a read replica may be behind and still be read from; 0s means never",
    ),
    plain(
        "sql_password_auth",
        "false",
        "whether a tenant's connection string is enough for SQL over HTTP, without a token",
    ),
    plain("sql_max_response_bytes", "16777216", "most bytes of one answer to SQL over HTTP"),
    plain("sql_max_rows", "100000", "most rows of one answer to SQL over HTTP"),
    plain(
        "sql_statement_timeout",
        "30s",
        "how long the statements of one request of SQL over HTTP may run; at most 75s",
    ),
    plain("s3_bucket", "", "the bucket for backups; none means no backups"),
    plain("s3_prefix", "tenantry", "what every object's key begins with"),
    plain("s3_endpoint", "AWS", "the address of an object store other than AWS"),
    plain("s3_region", "as the AWS chain says", "the bucket's region"),
    secret("s3_access_key_id", "the AWS chain", "the id of a key for the store"),
    secret("s3_secret_access_key", "the AWS chain", "that key's secret"),
    plain(
        "s3_force_path_style",
        "false",
        "whether the bucket is part of the path; most stores but AWS want it",
    ),
    plain(
        "s3_object_lock",
        "",
        "for how many days the bucket loses no object of a backup, such as `governance=30` or `compliance=365`",
    ),
    plain(
        "s3_encryption",
        "",
        "with what the store encrypts what it keeps, on top of us: `AES256`, `aws:kms` or `aws:kms=<key>`",
    ),
    plain(
        "backup_concurrency",
        "2",
        "backups that one command, or the schedule over all replicas, takes at a time",
    ),
    plain(
        "backup_schedule",
        "",
        "when every tenant is backed up, as a cron expression in UTC such as `0 2 * * *`; spread over the hour",
    ),
    plain(
        "backup_retention",
        "",
        "which backups are kept, such as `last=7,daily=14,weekly=8,monthly=12,yearly=3,days=7`; all when not set",
    ),
    plain("backup_goal_rpo", "", "how old the newest backup of a tenant may be, such as `26h`"),
    plain(
        "backup_server_concurrency",
        "backup_concurrency",
        "scheduled backups on one server at a time",
    ),
    plain(
        "backup_pause_above",
        "50%",
        "sessions at work on a server, as a part of its max_connections, above which no scheduled backup begins there",
    ),
    plain("worker_concurrency", "4", "operations that one replica drives at a time"),
    plain("warm_spares", "2", "ready clones kept on each server"),
    plain(
        "drill_schedule",
        "",
        "when backups are restored to prove them, as a cron expression in UTC; none means when asked",
    ),
    plain("drill_sample", "5", "how many tenants' backups are proven each time"),
    plain(
        "audit_schedule",
        "",
        "when isolation is audited, as a cron expression in UTC; none means when asked",
    ),
    plain(
        "audit_retention",
        "",
        "how long entries of the audit log are kept, such as 400d; none means for good",
    ),
    plain(
        "operation_retention",
        "90d",
        "how long operations and rollouts are kept that have ended; 0s means for good",
    ),
    plain(
        "usage_retention",
        "",
        "how long the days of tenants' usage are kept, such as 800d; none means for good",
    ),
    plain(
        "relocate_nice_ratio",
        "5",
        "while a tenant that is served is copied and compared, rest so many times as long as to work; 0 means full speed",
    ),
    plain("restore_keep", "7d", "how long the database that a restore replaced is kept"),
    plain(
        "pitr_stanzas",
        "",
        "what pgBackRest calls each server whose WAL it archives, such as `default=main,eu-2=eu2`; for `restore --at`",
    ),
    plain("pitr_config", "pgBackRest's own", "the configuration file of pgBackRest"),
    plain(
        "pitr_scratch_dir",
        "",
        "where `restore --at` puts a whole server for a while; needed with pitr_stanzas",
    ),
    plain(
        "migration_mode",
        "manual",
        "when a tenant that is behind is migrated: manual (somebody asks), on-demand (it is used) or background",
    ),
    plain(
        "migration_lock_timeout",
        "2s",
        "how long a migration waits for a lock before it lets others pass and tries again",
    ),
    plain("migration_statement_timeout", "15m", "how long one statement of a migration may run"),
    plain(
        "webhook_url",
        "",
        "where to tell what happens in rollouts, and when backups fail or miss their goal",
    ),
    secret("webhook_secret", "", "what those messages are signed with"),
    plain(
        "pg_bin_dir",
        "the usual places",
        "where pg_dump and pg_restore are; for servers of several major versions, `:` between them",
    ),
    plain(
        "enable_audit_logging",
        "true",
        "whether the audit log is written; always, so that anything but true is refused",
    ),
    plain(
        "enable_advanced_metrics",
        "true",
        "whether /metrics has how long requests, waits and operations take",
    ),
    plain(
        "metrics_per_tenant",
        "false",
        "whether /metrics has the requests of each tenant, by slug; for some hundreds of tenants",
    ),
    plain(
        "log_level",
        "info for serve, warn for commands",
        "what is logged, such as `info` or `warn,tenantry=debug`",
    ),
    plain("log_format", "pretty", "pretty or json"),
    plain(
        "otel_exporter_otlp_endpoint",
        "",
        "the OpenTelemetry collector that traces go to, over HTTP, such as `http://localhost:4318`",
    ),
];

/// The setting with this name.
pub(super) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// The setting whose name is nearest to a wrong one, if one is near.
pub(super) fn nearest(name: &str) -> Option<&'static Key> {
    let name = name.to_ascii_lowercase().replace('-', "_");
    nearest_of(&name, KEYS.iter().map(|key| key.name)).and_then(find)
}

/// The one of some names that is nearest to a wrong one, if one is near.
pub fn nearest_of<'a>(name: &str, names: impl Iterator<Item = &'a str> + Clone) -> Option<&'a str> {
    let found = names.clone().min_by_key(|known| distance(name, known))?;
    if distance(name, found) <= (found.len() / 3).max(2) {
        return Some(found);
    }
    names.into_iter().find(|known| name.len() >= 4 && known.starts_with(name))
}

/// How a setting is written in the environment.
pub(super) fn variable(name: &str) -> String {
    format!("{PREFIX}{}", name.to_ascii_uppercase())
}

/// How many characters must be put in, left out or replaced to make one text into the other.
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.chars().count()).collect();
    for (i, a) in one.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in other.chars().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[other.chars().count()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_pen_is_understood() {
        let cases = [
            ("catalog_ulr", Some("catalog_url")),
            ("pool_max", Some("pool_max_size")),
            ("MASTERKEY", Some("master_key")),
            ("s3-bucket", Some("s3_bucket")),
            ("colour", None),
        ];
        for (written, meant) in cases {
            assert_eq!(nearest(written).map(|key| key.name), meant, "{written}");
        }
    }

    #[test]
    fn no_name_is_there_twice() {
        for key in KEYS {
            assert_eq!(
                KEYS.iter().filter(|other| other.name == key.name).count(),
                1,
                "{}",
                key.name
            );
        }
    }
}
