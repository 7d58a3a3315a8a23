//! Claims: who gets which deliveries, and until when.

use std::collections::{BTreeMap, BTreeSet};

use crate::conformance::outbox::harness::{ANSWERS, LEASE, Suite, at, events};
use crate::conformance::promise::Promise;
use crate::store::{Claim, Delivery, Disabled, Endpoint, ManagedKeyStore, Outcome};
use crate::util::join_all::join_all;

const DUE: Promise = Promise("a delivery is claimed once it is due, and not before");
const LONGEST: Promise = Promise("of each endpoint, those that are due longest are claimed");
const EXCLUSIVE: Promise = Promise("of claimers at once, each delivery is claimed by one");
const LEASED: Promise = Promise("a claimed delivery is not claimed again before its lease ends");
const AGAIN: Promise = Promise("a delivery that is not settled is claimed again after its lease");
const COUNTED: Promise = Promise("each claim counts the attempt");
const SAME_STEP: Promise = Promise("a claim without a settlement takes no step of the schedule");
const WHOLE: Promise = Promise("a claimed delivery has its event and its endpoint");
const BOUND: Promise = Promise("no more are claimed than were asked for");
const EACH: Promise = Promise("no more are claimed for an endpoint than were asked for");
const FAIR: Promise = Promise("an endpoint with many deliveries does not hold up another one");
const CHOSEN: Promise = Promise("only deliveries of the endpoints that were asked for are claimed");
const DISABLED: Promise = Promise("the deliveries of a disabled endpoint wait");
const STARVES_NONE: Promise =
    Promise("if a claim cannot serve all endpoints, they take turns, or chance decides");
const SERVED: Promise = Promise("a claim passes over endpoints that are disabled or busy");

/// The number of concurrent claimers.
const CLAIMERS: usize = 8;

/// The deliveries of an endpoint with many.
const MANY: usize = 500;

pub(super) async fn suite<S: ManagedKeyStore>(suite: &Suite<'_, S>) {
    leases(suite).await;
    is_exclusive(suite).await;
    is_bounded_and_fair(suite).await;
    starves_none(suite).await;
    chooses_endpoints(suite).await;
    leaves_disabled_endpoints_alone(suite).await;
    passes_over_others(suite).await;
}

async fn leases<S: ManagedKeyStore>(suite: &Suite<'_, S>) {
    let sink = suite.sink("leases");
    suite.put(&sink).await;
    // They are not added in the order in which they are due.
    for second in [30, 10, 20] {
        suite.tell(second, "acme.test", 1).await;
    }
    let claim = |second, each| {
        let mut claim = Suite::<S>::claim_of(second, &[&sink]);
        claim.most_per_endpoint = each;
        claim
    };
    let early = suite.claim(&claim(9, 4)).await;
    DUE.holds(early.is_empty(), format_args!("{early:?}"));
    let first = suite.claim(&claim(10, 4)).await;
    DUE.holds(first.len() == 1, format_args!("{first:?}"));
    let listed = suite.of_endpoint(&sink.id).await;
    for delivery in &first {
        let is_kept = listed.iter().any(|it| it.event == delivery.event);
        WHOLE.holds(
            is_kept && delivery.endpoint == sink,
            format_args!("{delivery:?}"),
        );
        COUNTED.holds(
            (delivery.attempt, delivery.step) == (1, 1),
            format_args!("{delivery:?}"),
        );
        let of_event = listed.iter().find(|it| it.event == delivery.event);
        let next_at = of_event.and_then(|it| it.next_at);
        LEASED.holds(
            next_at == Some(at(10) + LEASE),
            format_args!("the next attempt is at {next_at:?}"),
        );
    }
    let second = suite.claim(&claim(69, 1)).await;
    EACH.holds(
        second.len() <= 1,
        format_args!("{} instead of 1", second.len()),
    );
    let due_longest = listed.iter().find(|it| it.next_at == Some(at(20)));
    LONGEST.holds(
        second.len() == 1 && due_longest.is_some_and(|it| it.event == second[0].event),
        format_args!("{second:?}"),
    );
    let third = suite.claim(&claim(69, 4)).await;
    LEASED.holds(
        third.len() == 1 && third[0].event != first[0].event,
        format_args!("{third:?}"),
    );
    let again = suite.claim(&claim(70, 4)).await;
    AGAIN.holds(
        events(&again) == events(&first),
        format_args!("{again:?} after {first:?}"),
    );
    for delivery in &again {
        COUNTED.holds(delivery.attempt == 2, format_args!("{delivery:?}"));
        WHOLE.holds(delivery.event == first[0].event, "another event");
    }
    let third = suite.claim_all(1_000, &sink).await;
    for delivery in again.iter().chain(&third) {
        SAME_STEP.holds(delivery.step == 1, format_args!("{delivery:?}"));
    }
    let times = third.iter().map(|delivery| delivery.attempt).max();
    COUNTED.holds(times == Some(3), format_args!("{third:?}"));
    suite.delete(&sink.id).await;
}

