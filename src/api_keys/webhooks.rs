//! The setting of webhooks.

use std::sync::Arc;

use super::builder::ApiKeysBuilder;
use crate::webhook::Webhooks;

impl<A> ApiKeysBuilder<A> {
    /// Sets up webhooks. Default: none are sent, and none can be registered.
    ///
    /// The [worker](crate::ApiKeys::worker) sends them. The store needs an
    /// [outbox](crate::store::Outbox). Register webhooks with
    /// [`ApiKeys::endpoints`](crate::ApiKeys::endpoints).
    ///
    /// ```
    /// # use tower_api_key::webhook::{WebhookMasters, Webhooks};
    /// # use tower_api_key::{ApiKeys, MemoryStore};
    /// # let from_a_secret_store = [7; 32];
    /// let masters = WebhookMasters::new("2026-11", &from_a_secret_store)?;
    /// let keys = ApiKeys::builder(MemoryStore::new())
    ///     .webhooks(Webhooks::new(masters))
    ///     .build()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg_attr(docsrs, doc(cfg(feature = "webhook")))]
    pub fn webhooks(mut self, webhooks: Webhooks) -> Self {
        self.webhooks = Some(Arc::new(webhooks));
        self
    }
}
