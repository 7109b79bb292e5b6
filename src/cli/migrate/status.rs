//! `tenantry migrate status`

use std::cmp::Ordering;

use clap::Args;
use serde::Serialize;

use crate::cli::report::Table;
use crate::cli::{Context, Outcome, Result};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry migrate status
  tenantry migrate status --output-format json | jq .behind")]
pub(in crate::cli) struct Options {}

#[derive(Serialize)]
struct Document {
    /// The newest file of the migrations directory.
    target_version: i64,
    current: i64,
    behind: i64,
    /// At the newest version, but with other repeatable files; not among the current ones.
    outdated: i64,
    /// At a version that the directory does not have: an older checkout is looking.
    ahead: i64,
    versions: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    version: i64,
    tenants: i64,
    status: &'static str,
}

pub(super) async fn run(_: Options, context: &Context) -> Result<Outcome> {
    let environment = context.environment().await?;
    let target = environment.migrations().target_version();
    let counted = environment.catalog.count_schema_versions().await?;
    let document = Document::new(target, &counted, environment.count_outdated().await?);
    context.print(&document, || {
        let mut table = Table::new(&["VERSION", "TENANTS", "STATUS"]);
        for row in &document.versions {
            table.row([row.version.to_string(), row.tenants.to_string(), row.status.to_owned()]);
        }
        let dir = context.settings.tenant_migrations_dir.display();
        let outdated = match document.outdated {
            0 => String::new(),
            number => format!("\nWith repeatable files that have changed since: {number}"),
        };
        let table = table.or("No tenants.");
        format!("Newest migration in {dir}: version {target}\n\n{table}{outdated}")
    })?;
    let due = document.behind + document.outdated;
    context.note(&if due > 0 {
        format!("\nNext: `tenantry migrate up` brings {due} to version {target}")
    } else if document.ahead > 0 {
        "\nSome tenants are ahead of these files: look with a newer checkout".to_owned()
    } else {
        String::new()
    });
    Ok(Outcome::Done)
}

impl Document {
    fn new(target: i64, counted: &[(i64, i64)], outdated: i64) -> Self {
        let sum = |wanted: Ordering| -> i64 {
            counted
                .iter()
                .filter(|(version, _)| version.cmp(&target) == wanted)
                .map(|(_, number)| number)
                .sum()
        };
        let versions = counted.iter().map(|&(version, tenants)| {
            let status = match version.cmp(&target) {
                Ordering::Less => "behind",
                Ordering::Equal => "current",
                Ordering::Greater => "ahead",
            };
            Row { version, tenants, status }
        });
        Self {
            target_version: target,
            current: sum(Ordering::Equal) - outdated,
            behind: sum(Ordering::Less),
            outdated,
            ahead: sum(Ordering::Greater),
            versions: versions.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_behind_current_or_ahead() {
        let document = Document::new(3, &[(1, 5), (2, 1), (3, 40), (4, 2)], 10);

        assert_eq!((document.behind, document.current, document.ahead), (6, 30, 2));
        assert_eq!(document.versions[1].status, "behind");
    }
}
