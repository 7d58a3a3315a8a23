//! Events: what others are told of changes.

use std::time::SystemTime;

use crate::key::digest::KeyId;
use crate::key::text::{self, InvalidRecord};

/// Something that others are to be told, kept in the transaction of the [`Change`](crate::Change)
/// that it tells of. It never holds a key.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Event {
    /// The kind of event, such as `api_key.rotated`.
    pub kind: String,
    /// The instant of what it tells of.
    pub at: SystemTime,
    /// The key that it is about, if it is about one.
    pub key: Option<KeyId>,
    /// The account that it is about, if it is about one.
    pub account: Option<String>,
    /// What is told, as a JSON object. At most 16 KiB.
    pub data: String,
}

impl Event {
    /// Creates an event that tells nothing but its kind and its instant.
    pub fn new(kind: impl Into<String>, at: SystemTime) -> Self {
        Self {
            kind: kind.into(),
            at,
            key: None,
            account: None,
            data: "{}".to_owned(),
        }
    }

    /// Sets the key that the event is about.
    #[must_use]
    pub fn with_key(mut self, key: impl Into<Option<KeyId>>) -> Self {
        self.key = key.into();
        self
    }

    /// Sets the account that the event is about.
    #[must_use]
    pub fn with_account(mut self, account: impl Into<Option<String>>) -> Self {
        self.account = account.into();
        self
    }

    /// Sets what is told: a JSON object.
    #[must_use]
    pub fn with_data(mut self, data: impl Into<String>) -> Self {
        self.data = data.into();
        self
    }

    pub(super) fn check(&self) -> Result<(), InvalidRecord> {
        text::check("the kind of an event", &self.kind)?;
        text::check("the account", self.account.as_deref().unwrap_or_default())?;
        text::check("the data of an event", &self.data)?;
        text::check_instant("the instant of an event", Some(self.at))
    }
}
