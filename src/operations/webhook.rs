//! The webhook: tells an address of the operator's what happens in rollouts and to backups, signed, at
//! least once.
//!
//! What there is to tell stands in the catalog, and so does what has been received: a restart forgets nothing,
//! and repeats at most the one message that was under way. Nothing ever waits for it. A receiver that sees a
//! number (`seq`) twice has seen the second already.
//!
//! The signature is Stripe's: `Tenantry-Signature: t=<seconds>,v1=<hex>`, an HMAC-SHA256 under the secret over
//! the seconds, a full stop and the body.

use std::time::Duration;

use aws_lc_rs::hmac;
use jiff::Timestamp;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, redirect};
use secrecy::{ExposeSecret as _, SecretString};
use thiserror::Error;
use tokio::time::timeout;

use crate::catalog::changes::{Change, Changes};
use crate::catalog::messages::Message;
use crate::catalog::{Catalog, CatalogError};
use crate::operations::Environment;

/// How long the receiver may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often to look for what is to be tried again.
const POLL: Duration = Duration::from_secs(2);
/// Messages of one round.
const ROUND: i64 = 100;
/// The longest pause between two tries of one message.
const MAX_DELAY_SECS: f64 = 600.0;
/// The header of the signature.
const SIGNATURE: &str = "Tenantry-Signature";

/// Where to tell it, and the secret that proves who tells it.
#[derive(Clone, Debug)]
pub struct Webhook {
    url: String,
    secret: SecretString,
    client: Client,
}

/// Why a message was not received.
#[derive(Debug, Error)]
enum DeliveryError {
    /// The receiver refused it.
    #[error("the webhook answered {0}")]
    Refused(reqwest::StatusCode),
    /// There was no answer.
    #[error("the webhook does not answer")]
    Unanswered(#[source] reqwest::Error),
}

impl Webhook {
    /// A webhook at `url`, whose messages are signed with `secret`.
    #[must_use]
    pub fn new(url: String, secret: SecretString) -> Self {
        let client = Client::builder()
            .timeout(PATIENCE)
            .redirect(redirect::Policy::none())
            .user_agent("tenantry")
            .build()
            .expect("the options are constants");
        Self { url, secret, client }
    }

    async fn send(&self, message: &Message) -> Result<(), DeliveryError> {
        let body = serde_json::to_string(message).expect("events are plain data");
        let signature = sign(&self.secret, Timestamp::now().as_second(), &body);
        let answer = self
            .client
            .post(&self.url)
            .header(CONTENT_TYPE, "application/json")
            .header(SIGNATURE, signature)
            .body(body)
            .send()
            .await
            .map_err(|error| DeliveryError::Unanswered(error.without_url()))?;
        if answer.status().is_success() {
            Ok(())
        } else {
            Err(DeliveryError::Refused(answer.status()))
        }
    }
}

/// Tells what there is to tell, for ever.
pub(super) async fn run(environment: &Environment, changes: &Changes) {
    let mut news = changes.subscribe();
    loop {
        if let Err(error) = tell(environment).await {
            tracing::debug!(error = %crate::operations::chain(&error), "the webhook's messages cannot be read");
        }
        let heard =
            async { while !matches!(news.next().await, Change::Rollout(_) | Change::Unknown) {} };
        _ = timeout(POLL, heard).await;
    }
}

/// Tells once what is due, unless another replica is at it.
pub async fn tell(environment: &Environment) -> Result<(), CatalogError> {
    let (Some(webhook), catalog) = (&environment.webhook, &environment.catalog) else {
        return Ok(());
    };
    if !catalog.messages_due(1).await?.is_empty() {
        catalog.chore("webhook", deliver(webhook, catalog)).await?;
    }
    Ok(())
}

async fn deliver(webhook: &Webhook, catalog: &Catalog) -> Result<(), CatalogError> {
    for message in catalog.messages_due(ROUND).await? {
        match webhook.send(&message).await {
            Ok(()) => catalog.message_delivered(message.seq()).await?,
            Err(error) => {
                let delay = message.attempts().clamp(0, 10);
                let delay = f64::from(delay).exp2().min(MAX_DELAY_SECS);
                tracing::warn!(
                    seq = message.seq(), event = message.kind(), delay,
                    error = %crate::operations::chain(&error), "the webhook was not told; it will be tried again"
                );
                catalog.message_postponed(message.seq(), delay).await?;
            }
        }
    }
    Ok(())
}

/// The header's value for a body that is sent at a moment.
fn sign(secret: &SecretString, seconds: i64, body: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose_secret().as_bytes());
    let tag = hmac::sign(&key, format!("{seconds}.{body}").as_bytes());
    format!("t={seconds},v1={}", hex::encode(tag))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reckoned with `printf '1700000000.{}' | openssl dgst -sha256 -hmac secret`.
    #[test]
    fn signatures_are_what_openssl_makes() {
        let signature = sign(&"secret".to_owned().into(), 1_700_000_000, "{}");

        assert_eq!(
            signature,
            "t=1700000000,v1=b8569b78799ff9e3cbff0fc2d63a33a2b57f3282abd07c37ae5e8e7d79a5f163"
        );
    }
}
