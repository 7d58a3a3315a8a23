//! The suite for stores that keep events.

use std::collections::HashSet;
use std::time::{Duration, UNIX_EPOCH};

use crate::conformance::keeps::{Keeps, Part};
use crate::conformance::promise::Promise;
use crate::conformance::records::{Digests, named};
use crate::store::{
    Action, Actor, Change, Cursor, Event, KeptEvent, ManagedKeyStore, Once, Start, StoreErrorKind,
};
use crate::util::join_all::join_all;

const ANSWERS: Promise = Promise("a live store answers");
const REFUSED: Promise = Promise("what is not kept is refused to be read");
const TOLD: Promise = Promise("events are read once, in order, as they were committed");
const NOTHING: Promise = Promise("a change that fails tells no event");
const LIMIT: Promise = Promise("no more events are read than were asked for");
const IDS: Promise = Promise("each event has an id of its own, which does not change");
const FOLLOWED: Promise = Promise("what was read is not read again from the next place on");
const CURSORS: Promise = Promise("a cursor of nobody is refused");
const ONCE: Promise = Promise("an event is told once, by one of those who tell it");
const CARRIED_OUT: Promise = Promise("a change is carried out, also without an event");
const ENDS: Promise = Promise("the events that are kept come to an end");

/// The number of concurrent committers of one fact.
const RIVALS: usize = 8;

/// The maximum number of calls until all events of a run are read.
const MOST_CALLS: usize = 100_000;

pub(super) async fn suite<S: ManagedKeyStore>(store: &S, keeps: &Keeps) {
    if !keeps.keeps_part(Part::Events) {
        let refused = store.events(&Start::Beginning, 1).await;
        let refused = refused.map_err(|error| error.kind());
        return REFUSED.holds(
            matches!(refused, Err(StoreErrorKind::Refused)),
            format_args!("{refused:?}"),
        );
    }
    let mut digests = Digests::new();
    let at = UNIX_EPOCH + Duration::from_secs(1_767_225_600);
    let account = format!("acme {}", digests.id());
    let event = |kind: &str| {
        Event::new(kind, at)
            .with_account(account.clone())
            .with_data("{\"ünïcode\": [\"\\u0000\",  1]}")
    };
    let record = named(digests.next(), "key");
    let (first, second) = (
        event("api_key.issued"),
        event("acme.second").with_key(record.id()),
    );
    let (third, later, failed) = (
        event("acme.third"),
        event("acme.later"),
        event("acme.failed"),
    );
    let change = |events: &[&Event]| {
        let change = Change::new(Actor::service("conformance"), at);
        let mut events = events.iter();
        let change = events.try_fold(change, |change, event| change.add_event((*event).clone()));
        change.expect("the suite's events can be kept")
    };
    let create = |change: Change| {
        let change = change.create(Action::ISSUED, record.clone());
        change.expect("the suite's records can be kept")
    };
    let now = store.events(&Start::Now, 1).await;
    let begin = ANSWERS.answer(now, "events").next;
    let created = store.commit(&create(change(&[&first, &second]))).await;
    ANSWERS.answer(created, "commit");
    let again = store.commit(&create(change(&[&failed]))).await;
    NOTHING.holds(again.is_err(), "a record was created twice");
    // An event need not belong to a change of a key, such as one about a key that will expire soon.
    ANSWERS.answer(store.commit(&change(&[&third])).await, "commit");

    let is_ours = |kept: &KeptEvent| kept.event.account.as_deref() == Some(account.as_str());
    let (read, end) = read_on(store, &begin, is_ours).await;
    let events: Vec<&Event> = read.iter().map(|kept| &kept.event).collect();
    TOLD.holds(
        events == [&first, &second, &third],
        format_args!("{read:?}"),
    );
    let ids: HashSet<&str> = read.iter().map(|kept| kept.id.as_str()).collect();
    let (again, _) = read_on(store, &begin, is_ours).await;
    IDS.holds(
        ids.len() == 3 && again == read,
        format_args!("{again:?} after {read:?}"),
    );
    let (read, end) = read_on(store, &end, is_ours).await;
    FOLLOWED.holds(read.is_empty(), format_args!("{read:?} is read again"));
    // One for an endpoint that does not exist is kept as any other.
    let to_nobody = change(&[]).add_event_to("nobody", later.clone());
    let to_nobody = to_nobody.expect("the suite's events can be kept");
    ANSWERS.answer(store.commit(&to_nobody).await, "commit");
    let (read, _) = read_on(store, &end, is_ours).await;
    let read: Vec<&Event> = read.iter().map(|kept| &kept.event).collect();
    FOLLOWED.holds(read == [&later], format_args!("{read:?}"));

    tells_once(store).await;

    for nobody in ["", "x", "-"] {
        let refused = store.events(&Start::After(Cursor::new(nobody)), 1).await;
        let refused = refused.map_err(|error| error.kind());
        CURSORS.holds(
            matches!(refused, Err(StoreErrorKind::InvalidCursor)),
            format_args!("{refused:?}"),
        );
    }
}

