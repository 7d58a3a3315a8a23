//! Events: notifications of changes for other systems.

use std::time::SystemTime;

use serde_json::{Map, Value};

use crate::key::digest::KeyId;
use crate::key::environment::Environment;
use crate::key::record::KeyRecord;
use crate::key::text::{self, KeyRecordError};
use crate::store::page::Cursor;
use crate::util::timestamp::rfc3339;

/// The most bytes of a name in an event.
const MOST_TEXT: usize = 255;

/// A notification of a change for other systems. A store keeps it in the transaction of its
/// [`Change`](crate::store::Change). An event never contains a key.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Event {
    /// The kind of event, such as `api_key.rotated`: 1 to 64 lower-case ASCII letters, digits, `_`
    /// and `.`.
    pub kind: String,
    /// The time of the change.
    pub at: SystemTime,
    /// The key that the event is about, if any.
    pub key: Option<KeyId>,
    /// The account that the event is about, if any.
    pub account: Option<String>,
    /// The data of the event: a JSON object of at most 16 KiB, stored byte for byte.
    pub data: String,
}

impl Event {
    /// Creates an event without a key, an account or data.
    pub fn new(kind: impl Into<String>, at: SystemTime) -> Self {
        Self {
            kind: kind.into(),
            at,
            key: None,
            account: None,
            data: "{}".to_owned(),
        }
    }

    /// Creates an event about a key: with its account, and its facts as data, which has no secret.
    /// `more` is added to the data.
    pub(crate) fn of_key<'m>(
        kind: &str,
        record: &KeyRecord,
        at: SystemTime,
        more: impl IntoIterator<Item = (&'m str, Value)>,
    ) -> Self {
        let text =
            |text: Option<&str>| text.map(|text| text::beginning(text, MOST_TEXT).to_owned());
        let environment = record.environment().map(Environment::as_str);
        let facts: [(&str, Value); 7] = [
            ("key_id", record.id().to_string().into()),
            ("account", record.account().into()),
            ("name", text(record.name()).into()),
            ("prefix", record.prefix().into()),
            ("environment", environment.into()),
            ("version", record.version().into()),
            ("expires_at", record.expires_at().map(rfc3339).into()),
        ];
        let facts = facts.into_iter().chain(more);
        let data: Map<String, Value> = facts.map(|(name, it)| (name.to_owned(), it)).collect();
        Self::new(kind, at)
            .with_key(record.id())
            .with_account(record.account().to_owned())
            .with_data(Value::Object(data).to_string())
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

    /// Sets the data: a JSON object.
    #[must_use]
    pub fn with_data(mut self, data: impl Into<String>) -> Self {
        self.data = data.into();
        self
    }

    /// Returns the approximate size in bytes.
    pub(crate) fn size(&self) -> usize {
        let account = self.account.as_ref().map_or(0, String::len);
        size_of::<Self>() + self.kind.len() + account + self.data.len()
    }

    /// Checks that every store can keep the event.
    pub(crate) fn check(&self) -> Result<(), KeyRecordError> {
        if !text::is_dotted_name(&self.kind) {
            return Err(KeyRecordError::EventKind(self.kind.clone()));
        }
        text::check_indexed("the account", self.account.as_deref().unwrap_or_default())?;
        text::check("the data of an event", &self.data)?;
        if serde_json::from_str::<Map<_, _>>(&self.data).is_err() {
            return Err(KeyRecordError::EventData);
        }
        text::check_instant("the instant of an event", Some(self.at))
    }
}

/// An event as stored, with its id.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeptEvent {
    /// The unique id of the event, which does not change: 1 to 64 ASCII letters, digits, `_` and
    /// `-`, since it is the `webhook-id` of deliveries. An event with another id is not delivered to
    /// webhooks.
    pub id: String,
    /// The event.
    pub event: Event,
}

impl KeptEvent {
    /// Creates an event with the id that a store assigned.
    pub fn new(id: impl Into<String>, event: Event) -> Self {
        Self {
            id: id.into(),
            event,
        }
    }
}

/// A page of an unbounded list, such as events.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Followed<T> {
    /// The items, in the order of the list.
    pub items: Vec<T>,
    /// The cursor to continue with, now or later.
    pub next: Cursor,
    /// `true` if there are no more items at present.
    pub is_end: bool,
    /// `true` if items after the requested position are no longer kept.
    pub gap: bool,
}

impl<T> Followed<T> {
    /// Creates a page that is not the end, and has no gap.
    pub fn new(items: Vec<T>, next: Cursor) -> Self {
        Self {
            items,
            next,
            is_end: false,
            gap: false,
        }
    }

    /// Sets whether there are no more items at present.
    #[must_use]
    pub fn end(mut self, is_end: bool) -> Self {
        self.is_end = is_end;
        self
    }

    /// Sets whether items are missing.
    #[must_use]
    pub fn gap(mut self, gap: bool) -> Self {
        self.gap = gap;
        self
    }
}

/// A position in an unbounded list.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Start {
    /// The first item that is still kept.
    Beginning,
    /// After the last item at the time of the call.
    Now,
    /// After the cursor.
    After(Cursor),
}
