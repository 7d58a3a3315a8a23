//! Changes: transactions of a store.

use std::time::SystemTime;

use crate::key::digest::KeyId;
use crate::key::record::KeyRecord;
use crate::key::text::{self, KeyRecordError};
use crate::store::account_cap::AccountCap;
use crate::store::change_id::ChangeId;
use crate::store::endpoint::Endpoint;
use crate::store::event::Event;
use crate::store::issue_request::IssueRequest;
use crate::store::once::Once;
use crate::store::trail::{Action, Origin, TrailRecord};
use crate::util::timestamp;

/// A transaction: writes that belong together, with their audit trail and their events.
///
/// Each write of a record adds one [`TrailRecord`]: who changed the key, when and why, and the
/// fields that differ. Times are stored with microsecond precision, in records and in the trail.
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
    steps: Vec<OwnedStep>,
}

/// A step of a [`Change`], to be carried out by a store.
///
/// Later versions of this library may add steps. A store must refuse a change with a step that it
/// does not know ([`Refused`](crate::store::StoreErrorKind::Refused)).
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Step<'c> {
    /// Inserts a record that must not exist yet.
    Create {
        /// The record.
        record: &'c KeyRecord,
        /// The trail record of this write.
        trail: &'c TrailRecord,
    },
    /// Replaces a record that must exist with the preceding version.
    Update {
        /// The new record.
        record: &'c KeyRecord,
        /// The trail record of this write.
        trail: &'c TrailRecord,
    },
    /// Deletes a record that must exist in this version. The trail of the key stays, and so do its
    /// counts of usage.
    Delete {
        /// The record.
        record: &'c KeyRecord,
        /// The trail record of this write, of the next version.
        trail: &'c TrailRecord,
    },
    /// Remembers a request for a key.
    Request {
        /// The request.
        request: &'c IssueRequest,
        /// The key that was issued for this request before, which must be the remembered one. If
        /// `None`, the request must not be remembered yet.
        replaces: Option<KeyId>,
    },
    /// Checks a cap after all other steps, so that concurrent changes cannot exceed it together.
    Cap(&'c AccountCap),
    /// Stores an event.
    Event {
        /// The event.
        event: &'c Event,
        /// Leaves the event out if the store has this mark, and keeps the mark otherwise: of several
        /// changes at once, one tells the event. Of two events of a change with the same mark, the
        /// second is left out. A store keeps a mark for as long as the event, and for two more
        /// months.
        once: Option<Once>,
        /// Delivers the event to the endpoint with this id only, whatever that takes, and even if
        /// it is disabled: the delivery waits then. If `None`, the event is delivered to all
        /// endpoints that [take](crate::store::Endpoint::takes) it.
        only_to: Option<&'c str>,
    },
}

/// A [`Step`] that owns its data.
#[derive(Debug, Clone)]
enum OwnedStep {
    Create(Box<(KeyRecord, TrailRecord)>),
    Update(Box<(KeyRecord, TrailRecord)>),
    Delete(Box<(KeyRecord, TrailRecord)>),
    Request(Box<IssueRequest>, Option<KeyId>),
    Cap(AccountCap),
    Event(Box<(Event, Option<Once>, Option<String>)>),
}

impl Change {
    /// Creates a change without steps.
    pub fn new(origin: impl Into<Origin>, at: SystemTime) -> Self {
        Self {
            id: ChangeId::unique(),
            origin: origin.into(),
            at: timestamp::microseconds_down(at),
            steps: Vec::new(),
        }
    }

    /// Adds a step that inserts a record, which must not exist yet.
    ///
    /// # Errors
    /// If the record or the origin has a text or a time that [not every store can
    /// keep](KeyRecord::check).
    pub fn create(mut self, action: Action, record: KeyRecord) -> Result<Self, KeyRecordError> {
        let write = self.write(action, None, record)?;
        self.steps.push(OwnedStep::Create(Box::new(write)));
        Ok(self)
    }

    /// Adds a step that replaces a record, which must still exist in the version `seen`. The new
    /// record gets the next version.
    ///
    /// # Errors
    /// As [`create`](Self::create), and if the two records are not of the same key.
    pub fn update(
        mut self,
        action: Action,
        seen: &KeyRecord,
        record: KeyRecord,
    ) -> Result<Self, KeyRecordError> {
        if seen.id() != record.id() {
            return Err(KeyRecordError::OfAnotherKey);
        }
        // A version that is too high for stores is refused together with the record.
        let record = record.with_version(seen.version().saturating_add(1));
        let write = self.write(action, Some(seen), record)?;
        self.steps.push(OwnedStep::Update(Box::new(write)));
        Ok(self)
    }

