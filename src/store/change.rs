//! Changes: what a store carries out as one transaction.

use std::time::SystemTime;

use crate::key::record::KeyRecord;
use crate::key::text::{self, KeyRecordError};
use crate::store::change_id::ChangeId;
use crate::store::event::Event;
use crate::store::trail::{Action, Origin, TrailRecord};
use crate::util::timestamp;

/// Writes that belong together, with the trail that they leave and the events that tell of them.
///
/// Each write of a record leaves one [`TrailRecord`]: who did it, when and why, and which fields
/// differ. Instants are kept to the microsecond, in records as in the trail.
///
/// ```
/// use std::time::SystemTime;
/// use tower_api_key::key::{KeyDigest, Revocation};
/// use tower_api_key::store::{Action, Actor, Change, Step};
/// use tower_api_key::KeyRecord;
///
/// let now = SystemTime::now();
/// let seen = KeyRecord::imported(KeyDigest::of("…"), "acme");
/// let revoked = seen.clone().with_revoked(Revocation::new(now));
/// let change = Change::new(Actor::user("ops@example.com"), now)
///     .update(Action::REVOKED, &seen, revoked)?;
/// for step in change.steps() {
///     if let Step::Update { record, trail } = step {
///         assert_eq!((record.version(), &trail.action), (2, &Action::REVOKED));
///     }
/// }
/// # Ok::<(), tower_api_key::key::KeyRecordError>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "a change does nothing until a store commits it"]
pub struct Change {
    id: ChangeId,
    origin: Origin,
    at: SystemTime,
    steps: Vec<Kept>,
}

/// A part of a [`Change`], to be carried out by a store.
///
/// Later versions of this library have more of them. A store that meets one that it does not know
/// must refuse the change ([`Refused`](crate::store::StoreErrorKind::Refused)).
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Step<'c> {
    /// Keeps a record that must not exist yet.
    Create {
        /// The record.
        record: &'c KeyRecord,
        /// What the trail says of it.
        trail: &'c TrailRecord,
    },
    /// Replaces a record that must exist with the version before.
    Update {
        /// The new record.
        record: &'c KeyRecord,
        /// What the trail says of it.
        trail: &'c TrailRecord,
    },
    /// Keeps an event.
    Event(&'c Event),
}

#[derive(Debug, Clone)]
enum Kept {
    Create(Box<(KeyRecord, TrailRecord)>),
    Update(Box<(KeyRecord, TrailRecord)>),
    Event(Box<Event>),
}

impl Change {
    /// Creates a change that does nothing yet, by somebody and at an instant.
    pub fn new(origin: impl Into<Origin>, at: SystemTime) -> Self {
        Self {
            id: ChangeId::unique(),
            origin: origin.into(),
            at: timestamp::microseconds_down(at),
            steps: Vec::new(),
        }
    }

    /// Adds a record that must not exist yet.
    ///
    /// # Errors
    /// If the record, or who is said to make the change, has a text or an instant that
    /// [not every store can keep](KeyRecord::check).
    pub fn create(mut self, action: Action, record: KeyRecord) -> Result<Self, KeyRecordError> {
        let write = self.write(action, None, record)?;
        self.steps.push(Kept::Create(Box::new(write)));
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
    ) -> Result<Self, KeyRecordError> {
        if seen.id() != record.id() {
            return Err(KeyRecordError::OfAnotherKey);
        }
        // A version beyond all that stores keep is refused with the record.
        let record = record.with_version(seen.version().saturating_add(1));
        let write = self.write(action, Some(seen), record)?;
        self.steps.push(Kept::Update(Box::new(write)));
        Ok(self)
    }

    /// Adds an event that the store keeps if it carries out the change, and only then.
    ///
    /// # Errors
    /// If the event has a text that not every store can keep, or data that is no JSON object.
    pub fn add_event(mut self, event: Event) -> Result<Self, KeyRecordError> {
        event.check()?;
        self.steps.push(Kept::Event(Box::new(event)));
        Ok(self)
    }

    /// Returns the id of the change, which no other change has.
    ///
    /// A store that keeps it can tell, when the answer to a commit was lost, whether the change was
    /// carried out.
    pub fn id(&self) -> ChangeId {
        self.id
    }

