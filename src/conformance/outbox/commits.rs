//! Deliveries that a change adds.

use std::collections::BTreeSet;

use crate::conformance::outbox::harness::{ANSWERS, Suite, at, change, with_event};
use crate::conformance::promise::Promise;
use crate::conformance::records::{Digests, named};
use crate::store::{
    Action, Cursor, DeliveryState, Disabled, Endpoint, Event, KeptEvent, ManagedKeyStore, Once,
    Start, StoreError,
};
use crate::util::join_all::join_all;

const TAKEN: Promise =
    Promise("an event is delivered to the endpoints that take it, and no others");
const ADDED: Promise = Promise("a delivery is pending, and due at the time of the change");
const NOTHING: Promise = Promise("a change that fails adds no delivery");
const ONLY_TO: Promise = Promise("an event for one endpoint is delivered to that one only");
const ONCE: Promise = Promise("an event that was told before is not delivered again");
const IDS: Promise = Promise("a delivery has the event as it is kept, with its id");

/// The number of concurrent committers of one fact.
const RIVALS: usize = 8;

pub(super) async fn suite<S: ManagedKeyStore>(suite: &Suite<'_, S>) {
    follows_account_and_kind(suite).await;
    follows_the_change(suite).await;
    tells_once(suite).await;
}

/// The endpoints of a run, with what a store could take for a match that is none.
fn endpoints<S: ManagedKeyStore>(suite: &Suite<'_, S>) -> Vec<Endpoint> {
    let own = format!("acme.{}", suite.run);
    let mut of_all = suite.sink("of-all").with_kinds([own.as_str()]);
    of_all.account = None;
    vec![
        suite.sink("any-kind"),
        suite.webhook("webhook"),
        suite.sink("exact").with_kinds(["acme.a_b", "acme.c"]),
        suite
            .sink("other")
            .with_account(format!("{}!", suite.account())),
        suite
            .sink("empty")
            .with_account(String::new())
            .with_kinds([own]),
        suite
            .sink("disabled")
            .with_disabled(Disabled::new(at(0), "by hand")),
        of_all,
    ]
}

async fn follows_account_and_kind<S: ManagedKeyStore>(suite: &Suite<'_, S>) {
    let endpoints = endpoints(suite);
    for endpoint in &endpoints {
        suite.put(endpoint).await;
    }
    let own = format!("acme.{}", suite.run);
    let own = own.as_str();
    let mut events: Vec<Event> = [
        own,
        "acme.a_b",
        "acme.axb",
        "acme.a_b.c",
        "acme.a",
        "acme.c",
    ]
    .map(|kind| suite.event(kind))
    .into();
    events.push(Event::new(own, at(0)));
    events.push(
        suite
            .event(own)
            .with_account(suite.account().to_uppercase()),
    );
    events.push(suite.event(own).with_account(String::new()));
    let begin = ANSWERS
        .answer(suite.store.events(&Start::Now, 1).await, "events")
        .next;
    let told = events.iter().cloned().fold(change(5), with_event);
    suite.commit(&told).await;
    let kept = read_events(suite, begin).await;
    for endpoint in &endpoints {
        let deliveries = suite.of_endpoint(&endpoint.id).await;
        // Others may tell events of other accounts meanwhile.
        let is_ours = |it: &&Event| events.contains(it);
        let taken = deliveries.iter().map(|it| &it.event.event);
        let taken: Vec<&Event> = taken.filter(is_ours).collect();
        let is_taken = |it: &&Event| endpoint.takes(&it.kind, it.account.as_deref());
        let expected: Vec<&Event> = events.iter().filter(is_taken).collect();
        TAKEN.holds(
            taken.len() == expected.len() && expected.iter().all(|it| taken.contains(it)),
            format_args!("{taken:?} instead of {expected:?} for {endpoint:?}"),
        );
        for delivery in deliveries {
            let is_new = delivery.state == DeliveryState::Pending
                && delivery.attempts == 0
                && delivery.next_at == Some(at(5))
                && delivery.settled_at.is_none()
                && delivery.cause.is_none();
            ADDED.holds(is_new, format_args!("{delivery:?}"));
            IDS.holds(
                kept.contains(&delivery.event),
                format_args!("{:?} is not in {kept:?}", delivery.event),
            );
        }
    }
    for endpoint in &endpoints {
        suite.delete(&endpoint.id).await;
    }
}

async fn read_events<S: ManagedKeyStore>(suite: &Suite<'_, S>, begin: Cursor) -> Vec<KeptEvent> {
    let mut kept = Vec::new();
    let mut next = begin;
    loop {
        let read = suite.store.events(&Start::After(next), 100).await;
        let read = ANSWERS.answer(read, "events");
        kept.extend(read.items);
        if read.is_end {
            return kept;
        }
        next = read.next;
    }
}

async fn follows_the_change<S: ManagedKeyStore>(suite: &Suite<'_, S>) {
    let (one, other) = (suite.sink("one"), suite.sink("other"));
    let disabled = Disabled::new(at(0), "by hand");
    let off = suite
        .sink("off")
        .with_kinds(["acme.other"])
        .with_disabled(disabled);
    for endpoint in [&one, &other, &off] {
        suite.put(endpoint).await;
    }
    let record = named(Digests::new().next(), "key");
    let create = || {
        let change = with_event(change(1), suite.event("acme.created"));
        let change = change.create(Action::ISSUED, record.clone());
        change.expect("the suite's records can be kept")
    };
    suite.commit(&create()).await;
    let again = suite.store.commit(&create()).await;
    NOTHING.holds(again.is_err(), "a record was created twice");
    let deliveries = suite.of_endpoint(&one.id).await;
    NOTHING.holds(deliveries.len() == 1, format_args!("{deliveries:?}"));

    for id in [&one.id, &off.id, &suite.id("nobody")] {
        let test = change(2).add_event_to(id.as_str(), suite.event("acme.test"));
        suite
            .commit(&test.expect("the suite's events can be kept"))
            .await;
    }
    for (endpoint, expected) in [(&one, 1), (&other, 0), (&off, 1)] {
        let deliveries = suite.of_endpoint(&endpoint.id).await;
        let tests = deliveries
            .iter()
            .filter(|it| it.event.event.kind == "acme.test");
        ONLY_TO.holds(
            tests.count() == expected,
            format_args!("{deliveries:?} of {}", endpoint.id),
        );
    }
    for endpoint in [&one, &other, &off] {
        suite.delete(&endpoint.id).await;
    }
}

async fn tells_once<S: ManagedKeyStore>(suite: &Suite<'_, S>) {
    let sink = suite.sink("once");
    suite.put(&sink).await;
    let mark = |name: &str| Once::of([suite.run.as_str(), "outbox", name]);
    let rivals = (0..RIVALS).map(|_| {
        let change = change(1).add_event_once(suite.event("acme.due"), mark("due"));
        change.expect("the suite's events can be kept")
    });
    let rivals: Vec<_> = rivals.collect();
    let commits = join_all(rivals.iter().map(|change| suite.store.commit(change))).await;
    let commits: Result<Vec<()>, StoreError> = commits.into_iter().collect();
    ANSWERS.answer(commits, "commit");
    let deliveries = suite.of_endpoint(&sink.id).await;
    let events: BTreeSet<&str> = deliveries.iter().map(|it| it.event.id.as_str()).collect();
    ONCE.holds(
        deliveries.len() == 1 && events.len() == 1,
        format_args!("{deliveries:?}"),
    );
    suite.delete(&sink.id).await;
}
