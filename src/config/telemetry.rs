//! Settings of what is measured and written down.

use super::error::Problem;
use super::reader::Reader;

/// Reads whether histograms are kept. The audit log has no switch: who was refused, and who changed what, must stand
/// somewhere.
pub(super) fn read(r: &mut Reader) -> bool {
    if r.get("enable_audit_logging") == Some(false) {
        r.problem(Problem::Contradiction {
            message: "TENANTRY_ENABLE_AUDIT_LOGGING is false, and the audit log is always written"
                .to_owned(),
            remedy: "leave it away; TENANTRY_AUDIT_RETENTION bounds how long entries are kept"
                .to_owned(),
        });
    }
    r.get("enable_advanced_metrics").unwrap_or(true)
}
