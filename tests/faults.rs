//! Each way in which a store or a limiter fails, under each policy that an application can choose,
//! on a clock that stands still unless it is told to move.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::num::NonZeroU32;
use std::time::Duration;

use futures_util::FutureExt;
use support::testkit::{Status, WorldBuilder};
use support::trouble::{Delay, Gate, Judges, Says};
use support::{DAY, Sent, World, asking, imported, is_waiting, stranger};
use tower_api_key::clock::{Clock, ManualClock};
use tower_api_key::key::{KeyDigest, Verifier};
use tower_api_key::limit::{
    Charge, LimiterError, LimiterOutage, MemoryLimiter, RateLimiter, Refund, Verdict,
};
use tower_api_key::{Cache, IssuedKey, KeyRecord, Limits, Quota};

/// The default of [`Cache`].
const MAX_STALENESS: Duration = Duration::from_secs(10);
const STORE_TIME_LIMIT: Duration = Duration::from_secs(2);
/// The default of [`LimiterOutage`].
const LIMITER_TIME_LIMIT: Duration = Duration::from_millis(250);

/// What comes of a request: at once, or exactly when a time limit has passed.
fn outcome(mut asking: Status, clock: &ManualClock, time_limit: Duration) -> u16 {
    let mut go_on = || asking.as_mut().now_or_never();
    let instant = Duration::from_nanos(1);
    let mut outcome = go_on();
    if !time_limit.is_zero() {
        assert_eq!(outcome, None, "before the time limit");
        clock.advance(time_limit.saturating_sub(instant));
        assert_eq!(go_on(), None, "an instant before the time limit");
        clock.advance(instant);
        outcome = go_on();
    }
    outcome.expect("an answer in time")
}

/// Limits whose budgets are elsewhere.
fn limited(limits: Limits) -> WorldBuilder {
    World::builder().limits(limits).remote_limiter()
}

#[tokio::test]
async fn invariant_5_every_store_fault_has_its_outcome_under_each_policy() {
    let good = stranger();
    let record = imported(&good);
    let wrong = KeyRecord::new(
        record.id(),
        Verifier::sha256(KeyDigest::of("other")),
        "acme",
    );
    let at_once = Duration::ZERO;
    let much_later = Delay::For(STORE_TIME_LIMIT + Duration::from_secs(1));
    let hangs = Delay::Until(Gate::default());
    // What a key that is not remembered gets, and what one that is stale gets if stale ones are
    // served; by default, stale keys get what those that are not remembered do.
    let faults = [
        ("down", Says::Down, Delay::None, at_once, 503, 200),
        ("corrupt", Says::Corrupt, Delay::None, at_once, 503, 503),
        ("hung", Says::WhatItKeeps, hangs, STORE_TIME_LIMIT, 503, 200),
        (
            "slow",
            Says::WhatItKeeps,
            much_later,
            STORE_TIME_LIMIT,
            503,
            200,
        ),
        (
            "wrong",
            Says::This(Box::new(Some(wrong))),
            Delay::None,
            at_once,
            503,
            503,
        ),
        ("panics", Says::Panic, Delay::None, at_once, 503, 503),
    ];
    let policies = [
        (false, Cache::new()),
        (true, Cache::new().dangerous_serve_stale(DAY)),
    ];
    for (fault, says, delay, after, unseen, served_stale) in faults {
        for (serves_stale, cache) in &policies {
            let stale = if *serves_stale { served_stale } else { unseen };
            for (age, expected, after) in [
                (None, unseen, after),
                (Some(at_once), 200, at_once),
                (Some(MAX_STALENESS), stale, after),
            ] {
                let case = format!("{fault}, serves stale: {serves_stale}, age: {age:?}");
                let world = World::with_cache(cache.clone());
                world.create_elsewhere(record.clone());
                if let Some(age) = age {
                    assert_eq!(world.ask(&good), 200, "{case}");
                    world.clock.advance(age);
                }
                world.store.gets(says.clone(), delay.clone());
                for _ in 0..2 {
                    let outcome = outcome(world.asking(&good), &world.clock, after);
                    assert_eq!(outcome, expected, "{case}");
                }
                world.store.gets_well();
                if fault == "wrong" {
                    // It was an answer, and stands for as long as one does.
                    world.keys.invalidate(&record.id());
                }
                assert_eq!(world.ask(&good), 200, "{case}: when it is over");
            }
        }
    }
}

