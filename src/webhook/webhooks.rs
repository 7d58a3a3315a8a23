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
use crate::events::{Attempt, DynWebhooks, Failure};
use crate::store::{Delivery, SecretName, Target, WebhookTarget};

/// The settings of webhooks: [`ApiKeysBuilder::webhooks`](crate::ApiKeysBuilder::webhooks).
///
/// The worker signs each event for its [endpoint](crate::ApiKeys::endpoints), and sends it until the
/// endpoint has taken it: at once, then after 5 seconds, 5 and 30 minutes, 2, 5, 10, 14, 20 and 24
/// hours, with some chance added. An endpoint that asks for more time by `Retry-After` gets it. One
/// that answers 410 is disabled.
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
            .map_err(|_| final_failure("url_refused"))?;
        let id = delivery.event.id.parse();
        let id = id.map_err(|_| final_failure("the event has no id that can be sent"))?;
        let previous = target.previous.as_ref().filter(|(_, until)| now < *until);
        let names = [Some(&target.secret), previous.map(|(name, _)| name)];
        let names = names.into_iter().flatten();
        let mut secrets = names.filter_map(|name| self.secret(namespace, endpoint, name));
        // Without any, the delivery waits for a process that knows the master.
        let Some(first) = secrets.next() else {
            return Err(Failure::of_this_process("the master secret is not known"));
        };
        let body = payload(&delivery.event.event);
        let mut request = WebhookRequest::new(url, &id, now, body, &first);
        for secret in secrets {
            request = request.also_signed_with(&secret);
        }
        Ok(request)
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
            return Err(final_failure("the endpoint is no webhook"));
        };
        let request = self.request(namespace, delivery, target, now)?;
        // The kind only: the text may name addresses of the network here.
        let answer = self.client.send(request).await;
        let answer = answer.map_err(|error| Failure {
            is_final: error.kind() == SendErrorKind::UrlRefused,
            ..Failure::new(error.kind().as_str())
        })?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        Err(Failure {
            retry_after: answer.retry_after(),
            is_gone: status == StatusCode::GONE,
            ..Failure::new(format!("the endpoint answered {}", status.as_u16()))
        })
    }
}

fn final_failure(cause: &str) -> Failure {
    Failure {
        is_final: true,
        ..Failure::new(cause)
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