async fn is_exclusive<S: ManagedKeyStore>(suite: &Suite<'_, S>) {
    let sinks = ["exclusive-a", "exclusive-b"].map(|name| suite.sink(name));
    for sink in &sinks {
        suite.put(sink).await;
    }
    suite.tell(1, "acme.test", 40).await;
    let mut claim = Suite::<S>::claim_of(1, &[&sinks[0], &sinks[1]]);
    (claim.most, claim.most_per_endpoint) = (8, 8);
    let mut claimed: BTreeMap<(String, String), u64> = BTreeMap::new();
    // Each finds at least one, or others have claimed all.
    for _ in 0..80 {
        let claims = join_all((0..CLAIMERS).map(|_| suite.outbox.claim(&claim))).await;
        for deliveries in claims {
            for delivery in ANSWERS.answer(deliveries, "claim") {
                let place = (delivery.event.id.clone(), delivery.endpoint.id.clone());
                *claimed.entry(place).or_default() += 1;
            }
        }
    }
    let twice = claimed.values().filter(|times| **times > 1).count();
    EXCLUSIVE.holds(
        claimed.len() == 80 && twice == 0,
        format_args!("{} of 80 are claimed, {twice} twice", claimed.len()),
    );
    for sink in &sinks {
        suite.delete(&sink.id).await;
    }
}

async fn is_bounded_and_fair<S: ManagedKeyStore>(suite: &Suite<'_, S>) {
    let many = suite.sink("many").with_kinds(["acme.often"]);
    let one = suite.sink("one").with_kinds(["acme.seldom"]);
    for sink in [&many, &one] {
        suite.put(sink).await;
    }
    suite.tell(1, "acme.often", MANY).await;
    suite.tell(2, "acme.seldom", 1).await;
    let mut claim = Suite::<S>::claim_of(3, &[&many, &one]);
    let claimed = suite.claim(&claim).await;
    let of = |sink: &Endpoint, claimed: &[Delivery]| {
        let of_sink = claimed.iter().filter(|it| it.endpoint.id == sink.id);
        of_sink.count()
    };
    EACH.holds(
        of(&many, &claimed) <= claim.most_per_endpoint as usize,
        format_args!("{} for one", of(&many, &claimed)),
    );
    FAIR.holds(
        of(&one, &claimed) == 1 && of(&many, &claimed) > 0,
        format_args!("{} and {}", of(&one, &claimed), of(&many, &claimed)),
    );
    (claim.most, claim.most_per_endpoint) = (3, 100);
    let claimed = suite.claim(&claim).await;
    BOUND.holds(
        (1..=3).contains(&claimed.len()),
        format_args!("{} instead of at most 3", claimed.len()),
    );
    claim.except = vec![many.id.clone()];
    let claimed = suite.claim(&claim).await;
    CHOSEN.holds(claimed.is_empty(), format_args!("{claimed:?}"));
    for sink in [&many, &one] {
        suite.delete(&sink.id).await;
    }
}

/// Ten endpoints have a backlog, and a claim serves two. One that serves those that are due longest,
/// or those with the first ids, comes to the last ones when the others have caught up: after 200
/// claims. Chance leaves one out for so long once in a hundred million runs at most.
async fn starves_none<S: ManagedKeyStore>(suite: &Suite<'_, S>) {
    let numbers = 0..10;
    let sinks: Vec<Endpoint> = numbers
        .map(|number| {
            let sink = suite.sink(&format!("turns-{number}"));
            sink.with_kinds([format!("acme.turn_{number}")])
        })
        .collect();
    for (second, sink) in (1..).zip(&sinks) {
        suite.put(sink).await;
        suite.tell(second, &sink.kinds[0], 50).await;
    }
    let all: Vec<&Endpoint> = sinks.iter().collect();
    let mut claim = Suite::<S>::claim_of(20, &all);
    claim.most = 2;
    let mut waiting: BTreeSet<&str> = sinks.iter().map(|sink| sink.id.as_str()).collect();
    for _ in 0..200 {
        for delivery in suite.claim(&claim).await {
            waiting.remove(delivery.endpoint.id.as_str());
        }
        if waiting.is_empty() {
            break;
        }
    }
    STARVES_NONE.holds(
        waiting.is_empty(),
        format_args!("{waiting:?} got nothing from 200 claims"),
    );
    for sink in &sinks {
        suite.delete(&sink.id).await;
    }
}

