//! Settlements, replays, and what a deleted endpoint leaves behind.

use crate::conformance::outbox::harness::{Suite, at, failed, kind, retry};
use crate::conformance::promise::Promise;
use crate::store::{
    Delivery, DeliveryRecord, DeliveryState, Endpoint, ManagedKeyStore, Outcome, Replay,
    Settlement, StoreErrorKind,
};

const RECORDED: Promise = Promise("the outcome of an attempt is recorded");
const SETTLED: Promise = Promise("a delivery that is settled is not claimed again");
const LATE: Promise = Promise("an attempt is settled after its lease, if it is still the last");
const STALE: Promise = Promise("the settlement of an earlier attempt changes nothing");
const RETRIED: Promise = Promise("a failed attempt is made again at its time");
const STEPS: Promise = Promise("a retry goes to the next step, and a claim alone does not");
const REPLAYED: Promise = Promise("a replay makes deliveries due again that failed");
const GOES_ON: Promise = Promise("a replay begins the schedule anew, and the attempts go on");
const OF_EVENT: Promise = Promise("a replay of one event leaves the others as they are");
const DUE_NOW: Promise =
    Promise("a replay makes deliveries due now that wait, and leaves those that are due");
const RELEASED: Promise =
    Promise("a delivery that was given back is due at its time, in the same step");
const UNFINISHED: Promise = Promise("the attempts that never ended are counted, and no others");
const DELETED: Promise = Promise("a deleted endpoint leaves no delivery behind");
const REFUSED: Promise = Promise("a cause that not every store can keep is refused");

pub(super) async fn suite<S: ManagedKeyStore>(suite: &Suite<'_, S>) {
    records_outcomes(suite).await;
    ignores_stale_settlements(suite).await;
    replays(suite).await;
    replays_what_waits(suite).await;
    replays_from_the_first_step(suite).await;
    counts_the_unfinished(suite).await;
    deletes(suite).await;
}

/// Puts a sink, tells it events at the second 1, and claims their deliveries.
async fn claimed<S: ManagedKeyStore>(
    suite: &Suite<'_, S>,
    name: &str,
    count: usize,
) -> (Endpoint, Vec<Delivery>) {
    let sink = suite.sink(name);
    suite.put(&sink).await;
    suite.tell(1, "acme.test", count).await;
    let claimed = suite.claim_all(1, &sink).await;
    RECORDED.holds(claimed.len() == count, format_args!("{claimed:?}"));
    (sink, claimed)
}

async fn record<S: ManagedKeyStore>(suite: &Suite<'_, S>, of: &Delivery) -> DeliveryRecord {
    let listed = suite.of_endpoint(&of.endpoint.id).await;
    let record = listed.into_iter().find(|it| it.event == of.event);
    RECORDED.holds(record.is_some(), format_args!("{of:?} is not listed"));
    record.expect("it was just checked")
}

async fn records_outcomes<S: ManagedKeyStore>(suite: &Suite<'_, S>) {
    let (sink, claimed) = claimed(suite, "outcomes", 3).await;
    let [taken, later, gone] = &claimed[..] else {
        return;
    };
    let outcomes = [
        (taken, Outcome::Delivered),
        (later, retry(500)),
        (gone, failed()),
    ];
    for (delivery, outcome) in outcomes {
        let is_settled = suite.settle(delivery, 7, outcome).await;
        RECORDED.holds(is_settled, format_args!("{delivery:?} is not settled"));
    }
    for (delivery, state, cause) in [
        (taken, DeliveryState::Delivered, None),
        (later, DeliveryState::Pending, Some("a time-out")),
        (gone, DeliveryState::Failed, Some("410 Gone, for ünïcode")),
    ] {
        let is_pending = state == DeliveryState::Pending;
        let seen = record(suite, delivery).await;
        let is_right = seen.state == state
            && seen.attempts == 1
            && seen.cause.as_deref() == cause
            && seen.next_at == is_pending.then(|| at(500))
            && seen.settled_at == (!is_pending).then(|| at(7));
        RECORDED.holds(is_right, format_args!("{seen:?}"));
    }
    let early = suite.claim_all(499, &sink).await;
    RETRIED.holds(early.is_empty(), format_args!("{early:?}"));
    let again = suite.claim_all(500, &sink).await;
    RETRIED.holds(
        again.len() == 1 && again[0].event == later.event,
        format_args!("{again:?}"),
    );
    RETRIED.holds(
        (again[0].attempt, again[0].step) == (2, 2),
        format_args!("{again:?}"),
    );
    // The process crashed before the attempt, or did not get the response.
    let again = suite.claim_all(8_000, &sink).await;
    STEPS.holds(
        again.len() == 1 && (again[0].attempt, again[0].step) == (3, 2),
        format_args!("{again:?}"),
    );
    // Nobody claimed it again, although its lease has ended.
    let is_settled = suite.settle(&again[0], 9_000, Outcome::Delivered).await;
    LATE.holds(is_settled, "it is not settled");
    let seen = record(suite, later).await;
    RECORDED.holds(
        seen.state == DeliveryState::Delivered && seen.cause.as_deref() == Some("a time-out"),
        format_args!("{seen:?}"),
    );
    let claimed = suite.claim_all(100_000, &sink).await;
    SETTLED.holds(claimed.is_empty(), format_args!("{claimed:?}"));
    for cause in ["a\0".to_owned(), "a".repeat(256)] {
        let settlement = Settlement::new(taken, at(8), Outcome::Failed { cause });
        let settled = kind(suite.outbox.settle(&settlement).await);
        REFUSED.holds(
            settled == Err(StoreErrorKind::Refused),
            format_args!("{settled:?}"),
        );
    }
    suite.delete(&sink.id).await;
}

