//! Where an object of a backup lies: `<tenant id>/<backup id>/<name>`.
//!
//! Keys are made from ids, never from a slug, so a tenant can be renamed and no name leaks into a
//! bucket. Text that was not written by this crate does not parse, and is left alone by everything
//! that lists or deletes.

use std::fmt;

use uuid::Uuid;

const DUMP: &str = "dump";
const MANIFEST: &str = "manifest.json";

/// The name of one object, without the store's own prefix.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    tenant: Uuid,
    backup: Uuid,
    name: String,
}

impl ObjectKey {
    /// The encrypted dump of a backup, by the first attempt at it.
    #[must_use]
    pub fn dump(tenant: Uuid, backup: Uuid) -> Self {
        Self::dump_by(tenant, backup, None)
    }

    /// The same by a later attempt: the worker of an earlier one may have been given up and still be sending.
    #[must_use]
    pub fn dump_by(tenant: Uuid, backup: Uuid, attempt: Option<Uuid>) -> Self {
        let name = attempt.map_or_else(|| DUMP.to_owned(), |attempt| format!("{DUMP}-{attempt}"));
        Self { tenant, backup, name }
    }

    /// The manifest of a backup; it is written last, so a backup without one does not exist.
    #[must_use]
    pub fn manifest(tenant: Uuid, backup: Uuid) -> Self {
        Self { tenant, backup, name: MANIFEST.to_owned() }
    }

    /// Reads `<tenant id>/<backup id>/<name>`; `None` for anything that is not of that form.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut segments = text.splitn(3, '/');
        let tenant = parse_id(segments.next()?)?;
        let backup = parse_id(segments.next()?)?;
        let name = segments.next()?;
        let safe = !name.is_empty()
            && name.split('/').all(|segment| !matches!(segment, "" | "." | ".."))
            && !name.contains(['\\', '\0']);
        safe.then(|| Self { tenant, backup, name: name.to_owned() })
    }

    /// The tenant that the object belongs to.
    #[must_use]
    pub fn tenant(&self) -> Uuid {
        self.tenant
    }

    /// The backup that the object belongs to.
    #[must_use]
    pub fn backup(&self) -> Uuid {
        self.backup
    }

    /// Whether this is a dump, of whichever attempt.
    #[must_use]
    pub fn is_dump(&self) -> bool {
        let attempt = self.name.strip_prefix(DUMP);
        attempt.is_some_and(|rest| {
            rest.is_empty() || rest.strip_prefix('-').is_some_and(|id| parse_id(id).is_some())
        })
    }

    /// Whether this is the manifest, whose presence makes a backup.
    #[must_use]
    pub fn is_manifest(&self) -> bool {
        self.name == MANIFEST
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.tenant, self.backup, self.name)
    }
}

/// A part of the store that a listing covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyScope {
    /// Every backup of one tenant.
    Tenant(Uuid),
    /// One backup.
    Backup {
        /// The tenant that the backup belongs to.
        tenant: Uuid,
        /// The backup.
        backup: Uuid,
    },
}

impl KeyScope {
    /// What the keys in this scope begin with; ends in a slash.
    pub(crate) fn prefix(self) -> String {
        match self {
            Self::Tenant(tenant) => format!("{tenant}/"),
            Self::Backup { tenant, backup } => format!("{tenant}/{backup}/"),
        }
    }
}

/// An id in the one spelling that this crate writes: lower case, with hyphens.
pub(crate) fn parse_id(text: &str) -> Option<Uuid> {
    Uuid::try_parse(text).ok().filter(|id| id.to_string() == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_back_as_it_was_written() {
        let (tenant, backup) = (Uuid::now_v7(), Uuid::now_v7());

        let again = ObjectKey::dump_by(tenant, backup, Some(Uuid::now_v7()));
        for key in [&ObjectKey::dump(tenant, backup), &again, &ObjectKey::manifest(tenant, backup)]
        {
            assert_eq!(ObjectKey::parse(&key.to_string()).as_ref(), Some(key));
            assert_eq!(key.is_dump(), !key.is_manifest());
        }
        assert!(ObjectKey::manifest(tenant, backup).is_manifest());
        assert!(!ObjectKey::dump(tenant, backup).is_manifest());
    }

    #[test]
    fn the_layout_is_tenant_backup_name() {
        let (tenant, backup) = (Uuid::from_u128(1), Uuid::from_u128(2));

        assert_eq!(
            ObjectKey::manifest(tenant, backup).to_string(),
            "00000000-0000-0000-0000-000000000001/00000000-0000-0000-0000-000000000002/manifest.json"
        );
    }

    #[test]
    fn a_foreign_or_climbing_name_is_no_key() {
        let id = Uuid::now_v7();
        let foreign = [
            String::new(),
            "notes.txt".to_owned(),
            format!("{id}/notes.txt"),
            format!("{id}/{id}/"),
            format!("{id}/{id}/../../etc/passwd"),
            format!("{id}/{id}//dump"),
            format!("{}/{id}/dump", id.simple()),
            format!("{id}/{}/dump", id.to_string().to_uppercase()),
        ];

        for text in foreign {
            assert_eq!(ObjectKey::parse(&text), None, "{text:?}");
        }
    }
}
