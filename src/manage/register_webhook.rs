//! Registering webhooks.

use std::fmt;
use std::future::IntoFuture;

use rand::TryRng;
use rand::rngs::SysRng;

use super::BoxFuture;
use super::endpoint_error::EndpointError;
use super::endpoints::{Endpoints, check_kinds};
use super::registered_webhook::RegisteredWebhook;
use crate::store::{Endpoint, SecretName, StoreErrorKind, Target, WebhookTarget, origin_of};

/// A registration of a webhook, carried out when awaited: [`Endpoints::register`].
#[must_use = "nothing is registered until this is awaited"]
pub struct RegisterWebhook {
    endpoints: Endpoints,
    url: String,
    kinds: Vec<String>,
}

impl Endpoints {
    /// Registers a webhook when the returned future is awaited. The webhook gets the events of the
    /// account, or of all accounts with [`dangerous_all_endpoints`].
    ///
    /// After an error of the store, read the [list](Self::list) before you register again: the
    /// webhook may have been registered.
    ///
    /// [`dangerous_all_endpoints`]: crate::ApiKeys::dangerous_all_endpoints
    pub fn register(&self, url: impl Into<String>) -> RegisterWebhook {
        RegisterWebhook::new(self.clone(), url.into())
    }
}

impl RegisterWebhook {
    fn new(endpoints: Endpoints, url: String) -> Self {
        Self {
            endpoints,
            url,
            kinds: Vec::new(),
        }
    }

    /// Sets the kinds of events that the webhook gets, at most 32: see
    /// [`events::kinds`](crate::events::kinds). Default: all, also those of later versions of this
    /// crate.
    ///
    /// When awaited, a kind that this crate does not have is an error
    /// ([`EndpointError::UnknownKind`]). Kinds of the application's own begin with another word.
    ///
    /// ```
    /// use tower_api_key::events::{Endpoints, RegisterWebhook, kinds};
    ///
    /// fn register(endpoints: &Endpoints, url: &str) -> RegisterWebhook {
    ///     let kinds = [kinds::API_KEY_EXPIRING, kinds::API_KEY_EXPIRED, "acme.invoice_due"];
    ///     endpoints.register(url).kinds(kinds)
    /// }
    /// ```
    pub fn kinds<K: Into<String>>(mut self, kinds: impl IntoIterator<Item = K>) -> Self {
        self.kinds = kinds.into_iter().map(Into::into).collect();
        self
    }

    async fn register(self) -> Result<RegisteredWebhook, EndpointError> {
        let endpoints = self.endpoints;
        let webhooks = endpoints.shared.webhooks.as_ref();
        let webhooks = webhooks.ok_or(EndpointError::NoWebhooks)?;
        webhooks.check_url(&self.url).map_err(EndpointError::Url)?;
        check_kinds(&self.kinds)?;
        let mut random = [0; 16];
        let drawn = SysRng.try_fill_bytes(&mut random);
        drawn.map_err(|_| EndpointError::NoRandomness)?;
        let id = format!("ep_{:032x}", u128::from_be_bytes(random));
        let target = WebhookTarget::new(self.url, SecretName::new(webhooks.master(), 1));
        let target = Target::Webhook(target);
        let endpoint = Endpoint::new(id, target, endpoints.shared.now())
            .with_account(endpoints.account.clone())
            .with_kinds(self.kinds);
        endpoint.check()?;
        let registered = endpoints.with_secret(endpoint)?;
        let endpoint = registered.endpoint();
        let most = u32::try_from(Endpoints::MOST_PER_ACCOUNT).unwrap_or(u32::MAX);
        match endpoints.outbox.create_endpoint(endpoint, most).await {
            Ok(()) => Ok(registered),
            Err(error) if error.kind() == StoreErrorKind::CapReached => Err(EndpointError::TooMany),
            Err(error) => Err(error.into()),
        }
    }
}

impl IntoFuture for RegisterWebhook {
    type Output = Result<RegisteredWebhook, EndpointError>;
    type IntoFuture = BoxFuture<Result<RegisteredWebhook, EndpointError>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.register())
    }
}

/// Shows no path of the URL, which may have a secret of its owner.
impl fmt::Debug for RegisterWebhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegisterWebhook")
            .field("url", &origin_of(&self.url))
            .field("kinds", &self.kinds)
            .finish_non_exhaustive()
    }
}
