//! What a clone is asked with.

use std::collections::BTreeSet;

use crate::tenant::{Label, TenantSlug};

/// The tenant that a clone is to be.
#[derive(Clone, Debug)]
pub struct CloneAs {
    /// Its slug.
    pub slug: TenantSlug,
    /// Its name for people; the slug when none is given.
    pub name: Option<String>,
    /// Its server; the best by the rules of placement when none is named.
    pub server: Option<String>,
    /// Its tags; those of the original when none are given.
    pub tags: Option<BTreeSet<Label>>,
    /// SQL that masks its data before it opens.
    pub mask: Option<String>,
}
