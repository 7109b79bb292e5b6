//! `tenantry restore --from-bucket`

use std::time::Instant;

use super::Options;
use crate::api::document::BatchDocument;
use crate::cli::backup::need_store;
use crate::cli::confirm::confirm;
use crate::cli::drive::{self, Driver};
use crate::cli::migrate::describe_failures;
use crate::cli::report::{count, elapsed};
use crate::cli::{Context, Outcome, Result};
use crate::operations::rebuild::{Found, Rebuild};
use crate::tenant::Tier;

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
    let found = environment.rebuild_from_bucket(&rebuild, &context.requester()).await?;
    context.note(&describe(&found));
    let driver = Driver { context, environment: &environment };
    let operations = driver.settle_batch(found.batch, concurrency).await?;
    let document = BatchDocument::new(found.batch, &operations);
    context.print(&document, || {
        let tenants = count(document.succeeded, "tenant");
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
    lines.extend(found.lost.iter().map(|(name, why)| format!("lost: {name}: {why}")));
    lines.join("\n")
}
