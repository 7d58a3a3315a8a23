//! The audit trail: who changed keys, how, when and why.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::SystemTime;

use crate::key::diff::FieldChange;
use crate::key::digest::KeyId;
use crate::key::text::{self, KeyRecordError};
use crate::store::change_id::ChangeId;
use crate::store::kinds;
use crate::store::list::fingerprint;

/// A record of the audit trail: one write of one key. Each version of a key has one record.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TrailRecord {
    /// The action.
    pub action: Action,
    /// The key that was changed.
    pub key: KeyId,
    /// The version of the key after the write.
    pub version: u64,
    /// The account that the key belongs to.
    pub account: String,
    /// The change that the write is part of. All writes of one change share it.
    pub change: ChangeId,
    /// The time of the change, by the clock of the process that made it.
    pub at: SystemTime,
    /// The origin of the change: who asked for it, from where, and why.
    pub origin: Origin,
    /// The fields that differ. Secrets and values of metadata are left out.
    pub changes: Vec<FieldChange>,
}

impl TrailRecord {
    /// Creates a record of a write, for stores that read their trail. By default, the change id is
    /// `0`, the origin is unknown, and no fields differ.
    pub fn new(
        action: Action,
        key: KeyId,
        version: u64,
        account: impl Into<String>,
        at: SystemTime,
    ) -> Self {
        Self {
            action,
            key,
            version,
            account: account.into(),
            change: ChangeId::from_bytes([0; 16]),
            at,
            origin: Origin::default(),
            changes: Vec::new(),
        }
    }
}

impl TrailRecord {
    /// Returns the approximate size in bytes.
    pub(crate) fn size(&self) -> usize {
        let origin = &self.origin;
        let texts = [
            origin.reason.as_ref(),
            origin.request_id.as_ref(),
            origin.agent.as_ref(),
            origin.actor.name.as_ref(),
        ];
        let texts = texts.into_iter().flatten().map(String::len);
        let changes = self.changes.iter().map(FieldChange::size);
        size_of::<Self>()
            + self.account.len()
            + origin.actor.id.len()
            + texts.chain(changes).sum::<usize>()
    }
}

/// A query for a part of the audit trail, in an order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct TrailQuery {
    /// The key whose trail to read. Default: any.
    pub key: Option<KeyId>,
    /// The account whose trail to read. Default: any.
    pub account: Option<String>,
    /// `true` for the newest change first. Default: the oldest first.
    pub newest_first: bool,
}

impl TrailQuery {
    /// Creates a query for the whole trail, the oldest change first.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads only the trail of a key.
    #[must_use]
    pub fn with_key(mut self, key: impl Into<Option<KeyId>>) -> Self {
        self.key = key.into();
        self
    }

    /// Reads only the trail of an account.
    #[must_use]
    pub fn with_account(mut self, account: impl Into<Option<String>>) -> Self {
        self.account = account.into();
        self
    }

    /// Reads the newest change first.
    #[must_use]
    pub fn newest_first(mut self) -> Self {
        self.newest_first = true;
        self
    }

    /// Returns 16 hexadecimal digits that identify the query, for stores to put into cursors.
    pub fn fingerprint(&self) -> String {
        let key = self.key.map(|key| key.to_string());
        let order = if self.newest_first { "last" } else { "first" };
        fingerprint(&[Some(order), key.as_deref(), self.account.as_deref()])
    }

    /// Returns whether a record is in this part of the trail.
    pub fn matches(&self, record: &TrailRecord) -> bool {
        let account = self.account.as_deref();
        self.key.is_none_or(|key| key == record.key)
            && account.is_none_or(|account| account == record.account)
    }
}

/// The action of a trail record, such as `api_key.revoked`. Safe in logs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Action(Cow<'static, str>);

impl Action {
    /// A key was issued: `api_key.issued`.
    pub const ISSUED: Self = Self::of(kinds::API_KEY_ISSUED);
    /// A key was imported: `api_key.imported`.
    pub const IMPORTED: Self = Self::of("api_key.imported");
    /// Fields of a key were changed: `api_key.updated`.
    pub const UPDATED: Self = Self::of(kinds::API_KEY_UPDATED);
    /// A key was rotated: `api_key.rotated`.
    pub const ROTATED: Self = Self::of(kinds::API_KEY_ROTATED);
    /// A key was suspended: `api_key.suspended`.
    pub const SUSPENDED: Self = Self::of(kinds::API_KEY_SUSPENDED);
    /// The suspension of a key was ended: `api_key.resumed`.
    pub const RESUMED: Self = Self::of(kinds::API_KEY_RESUMED);
    /// A key was given a quota for a limited time: `api_key.throttled`.
    pub const THROTTLED: Self = Self::of(kinds::API_KEY_THROTTLED);
    /// The throttle of a key was ended: `api_key.unthrottled`.
    pub const UNTHROTTLED: Self = Self::of(kinds::API_KEY_UNTHROTTLED);
    /// A key was revoked: `api_key.revoked`.
    pub const REVOKED: Self = Self::of(kinds::API_KEY_REVOKED);

    /// A key ended that was not used for long: `api_key.retired`.
    pub const RETIRED: Self = Self::of(kinds::API_KEY_RETIRED);
    /// A key that was dead for long was deleted: `api_key.purged`.
    pub const PURGED: Self = Self::of("api_key.purged");

