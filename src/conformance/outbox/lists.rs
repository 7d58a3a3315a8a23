//! Lists of deliveries, and what is kept once for all.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::conformance::outbox::harness::{ANSWERS, Suite, at, failed, kind, retry};
use crate::conformance::promise::Promise;
use crate::store::{
    Cursor, DeliveryQuery, DeliveryState, ManagedKeyStore, Outcome, Paging, StoreErrorKind,
};
use crate::util::join_all::join_all;

const NEWEST: Promise = Promise("a list has each delivery once, the newest event first");
const FILTERED: Promise = Promise("a list has the deliveries in the state that was asked for");
const CURSORS: Promise = Promise("a cursor of another list is refused");
const FORWARD: Promise = Promise("the time of announcements never moves backward");
const NAMED: Promise = Promise("the namespace of an outbox does not change");

pub(super) async fn suite<S: ManagedKeyStore>(suite: &Suite<'_, S>) {
    lists_deliveries(suite).await;
    announces(suite).await;
    let name = suite.outbox.namespace();
    // Of another instance, too: secrets of webhooks are derived from the name.
    let other = suite.store.outbox().map(|other| other.0.namespace());
    NAMED.holds(
        suite.outbox.namespace() == name && other.as_ref() == Some(&name),
        format_args!("{name:?} and {other:?}"),
    );
}

async fn lists_deliveries<S: ManagedKeyStore>(suite: &Suite<'_, S>) {
    let sinks = ["list-a", "list-b"].map(|name| suite.sink(name));
    for sink in &sinks {
        suite.put(sink).await;
    }
    for second in 1..=7 {
        let kind = format!("acme.number_{second}");
        suite.tell(second, &kind, 1).await;
    }
    let claimed = suite.claim_all(7, &sinks[0]).await;
    let outcomes = [Outcome::Delivered, failed(), retry(100)]
        .into_iter()
        .cycle();
    for (delivery, outcome) in claimed.iter().zip(outcomes) {
        suite.settle(delivery, 8, outcome).await;
    }
    let of_sink = |at: usize| DeliveryQuery::new().with_endpoint(sinks[at].id.clone());
    let newest: Vec<String> = (1..=7)
        .rev()
        .map(|it| format!("acme.number_{it}"))
        .collect();
    for (number, limit) in [(0, 1), (0, 3), (1, 7), (1, 1_000)] {
        let read = suite.read(&of_sink(number), limit).await;
        let kinds = read.iter().map(|it| it.event.event.kind.as_str());
        NEWEST.holds(kinds.eq(&newest), format_args!("{read:?}"));
        let is_of_sink = read.iter().all(|it| it.endpoint == sinks[number].id);
        FILTERED.holds(is_of_sink, format_args!("{read:?}"));
    }
    let all = suite.read(&of_sink(0), 100).await;
    let states = [
        (DeliveryState::Delivered, 3),
        (DeliveryState::Failed, 2),
        (DeliveryState::Pending, 2),
    ];
    for (state, count) in states {
        let in_state = all.iter().filter(|it| it.state == state);
        let in_state: Vec<_> = in_state.cloned().collect();
        for limit in [1, 100] {
            let read = suite.read(&of_sink(0).with_state(state), limit).await;
            FILTERED.holds(
                read == in_state && read.len() == count,
                format_args!("{read:?} instead of {in_state:?}"),
            );
        }
    }
    // Of all endpoints, the newest events are ours, or came meanwhile.
    let mut ours = BTreeSet::new();
    for delivery in suite.read(&DeliveryQuery::new(), 3).await {
        if delivery.endpoint.ends_with(&suite.run) {
            let place = (delivery.endpoint, delivery.event.id);
            NEWEST.holds(ours.insert(place.clone()), format_args!("{place:?} twice"));
        }
    }
    NEWEST.holds(ours.len() == 14, format_args!("{ours:?}"));
    refuses_foreign_cursors(suite, [of_sink(0), of_sink(1)]).await;
    for sink in &sinks {
        suite.delete(&sink.id).await;
    }
}

async fn refuses_foreign_cursors<S: ManagedKeyStore>(
    suite: &Suite<'_, S>,
    [query, other]: [DeliveryQuery; 2],
) {
    let page = suite.outbox.deliveries(&query, &Paging::first(1)).await;
    let page = ANSWERS.answer(page, "deliveries");
    let in_state = query.clone().with_state(DeliveryState::Failed);
    let mut foreign: Vec<(&DeliveryQuery, Cursor)> = Vec::new();
    let all = DeliveryQuery::new();
    if let Some(next) = page.next {
        foreign.extend([&other, &in_state, &all].map(|query| (query, next.clone())));
    }
    for junk in ["", "1", "-", "\u{1f511}", "9223372036854775807"] {
        foreign.push((&query, Cursor::new(junk)));
    }
    for (query, cursor) in foreign {
        let paging = Paging::first(1).after(cursor);
        let refused = kind(suite.outbox.deliveries(query, &paging).await);
        CURSORS.holds(
            refused == Err(StoreErrorKind::InvalidCursor),
            format_args!("{refused:?} for {paging:?}"),
        );
    }
}

async fn announces<S: ManagedKeyStore>(suite: &Suite<'_, S>) {
    let outbox = &suite.outbox;
    let before = ANSWERS.answer(outbox.announced_until().await, "announced_until");
    let begin = before.unwrap_or(at(0)) + Duration::from_micros(1);
    let last = begin + Duration::from_secs(3_600);
    let times = [5, 0, 3_600, 60].map(|second| begin + Duration::from_secs(second));
    // Several processes announce at once.
    let sets = join_all(times.map(|until| outbox.set_announced_until(until))).await;
    for set in sets {
        ANSWERS.answer(set, "set_announced_until");
    }
    for until in [begin, last, begin] {
        ANSWERS.answer(
            outbox.set_announced_until(until).await,
            "set_announced_until",
        );
        let announced = ANSWERS.answer(outbox.announced_until().await, "announced_until");
        FORWARD.holds(
            announced.is_some_and(|announced| announced >= last),
            format_args!("{announced:?} after {last:?}"),
        );
    }
}
