//! What a tenant's own role can really do: every tenant at every other database of its server, and at everything in
//! its own that it must not do.
//!
//! Attempts share a budget of sessions of their own, so that a running load does not feel them. A tenant whose own
//! password is refused has proven nothing by being refused elsewhere: its pairs count as not tried.

use std::sync::Arc;

use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use tenantry_provisioning::{ACTS, Attacker, Attempt, Login, Server, is_shut_out};

use super::report::{AuditReport, Finding};
use super::{AuditOptions, Place};
use crate::catalog::CatalogError;
use crate::operations::{StepError, chain};
use crate::tenant::TenantState;

/// How many reasons why pairs were not tried a report spells out for one server.
const REASONS: usize = 5;

/// Attacks a server as each of its tenants.
pub(super) async fn attack(
    place: &Place<'_>,
    server: &Server,
    report: &mut AuditReport,
) -> Result<(), StepError> {
    let databases = server.every_database().await?;
    let attackers = place.tenants().await?.looked_at.into_iter().map(|tenant| {
        let catalog = &place.environment.catalog;
        async move {
            let password = catalog.tenant_password(tenant.id).await?;
            let (database, role) = (tenant.database.clone(), tenant.role.clone());
            Ok::<_, CatalogError>((tenant, Attacker { database, role, password }))
        }
        .boxed()
    });
    let attackers: Vec<_> = attackers.collect();
    let attackers = stream::iter(attackers).buffered(place.options.sessions.max(1));
    let attackers: Vec<_> = attackers.try_collect().await?;
    let pairs = attackers.len() * databases.len().saturating_sub(1);
    report.tried.pairs += pairs as u64;

    let mut able = Vec::with_capacity(attackers.len());
    let logins: Vec<_> = attackers
        .into_iter()
        .map(|(tenant, attacker)| {
            let server = server.clone();
            async move { (log_in(&server, tenant.state, attacker).await, tenant) }.boxed()
        })
        .collect();
    let mut logins = stream::iter(logins).buffer_unordered(place.options.sessions.max(1));
    while let Some((login, tenant)) = logins.next().await {
        // What fails because the tenant was changed meanwhile is no wonder.
        let is_good = matches!(login, LoggedIn::Attacked(..) | LoggedIn::Suspended);
        if !is_good && !place.is_unchanged(&tenant).await? {
            continue;
        }
        if let Some(attacker) = login.note(place, report) {
            able.push(Arc::new(attacker));
        }
    }
    knock_everywhere(place, server, &able, &databases, report).await;
    Ok(())
}

/// What became of a tenant's login to its own database.
enum LoggedIn {
    /// It could be attacked from.
    Attacked(Attacker, Login),
    /// Nobody could log in, and nobody should: the tenant is suspended.
    Suspended,
    /// Somebody could, as a suspended tenant.
    Intruded(Attacker),
    /// It took the password, and was not let into its own database.
    ShutOut(Attacker, String),
    /// Nobody knows.
    Failed(Attacker, String),
}

async fn log_in(server: &Server, state: TenantState, attacker: Attacker) -> LoggedIn {
    if state == TenantState::Suspended {
        return match server.knock(&attacker, attacker.database.as_str()).await {
            Attempt::Refused => LoggedIn::Suspended,
            Attempt::Allowed => LoggedIn::Intruded(attacker),
            Attempt::Untried(why) => LoggedIn::Failed(attacker, why),
        };
    }
    match server.attack_from(&attacker).await {
        Ok(login) => LoggedIn::Attacked(attacker, login),
        Err(error) if is_shut_out(&error) => LoggedIn::ShutOut(attacker, chain(&error)),
        Err(error) => LoggedIn::Failed(attacker, chain(&error)),
    }
}

impl AuditReport {
    fn note_failure(&mut self, server: &str, attacker: &Attacker, why: String) {
        let role = attacker.role.as_str();
        self.untried.push(format!("{role} on {server} could not log in: {why}"));
        self.findings.push(Finding::new("login_failed", server, role, why));
    }
}

impl LoggedIn {
    /// Writes down what was found; returns whom to go on with.
    fn note(self, place: &Place<'_>, report: &mut AuditReport) -> Option<Attacker> {
        let name = &place.name;
        let (attacker, login) = match self {
            Self::Attacked(attacker, login) => (attacker, login),
            Self::Intruded(attacker) => {
                let evidence = "the tenant is suspended, and its role logged in".to_owned();
                let role = attacker.role.as_str();
                report.findings.push(Finding::new("suspended_login", name, role, evidence));
                return Some(attacker);
            }
            Self::ShutOut(attacker, why) => {
                report.note_failure(name, &attacker, why);
                return Some(attacker);
            }
            Self::Failed(attacker, why) => {
                report.note_failure(name, &attacker, why);
                return None;
            }
            Self::Suspended => return None,
        };
        let tried = &mut report.tried;
        let seen = |number: i64| u64::try_from(number).unwrap_or(0);
        tried.logins += 1;
        tried.acts += ACTS.len() as u64;
        tried.names_of_databases_seen =
            tried.names_of_databases_seen.max(seen(login.visible.databases));
        tried.names_of_roles_seen = tried.names_of_roles_seen.max(seen(login.visible.roles));
        for (act, attempt) in login.acts {
            match attempt {
                Attempt::Refused => tried.acts_refused += 1,
                Attempt::Allowed => {
                    let evidence = format!("it could {}", act.what);
                    let mut finding =
                        Finding::new("forbidden_act", name, attacker.role.as_str(), evidence);
                    finding.sql = Some(act.sql.to_owned());
                    finding.database = Some(attacker.database.to_string());
                    report.findings.push(finding);
                }
                Attempt::Untried(why) => {
                    let role = &attacker.role;
                    report.untried.push(format!("{role} on {name}: to {}: {why}", act.what));
                }
            }
        }
        Some(attacker)
    }
}