#[tokio::test]
async fn invariant_5_every_limiter_fault_has_its_outcome_under_each_policy() {
    let [at_once, in_time] = [Duration::ZERO, LIMITER_TIME_LIMIT];
    let faults = [
        ("down", Judges::Fails, Delay::None, at_once),
        (
            "hung",
            Judges::Rightly,
            Delay::Until(Gate::default()),
            in_time,
        ),
        ("slow", Judges::Rightly, Delay::For(2 * in_time), in_time),
        (
            "a verdict about nothing",
            Judges::Others(0),
            Delay::None,
            at_once,
        ),
        (
            "a verdict about others",
            Judges::Others(2),
            Delay::None,
            at_once,
        ),
    ];
    let budget = Quota::per_hour(2);
    let nodes = NonZeroU32::new(3).unwrap();
    let policies = [
        (LimiterOutage::default(), [503, 503, 503, 503]),
        (LimiterOutage::refuse(), [503, 503, 503, 503]),
        (LimiterOutage::admit(budget), [200, 200, 503, 503]),
        // A third of ten.
        (LimiterOutage::local_share(nodes), [200, 200, 200, 429]),
    ];
    for (fault, judges, delay, after) in faults {
        for (policy, expected) in &policies {
            let case = format!("{fault}, {policy:?}");
            let world = limited(Limits::new().per_key(Quota::per_hour(10)));
            let world = world.limiter_outage(policy.clone()).build();
            assert_eq!(world.asking(world.key()).await, 200, "{case}");
            world.limiter.gets(judges, delay.clone());
            for expected in expected {
                let mut request = world.asking(world.key());
                // A limiter that is elsewhere is waited for.
                assert!(is_waiting(&mut request), "{case}");
                let outcome = outcome(request, &world.clock, after);
                assert_eq!(outcome, *expected, "{case}");
            }
            world.limiter.gets_well();
            let answer = asking(&world.keys.layer(), world.key().request()).await;
            assert_eq!(answer.status(), 200, "{case}: when it is over");
            assert_eq!(answer.headers()["x-ratelimit-limit"], "10", "{case}");
        }
    }
}

#[tokio::test]
async fn the_configured_time_limits_apply() {
    let [for_store, for_limiter] = [Duration::from_millis(30), Duration::from_secs(40)];
    let world = limited(Limits::new().global(Quota::per_minute(10)))
        .cache(Cache::none().store_time_limit(for_store))
        .limiter_outage(LimiterOutage::refuse().time_limit(for_limiter))
        .build();
    let _never_opened = world.store.hangs();
    let request = world.asking(world.key());
    assert_eq!(outcome(request, &world.clock, for_store), 503);
    world.store.gets_well();
    let _never_opened = world.limiter.hangs();
    let mut request = world.asking(world.key());
    assert!(is_waiting(&mut request));
    assert_eq!(outcome(request, &world.clock, for_limiter), 503);
}

