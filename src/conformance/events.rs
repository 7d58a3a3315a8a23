//! What a store promises that keeps events.

use std::time::{Duration, UNIX_EPOCH};

use crate::conformance::keeps::{Keeps, Part};
use crate::conformance::promise::Promise;
use crate::conformance::records::{Digests, named};
use crate::store::{Action, Actor, Change, Cursor, Event, ManagedKeyStore, Paging, StoreErrorKind};

const ANSWERS: Promise = Promise("a live store answers");
const REFUSED: Promise = Promise("what is not kept is refused to be read");
const TOLD: Promise = Promise("events are read once, in order, as they were committed");
const NOTHING: Promise = Promise("a change that fails tells no event");
const FOLLOWED: Promise = Promise("the last page says where to read on");
const CURSORS: Promise = Promise("a cursor of nobody is refused");

pub(super) async fn suite<S: ManagedKeyStore>(store: &S, keeps: &Keeps) {
    if !keeps.keeps(Part::Events) {
        let refused = store.events(&Paging::first(1)).await;
        let refused = refused.map_err(|error| error.kind());
        return REFUSED.holds(
            matches!(refused, Err(StoreErrorKind::Refused)),
            format_args!("{refused:?}"),
        );
    }
    let mut digests = Digests::new();
    let begin = read_on(store, None, |_| false).await.1;
    let at = UNIX_EPOCH + Duration::from_secs(1_767_225_600);
    let account = format!("acme {}", digests.id());
    let is_ours = |event: &Event| event.account.as_deref() == Some(account.as_str());
    let event = |kind: &str| {
        Event::new(kind, at)
            .with_account(account.clone())
            .with_data("{\"ünïcode\": [\"\\u0000\", 1]}")
    };
    let record = named(digests.next(), "key");
    let (first, second) = (
        event("api_key.issued"),
        event("acme.second").with_key(record.id()),
    );
    let (third, failed) = (event("acme.third"), event("acme.failed"));
    let change = |events: &[&Event]| {
        let change = Change::new(Actor::service("conformance"), at);
        let change = events
            .iter()
            .try_fold(change, |change, event| change.event((*event).clone()));
        change.expect("the suite's events can be kept")
    };
    let create = |change: Change| {
        let change = change.create(Action::ISSUED, record.clone());
        change.expect("the suite's records can be kept")
    };
    let created = store.commit(&create(change(&[&first, &second]))).await;
    ANSWERS.answer(created, "commit");
    let again = store.commit(&create(change(&[&failed]))).await;
    NOTHING.holds(again.is_err(), "a record was created twice");
    // An event may tell of what changes no key, such as one that is about to end.
    ANSWERS.answer(store.commit(&change(&[&third])).await, "commit");

    let (told, end) = read_on(store, Some(begin.clone()), is_ours).await;
    TOLD.holds(told == [first, second, third], format_args!("{told:?}"));
    let (told, end) = read_on(store, Some(end), is_ours).await;
    FOLLOWED.holds(told.is_empty(), format_args!("{told:?} is read again"));
    let later = event("acme.later");
    ANSWERS.answer(store.commit(&change(&[&later])).await, "commit");
    let (told, _) = read_on(store, Some(end), is_ours).await;
    FOLLOWED.holds(told == [later], format_args!("{told:?}"));

    let paging = Paging::first(1).after(Cursor::new("x"));
    let refused = store.events(&paging).await.map_err(|error| error.kind());
    CURSORS.holds(
        matches!(refused, Err(StoreErrorKind::InvalidCursor)),
        format_args!("{refused:?}"),
    );
}

/// Reads all events from a place on, and returns those of ours and where to read on.
async fn read_on<S: ManagedKeyStore>(
    store: &S,
    mut after: Option<Cursor>,
    is_ours: impl Fn(&Event) -> bool,
) -> (Vec<Event>, Cursor) {
    let mut ours = Vec::new();
    // Pages of one event and of many by turns.
    for limit in [1, 100].into_iter().cycle() {
        let paging = Paging::first(limit).after(after.clone());
        let page = ANSWERS.answer(store.events(&paging).await, "events");
        let Some(next) = page.next else {
            FOLLOWED.holds(false, "a page of events without a next");
            unreachable!("the promise was broken")
        };
        if page.items.is_empty() && after.as_ref() == Some(&next) {
            return (ours, next);
        }
        ours.extend(page.items.into_iter().filter(&is_ours));
        after = Some(next);
    }
    unreachable!("the pages end by themselves")
}
