//! Endpoints: the destinations of events.

use std::fmt;
use std::time::SystemTime;

use crate::key::text::{self, KeyRecordError};
use crate::util::timestamp;

/// A destination of events: a webhook, or a sink of the application.
///
/// An [`Outbox`](crate::store::Outbox) keeps endpoints, and a delivery for each event that an
/// endpoint takes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Endpoint {
    /// The unique id: 1 to 64 letters, digits, `_` and `-` of ASCII.
    pub id: String,
    /// The place that events are delivered to.
    pub target: Target,
    /// The account whose events are delivered. `None` for the events of all accounts: for the
    /// operators of the service only.
    pub account: Option<String>,
    /// The kinds of events that are delivered, at most 32. Empty for all.
    pub kinds: Vec<String>,
    /// The version, at least 1. Each change raises it by one.
    pub version: u64,
    /// The time at which the endpoint was created. It takes the events from then on.
    pub created_at: SystemTime,
    /// Set if the endpoint is disabled. It takes no new events then; what it has not delivered yet
    /// waits.
    pub disabled: Option<Disabled>,
}

/// The place that events are delivered to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Target {
    /// An HTTP server of somebody else.
    Webhook(WebhookTarget),
    /// A sink of the application, in every process that has one with the id of the endpoint.
    Sink,
}

/// The address of a webhook, and the names of the secrets that sign for it.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct WebhookTarget {
    /// The URL, at most 2,048 bytes.
    pub url: String,
    /// The secret that signs.
    pub secret: SecretName,
    /// The secret before it, which also signs until a time.
    pub previous: Option<(SecretName, SystemTime)>,
}

/// The name of a secret that signs for an endpoint. The secret itself is derived when it is needed,
/// and never stored.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct SecretName {
    /// The name of the master secret that it is derived from.
    pub master: String,
    /// The generation, from 1 on.
    pub generation: u32,
}

/// The end of an endpoint's work.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Disabled {
    /// The time.
    pub at: SystemTime,
    /// The reason, for the owner of the endpoint.
    pub reason: String,
}

impl Endpoint {
    /// The most kinds of events that an endpoint names.
    const MOST_KINDS: usize = 32;

    /// The longest URL, in bytes.
    const LONGEST_URL: usize = 2_048;

    /// Creates an endpoint for all events of all accounts, in version 1.
    pub fn new(id: impl Into<String>, target: Target, created_at: SystemTime) -> Self {
        Self {
            id: id.into(),
            target,
            account: None,
            kinds: Vec::new(),
            version: 1,
            created_at: timestamp::microseconds_down(created_at),
            disabled: None,
        }
    }

    /// Delivers only the events of an account.
    #[must_use]
    pub fn with_account(mut self, account: impl Into<Option<String>>) -> Self {
        self.account = account.into();
        self
    }

    /// Delivers only events of these kinds. An empty list means all kinds.
    #[must_use]
    pub fn with_kinds<K: Into<String>>(mut self, kinds: impl IntoIterator<Item = K>) -> Self {
        self.kinds = kinds.into_iter().map(Into::into).collect();
        self
    }

    /// Sets the version.
    #[must_use]
    pub fn with_version(mut self, version: u64) -> Self {
        self.version = version;
        self
    }

    /// Disables the endpoint.
    #[must_use]
    pub fn with_disabled(mut self, disabled: impl Into<Option<Disabled>>) -> Self {
        self.disabled = disabled.into();
        self
    }

    /// Returns whether a text can be the id of an endpoint: 1 to 64 letters, digits, `_` and `-` of
    /// ASCII.
    pub fn is_id(text: &str) -> bool {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        (1..=64).contains(&text.len()) && text.bytes().all(is_plain)
    }

    /// Returns whether the endpoint takes events of a kind and an account.
    pub fn takes(&self, kind: &str, account: Option<&str>) -> bool {
        let is_of_account = self
            .account
            .as_deref()
            .is_none_or(|own| account == Some(own));
        let is_of_kind = self.kinds.is_empty() || self.kinds.iter().any(|it| it == kind);
        self.disabled.is_none() && is_of_account && is_of_kind
    }

