//! What the catalog and the servers say.

use std::time::Duration;

use jiff::Timestamp;
use tenantry_provisioning::{Error, Expectation, Server};

use super::Checklist;
use super::settings::{is_near, unproven};
use crate::audit::kinds::Kind;
use crate::catalog::protection::Protection;
use crate::catalog::tokens::TokenRecord;
use crate::catalog::{Catalog, CatalogError};
use crate::cli::report::count;
use crate::config::Settings;
use crate::operations::chain;
use crate::tenant::settings::Goal;

/// How old a master key and a token may be.
const OLDEST_KEY: Duration = Duration::from_hours(365 * 24);
/// How long ago the newest audit may have been.
const OLDEST_AUDIT: Duration = Duration::from_hours(8 * 24);
/// How long ago a backup may last have been restored.
const OLDEST_DRILL: Duration = Duration::from_hours(35 * 24);
/// How old a tenant's newest backup may be where no goal says so.
const OLDEST_BACKUP: Duration = Duration::from_hours(48);
/// How many tenants a check spells out.
const SPELLED_OUT: usize = 5;
const BACK_UP: &str =
    "run `tenantry backup run --all`, and see what failed: `tenantry operation list`";

type Problems = Vec<(String, String)>;

impl Checklist {
    pub(super) async fn fleet(&mut self, settings: &Settings) {
        let catalog = match settings.catalog() {
            Ok(catalog) => catalog,
            Err(error) => return self.failed("catalog", chain(&error), error.remedy()),
        };
        if let Err(error) = catalog.verify().await {
            return self.catalog_failed("catalog", &error);
        }
        self.good("catalog");
        let now = Timestamp::now();
        self.concluded("master-key", master_key(&catalog, now).await);
        self.concluded("tokens", tokens(&catalog, now).await);
        self.concluded("audited", audited(&catalog, now).await);
        match catalog.protections("", None).await {
            Ok(tenants) => {
                let nobody = tenants.is_empty().then_some("there are no tenants yet");
                self.conclude_with("backed-up", backed_up(&tenants, settings, now), nobody);
                self.conclude_with("drilled", drilled(&tenants, now), nobody);
            }
            Err(error) => {
                for name in ["backed-up", "drilled"] {
                    self.catalog_failed(name, &error);
                }
            }
        }
        if let Err(error) = self.servers(&catalog, settings).await {
            self.catalog_failed("servers", &error);
        }
    }

    async fn servers(
        &mut self,
        catalog: &Catalog,
        settings: &Settings,
    ) -> Result<(), CatalogError> {
        let mut servers = Vec::new();
        let (mut tls, mut near) = (Problems::new(), 0);
        for record in catalog.servers().await? {
            let url = catalog.server_url(record.id).await?;
            tls.extend(unproven(&format!("server `{}`", record.name), &url));
            near += usize::from(is_near(&url));
            let server = Server::new(url, 1).hardened(settings.hardening);
            servers.push((format!("server `{}`", record.name), server));
        }
        for place in catalog.read_replica_places(None).await? {
            let name = format!("read replica `{}`", place.replica.name);
            tls.extend(unproven(&name, &place.url));
            near += usize::from(is_near(&place.url));
        }
        let near = (near > 0).then(|| {
            let near = count(near, "server");
            format!("{near} of this machine without a certificate, every other proves that it is the one")
        });
        self.conclude_with("server-tls", tls, near.as_deref());
        let (mut administrators, mut open) = (Problems::new(), Problems::new());
        for (name, server) in &servers {
            match server.check().await {
                Ok(problems) => open.extend(
                    problems.into_iter().map(|p| (format!("{name}: {}", p.what), p.remedy)),
                ),
                Err(error) => open.push(unseen(name, &error)),
            }
        }
        // Often the catalog is on one of them, with an administrator of its own.
        servers.push(("the catalog".to_owned(), catalog.server().clone()));
        for (number, (name, server)) in servers.iter().enumerate() {
            let is_same = |(_, other): &(String, Server)| {
                other.url().host_label() == server.url().host_label()
            };
            match administrator(name, server).await {
                Ok(problems) => administrators.extend(problems),
                Err(error) => administrators.push(unseen(name, &error)),
            }
            if !servers[..number].iter().any(is_same) {
                match doors(name, server).await {
                    Ok(problems) => open.extend(problems),
                    Err(error) => open.push(unseen(name, &error)),
                }
            }
        }
        self.conclude("administrators", administrators);
        self.conclude("servers", open);
        Ok(())
    }

    fn concluded(&mut self, name: &'static str, found: Result<Problems, CatalogError>) {
        match found {
            Ok(problems) => self.conclude(name, problems),
            Err(error) => self.catalog_failed(name, &error),
        }
    }

    fn catalog_failed(&mut self, name: &'static str, error: &CatalogError) {
        let remedy =
            "see that the catalog runs and is of this version: `tenantry init`, `tenantry doctor`";
        self.failed(name, chain(error), remedy);
    }
}

fn one(what: impl Into<String>, remedy: impl Into<String>) -> Problems {
    vec![(what.into(), remedy.into())]
}

fn is_older(since: Timestamp, than: Duration, now: Timestamp) -> bool {
    now.duration_since(since).unsigned_abs() > than
}