async fn chooses_endpoints<S: ManagedKeyStore>(suite: &Suite<'_, S>) {
    let (webhook, sink) = (suite.webhook("chosen-webhook"), suite.sink("chosen-sink"));
    for endpoint in [&webhook, &sink] {
        suite.put(endpoint).await;
    }
    suite.tell(1, "acme.test", 1).await;
    let ids = |claimed: &[Delivery]| {
        let ours = claimed.iter().map(|it| it.endpoint.id.clone());
        let mut ours: Vec<String> = ours.filter(|id| id.ends_with(&suite.run)).collect();
        ours.sort();
        ours
    };
    let nobody = suite.sink("chosen-by-nobody");
    let claimed = suite.claim(&Suite::<S>::claim_of(2, &[])).await;
    CHOSEN.holds(claimed.is_empty(), format_args!("{claimed:?}"));
    let claimed = suite
        .claim(&Suite::<S>::claim_of(2, &[&nobody, &webhook]))
        .await;
    CHOSEN.holds(claimed.is_empty(), format_args!("{claimed:?} for no sink"));
    // Others may have webhooks, too, so that it takes more than one claim.
    let mut claim = Claim::new(at(2), LEASE);
    let mut claimed = Vec::new();
    loop {
        let more = suite.claim(&claim).await;
        if more.is_empty() {
            break;
        }
        claimed.extend(ids(&more));
        claim
            .except
            .extend(more.into_iter().map(|it| it.endpoint.id));
    }
    CHOSEN.holds(
        claimed == [webhook.id.as_str()],
        format_args!("{claimed:?}"),
    );
    let claimed = suite.claim(&Suite::<S>::claim_of(2, &[&sink])).await;
    CHOSEN.holds(
        ids(&claimed) == [sink.id.as_str()],
        format_args!("{claimed:?}"),
    );
    for endpoint in [&webhook, &sink] {
        suite.delete(&endpoint.id).await;
    }
}

async fn leaves_disabled_endpoints_alone<S: ManagedKeyStore>(suite: &Suite<'_, S>) {
    let sink = suite.sink("disabled");
    suite.put(&sink).await;
    suite.tell(1, "acme.test", 2).await;
    let one = {
        let mut claim = Suite::<S>::claim_of(1, &[&sink]);
        claim.most = 1;
        suite.claim(&claim).await
    };
    let off = sink.clone().with_version(2);
    let off = off.with_disabled(Disabled::new(at(2), "410 Gone"));
    suite.put(&off).await;
    suite.tell(3, "acme.test", 1).await;
    let claimed = suite.claim_all(1_000, &sink).await;
    DISABLED.holds(claimed.is_empty(), format_args!("{claimed:?}"));
    // What was claimed before is settled.
    for delivery in &one {
        let is_settled = suite.settle(delivery, 4, Outcome::Delivered).await;
        DISABLED.holds(is_settled, "an attempt from before is not settled");
    }
    suite.put(&sink.clone().with_version(3)).await;
    let claimed = suite.claim_all(1_000, &sink).await;
    DISABLED.holds(
        claimed.len() == 1,
        format_args!("{claimed:?} after it was enabled"),
    );
    suite.delete(&sink.id).await;
}

/// Claims one delivery at a time, where most of those that are due must wait.
async fn passes_over_others<S: ManagedKeyStore>(suite: &Suite<'_, S>) {
    let names = (0..9).map(|number| format!("passed-{number}"));
    let sinks: Vec<Endpoint> = names.map(|name| suite.sink(&name)).collect();
    for sink in &sinks {
        suite.put(sink).await;
    }
    suite.tell(1, "acme.test", 5).await;
    let (disabled, others) = sinks.split_at(4);
    let (served, busy) = (&others[0], &others[1..]);
    for sink in disabled {
        let off = Disabled::new(at(2), "by hand");
        let off = sink.clone().with_version(2).with_disabled(off);
        suite.put(&off).await;
    }
    let all: Vec<&Endpoint> = sinks.iter().collect();
    let mut claim = Suite::<S>::claim_of(3, &all);
    claim.most = 1;
    claim.except = busy.iter().map(|sink| sink.id.clone()).collect();
    for _ in 0..5 {
        let claimed = suite.claim(&claim).await;
        SERVED.holds(
            claimed.len() == 1 && claimed[0].endpoint == *served,
            format_args!("{claimed:?}"),
        );
    }
    for sink in &sinks {
        suite.delete(&sink.id).await;
    }
}
