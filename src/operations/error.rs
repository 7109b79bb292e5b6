//! [`StepError`]: why a step did not finish, and whether trying again can help.

use std::error::Error as StdError;

use thiserror::Error;

use crate::catalog::CatalogError;
use crate::catalog::operations::Failure;
use crate::embedded::EmbeddedError;

/// Why a step did not finish. The step decides whether trying again can help, not the worker.
#[derive(Debug, Error)]
pub enum StepError {
    /// Something that may pass: a server that is restarting, a lock that is held.
    #[error("{}", chain(.0.as_ref()))]
    Retry(#[source] Box<dyn StdError + Send + Sync>, Option<String>),
    /// Something that somebody must see to first.
    #[error("{}", chain(.0.as_ref()))]
    Fail(#[source] Box<dyn StdError + Send + Sync>, Option<String>),
    /// Another worker has the operation now; nothing more may be written.
    #[error("another worker has taken the operation over")]
    Lost,
}

impl StepError {
    /// A failure that somebody must see to, in plain words.
    pub(super) fn fail(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Fail(message.into().into(), Some(remedy.into()))
    }

    /// The error as it is kept on the operation.
    #[must_use]
    pub fn to_failure(&self, step: &str) -> Failure {
        let remedy = match self {
            Self::Retry(_, remedy) | Self::Fail(_, remedy) => remedy.clone(),
            Self::Lost => None,
        };
        Failure { step: step.to_owned(), message: self.to_string(), remedy }
    }

    pub(super) fn new(
        error: impl StdError + Send + Sync + 'static,
        transient: bool,
        remedy: Option<String>,
    ) -> Self {
        if transient {
            Self::Retry(Box::new(error), remedy)
        } else {
            Self::Fail(Box::new(error), remedy)
        }
    }
}

impl From<CatalogError> for StepError {
    fn from(error: CatalogError) -> Self {
        match error {
            CatalogError::LostLock => Self::Lost,
            other => {
                let transient = other.is_transient();
                Self::new(other, transient, None)
            }
        }
    }
}

impl From<tenantry_provisioning::Error> for StepError {
    fn from(error: tenantry_provisioning::Error) -> Self {
        let (transient, remedy) = (error.is_transient(), error.remedy().map(Into::into));
        Self::new(error, transient, remedy)
    }
}

impl From<tenantry_provisioning::SchemaError> for StepError {
    fn from(error: tenantry_provisioning::SchemaError) -> Self {
        let (transient, remedy) = (error.is_transient(), error.remedy().map(Into::into));
        Self::new(error, transient, remedy)
    }
}

impl From<tenantry_provisioning::MaskError> for StepError {
    fn from(error: tenantry_provisioning::MaskError) -> Self {
        let (transient, remedy) = (error.is_transient(), error.remedy().map(Into::into));
        Self::new(error, transient, remedy)
    }
}

impl From<tenantry_backup::StoreError> for StepError {
    fn from(error: tenantry_backup::StoreError) -> Self {
        let (transient, remedy) = (error.is_transient(), error.remedy().to_owned());
        Self::new(error, transient, Some(remedy))
    }
}

impl From<tenantry_backup::DumpError> for StepError {
    fn from(error: tenantry_backup::DumpError) -> Self {
        let (transient, remedy) = (error.is_transient(), error.remedy().to_owned());
        Self::new(error, transient, Some(remedy))
    }
}

impl From<tenantry_backup::RestoreError> for StepError {
    fn from(error: tenantry_backup::RestoreError) -> Self {
        let (transient, remedy) = (error.is_transient(), error.remedy().to_owned());
        Self::new(error, transient, Some(remedy))
    }
}

impl From<EmbeddedError> for StepError {
    fn from(error: EmbeddedError) -> Self {
        // Its text says what to do.
        let transient = matches!(error, EmbeddedError::InUse { .. });
        Self::new(error, transient, None)
    }
}

/// An error with its causes, each once.
#[must_use]
pub fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    text
}
