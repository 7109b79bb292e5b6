//! Whether a server has the connections that replicas may take of it. A budget beyond that is none: PostgreSQL refuses
//! requests, and the administrator who would look into it.

use tenantry_provisioning::{Problem, ServerFacts};

/// What keeps all replicas together from holding as many connections to the server of this `name` as its `budget`
/// says, beside those of the administrator, `ours` in one process. Nothing where the server has no budget of its own.
#[must_use]
pub fn examine_budget(
    name: &str,
    budget: Option<i32>,
    ours: usize,
    facts: &ServerFacts,
) -> Option<Problem> {
    let budget = i64::from(budget?);
    let ours = i64::try_from(ours).unwrap_or(i64::MAX);
    let (usable, reserved) = (i64::from(facts.usable_connections()), facts.reserved_connections);
    let wanted = budget.saturating_add(ours);
    if wanted <= usable {
        return None;
    }
    let what = format!(
        "its connection budget of {budget} and the administrator's {ours} connections are more than the {usable} that \
         there are (max_connections is {}, and {reserved} are reserved)",
        facts.max_connections
    );
    let raise = format!(
        "raise max_connections to {} on the server, and restart it",
        wanted.saturating_add(reserved.into())
    );
    let remedy = match usable - ours {
        ..1 => raise,
        fits => format!("`tenantry server set {name} --connection-budget {fits}`; or {raise}"),
    };
    Some(Problem { what, remedy })
}
