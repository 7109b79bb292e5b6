//! From the settings to how each listener meets its clients.

use crate::api::serving::{Edge, Tls, TlsError, TlsFiles};
use crate::config::EdgeSettings;

/// The data plane's: clients need no certificate.
pub(super) fn data_plane(settings: &EdgeSettings) -> Result<Edge, TlsError> {
    edge(settings, false)
}

/// The admin API's: clients need one where the settings name a CA.
pub(super) fn admin_api(settings: &EdgeSettings) -> Result<Edge, TlsError> {
    edge(settings, true)
}

fn edge(settings: &EdgeSettings, admin: bool) -> Result<Edge, TlsError> {
    let files = settings.tls.clone().map(|pair| TlsFiles {
        certificate: pair.certificate,
        key: pair.key,
        client_ca: settings.admin_client_ca.clone().filter(|_| admin),
    });
    let tls = files.map(Tls::load).transpose()?;
    Ok(Edge { tls, proxies: settings.trusted_proxies.clone() })
}
