//! Attempts at deliveries, and who makes those to webhooks.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use zeroize::Zeroizing;

use crate::store::{Delivery, SecretName};

/// The outcome of an attempt at a delivery.
pub(crate) type Attempt = Result<(), Failure>;

/// A failure of an attempt at a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The cause, for the owner of the endpoint.
    pub(crate) cause: String,
    /// More about it, for operators only: it may name addresses of the network here.
    pub(crate) detail: Option<String>,
    pub(crate) next: Next,
}

/// The way in which a delivery goes on after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// By the schedule, and after the time that the receiver asked to wait, if it did.
    Retry(Option<Duration>),
    /// Not at all.
    GiveUp,
    /// Not at all, and the endpoint is disabled: the receiver wants no more events.
    #[cfg_attr(
        not(feature = "webhook"),
        expect(dead_code, reason = "only receivers of webhooks say so")
    )]
    Disable,
    /// The attempt was not made, since this process cannot make it. Another one may.
    LeaveToOthers,
}

impl Failure {
    /// Creates a failure after which the delivery is tried again.
    pub(crate) fn new(cause: impl Into<String>) -> Self {
        Self {
            cause: cause.into(),
            detail: None,
            next: Next::Retry(None),
        }
    }

    /// Sets the way in which the delivery goes on.
    pub(crate) fn then(self, next: Next) -> Self {
        Self { next, ..self }
    }
}

/// The sender of webhooks, which the feature `webhook` implements.
#[async_trait]
pub(crate) trait DynWebhooks: Send + Sync {
    /// Checks a URL. The error tells what is wrong with it.
    fn check_url(&self, url: &str) -> Result<(), String>;

    /// Returns the name of the master secret for new secrets.
    fn master(&self) -> &str;

    /// Returns the text of a secret of an endpoint; `None` if its master is not known here.
    fn expose_secret(
        &self,
        namespace: &str,
        endpoint: &str,
        name: &SecretName,
    ) -> Option<Zeroizing<String>>;

    /// Makes one attempt at a delivery.
    async fn deliver(&self, namespace: &str, delivery: &Delivery, now: SystemTime) -> Attempt;
}
