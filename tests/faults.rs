//! The whole of it: each way in which a store or a limiter fails, under each policy that an
//! application can choose, on a clock that stands still unless it is told to move.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::num::NonZeroU32;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use support::trouble::{Delay, Gate, Judges, Says, TroubledLimiter, TroubledStore};
use support::{Asking, DAY, asking, is_waiting, today, with_key};
use tower_api_key::clock::{Clock, ManualClock};
use tower_api_key::key::{KeyDigest, Verifier};
use tower_api_key::limit::{
    Charge, LimiterError, LimiterOutage, MemoryLimiter, RateLimiter, Refund, Verdict,
};
use tower_api_key::{
    ApiKeys, Cache, IssuedKey, KeyRecord, Limits, ManagedKeyStore, MemoryStore, Quota,
};

/// The default of [`Cache`].
const MAX_STALENESS: Duration = Duration::from_secs(10);
const STORE_TIME_LIMIT: Duration = Duration::from_secs(2);
/// The default of [`LimiterOutage`].
const LIMITER_TIME_LIMIT: Duration = Duration::from_millis(250);

/// What comes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Status(u16),
    /// The store's panic goes up through the request that asked it.
    Panic,
}

/// What comes of a request: at once, or exactly when a time limit has passed.
fn outcome(mut asking: Asking, clock: &ManualClock, time_limit: Duration) -> Outcome {
    let mut go_on = || {
        let answer = AssertUnwindSafe(|| asking.as_mut().now_or_never());
        match std::panic::catch_unwind(answer) {
            Ok(answer) => answer.map(|answer| Outcome::Status(answer.status().as_u16())),
            Err(_) => Some(Outcome::Panic),
        }
    };
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

#[tokio::test]
async fn invariant_5_whatever_befalls_a_store_under_each_policy() {
    use Outcome::{Panic, Status};
    let good = ApiKeys::in_memory().issue("acme").await.unwrap();
    let record = good.record().clone();
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
        (
            "down",
            Says::Down,
            Delay::None,
            at_once,
            Status(503),
            Status(200),
        ),
        (
            "corrupt",
            Says::Corrupt,
            Delay::None,
            at_once,
            Status(503),
            Status(503),
        ),
        (
            "hung",
            Says::WhatItKeeps,
            hangs,
            STORE_TIME_LIMIT,
            Status(503),
            Status(200),
        ),
        (
            "slow",
            Says::WhatItKeeps,
            much_later,
            STORE_TIME_LIMIT,
            Status(503),
            Status(200),
        ),
        (
            "wrong",
            Says::This(Box::new(Some(wrong))),
            Delay::None,
            at_once,
            Status(503),
            Status(503),
        ),
        ("panics", Says::Panic, Delay::None, at_once, Panic, Panic),
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
                (Some(at_once), Status(200), at_once),
                (Some(MAX_STALENESS), stale, after),
            ] {
                let case = format!("{fault}, serves stale: {serves_stale}, age: {age:?}");
                let clock = ManualClock::at(today());
                let store = TroubledStore::new(&clock);
                let create = support::creates(record.clone());
                store.kept.commit(&create).await.unwrap();
                let builder = ApiKeys::builder(store.clone()).clock(clock.clone());
                let keys = builder.cache(cache.clone()).build().unwrap();
                let layer = keys.layer();
                let ask = || asking(&layer, with_key(good.expose_secret()));
                if let Some(age) = age {
                    assert_eq!(ask().await.status(), 200, "{case}");
                    clock.advance(age);
                }
                store.gets(says.clone(), delay.clone());
                for _ in 0..2 {
                    let outcome = outcome(ask(), &clock, after);
                    assert_eq!(outcome, expected, "{case}");
                }
                store.gets_well();
                if fault == "wrong" {
                    // It was an answer, and stands for as long as one does.
                    keys.invalidate(&record.id());
                }
                assert_eq!(ask().await.status(), 200, "{case}: when it is over");
            }
        }
    }
}

#[tokio::test]
async fn invariant_5_whatever_befalls_a_limiter_under_each_policy() {
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
            let clock = ManualClock::at(today());
            let limiter = TroubledLimiter::new(&clock);
            let keys = ApiKeys::builder(MemoryStore::new())
                .clock(clock.clone())
                .limits(Limits::new().per_key(Quota::per_hour(10)))
                .limiter(limiter.clone())
                .limiter_outage(policy.clone())
                .build()
                .unwrap();
            let key = keys.issue("acme").await.unwrap();
            let layer = keys.layer();
            let ask = || asking(&layer, with_key(key.expose_secret()));
            assert_eq!(ask().await.status(), 200, "{case}");
            limiter.gets(judges, delay.clone());
            for expected in expected {
                let mut request = ask();
                // A limiter that is elsewhere is waited for.
                assert!(is_waiting(&mut request), "{case}");
                let outcome = outcome(request, &clock, after);
                assert_eq!(outcome, Outcome::Status(*expected), "{case}");
            }
            limiter.gets_well();
            let answer = ask().await;
            assert_eq!(answer.status(), 200, "{case}: when it is over");
            assert_eq!(answer.headers()["x-ratelimit-limit"], "10", "{case}");
        }
    }
}

