//! `tenantry config check --production`: the checklist of a hardened installation.
//!
//! Each line is a check that can fail, with what is wrong and what to do. First what the settings say (`settings.rs`),
//! then what the catalog and the servers say (`fleet.rs`); what cannot be looked at has failed. It changes nothing.

use serde::Serialize;

use crate::cli::report::Table;
use crate::config::Settings;

mod fleet;
mod settings;

/// Every check, in the order in which they are made.
pub(super) const CHECKS: &[(&str, &str)] = &[
    ("environment", "the rules of production hold"),
    ("identity", "somebody vouches for users"),
    ("listeners", "what the listeners say is encrypted"),
    ("admin-api", "not every network can ask the admin API"),
    ("secret-files", "nobody else can read the files with secrets"),
    ("hardening", "tenants see nothing of each other"),
    ("catalog-tls", "the catalog proves that it is the one"),
    ("bucket", "there is a bucket for backups"),
    ("backup-schedule", "every tenant is backed up by the clock"),
    ("drill-schedule", "backups are restored by the clock"),
    ("audit-schedule", "isolation is audited by the clock"),
    ("catalog", "the catalog can be asked"),
    ("master-key", "one master key, and not an old one"),
    ("tokens", "no admin token is old"),
    ("audited", "isolation was audited, and nothing bad is open"),
    ("backed-up", "every tenant has a backup that is new enough"),
    ("drilled", "a backup was restored lately"),
    ("server-tls", "every server proves that it is the one"),
    ("administrators", "no administrator is the superuser of `initdb`"),
    ("servers", "servers can keep tenants apart, and let nobody in unproven"),
];

/// One thing that was looked at.
#[derive(Debug, Serialize)]
pub(super) struct Check {
    /// Its stable name.
    name: &'static str,
    good: bool,
    /// What was seen.
    what: String,
    /// What to do about it, where it is not good.
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

/// The list, as far as it has come.
#[derive(Debug, Default, Serialize)]
#[serde(transparent)]
pub(super) struct Checklist {
    checks: Vec<Check>,
}

impl Checklist {
    /// Looks at everything.
    pub(super) async fn examine(settings: &Settings) -> Self {
        let mut list = Self::default();
        list.settings(settings);
        list.fleet(settings).await;
        list
    }

    pub(super) fn is_good(&self) -> bool {
        self.checks.iter().all(|check| check.good)
    }

    /// As a table, with the remedies below.
    pub(super) fn describe(&self) -> String {
        let mut table = Table::new(&["CHECK", "VERDICT", "WHAT"]);
        for check in &self.checks {
            let verdict = if check.good { "ok" } else { "FAILED" };
            table.row([check.name.to_owned(), verdict.to_owned(), check.what.clone()]);
        }
        let mut lines = vec![table.or("")];
        let failed: Vec<&Check> = self.checks.iter().filter(|check| !check.good).collect();
        for check in &failed {
            let remedy = check.remedy.as_deref().unwrap_or_default();
            lines.push(format!("error: {}: {}\n  help: {remedy}", check.name, check.what));
        }
        lines.push(match failed.len() {
            0 => "This installation is hardened.".to_owned(),
            number => format!("{number} of {} checks failed.", self.checks.len()),
        });
        lines.join("\n")
    }

    fn good(&mut self, name: &'static str) {
        let (_, what) =
            CHECKS.iter().find(|(known, _)| *known == name).expect("every check is in the list");
        self.good_since(name, what);
    }

    /// Good for another reason than the usual one, which would promise too much.
    fn good_since(&mut self, name: &'static str, what: &str) {
        self.checks.push(Check { name, good: true, what: what.to_owned(), remedy: None });
    }

    fn failed(&mut self, name: &'static str, what: impl Into<String>, remedy: impl Into<String>) {
        let (what, remedy) = (what.into(), Some(remedy.into()));
        self.checks.push(Check { name, good: false, what, remedy });
    }

    /// Writes down what was found of one check: that it is good, or each thing that is not.
    fn conclude(&mut self, name: &'static str, problems: Vec<(String, String)>) {
        self.conclude_with(name, problems, None);
    }

    /// The same, with what to say in place of the usual words where nothing is wrong.
    fn conclude_with(
        &mut self,
        name: &'static str,
        problems: Vec<(String, String)>,
        since: Option<&str>,
    ) {
        match since {
            Some(since) if problems.is_empty() => return self.good_since(name, since),
            None if problems.is_empty() => return self.good(name),
            _ => {}
        }
        for (what, remedy) in problems {
            self.failed(name, what, remedy);
        }
    }
}
