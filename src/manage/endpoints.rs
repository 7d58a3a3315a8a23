//! Endpoints of events: webhooks of customers, and what was delivered to them.

use std::fmt;
use std::future::IntoFuture;
use std::sync::Arc;
use std::time::Duration;

use rand::TryRng;
use rand::rngs::SysRng;

use crate::key::text::KeyRecordError;
use crate::manage::BoxFuture;
use crate::shared::Shared;
use crate::store::{
    Actor, ActorKind, Change, DeliveryQuery, DeliveryRecord, Disabled, DynManagedKeyStore,
    DynOutbox, Endpoint, Event, Page, Paging, SecretName, StoreError, StoreErrorKind, Target,
    WebhookTarget, origin_of,
};
use crate::util::timestamp::unix_seconds;

/// The endpoints that events are delivered to: [`ApiKeys::endpoints`](crate::ApiKeys::endpoints).
///
/// Endpoints of an account are found, changed and deleted with [`of_account`](Self::of_account), so
/// that a customer has no access to those of others. Without it, all endpoints are.
///
/// ```
/// # #[cfg(feature = "webhook")]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use tower_api_key::webhook::{WebhookMasters, Webhooks};
/// # use tower_api_key::{ApiKeys, MemoryStore};
/// # let master = [7; 32];
/// let webhooks = Webhooks::new(WebhookMasters::new("2026-11", &master)?);
/// let keys = ApiKeys::builder(MemoryStore::new()).webhooks(webhooks).build()?;
///
/// let endpoints = keys.endpoints()?.of_account("acme");
/// let registered = endpoints
///     .register("https://hooks.acme.example/keys")
///     .kinds(["api_key.rotated", "api_key.expiring"])
///     .await?;
/// println!("{}", registered.expose_secret()); // for the receiver, to verify what comes
/// endpoints.send_test(&registered.endpoint().id).await?;
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "webhook"))]
/// # fn main() {}
/// ```
#[derive(Clone)]
#[must_use = "an endpoint is changed by a method"]
pub struct Endpoints {
    shared: Arc<Shared>,
    store: Arc<dyn DynManagedKeyStore>,
    outbox: Arc<dyn DynOutbox>,
    account: Option<String>,
}

/// A webhook that was registered, with its secret.
#[derive(Clone)]
pub struct RegisteredWebhook {
    endpoint: Endpoint,
    secret: String,
}

/// A registration of a webhook, carried out when awaited: [`Endpoints::register`].
#[must_use = "nothing is registered until this is awaited"]
pub struct RegisterWebhook {
    endpoints: Endpoints,
    url: String,
    kinds: Vec<String>,
}