    /// Adds a step that deletes a record, which must still exist in the version `seen`. Its trail
    /// stays, and ends with a record of the next version.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub fn delete(mut self, action: Action, seen: &KeyRecord) -> Result<Self, KeyRecordError> {
        let next = seen.clone().with_version(seen.version().saturating_add(1));
        let (_, mut trail) = self.write(action, Some(seen), next)?;
        trail.changes.clear();
        self.steps
            .push(OwnedStep::Delete(Box::new((seen.clone(), trail))));
        Ok(self)
    }

    /// Adds a step that remembers a request for a key. `replaces` names the key that was issued for
    /// the same request before, if there is one.
    ///
    /// # Errors
    /// If the time of the request is one that not every store can keep.
    pub fn add_request(
        mut self,
        request: IssueRequest,
        replaces: Option<KeyId>,
    ) -> Result<Self, KeyRecordError> {
        request.check()?;
        self.steps
            .push(OwnedStep::Request(Box::new(request), replaces));
        Ok(self)
    }

    /// Adds a cap on the keys of an account. If the change exceeds it, nothing is written, and the
    /// error is of the kind [`CapReached`](crate::store::StoreErrorKind::CapReached).
    ///
    /// # Errors
    /// If the account or the time is one that not every store can keep.
    pub fn add_cap(mut self, cap: AccountCap) -> Result<Self, KeyRecordError> {
        cap.check()?;
        self.steps.push(OwnedStep::Cap(cap));
        Ok(self)
    }

    /// Adds an event that the store keeps if, and only if, it carries out the change.
    ///
    /// # Errors
    /// If the event has a text that not every store can keep, or data that is not a JSON object.
    pub fn add_event(mut self, event: Event) -> Result<Self, KeyRecordError> {
        event.check()?;
        self.steps
            .push(OwnedStep::Event(Box::new((event, None, None))));
        Ok(self)
    }

    /// Adds an event as [`add_event`](Self::add_event) does, which is left out if an event with the
    /// same mark was stored before. The change is carried out in any case.
    ///
    /// # Errors
    /// As [`add_event`](Self::add_event).
    pub fn add_event_once(mut self, event: Event, once: Once) -> Result<Self, KeyRecordError> {
        event.check()?;
        self.steps
            .push(OwnedStep::Event(Box::new((event, Some(once), None))));
        Ok(self)
    }

    /// Adds an event as [`add_event`](Self::add_event) does, which is delivered to one endpoint
    /// only, such as a test of it.
    ///
    /// The event is kept even if there is no such endpoint. If the endpoint is disabled, the
    /// delivery waits.
    ///
    /// # Errors
    /// As [`add_event`](Self::add_event), and if no endpoint can have the id.
    pub fn add_event_to(
        mut self,
        endpoint: impl Into<String>,
        event: Event,
    ) -> Result<Self, KeyRecordError> {
        event.check()?;
        let endpoint = endpoint.into();
        if !Endpoint::is_id(&endpoint) {
            return Err(KeyRecordError::EndpointId(endpoint));
        }
        self.steps
            .push(OwnedStep::Event(Box::new((event, None, Some(endpoint)))));
        Ok(self)
    }

    /// Returns the unique id of the change.
    ///
    /// A store that keeps the ids can tell whether a change was carried out when the response to a
    /// commit was lost.
    pub fn id(&self) -> ChangeId {
        self.id
    }

    /// Returns the time of the change, by the clock of the process that makes it.
    pub fn at(&self) -> SystemTime {
        self.at
    }

    /// Returns the origin of the change.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Returns the steps, in the order in which they were added. A store carries out all of them or
    /// none.
    pub fn steps(&self) -> impl ExactSizeIterator<Item = Step<'_>> {
        self.steps.iter().map(|step| match step {
            OwnedStep::Create(write) => Step::Create {
                record: &write.0,
                trail: &write.1,
            },
            OwnedStep::Update(write) => Step::Update {
                record: &write.0,
                trail: &write.1,
            },
            OwnedStep::Delete(write) => Step::Delete {
                record: &write.0,
                trail: &write.1,
            },
            OwnedStep::Request(request, replaces) => Step::Request {
                request,
                replaces: *replaces,
            },
            OwnedStep::Cap(cap) => Step::Cap(cap),
            OwnedStep::Event(step) => Step::Event {
                event: &step.0,
                once: step.1,
                only_to: step.2.as_deref(),
            },
        })
    }

    /// Returns the records that are created and updated, in the order in which they were added.
    pub fn records(&self) -> impl Iterator<Item = &KeyRecord> {
        self.steps().filter_map(|step| match step {
            Step::Create { record, .. } | Step::Update { record, .. } => Some(record),
            _ => None,
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
    fn rounding_never_extends_a_key_or_shortens_its_containment() {
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
    fn an_invalid_event_is_refused() {
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
