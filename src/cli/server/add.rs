//! `tenantry server add`

use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::Args;
use secrecy::{ExposeSecret as _, SecretString};
use tenantry_provisioning::{Problem, Server, ServerUrl};

use super::set::ChangeOptions;
use crate::api::document::ServerDocument;
use crate::catalog::Catalog;
use crate::cli::{Context, Error, Outcome, Result, report};
use crate::tenant::Label;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tenantry server add eu-1 --url-file /run/secrets/eu-1
  pass show eu-1 | tenantry server add eu-1 --url-file -
  tenantry server add eu-1 --url 'postgres://admin:…@db-1.internal:5432/postgres?sslmode=verify-full'
  tenantry server add eu-1 --url-file /run/secrets/eu-1 --region eu --max-tenants 500 --connection-budget 300
  tenantry server add eu-1 --url-file /run/secrets/eu-1 --replace     a new address or password

The server is prepared and checked first: group roles are made, and its shared databases are shut to
everybody. The user needs LOGIN, CREATEDB, CREATEROLE and `grant set on parameter tenantry.tenant`.")]
pub(in crate::cli) struct Options {
    /// Its name: lowercase letters, digits, inner hyphens
    #[arg(value_parser = parse_name)]
    name: String,
    /// How an administrator reaches it; other users of this machine can see it, so prefer --url-file
    #[arg(long, required_unless_present = "url_file", conflicts_with = "url_file")]
    url: Option<SecretString>,
    /// A file that holds the URL; `-` is stdin
    #[arg(long, value_name = "FILE")]
    url_file: Option<PathBuf>,
    /// Give a server that is there already this address; its tenants stay where they are
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    change: ChangeOptions,
    /// Add it although the check found something
    #[arg(long)]
    force: bool,
}

pub(super) async fn run(options: Options, context: &Context) -> Result<Outcome> {
    let (url, parsed) = url(options.url, options.url_file)?;
    let catalog = context.catalog().await?;
    let known = catalog.servers().await?;
    let present = known.iter().find(|server| server.name == options.name);
    if options.replace && present.is_none() {
        catalog.server_by_name(&options.name).await?;
    }
    if present.is_some() && !options.replace {
        return Err(Error::refused(
            format!("server `{}` exists already", options.name),
            "choose another name, or give it another address with --replace",
        ));
    }
    let twin = known
        .iter()
        .find(|server| server.address == parsed.host_label() && server.name != options.name);
    if let Some(twin) = twin {
        return Err(Error::refused(
            format!("server `{}` has the address {} already", twin.name, twin.address),
            "one server may be known by one name only",
        ));
    }

    let server = Server::new(parsed, 2).hardened(context.settings.hardening);
    server.prepare().await?;
    let problems = server.check().await?;
    if !problems.is_empty() && !options.force {
        let list: Vec<String> = problems.iter().map(describe).collect();
        return Err(Error::refused(
            format!("the server cannot keep tenants apart yet\n{}", list.join("\n")),
            "fix this and try again, or add it all the same with --force",
        ));
    }
    let mut record = put(&catalog, &options.name, &url, options.replace).await?;
    let change = options.change.change()?;
    if !change.is_empty() {
        record = catalog.change_server(&options.name, &change).await?;
    }
    let document = ServerDocument::from(record);
    let verb = if options.replace { "has a new address" } else { "is added" };
    let what = format!("Server `{}` ({}) {verb}.", document.name, document.address);
    let next =
        format!("Next: `tenantry tenant create --slug acme-corp --server {}`", document.name);
    context.print_change(&document, &what, &next)?;
    Ok(Outcome::Done)
}

/// What one of two options says of a server's address.
pub(super) fn url(
    given: Option<SecretString>,
    file: Option<PathBuf>,
) -> Result<(SecretString, ServerUrl)> {
    let url = match (given, file) {
        (Some(url), _) => url,
        (None, Some(path)) => read(&path)?,
        (None, None) => unreachable!("one of the two is required"),
    };
    let parsed = ServerUrl::parse(url.expose_secret()).map_err(|error| {
        let help = error.remedy().map(|remedy| remedy.to_string()).unwrap_or_default();
        Error::usage(crate::operations::chain(&error), help)
    })?;
    Ok((url, parsed))
}

async fn put(
    catalog: &Catalog,
    name: &str,
    url: &SecretString,
    replace: bool,
) -> Result<crate::catalog::servers::ServerRecord> {
    if replace {
        catalog.set_server_url(name, url).await?;
        return Ok(catalog.server_by_name(name).await?);
    }
    Ok(catalog.add_server(name, url).await?)
}

fn read(path: &Path) -> Result<SecretString> {
    let read = if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(path)
    };
    let text =
        read.map_err(|error| Error::failed(format!("{} cannot be read", path.display()), error))?;
    Ok(text.trim().into())
}

/// Tells what a check found without refusing anything: for the first server, which `init` adds.
pub(in crate::cli) fn warn(problems: &[Problem]) {
    for problem in problems {
        report::warn(&format!("warning:\n{}", describe(problem)));
    }
}

pub(super) fn describe(problem: &Problem) -> String {
    format!("  - {}\n    help: {}", problem.what, problem.remedy)
}

pub(super) fn parse_name(text: &str) -> std::result::Result<String, String> {
    Label::parse(text).map(String::from).map_err(|error| error.to_string())
}
