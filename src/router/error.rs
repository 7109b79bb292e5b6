//! [`RouterError`]: why there is no connection.

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use super::pool::CheckoutError;
use super::{ConnectError, TenantRouter};
use crate::catalog::CatalogError;
use crate::tenant::{TenantSlug, TenantState};

/// Why there is no connection.
#[derive(Clone, Debug, Error)]
pub enum RouterError {
    /// No living tenant has this slug.
    #[error("there is no tenant `{0}`")]
    UnknownTenant(TenantSlug),
    /// The tenant exists but is not served.
    #[error("tenant `{slug}` is {state}")]
    NotServed {
        /// The tenant.
        slug: TenantSlug,
        /// Its state.
        state: TenantState,
    },
    /// A cutover took longer than the request could wait.
    #[error("tenant `{0}` is being moved to another database; try again in a moment")]
    Held(TenantSlug),
    /// Every connection of the tenant, or of its server, stayed in use for the whole wait.
    #[error("all connections that tenant `{0}` may use are in use")]
    Busy(TenantSlug),
    /// The tenant's rate is used up, and the request's turn would come after its deadline.
    #[error("tenant `{slug}` runs as many queries a second as it may; try again in {} s", .retry_after.as_secs() + 1)]
    RateLimited {
        /// The tenant.
        slug: TenantSlug,
        /// How long its turn would have taken to come.
        retry_after: Duration,
    },
    /// The database says that it belongs to another tenant or to another time.
    #[error("the database that was reached is not the live database of tenant `{0}`")]
    WrongDatabase(TenantSlug),
    /// The slug is now another tenant's than when a scope was made.
    #[error(
        "tenant `{0}` is another one than the work was meant for, whose tenant is deleted; drop the work"
    )]
    AnotherTenant(TenantSlug),
    /// The tenant's server refused or could not be reached.
    #[error("the database of tenant `{slug}` cannot be reached")]
    Unreachable {
        /// The tenant.
        slug: TenantSlug,
        /// What the driver said.
        #[source]
        source: Arc<ConnectError>,
    },
    /// The catalog did not answer and the tenant is not known yet.
    #[error("the catalog cannot tell where tenant `{slug}` is")]
    Catalog {
        /// The tenant.
        slug: TenantSlug,
        /// What the catalog said.
        #[source]
        source: Arc<CatalogError>,
    },
}

impl CheckoutError {
    /// Whether it can come from a route that is a moment behind the catalog.
    pub(super) fn may_be_stale(&self) -> bool {
        match self {
            Self::Busy | Self::Closed => false,
            Self::Connect(error) => error.may_be_stale(),
        }
    }
}

impl RouterError {
    /// What the application is told when a pool gave nothing.
    pub(super) fn refused(slug: &TenantSlug, error: CheckoutError) -> Self {
        match error {
            CheckoutError::Connect(ConnectError::WrongStamp) => TenantRouter::wrong_stamp(slug),
            CheckoutError::Connect(source) => {
                Self::Unreachable { slug: slug.clone(), source: Arc::new(source) }
            }
            // It changes faster than it can be followed; a moment later all is settled.
            CheckoutError::Busy | CheckoutError::Closed => Self::Busy(slug.clone()),
        }
    }
}
