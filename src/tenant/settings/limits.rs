//! [`Limits`]: what a tenant may use of what it shares with its neighbours, said by the tenant's own settings or
//! by those of its tier; and [`EffectiveLimits`], what comes of both. Pure.
//!
//! Invariant: field by field, the tenant's own limit counts before its tier's. Where neither says anything,
//! what the operator decided for all counts.

use std::num::NonZeroU32;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{SettingsError, field, section};

/// What a tenant, or each tenant of a tier, may use. A limit may be missing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Most pooled connections to its database, for each replica; never more than the operator's bound.
    /// Members who may only read have a pool of their own, of the same size.
    #[serde(
        default,
        deserialize_with = "field::connections",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(minimum = 1, maximum = 1000)]
    connections: Option<u16>,
    /// How long one statement may run, such as `30s`; at most `24h`.
    #[serde(default, deserialize_with = "field::timeout", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "30s")]
    statement_timeout: Option<Timeout>,
    /// How long a transaction may stay open between two statements, such as `5m`; at most `24h`.
    #[serde(default, deserialize_with = "field::timeout", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "5m")]
    idle_in_transaction_timeout: Option<Timeout>,
    /// Most statements a second, over all replicas: each has an equal part.
    #[serde(default, deserialize_with = "field::rate", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 100_000)]
    queries_per_second: Option<NonZeroU32>,
}

/// A length of time, written again as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(super) struct Timeout {
    pub text: String,
    #[serde(skip)]
    pub length: Duration,
}

/// The limits that are in force for one tenant, each with where it is from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct EffectiveLimits {
    /// Most pooled connections, for each replica.
    #[serde(skip_serializing_if = "Option::is_none")]
    connections: Option<InForce<u16>>,
    /// How long one statement may run.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<InForce<String>>)]
    statement_timeout: Option<InForce<Timeout>>,
    /// How long a transaction may stay open between two statements.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<InForce<String>>)]
    idle_in_transaction_timeout: Option<InForce<Timeout>>,
    /// Most statements a second, over all replicas.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<InForce<u32>>)]
    queries_per_second: Option<InForce<NonZeroU32>>,
}

/// One limit, and where it is from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct InForce<T> {
    value: T,
    from: LimitSource,
}

/// Where a limit is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LimitSource {
    /// The tenant's own settings.
    Tenant,
    /// Its tier.
    Tier,
}

impl Limits {
    /// What each limit is called.
    pub const NAMES: [&'static str; 4] =
        ["connections", "statement_timeout", "idle_in_transaction_timeout", "queries_per_second"];

    /// Reads limits that somebody sends.
    pub fn parse(value: Value) -> Result<Self, SettingsError> {
        section::parse("limits", value)
    }

    /// Reads limits that some version of this program has stored. What this one does not know, or would not
    /// take, is passed over: the other limits stay in force.
    #[must_use]
    pub fn stored(value: Value) -> Self {
        section::stored("limits", value)
    }
}

impl Limits {
    /// Most pooled connections, for each replica.
    #[must_use]
    pub fn connections(&self) -> Option<usize> {
        self.connections.map(usize::from)
    }

    /// How long one statement may run.
    #[must_use]
    pub fn statement_timeout(&self) -> Option<Duration> {
        self.statement_timeout.as_ref().map(|timeout| timeout.length)
    }

    /// How long a transaction may stay open between two statements.
    #[must_use]
    pub fn idle_in_transaction_timeout(&self) -> Option<Duration> {
        self.idle_in_transaction_timeout.as_ref().map(|timeout| timeout.length)
    }

    /// Most statements a second, over all replicas.
    #[must_use]
    pub fn queries_per_second(&self) -> Option<NonZeroU32> {
        self.queries_per_second
    }
}

impl EffectiveLimits {
    /// What comes of a tenant's own limits and those of its tier.
    #[must_use]
    pub fn new(own: Option<&Limits>, tier: &Limits) -> Self {
        let no_limits = Limits::default();
        let own = own.unwrap_or(&no_limits);
        Self {
            connections: in_force(own.connections, tier.connections),
            statement_timeout: in_force(
                own.statement_timeout.clone(),
                tier.statement_timeout.clone(),
            ),
            idle_in_transaction_timeout: in_force(
                own.idle_in_transaction_timeout.clone(),
                tier.idle_in_transaction_timeout.clone(),
            ),
            queries_per_second: in_force(own.queries_per_second, tier.queries_per_second),
        }
    }

