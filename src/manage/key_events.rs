//! The events that tell of changes of keys.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::key::record::KeyRecord;
use crate::key::text::KeyRecordError;
use crate::store::kinds::{API_KEY_EXPIRED, API_KEY_REVOKED};
use crate::store::{Action, Change, Event, Once, Step, TrailRecord};
use crate::util::timestamp::rfc3339;

/// The changes that are told, each for each key. A rotation and the end of an idle key are told
/// with more facts, by those who make them. Imports and deletions publish no events: one call may
/// cover a million keys.
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
    let mut ends = Vec::new();
    for step in change.steps() {
        match step {
            // A key that is imported may have ended years ago, which is no news.
            Step::Create { record, trail } => events.extend(event(record, trail)),
            Step::Update { record, trail } => {
                events.extend(event(record, trail));
                ends.extend(end(record, trail));
            }
            _ => {}
        }
    }
    for event in events {
        change = change.add_event(event)?;
    }
    for (event, once) in ends {
        change = change.add_event_once(event, once)?;
    }
    Ok(change)
}

/// Returns the event about a key that a change of its expiry has ended. A sweep finds ends of the
/// last minutes only, and not one that was set to an hour ago.
fn end(record: &KeyRecord, trail: &TrailRecord) -> Option<(Event, Once)> {
    let is_changed = trail.changes.iter().any(|it| it.field == "expires_at");
    // An expiry is rounded up, and the time of a change down.
    let now = trail.at + Duration::from_micros(1);
    let has_ended = record.expires_at().is_some_and(|end| end <= now);
    let is_told = is_changed && has_ended && record.revoked().is_none();
    is_told.then(|| expired(record, trail.at)).flatten()
}

/// Returns the event about a key that has expired, and its mark.
pub(crate) fn expired(record: &KeyRecord, at: SystemTime) -> Option<(Event, Once)> {
    let mark = mark_of_end(API_KEY_EXPIRED, record, record.expires_at()?, 0);
    Some((Event::of_key(API_KEY_EXPIRED, record, at, []), mark))
}

/// Returns the mark of an event about the end of a key, some days before it. If the end is changed,
/// there is another mark.
pub(crate) fn mark_of_end(kind: &str, record: &KeyRecord, end: SystemTime, days: u32) -> Once {
    let end = end.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (end, days) = (end.as_micros().to_string(), days.to_string());
    Once::of([kind, &record.id().to_string(), &end, &days])
}

fn event(record: &KeyRecord, trail: &TrailRecord) -> Option<Event> {
    let mut more = vec![actor_kind(trail)];
    let is_revoked = trail.changes.iter().any(|it| it.field == "revoked_at");
    if trail.action == Action::ROTATED && is_revoked {
        // A rotation of a compromised key is also its revocation.
        return Some(Event::of_key(API_KEY_REVOKED, record, trail.at, more));
    }
    // The event of the rotation names the successor.
    let is_successor = trail.action == Action::ISSUED && record.rotated_from().is_some();
    if is_successor || !TOLD.contains(&trail.action) {
        return None;
    }
    if trail.action == Action::UPDATED {
        more.push(("changed", changed(trail).into()));
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

/// Returns the names of the fields that a change has changed, without the names of entries: there
/// may be many, and those of metadata belong to the application.
fn changed(trail: &TrailRecord) -> Vec<&str> {
    let names = trail.changes.iter().map(|it| it.field.as_str());
    let mut names: Vec<&str> = names
        .map(|name| name.split_once('.').map_or(name, |(map, _)| map))
        .collect();
    names.dedup();
    names
}

/// Returns the fact of who has made a change.
fn actor_kind(trail: &TrailRecord) -> (&'static str, Value) {
    ("actor_kind", trail.origin.actor.kind.as_str().into())
}
