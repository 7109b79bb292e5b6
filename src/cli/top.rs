//! `tenantry top`
//!
//! Rates are the difference of two looks at what each server counts by itself, so that what tenants do by any way
//! is in them, and nobody has to report. A server that gives no answer is a line that says so.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use clap::Args;
use futures_util::future::join_all;
use jiff::Timestamp;
use serde::Serialize;
use tenantry_provisioning::{Activity, DatabaseActivity, activity};
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::interrupt::Interrupt;
use super::report::{Table, age, count, elapsed};
use super::{Context, Error, Outcome, OutputFormat, Result};
use crate::catalog::operations::{OperationFilter, OperationState};
use crate::catalog::servers::ServerRecord;
use crate::duration;
use crate::operations::Environment;

/// How long a server may take to say what goes on.
const PATIENCE: Duration = Duration::from_secs(3);
/// Another screen, which gives the one before back at the end; and its beginning, emptied.
const ENTER: &str = "\x1b[?1049h";
const LEAVE: &str = "\x1b[?1049l";
const HOME: &str = "\x1b[H\x1b[J";

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry top
  tenantry top --interval 10s --tenants 40
  tenantry top --once
  tenantry top --output-format json | jq .tenants

On a terminal the view is drawn anew until Ctrl-C; elsewhere, and as JSON, each look is printed below the last.")]
pub(super) struct Options {
    /// Between two looks
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_interval)]
    interval: Duration,
    /// How many of the busiest tenants
    #[arg(long, value_name = "NUMBER", default_value_t = 15)]
    tenants: usize,
    /// Look once, over one interval, and end
    #[arg(long)]
    once: bool,
}

/// Everything on the screen.
#[derive(Debug, Serialize)]
struct View {
    at: Timestamp,
    /// Replicas that route.
    replicas: usize,
    rollout: Option<RolloutLine>,
    servers: Vec<ServerLine>,
    tenants: Vec<TenantLine>,
    operations: Vec<OperationLine>,
}

#[derive(Debug, Serialize)]
struct RolloutLine {
    id: Uuid,
    target_version: i64,
    state: &'static str,
    /// Which of its waves, the first being 1.
    wave: i32,
    waves: usize,
}

#[derive(Debug, Serialize)]
struct ServerLine {
    server: String,
    tenants: i64,
    connection_budget: Option<i32>,
    cordoned: bool,
    /// None of a server that gives no answer.
    load: Option<ServerLoad>,
}

#[derive(Debug, Serialize)]
struct ServerLoad {
    max_connections: i64,
    #[serde(flatten)]
    load: Load,
}

