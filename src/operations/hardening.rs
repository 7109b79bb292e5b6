//! Hardening tenants that are there already, and the way back. New ones come from a template that is as the setting
//! says; what is restored, copied or moved is made as it says on its way in.
//!
//! It is no operation: one transaction in the tenant's database, under which sessions of the tenant go on.

use serde_json::json;
use tenantry_provisioning::Hardening;

use super::{Environment, StepError, require_settled};
use crate::catalog::audit_log::Event;
use crate::tenant::Tenant;

impl Environment {
    /// Has a tenant see of its neighbours what this hardening allows. Returns how much changed.
    pub async fn harden(&self, tenant: &Tenant, hardening: Hardening) -> Result<usize, StepError> {
        require_settled(tenant)?;
        let server = self.server(tenant.server_id).await?;
        let (changed, action) = match hardening {
            Hardening::Strict => (server.harden(&tenant.database).await?, "tenant.hardened"),
            Hardening::Standard => (server.loosen(&tenant.database).await?, "tenant.loosened"),
        };
        if changed > 0 {
            let detail = json!({ "hardening": hardening.as_str(), "changed": changed });
            let (actor, tenant) = (self.catalog.by(), Some(&tenant.slug));
            self.catalog.record(&Event { actor, action, tenant, detail }).await?;
        }
        Ok(changed)
    }
}
