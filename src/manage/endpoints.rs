//! Endpoints of events: webhooks of customers, and what was delivered to them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::endpoint_error::{EndpointError, MOST_PER_ACCOUNT};
use super::registered_webhook::RegisteredWebhook;
use crate::shared::Shared;
use crate::store::{
    Actor, ActorKind, Change, DeliveryQuery, DeliveryRecord, DeliveryState, Disabled,
    DynManagedKeyStore, DynOutbox, Endpoint, Event, Page, Paging, Replay, SecretName,
    StoreErrorKind, Target, WebhookTarget, kinds,
};
use crate::util::timestamp::unix_seconds;

/// The endpoints that events are delivered to: [`ApiKeys::endpoints`](crate::ApiKeys::endpoints).
///
/// A customer has access to the endpoints of one account only. Each event is delivered to every
/// endpoint that takes it, from the endpoint's registration on.
///
/// # Errors
/// Each method fails if the store fails ([`EndpointError::Store`]). Methods that need an existing
/// endpoint fail with [`EndpointError::NotFound`] if there is none, or another account has the
/// endpoint; those that change one with [`EndpointError::Changed`] if somebody else did at the same
/// time; and those that need a secret with [`EndpointError::NoWebhooks`], `NoWebhook` or
/// `UnknownMaster`.
///
/// ```
/// # #[cfg(feature = "webhook")]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use tower_api_key::events::kinds;
/// # use tower_api_key::webhook::{WebhookMasters, Webhooks};
/// # use tower_api_key::{ApiKeys, MemoryStore};
/// # let master = [7; 32];
/// let webhooks = Webhooks::new(WebhookMasters::new("2026-11", &master)?);
/// let keys = ApiKeys::builder(MemoryStore::new()).webhooks(webhooks).build()?;
///
/// let endpoints = keys.endpoints("acme")?;
/// let webhook = endpoints
///     .register("https://hooks.acme.example/keys")
///     .kinds([kinds::API_KEY_ROTATED, kinds::API_KEY_EXPIRING])
///     .await?;
/// println!("{}", webhook.expose_secret()); // for the receiver, to verify what comes
/// endpoints.send_test(webhook.id()).await?;
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "webhook"))]
/// # fn main() {}
/// ```
#[derive(Clone)]
#[must_use = "an endpoint is changed by a method"]
pub struct Endpoints {
    pub(super) shared: Arc<Shared>,
    store: Arc<dyn DynManagedKeyStore>,
    pub(super) outbox: Arc<dyn DynOutbox>,
    /// `None` for all accounts.
    pub(super) account: Option<String>,
}

impl Endpoints {
    /// The most endpoints of an account: 8. The transaction of a change adds a delivery for each
    /// endpoint that takes the event.
    pub const MOST_PER_ACCOUNT: usize = MOST_PER_ACCOUNT;

    /// The longest overlap of two secrets: a year.
    const LONGEST_OVERLAP: Duration = Duration::from_secs(365 * 86_400);

