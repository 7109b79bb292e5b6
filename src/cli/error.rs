//! [`Error`]: why a command did not run to its end, what to do about it, and with which status the
//! process ends.

use std::io::{self, ErrorKind};
use std::process::ExitCode;

use thiserror::Error;
use tokio_postgres::error::SqlState;
use uuid::Uuid;

use super::OutputFormat;
use super::report::Complaint;
use crate::api::serving::TlsError;
use crate::catalog::CatalogError;
use crate::catalog::operations::{Failure, OperationRecord};
use crate::config::ConfigError;
use crate::domains::{DomainsError, record_name, record_text};
use crate::embedded::EmbeddedError;
use crate::operations::removal::RemovalError;
use crate::operations::rollouts::RolloutError;
use crate::operations::tracks::TrackError;
use crate::operations::{AdoptionError, StepError, chain};
use crate::tenant::TenantSlug;

/// What a command returns.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a command did not run to its end.
#[derive(Debug, Error)]
pub enum Error {
    /// The settings cannot be used.
    #[error(transparent)]
    Settings(#[from] ConfigError),
    /// The certificate that the settings name cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The catalog said no.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// A server, the store or the migration files said no.
    #[error(transparent)]
    Step(#[from] StepError),
    /// An operation did not succeed.
    #[error("{kind} of `{slug}` failed at {}: {}", failure.step, failure.message)]
    Operation {
        /// Its id.
        id: Uuid,
        /// What it was to do.
        kind: String,
        /// Its tenant.
        slug: TenantSlug,
        /// Why it failed.
        failure: Box<Failure>,
    },
    /// A guard refused.
    #[error("{message}")]
    Refused {
        /// What was refused.
        message: String,
        /// How to go on.
        help: String,
    },
    /// What was asked for makes no sense.
    #[error("{message}")]
    Usage {
        /// What is wrong.
        message: String,
        /// What would be right.
        help: String,
    },
    /// Something of this machine's failed.
    #[error("{what}")]
    Failed {
        /// What could not be done.
        what: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// An embedded server did not start or stop.
    #[error(transparent)]
    Embedded(#[from] EmbeddedError),
    /// What a command that tells a story of its own ran into.
    #[error(transparent)]
    Other(#[from] anyhow::Error),
    /// Ctrl-C while an operation was under way.
    #[error("interrupted")]
    Interrupted {
        /// How to go on.
        help: String,
    },
    /// Nobody reads stdout any more, as after `| head`.
    #[error("stdout is closed")]
    ClosedPipe,
}

impl Error {
    /// Something of this machine's failed.
    pub fn failed(what: impl Into<String>, source: io::Error) -> Self {
        Self::Failed { what: what.into(), source }
    }

    /// A guard refused.
    pub fn refused(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self::Refused { message: message.into(), help: help.into() }
    }

    /// What was asked for makes no sense.
    pub fn usage(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self::Usage { message: message.into(), help: help.into() }
    }

    /// The failure that an operation ended with.
    pub(super) fn of_operation(record: &OperationRecord, slug: &TenantSlug) -> Self {
        let unknown = || Failure {
            step: "an unknown step".to_owned(),
            message: "the operation was cancelled".to_owned(),
            remedy: None,
        };
        Self::Operation {
            id: record.id,
            kind: record.kind.clone(),
            slug: slug.clone(),
            failure: Box::new(record.error.clone().unwrap_or_else(unknown)),
        }
    }

    /// Prints the error and what to do about it, to stderr: for people, or as one line of JSON. Returns the status to
    /// end with.
    #[must_use]
    pub fn report(&self, output: OutputFormat) -> ExitCode {
        if !matches!(self, Self::ClosedPipe) {
            let complaint =
                Complaint { error: chain(self), detail: self.help(), code: self.code() };
            complaint.print(output);
        }
        ExitCode::from(self.status())
    }

    /// What to do about it.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        match self {
            Self::Settings(error) => Some(error.remedy()),
            Self::Tls(error) => Some(error.remedy().to_owned()),
            Self::Catalog(error) => help_for_catalog(error),
            Self::Step(error) => help_for_step(error),
            Self::Other(error) => help_for_other(error),
            Self::Operation { id, failure, .. } => {
                let again = format!("`tenantry operation retry {id}` goes on where it stopped");
                Some(match &failure.remedy {
                    Some(remedy) => format!("{remedy}; {again}"),
                    None => again,
                })
            }
            Self::Refused { help, .. } | Self::Usage { help, .. } | Self::Interrupted { help } => {
                Some(help.clone())
            }
            Self::Failed { source, .. } => help_for_io(source).map(str::to_owned),
            Self::Embedded(_) | Self::ClosedPipe => None,
        }
    }

    /// The stable name that the admin API has for it, too.
    fn code(&self) -> Option<&'static str> {
        let Self::Catalog(error) = self else { return None };
        match error {
            CatalogError::Exists { .. } => Some("exists"),
            CatalogError::Missing { .. } => Some("not_found"),
            CatalogError::Conflict(_) => Some("conflict"),
            CatalogError::Settings(_) => Some("invalid_settings"),
            CatalogError::Version(_) => Some("catalog_version"),
            CatalogError::Unreachable(_) | CatalogError::LostLock => Some("unavailable"),
            CatalogError::Database(_)
            | CatalogError::Migration(_)
            | CatalogError::Sealed(_)
            | CatalogError::Corrupt(_) => None,
        }
    }

    fn status(&self) -> u8 {
        match self {
            Self::ClosedPipe => 0,
            Self::Settings(_)
            | Self::Tls(_)
            | Self::Usage { .. }
            | Self::Catalog(CatalogError::Settings(_)) => 2,
            Self::Refused { .. } | Self::Catalog(CatalogError::Conflict(_)) => 4,
            Self::Interrupted { .. } => 130,
            Self::Catalog(_)
            | Self::Step(_)
            | Self::Operation { .. }
            | Self::Failed { .. }
            | Self::Embedded(_)
            | Self::Other(_) => 1,
        }
    }
}

impl From<tenantry_provisioning::Error> for Error {
    fn from(error: tenantry_provisioning::Error) -> Self {
        Self::Step(error.into())
    }
}

impl From<RemovalError> for Error {
    fn from(error: RemovalError) -> Self {
        match error {
            RemovalError::Catalog(error) => Self::Catalog(error),
            RemovalError::Step(error) => Self::Step(error),
        }
    }
}

impl From<TrackError> for Error {
    fn from(error: TrackError) -> Self {
        match error {
            TrackError::Catalog(error) => Self::Catalog(error),
            TrackError::Step(error) => Self::Step(error),
        }
    }
}

impl From<AdoptionError> for Error {
    fn from(error: AdoptionError) -> Self {
        match error {
            AdoptionError::Refused(_) => {
                Self::refused(error.to_string(), "add --dry-run to see what to do about each")
            }
            AdoptionError::Catalog(error) => Self::Catalog(error),
            AdoptionError::Step(error) => Self::Step(error),
        }
    }
}

impl From<RolloutError> for Error {
    fn from(error: RolloutError) -> Self {
        match error {
            RolloutError::Plan(error) => {
                Self::usage(error.to_string(), "`tenantry migrate up --help` has examples")
            }
            RolloutError::Catalog(error) => Self::Catalog(error),
        }
    }
}

impl From<DomainsError> for Error {
    fn from(error: DomainsError) -> Self {
        let message = error.to_string();
        match error {
            DomainsError::Catalog(error) => Self::Catalog(error),
            DomainsError::Unsuitable { .. } => {
                Self::refused(message, "give a domain that the tenant has for itself")
            }
            DomainsError::Unproven { domain, .. } => {
                let (name, text) = (record_name(&domain.domain), record_text(&domain));
                let help = format!(
                    "publish the TXT record `{name}` with the text `{text}`; a new record takes a \
                     while to be seen"
                );
                Self::refused(message, help)
            }
            DomainsError::Unanswered { source, .. } => {
                Self::failed(message, io::Error::other(source))
            }
        }
    }
}

impl From<tenantry_provisioning::SchemaError> for Error {
    fn from(error: tenantry_provisioning::SchemaError) -> Self {
        Self::Step(error.into())
    }
}

impl From<tenantry_backup::StoreError> for Error {
    fn from(error: tenantry_backup::StoreError) -> Self {
        Self::Step(error.into())
    }
}

fn help_for_io(error: &io::Error) -> Option<&'static str> {
    match error.kind() {
        ErrorKind::AddrInUse => {
            Some("stop the process that listens there, or choose another address")
        }
        ErrorKind::AddrNotAvailable => Some("choose an address that this machine has"),
        ErrorKind::PermissionDenied => Some("run it as a user who may do that"),
        ErrorKind::NotFound => Some("check the path"),
        _ => None,
    }
}

fn help_for_step(error: &StepError) -> Option<String> {
    match error {
        StepError::Retry(_, remedy) | StepError::Fail(_, remedy) => remedy.clone(),
        StepError::Lost => Some("try again".to_owned()),
    }
}

/// The remedy of whichever error of ours is among the causes.
fn help_for_other(error: &anyhow::Error) -> Option<String> {
    error.chain().find_map(|cause| {
        if let Some(error) = cause.downcast_ref::<CatalogError>() {
            help_for_catalog(error)
        } else if let Some(error) = cause.downcast_ref::<StepError>() {
            help_for_step(error)
        } else {
            let error = cause.downcast_ref::<tenantry_provisioning::Error>()?;
            error.remedy().map(|remedy| remedy.to_string())
        }
    })
}

/// The catalog's errors that do not say themselves what to do.
fn help_for_catalog(error: &CatalogError) -> Option<String> {
    Some(match error {
        CatalogError::Unreachable(error)
            if error.sql_state() == Some(&SqlState::INVALID_CATALOG_NAME) =>
        {
            "`tenantry init` creates it, unless its name in TENANTRY_CATALOG_URL is wrong"
                .to_owned()
        }
        CatalogError::Unreachable(error) => match error.remedy() {
            Some(remedy) => format!("{remedy} (TENANTRY_CATALOG_URL)"),
            None => "check TENANTRY_CATALOG_URL, and that its server runs".to_owned(),
        },
        CatalogError::Missing { what: "suitable backup of tenant", name } => {
            format!(
                "`tenantry backup list {name}` shows what there is; `tenantry backup run {name}` takes one"
            )
        }
        CatalogError::Missing { what: "server", name } if name == "any" => {
            "add one with `tenantry server add NAME --url URL`".to_owned()
        }
        CatalogError::Missing {
            what: what @ ("tenant" | "server" | "backup" | "operation" | "token" | "registration"),
            ..
        } => {
            format!("`tenantry {what} list` shows what there is")
        }
        CatalogError::Exists { what: what @ ("tenant" | "server"), name } => {
            format!("choose another name, or see `tenantry {what} show {name}`")
        }
        CatalogError::Exists { what: "token", .. } => {
            "choose another name; `tenantry token list` shows those in use".to_owned()
        }
        CatalogError::Missing { what: "finding", .. } => {
            "`tenantry tenant audit` shows what it finds, each with its id".to_owned()
        }
        CatalogError::Missing { what: "rollout", .. } => {
            "`tenantry migrate show` tells of the newest".to_owned()
        }
        CatalogError::Missing { what: "alias", .. } => {
            "`tenantry tenant alias list SLUG` shows what there is; one that the tenant is being renamed to stays"
                .to_owned()
        }
        CatalogError::Missing { what: "domain", .. } => {
            "ask for it first: `tenantry tenant domain add`".to_owned()
        }
        CatalogError::Exists { what: "verified domain", .. } => {
            "another tenant holds it, verified; that tenant must give it up first".to_owned()
        }
        CatalogError::Missing { what: "value of the setting", name } => {
            format!("`tenantry tenant settings set SLUG {name}=VALUE` gives it one")
        }
        CatalogError::Settings(_) => {
            "`tenantry tenant settings set --help` and `tenantry tier set --help` show what there is; \
             nothing was changed"
                .to_owned()
        }
        CatalogError::LostLock => "try again".to_owned(),
        CatalogError::Migration(_) => {
            "see that nobody else changed the catalog's schema, then run `tenantry init` again"
                .to_owned()
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::VersionError;

    #[test]
    fn the_status_tells_refused_from_failed_from_misused() {
        let missing = CatalogError::Missing { what: "tenant", name: "acme".to_owned() };
        let cases = [
            (Error::refused("no", "say yes"), 4),
            (CatalogError::Conflict("busy".to_owned()).into(), 4),
            (Error::usage("what?", "this"), 2),
            (missing.into(), 1),
            (CatalogError::Version(VersionError::Absent).into(), 1),
            (Error::ClosedPipe, 0),
        ];
        for (error, status) in cases {
            assert_eq!(error.status(), status, "{error}");
        }
    }

    #[test]
    fn what_is_missing_comes_with_how_to_look() {
        let error = Error::from(CatalogError::Missing { what: "tenant", name: "acme".to_owned() });

        assert_eq!(error.to_string(), "there is no tenant `acme`");
        assert_eq!(error.help().unwrap(), "`tenantry tenant list` shows what there is");
    }
}
