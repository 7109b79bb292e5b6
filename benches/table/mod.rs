//! What the parts of `make bench` share: the fleet, the peer's command lines, and the table.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tenantry::embedded::PostgresSettings;
use tenantry_provisioning::ServerUrl;

use crate::harness::{Fleet, Options};

/// A fleet on a server that keeps what it has acknowledged, as one in production does.
pub async fn start() -> Fleet {
    let mut postgres = PostgresSettings::scratch();
    postgres.durable = true;
    postgres.max_connections = 200;
    Fleet::start_with(Options { postgres, ..Options::default() }).await
}

/// Which of the parts are asked for, by the arguments; all of them where none is.
pub fn wanted() -> impl Fn(&str) -> bool {
    let parts: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    move |part| parts.is_empty() || parts.iter().any(|wanted| wanted == part)
}

/// Runs a command line of the peer's, with PostgreSQL's own tools, and returns how long it took.
pub fn shell(fleet: &Fleet, line: &str) -> Duration {
    shell_with(fleet, &[], line)
}

/// The same with more environment.
pub fn shell_with(fleet: &Fleet, environment: &[(&str, &str)], line: &str) -> Duration {
    let url = ServerUrl::parse(&fleet.postgres.url()).expect("our own URL");
    let path = format!("{}:/usr/bin:/bin", fleet.postgres.bin_dir().display());
    let started = Instant::now();
    let mut command = Command::new("bash");
    let command = command.args(["-eo", "pipefail", "-c", line]).env_clear().env("PATH", path);
    let command = command.envs(url.libpq_env()).envs(environment.iter().copied());
    let status = command.stdout(Stdio::null()).status().expect("bash runs");
    assert!(status.success(), "{line}");
    started.elapsed()
}

/// The median.
pub fn middle<T: PartialOrd>(mut values: Vec<T>) -> T {
    values.sort_by(|one, other| one.partial_cmp(other).expect("numbers"));
    values.swap_remove(values.len() / 2)
}

pub fn head() {
    println!("{:<70} {:>12} {:>12} {:>8}  bar", "what", "tenantry", "peer", "ratio");
}

/// Two times, and what ours is of the peer's.
pub fn row(what: &str, ours: Duration, peer: Duration, bar: &str) {
    let ratio = ours.as_secs_f64() / peer.as_secs_f64();
    let (ours, peer) = (format!("{ours:.1?}"), format!("{peer:.1?}"));
    println!("{what:<70} {ours:>12} {peer:>12} {ratio:>8.3}  {bar}");
}

/// Two of anything else.
pub fn compare(what: &str, unit: &str, ours: f64, peer: f64, bar: &str) {
    let ratio = ours / peer;
    let (ours, peer) = (format!("{ours:.1} {unit}"), format!("{peer:.1} {unit}"));
    println!("{what:<70} {ours:>12} {peer:>12} {ratio:>8.3}  {bar}");
}

/// What has no peer.
pub fn figure(what: &str, figure: &str, bar: &str) {
    println!("{what:<70} {figure:>12} {:>12} {:>8}  {bar}", "", "");
}
