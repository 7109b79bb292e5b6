//! Settings of the webhook.

use secrecy::SecretString;

use super::error::Problem;
use super::reader::Reader;
use super::value::Endpoint;
use crate::operations::webhook::Webhook;

/// Reads whom to tell what happens. Nobody is told without a signature.
pub(super) fn read(r: &mut Reader) -> Option<Webhook> {
    let url = r.get("webhook_url").map(|Endpoint(url)| url);
    let secret: Option<SecretString> = r.get("webhook_secret");
    if r.is_set("webhook_url") != r.is_set("webhook_secret") {
        r.problem(Problem::Contradiction {
            message: "of TENANTRY_WEBHOOK_URL and TENANTRY_WEBHOOK_SECRET only one is set"
                .to_owned(),
            remedy: "set both, or neither to tell nobody; `openssl rand -hex 32` makes a secret"
                .to_owned(),
        });
    }
    url.zip(secret).map(|(url, secret)| Webhook::new(url, secret))
}