#[derive(Debug, Serialize)]
struct TenantLine {
    tenant: String,
    server: String,
    #[serde(flatten)]
    load: Load,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Load {
    connections: i64,
    active: i64,
    waiting_for_locks: i64,
    transactions_per_second: f64,
    longest_transaction_seconds: Option<f64>,
}

#[derive(Debug, Serialize)]
struct OperationLine {
    id: Uuid,
    tenant: String,
    kind: String,
    state: &'static str,
    attempts: i32,
    since: Timestamp,
    requested_by: String,
}

/// A look at all servers.
struct Look {
    at: Instant,
    /// By server, those that have answered.
    answers: HashMap<Uuid, Activity>,
}

pub(super) async fn run(options: Options, context: &Context) -> Result<Outcome> {
    let environment = context.environment().await?;
    let mut interrupt =
        Interrupt::listen().map_err(|error| Error::failed("signals cannot be heard", error))?;
    let is_drawn =
        !options.once && context.output == OutputFormat::Table && io::stdout().is_terminal();
    if is_drawn {
        draw(ENTER)?;
    }
    let ended = tokio::select! {
        ended = watch(&options, context, &environment, is_drawn) => ended,
        () = interrupt.next() => Ok(()),
    };
    if is_drawn {
        draw(LEAVE)?;
    }
    ended.map(|()| Outcome::Done)
}

async fn watch(
    options: &Options,
    context: &Context,
    environment: &Environment,
    is_drawn: bool,
) -> Result<()> {
    let mut before = look(environment, &environment.catalog.servers().await?).await;
    loop {
        sleep(options.interval).await;
        let servers = environment.catalog.servers().await?;
        let now = look(environment, &servers).await;
        let view = view(environment, &servers, &before, &now, options.tenants).await?;
        if is_drawn {
            draw(&format!("{HOME}{}", table(&view)))?;
        } else {
            context.print_line(&view, || table(&view))?;
        }
        if options.once {
            return Ok(());
        }
        before = now;
    }
}

fn draw(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    let drawn = write!(out, "{text}").and_then(|()| out.flush());
    drawn.map_err(|error| Error::failed("the terminal cannot be written to", error))
}

async fn look(environment: &Environment, servers: &[ServerRecord]) -> Look {
    let at = Instant::now();
    let asked = servers.iter().map(async |server| {
        let answer = async { activity(&environment.server(server.id).await.ok()?).await.ok() };
        Some((server.id, timeout(PATIENCE, answer).await.ok()??))
    });
    Look { at, answers: join_all(asked).await.into_iter().flatten().collect() }
}

async fn view(
    environment: &Environment,
    servers: &[ServerRecord],
    before: &Look,
    now: &Look,
    most: usize,
) -> Result<View> {
    let seconds = now.at.duration_since(before.at).as_secs_f64();
    let (mut lines, mut busiest) = (Vec::new(), Vec::new());
    for server in servers {
        let answer = now.answers.get(&server.id);
        let loads = answer.map(|answer| loads(before.answers.get(&server.id), answer, seconds));
        let load = answer.zip(loads.as_ref()).map(|(answer, loads)| ServerLoad {
            max_connections: answer.max_connections,
            load: loads.values().copied().fold(Load::default(), Load::and),
        });
        lines.push(ServerLine {
            server: server.name.clone(),
            tenants: server.tenants,
            connection_budget: server.connection_budget,
            cordoned: server.cordoned.is_some(),
            load,
        });
        let in_use = loads.into_iter().flatten().filter(|(_, load)| load.is_any());
        busiest.extend(in_use.map(|(database, load)| (server, database, load)));
    }
    busiest.sort_by(|(.., one), (.., other)| other.weight().total_cmp(&one.weight()));
    let catalog = &environment.catalog;
    let rollout = catalog.open_rollout().await?.map(|rollout| RolloutLine {
        id: rollout.id,
        target_version: rollout.target_version,
        state: rollout.state.as_str(),
        wave: rollout.wave + 1,
        waves: rollout.waves.len(),
    });
    let mut operations = Vec::new();
    for state in [OperationState::Running, OperationState::Queued] {
        let filter =
            OperationFilter { state: Some(state), limit: 20, ..OperationFilter::default() };
        operations.extend(catalog.operations(&filter).await?.into_iter().map(
            |(operation, tenant)| OperationLine {
                id: operation.id,
                tenant: tenant.to_string(),
                state: operation.state.as_str(),
                attempts: operation.attempts,
                since: operation.started_at.unwrap_or(operation.created_at),
                kind: operation.kind,
                requested_by: operation.requested_by,
            },
        ));
    }
    Ok(View {
        at: Timestamp::now(),
        replicas: catalog.routers().await?,
        rollout,
        servers: lines,
        tenants: owned(environment, busiest, most).await?,
        operations,
    })
}

/// The tenants among the busiest databases.
async fn owned(
    environment: &Environment,
    busiest: Vec<(&ServerRecord, &str, Load)>,
    most: usize,
) -> Result<Vec<TenantLine>> {
    let mut owners = HashMap::new();
    let mut databases: BTreeMap<Uuid, Vec<&str>> = BTreeMap::new();
    for (server, database, _) in &busiest {
        databases.entry(server.id).or_default().push(database);
    }
    for (server, databases) in databases {
        for (database, slug) in environment.catalog.owners(server, &databases).await? {
            owners.insert((server, database), slug);
        }
    }
    let line = |(server, database, load): (&ServerRecord, &str, Load)| {
        let slug = owners.get(&(server.id, database.to_owned()))?;
        Some(TenantLine { tenant: slug.to_string(), server: server.name.clone(), load })
    };
    Ok(busiest.into_iter().filter_map(line).take(most).collect())
}

/// What each database does, by what it has done since the look before.
fn loads<'a>(
    before: Option<&Activity>,
    now: &'a Activity,
    seconds: f64,
) -> BTreeMap<&'a str, Load> {
    let before: HashMap<&str, i64> = before
        .into_iter()
        .flat_map(|activity| &activity.databases)
        .map(|database| (database.database.as_str(), database.transactions))
        .collect();
    let load = |database: &DatabaseActivity| {
        // A server that was restarted, or told to, counts from the beginning.
        let since = before.get(database.database.as_str()).copied();
        let ended = since.map_or(0, |since| (database.transactions - since).max(0));
        Load {
            connections: database.connections,
            active: database.active,
            waiting_for_locks: database.waiting,
            #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
            transactions_per_second: ended as f64 / seconds,
            longest_transaction_seconds: database.longest.map(|time| time.as_secs_f64()),
        }
    };
    now.databases.iter().map(|database| (database.database.as_str(), load(database))).collect()
}

impl Load {
    fn is_any(&self) -> bool {
        self.connections > 0 || self.transactions_per_second > 0.0
    }

    /// Who runs statements comes before who only holds connections.
    fn weight(&self) -> f64 {
        let sessions = i32::try_from(self.active + self.waiting_for_locks).unwrap_or(i32::MAX);
        self.transactions_per_second + f64::from(sessions)
    }

