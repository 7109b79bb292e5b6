//! [`Preview`]: what a rollout would do. The files, whom they meet in which wave, what their statements do to
//! tables that are in use, how large those are, and about how long it takes. It changes nothing.
//!
//! Sizes are read from the largest databases of every server only, so that a look at a thousand tenants is a
//! look at some. A server that does not answer is named, and its sizes are missing.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{StreamExt as _, stream};
use serde::Serialize;
use tenantry_provisioning::{
    DatabaseName, Effect, FileEffects, Labour, TableLock, TableSize, database_sizes, table_sizes,
};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Drawn, RolloutError, RolloutPlan};
use crate::operations::{Environment, StepError, tracks, upkeep};
use crate::tenant::{Label, Tenant, TenantSlug};

/// Databases that are looked into at a time.
const LOOKS: usize = 4;
/// How many tenants are migrated at a time where the plan does not say.
const CONCURRENCY: u32 = 4;

/// What a rollout would do.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Preview {
    /// The version that tenants would be brought to.
    pub target_version: i64,
    /// How many tenants have something to do.
    pub tenants: usize,
    /// Who comes in which wave.
    pub waves: Vec<PreviewWave>,
    /// The files, in the order in which they run.
    pub files: Vec<PreviewFile>,
    /// How many databases sizes were read from.
    pub sampled: usize,
    /// Servers that did not answer.
    pub unseen_servers: Vec<String>,
    /// How long it takes; none where no template has been made of these files yet.
    pub forecast: Option<Forecast>,
}

/// A wave.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PreviewWave {
    /// What it is selected by.
    pub name: String,
    /// Who is in it.
    #[schema(value_type = Vec<String>)]
    pub tenants: Vec<TenantSlug>,
}

/// A file.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PreviewFile {
    /// Its version; 0 for a repeatable file.
    pub version: i64,
    /// Its name; of a track, with the folder.
    pub file: String,
    /// The track, where only its tenants get it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub track: Option<Label>,
    /// How many tenants lack it; for a repeatable file, how many lack one of them.
    pub tenants: usize,
    /// Whether it runs in one transaction.
    pub in_transaction: bool,
    /// How long it took when the template was made of it, where there are no rows.
    pub template_ms: Option<f64>,
    /// What its statements do to tables that are in use.
    pub effects: Vec<PreviewEffect>,
}

/// What a statement does to a table.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PreviewEffect {
    /// The line of the file that the statement begins in.
    pub line: usize,
    /// Its beginning, without strings.
    pub statement: String,
    /// The table.
    pub table: Option<String>,
    /// The lock that it takes, as PostgreSQL writes it.
    pub lock: Option<&'static str>,
    /// `none`, `scan`, `update` or `rewrite`.
    pub labour: &'static str,
    /// How large the table is.
    pub size: Option<PreviewSize>,
    /// What may go wrong.
    pub risks: Vec<PreviewRisk>,
}

/// How large a table is over the tenants that were looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct PreviewSize {
    /// Who has the largest.
    #[schema(value_type = String)]
    pub largest_tenant: TenantSlug,
    /// With its indexes.
    pub largest_bytes: i64,
    /// About how many rows the most have; none where nobody has counted.
    pub largest_rows: Option<i64>,
    /// Over all tenants of the plan; those that were not looked at count as the smallest that was.
    pub total_bytes: i64,
}

/// What may go wrong with a statement.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PreviewRisk {
    /// The name that `-- tenantry: allow <rule>` takes.
    pub rule: &'static str,
    /// Whether such a comment stands above the statement.
    pub allowed: bool,
    /// What may go wrong.
    pub problem: String,
    /// What to do instead.
    pub safer: &'static str,
}

/// About how long a rollout takes.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Forecast {
    /// From the first tenant to the last, with the time between waves.
    pub seconds: f64,
    /// How it was reckoned.
    pub basis: String,
}

