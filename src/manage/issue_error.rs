//! The errors of issuing.

use std::time::Duration;

use crate::key::digest::KeyId;
use crate::key::environment::Environment;
use crate::key::format::GenerateError;
use crate::key::kind::KeyKind;
use crate::key::text::KeyRecordError;
use crate::manage::edits::FieldError;
use crate::manage::policy::PolicyError;
use crate::store::StoreError;

/// An error for a key that could not be issued.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IssueError {
    /// The account has no name.
    #[error("a key is issued to an account: name it")]
    NoAccount,
    /// The key would expire before it becomes active, or is expired already.
    #[error("the key would end before it begins: let it expire later")]
    EndsBeforeItBegins,
    /// The expiry would be too late for `SystemTime`.
    #[error("the expiry is later than a SystemTime can be: let the key expire earlier, or never")]
    EndsTooLate,
    /// A field has a value that this [`ApiKeys`](crate::ApiKeys) does not allow.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// The policy of issuing does not allow the key.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The idempotency key is empty, or missing in a request to reissue.
    #[error("there is no idempotency key: name the request by one")]
    NoIdempotencyKey,
    /// A key was issued for this request before. Its plaintext is not known any more: see
    /// [`reissue`](crate::manage::IssueKey::reissue).
    #[error("a key was issued for this request before: {key}")]
    AlreadyIssued {
        /// The key.
        key: KeyId,
    },
    /// The key that was issued for this request was changed since: rotated, updated, suspended or
    /// revoked. Or it has expired. So it is not reissued.
    #[error(
        "the key {key}, which was issued for this request, was changed since or has expired: use another idempotency key"
    )]
    KeyChanged {
        /// The key.
        key: KeyId,
    },
    /// A key was issued before for another request with the same idempotency key.
    #[error("the idempotency key was used for another request, for which {key} was issued")]
    OtherRequest {
        /// The key.
        key: KeyId,
    },
    /// The key that was issued for this request has been used, so somebody has it.
    #[error(
        "the key {key}, which was issued for this request, has been used: its owner may rotate it"
    )]
    KeyUsed {
        /// The key.
        key: KeyId,
    },
    /// The key was issued so recently that another process may have seen it used.
    #[error("the key {key} may just be in use: try again in {} s", seconds(*retry_after))]
    TooEarly {
        /// The key.
        key: KeyId,
        /// The time to wait.
        retry_after: Duration,
    },
    /// No format fits the requested key.
    #[error(
        "no format to issue a key in (environment: {}, kind: {}, prefix without its '_': {}): \
         add one with ApiKeysBuilder::formats",
        environment.as_ref().map_or("any", Environment::as_str),
        kind.map_or("any", KeyKind::as_str),
        prefix.as_deref().unwrap_or("any")
    )]
    NoFormat {
        /// The requested environment.
        environment: Option<Environment>,
        /// The requested kind.
        kind: Option<KeyKind>,
        /// The requested prefix.
        prefix: Option<String>,
    },
    /// A text or a time is one that not every store can keep.
    #[error(transparent)]
    Invalid(#[from] KeyRecordError),
    /// The operating system provided no randomness.
    #[error("the key could not be generated")]
    Generate(#[from] GenerateError),
    /// The store failed. The key may have been stored, which is harmless: its plaintext was not
    /// handed out.
    #[error("the key could not be kept")]
    Store(#[from] StoreError),
}

/// Returns a time in whole seconds, rounded up.
pub(super) fn seconds(time: Duration) -> u128 {
    time.as_millis().div_ceil(1_000)
}
