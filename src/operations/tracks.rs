//! Tracks: the migration files that a tenant gets beyond those that every tenant gets.
//!
//! A tenant is in one track or in none, and its row says which. The files lie in `tracks/<name>` of the directory with
//! the common ones, and run after all of those, which know nothing of them. So templates and spares have the common
//! schema alone, and a new tenant of a track gets its files once the database is its own. What a database has of a
//! track it says itself. A tenant leaves its track only while that is nothing: nobody can tell how to undo files.
//!
//! A ceiling, of a freeze or of a rollout that stops at a version, is one of common files. Where it holds one of those
//! back, the files of tracks wait too, as repeatable files do: they are written for what the newest common files make.
//!
//! Must never: keep a tenant from being made, migrated or moved for the sake of a track that it is not in.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use tenantry_provisioning::{
    Connection, DatabaseName, MigrationSet, SchemaError, Server, TrackVersion, apply, track_version,
};
use thiserror::Error;

use super::{Environment, StepContext, StepError};
use crate::catalog::CatalogError;
use crate::catalog::rollouts::{TrackCount, TrackStanding};
use crate::tenant::{Label, SchemaState, Tenant, TenantSlug, TenantTrack};

/// Why a tenant was not put into a track.
#[derive(Debug, Error)]
pub enum TrackError {
    /// The catalog said no.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// Its server said no.
    #[error(transparent)]
    Step(#[from] StepError),
}

impl Environment {
    /// Puts a tenant into a track, or into none. Its next migration brings it there. Refused once its database has
    /// files of another track.
    pub async fn set_track(
        &self,
        slug: &TenantSlug,
        track: Option<&Label>,
        by: &str,
    ) -> Result<Tenant, TrackError> {
        if let Some(track) = track {
            self.require_track(track)?;
        }
        let tenant = self.settled(slug).await?;
        if tenant.track_name() == track {
            return Ok(tenant);
        }
        let Some(hold) = self.catalog.try_hold(tenant.id).await? else {
            return Err(CatalogError::Conflict(format!(
                "an operation of tenant {slug} is under way; see `tenantry operation list --tenant-slug {slug}`, and \
                 try again when it has ended"
            ))
            .into());
        };
        let changed = self.change_track(&tenant, track, by).await;
        hold.end().await;
        changed?;
        Ok(self.catalog.tenant_by_id(tenant.id).await?)
    }

    async fn change_track(
        &self,
        tenant: &Tenant,
        track: Option<&Label>,
        by: &str,
    ) -> Result<(), TrackError> {
        let server = self.server(tenant.server_id).await?;
        let held = held(&server, &tenant.database).await?;
        if let Some(TrackVersion { track: held, .. }) = &held
            && track.map(Label::as_str) != Some(held)
        {
            let slug = &tenant.slug;
            return Err(CatalogError::Conflict(format!(
                "the database of tenant {slug} has files of track {held} already, and nothing takes these back: it \
                 stays in that track (`tenantry tenant set-track {slug} {held}`)"
            ))
            .into());
        }
        let track = track.map(|name| TenantTrack {
            version: held.map_or(0, |held| held.version),
            ..TenantTrack::begin(name.clone())
        });
        Ok(self.catalog.set_track(tenant, track.as_ref(), by).await?)
    }