impl Preview {
    /// Whether a statement has a risk that nobody has allowed.
    #[must_use]
    pub fn is_risky(&self) -> bool {
        let effects = self.files.iter().flat_map(|file| &file.effects);
        effects.flat_map(|effect| &effect.risks).any(|risk| !risk.allowed)
    }
}

impl Environment {
    /// What [`start_rollout`](Self::start_rollout) with the same plan would do. Sizes are read from so many of the
    /// largest databases of each server.
    pub async fn preview_rollout(
        &self,
        plan: &RolloutPlan,
        sample: usize,
    ) -> Result<Preview, RolloutError> {
        let drawn = self.draw(plan).await?;
        let files = drawn.files();
        let touched = files.iter().flat_map(|(_, file)| &file.effects);
        let tables: BTreeSet<String> = touched.filter_map(|effect| effect.table.clone()).collect();
        let sizes = self.sizes(&drawn.due, tables.into_iter().collect(), sample).await;
        let timings = self.timings(&drawn).await?;
        let files: Vec<_> = files
            .into_iter()
            .map(|(track, file)| PreviewFile {
                tenants: drawn.lacking(track.as_ref(), &file),
                template_ms: match track {
                    None => timings.get(&upkeep::timing_key(file.version, &file.name)).copied(),
                    Some(_) => None,
                },
                effects: file.effects.iter().map(|effect| sizes.preview(effect)).collect(),
                version: file.version,
                in_transaction: file.in_transaction,
                file: file.file,
                track,
            })
            .collect();
        Ok(Preview {
            target_version: drawn.target,
            tenants: drawn.due.len(),
            waves: drawn.named_waves(),
            forecast: forecast(plan, &files, drawn.waves.len(), &sizes),
            files,
            sampled: sizes.sampled,
            unseen_servers: sizes.unseen_servers,
        })
    }

    /// How long the files took on a template, by the keys of [`upkeep::timing_key`].
    async fn timings(&self, drawn: &Drawn) -> Result<BTreeMap<String, f64>, RolloutError> {
        let servers: BTreeSet<Uuid> = drawn.due.iter().map(|tenant| tenant.server_id).collect();
        for server in servers {
            let templates = self.catalog.templates(server).await?;
            let digests = [&drawn.held, &drawn.set].map(|set| self.template_digest(set));
            let ours = templates.into_iter().find(|one| digests.contains(&one.digest));
            if let Some(template) = ours.filter(|one| !one.timings.is_empty()) {
                return Ok(template.timings);
            }
        }
        Ok(BTreeMap::new())
    }

    async fn sizes(&self, due: &[Tenant], tables: Vec<String>, sample: usize) -> Sizes {
        let mut sizes = Sizes::default();
        if tables.is_empty() || sample == 0 {
            return sizes;
        }
        let mut servers: BTreeMap<Uuid, Vec<&Tenant>> = BTreeMap::new();
        for tenant in due {
            servers.entry(tenant.server_id).or_default().push(tenant);
        }
        for (server, tenants) in servers {
            match self.look(server, &tenants, &tables, sample).await {
                Ok(found) => sizes.add(&found, tenants.len()),
                Err(error) => {
                    let name = tenants[0].server_name.clone();
                    tracing::debug!(server = name, %error, "sizes cannot be read");
                    sizes.unseen_servers.push(name);
                }
            }
        }
        sizes
    }

