//! Announces expiries, and limits that are nearly used up: a task of the worker.

use std::convert::Infallible;
use std::future::pending;
use std::time::{Duration, SystemTime};

use crate::key::record::KeyRecord;
use crate::manage::key_events;
use crate::shared::Shared;
use crate::store::kinds::{API_KEY_EXPIRING, API_KEY_ROTATED_KEY_IN_USE};
use crate::store::{
    Actor, ActorKind, Change, DynManagedKeyStore, DynOutbox, Event, KeyQuery, ListedKey, Once,
    Paging, StoreError, in_time,
};
use crate::util::timestamp::{microseconds_down, rfc3339};
use crate::util::trace;

/// The time between two looks.
const EVERY: Duration = Duration::from_secs(60);

const DAY: Duration = Duration::from_secs(86_400);

/// The time for which a look goes back behind the end of the last one.
const OVERLAP: Duration = Duration::from_secs(300);

/// The time limit of a call.
const TIME_LIMIT: Duration = Duration::from_secs(10);

/// The days before an expiry on which it is announced, the earliest first.
const REMINDERS: [u32; 3] = [30, 7, 1];

/// The days before the end of a grace on which uses of the old key are told.
const LAST_CALLS: [u32; 2] = [7, 1];

/// The keys that are read, and whose events are stored, at a time.
const AT_ONCE: u32 = 100;

/// Announces expiries forever, if the store has an outbox.
pub(super) async fn announce(shared: &Shared) -> Infallible {
    let (Some(store), Some(outbox)) = (&shared.managed_store, &shared.outbox) else {
        return pending().await;
    };
    loop {
        // At once: in a new database, expiries are announced from the first look on.
        let now = microseconds_down(shared.now());
        if let Err(error) = announce_until(shared, &**store, &*outbox.0, now).await {
            trace::not_announced(&error);
        }
        if let Err(error) = announce_limits(shared, &**store).await {
            trace::not_announced(&error);
        }
        shared.clock.sleep(EVERY).await;
    }
}

/// Announces what waits for the next look, when the worker is stopped.
pub(super) async fn announce_what_waits(shared: &Shared) {
    let (Some(store), Some(_)) = (&shared.managed_store, &shared.outbox) else {
        return;
    };
    if let Err(error) = announce_limits(shared, &**store).await {
        trace::not_announced(&error);
    }
}

/// Announces the limits that are nearly used up.
async fn announce_limits(
    shared: &Shared,
    store: &dyn DynManagedKeyStore,
) -> Result<(), StoreError> {
    loop {
        let events = shared.nearly_used.waiting(AT_ONCE as usize);
        if events.is_empty() {
            return Ok(());
        }
        let mut change = Change::new(system(), shared.now());
        for (event, once) in &events {
            // One that no store can keep is left out alone.
            if let Err(error) = event.check() {
                trace::not_announced(&StoreError::refused(error));
                continue;
            }
            let added = change.add_event_once(event.clone(), *once);
            change = added.map_err(StoreError::refused)?;
        }
        in_time(&*shared.clock, TIME_LIMIT, store.commit(&change)).await?;
        // Only now: if the call is dropped, they are stored by the next one, whose marks leave out
        // what was stored.
        shared.nearly_used.stored(&events);
    }
}

fn system() -> Actor {
    Actor::new(ActorKind::System, "announcements")
}

/// Announces what has come near since the last look of any process.
///
/// Several processes may look at the same time. The mark of each event keeps it from being told
/// twice, and the time of the last look is set only when all is told.
async fn announce_until(
    shared: &Shared,
    store: &dyn DynManagedKeyStore,
    outbox: &dyn DynOutbox,
    now: SystemTime,
) -> Result<(), StoreError> {
    // In a new database, the first look begins now: earlier expiries are not announced.
    let until = in_time(&*shared.clock, TIME_LIMIT, outbox.announced_until())
        .await?
        .unwrap_or(now);
    let since = since(until, now);
    // Each by itself, so that what one look cannot read holds up no other.
    let mut result = Ok(());
    for days in REMINDERS.into_iter().chain([0]) {
        let look = Look { since, now, days };
        result = result.and(look.announce(shared, store).await);
    }
    result?;
    in_time(&*shared.clock, TIME_LIMIT, outbox.set_announced_until(now)).await
}

