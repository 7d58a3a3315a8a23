//! Changes: what a store carries out as one transaction.

use std::time::SystemTime;

use crate::key::record::KeyRecord;
use crate::key::text::{self, InvalidRecord};
use crate::store::event::Event;
use crate::store::trail::{Action, Origin, TrailRecord};

/// Writes that belong together, with the trail that they leave and the events that tell of them.
///
/// Each write of a record leaves one [`TrailRecord`]: who did it, when and why, and which fields
/// differ.
///
/// ```
/// use std::time::SystemTime;
/// use tower_api_key::{Action, Actor, Change, KeyDigest, KeyRecord, Revocation};
///
/// let now = SystemTime::now();
/// let seen = KeyRecord::imported(KeyDigest::of("…"), "acme");
/// let revoked = seen.clone().with_revoked(Revocation::new(now));
/// let change = Change::new(Actor::user("ops@example.com"), now)
///     .update(Action::REVOKED, &seen, revoked)?;
/// assert_eq!(change.updates()[0].version(), 2);
/// assert_eq!(change.trail()[0].action, Action::REVOKED);
/// # Ok::<(), tower_api_key::InvalidRecord>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "a change does nothing until a store commits it"]
pub struct Change {
    origin: Origin,
    at: SystemTime,
    creates: Vec<KeyRecord>,
    updates: Vec<KeyRecord>,
    trail: Vec<TrailRecord>,
    events: Vec<Event>,
}

impl Change {
    /// Creates a change that does nothing yet, by somebody and at an instant.
    pub fn new(origin: impl Into<Origin>, at: SystemTime) -> Self {
        Self {
            origin: origin.into(),
            at,
            creates: Vec::new(),
            updates: Vec::new(),
            trail: Vec::new(),
            events: Vec::new(),
        }
    }

    /// Adds a record that must not exist yet.
    ///
    /// # Errors
    /// If the record, or who is said to make the change, has a text or an instant that
    /// [not every store can keep](KeyRecord::check).
    pub fn create(mut self, action: Action, record: KeyRecord) -> Result<Self, InvalidRecord> {
        self.leave_trail(action, None, &record)?;
        self.creates.push(record);
        Ok(self)
    }

    /// Replaces a record that must exist as it was seen. The new one gets the version after that of
    /// the one that was seen.
    ///
    /// # Errors
    /// As [`create`](Self::create), and if the two are not of one key.
    pub fn update(
        mut self,
        action: Action,
        seen: &KeyRecord,
        record: KeyRecord,
    ) -> Result<Self, InvalidRecord> {
        if seen.id() != record.id() {
            return Err(InvalidRecord::OfAnotherKey);
        }
        // A version beyond all that stores keep is refused with the record.
        let record = record.with_version(seen.version().saturating_add(1));
        self.leave_trail(action, Some(seen), &record)?;
        self.updates.push(record);
        Ok(self)
    }

    /// Adds an event that the store keeps if it carries out the change, and only then.
    ///
    /// # Errors
    /// If the event has a text that not every store can keep.
    pub fn event(mut self, event: Event) -> Result<Self, InvalidRecord> {
        event.check()?;
        self.events.push(event);
        Ok(self)
    }

    /// Returns the records that must not exist yet.
    pub fn creates(&self) -> &[KeyRecord] {
        &self.creates
    }

    /// Returns the records that must exist, each with the version before its own.
    pub fn updates(&self) -> &[KeyRecord] {
        &self.updates
    }

    /// Returns the trail that the change leaves: one record for each write.
    pub fn trail(&self) -> &[TrailRecord] {
        &self.trail
    }

    /// Returns the events that tell of the change.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    fn leave_trail(
        &mut self,
        action: Action,
        seen: Option<&KeyRecord>,
        record: &KeyRecord,
    ) -> Result<(), InvalidRecord> {
        record.check()?;
        self.origin.check()?;
        text::check_instant("the instant of the change", Some(self.at))?;
        let mut trail = TrailRecord::new(action, record, self.at, self.origin.clone());
        trail.changes = record.changes_since(seen);
        self.trail.push(trail);
        Ok(())
    }
}