async fn ignores_stale_settlements<S: ManagedKeyStore>(suite: &Suite<'_, S>) {
    let (sink, first) = claimed(suite, "stale", 1).await;
    let second = suite.claim_all(100, &sink).await;
    let before = record(suite, &first[0]).await;
    for outcome in [Outcome::Delivered, retry(7), failed()] {
        let is_settled = suite.settle(&first[0], 101, outcome).await;
        let after = record(suite, &first[0]).await;
        STALE.holds(
            !is_settled && after == before,
            format_args!("{after:?} after {before:?}"),
        );
    }
    let is_settled = suite.settle(&second[0], 102, Outcome::Delivered).await;
    STALE.holds(is_settled, "the last attempt is not settled");
    let before = record(suite, &first[0]).await;
    for outcome in [failed(), retry(7), Outcome::Delivered] {
        let is_settled = suite.settle(&second[0], 103, outcome).await;
        let after = record(suite, &first[0]).await;
        STALE.holds(
            !is_settled && after == before,
            format_args!("{after:?} after it was settled: {before:?}"),
        );
    }
    suite.delete(&sink.id).await;
}

async fn replays<S: ManagedKeyStore>(suite: &Suite<'_, S>) {
    let (sink, claimed) = claimed(suite, "replays", 4).await;
    let [first, second, taken, pending] = &claimed[..] else {
        return;
    };
    let outcomes = [
        (first, failed()),
        (second, failed()),
        (taken, Outcome::Delivered),
        (pending, retry(100_000)),
    ];
    for (delivery, outcome) in outcomes {
        suite.settle(delivery, 2, outcome).await;
    }
    let replayed = suite
        .replay(&sink.id, Replay::Event(&first.event.id), 200)
        .await;
    OF_EVENT.holds(replayed == 1, format_args!("{replayed}"));
    let other = record(suite, second).await;
    OF_EVENT.holds(
        other.state == DeliveryState::Failed,
        format_args!("{other:?}"),
    );
    let seen = record(suite, first).await;
    let is_due = seen.state == DeliveryState::Pending && seen.next_at == Some(at(200));
    REPLAYED.holds(
        is_due && seen.settled_at.is_none() && seen.attempts == 2,
        format_args!("{seen:?}"),
    );
    // The answer to a settlement was lost, and it is sent again after the replay.
    let is_settled = suite.settle(first, 3, failed()).await;
    STALE.holds(
        !is_settled,
        "a replayed delivery is settled by an attempt from before",
    );
    let after = record(suite, first).await;
    STALE.holds(after == seen, format_args!("{after:?} after {seen:?}"));
    let early = suite.claim_all(199, &sink).await;
    REPLAYED.holds(early.is_empty(), format_args!("{early:?}"));
    let again = suite.claim_all(200, &sink).await;
    REPLAYED.holds(
        again.len() == 1 && again[0].event == first.event,
        format_args!("{again:?}"),
    );
    GOES_ON.holds(
        (again[0].attempt, again[0].step) == (3, 1),
        format_args!("{again:?}"),
    );
    suite.settle(&again[0], 201, failed()).await;

    let replayed = suite.replay(&sink.id, Replay::Failed, 300).await;
    REPLAYED.holds(replayed == 2, format_args!("{replayed} instead of 2"));
    let again = suite.claim_all(300, &sink).await;
    let mut steps: Vec<_> = again.iter().map(|it| (it.attempt, it.step)).collect();
    steps.sort_unstable();
    GOES_ON.holds(steps == [(3, 1), (5, 1)], format_args!("{again:?}"));
    // Also after the claim that followed.
    let is_settled = suite.settle(first, 301, failed()).await;
    STALE.holds(!is_settled, "an attempt from before two replays is settled");
    // One that was delivered, and one that waits.
    for delivery in [taken, pending] {
        let event = Replay::Event(&delivery.event.id);
        let replayed = suite.replay(&sink.id, event, 400).await;
        REPLAYED.holds(replayed == 1, format_args!("{replayed} instead of 1"));
    }
    for (endpoint, which) in [
        ("nobody", Replay::Failed),
        ("nobody", Replay::Pending),
        (sink.id.as_str(), Replay::Event("msg_x")),
    ] {
        let replayed = suite.replay(endpoint, which, 400).await;
        REPLAYED.holds(replayed == 0, format_args!("{replayed} of nothing"));
    }
    suite.delete(&sink.id).await;
}

