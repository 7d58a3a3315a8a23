//! A cap on the keys of an account.

use std::time::SystemTime;

use crate::key::text::{self, KeyRecordError};

/// A cap on the keys of an account, which a store checks in the transaction of a
/// [`Change`](crate::store::Change).
///
/// The cap counts chains of rotations: a key and the keys that replace it have one
/// [lineage](crate::KeyRecord::lineage), and count once. So a rotation never runs into the cap, and
/// nobody gets more keys by rotating and revoking. A chain counts while one of its keys is alive:
/// neither revoked nor expired. A suspended key is alive. An account that has more keys already,
/// since the cap was lowered, may keep them; only a change that adds one is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AccountCap {
    /// The account.
    pub account: String,
    /// The most chains of the account with a key that is alive, once the change is carried out.
    pub most: u32,
    /// The time that expiries are compared with.
    pub at: SystemTime,
}

impl AccountCap {
    /// Creates a cap.
    pub fn new(account: impl Into<String>, most: u32, at: SystemTime) -> Self {
        Self {
            account: account.into(),
            most,
            at,
        }
    }

    pub(super) fn check(&self) -> Result<(), KeyRecordError> {
        text::check_indexed("the account", &self.account)?;
        text::check_instant("the time of the cap", Some(self.at))
    }
}
