//! `tenantry server remove`

use clap::Args;

use crate::cli::confirm::confirm;
use crate::cli::report::count;
use crate::cli::{Context, Outcome, Result};
use crate::operations::removal::Stock;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry server remove eu-1 --clean           drops our templates, spares and group roles there first
  tenantry server remove eu-1 --leave --yes     the server is gone: what is on it stays as it is

Refused, with what to do about each, while it has tenants, databases that tenants have left and that are kept for
a while, read replicas, a WAL archive, or operations that name it. `tenantry server drain` moves its tenants.")]
pub(in crate::cli) struct Options {
    /// The server's name
    name: String,
    #[command(flatten)]
    stock: StockOptions,
    /// Drop the databases that tenants have left there: no relocation or restore can be undone to it then
    #[arg(long)]
    drop_kept: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

/// What becomes of what is nobody's.
#[derive(Debug, Args)]
struct StockOptions {
    /// Drop our templates, spares and group roles on it
    #[arg(long)]
    clean: bool,
    /// Leave our templates, spares and group roles on it, unknown to anybody
    #[arg(long, conflicts_with = "clean")]
    leave: bool,
}

pub(super) async fn run(options: Options, context: &Context) -> Result<Outcome> {
    let environment = context.environment().await?;
    let Options { name, stock: StockOptions { clean, leave }, drop_kept, yes } = options;
    let record = environment.catalog.server_by_name(&name).await?;
    let stock = match (clean, leave) {
        (true, _) => Stock::Drop,
        (_, true) => Stock::Leave,
        _ => Stock::Refuse,
    };
    environment.require_removable(&record, stock, drop_kept).await?;
    let drops = if drop_kept { ", with the databases that tenants have left there" } else { "" };
    let what = format!("removing server `{name}` ({}){drops}", record.address);
    confirm(&what, &name, yes)?;

    let removed = environment.remove_server(&name, stock, drop_kept).await?;
    let what = match removed.dropped.len() {
        0 => format!("Server `{name}` is removed."),
        number => format!(
            "Server `{name}` is removed; {} of ours dropped there.",
            count(number, "database")
        ),
    };
    let next = match removed.roles_left.as_slice() {
        [] => String::new(),
        roles => format!("Left there, since something still needs them: {}", roles.join(", ")),
    };
    context.print_change(&removed, &what, &next)?;
    Ok(Outcome::Done)
}