    const fn of(name: &'static str) -> Self {
        Self(Cow::Borrowed(name))
    }

    /// Creates an action of the application's own, or an action that a store has read: 1 to 64
    /// lower-case ASCII letters, digits, `_` and `.`.
    pub fn new(name: impl Into<String>) -> Result<Self, ActionError> {
        let name = name.into();
        if !text::is_dotted_name(&name) {
            return Err(ActionError(name));
        }
        Ok(Self(Cow::Owned(name)))
    }

    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An error for a text that is not the name of an action.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no action: use 1 to 64 lower-case letters, digits, '_' and '.'")]
pub struct ActionError(String);

/// The origin of a change: who asked for it, from where, and why. An [`Actor`] converts into an
/// origin.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Origin {
    /// The actor who asked for the change.
    pub actor: Actor,
    /// The reason.
    pub reason: Option<String>,
    /// The id of the request for the change.
    pub request_id: Option<String>,
    /// The address that the request came from.
    pub address: Option<IpAddr>,
    /// The program that the request came from, such as its `User-Agent`.
    pub agent: Option<String>,
}

impl Origin {
    /// Creates an origin with only an actor.
    pub fn new(actor: Actor) -> Self {
        Self {
            actor,
            ..Self::default()
        }
    }

    /// Sets the reason.
    #[must_use]
    pub fn with_reason(mut self, reason: impl Into<Option<String>>) -> Self {
        self.reason = reason.into();
        self
    }

    /// Sets the id of the request.
    #[must_use]
    pub fn with_request_id(mut self, id: impl Into<Option<String>>) -> Self {
        self.request_id = id.into();
        self
    }

    /// Sets the address that the request came from.
    #[must_use]
    pub fn with_address(mut self, address: impl Into<Option<IpAddr>>) -> Self {
        self.address = address.into();
        self
    }

    /// Sets the program that the request came from.
    #[must_use]
    pub fn with_agent(mut self, agent: impl Into<Option<String>>) -> Self {
        self.agent = agent.into();
        self
    }

    pub(super) fn check(&self) -> Result<(), KeyRecordError> {
        let request_id = self.request_id.as_deref().unwrap_or_default();
        text::check_indexed("the actor", &self.actor.id)?;
        text::check_indexed("the request id", request_id)?;
        let texts = [
            ("the actor's name", self.actor.name.as_deref()),
            ("a reason", self.reason.as_deref()),
            ("the agent", self.agent.as_deref()),
        ];
        for (field, value) in texts {
            text::check(field, value.unwrap_or_default())?;
        }
        Ok(())
    }
}

impl From<Actor> for Origin {
    fn from(actor: Actor) -> Self {
        Self::new(actor)
    }
}

/// The actor who changes keys.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub struct Actor {
    /// The kind of actor.
    pub kind: ActorKind,
    /// The actor's id, such as an email address or the id of a key. Empty if unknown.
    pub id: String,
    /// The actor's name, for human readers of the trail.
    pub name: Option<String>,
}

/// The kind of an [`Actor`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum ActorKind {
    /// The application did not name the actor.
    #[default]
    Unknown,
    /// A person.
    User,
    /// A program.
    Service,
    /// The holder of a key, who presented the key.
    Key,
    /// This library itself, by a rule that the application configured.
    System,
}

impl Actor {
    /// Creates an actor of a kind.
    pub fn new(kind: ActorKind, id: impl Into<String>) -> Self {
        Self {
            kind,
            id: id.into(),
            name: None,
        }
    }

    /// Creates a person.
    pub fn user(id: impl Into<String>) -> Self {
        Self::new(ActorKind::User, id)
    }

    /// Creates a program.
    pub fn service(id: impl Into<String>) -> Self {
        Self::new(ActorKind::Service, id)
    }

    /// Creates the holder of a key.
    pub fn key(id: KeyId) -> Self {
        Self::new(ActorKind::Key, id.to_string())
    }

    /// Sets the name, for human readers of the trail.
    #[must_use]
    pub fn with_name(mut self, name: impl Into<Option<String>>) -> Self {
        self.name = name.into();
        self
    }
}

impl ActorKind {
    /// Returns the name of the kind: `unknown`, `user`, `service`, `key` or `system`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::User => "user",
            Self::Service => "service",
            Self::Key => "key",
            Self::System => "system",
        }
    }
}

impl FromStr for ActorKind {
    type Err = ActorKindError;

    fn from_str(name: &str) -> Result<Self, ActorKindError> {
        let kinds = [
            Self::Unknown,
            Self::User,
            Self::Service,
            Self::Key,
            Self::System,
        ];
        let kind = kinds.into_iter().find(|kind| kind.as_str() == name);
        kind.ok_or_else(|| ActorKindError(name.to_owned()))
    }
}

/// An error for a text that is not the name of an [`ActorKind`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no kind of actor: use unknown, user, service, key or system")]
pub struct ActorKindError(String);

/// Prints the kind and the id, such as `user ops@example.com`.
impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.as_str())?;
        if self.id.is_empty() {
            return Ok(());
        }
        write!(f, " {}", self.id)
    }
}