async fn knock_everywhere(
    place: &Place<'_>,
    server: &Server,
    attackers: &[Arc<Attacker>],
    databases: &[String],
    report: &mut AuditReport,
) {
    let pairs = choose(attackers, databases, place.options, report.audit.as_u128());
    let mut reasons = Vec::new();
    let knocks = pairs.into_iter().map(|(attacker, database)| {
        let server = server.clone();
        async move { (server.knock(&attacker, &database).await, attacker, database) }.boxed()
    });
    let knocks: Vec<_> = knocks.collect();
    let mut knocks = stream::iter(knocks).buffer_unordered(place.options.sessions.max(1));
    while let Some((attempt, attacker, database)) = knocks.next().await {
        match attempt {
            Attempt::Refused => {
                report.tried.pairs_tried += 1;
                report.tried.pairs_refused += 1;
            }
            Attempt::Allowed => {
                report.tried.pairs_tried += 1;
                let role = attacker.role.as_str();
                let evidence = format!("it logged in to database {database}");
                let mut finding = Finding::new("login_elsewhere", &place.name, role, evidence);
                finding.sql = Some(format!(
                    "select has_database_privilege('{role}', '{database}', 'connect')"
                ));
                report.findings.push(finding);
            }
            Attempt::Untried(why) => {
                reasons.push(format!("{} at {database} on {}: {why}", attacker.role, place.name));
            }
        }
    }
    if reasons.len() > REASONS {
        let more = reasons.len() - REASONS;
        reasons.truncate(REASONS);
        reasons.push(format!("and {more} more pairs on {}", place.name));
    }
    report.untried.extend(reasons);
}

/// Every pair; or, where they are too many, for each tenant a stretch of the databases that begins elsewhere in each
/// audit, and all that are no tenant's.
fn choose(
    attackers: &[Arc<Attacker>],
    databases: &[String],
    options: &AuditOptions,
    seed: u128,
) -> Vec<(Arc<Attacker>, String)> {
    let is_tenants = |name: &&String| name.starts_with("tenant_");
    let (theirs, shared): (Vec<&String>, Vec<&String>) = databases.iter().partition(is_tenants);
    let each = (options.pairs / attackers.len().max(1)).saturating_sub(shared.len()).max(1);
    let step = usize::try_from(seed % (theirs.len().max(1) as u128)).unwrap_or(0);
    let mut pairs = Vec::new();
    for (number, attacker) in attackers.iter().enumerate() {
        let stretch = theirs.iter().cycle().skip(number + step).take(each.min(theirs.len()));
        let own = attacker.database.as_str();
        let names = stretch.chain(&shared).filter(|name| name.as_str() != own);
        pairs.extend(names.map(|name| (Arc::clone(attacker), (*name).clone())));
    }
    pairs
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use tenantry_provisioning::{DatabaseName, RoleName};

    use super::*;

    fn fleet(number: usize) -> (Vec<Arc<Attacker>>, Vec<String>) {
        let attacker = |n: usize| {
            Arc::new(Attacker {
                database: DatabaseName::tenant(&n.to_string()).unwrap(),
                role: RoleName::tenant(&n.to_string()).unwrap(),
                password: "x".into(),
            })
        };
        let attackers: Vec<_> = (0..number).map(attacker).collect();
        let mut databases: Vec<_> = attackers.iter().map(|one| one.database.to_string()).collect();
        databases.extend(["postgres", "template1"].map(str::to_owned));
        (attackers, databases)
    }

    #[test]
    fn every_pair_is_tried_where_they_are_few() {
        let (attackers, databases) = fleet(20);

        let pairs = choose(&attackers, &databases, &AuditOptions::default(), 7);

        let names: HashSet<_> = pairs
            .iter()
            .map(|(attacker, name)| (attacker.role.to_string(), name.clone()))
            .collect();
        assert_eq!((pairs.len(), names.len()), (20 * 21, 20 * 21));
    }

    #[test]
    fn where_they_are_many_each_has_its_turn_in_time() {
        let (attackers, databases) = fleet(40);
        let options = AuditOptions { pairs: 400, ..AuditOptions::default() };
        let mut tried = HashSet::new();
        for seed in 0..40 {
            let pairs = choose(&attackers, &databases, &options, seed);

            assert!(pairs.len() <= 400, "{}", pairs.len());
            assert_eq!(pairs.iter().filter(|(_, name)| name == "postgres").count(), 40);
            tried.extend(pairs.into_iter().map(|(one, name)| (one.role.to_string(), name)));
        }
        assert_eq!(tried.len(), 40 * 41);
    }
}