/// Tests marks: several processes find the same fact.
async fn tells_once<S: ManagedKeyStore>(store: &S) {
    let mut digests = Digests::new();
    let account = format!("acme {}", digests.id());
    let at = UNIX_EPOCH + Duration::from_secs(1_767_225_600);
    let mark = |name: &str| Once::of([account.as_str(), name]);
    let once = |change: Change, kind: &str, name: &str| {
        let event = Event::new(kind, at).with_account(account.clone());
        let change = change.add_event_once(event, mark(name));
        change.expect("the suite's events can be kept")
    };
    let change = || Change::new(Actor::service("conformance"), at);
    let begin = ANSWERS
        .answer(store.events(&Start::Now, 1).await, "events")
        .next;
    // In another order, so that they would wait for each other in a circle.
    let rivals = (0..RIVALS).map(|rival| {
        let names = if rival % 2 == 0 {
            ["one", "two"]
        } else {
            ["two", "one"]
        };
        let tell = |change, name: &str| once(change, &format!("acme.{name}"), name);
        names.into_iter().fold(change(), tell)
    });
    let rivals: Vec<Change> = rivals.collect();
    for committed in join_all(rivals.iter().map(|rival| store.commit(rival))).await {
        ANSWERS.answer(committed, "commit");
    }
    let twice = once(
        once(change(), "acme.first", "twice"),
        "acme.second",
        "twice",
    );
    ANSWERS.answer(store.commit(&twice).await, "commit");
    // A change that fails has told nothing, and one that tells nothing is carried out.
    let record = named(digests.next(), "key");
    let create = |name: &str| {
        let change = once(change(), &format!("acme.{name}"), name);
        let change = change.create(Action::ISSUED, record.clone());
        change.expect("the suite's records can be kept")
    };
    ANSWERS.answer(store.commit(&create("two")).await, "commit");
    let found = ANSWERS.answer(store.find_committed(&record.id()).await, "find_committed");
    CARRIED_OUT.holds(found.is_some(), "the key of a change was not created");
    let again = store.commit(&create("three")).await;
    NOTHING.holds(again.is_err(), "a record was created twice");
    let three = once(change(), "acme.three", "three");
    for _ in 0..2 {
        ANSWERS.answer(store.commit(&three).await, "commit");
    }
    let is_ours = |kept: &KeptEvent| kept.event.account.as_deref() == Some(account.as_str());
    let (read, _) = read_on(store, &begin, is_ours).await;
    let mut kinds: Vec<&str> = read.iter().map(|it| it.event.kind.as_str()).collect();
    kinds.sort_unstable();
    ONCE.holds(
        kinds == ["acme.first", "acme.one", "acme.three", "acme.two"],
        format_args!("{kinds:?}"),
    );
}

/// Reads all events after a cursor, and returns those of this run, and the cursor to continue from.
async fn read_on<S: ManagedKeyStore>(
    store: &S,
    begin: &Cursor,
    is_ours: impl Fn(&KeptEvent) -> bool,
) -> (Vec<KeptEvent>, Cursor) {
    let mut ours = Vec::new();
    let mut next = begin.clone();
    // Alternate between one event and many.
    for limit in [1, 100].into_iter().cycle().take(MOST_CALLS) {
        let read = store.events(&Start::After(next), limit).await;
        let read = ANSWERS.answer(read, "events");
        LIMIT.holds(
            read.items.len() <= limit as usize,
            format_args!("{} events instead of at most {limit}", read.items.len()),
        );
        TOLD.holds(!read.gap, "a gap after events that were just committed");
        ours.extend(read.items.into_iter().filter(&is_ours));
        next = read.next;
        if read.is_end {
            return (ours, next);
        }
    }
    ENDS.holds(false, format_args!("{MOST_CALLS} calls and more to come"));
    (ours, next)
}