/// Returns the time that a look begins with, after the end of the last look.
///
/// It begins a little earlier: a change that ends a key at once is committed after that time, and
/// clocks differ. If a process with a wrong clock has set an end that lies far ahead, the last day
/// is looked at each time. The marks keep what was told from being told again.
fn since(until: SystemTime, now: SystemTime) -> SystemTime {
    let is_wrong = until.duration_since(now).is_ok_and(|ahead| ahead > OVERLAP);
    let (from, overlap) = if is_wrong {
        (now, DAY)
    } else {
        (until, OVERLAP)
    };
    from.min(now)
        .checked_sub(overlap)
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

/// A look at the keys that have come nearer to their expiry than a number of days since a time.
#[derive(Debug, Clone, Copy)]
struct Look {
    since: SystemTime,
    now: SystemTime,
    days: u32,
}

impl Look {
    async fn announce(
        self,
        shared: &Shared,
        store: &dyn DynManagedKeyStore,
    ) -> Result<(), StoreError> {
        let ahead = DAY * self.days;
        let after = |at: SystemTime| at.checked_add(ahead + Duration::from_micros(1));
        let (Some(from), Some(before)) = (after(self.since), after(self.now)) else {
            return Ok(()); // the end of time
        };
        let query = KeyQuery::new()
            .expiring_between(from, before)
            .leave_out_unreadable();
        let mut paging = Paging::first(AT_ONCE);
        loop {
            let page = in_time(&*shared.clock, TIME_LIMIT, store.list(&query, &paging)).await?;
            let mut change = Change::new(system(), self.now);
            for key in &page.items {
                if let Some((event, once)) = self.event(key) {
                    let added = change.add_event_once(event, once);
                    change = added.map_err(StoreError::refused)?;
                }
            }
            if change.steps().len() > 0 {
                in_time(&*shared.clock, TIME_LIMIT, store.commit(&change)).await?;
            }
            let Some(next) = page.next else { return Ok(()) };
            paging = paging.after(next);
        }
    }

    /// Returns the event about a key, if there is something to tell.
    fn event(self, key: &ListedKey) -> Option<(Event, Once)> {
        let record = &key.record;
        let end = record.expires_at()?;
        if record.revoked().is_some() || self.stage(end) != self.days {
            return None; // it ended before, or a nearer stage tells more
        }
        if self.days == 0 {
            return key_events::expired(record, self.now);
        }
        let once = |kind: &str| key_events::mark_of_end(kind, record, end, self.days);
        if record.rotated_to().is_some() {
            let event = self.still_used(key)?;
            return Some((event, once(API_KEY_ROTATED_KEY_IN_USE)));
        }
        // A key that was issued for a week need not be told at once that it ends in a week.
        let life = record
            .created_at()
            .and_then(|at| end.duration_since(at).ok());
        if life.is_some_and(|life| life <= DAY * self.days) {
            return None;
        }
        let event = Event::of_key(
            API_KEY_EXPIRING,
            record,
            self.now,
            [("days", self.days.into())],
        );
        Some((event, once(API_KEY_EXPIRING)))
    }

    /// Returns the least of the numbers of days that the expiry is nearer than; 0 if it is over.
    fn stage(self, end: SystemTime) -> u32 {
        let left = end.duration_since(self.now).unwrap_or_default();
        if left.is_zero() {
            return 0;
        }
        let reached = REMINDERS.into_iter().filter(|days| left <= DAY * *days);
        reached.min().unwrap_or(u32::MAX)
    }

    /// Returns the event about a key that was rotated, whose grace is nearly over, and which
    /// somebody still uses.
    fn still_used(self, key: &ListedKey) -> Option<Event> {
        let record: &KeyRecord = &key.record;
        let successor = record.rotated_to()?;
        let used = key.last_used_at?;
        // A use before the rotation, or long ago, tells nothing of today.
        let ago = self.now.duration_since(used).unwrap_or_default();
        let is_recent = used > successor.at && ago <= DAY * self.days;
        // In a grace of a week, every client still uses the old key a week before the end.
        let grace = record.expires_at()?.duration_since(successor.at);
        let is_short = grace.is_ok_and(|grace| grace <= DAY * self.days + OVERLAP);
        if !is_recent || is_short || !LAST_CALLS.contains(&self.days) {
            return None;
        }
        let more = [
            ("days", self.days.into()),
            ("successor_id", successor.successor.to_string().into()),
            ("last_used_at", rfc3339(used).into()),
        ];
        Some(Event::of_key(
            API_KEY_ROTATED_KEY_IN_USE,
            record,
            self.now,
            more,
        ))
    }
}