/// An error for an endpoint that could not be read or changed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// The store has no outbox.
    #[error("this store delivers no events: its `outbox` returns none")]
    NoOutbox,
    /// Webhooks are not set up.
    #[error("webhooks are not set up: use `ApiKeysBuilder::webhooks`, of the feature `webhook`")]
    NoWebhooks,
    /// The URL cannot be that of a webhook.
    #[error("this is no URL of a webhook: {0}")]
    Url(String),
    /// There is no endpoint with this id, or it belongs to another account.
    #[error("there is no endpoint {0:?}")]
    NotFound(String),
    /// The endpoint is a sink of the application, which has no secret.
    #[error("the endpoint {0:?} is a sink, not a webhook")]
    NoWebhook(String),
    /// The secret is derived from a master secret that is not known here.
    #[error(
        "the master secret {0:?} is not known here: add it with `WebhookMasters::with_retired`"
    )]
    UnknownMaster(String),
    /// The operating system returned no random bytes.
    #[error("the operating system returned no random bytes")]
    NoRandomness,
    /// The account has [as many endpoints](Endpoints::MOST_PER_ACCOUNT) as it can have.
    #[error(
        "the account has {} endpoints, which is the most: delete one",
        Endpoints::MOST_PER_ACCOUNT
    )]
    TooMany,
    /// The secret was rotated lately, and the one before it still signs. It may have been this
    /// call, whose answer was lost: see [`Endpoints::expose_secret`].
    #[error(
        "the secret of the endpoint {0:?} was rotated, and the one before still signs: read the new \
         one with `expose_secret`, or rotate without an overlap"
    )]
    RotatedLately(String),
    /// Somebody else changed the endpoint at the same time. Try again.
    #[error("somebody else changed the endpoint {0:?} at the same time: try again")]
    Changed(String),
    /// The endpoint has a value that not every store can keep.
    #[error(transparent)]
    Invalid(#[from] KeyRecordError),
    /// The store failed.
    #[error("the store failed")]
    Store(#[source] StoreError),
}

impl From<StoreError> for EndpointError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Endpoints {
    /// The most endpoints of an account: 8. Each event about the account is delivered to each, in
    /// the transaction of the change.
    pub const MOST_PER_ACCOUNT: usize = 8;

    /// The longest overlap of two secrets: a year.
    const LONGEST_OVERLAP: Duration = Duration::from_secs(365 * 86_400);

    pub(crate) fn new(
        shared: &Arc<Shared>,
        store: &Arc<dyn DynManagedKeyStore>,
    ) -> Result<Self, EndpointError> {
        let outbox = shared.outbox.as_ref().ok_or(EndpointError::NoOutbox)?;
        Ok(Self {
            shared: Arc::clone(shared),
            store: Arc::clone(store),
            outbox: Arc::clone(&outbox.0),
            account: None,
        })
    }

    /// Returns only the endpoints of an account. A webhook that is registered belongs to it.
    pub fn of_account(mut self, account: impl Into<String>) -> Self {
        self.account = Some(account.into());
        self
    }

    /// Registers a webhook when the returned future is awaited.
    ///
    /// After an error of the store, read the [list](Self::list) before you register again: the
    /// webhook may have been registered.
    ///
    /// Danger: without [`of_account`](Self::of_account), the webhook gets the events of all accounts.
    pub fn register(&self, url: impl Into<String>) -> RegisterWebhook {
        RegisterWebhook {
            endpoints: self.clone(),
            url: url.into(),
            kinds: Vec::new(),
        }
    }

    /// Finds an endpoint.
    pub async fn find(&self, id: &str) -> Result<Option<Endpoint>, EndpointError> {
        let found = self.outbox.find_endpoint(id).await?;
        let is_own = |endpoint: &Endpoint| {
            let account = self.account.as_ref();
            account.is_none_or(|account| endpoint.account.as_ref() == Some(account))
        };
        Ok(found.filter(is_own))
    }

    /// Reads a page of the endpoints, in the order of their ids.
    pub async fn list(&self, paging: &Paging) -> Result<Page<Endpoint>, EndpointError> {
        Ok(self
            .outbox
            .endpoints(self.account.as_deref(), paging)
            .await?)
    }

    /// Returns the secret that signs for a webhook, as text for the receiver: `whsec_…`.
    pub async fn expose_secret(&self, id: &str) -> Result<String, EndpointError> {
        let endpoint = self.existing(id).await?;
        let target = webhook_of(&endpoint)?;
        self.secret(&endpoint, &target.secret)
    }

    /// Gives a webhook a new secret, and returns it as text: `whsec_…`. The old one also signs for a
    /// time of at most a year, so that the receiver can be changed meanwhile. With a time of zero,
    /// it does not: after a leak.
    ///
    /// While the old secret signs, another rotation with an overlap is an error
    /// ([`RotatedLately`](EndpointError::RotatedLately)): the receiver may still know the old one
    /// only.
    ///
    /// The new secret is derived from the current master secret: rotate all secrets before you
    /// remove an old master.
    pub async fn rotate_secret(
        &self,
        id: &str,
        overlap: Duration,
    ) -> Result<String, EndpointError> {
        let webhooks = self.shared.webhooks.as_ref();
        let webhooks = webhooks.ok_or(EndpointError::NoWebhooks)?;
        let mut endpoint = self.existing(id).await?;
        let target = webhook_of(&endpoint)?.clone();
        let now = self.shared.now();
        let is_overlapping = target
            .previous
            .as_ref()
            .is_some_and(|(_, until)| now < *until);
        if is_overlapping && !overlap.is_zero() {
            return Err(EndpointError::RotatedLately(endpoint.id));
        }
        // Not the next number: after the restore of a backup, that secret was in use before.
        let seconds = u32::try_from(unix_seconds(now)).unwrap_or(u32::MAX);
        let next = target.secret.generation.saturating_add(1);
        let generation = next.max(seconds);
        let name = SecretName::new(webhooks.master(), generation);
        let secret = self.secret(&endpoint, &name)?;
        let until = now.checked_add(overlap.min(Self::LONGEST_OVERLAP));
        let previous = until.filter(|_| !overlap.is_zero());
        let previous = previous.map(|until| (target.secret, until));
        let target = WebhookTarget::new(target.url, name).with_previous(previous);
        endpoint.target = Target::Webhook(target);
        self.replace(endpoint).await?;
        Ok(secret)
    }

    /// Sets the kinds of events that an endpoint takes. None is all.
    pub async fn set_kinds<K: Into<String>>(
        &self,
        id: &str,
        kinds: impl IntoIterator<Item = K>,
    ) -> Result<Endpoint, EndpointError> {
        let kinds: Vec<String> = kinds.into_iter().map(Into::into).collect();
        let endpoint = self.existing(id).await?;
        self.replace(endpoint.with_kinds(kinds)).await
    }

    /// Disables an endpoint: it takes no more events, and what it has not delivered waits. The
    /// reason is for the owner of the endpoint.
    pub async fn disable(
        &self,
        id: &str,
        reason: impl Into<String>,
    ) -> Result<Endpoint, EndpointError> {
        let disabled = Disabled::new(self.shared.now(), reason);
        let endpoint = self.existing(id).await?;
        self.replace(endpoint.with_disabled(disabled)).await
    }

    /// Enables an endpoint that was disabled. What waits is delivered.
    pub async fn enable(&self, id: &str) -> Result<Endpoint, EndpointError> {
        let endpoint = self.existing(id).await?;
        self.replace(endpoint.with_disabled(None)).await
    }

    /// Deletes an endpoint, with what it has not delivered. Returns whether there was one.
    pub async fn delete(&self, id: &str) -> Result<bool, EndpointError> {
        if self.find(id).await?.is_none() && self.account.is_some() {
            return Ok(false);
        }
        // Also if there is none: a deletion that was cut off may have left deliveries.
        Ok(self.outbox.delete_endpoint(id).await?)
    }

    /// Delivers an event of the kind `webhook.test` to one endpoint, whatever it takes.
    pub async fn send_test(&self, id: &str) -> Result<(), EndpointError> {
        let endpoint = self.existing(id).await?;
        let now = self.shared.now();
        let event = Event::new("webhook.test", now)
            .with_account(endpoint.account.clone())
            .with_data(serde_json::json!({ "endpoint_id": id }).to_string());
        let actor = Actor::new(ActorKind::System, "webhook test");
        let change = Change::new(actor, now).add_event_to(id, event)?;
        Ok(self.store.commit(&change).await?)
    }

    /// Reads a page of the deliveries to an endpoint, the newest event first.
    pub async fn deliveries(
        &self,
        id: &str,
        query: &DeliveryQuery,
        paging: &Paging,
    ) -> Result<Page<DeliveryRecord>, EndpointError> {
        self.existing(id).await?;
        let query = query.clone().with_endpoint(id.to_owned());
        Ok(self.outbox.deliveries(&query, paging).await?)
    }

    /// Delivers again what has failed, now and by a new schedule. Returns the number of deliveries.
    pub async fn replay_failed(&self, id: &str) -> Result<u64, EndpointError> {
        self.existing(id).await?;
        Ok(self.outbox.replay(id, None, self.shared.now()).await?)
    }

    /// Delivers one event again, now and by a new schedule, even if it was delivered before. Returns
    /// `false` if the endpoint never had it, or it is about to be delivered anyway.
    pub async fn replay(&self, id: &str, event: &str) -> Result<bool, EndpointError> {
        self.existing(id).await?;
        let now = self.shared.now();
        Ok(self.outbox.replay(id, Some(event), now).await? > 0)
    }

    /// Checks that the account has no more endpoints than it can have.
    async fn check_count(&self, most: usize) -> Result<(), EndpointError> {
        let Some(account) = self.account.as_deref() else {
            return Ok(());
        };
        let paging = Paging::first(u32::try_from(most + 1).unwrap_or(u32::MAX));
        let page = self.outbox.endpoints(Some(account), &paging).await?;
        if page.items.len() > most {
            return Err(EndpointError::TooMany);
        }
        Ok(())
    }

    async fn existing(&self, id: &str) -> Result<Endpoint, EndpointError> {
        let found = self.find(id).await?;
        found.ok_or_else(|| EndpointError::NotFound(id.to_owned()))
    }

    /// Replaces the version of an endpoint that was seen.
    async fn replace(&self, endpoint: Endpoint) -> Result<Endpoint, EndpointError> {
        let next = endpoint.version.saturating_add(1);
        let endpoint = endpoint.with_version(next);
        endpoint.check()?;
        match self.outbox.put_endpoint(&endpoint).await {
            Ok(()) => Ok(endpoint),
            Err(error) if error.kind() == StoreErrorKind::Conflict => {
                Err(EndpointError::Changed(endpoint.id))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn secret(&self, endpoint: &Endpoint, name: &SecretName) -> Result<String, EndpointError> {
        let webhooks = self.shared.webhooks.as_ref();
        let webhooks = webhooks.ok_or(EndpointError::NoWebhooks)?;
        let namespace = self.outbox.namespace();
        let secret = webhooks.expose_secret(&namespace, &endpoint.id, name);
        secret.ok_or_else(|| EndpointError::UnknownMaster(name.master.clone()))
    }
}

impl RegisterWebhook {
    /// Sets the kinds of events that the webhook gets. Default: all.
    pub fn kinds<K: Into<String>>(mut self, kinds: impl IntoIterator<Item = K>) -> Self {
        self.kinds = kinds.into_iter().map(Into::into).collect();
        self
    }

    async fn register(self) -> Result<RegisteredWebhook, EndpointError> {
        let endpoints = self.endpoints;
        let webhooks = endpoints.shared.webhooks.as_ref();
        let webhooks = webhooks.ok_or(EndpointError::NoWebhooks)?;
        webhooks.check_url(&self.url).map_err(EndpointError::Url)?;
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
        let name = webhook_of(&endpoint)?.secret.clone();
        let secret = endpoints.secret(&endpoint, &name)?;
        endpoints
            .check_count(Endpoints::MOST_PER_ACCOUNT - 1)
            .await?;
        endpoints.outbox.put_endpoint(&endpoint).await?;
        // Once more: others may have registered at the same time.
        if let Err(error) = endpoints.check_count(Endpoints::MOST_PER_ACCOUNT).await {
            endpoints.outbox.delete_endpoint(&endpoint.id).await?;
            return Err(error);
        }
        Ok(RegisteredWebhook { endpoint, secret })
    }
}

impl IntoFuture for RegisterWebhook {
    type Output = Result<RegisteredWebhook, EndpointError>;
    type IntoFuture = BoxFuture<Result<RegisteredWebhook, EndpointError>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.register())
    }
}

impl RegisteredWebhook {
    /// Returns the endpoint.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Returns the secret that signs, as text for the receiver: `whsec_…`.
    pub fn expose_secret(&self) -> &str {
        &self.secret
    }
}

fn webhook_of(endpoint: &Endpoint) -> Result<&WebhookTarget, EndpointError> {
    match &endpoint.target {
        Target::Webhook(target) => Ok(target),
        _ => Err(EndpointError::NoWebhook(endpoint.id.clone())),
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

/// Redacts the secret.
impl fmt::Debug for RegisteredWebhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegisteredWebhook")
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoints")
            .field("account", &self.account)
            .finish_non_exhaustive()
    }
}
