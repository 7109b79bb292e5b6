//! Where a tenant belongs in the fleet.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::field;
use crate::tenant::{Label, Tag, TenantSlug};

/// Where a tenant belongs in the fleet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FleetSettings {
    /// Its database is on servers of this region only.
    #[serde(default, deserialize_with = "field::label", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, max_length = 50, example = "eu")]
    pub region: Option<Label>,
    /// Free names by which it is chosen: a list, or one text.
    #[serde(
        default,
        deserialize_with = "field::labels",
        skip_serializing_if = "BTreeSet::is_empty"
    )]
    #[schema(value_type = Vec<String>, example = json!(["beta"]))]
    pub tags: BTreeSet<Label>,
    /// Its database is on servers that have all of these tags: a list of `key=value`, or one.
    #[serde(
        default,
        deserialize_with = "field::server_tags",
        skip_serializing_if = "BTreeSet::is_empty"
    )]
    #[schema(value_type = Vec<String>, example = json!(["disk=nvme"]))]
    pub server_tags: BTreeSet<Tag>,
    /// Tenants that are not to be on its server: a list of slugs, or one.
    #[serde(
        default,
        deserialize_with = "field::slugs",
        skip_serializing_if = "BTreeSet::is_empty"
    )]
    #[schema(value_type = Vec<String>)]
    pub apart_from: BTreeSet<TenantSlug>,
}