    /// Checks that every store can keep the endpoint. Stores call this before they write.
    ///
    /// # Errors
    /// If a text, a time or a number is one that not every store can keep.
    pub fn check(&self) -> Result<(), KeyRecordError> {
        if !Self::is_id(&self.id) {
            return Err(KeyRecordError::EndpointId(self.id.clone()));
        }
        if self.version == 0 || i64::try_from(self.version).is_err() {
            return Err(KeyRecordError::Version(self.version));
        }
        if self.kinds.len() > Self::MOST_KINDS {
            return Err(KeyRecordError::TooMany("kinds of events", Self::MOST_KINDS));
        }
        if let Some(kind) = self.kinds.iter().find(|kind| !text::is_dotted_name(kind)) {
            return Err(KeyRecordError::EventKind(kind.clone()));
        }
        text::check_indexed("the account", self.account.as_deref().unwrap_or_default())?;
        if let Target::Webhook(webhook) = &self.target {
            text::check("the URL", &webhook.url)?;
            if webhook.url.len() > Self::LONGEST_URL {
                return Err(KeyRecordError::TooLong("the URL", Self::LONGEST_URL));
            }
            webhook.secret.check()?;
            if let Some((secret, until)) = &webhook.previous {
                secret.check()?;
                text::check_instant("the end of the previous secret", Some(*until))?;
            }
        }
        if let Some(disabled) = &self.disabled {
            text::check("a reason", &disabled.reason)?;
            text::check_instant("the end of an endpoint", Some(disabled.at))?;
        }
        text::check_instant("the creation of an endpoint", Some(self.created_at))
    }

    /// Checks the endpoint as [`check`](Self::check) does, and that it is in version 1.
    ///
    /// # Errors
    /// As [`check`](Self::check), and for another version.
    pub fn check_new(&self) -> Result<(), KeyRecordError> {
        if self.version != 1 {
            return Err(KeyRecordError::Version(self.version));
        }
        self.check()
    }
}

impl WebhookTarget {
    /// Creates a target with one secret.
    pub fn new(url: impl Into<String>, secret: SecretName) -> Self {
        Self {
            url: url.into(),
            secret,
            previous: None,
        }
    }

    /// Sets the secret that also signs until a time.
    #[must_use]
    pub fn with_previous(mut self, previous: impl Into<Option<(SecretName, SystemTime)>>) -> Self {
        let previous = previous.into();
        self.previous = previous.map(|(name, until)| (name, timestamp::microseconds_down(until)));
        self
    }
}

/// Shows no path of the URL, which may have a secret of its owner.
impl fmt::Debug for WebhookTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookTarget")
            .field("url", &origin_of(&self.url))
            .field("secret", &self.secret)
            .field("previous", &self.previous)
            .finish()
    }
}

/// Returns the scheme and the host of a URL, without a user.
pub(crate) fn origin_of(url: &str) -> &str {
    let Some((scheme, rest)) = url.split_once("://") else {
        return "[REDACTED]";
    };
    let host = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    if rest[..host].contains('@') {
        return "[REDACTED]";
    }
    &url[..scheme.len() + 3 + host]
}

impl SecretName {
    /// Creates the name of a secret.
    pub fn new(master: impl Into<String>, generation: u32) -> Self {
        Self {
            master: master.into(),
            generation,
        }
    }

    fn check(&self) -> Result<(), KeyRecordError> {
        if self.generation == 0 {
            return Err(KeyRecordError::Generation);
        }
        text::check_indexed("the master secret's name", &self.master)
    }
}

impl Disabled {
    /// Creates the end of an endpoint's work. The time is rounded down to microseconds.
    pub fn new(at: SystemTime, reason: impl Into<String>) -> Self {
        Self {
            at: timestamp::microseconds_down(at),
            reason: reason.into(),
        }
    }
}
