//! The kinds of findings, as a table: how bad each is, and what to do where no statement fixes it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How bad a finding is; the worst first.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// A tenant reaches another, or the server; or nobody can say.
    Critical,
    /// One step is missing to that.
    High,
    /// A line of defence is down, or something stands for what it is not.
    Medium,
    /// It is not as it was made, and does no harm now.
    Low,
}

/// One kind of finding.
#[derive(Debug)]
pub struct Kind {
    /// Its stable name.
    pub code: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What to do about it by hand; `SLUG` stands for the slug of the tenant that it is about.
    pub remedy: &'static str,
}

use Severity::{Critical, High, Low, Medium};

/// Every kind.
pub const KINDS: &[Kind] = &[
    // What was tried as a tenant, and worked.
    kind(
        "login_elsewhere",
        Critical,
        "revoke what lets the role in: the other findings about it say what",
    ),
    kind(
        "forbidden_act",
        Critical,
        "take away what allows it: a membership, an attribute, a grant or an extension",
    ),
    kind(
        "suspended_login",
        High,
        "run `tenantry tenant suspend` again: the role of a suspended tenant may not log in",
    ),
    kind(
        "login_failed",
        High,
        "see what the server says: `tenantry tenant rotate-password` where it is the password; otherwise a right is missing",
    ),
    // Databases.
    kind("database_missing", Critical, "restore it: `tenantry restore SLUG --latest --in-place`"),
    kind("public_right", Critical, "revoke the right from public"),
    kind("reaches_database", Critical, "revoke the right from the role"),
    kind("wrong_owner", Critical, "give the database back to the administrator"),
    kind(
        "wrong_marker",
        High,
        "find out whose it is before anything else: two databases may have changed names; then rename or comment it by hand",
    ),
    kind(
        "wrong_stamp",
        High,
        "find out which database this is; if it is the tenant's live one, set `tenantry.tenant` to its id and epoch",
    ),
    kind("foreign_right", High, "revoke the right"),
    kind("clonable", High, "make it no template: whoever may create databases could clone it"),
    kind("open_database", High, "revoke connect, temporary on it from public"),
    kind("accepts_connections", Medium, "shut it: `alter database … allow_connections false`"),
    kind("stray_database", Medium, "look into it; if nobody needs it, drop it by hand"),
    kind(
        "connection_limit",
        Low,
        "take the limit away: limits are the router's (`tenantry tier set`)",
    ),
    // Roles.
    kind(
        "role_missing",
        Critical,
        "run `tenantry server prepare` for a group role; restore a tenant whose own role is gone",
    ),
    kind("role_attribute", Critical, "take the attribute away"),
    kind("predefined_role", Critical, "revoke the membership, or the one that leads to it"),
    kind("membership", Critical, "revoke the membership, or the one that leads to it"),
    kind("member", High, "revoke the membership: whoever has it is the tenant"),
    kind("weak_password", High, "run `tenantry tenant rotate-password`"),
    kind("setting", High, "reset it: sessions of tenants get only what the router gives them"),
    kind("parameter_right", High, "revoke the right to the setting"),
    kind("stray_role", Medium, "look into it; if nobody needs it, drop it by hand"),
    kind(
        "powerful_role",
        Low,
        "make sure that somebody needs it, and accept it; otherwise drop it",
    ),
    kind("valid_until", Low, "let it end never: the tenant would be locked out"),
    kind("tablespace_right", Medium, "revoke create on the tablespace"),
    // The server.
    kind("hba_trust", Critical, "change the line's method to scram-sha-256 and reload"),
    kind("hba_cleartext", High, "change the line's method to scram-sha-256 and reload"),
    kind("hba_no_tls", Medium, "change the line's type to hostssl and reload"),
    kind("hba_error", Low, "fix the line: the whole file is not read while it is there"),
    kind("no_tls", Medium, "set ssl = on with a certificate"),
    kind(
        "server_setting",
        Medium,
        "set it back: scram-sha-256 for password_encryption, off for the others",
    ),
    kind("stale_session", High, "end the session"),
    kind(
        "replication_slot",
        High,
        "drop the slot with pg_drop_replication_slot, unless somebody needs that copy",
    ),
    kind("subscription", High, "drop the subscription: others write into the tenant's database"),
    // Inside of a database.
    kind("extension", High, "drop extension, unless an operator needs it there"),
    kind("foreign_server", High, "drop the server with its user mappings"),
    kind("untrusted_language", Critical, "drop the language and what is written in it"),
    kind("untrusted_function", Critical, "drop the function"),
    kind(
        "security_definer",
        High,
        "fix its search_path: `alter function … set search_path = pg_catalog, public`",
    ),
    kind("event_trigger", High, "drop the event trigger: migrations run it as whoever migrates"),
    kind("publication", High, "drop the publication, unless somebody needs that copy"),
    kind("schema_right", High, "revoke the right to the schema"),
    kind("object_right", Medium, "revoke the right; tenantry_app has what tenants need"),
    kind("object_owner", High, "give it to tenantry_owner"),
    kind("default_privilege", Medium, "alter default privileges back"),
    kind("catalog_right", Critical, "revoke the right to the system catalog"),
    kind("server_function", Critical, "revoke execute on the function"),
    kind(
        "neighbours_seen",
        Medium,
        "run `tenantry tenant harden SLUG`, or set TENANTRY_HARDENING=standard if tenants may know of each other",
    ),
    kind("large_object", Medium, "give it to tenantry_owner, and revoke what PUBLIC has"),
    // The catalog and the bucket.
    kind("member_issuer", Medium, "remove the member, or change `sso.issuer` of the tenant"),
    kind(
        "domain_twice",
        Critical,
        "remove the domain from the tenant that does not hold it: `tenantry tenant domain remove`",
    ),
    kind("domain_of_nobody", Medium, "remove the domain's row: its tenant is deleted"),
    kind(
        "registration_without_tenant",
        Medium,
        "find out what became of the tenant; restore the catalog's row, or reject the registration",
    ),
    kind(
        "out_of_region",
        High,
        "move it, `tenantry tenant relocate SLUG --to NAME`, or correct `fleet.region` or the server's region",
    ),
    kind(
        "not_tagged",
        Medium,
        "move it, `tenantry tenant relocate SLUG --to NAME`, or correct `fleet.server_tags` or the server's tags",
    ),
    kind(
        "not_apart",
        Medium,
        "move one of them, `tenantry tenant relocate SLUG --to NAME`, or correct `fleet.apart_from`",
    ),
    kind("schema_drift", Medium, "see what differs: `tenantry migrate verify --tenant SLUG`"),
    kind(
        "stray_backups",
        Medium,
        "they may be another catalog's; if not, remove the prefix by hand",
    ),
    kind(
        "misplaced_backup",
        Critical,
        "move the object under the prefix of its tenant, and find out who put it there",
    ),
    kind(
        "old_key",
        Medium,
        "run `tenantry key rotate` again: something is still under a key of before",
    ),
];

