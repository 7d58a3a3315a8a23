//! The events that tell of changes of keys.

use crate::key::record::KeyRecord;
use crate::key::text::KeyRecordError;
use crate::store::{Action, Change, Event, Step, TrailRecord};
use crate::util::timestamp::rfc3339;

/// The changes that are told, each for each key. A rotation and the end of an idle key are told with
/// more facts, by those who make them. Imports and deletions are not told, since they may be of a
/// million keys that nothing happens to.
const TOLD: [Action; 7] = [
    Action::ISSUED,
    Action::UPDATED,
    Action::SUSPENDED,
    Action::RESUMED,
    Action::THROTTLED,
    Action::UNTHROTTLED,
    Action::REVOKED,
];

/// Adds the events about the writes of a change, to be kept in the same transaction.
pub(super) fn announced(mut change: Change) -> Result<Change, KeyRecordError> {
    let mut events = Vec::new();
    for step in change.steps() {
        if let Step::Create { record, trail } | Step::Update { record, trail } = step {
            events.extend(event(record, trail));
        }
    }
    for event in events {
        change = change.add_event(event)?;
    }
    Ok(change)
}

fn event(record: &KeyRecord, trail: &TrailRecord) -> Option<Event> {
    // The event of the rotation names the successor.
    let is_successor = trail.action == Action::ISSUED && record.rotated_from().is_some();
    if is_successor || !TOLD.contains(&trail.action) {
        return None;
    }
    let actor = trail.origin.actor.kind.as_str();
    let fields: Vec<&str> = trail.changes.iter().map(|change| &*change.field).collect();
    let mut more = vec![("actor_kind", actor.into())];
    if trail.action == Action::UPDATED {
        more.push(("changed", fields.into()));
    }
    if let Some(suspended) = record.suspended()
        && trail.action == Action::SUSPENDED
    {
        more.push(("suspended_until", suspended.until.map(rfc3339).into()));
    }
    if let Some(throttled) = record.throttled()
        && trail.action == Action::THROTTLED
    {
        more.push(("throttled_until", rfc3339(throttled.until).into()));
    }
    Some(Event::of_key(trail.action.as_str(), record, trail.at, more))
}