/// The receiver was repaired, and its owner does not want to wait.
async fn replays_what_waits<S: ManagedKeyStore>(suite: &Suite<'_, S>) {
    let (sink, claimed) = claimed(suite, "replays-waiting", 3).await;
    let [first, second, failing] = &claimed[..] else {
        return;
    };
    for (delivery, outcome) in [
        (first, retry(10_000)),
        (second, retry(20_000)),
        (failing, failed()),
    ] {
        suite.settle(delivery, 2, outcome).await;
    }
    // In the second step, and leased.
    let leased = suite.claim_all(10_000, &sink).await;
    let replayed = suite
        .replay(&sink.id, Replay::Event(&second.event.id), 10_001)
        .await;
    DUE_NOW.holds(replayed == 1, format_args!("{replayed} of one that waits"));
    let due = record(suite, second).await;
    let is_due = due.state == DeliveryState::Pending
        && due.next_at == Some(at(10_001))
        && due.settled_at.is_none();
    DUE_NOW.holds(is_due, format_args!("{due:?}"));
    for which in [Replay::Event(&second.event.id), Replay::Failed] {
        let expected = u64::from(which == Replay::Failed);
        let replayed = suite.replay(&sink.id, which, 10_002).await;
        DUE_NOW.holds(
            replayed == expected,
            format_args!("{replayed} for {which:?}"),
        );
    }
    let after = record(suite, second).await;
    DUE_NOW.holds(after == due, format_args!("{after:?} after {due:?}"));
    // All that wait: only the leased one does.
    let replayed = suite.replay(&sink.id, Replay::Pending, 10_003).await;
    DUE_NOW.holds(
        replayed == 1,
        format_args!("{replayed} of one that is leased"),
    );
    for delivery in &leased {
        let is_settled = suite.settle(delivery, 10_004, Outcome::Delivered).await;
        STALE.holds(!is_settled, "an attempt from before a replay is settled");
    }
    let again = suite.claim_all(10_004, &sink).await;
    DUE_NOW.holds(again.len() == 3, format_args!("{again:?}"));
    for delivery in &again {
        GOES_ON.holds(delivery.step == 1, format_args!("{delivery:?}"));
    }
    suite.delete(&sink.id).await;
}