    /// The sizes of tables in the largest databases of one server.
    async fn look(
        &self,
        server: Uuid,
        tenants: &[&Tenant],
        tables: &[String],
        sample: usize,
    ) -> Result<Vec<(TenantSlug, Vec<TableSize>)>, StepError> {
        let server = self.server(server).await?;
        let databases: Vec<DatabaseName> =
            tenants.iter().map(|tenant| tenant.database.clone()).collect();
        let largest = database_sizes(&server, &databases).await?;
        let mut looks = Vec::new();
        for (name, _) in largest.into_iter().take(sample) {
            let tenant = tenants.iter().find(|tenant| tenant.database.as_str() == name);
            let Some(tenant) = tenant.map(|tenant| (*tenant).clone()) else { continue };
            let (server, tables) = (server.clone(), tables.to_vec());
            looks.push(async move {
                let found = table_sizes(&server, &tenant.database, &tables).await;
                (tenant.slug, found)
            });
        }
        let looks: Vec<_> = stream::iter(looks).buffered(LOOKS).collect().await;
        // One that is being dropped or moved just now is not missed.
        Ok(looks.into_iter().filter_map(|(slug, found)| Some((slug, found.ok()?))).collect())
    }
}

impl Drawn {
    /// The files that somebody lacks: the common ones, and then those of tracks that can be used.
    fn files(&self) -> Vec<(Option<Label>, FileEffects)> {
        let range = |versions: &dyn Fn(&Tenant) -> Option<i64>| {
            let all = || self.due.iter().filter_map(versions);
            (all().min().unwrap_or(0), all().max().unwrap_or(0))
        };
        let (oldest, newest) = range(&|tenant| Some(tenant.schema_version));
        let common = self.held.effects(oldest, newest);
        let mut files: Vec<_> = common.into_iter().map(|file| (None, file)).collect();
        let tracks: BTreeSet<&Label> = self.due.iter().filter_map(Tenant::track_name).collect();
        for name in tracks.into_iter().filter(|_| self.held.is_whole()) {
            // Whoever is in one that cannot be used fails, and says so.
            let Ok(set) = self.held.track(name.as_str()) else { continue };
            let of_track = |tenant: &Tenant| {
                tenant.track.as_ref().filter(|own| own.name == *name).map(|own| own.version)
            };
            let (oldest, newest) = range(&of_track);
            let effects = set.effects_after(&self.held, oldest, newest);
            files.extend(effects.into_iter().map(|file| (Some(name.clone()), file)));
        }
        files.retain(|(track, file)| self.lacking(track.as_ref(), file) > 0);
        files
    }

    /// How many tenants lack a file, of those in its track if it has one.
    fn lacking(&self, track: Option<&Label>, file: &FileEffects) -> usize {
        let digest = self.held.repeatables_digest().unwrap_or_default();
        let lacks = |tenant: &&Tenant| match (&tenant.track, track, file.version) {
            (_, None, 0) => tenant.repeatables_digest != digest,
            (_, None, version) => tenant.schema_version < version,
            (Some(own), Some(track), 0) => {
                own.name == *track && tracks::lacks_repeatables(own, &self.held)
            }
            (Some(own), Some(track), version) => own.name == *track && own.version < version,
            (None, Some(_), _) => false,
        };
        self.due.iter().filter(lacks).count()
    }

    fn named_waves(&self) -> Vec<PreviewWave> {
        let slugs: BTreeMap<Uuid, &TenantSlug> =
            self.due.iter().map(|tenant| (tenant.id, &tenant.slug)).collect();
        let waves = self.waves.iter().map(|(name, tenants)| PreviewWave {
            name: name.clone(),
            tenants: tenants.iter().filter_map(|id| slugs.get(id).copied().cloned()).collect(),
        });
        waves.collect()
    }
}

/// What was found out about sizes.
#[derive(Default)]
struct Sizes {
    tables: BTreeMap<String, PreviewSize>,
    sampled: usize,
    unseen_servers: Vec<String>,
}

