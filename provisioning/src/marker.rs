//! [`Marker`]: the comment by which this system knows its own databases and roles again.
//!
//! A marker is written in the same transaction that gives a thing its final name, so nothing of ours
//! ever stands unmarked. A comment that is not exactly one of these forms is somebody else's.

use std::fmt;

use uuid::Uuid;

/// Who made something: a tenant, and the operation that did it for that tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    /// The tenant it belongs to.
    pub tenant: Uuid,
    /// The operation that made it.
    pub operation: Uuid,
}

/// What a comment of ours says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Marker {
    /// A tenant's database or login role.
    Tenant(Owner),
    /// A template to clone from.
    Template {
        /// The migration set's digest.
        digest: String,
        /// The schema version that it has.
        version: i64,
    },
    /// A clone made ahead of time.
    Spare {
        /// The migration set's digest.
        digest: String,
        /// The schema version that it has.
        version: i64,
    },
    /// One of the two roles that all tenants share.
    GroupRole,
}

const GROUP_ROLE: &str = "tenantry group role";

impl Marker {
    /// Reads a comment; `None` if it is none of ours.
    #[must_use]
    pub fn parse(comment: &str) -> Option<Self> {
        if comment == GROUP_ROLE {
            return Some(Self::GroupRole);
        }
        let words: Vec<&str> = comment.split(' ').collect();
        match words[..] {
            ["tenantry", tenant, operation] => Some(Self::Tenant(Owner {
                tenant: tenant.strip_prefix("tenant=")?.parse().ok()?,
                operation: operation.strip_prefix("operation=")?.parse().ok()?,
            })),
            ["tenantry", kind, digest, version] => {
                let digest = digest.strip_prefix("digest=")?.to_owned();
                let version = version.strip_prefix("version=")?.parse().ok()?;
                match kind {
                    "template" => Some(Self::Template { digest, version }),
                    "spare" => Some(Self::Spare { digest, version }),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// The tenant it names, if it names one.
    #[must_use]
    pub fn tenant(&self) -> Option<Uuid> {
        match self {
            Self::Tenant(owner) => Some(owner.tenant),
            Self::Template { .. } | Self::Spare { .. } | Self::GroupRole => None,
        }
    }
}

impl fmt::Display for Marker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tenant(Owner { tenant, operation }) => {
                write!(f, "tenantry tenant={tenant} operation={operation}")
            }
            Self::Template { digest, version } => {
                write!(f, "tenantry template digest={digest} version={version}")
            }
            Self::Spare { digest, version } => {
                write!(f, "tenantry spare digest={digest} version={version}")
            }
            Self::GroupRole => f.write_str(GROUP_ROLE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_marker_is_read_back_as_it_was_written() {
        let owner = Owner { tenant: Uuid::from_u128(1), operation: Uuid::from_u128(2) };
        for marker in [
            Marker::Tenant(owner),
            Marker::Template { digest: "abc".to_owned(), version: 7 },
            Marker::Spare { digest: "abc".to_owned(), version: 0 },
            Marker::GroupRole,
        ] {
            assert_eq!(Marker::parse(&marker.to_string()), Some(marker));
        }
    }

    #[test]
    fn other_comments_are_not_ours() {
        for comment in [
            "",
            "default administrative connection database",
            "tenantry",
            "tenantry tenant=1 operation=2",
            "tenantry spare digest=abc version=many",
            "tenantry group role ",
            "made by tenantry tenant=00000000-0000-0000-0000-000000000001 operation=00000000-0000-0000-0000-000000000002",
        ] {
            assert_eq!(Marker::parse(comment), None, "{comment:?}");
        }
    }
}