async fn master_key(catalog: &Catalog, now: Timestamp) -> Result<Problems, CatalogError> {
    let present = catalog.master_key_id();
    let under = catalog.under_master_keys().await?;
    if under.keys().any(|key| *key != present) {
        return Ok(one(
            "something is still under another master key than the present one",
            "run `tenantry key rotate`, then take TENANTRY_MASTER_KEY_PREVIOUS away",
        ));
    }
    let since = catalog.master_key_since().await?;
    if is_older(since, OLDEST_KEY, now) {
        let what = format!("the master key is the same since {since:.0}");
        let remedy = "make another one, keep this one as TENANTRY_MASTER_KEY_PREVIOUS, and run `tenantry key rotate`";
        return Ok(one(what, remedy));
    }
    Ok(Problems::new())
}

async fn tokens(catalog: &Catalog, now: Timestamp) -> Result<Problems, CatalogError> {
    let tokens = catalog.tokens().await?;
    let old = tokens
        .iter()
        .filter(|token| token.revoked_at.is_none() && is_older(token.created_at, OLDEST_KEY, now));
    let problem = |token: &TokenRecord| {
        (
            format!("the token `{}` is of {:.0}", token.name, token.created_at),
            format!(
                "make another one (`tenantry token create`), then run `tenantry token revoke {}`",
                token.name
            ),
        )
    };
    Ok(old.map(problem).collect())
}

async fn audited(catalog: &Catalog, now: Timestamp) -> Result<Problems, CatalogError> {
    let run = "run `tenantry tenant audit`, and see to what it finds";
    let Some(last) = catalog.last_audit().await? else {
        return Ok(one("isolation was never audited", run));
    };
    let mut problems = Problems::new();
    if is_older(last.finished_at, OLDEST_AUDIT, now) {
        let what = format!("isolation was last audited at {:.0}", last.finished_at);
        problems.push((what, run.to_owned()));
    }
    if !last.complete {
        problems.push(("the last audit could not try everything".to_owned(), run.to_owned()));
    }
    let bad = last.findings.critical + last.findings.high + last.findings.medium;
    if bad > 0 {
        let bad = count(usize::try_from(bad).unwrap_or(usize::MAX), "finding");
        let what = format!("the last audit has {bad} above low that nobody has accepted");
        problems.push((what, "see them, `tenantry audit show`, and fix them".to_owned()));
    }
    Ok(problems)
}

fn backed_up(tenants: &[Protection], settings: &Settings, now: Timestamp) -> Problems {
    let (mut none, mut late) = (Vec::new(), Vec::new());
    for tenant in tenants {
        let policy = tenant.policy.clone().or(&settings.backups.policy);
        let goal = policy.goal_rpo.as_ref().map_or(OLDEST_BACKUP, Goal::length);
        match tenant.data_of {
            None => none.push(tenant.slug.as_str()),
            Some(data_of) if is_older(data_of, goal, now) => late.push(tenant.slug.as_str()),
            Some(_) => {}
        }
    }
    let found = [("no backup at all", none), ("no backup that is new enough", late)];
    let found = found.into_iter().filter(|(_, slugs)| !slugs.is_empty());
    found.map(|(what, slugs)| (without(what, &slugs), BACK_UP.to_owned())).collect()
}

/// Who is without something, as far as that is spelled out.
fn without(what: &str, slugs: &[&str]) -> String {
    let have = if slugs.len() == 1 { "has" } else { "have" };
    let more = if slugs.len() > SPELLED_OUT { ", …" } else { "" };
    let first = slugs[..slugs.len().min(SPELLED_OUT)].join(", ");
    format!("{} {have} {what}: {first}{more}", count(slugs.len(), "tenant"))
}

fn drilled(tenants: &[Protection], now: Timestamp) -> Problems {
    let newest = tenants.iter().filter_map(|tenant| tenant.proven_at).max();
    let run = "run `tenantry backup drill --sample 5`, and see that it succeeds";
    match newest {
        _ if tenants.is_empty() => Problems::new(),
        None => one("no backup was ever restored", run),
        Some(at) if is_older(at, OLDEST_DRILL, now) => {
            one(format!("a backup was last restored at {at:.0}"), run)
        }
        Some(_) => Problems::new(),
    }
}

fn unseen(name: &str, error: &Error) -> (String, String) {
    let remedy = error.remedy().map_or_else(String::new, |remedy| remedy.to_string());
    (format!("{name} cannot be looked at: {}", chain(error)), remedy)
}

async fn administrator(name: &str, server: &Server) -> Result<Problems, Error> {
    if !server.administrator_is_first().await? {
        return Ok(Problems::new());
    }
    let user = server.url().user();
    Ok(one(
        format!("{name} is administered as `{user}`, the superuser of `initdb`"),
        format!(
            "make a role for Tenantry alone, and put it into the URL in place of `{user}` (`tenantry server add NAME \
             --replace --url …`, TENANTRY_CATALOG_URL)"
        ),
    ))
}

/// How a server lets people in.
async fn doors(name: &str, server: &Server) -> Result<Problems, Error> {
    let is_door =
        |kind: &str| kind.starts_with("hba_") || kind == "no_tls" || kind == "server_setting";
    let looked = server.holes(&Expectation::default()).await?;
    let holes = looked.holes.into_iter().filter(|hole| is_door(&hole.kind));
    let mut problems: Problems = holes
        .map(|hole| {
            let remedy = Kind::of(&hole.kind).map_or("", |kind| kind.remedy);
            (format!("{name}: {}: {}", hole.subject, hole.evidence), remedy.to_owned())
        })
        .collect();
    let hidden = looked.unseen.iter().filter(|what| what.contains("pg_hba"));
    let problem = |what: &&str| {
        (format!("{name}: nobody can look at its {what}"), "as a superuser, grant it".to_owned())
    };
    problems.extend(hidden.map(problem));
    Ok(problems)
}