/// The schedule was used in part before the delivery was given up, or before it succeeded.
async fn replays_from_the_first_step<S: ManagedKeyStore>(suite: &Suite<'_, S>) {
    let (sink, first) = claimed(suite, "replays-steps", 4).await;
    for delivery in &first {
        suite.settle(delivery, 2, retry(100)).await;
    }
    let second = suite.claim_all(100, &sink).await;
    let [one, taken, rest @ ..] = &second[..] else {
        return RETRIED.holds(false, format_args!("{second:?}"));
    };
    suite.settle(one, 101, failed()).await;
    suite.settle(taken, 101, Outcome::Delivered).await;
    for delivery in rest {
        suite.settle(delivery, 101, failed()).await;
    }
    for delivery in [one, taken] {
        let event = Replay::Event(&delivery.event.id);
        suite.replay(&sink.id, event, 200).await;
    }
    let mut again = suite.claim_all(200, &sink).await;
    GOES_ON.holds(again.len() == 2, format_args!("{again:?}"));
    let replayed = suite.replay(&sink.id, Replay::Failed, 201).await;
    REPLAYED.holds(replayed == 2, format_args!("{replayed} instead of 2"));
    again.extend(suite.claim_all(201, &sink).await);
    GOES_ON.holds(again.len() == 4, format_args!("{again:?}"));
    for delivery in &again {
        GOES_ON.holds(
            (delivery.attempt, delivery.step) == (4, 1),
            format_args!("{delivery:?}"),
        );
    }
    suite.delete(&sink.id).await;
}

async fn counts_the_unfinished<S: ManagedKeyStore>(suite: &Suite<'_, S>) {
    let (sink, first) = claimed(suite, "unfinished", 1).await;
    let mut last = first[0].clone();
    UNFINISHED.holds(last.unfinished == 0, format_args!("{last:?}"));
    let next = async |second: u64, step: u32, unfinished: u32| {
        let claimed = suite.claim_all(second, &sink).await;
        UNFINISHED.holds(claimed.len() == 1, format_args!("{claimed:?} at {second}"));
        let claimed = claimed[0].clone();
        UNFINISHED.holds(
            claimed.unfinished == unfinished,
            format_args!("{claimed:?} instead of {unfinished} at {second}"),
        );
        RELEASED.holds(
            claimed.step == step,
            format_args!("{claimed:?} instead of step {step} at {second}"),
        );
        claimed
    };
    // Two processes die.
    for (second, unfinished) in [(100, 1), (200, 2)] {
        last = next(second, 1, unfinished).await;
    }
    // One cannot make the attempt, and gives it back.
    for round in 1..=3 {
        let at_second = 200 + 10 * round;
        let released = Outcome::Released { at: at(at_second) };
        let is_released = suite.settle(&last, 201, released).await;
        RELEASED.holds(is_released, "it is not given back");
        let seen = record(suite, &last).await;
        RELEASED.holds(
            seen.state == DeliveryState::Pending
                && seen.next_at == Some(at(at_second))
                && seen.settled_at.is_none()
                && seen.cause.is_none(),
            format_args!("{seen:?}"),
        );
        let early = suite.claim_all(at_second - 1, &sink).await;
        RELEASED.holds(early.is_empty(), format_args!("{early:?}"));
        last = next(at_second, 1, 2).await;
    }
    // One fails.
    suite.settle(&last, 240, retry(300)).await;
    last = next(300, 2, 2).await;
    let before = last.clone();
    last = next(400, 2, 3).await;
    let is_settled = suite.settle(&before, 401, retry(402)).await;
    STALE.holds(
        !is_settled,
        "an attempt from before another claim is settled",
    );
    suite.settle(&last, 401, failed()).await;
    suite
        .replay(&sink.id, Replay::Event(&last.event.id), 500)
        .await;
    next(500, 1, 0).await;
    suite.delete(&sink.id).await;
}

async fn deletes<S: ManagedKeyStore>(suite: &Suite<'_, S>) {
    let (sink, claimed) = claimed(suite, "deleted", 3).await;
    suite.settle(&claimed[0], 2, failed()).await;
    suite.delete(&sink.id).await;
    let is_settled = suite.settle(&claimed[1], 3, Outcome::Delivered).await;
    let replayed = suite.replay(&sink.id, Replay::Failed, 3).await;
    DELETED.holds(
        !is_settled && replayed == 0,
        format_args!("{is_settled} and {replayed}"),
    );
    // Another one of the same name has no part in it.
    suite.put(&sink).await;
    let listed = suite.of_endpoint(&sink.id).await;
    let claimed = suite.claim_all(100_000, &sink).await;
    DELETED.holds(
        listed.is_empty() && claimed.is_empty(),
        format_args!("{listed:?} and {claimed:?}"),
    );
    suite.delete(&sink.id).await;
}
