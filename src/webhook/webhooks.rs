//! The sender of events to webhooks.

use std::fmt;
use std::time::SystemTime;

use async_trait::async_trait;
use http::StatusCode;
use zeroize::Zeroizing;

use super::client::{BoxedWebhookClient, WebhookClient};
use super::error::SendErrorKind;
use super::https::HttpsClient;
use super::masters::WebhookMasters;
use super::payload::payload;
use super::request::WebhookRequest;
use super::secret::WebhookSecret;
use super::url::WebhookUrl;
use crate::events::{Attempt, DynWebhooks, Failure, Next};
use crate::store::{Delivery, SecretName, Target, WebhookTarget};

/// The settings of webhooks: [`ApiKeysBuilder::webhooks`](crate::ApiKeysBuilder::webhooks).
///
/// The worker signs each event for its [endpoint](crate::ApiKeys::endpoints), and sends it until the
/// endpoint has taken it: at once, then after 5 seconds, 5 and 30 minutes, 2, 5, 10, 14, 20 and 24
/// hours, with some chance added. An endpoint that asks for more time by `Retry-After` gets it, up to
/// a day. One that answers 410 is disabled; no other answer does that.
///
/// ```
/// use tower_api_key::webhook::{HttpsClient, WebhookMasters, Webhooks};
/// use tower_api_key::{ApiKeys, MemoryStore};
///
/// # let from_a_secret_store = [7; 32];
/// let masters = WebhookMasters::new("2026-11", &from_a_secret_store)?;
/// let webhooks = Webhooks::new(masters).client(HttpsClient::new());
/// let keys = ApiKeys::builder(MemoryStore::new()).webhooks(webhooks).build()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
#[must_use = "webhooks are sent only if ApiKeysBuilder::webhooks is given their settings"]
pub struct Webhooks {
    masters: WebhookMasters,
    client: BoxedWebhookClient,
}

impl Webhooks {
    /// Creates the settings with master secrets, and with an [`HttpsClient`]. All processes must
    /// know the same masters.
    pub fn new(masters: WebhookMasters) -> Self {
        Self {
            masters,
            client: BoxedWebhookClient::new(HttpsClient::new()),
        }
    }

    /// Sets the client that sends. Default: [`HttpsClient::new`], which connects to public addresses
    /// only.
    pub fn client(mut self, client: impl WebhookClient) -> Self {
        self.client = BoxedWebhookClient::new(client);
        self
    }

    fn secret(&self, namespace: &str, endpoint: &str, name: &SecretName) -> Option<WebhookSecret> {
        self.masters
            .secret(&name.master, namespace, endpoint, name.generation)
    }

    /// Signs an event for an endpoint.
    fn request(
        &self,
        namespace: &str,
        delivery: &Delivery,
        target: &WebhookTarget,
        now: SystemTime,
    ) -> Result<WebhookRequest, Failure> {
        let endpoint = &delivery.endpoint.id;
        let url: WebhookUrl = target
            .url
            .parse()
            .map_err(|_| Failure::new(SendErrorKind::UrlRefused.as_str()))?;
        let id = delivery.event.id.parse();
        let id = id
            .map_err(|_| Failure::new("the event has no id that can be sent").then(Next::GiveUp))?;
        // The receiver may know the current secret only: without it, nothing is sent from here.
        let secret = self.secret(namespace, endpoint, &target.secret);
        let secret = secret.ok_or_else(|| {
            Failure::new("the master secret is not known").then(Next::LeaveToOthers)
        })?;
        let body = payload(&delivery.event.event);
        let request = WebhookRequest::new(url, &id, now, body, &secret);
        let previous = target.previous.as_ref().filter(|(_, until)| now < *until);
        let previous = previous.and_then(|(name, _)| self.secret(namespace, endpoint, name));
        Ok(match previous {
            Some(previous) => request.also_signed_with(&previous),
            None => request,
        })
    }
}

#[async_trait]
impl DynWebhooks for Webhooks {
    fn check_url(&self, url: &str) -> Result<(), String> {
        let url: WebhookUrl = url.parse().map_err(|error| format!("{error}"))?;
        self.client.check(&url).map_err(|error| error.to_string())
    }

    fn master(&self) -> &str {
        self.masters.current()
    }

    fn expose_secret(
        &self,
        namespace: &str,
        endpoint: &str,
        name: &SecretName,
    ) -> Option<Zeroizing<String>> {
        let secret = self.secret(namespace, endpoint, name)?;
        Some(Zeroizing::new(secret.expose_secret()))
    }

    async fn deliver(&self, namespace: &str, delivery: &Delivery, now: SystemTime) -> Attempt {
        let Target::Webhook(target) = &delivery.endpoint.target else {
            return Err(Failure::new("the endpoint is no webhook").then(Next::GiveUp));
        };
        let request = self.request(namespace, delivery, target, now)?;
        let answer = self.client.send(request).await;
        // The text may name addresses of the network here.
        let answer = answer.map_err(|error| {
            let kind = error.kind();
            Failure {
                detail: Some(format!("{kind}: {error}")),
                ..Failure::new(kind.cause_for_owners())
            }
        })?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let next = match status {
            StatusCode::GONE => Next::Disable,
            _ => Next::Retry(answer.retry_after()),
        };
        Err(Failure::new(format!("the endpoint answered {}", status.as_u16())).then(next))
    }
}

/// Shows no secret.
impl fmt::Debug for Webhooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhooks")
            .field("masters", &self.masters)
            .finish_non_exhaustive()
    }
}