    /// Returns the instant of the change, by the clock of the process that makes it.
    pub fn at(&self) -> SystemTime {
        self.at
    }

    /// Returns who asked for the change.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Returns what is to be carried out, all of it or nothing, in the order in which it was added.
    pub fn steps(&self) -> impl ExactSizeIterator<Item = Step<'_>> {
        self.steps.iter().map(|step| match step {
            Kept::Create(write) => Step::Create {
                record: &write.0,
                trail: &write.1,
            },
            Kept::Update(write) => Step::Update {
                record: &write.0,
                trail: &write.1,
            },
            Kept::Event(event) => Step::Event(event),
        })
    }

    /// Returns the records that are written, in the order in which they were added.
    pub fn records(&self) -> impl Iterator<Item = &KeyRecord> {
        self.steps().filter_map(|step| match step {
            Step::Create { record, .. } | Step::Update { record, .. } => Some(record),
            Step::Event(_) => None,
        })
    }

    fn write(
        &self,
        action: Action,
        seen: Option<&KeyRecord>,
        record: KeyRecord,
    ) -> Result<(KeyRecord, TrailRecord), KeyRecordError> {
        record.check()?;
        self.origin.check()?;
        text::check_instant("the instant of the change", Some(self.at))?;
        let record = record.rounded();
        let (id, version) = (record.id(), record.version());
        let mut trail = TrailRecord::new(action, id, version, record.account(), self.at);
        trail.change = self.id;
        trail.origin = self.origin.clone();
        trail.changes = record.changes_since(seen);
        Ok((record, trail))
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::key::containment::{Suspension, Throttling};
    use crate::key::digest::KeyDigest;
    use crate::key::quota::Quota;
    use crate::store::trail::Actor;

    fn record() -> KeyRecord {
        KeyRecord::imported(KeyDigest::of("key"), "acme")
    }

    #[test]
    fn rounding_neither_lengthens_a_life_nor_shortens_what_contains_a_key() {
        let at = |nanoseconds| UNIX_EPOCH + Duration::from_nanos(nanoseconds);
        let fine = at(5_000_000_999);
        let (down, up) = (at(5_000_000_000), at(5_000_001_000));
        let record = record()
            .with_created_at(fine)
            .with_not_before(fine)
            .with_expires_at(fine)
            .with_suspended(Suspension::new(fine).with_until(fine))
            .with_throttled(Throttling::new(Quota::per_second(1), fine));
        let change = Change::new(Actor::default(), fine);
        let change = change.create(Action::ISSUED, record).unwrap();
        assert_eq!(change.at(), down);
        let kept = change.records().next().unwrap();
        assert_eq!(
            (kept.created_at(), kept.not_before()),
            (Some(down), Some(up))
        );
        assert_eq!(kept.expires_at(), Some(down));
        let suspended = kept.suspended().unwrap();
        assert_eq!((suspended.at, suspended.until), (down, Some(up)));
        assert_eq!(kept.throttled().unwrap().until, up);
        // What is said to differ is what is kept.
        let Some(Step::Create { trail, .. }) = change.steps().next() else {
            panic!("no record is created")
        };
        assert_eq!(trail.changes, kept.changes_since(None));
        // Once rounded, it stays as it is.
        assert_eq!(kept.clone().rounded(), *kept);
    }

    #[test]
    fn an_event_that_no_store_keeps_is_refused() {
        let of = |kind: &str, data: &str| {
            let event = Event::new(kind, UNIX_EPOCH).with_data(data);
            Change::new(Actor::default(), UNIX_EPOCH).add_event(event)
        };
        assert!(of("acme.test_2", "{\"a\": [1]}").is_ok());
        for kind in ["", "Acme", "acme test", "acme\0", &"a".repeat(65)] {
            assert!(matches!(of(kind, "{}"), Err(KeyRecordError::EventKind(_))));
        }
        for data in ["", "1", "[]", "{", "{} {}", "null"] {
            assert!(matches!(of("acme", data), Err(KeyRecordError::EventData)));
        }
    }
}
