//! `tenantry server drain`: a server's tenants to others.

use std::time::Instant;

use clap::Args;
use serde::Serialize;

use crate::api::document::ServerDocument;
use crate::cli::confirm::confirm;
use crate::cli::drive::Driver;
use crate::cli::migrate::parse_concurrency;
use crate::cli::report::{Table, count, elapsed, size};
use crate::cli::tenant::Wait;
use crate::cli::{Context, Error, Outcome, Result};
use crate::operations::moves::{Failed, Going, Moves, Staying};
use crate::tenant::moves::Destination;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry server drain eu-1 --plan                who would go where, and who cannot; changes nothing
  tenantry server drain eu-1                       asks for the name
  tenantry server drain eu-1 --to eu-2 --to eu-3 --yes
  tenantry server drain eu-1 --to region=eu --concurrency 4 --yes
  tenantry server drain eu-1 --to disk=nvme --to tag=spare --yes

Nobody comes to the server any more, and its tenants are relocated by the rules of placement, the largest first:
their requests wait, each for as long as its own copy takes. Run it again to go on where it stopped: what failed
is tried again. `tenantry server uncordon` ends it; who has left stays where it is. Once it is empty:
`tenantry server remove`.

Exit status 3 when some cannot leave, 1 when nobody can.")]
pub(in crate::cli) struct Options {
    /// The server's name
    name: String,
    /// To this server, or to those of `region=R`, `tier=T`, the tag `KEY=VALUE`, or any tag `tag=KEY`; may be given
    /// several times [default: any that may have the tenant]
    #[arg(long, value_name = "WHERE", value_parser = Destination::parse)]
    to: Vec<Destination>,
    /// How many tenants at a time, beside what workers of `tenantry serve` take [default: backup_concurrency]
    #[arg(long, value_name = "N", value_parser = parse_concurrency)]
    concurrency: Option<usize>,
    /// Only show who would go where
    #[arg(long)]
    plan: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    wait: Wait,
}

/// A server, who left it, and who cannot.
#[derive(Serialize)]
struct Document {
    server: ServerDocument,
    /// How many tenants have left.
    moved: usize,
    #[serde(flatten)]
    moves: Moves,
}

pub(super) async fn run(options: Options, context: &Context) -> Result<Outcome> {
    let concurrency = options.concurrency.unwrap_or(context.settings.backup_concurrency);
    let (context, name) = (&context.with_copies(concurrency), options.name.as_str());
    let environment = context.environment().await?;
    let planned = environment.drain_plan(name, &options.to).await?;
    if options.plan {
        context.print(&planned, || describe(&planned))?;
        return Ok(outcome(planned.going.len(), planned.staying.len()));
    }
    let what = format!(
        "draining `{name}` moves {} to other servers ({} cannot go), and lets the requests of each wait meanwhile",
        count(planned.going.len(), "tenant"),
        planned.staying.len()
    );
    confirm(&what, name, options.yes)?;

    let began = Instant::now();
    let before = environment.catalog.server_by_name(name).await?.tenants;
    let mut moves = environment.drain(name, &options.to, Failed::Retry).await?;
    if options.wait.wait {
        let driver = Driver { context, environment: &environment };
        while let Some(batch) = moves.batch_id {
            driver.settle_batch(batch, context.settings.worker_concurrency).await?;
            if environment.catalog.server_by_name(name).await?.drain != Some(batch) {
                return Err(Error::refused(
                    format!("the draining of `{name}` was ended meanwhile"),
                    format!(
                        "who has left stays where it is; `tenantry server drain {name}` begins anew"
                    ),
                ));
            }
            // Whoever was on its way here when the server was shut leaves, too.
            moves = environment.drain(name, &options.to, Failed::Leave).await?;
            if moves.asked == 0 {
                break;
            }
        }
    }
    let server = ServerDocument::from(environment.catalog.server_by_name(name).await?);
    let gone = usize::try_from(before - server.tenants).unwrap_or_default();
    let document = Document { server, moved: gone, moves };
    context.print(&document, || document.describe(&elapsed(began.elapsed())))?;
    context.note(&document.next());
    Ok(outcome(gone + document.moves.going.len(), document.moves.staying.len()))
}

/// Who goes where, and who cannot, as tables.
pub(super) fn describe(moves: &Moves) -> String {
    let mut text = String::new();
    if !moves.going.is_empty() {
        let mut table = Table::new(&["TENANT", "FROM", "TO", "SIZE", "WAITS", "WHY"]);
        for going in &moves.going {
            table.row(row(going));
        }
        text += &table.or("");
    }
    if !moves.staying.is_empty() {
        let mut table = Table::new(&["STAYS", "ON", "WHY"]);
        for Staying { tenant, server, why } in &moves.staying {
            table.row([tenant.to_string(), server.clone(), why.clone()]);
        }
        text += if text.is_empty() { "" } else { "\n\n" };
        text += &table.or("");
    }
    if text.is_empty() { "Nobody has to move.".to_owned() } else { text }
}

/// All, some or none.
pub(super) fn outcome(going: usize, staying: usize) -> Outcome {
    match (going, staying) {
        (_, 0) => Outcome::Done,
        (0, _) => Outcome::Failed,
        _ => Outcome::PartlyDone,
    }
}

fn row(going: &Going) -> [String; 6] {
    let bytes = going.bytes.and_then(|bytes| i64::try_from(bytes).ok());
    [
        going.tenant.to_string(),
        going.from.clone(),
        going.to.clone(),
        bytes.map_or_else(|| "-".to_owned(), size),
        going.pause_seconds.map_or_else(|| "-".to_owned(), |seconds| format!("~{seconds}s")),
        if going.breaks.is_empty() { "-".to_owned() } else { going.breaks.join(", ") },
    ]
}

impl Document {
    fn describe(&self, time: &str) -> String {
        let (name, left) = (&self.server.name, self.server.tenants);
        let left = usize::try_from(left).unwrap_or_default();
        let moved = count(self.moved, "tenant");
        let head = match (self.moves.going.len(), left) {
            (_, 0) => format!("Server `{name}` is empty: {moved} moved ({time})."),
            (0, _) => {
                format!("{moved} moved ({time}); {} left on `{name}`.", count(left, "tenant"))
            }
            (going, _) => {
                format!("{} on the way from `{name}`; {moved} moved.", count(going, "tenant"))
            }
        };
        if self.moves.going.is_empty() && self.moves.staying.is_empty() {
            return head;
        }
        [head, "\n\n".to_owned(), describe(&self.moves)].concat()
    }

    fn next(&self) -> String {
        let name = &self.server.name;
        match (&self.moves.batch_id, self.moves.going.len(), self.server.tenants) {
            (_, _, 0) => format!("Next: `tenantry server remove {name}`"),
            (Some(batch), 1.., _) => format!(
                "The workers of `tenantry serve` take them: `tenantry operation list --batch {batch}`. Without one, \
                 `tenantry server drain {name}` drives them from here."
            ),
            _ => format!(
                "Next: `tenantry server drain {name}` again, or back: `tenantry server uncordon {name}`"
            ),
        }
    }
}
