//! The port to the network.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;

use super::error::{SendError, SendErrorKind};
use super::request::WebhookRequest;
use super::response::WebhookResponse;
use super::url::WebhookUrl;

/// A client that sends signed requests to endpoints.
///
/// [`HttpsClient`](crate::webhook::HttpsClient) connects by itself. Implement this port to send
/// through something of your own, such as a proxy for outgoing requests.
///
/// URLs come from customers, so a client is a way into your network (server-side request forgery).
/// An implementation must
/// - send to no address of your own network, however the host is written, and whatever its name
///   resolves to: resolve it once, check the address, and connect to that address;
/// - follow no redirect;
/// - end within a time limit, and read no more than the head of an answer.
///
/// ```
/// use http::StatusCode;
/// use tower_api_key::webhook::{SendError, WebhookClient, WebhookRequest, WebhookResponse};
///
/// /// Sends nothing: for a staging environment.
/// struct DryRun;
///
/// impl WebhookClient for DryRun {
///     async fn send(&self, request: WebhookRequest) -> Result<WebhookResponse, SendError> {
///         println!("would send {request:?}");
///         Ok(WebhookResponse::new(StatusCode::NO_CONTENT))
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a `WebhookClient`",
    note = "implement `WebhookClient::send`, or use `HttpsClient`"
)]
pub trait WebhookClient: Send + Sync + 'static {
    /// Sends a request, and returns the head of its answer, whatever the status is.
    ///
    /// The worker drops the future after 60 seconds, and it may be dropped at any time. It must not
    /// block.
    fn send(
        &self,
        request: WebhookRequest,
    ) -> impl Future<Output = Result<WebhookResponse, SendError>> + Send;

    /// Checks whether requests to a URL are sent at all, so that a wrong one is refused when it is
    /// registered. Nothing is resolved. The text of an error is shown to whoever registers: name
    /// nothing of your network in it. Default: allows `https`, with any host and port.
    fn check(&self, url: &WebhookUrl) -> Result<(), SendError> {
        if url.is_https() {
            return Ok(());
        }
        Err(SendError::new(
            SendErrorKind::UrlRefused,
            "the client sends to https:// only",
        ))
    }
}

impl<C: WebhookClient> WebhookClient for Arc<C> {
    async fn send(&self, request: WebhookRequest) -> Result<WebhookResponse, SendError> {
        WebhookClient::send(&**self, request).await
    }

    fn check(&self, url: &WebhookUrl) -> Result<(), SendError> {
        WebhookClient::check(&**self, url)
    }
}

/// A [`WebhookClient`] of any type.
#[derive(Clone)]
pub struct BoxedWebhookClient(Arc<dyn DynWebhookClient>);

impl BoxedWebhookClient {
    /// Boxes a client.
    pub fn new(client: impl WebhookClient) -> Self {
        Self(Arc::new(client))
    }
}

/// Delegates to the boxed client.
impl WebhookClient for BoxedWebhookClient {
    async fn send(&self, request: WebhookRequest) -> Result<WebhookResponse, SendError> {
        self.0.send(request).await
    }

    fn check(&self, url: &WebhookUrl) -> Result<(), SendError> {
        self.0.check(url)
    }
}

impl fmt::Debug for BoxedWebhookClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BoxedWebhookClient")
    }
}

/// The object-safe version of [`WebhookClient`].
#[async_trait]
trait DynWebhookClient: Send + Sync {
    async fn send(&self, request: WebhookRequest) -> Result<WebhookResponse, SendError>;

    fn check(&self, url: &WebhookUrl) -> Result<(), SendError>;
}

#[async_trait]
impl<C: WebhookClient> DynWebhookClient for C {
    async fn send(&self, request: WebhookRequest) -> Result<WebhookResponse, SendError> {
        WebhookClient::send(self, request).await
    }

    fn check(&self, url: &WebhookUrl) -> Result<(), SendError> {
        WebhookClient::check(self, url)
    }
}
