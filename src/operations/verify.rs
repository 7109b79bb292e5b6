//! Verifying: what the databases of tenants have, against what the files make. It reads, and writes down in
//! the catalog what it found; it changes no tenant.
//!
//! A tenant is compared with its own version, so one that is behind has not drifted. What a version is like
//! is found out once a server, from a clone of the template or from a build that is dropped again; with each version
//! of a track that a tenant of the server has, likewise.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::{Stream, StreamExt as _, stream};
use tenantry_provisioning::{
    DatabaseName, Difference, MigrationSet, Reading, Schema, SchemaError, read_schema,
    reference_schema,
};
use tokio::sync::OnceCell;
use uuid::Uuid;

use super::{Environment, StepError, require_settled};
use crate::catalog::CatalogError;
use crate::catalog::operations::Failure;
use crate::catalog::schema_checks::SchemaCheck;
use crate::tenant::{Tenant, TenantSlug};

/// The one build of a server in which versions are looked at; `reference` in ASCII, more or less.
const REFERENCE: Uuid = Uuid::from_u128(0x7265_6665_7265_4e63_8565_0000_0000_0000);

/// How long a look waits for a migration of the same database.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a look at one tenant found.
#[derive(Clone, Debug)]
pub struct Verified {
    /// The tenant.
    pub slug: TenantSlug,
    /// Its server.
    pub server: String,
    /// How it stands.
    pub state: DriftState,
    /// The version of its database.
    pub version: i64,
    /// What its schema is, in 64 hexadecimal digits; empty if nobody could look.
    pub fingerprint: String,
    /// What it has otherwise than the files of that version make it.
    pub differences: Vec<Difference>,
    /// What keeps it from being compared, and what to do about it.
    pub problem: Option<Failure>,
}

/// How a tenant's schema stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DriftState {
    /// As the newest file left it.
    Clean,
    /// As the files up to an older version left it, or as it was before a repeatable file changed.
    Behind,
    /// Otherwise than the files make it, or with a history that they contradict.
    Drifted,
    /// Nobody could look.
    Unverified,
}

/// A database that may be adopted, beside the files.
#[derive(Debug)]
pub struct Comparison {
    /// What the database has.
    pub found: Reading,
    /// What it has otherwise than the files make it.
    pub differences: Vec<Difference>,
}

impl DriftState {
    /// The state's name, in JSON and for people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Behind => "behind",
            Self::Drifted => "drifted",
            Self::Unverified => "unverified",
        }
    }
}

impl Environment {
    /// The tenants to look at: those named, or all that are served or suspended; of one server, if it is
    /// named.
    pub async fn to_verify(
        &self,
        slugs: &[TenantSlug],
        server: Option<&str>,
    ) -> Result<Vec<Tenant>, CatalogError> {
        let mut tenants = self.fleet(slugs).await?;
        if let Some(name) = server {
            let server = self.catalog.server_by_name(name).await?;
            tenants.retain(|tenant| tenant.server_id == server.id);
        }
        Ok(tenants)
    }

    /// Looks at each of these tenants, so many at a time, in no order.
    pub fn verify(
        &self,
        tenants: Vec<Tenant>,
        concurrency: usize,
    ) -> impl Stream<Item = Verified> + Send + use<> {
        let looker = Arc::new(Looker {
            environment: self.clone(),
            set: self.migrations(),
            servers: Mutex::default(),
            references: Mutex::default(),
        });
        stream::iter(tenants)
            .map(move |tenant| {
                let looker = Arc::clone(&looker);
                async move { looker.verify(&tenant).await }
            })
            .buffer_unordered(concurrency.max(1))
    }

    /// What a tenant's database has, against what the files up to a version make.
    pub async fn compare(&self, tenant: &Tenant, version: i64) -> Result<Comparison, StepError> {
        require_settled(tenant)?;
        self.compare_unserved(tenant, version).await
    }