    fn and(self, other: Self) -> Self {
        let longest = [self.longest_transaction_seconds, other.longest_transaction_seconds];
        Self {
            connections: self.connections + other.connections,
            active: self.active + other.active,
            waiting_for_locks: self.waiting_for_locks + other.waiting_for_locks,
            transactions_per_second: self.transactions_per_second + other.transactions_per_second,
            longest_transaction_seconds: longest.into_iter().flatten().reduce(f64::max),
        }
    }

    fn cells(&self) -> [String; 4] {
        let longest = self.longest_transaction_seconds.map(Duration::from_secs_f64);
        [
            self.active.to_string(),
            self.waiting_for_locks.to_string(),
            format!("{:.1}", self.transactions_per_second),
            longest.map(elapsed).unwrap_or_default(),
        ]
    }
}

fn table(view: &View) -> String {
    let tenants: i64 = view.servers.iter().map(|server| server.tenants).sum();
    let head = format!(
        "{}  {} on {}, routed by {}",
        view.at.strftime("%H:%M:%S UTC"),
        count(usize::try_from(tenants).unwrap_or(0), "tenant"),
        count(view.servers.len(), "server"),
        count(view.replicas, "replica"),
    );
    let mut parts = vec![head];
    parts.extend(view.rollout.as_ref().map(|rollout| {
        let RolloutLine { id, target_version, state, wave, waves } = rollout;
        format!("rollout {id} to version {target_version}: {state}, wave {wave} of {waves}")
    }));

    let mut servers = Table::new(&[
        "SERVER",
        "TENANTS",
        "CONNECTIONS",
        "BUDGET",
        "ACTIVE",
        "WAITING",
        "TRANSACTIONS/S",
        "LONGEST",
    ]);
    for line in &view.servers {
        let name =
            if line.cordoned { format!("{} (cordoned)", line.server) } else { line.server.clone() };
        let budget = line.connection_budget.map(|budget| budget.to_string()).unwrap_or_default();
        let (connections, cells) = match &line.load {
            Some(ServerLoad { max_connections, load }) => {
                (format!("{} of {max_connections}", load.connections), load.cells())
            }
            None => ("no answer".to_owned(), Default::default()),
        };
        let [active, waiting, rate, longest] = cells;
        let tenants = line.tenants.to_string();
        servers.row([name, tenants, connections, budget, active, waiting, rate, longest]);
    }
    parts.push(servers.or("There is no server."));

    let mut tenants = Table::new(&[
        "TENANT",
        "SERVER",
        "CONNECTIONS",
        "ACTIVE",
        "WAITING",
        "TRANSACTIONS/S",
        "LONGEST",
    ]);
    for TenantLine { tenant, server, load } in &view.tenants {
        let [active, waiting, rate, longest] = load.cells();
        let connections = load.connections.to_string();
        tenants.row([tenant.clone(), server.clone(), connections, active, waiting, rate, longest]);
    }
    parts.push(tenants.or("No tenant is connected."));

    let mut operations = Table::new(&["OPERATION", "TENANT", "KIND", "STATE", "SINCE", "BY"]);
    for line in &view.operations {
        operations.row([
            line.id.to_string(),
            line.tenant.clone(),
            line.kind.clone(),
            line.state.to_owned(),
            age(line.since),
            line.requested_by.clone(),
        ]);
    }
    parts.push(operations.or("No operation runs or waits."));
    parts.join("\n\n")
}

fn parse_interval(text: &str) -> std::result::Result<Duration, String> {
    let interval = duration::parse(text).filter(|time| *time >= Duration::from_millis(100));
    interval.ok_or_else(|| "it is a length of time such as 2s or 1m, of 100ms at least".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database(name: &str, transactions: i64, connections: i64) -> DatabaseActivity {
        DatabaseActivity {
            database: name.to_owned(),
            transactions,
            connections,
            active: 0,
            waiting: 0,
            longest: None,
        }
    }

    #[test]
    fn a_rate_is_what_was_done_since_and_never_less_than_nothing() {
        let before = Activity {
            max_connections: 100,
            databases: vec![database("busy", 100, 1), database("restarted", 900, 1)],
        };
        let now = Activity {
            max_connections: 100,
            databases: vec![
                database("busy", 110, 1),
                database("restarted", 3, 1),
                database("new", 7, 0),
            ],
        };

        let loads = loads(Some(&before), &now, 2.0);

        let rates: Vec<_> =
            loads.iter().map(|(name, load)| (*name, load.transactions_per_second)).collect();
        assert_eq!(rates, [("busy", 5.0), ("new", 0.0), ("restarted", 0.0)]);
        assert!(!loads["new"].is_any(), "nobody uses it");
    }
}