    /// Refuses a track of which there are no files here, or none that can be used.
    pub(super) fn require_track(&self, track: &Label) -> Result<(), CatalogError> {
        match self.migrations().track(track.as_str()) {
            Ok(_) => Ok(()),
            Err(error) => {
                let remedy = error.remedy().unwrap_or_default();
                Err(CatalogError::Conflict(format!("{error}; {remedy}")))
            }
        }
    }
}

/// Where tenants of each track should be, as the catalog compares it. Tracks that cannot be used are left out.
pub(super) fn targets(set: &MigrationSet) -> Value {
    let usable = set.tracks().filter_map(|(name, files)| Some((name, files.ok()?)));
    let target = |(name, files): (&str, &MigrationSet)| {
        let (version, repeatables) = (files.target_version(), files.repeatables_digest());
        (name.to_owned(), json!({ "version": version, "repeatables": repeatables }))
    };
    Value::Object(usable.map(target).collect::<Map<_, _>>())
}

/// The same, where no ceiling holds the files of tracks back.
pub(super) fn targets_of(set: &MigrationSet) -> Option<Value> {
    set.is_whole().then(|| targets(set))
}

/// How the tenants of each track stand: of those that there are files of, and of those that somebody is in.
pub(super) fn standings(set: &MigrationSet, counts: &[TrackCount]) -> Vec<TrackStanding> {
    let mut names: BTreeSet<&str> = set.tracks().map(|(name, _)| name).collect();
    names.extend(counts.iter().map(|count| count.track.as_str()));
    let standing = |track: &str| {
        let files = set.track(track);
        TrackStanding {
            track: track.to_owned(),
            target: files.as_ref().ok().map(MigrationSet::target_version),
            problem: files.err().map(|error| error.to_string()),
            counts: counts.iter().filter(|count| count.track == track).cloned().collect(),
        }
    };
    names.into_iter().map(standing).collect()
}

/// Whether a tenant lacks files of its track, as far as the catalog knows. One whose track cannot be used does: it is
/// to be told, and not to be passed over.
pub(super) fn is_due(tenant: &Tenant, set: &MigrationSet) -> bool {
    tenant.track.as_ref().is_some_and(|track| lacks(track, set).unwrap_or(true))
}

/// Whether whoever has so much of a track lacks files of it; `None` where these cannot be used. Where common files are
/// held back, nobody lacks any.
pub(super) fn lacks(track: &TenantTrack, set: &MigrationSet) -> Option<bool> {
    if !set.is_whole() {
        return Some(false);
    }
    let target = set.track(track.name.as_str()).ok()?.target_version();
    let is_outdated = lacks_repeatables(track, set);
    Some(track.version < target || (track.version == target && is_outdated))
}

/// Whether whoever has so much of a track was brought to other repeatable files than these.
pub(super) fn lacks_repeatables(track: &TenantTrack, set: &MigrationSet) -> bool {
    let files = set.track(track.name.as_str());
    files.is_ok_and(|files| files.repeatables_digest() != Some(&track.repeatables_digest))
}

/// Brings a database to the common files, and then to those of a track.
pub(super) async fn bring(
    environment: &Environment,
    server: &Server,
    database: &DatabaseName,
    set: &MigrationSet,
    track: Option<&TenantTrack>,
) -> Result<SchemaState, StepError> {
    let version = run(environment, server, database, set).await?;
    let repeatables = set.repeatables_digest().map(str::to_owned);
    let track = match track {
        None => None,
        Some(track) if set.is_whole() => {
            let files = set.track(track.name.as_str())?;
            Some(TenantTrack {
                name: track.name.clone(),
                version: run(environment, server, database, &files).await?,
                repeatables_digest: files.repeatables_digest().unwrap_or_default().to_owned(),
            })
        }
        Some(track) => Some(found(server, database, track).await?),
    };
    Ok(SchemaState { version, repeatables, track })
}

/// Applies what a database lacks of one set, and returns the version that it is at then.
async fn run(
    environment: &Environment,
    server: &Server,
    database: &DatabaseName,
    set: &MigrationSet,
) -> Result<i64, StepError> {
    let applied = apply(server, database, set, environment.limits.migration_timeouts).await?;
    for file in &applied.files {
        let (version, name) = (file.version, &file.name);
        tracing::info!(track = set.of_track(), version, name, elapsed = ?file.elapsed, "migration applied");
    }
    Ok(applied.to)
}

/// How far a database is with the files of a track, by its own word.
pub(super) async fn found(
    server: &Server,
    database: &DatabaseName,
    track: &TenantTrack,
) -> Result<TenantTrack, StepError> {
    match held(server, database).await? {
        None => Ok(TenantTrack::begin(track.name.clone())),
        Some(held) if held.track == track.name.as_str() => {
            Ok(TenantTrack { version: held.version, ..track.clone() })
        }
        Some(TrackVersion { track: held, .. }) => {
            let wanted = Some(track.name.to_string());
            Err(SchemaError::OtherTrack { held, wanted }.into())
        }
    }
}

/// In words, how far a database is behind what is known of it.
pub(super) async fn shortfall(
    session: &Connection,
    tenant: &Tenant,
) -> Result<Option<String>, StepError> {
    let Some(track) = &tenant.track else { return Ok(None) };
    let found = track_version(session).await?.map_or(0, |found| found.version);
    let what = || format!("its database is at version {found} of track {}", track.name);
    Ok((found < track.version).then(what))
}

/// The track of a tenant whose database comes from elsewhere: as its row says, and where that says none, as the
/// database does. A catalog that was lost and is rebuilt knows no better.
pub(super) async fn of_arrival(
    cx: &StepContext<'_>,
    server: &Server,
    database: &DatabaseName,
) -> Result<Option<TenantTrack>, StepError> {
    if cx.tenant.track.is_some() {
        return Ok(cx.tenant.track.clone());
    }
    let Some(TrackVersion { track, version }) = held(server, database).await? else {
        return Ok(None);
    };
    let name = Label::parse(&track).map_err(|error| SchemaError::History(error.to_string()))?;
    Ok(Some(TenantTrack { version, ..TenantTrack::begin(name) }))
}

async fn held(server: &Server, database: &DatabaseName) -> Result<Option<TrackVersion>, StepError> {
    let session = server.connect(database).await?;
    Ok(track_version(&session).await?)
}