    /// Most pooled connections, for each replica.
    #[must_use]
    pub fn connections(&self) -> Option<usize> {
        self.connections.as_ref().map(|limit| usize::from(limit.value))
    }

    /// How long one statement may run.
    #[must_use]
    pub fn statement_timeout(&self) -> Option<Duration> {
        self.statement_timeout.as_ref().map(|limit| limit.value.length)
    }

    /// How long a transaction may stay open between two statements.
    #[must_use]
    pub fn idle_in_transaction_timeout(&self) -> Option<Duration> {
        self.idle_in_transaction_timeout.as_ref().map(|limit| limit.value.length)
    }

    /// Most statements a second, over all replicas.
    #[must_use]
    pub fn queries_per_second(&self) -> Option<NonZeroU32> {
        self.queries_per_second.as_ref().map(|limit| limit.value)
    }

    /// Whether connections that were opened under these limits are as good as under the others. Wherever a
    /// limit is from, it is the same one; and a rate is not in force in connections.
    #[must_use]
    pub fn same_connections(&self, other: &Self) -> bool {
        let in_connections = |limits: &Self| {
            (limits.connections(), limits.statement_timeout(), limits.idle_in_transaction_timeout())
        };
        in_connections(self) == in_connections(other)
    }
}

fn in_force<T>(own: Option<T>, tier: Option<T>) -> Option<InForce<T>> {
    let from = |from: LimitSource| move |value: T| InForce { value, from };
    own.map(from(LimitSource::Tenant)).or_else(|| tier.map(from(LimitSource::Tier)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn limits(value: Value) -> Limits {
        Limits::parse(value).unwrap()
    }

    #[test]
    fn a_tenants_own_limit_counts_before_its_tiers() {
        let own = limits(json!({ "connections": 20, "queries_per_second": null }));
        let tier = limits(json!({ "connections": 5, "queries_per_second": 100 }));

        let both = EffectiveLimits::new(Some(&own), &tier);

        assert_eq!(
            serde_json::to_value(&both).unwrap(),
            json!({
                "connections": { "value": 20, "from": "tenant" },
                "queries_per_second": { "value": 100, "from": "tier" },
            })
        );
        assert_eq!((both.connections(), both.statement_timeout()), (Some(20), None));
    }

    #[test]
    fn only_limits_that_are_in_force_in_connections_make_new_ones() {
        let before = EffectiveLimits::new(None, &limits(json!({ "statement_timeout": "60s" })));
        let same = [
            json!({ "statement_timeout": "1m" }),
            json!({ "statement_timeout": "60s", "queries_per_second": 5 }),
        ];
        for same in same {
            let own = limits(same);
            let after = EffectiveLimits::new(Some(&own), &Limits::default());
            assert!(before.same_connections(&after), "{after:?}");
        }
        let other = limits(json!({ "statement_timeout": "61s" }));
        assert!(!before.same_connections(&EffectiveLimits::new(None, &other)));
    }

    #[test]
    fn wrong_limits_are_refused_with_their_name() {
        for (wrong, words) in [
            (json!({ "queries_per_second": 0 }), "`limits.queries_per_second`: expected a whole"),
            (json!({ "queries_per_second": 100_001 }), "1 to 100000"),
            (json!({ "queries_per_second": 1.5 }), "1 to 100000"),
            (json!({ "statement_timeout": 30 }), "such as `30s`"),
            (json!({ "colour": "red" }), "unknown field `colour`"),
            (json!([]), "`limits`: expected a JSON object"),
        ] {
            let error = Limits::parse(wrong).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn what_another_version_stored_leaves_the_other_limits_in_force() {
        let stored = json!({ "connections": 5, "colour": "red", "statement_timeout": 7 });

        assert_eq!(Limits::stored(stored), limits(json!({ "connections": 5 })));
        assert_eq!(Limits::stored(json!("x")), Limits::default());
    }
}