    pub(crate) fn new(
        shared: &Arc<Shared>,
        store: &Arc<dyn DynManagedKeyStore>,
        account: Option<String>,
    ) -> Result<Self, EndpointError> {
        let outbox = shared.outbox.as_ref().ok_or(EndpointError::NoOutbox)?;
        Ok(Self {
            shared: Arc::clone(shared),
            store: Arc::clone(store),
            outbox: Arc::clone(&outbox.0),
            account,
        })
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

    /// Finds a webhook, and derives the secret that signs for it.
    pub async fn webhook(&self, id: &str) -> Result<RegisteredWebhook, EndpointError> {
        let endpoint = self.existing(id).await?;
        self.with_secret(endpoint)
    }

    /// Gives a webhook a new secret. During an overlap of at most a year, the old secret signs,
    /// too, so that the receiver can be changed meanwhile. After a leak, name an overlap of zero:
    /// then only the new secret signs from now on.
    ///
    /// While the old secret signs, another rotation with an overlap is an error
    /// ([`RotatedLately`](EndpointError::RotatedLately)): the receiver may still know the old one
    /// only.
    ///
    /// The new secret is derived from the current master secret. Before you remove an old master,
    /// rotate the secrets that name it, as both the current and the previous one:
    ///
    /// ```
    /// use tower_api_key::ApiKeys;
    /// use tower_api_key::events::{EndpointError, Target};
    /// use tower_api_key::store::Paging;
    ///
    /// /// Returns the ids of the webhooks that need a master secret.
    /// async fn webhooks_of(keys: &ApiKeys, master: &str) -> Result<Vec<String>, EndpointError> {
    ///     let (mut ids, mut paging) = (Vec::new(), Paging::first(100));
    ///     loop {
    ///         let page = keys.dangerous_all_endpoints()?.list(&paging).await?;
    ///         for endpoint in page.items {
    ///             let Target::Webhook(target) = &endpoint.target else { continue };
    ///             let previous = target.previous.as_ref().map(|(name, _)| name);
    ///             let mut names = previous.into_iter().chain([&target.secret]);
    ///             if names.any(|name| name.master == master) {
    ///                 ids.push(endpoint.id);
    ///             }
    ///         }
    ///         let Some(next) = page.next else { return Ok(ids) };
    ///         paging = paging.after(next);
    ///     }
    /// }
    /// ```
    pub async fn rotate_secret(
        &self,
        id: &str,
        overlap: Duration,
    ) -> Result<RegisteredWebhook, EndpointError> {
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
        let until = now.checked_add(overlap.min(Self::LONGEST_OVERLAP));
        let previous = until.filter(|_| !overlap.is_zero());
        let previous = previous.map(|until| (target.secret, until));
        let target = WebhookTarget::new(target.url, name).with_previous(previous);
        endpoint.target = Target::Webhook(target);
        // First, so that nothing is changed if the secret cannot be derived.
        let rotated = self.with_secret(endpoint)?;
        let endpoint = self.replace(rotated.endpoint().clone()).await?;
        Ok(rotated.with_endpoint(endpoint))
    }

    /// Sets the kinds of events that an endpoint takes. An empty list means all kinds.
    ///
    /// # Errors
    /// If this crate has no such kind ([`EndpointError::UnknownKind`]).
    pub async fn set_kinds<K: Into<String>>(
        &self,
        id: &str,
        kinds: impl IntoIterator<Item = K>,
    ) -> Result<Endpoint, EndpointError> {
        let kinds: Vec<String> = kinds.into_iter().map(Into::into).collect();
        check_kinds(&kinds)?;
        let endpoint = self.existing(id).await?;
        self.replace(endpoint.with_kinds(kinds)).await
    }

    /// Sets the URL of a webhook. The secret stays, and pending deliveries go to the new URL.
    ///
    /// # Errors
    /// If the URL cannot be that of a webhook ([`EndpointError::Url`]), or the endpoint is a sink
    /// ([`EndpointError::NoWebhook`]).
    pub async fn set_url(
        &self,
        id: &str,
        url: impl Into<String>,
    ) -> Result<Endpoint, EndpointError> {
        let url = url.into();
        let webhooks = self.shared.webhooks.as_ref();
        let webhooks = webhooks.ok_or(EndpointError::NoWebhooks)?;
        webhooks.check_url(&url).map_err(EndpointError::Url)?;
        let mut endpoint = self.existing(id).await?;
        let target = webhook_of(&endpoint)?.clone();
        endpoint.target = Target::Webhook(WebhookTarget { url, ..target });
        self.replace(endpoint).await
    }

    /// Disables an endpoint. A disabled endpoint takes no more events, and pending deliveries wait.
    /// The reason is for the owner. An endpoint that is disabled already keeps the first reason and
    /// time.
    pub async fn disable(
        &self,
        id: &str,
        reason: impl Into<String>,
    ) -> Result<Endpoint, EndpointError> {
        let disabled = Disabled::new(self.shared.now(), reason);
        let endpoint = self.existing(id).await?;
        if endpoint.disabled.is_some() {
            return Ok(endpoint);
        }
        self.replace(endpoint.with_disabled(disabled)).await
    }

    /// Enables an endpoint that was disabled. Pending deliveries go on.
    pub async fn enable(&self, id: &str) -> Result<Endpoint, EndpointError> {
        let endpoint = self.existing(id).await?;
        self.replace(endpoint.with_disabled(None)).await
    }

    /// Deletes an endpoint with its deliveries. Returns whether there was one.
    pub async fn delete(&self, id: &str) -> Result<bool, EndpointError> {
        if self.find(id).await?.is_none() && self.account.is_some() {
            return Ok(false);
        }
        // Also if there is none: a deletion that was cut off may have left deliveries.
        Ok(self.outbox.delete_endpoint(id).await?)
    }

    /// Delivers an event of the kind `webhook.test` to one endpoint, whatever it takes.
    ///
    /// # Errors
    /// If the endpoint is disabled ([`EndpointError::Disabled`]).
    pub async fn send_test(&self, id: &str) -> Result<(), EndpointError> {
        let endpoint = self.existing(id).await?;
        if endpoint.disabled.is_some() {
            return Err(EndpointError::Disabled(endpoint.id));
        }
        let now = self.shared.now();
        let event = Event::new(kinds::WEBHOOK_TEST, now)
            .with_account(endpoint.account.clone())
            .with_data(serde_json::json!({ "endpoint_id": id }).to_string());
        let actor = Actor::new(ActorKind::System, "webhook test");
        let change = Change::new(actor, now).add_event_to(id, event)?;
        Ok(self.store.commit(&change).await?)
    }

    /// Reads a page of the deliveries to an endpoint in a state, such as
    /// [`DeliveryState::Failed`], or in any state. The newest event comes first.
    pub async fn deliveries(
        &self,
        id: &str,
        state: impl Into<Option<DeliveryState>>,
        paging: &Paging,
    ) -> Result<Page<DeliveryRecord>, EndpointError> {
        let query = DeliveryQuery::new().with_endpoint(id.to_owned());
        let query = query.with_state(state);
        self.existing(id).await?;
        Ok(self.outbox.deliveries(&query, paging).await?)
    }

    /// Delivers again what has failed, now and by a new schedule. Returns the number of deliveries.
    pub async fn replay_failed(&self, id: &str) -> Result<u64, EndpointError> {
        self.replay_all(id, Replay::Failed).await
    }

    /// Delivers what waits for its next attempt, now and by a new schedule: after the receiver was
    /// repaired. Returns the number of deliveries. An event whose delivery is in progress may come
    /// twice then, with the same id.
    pub async fn retry_now(&self, id: &str) -> Result<u64, EndpointError> {
        self.replay_all(id, Replay::Pending).await
    }

    /// Delivers one event again, now and by a new schedule: whether it was delivered, has failed,
    /// or waits for its next attempt. If its delivery is in progress, the event may come twice,
    /// with the same id. Returns `false` if the endpoint never had it, or it is due already.
    pub async fn replay(&self, id: &str, event: &str) -> Result<bool, EndpointError> {
        Ok(self.replay_all(id, Replay::Event(event)).await? > 0)
    }

    async fn replay_all(&self, id: &str, which: Replay<'_>) -> Result<u64, EndpointError> {
        self.existing(id).await?;
        Ok(self.outbox.replay(id, which, self.shared.now()).await?)
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

    /// Derives the secret that signs for an endpoint.
    pub(super) fn with_secret(
        &self,
        endpoint: Endpoint,
    ) -> Result<RegisteredWebhook, EndpointError> {
        let webhooks = self.shared.webhooks.as_ref();
        let webhooks = webhooks.ok_or(EndpointError::NoWebhooks)?;
        let name = &webhook_of(&endpoint)?.secret;
        let namespace = self.outbox.namespace();
        let secret = webhooks.expose_secret(&namespace, &endpoint.id, name);
        let secret = secret.ok_or_else(|| EndpointError::UnknownMaster(name.master.clone()))?;
        Ok(RegisteredWebhook::new(endpoint, secret))
    }
}

/// Refuses kinds that look like those of this crate, and would never come.
pub(super) fn check_kinds(kinds: &[String]) -> Result<(), EndpointError> {
    match kinds.iter().find(|kind| kinds::is_unknown(kind)) {
        Some(kind) => Err(EndpointError::UnknownKind(kind.clone())),
        None => Ok(()),
    }
}

fn webhook_of(endpoint: &Endpoint) -> Result<&WebhookTarget, EndpointError> {
    match &endpoint.target {
        Target::Webhook(target) => Ok(target),
        _ => Err(EndpointError::NoWebhook(endpoint.id.clone())),
    }
}

impl fmt::Debug for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoints")
            .field("account", &self.account)
            .finish_non_exhaustive()
    }
}