#[tokio::test]
async fn the_time_limits_are_what_they_are_set_to() {
    let clock = ManualClock::at(today());
    let (store, limiter) = (TroubledStore::new(&clock), TroubledLimiter::new(&clock));
    let [for_store, for_limiter] = [Duration::from_millis(30), Duration::from_secs(40)];
    let keys = ApiKeys::builder(store.clone())
        .clock(clock.clone())
        .cache(Cache::none().store_time_limit(for_store))
        .limits(Limits::new().global(Quota::per_minute(10)))
        .limiter(limiter.clone())
        .limiter_outage(LimiterOutage::refuse().time_limit(for_limiter))
        .build()
        .unwrap();
    let key = keys.issue("acme").await.unwrap();
    let layer = keys.layer();
    let ask = || asking(&layer, with_key(key.expose_secret()));
    let _never_opened = store.hangs();
    let unavailable = Outcome::Status(503);
    assert_eq!(outcome(ask(), &clock, for_store), unavailable);
    store.gets_well();
    let _never_opened = limiter.hangs();
    let mut request = ask();
    assert!(is_waiting(&mut request));
    assert_eq!(outcome(request, &clock, for_limiter), unavailable);
}

/// A share of a rate is a rate of a share, and a share of one is one.
#[tokio::test]
async fn in_an_outage_each_quota_is_shared() {
    let four = NonZeroU32::new(4).unwrap();
    for (quota, share, wait) in [
        (Quota::per_hour(40), 10, 3600),
        (Quota::per_hour(43), 10, 3600),
        (Quota::per_hour(3), 1, 3600),
        (Quota::per_utc_day(8), 2, 86_400),
        (Quota::per_hour(8).smooth(), 2, 4 * 450),
        (Quota::per_hour(3600).smooth().burst(12), 3, 4),
    ] {
        let clock = ManualClock::at(today());
        let limiter = TroubledLimiter::new(&clock);
        limiter.fails();
        let keys = ApiKeys::builder(MemoryStore::new())
            .clock(clock.clone())
            .limits(Limits::new().per_account(quota))
            .limiter(limiter)
            .limiter_outage(LimiterOutage::local_share(four))
            .build()
            .unwrap();
        let [one, other] = [
            keys.issue("one").await.unwrap(),
            keys.issue("other").await.unwrap(),
        ];
        let layer = keys.layer();
        let ask = async |key: &IssuedKey| asking(&layer, with_key(key.expose_secret())).await;
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
        clock.advance(Duration::from_secs(wait));
        assert_eq!(ask(&one).await.status(), 200, "{quota:?}");
    }
}

/// Requests that began in many seconds, and are all answered in one.
async fn answered_at_once(keys: &ApiKeys, clock: &ManualClock, gate: &Gate) -> usize {
    let key = keys.issue("acme").await.unwrap();
    let layer = keys.layer();
    assert!(keys.verify(key.expose_secret()).await.is_ok());
    let mut waiting = Vec::new();
    for _ in 0..20 {
        for _ in 0..6 {
            let mut asking = asking(&layer, with_key(key.expose_secret()));
            assert!(is_waiting(&mut asking));
            waiting.push(asking);
        }
        clock.advance(Duration::from_secs(1));
    }
    gate.open();
    let answers = futures_util::future::join_all(waiting).await;
    answers
        .iter()
        .filter(|answer| answer.status() == 200)
        .count()
}

#[tokio::test]
async fn an_outage_admits_by_the_time_of_the_answer_and_not_of_the_question() {
    for quota in [
        Quota::per_second(5),
        Quota::per_second(5).smooth(),
        Quota::per_minute(5),
    ] {
        let clock = ManualClock::at(today());
        let limiter = TroubledLimiter::new(&clock);
        let gate = Gate::default();
        limiter.gets(Judges::Fails, Delay::Until(gate.clone()));
        let outage = LimiterOutage::admit(quota).time_limit(Duration::from_secs(60));
        let keys = ApiKeys::builder(MemoryStore::new())
            .clock(clock.clone())
            .limits(Limits::new().per_account(Quota::per_hour(1_000)))
            .limiter(limiter)
            .limiter_outage(outage)
            .build()
            .unwrap();
        assert_eq!(answered_at_once(&keys, &clock, &gate).await, 5, "{quota:?}");
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
async fn a_limiter_that_decides_late_decides_by_the_time_that_it_is_then() {
    for quota in [
        Quota::per_second(5),
        Quota::per_second(5).smooth(),
        Quota::per_minute(5),
    ] {
        let clock = ManualClock::at(today());
        let gate = Gate::default();
        let keys = ApiKeys::builder(MemoryStore::new())
            .clock(clock.clone())
            .limits(Limits::new().per_account(quota))
            .limiter(Late(MemoryLimiter::new(), gate.clone()))
            .limiter_outage(LimiterOutage::refuse().time_limit(Duration::from_secs(60)))
            .build()
            .unwrap();
        assert_eq!(answered_at_once(&keys, &clock, &gate).await, 5, "{quota:?}");
    }
}