    /// The same of a tenant that is just being made, by whoever makes it.
    pub(super) async fn compare_unserved(
        &self,
        tenant: &Tenant,
        version: i64,
    ) -> Result<Comparison, StepError> {
        let files = self.migrations().at(version).ok_or_else(|| no_version(version))?;
        let expected = make_reference(self, tenant.server_id, &files, None);
        let (expected, found) = tokio::try_join!(expected, read(self, tenant))?;
        let differences = expected.differences(&found.schema);
        Ok(Comparison { found, differences })
    }
}

/// What is found out once: by whoever needs it first, while the others wait.
type Known<K, T> = Mutex<HashMap<K, Arc<OnceCell<Result<T, Failure>>>>>;

struct Looker {
    environment: Environment,
    set: MigrationSet,
    /// Whether each server answers: nobody waits a thousand times for one that is away.
    servers: Known<Uuid, ()>,
    /// What each set of files makes on each server.
    references: Known<(Uuid, (String, Option<String>)), Schema>,
}

impl Looker {
    async fn verify(&self, tenant: &Tenant) -> Verified {
        let mut verified = Verified {
            slug: tenant.slug.clone(),
            server: tenant.server_name.clone(),
            state: DriftState::Unverified,
            version: tenant.schema_version,
            fingerprint: String::new(),
            differences: Vec::new(),
            problem: None,
        };
        if let Err(failure) = self.look(tenant, &mut verified).await {
            verified.problem = Some(failure);
        }
        verified
    }

    async fn look(&self, tenant: &Tenant, verified: &mut Verified) -> Result<(), Failure> {
        let server = cell(&self.servers, tenant.server_id);
        let reach = || async {
            let server = self.environment.server(tenant.server_id).await?;
            server.facts().await.map(drop).map_err(StepError::from)
        };
        server
            .get_or_init(|| async { reach().await.map_err(|error| failure(&error)) })
            .await
            .clone()?;
        require_settled(tenant).map_err(|error| failure(&error))?;
        let found = read(&self.environment, tenant).await.map_err(|error| failure(&error))?;
        verified.version = found.version();
        verified.fingerprint = found.schema.fingerprint();
        let track = self.track_of(tenant, &found).map_err(|error| failure(&error.into()))?;
        if let Err(contradiction) = check_history(tenant, &found, &self.set, track.as_ref()) {
            verified.state = DriftState::Drifted;
            self.record(tenant, verified, 1).await?;
            return Err(failure(&contradiction.into()));
        }
        let no_files = || failure(&no_version(verified.version));
        let files = found.files(&self.set).ok_or_else(no_files)?;
        let of_track = match &track {
            Some(track) => Some(found.files(track).ok_or_else(no_files)?),
            None => None,
        };
        let digests =
            (files.digest().to_owned(), of_track.as_ref().map(|it| it.digest().to_owned()));
        let reference = cell(&self.references, (tenant.server_id, digests));
        let make = || async {
            make_reference(&self.environment, tenant.server_id, &files, of_track.as_ref())
                .await
                .map_err(|error| failure(&error))
        };
        let expected = reference.get_or_init(make).await.as_ref().map_err(Clone::clone)?;
        verified.differences = expected.differences(&found.schema);
        let sets = || track.iter().chain([&self.set]);
        let outdated: Vec<&str> = sets().flat_map(|set| found.outdated(set)).collect();
        if !verified.differences.is_empty() && !outdated.is_empty() {
            return Err(unknown(tenant, &outdated));
        }
        verified.state = if !verified.differences.is_empty() {
            DriftState::Drifted
        } else if tenant.track.is_some() == track.is_some()
            && sets().all(|set| found.is_up_to_date(set))
        {
            DriftState::Clean
        } else {
            DriftState::Behind
        };
        if !found.has_history() {
            verified.problem = Some(Failure {
                step: "verify".to_owned(),
                message: "the database has no migration history".to_owned(),
                remedy: Some(format!(
                    "`tenantry migrate baseline {}` adopts a schema that is there",
                    tenant.slug
                )),
            });
        }
        self.record(tenant, verified, verified.differences.len()).await
    }

    /// The files of a tenant's track. Only where its database has some does it matter that they can be used.
    fn track_of(
        &self,
        tenant: &Tenant,
        found: &Reading,
    ) -> Result<Option<MigrationSet>, SchemaError> {
        let Some(name) = tenant.track_name() else { return Ok(None) };
        match self.set.track(name.as_str()) {
            Err(_) if found.track().is_none() => Ok(None),
            files => files.map(Some),
        }
    }

