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
    /// The time that the receiver asked to wait.
    pub(crate) retry_after: Option<Duration>,
    /// There will be no other attempt.
    pub(crate) is_final: bool,
    /// The receiver wants no more events.
    pub(crate) is_gone: bool,
    /// The attempt was not made at all, since this process cannot make it. Another one may.
    pub(crate) is_of_this_process: bool,
}

impl Failure {
    /// Creates a failure after which the delivery is tried again.
    pub(crate) fn new(cause: impl Into<String>) -> Self {
        Self {
            cause: cause.into(),
            retry_after: None,
            is_final: false,
            is_gone: false,
            is_of_this_process: false,
        }
    }

    /// Creates a failure of a process that cannot make the attempt.
    pub(crate) fn of_this_process(cause: &str) -> Self {
        Self {
            is_of_this_process: true,
            ..Self::new(cause)
        }
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