impl Sizes {
    /// Adds what was found on one server with so many tenants.
    fn add(&mut self, found: &[(TenantSlug, Vec<TableSize>)], tenants: usize) {
        self.sampled += found.len();
        let unseen = i64::try_from(tenants.saturating_sub(found.len())).unwrap_or(i64::MAX);
        let mut smallest: BTreeMap<&str, i64> = BTreeMap::new();
        for (slug, tables) in found {
            for size in tables {
                let least = smallest.entry(&size.table).or_insert(size.bytes);
                *least = size.bytes.min(*least);
                let entry = self.tables.entry(size.table.clone()).or_insert_with(|| PreviewSize {
                    largest_tenant: slug.clone(),
                    largest_bytes: 0,
                    largest_rows: Some(0),
                    total_bytes: 0,
                });
                entry.total_bytes = entry.total_bytes.saturating_add(size.bytes);
                entry.largest_rows = entry.largest_rows.zip(size.rows).map(|(a, b)| a.max(b));
                if size.bytes > entry.largest_bytes {
                    entry.largest_bytes = size.bytes;
                    entry.largest_tenant = slug.clone();
                }
            }
        }
        for (table, bytes) in smallest {
            if let Some(entry) = self.tables.get_mut(table) {
                entry.total_bytes = entry.total_bytes.saturating_add(bytes.saturating_mul(unseen));
            }
        }
    }

    fn preview(&self, effect: &Effect) -> PreviewEffect {
        let size = effect.table.as_ref().and_then(|table| self.tables.get(table));
        let rows = size.and_then(|size| size.largest_rows);
        let risks = effect.risks.iter().filter(|risk| risk.allowed || risk.counts(rows));
        let risks = risks.map(|risk| PreviewRisk {
            rule: risk.rule.as_str(),
            allowed: risk.allowed,
            problem: match &risk.detail {
                Some(detail) => format!("{} ({detail})", risk.rule.why()),
                None => risk.rule.why().to_owned(),
            },
            safer: risk.rule.safer(),
        });
        PreviewEffect {
            line: effect.line,
            statement: effect.statement.clone(),
            table: effect.table.clone(),
            lock: effect.lock.map(TableLock::as_str),
            labour: effect.labour.as_str(),
            size: size.cloned(),
            risks: risks.collect(),
        }
    }
}

/// Bytes of a table that are worked through in a second, about, on a server with ordinary disks.
fn bytes_per_second(labour: &str) -> Option<f64> {
    let megabytes = match labour {
        labour if labour == Labour::Scan.as_str() => 400.0,
        labour if labour == Labour::Rewrite.as_str() => 50.0,
        labour if labour == Labour::Update.as_str() => 20.0,
        _ => return None,
    };
    Some(megabytes * 1_000_000.0)
}

/// The template's times for every tenant that lacks a file, the work that grows with the tables, and the time
/// between waves.
#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn forecast(
    plan: &RolloutPlan,
    files: &[PreviewFile],
    waves: usize,
    sizes: &Sizes,
) -> Option<Forecast> {
    let concurrency = f64::from(plan.concurrency.unwrap_or(CONCURRENCY));
    let mut seconds = 0.0;
    for file in files {
        // No template has the files of a track.
        let template_ms = if file.track.is_some() { 0.0 } else { file.template_ms? };
        seconds += template_ms / 1000.0 * file.tenants as f64;
        // The actions of one statement are done in one go: the longest counts.
        let mut work: BTreeMap<(usize, &str, &str), f64> = BTreeMap::new();
        for effect in &file.effects {
            if let (Some(table), Some(size), Some(rate)) =
                (&effect.table, &effect.size, bytes_per_second(effect.labour))
            {
                let longest = work.entry((effect.line, &effect.statement, table)).or_default();
                *longest = longest.max(size.total_bytes as f64 / rate);
            }
        }
        seconds += work.values().sum::<f64>();
    }
    let between = f64::from(plan.bake_secs) * waves.saturating_sub(1) as f64;
    let basis = format!(
        "each file's time on an empty template, and scans at 400 MB/s, rewrites at 50 MB/s and updates at 20 MB/s \
         of what {} databases hold, {concurrency} tenants at a time",
        sizes.sampled
    );
    Some(Forecast { seconds: seconds / concurrency + between, basis })
}