    async fn record(
        &self,
        tenant: &Tenant,
        verified: &Verified,
        differences: usize,
    ) -> Result<(), Failure> {
        let (version, fingerprint) = (verified.version, verified.fingerprint.as_str());
        let check = SchemaCheck { tenant_id: tenant.id, version, fingerprint, differences };
        let recorded = self.environment.catalog.record_schema_check(check).await;
        recorded.map_err(|error| failure(&error.into()))
    }
}

fn cell<K: Eq + Hash, T>(known: &Known<K, T>, key: K) -> Arc<OnceCell<Result<T, Failure>>> {
    let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
    Arc::clone(known.entry(key).or_default())
}

/// Makes sure that the files can have left what the database says of itself.
fn check_history(
    tenant: &Tenant,
    found: &Reading,
    set: &MigrationSet,
    track: Option<&MigrationSet>,
) -> Result<(), SchemaError> {
    found.check_history(set)?;
    match (track, found.track()) {
        (Some(track), _) => found.check_history(track),
        (None, Some(held)) => {
            let wanted = tenant.track_name().map(ToString::to_string);
            Err(SchemaError::OtherTrack { held: held.to_owned(), wanted })
        }
        (None, None) => Ok(()),
    }
}

/// Reads a tenant's database.
async fn read(environment: &Environment, tenant: &Tenant) -> Result<Reading, StepError> {
    let server = environment.server(tenant.server_id).await?;
    Ok(read_schema(&server, &tenant.database, PATIENCE).await?)
}

/// What these files make, and those of a track after them, on one server. Goes on to its end even if the caller stops
/// waiting, so that no build is left.
async fn make_reference(
    environment: &Environment,
    server_id: Uuid,
    files: &MigrationSet,
    track: Option<&MigrationSet>,
) -> Result<Schema, StepError> {
    let (environment, files, track) = (environment.clone(), files.clone(), track.cloned());
    let made = tokio::spawn(async move {
        build_reference(&environment, server_id, &files, track.as_ref()).await
    });
    made.await.unwrap_or_else(|ended| Err(StepError::new(ended, true, None)))
}

/// One at a time on each server, as they share a name.
async fn build_reference(
    environment: &Environment,
    server_id: Uuid,
    files: &MigrationSet,
    track: Option<&MigrationSet>,
) -> Result<Schema, StepError> {
    let chore = format!("reference on {server_id}");
    let chore = environment.catalog.await_chore(&chore).await?;
    let server = environment.server(server_id).await?;
    let templates = environment.catalog.templates(server_id).await?;
    let digest = environment.template_digest(files);
    let template = templates
        .iter()
        .find(|template| template.ready && template.digest == digest)
        .map(|template| DatabaseName::template(&template.digest));
    let timeouts = environment.limits.migration_timeouts;
    let (build, template) = (reference_build(), template.as_ref());
    let schema = reference_schema(&server, &build, template, (files, track), timeouts).await;
    chore.end().await;
    Ok(schema?)
}

/// The build in which versions are looked at. A crash may leave it; the next look drops it.
pub(crate) fn reference_build() -> DatabaseName {
    DatabaseName::build(REFERENCE)
}

fn no_version(version: i64) -> StepError {
    StepError::fail(
        format!("there is no migration file of version {version}"),
        "choose a version that the directory has (TENANTRY_TENANT_MIGRATIONS_DIR)",
    )
}

/// What a file made in an older form cannot be told from what somebody changed by hand.
fn unknown(tenant: &Tenant, outdated: &[&str]) -> Failure {
    let files = outdated.join(", ");
    Failure {
        step: "verify".to_owned(),
        message: format!(
            "it has {files} in an older form, and what that made is not known any more"
        ),
        remedy: Some(format!(
            "`tenantry migrate up --tenant {}` brings it to the present form; then verify again",
            tenant.slug
        )),
    }
}

fn failure(error: &StepError) -> Failure {
    error.to_failure("verify")
}
