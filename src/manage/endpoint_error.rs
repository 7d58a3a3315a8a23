//! Errors of endpoints.

use crate::key::text::KeyRecordError;
use crate::store::StoreError;

/// The most endpoints of an account.
pub(super) const MOST_PER_ACCOUNT: usize = 8;

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
    /// The URL cannot be that of a webhook. The text is that of the client's `check`, and is for
    /// whoever registers: a client of your own names nothing of your network in it.
    #[error("this is no URL of a webhook: {0}")]
    Url(String),
    /// This crate has no such kind of events, such as a misspelled one. Kinds of the application's
    /// own begin with another word.
    #[error("there is no kind of events {0:?}: see `events::kinds`")]
    UnknownKind(String),
    /// There is no endpoint with this id, or it belongs to another account.
    #[error("there is no endpoint {0:?}")]
    NotFound(String),
    /// The endpoint is disabled, so it gets no test.
    #[error("the endpoint {0:?} is disabled: enable it first")]
    Disabled(String),
    /// The endpoint is a sink of the application, which has neither a URL nor a secret.
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
    /// The account has [as many endpoints](crate::events::Endpoints::MOST_PER_ACCOUNT) as it can
    /// have.
    #[error(
        "the account has {} endpoints, which is the most: delete one",
        MOST_PER_ACCOUNT
    )]
    TooMany,
    /// The secret was rotated lately, and the one before it still signs. The earlier rotation may
    /// have been this call, whose answer was lost: see
    /// [`Endpoints::webhook`](crate::events::Endpoints::webhook).
    #[error(
        "the secret of the endpoint {0:?} was rotated, and the one before still signs: read the new \
         one with `webhook`, or rotate without an overlap"
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