/// A share of a rate has a share of its burst and of its speed, and a share is one unit at least.
#[tokio::test]
async fn in_an_outage_each_quota_is_divided_among_the_nodes() {
    let four = NonZeroU32::new(4).unwrap();
    for (quota, share, wait) in [
        (Quota::per_hour(40), 10, 3600),
        (Quota::per_hour(43), 10, 3600),
        (Quota::per_hour(3), 1, 3600),
        (Quota::per_utc_day(8), 2, 86_400),
        (Quota::per_hour(8).smooth(), 2, 4 * 450),
        (Quota::per_hour(3600).smooth().burst(12), 3, 4),
    ] {
        let world = limited(Limits::new().per_account(quota));
        let outage = LimiterOutage::local_share(four);
        let world = world.limiter_outage(outage).build();
        world.limiter.fails();
        let [one, other] = ["one", "other"].map(|account| world.issue_to(account, ""));
        let layer = world.keys.layer();
        let ask = async |key: &IssuedKey| asking(&layer, key.request()).await;
        for left in (0..share).rev() {
            let answer = ask(&one).await;
            assert_eq!(answer.status(), 200, "{quota:?}");
            let headers = answer.headers();
            assert_eq!(headers["x-ratelimit-limit"], share.to_string(), "{quota:?}");
            assert_eq!(
                headers["x-ratelimit-remaining"],
                left.to_string(),
                "{quota:?}"
            );
        }
        let denied = ask(&one).await;
        assert_eq!(denied.status(), 429, "{quota:?}");
        assert_eq!(ask(&other).await.status(), 200, "{quota:?}");
        // Who waits as told is admitted.
        let told = &denied.headers()["retry-after"];
        assert_eq!(told, &wait.to_string(), "{quota:?}");
        world.clock.advance(Duration::from_secs(wait));
        assert_eq!(ask(&one).await.status(), 200, "{quota:?}");
    }
}

/// Requests that began in many seconds, and are all answered in one.
async fn answered_at_once(world: &World, gate: &Gate) -> usize {
    assert!(world.keys.verify(world.secret()).await.is_ok());
    let mut waiting = Vec::new();
    for _ in 0..20 {
        for _ in 0..6 {
            let mut asking = world.asking(world.key());
            assert!(is_waiting(&mut asking));
            waiting.push(asking);
        }
        world.clock.advance(Duration::from_secs(1));
    }
    gate.open();
    let statuses = futures_util::future::join_all(waiting).await;
    statuses.iter().filter(|status| **status == 200).count()
}

#[tokio::test]
async fn in_an_outage_requests_are_admitted_by_the_time_of_the_answer() {
    for quota in [
        Quota::per_second(5),
        Quota::per_second(5).smooth(),
        Quota::per_minute(5),
    ] {
        let world = limited(Limits::new().per_account(Quota::per_hour(1_000)));
        let outage = LimiterOutage::admit(quota).time_limit(Duration::from_secs(60));
        let world = world.limiter_outage(outage).build();
        let gate = Gate::default();
        let until = Delay::Until(gate.clone());
        world.limiter.gets(Judges::Fails, until);
        assert_eq!(answered_at_once(&world, &gate).await, 5, "{quota:?}");
    }
}

/// A limiter that waits before it decides, such as for a connection.
struct Late(MemoryLimiter, Gate);

impl RateLimiter for Late {
    async fn check(
        &self,
        charges: &[Charge<'_>],
        clock: &dyn Clock,
    ) -> Result<Verdict, LimiterError> {
        self.1.pass().await;
        self.0.check(charges, clock).await
    }

    async fn refund(&self, refunds: &[Refund<'_>], clock: &dyn Clock) -> Result<(), LimiterError> {
        self.0.refund(refunds, clock).await
    }
}

#[tokio::test]
async fn a_late_limiter_decides_by_the_time_of_its_decision() {
    for quota in [
        Quota::per_second(5),
        Quota::per_second(5).smooth(),
        Quota::per_minute(5),
    ] {
        let gate = Gate::default();
        let late = Late(MemoryLimiter::new(), gate.clone());
        let world = World::builder()
            .limits(Limits::new().per_account(quota))
            .limiter_outage(LimiterOutage::refuse().time_limit(Duration::from_secs(60)))
            .set(|keys| keys.limiter(late))
            .build();
        assert_eq!(answered_at_once(&world, &gate).await, 5, "{quota:?}");
    }
}
