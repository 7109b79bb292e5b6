//! `tenantry operation watch`

use std::time::Duration;

use clap::Args;
use tokio::time::sleep;
use uuid::Uuid;

use crate::api::document::OperationDocument;
use crate::catalog::operations::OperationState;
use crate::cli::arguments::id;
use crate::cli::{Context, Outcome, Result, drive};

/// How often the operation is looked at.
const LOOK: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry operation watch 0197f0c0-7a5e-7c3e-9f5e-0a1b2c3d4e5f
  tenantry operation watch 0197f0c0-7a5e-7c3e-9f5e-0a1b2c3d4e5f --output-format json | jq .status

Prints a line for every change; with JSON, one object a line. Ends with the operation: status 0 when
it succeeded, 1 when it did not.")]
pub(in crate::cli) struct Options {
    /// The operation
    #[arg(value_parser = id("`tenantry operation list` shows them"))]
    id: Uuid,
}

pub(super) async fn run(options: Options, context: &Context) -> Result<Outcome> {
    let catalog = context.catalog().await?;
    let (mut record, slug) = super::find(&catalog, options.id).await?;
    let mut last = String::new();
    loop {
        let line = drive::describe(&record, &slug);
        if line != last {
            context.print_line(&OperationDocument::new(&record, &slug), || line.clone())?;
            last = line;
        }
        match record.state {
            OperationState::Succeeded => return Ok(Outcome::Done),
            OperationState::Failed => return Err(crate::cli::Error::of_operation(&record, &slug)),
            OperationState::Cancelled => return Ok(Outcome::Failed),
            OperationState::Queued | OperationState::Running => sleep(LOOK).await,
        }
        record = catalog.operation(options.id).await?;
    }
}
