//! The errors of rotations.

use std::time::Duration;

use crate::key::digest::KeyId;
use crate::key::format::GenerateError;
use crate::key::lifecycle::KeyStatus;
use crate::key::text::KeyRecordError;
use crate::manage::edits::FieldError;
use crate::manage::issue_error::seconds;
use crate::manage::policy::PolicyError;
use crate::store::StoreError;

/// An error for a key that could not be rotated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RotateError {
    /// There is no key with this id, or it belongs to another account.
    #[error("there is no key {0}")]
    NotFound(KeyId),
    /// A key with this status cannot be rotated: issue a new one.
    #[error("the key {0} is {1}, and only keys that work are rotated: issue a new one")]
    NotRotatable(KeyId, KeyStatus),
    /// The key was rotated before. Rotate the key that replaces it instead, or see
    /// [`replacing_unused`](crate::manage::RotateKey::replacing_unused).
    #[error("the key was rotated before: its successor is {successor}")]
    AlreadyRotated {
        /// The key that replaces this one, directly or after further rotations.
        successor: KeyId,
    },
    /// The successor has been used, so somebody has it.
    #[error("the successor {successor} has been used: rotate that key")]
    SuccessorUsed {
        /// The key that replaces this one.
        successor: KeyId,
    },
    /// The successor was issued so recently that another process may have seen it used.
    #[error("the successor {successor} may just be in use: try again in {} s", seconds(*retry_after))]
    TooEarly {
        /// The key that replaces this one.
        successor: KeyId,
        /// The time to wait.
        retry_after: Duration,
    },
    /// Too many predecessors are in their grace periods: end those of some.
    #[error(
        "{} predecessors of the key still work: end the grace of one first, with end_grace",
        .0.len()
    )]
    TooManyPredecessors(Vec<KeyId>),
    /// No format fits the environment and kind of the key.
    #[error("no format to issue the new key in: add one with ApiKeysBuilder::formats")]
    NoFormat,
    /// The new key would expire before it is issued, or too late for `SystemTime`.
    #[error("the new key would end before it begins, or later than a SystemTime can be")]
    Expiry,
    /// A field has a value that this [`ApiKeys`](crate::ApiKeys) does not allow.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// The policy of issuing does not allow the new key.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// A field has a value that not every store can keep.
    #[error(transparent)]
    Invalid(#[from] KeyRecordError),
    /// The operating system provided no randomness.
    #[error("the key could not be generated")]
    Generate(#[from] GenerateError),
    /// The store failed. The key may have been rotated; the old one works on in any case.
    #[error("the key could not be rotated")]
    Store(#[from] StoreError),
}
