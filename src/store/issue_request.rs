//! Requests for keys, remembered so that a repetition issues no second key.

use std::fmt;
use std::time::SystemTime;

use crate::key::digest::KeyId;
use crate::key::text::{self, KeyRecordError};
use crate::util::timestamp;

/// A request for a key, which a store remembers for as long as the key exists.
///
/// It has no secret: of the request itself, only hashes are kept.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct IssueRequest {
    /// The hash that identifies the request: of the idempotency key, the actor and the account.
    pub id: [u8; 32],
    /// The hash of the fields that were asked for.
    pub fingerprint: [u8; 32],
    /// The key that was issued.
    pub key: KeyId,
    /// The time of issue.
    pub at: SystemTime,
}

impl IssueRequest {
    /// Creates a request. The time is rounded down to microseconds.
    pub fn new(id: [u8; 32], fingerprint: [u8; 32], key: KeyId, at: SystemTime) -> Self {
        Self {
            id,
            fingerprint,
            key,
            at: timestamp::microseconds_down(at),
        }
    }

    pub(super) fn check(&self) -> Result<(), KeyRecordError> {
        text::check_instant("the time of the request", Some(self.at))
    }
}

/// Prints the key and the time.
impl fmt::Debug for IssueRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssueRequest")
            .field("key", &self.key)
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}