impl Kind {
    /// The kind with this name.
    #[must_use]
    pub fn of(code: &str) -> Option<&'static Self> {
        KINDS.iter().find(|kind| kind.code == code)
    }
}

impl Severity {
    /// Every severity, the worst first.
    pub const ALL: [Self; 4] = [Critical, High, Medium, Low];

    /// Its name, in JSON and for people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Critical => "critical",
            High => "high",
            Medium => "medium",
            Low => "low",
        }
    }
}

const fn kind(code: &'static str, severity: Severity, remedy: &'static str) -> Kind {
    Kind { code, severity, remedy }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const QUERIES: [&str; 8] = [
        include_str!("../../provisioning/sql/audit/databases.sql"),
        include_str!("../../provisioning/sql/audit/roles.sql"),
        include_str!("../../provisioning/sql/audit/passwords.sql"),
        include_str!("../../provisioning/sql/audit/server.sql"),
        include_str!("../../provisioning/sql/audit/parameters.sql"),
        include_str!("../../provisioning/sql/audit/hba.sql"),
        include_str!("../../provisioning/sql/audit/inside.sql"),
        include_str!("../catalog/audits/contradictions.rs"),
    ];

    #[test]
    fn every_kind_that_a_query_names_is_in_the_table_once() {
        let codes: BTreeSet<&str> = KINDS.iter().map(|kind| kind.code).collect();
        assert_eq!(codes.len(), KINDS.len());
        let mut named = BTreeSet::new();
        for line in QUERIES.iter().flat_map(|query| query.lines()) {
            let Some(rest) = line.trim_start().strip_prefix("select '") else { continue };
            let Some((code, after)) = rest.split_once('\'') else { continue };
            if after.starts_with(',') || after.starts_with(" as kind") {
                named.insert(code);
            }
        }
        assert!(named.len() > 40, "{named:?}");
        for code in named {
            assert!(Kind::of(code).is_some(), "{code}");
        }
        for code in ["predefined_role", "membership", "neighbours_seen"] {
            assert!(Kind::of(code).is_some(), "{code}");
        }
    }
}
