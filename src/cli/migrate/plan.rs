//! `tenantry migrate plan`

use std::fmt::Write as _;
use std::time::Duration;

use clap::Args;

use super::up::Who;
use crate::cli::report::{Table, count, elapsed, size};
use crate::cli::{Context, Outcome, Result};
use crate::operations::rollouts::{Preview, PreviewEffect, PreviewFile};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry migrate plan
  tenantry migrate plan --canary 2% --wave 25% --wave 100% --concurrency 8
  tenantry migrate plan --to V17 --sample 100      sizes of the 100 largest databases of each server
  tenantry migrate plan --strict                   exit status 4 where a statement has a risk, for CI
  tenantry migrate plan --output-format json | jq '.files[].effects[] | select(.risks != [])'

Takes what `migrate up` takes, and changes nothing. Tells which statements lock or rewrite tables that are in
use, how large those are, and a safer form. A comment `-- tenantry: allow RULE` above a statement says
that somebody has looked at it. What a file does to tables that it makes itself is no risk.")]
pub(in crate::cli) struct Options {
    #[command(flatten)]
    who: Who,
    /// Read sizes from so many of the largest databases of each server
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u16).range(0..=1000))]
    sample: u16,
    /// Fail where a statement has a risk that no comment allows
    #[arg(long)]
    strict: bool,
}

pub(super) async fn run(options: Options, context: &Context) -> Result<Outcome> {
    let plan = options.who.plan()?;
    let environment = context.environment().await?;
    let preview = environment.preview_rollout(&plan, usize::from(options.sample)).await?;
    context.print(&preview, || describe(&preview))?;
    for server in &preview.unseen_servers {
        context.note(&format!("Server {server} does not answer: sizes of its tables are missing"));
    }
    let refused = options.strict && preview.is_risky();
    if preview.tenants > 0 {
        context.note(if refused {
            "\nNext: take the safer form, or write `-- tenantry: allow RULE` above the statement"
        } else {
            "\nNext: `tenantry migrate up --dry-run` tries it, `tenantry migrate up` does it"
        });
    }
    Ok(if refused { Outcome::Risky } else { Outcome::Done })
}

fn describe(preview: &Preview) -> String {
    let target = preview.target_version;
    if preview.tenants == 0 {
        return super::nothing_to_do(target);
    }
    let all = count(preview.tenants, "tenant");
    let mut text = format!("To version {target}, for {all}.\n\n");

    let mut files = Table::new(&["FILE", "TENANTS", "TEMPLATE", "RISKS"]);
    for file in &preview.files {
        files.row([
            file.file.clone(),
            file.tenants.to_string(),
            file.template_ms.map_or("-".to_owned(), milliseconds),
            risks(file),
        ]);
    }
    _ = writeln!(text, "{}\n", files.or("No file has changed."));

    let mut waves = Table::new(&["WAVE", "TENANTS"]);
    for wave in &preview.waves {
        waves.row([wave.name.clone(), wave.tenants.len().to_string()]);
    }
    text.push_str(&waves.or(""));

    for file in &preview.files {
        for effect in file.effects.iter().filter(|effect| !effect.risks.is_empty()) {
            text.push_str("\n\n");
            text.push_str(&explain(file, effect));
        }
    }
    match &preview.forecast {
        Some(forecast) => {
            let time = elapsed(Duration::from_secs_f64(forecast.seconds.clamp(0.0, 1e9)));
            _ = write!(text, "\n\nTakes about {time}: an estimate from {}.", forecast.basis);
        }
        None => text.push_str(
            "\n\nHow long it takes is not known until a template has been made of these files.",
        ),
    }
    text
}

/// The statement, what it does, and then each risk.
fn explain(file: &PreviewFile, effect: &PreviewEffect) -> String {
    let mut text = format!("{}:{}  {}", file.file, effect.line, effect.statement);
    let mut does: Vec<String> = Vec::new();
    if let Some(lock) = effect.lock {
        let table = effect.table.as_deref().map_or(String::new(), |table| format!(" on {table}"));
        does.push(format!("{lock}{table}"));
    }
    if effect.labour != "none" {
        does.push(effect.labour.to_owned());
    }
    if let Some(found) = &effect.size {
        let (largest, total) = (size(found.largest_bytes), size(found.total_bytes));
        does.push(format!("{largest} at {}, {total} in all", found.largest_tenant));
    }
    if !does.is_empty() {
        _ = write!(text, "\n  {}", does.join(", "));
    }
    for risk in &effect.risks {
        if risk.allowed {
            _ = write!(text, "\n  {} (allowed)", risk.rule);
        } else {
            _ = write!(text, "\n  {}: {}\n    safer: {}", risk.rule, risk.problem, risk.safer);
        }
    }
    text.lines().map(|line| line.replace(char::is_control, " ")).collect::<Vec<_>>().join("\n")
}

fn risks(file: &PreviewFile) -> String {
    let all = || file.effects.iter().flat_map(|effect| &effect.risks);
    let allowed = all().filter(|risk| risk.allowed).count();
    match (all().count() - allowed, allowed) {
        (0, 0) => "none".to_owned(),
        (risks, 0) => risks.to_string(),
        (risks, allowed) => format!("{risks}, {allowed} allowed"),
    }
}

fn milliseconds(time: f64) -> String {
    elapsed(Duration::from_secs_f64((time / 1000.0).clamp(0.0, 1e9)))
}
