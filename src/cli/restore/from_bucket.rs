//! `tenantry restore --from-bucket`

use std::time::Instant;

use serde::Serialize;

use super::Options;
use crate::api::document::BatchDocument;
use crate::cli::backup::need_store;
use crate::cli::confirm::confirm;
use crate::cli::drive::{self, Driver};
use crate::cli::migrate::describe_failures;
use crate::cli::report::{Complaint, count, elapsed};
use crate::cli::{Context, Outcome, Result};
use crate::operations::rebuild::{Found, Rebuild};
use crate::tenant::Tier;

/// What came of a rebuild.
#[derive(Serialize)]
struct RebuildDocument {
    #[serde(flatten)]
    batch: BatchDocument,
    /// Tenants that the catalog knew already.
    known: usize,
    /// Tenants that cannot be rebuilt.
    lost: Vec<LostDocument>,
}

/// A tenant that cannot be rebuilt.
#[derive(Serialize)]
struct LostDocument {
    /// Its slug, or its id where nobody knows the slug.
    tenant: String,
    reason: String,
}

pub(super) async fn run(options: Options, context: &Context) -> Result<Outcome> {
    let concurrency = options.concurrency.unwrap_or(context.settings.backup_concurrency);
    let mut context = context.with_concurrency(concurrency);
    context.settings.backup_concurrency = concurrency;
    let context = &context;
    let environment = context.environment().await?;
    need_store(&environment)?;
    let what = "every tenant that the bucket has, and this catalog has not, is made from its newest backup";
    confirm(what, "rebuild", options.yes)?;
    let tiers = match options.tiers {
        none if none.is_empty() => vec![Tier::Dedicated, Tier::Shared],
        tiers => tiers,
    };

    let began = Instant::now();
    let rebuild = Rebuild { servers: options.servers, tiers };
    let found = environment.rebuild_from_bucket(&rebuild, &context.actor).await?;
    context.note(&describe(&found));
    for (name, why) in &found.lost {
        let error = format!("`{name}` is lost: {why}");
        Complaint { error, detail: None, code: None }.print(context.output);
    }
    let driver = Driver { context, environment: &environment };
    let operations = driver.settle_batch(found.batch, concurrency).await?;
    let document = RebuildDocument::new(&found, BatchDocument::new(found.batch, &operations));
    context.print(&document, || {
        let tenants = count(document.batch.succeeded, "tenant");
        let head = format!("{tenants} rebuilt ({}).", elapsed(began.elapsed()));
        [head, describe_failures(found.batch, &operations)].join("")
    })?;
    Ok(match drive::outcome(&operations) {
        Outcome::Done if !found.lost.is_empty() => Outcome::PartlyDone,
        outcome => outcome,
    })
}

fn describe(found: &Found) -> String {
    let mut lines = vec![format!(
        "{} to rebuild, {} known to the catalog already.",
        count(found.tenants, "tenant"),
        found.known
    )];
    if !found.has_catalog {
        lines.push(
            "There is no backup of the catalog: tenants get slugs such as `restored-0123456789ab`; give them \
             their own with `tenantry tenant rename`."
                .to_owned(),
        );
    }
    lines.join("\n")
}

impl RebuildDocument {
    fn new(found: &Found, batch: BatchDocument) -> Self {
        let lost = found.lost.iter().cloned();
        let lost = lost.map(|(tenant, reason)| LostDocument { tenant, reason }).collect();
        Self { batch, known: found.known, lost }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn the_document_names_what_is_lost() {
        let lost = vec![("acme".to_owned(), "there is no backup of it".to_owned())];
        let found = Found { batch: Uuid::nil(), has_catalog: true, tenants: 0, known: 1, lost };

        let document = RebuildDocument::new(&found, BatchDocument::new(found.batch, &[]));

        let json = serde_json::to_value(&document).unwrap();
        assert_eq!((&json["succeeded"], &json["known"]), (&0.into(), &1.into()));
        assert_eq!(json["lost"][0]["tenant"], "acme");
        assert_eq!(json["lost"][0]["reason"], "there is no backup of it");
    }
}
