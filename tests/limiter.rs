//! The limiter in memory: its arithmetic to the nanosecond, its threads, and its memory. What any
//! limiter promises, and the oracle that finds any over-admission, is in `tests/conformance.rs`.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;
use tower_api_key::Quota;
use tower_api_key::clock::{Clock, Now, SystemClock};
use tower_api_key::limit::{
    BudgetStatus, Charge, LimitName, MemoryLimiter, QuotaShape, RateLimiter, Refund, Subject,
    Verdict,
};

const SECOND: u64 = 1_000_000_000;
const DAY: u64 = 86_400 * SECOND;
/// 2026-01-31T23:59:00Z: a day and a month end a minute later.
const START: u64 = 1_769_903_940 * SECOND;

/// An instant at which both clocks say the same.
fn at(nanoseconds: u64) -> Now {
    let since = Duration::from_nanos(nanoseconds);
    Now::new(UNIX_EPOCH + since, since)
}

fn check(limiter: &MemoryLimiter, charges: &[Charge<'_>], now: u64) -> Verdict {
    limiter.check_now(charges, at(now)).unwrap().unwrap()
}

/// Takes one charge, which must be admissible; gives its standing.
fn take(limiter: &MemoryLimiter, charge: Charge<'_>, now: u64) -> BudgetStatus {
    let verdict = check(limiter, &[charge], now);
    assert!(verdict.is_allowed());
    verdict.standings()[0]
}

/// Gives back units of a charge that was taken at an instant.
fn refund(
    limiter: &MemoryLimiter,
    (charge, taken_at, standing): (Charge<'_>, u64, &BudgetStatus),
    units: u64,
    now: u64,
) {
    let refund = Refund::new(charge, units, at(taken_at), standing);
    limiter.refund_now(&[refund], at(now)).unwrap().unwrap();
}

fn remaining(limiter: &MemoryLimiter, charge: Charge<'_>, now: u64) -> u64 {
    let look = Charge::new(charge.name(), charge.subject(), charge.quota(), 0);
    check(limiter, &[look], now).standings()[0].remaining()
}

/// A small generator of random numbers, for histories that can be told again by their seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

fn name(text: &str) -> LimitName {
    LimitName::new(text)
}

const SHAPES: [Quota; 4] = [
    Quota::per_minute(10),
    Quota::per_second(10).smooth(),
    Quota::per_second(1).smooth().burst(10),
    Quota::per_utc_day(10),
];

/// The longest that any of the shapes above makes a caller wait: a day, and a second for a late
/// thread.
const LONGEST: u64 = DAY + SECOND;

#[test]
fn a_step_of_the_wall_clock_moves_calendar_quotas_only() {
    for quota in SHAPES {
        let goes_by_the_wall = quota == Quota::per_utc_day(10);
        for step in [1, SECOND, 11 * SECOND, 70 * SECOND, 3600 * SECOND, 40 * DAY] {
            let limiter = MemoryLimiter::new();
            let limit = name("limit");
            let charge = |cost| [Charge::new(&limit, Subject::Global, quota, cost)];
            let ask = |cost, now| limiter.check_now(&charge(cost), now).unwrap().unwrap();
            let set = |wall: u64| Now::new(at(wall).wall(), at(START).monotonic());
            assert!(ask(7, at(START)).is_allowed());
            for wall in [START - step, START + step, START - step, START] {
                let look = ask(0, set(wall)).standings()[0];
                assert!(
                    look.remaining() == 3 || goes_by_the_wall,
                    "{quota:?} {step}"
                );
                let wait = ask(4, set(wall)).retry_after();
                let same = ask(4, at(START)).retry_after();
                assert!(wait == same || goes_by_the_wall, "{quota:?} {step}");
            }
            // Backwards, not even those.
            let denied = ask(4, set(START - step));
            assert!(!denied.is_allowed() || goes_by_the_wall, "{quota:?} {step}");
            assert!(denied.retry_after() <= Some(quota.window()), "{quota:?}");
        }
    }
}

proptest! {
    /// However its uses are spread, and whenever it comes back.
    #[test]
    fn a_window_makes_nobody_wait_longer_than_the_window(
        limit in 1..40u64,
        period in SECOND..4_000 * SECOND,
        begins in 0..400 * DAY,
        steps in proptest::collection::vec((0..120u64, 0..6u64, 1..8u64), 1..200),
    ) {
        let quota = Quota::per(limit, Duration::from_nanos(period)).unwrap();
        let limiter = MemoryLimiter::new();
        let name = name("limit");
        let ask = |cost, now| {
            check(&limiter, &[Charge::new(&name, Subject::Global, quota, cost)], now)
        };
        let (mut now, mut history) = (begins, Vec::new());
        for (shares, finer, cost) in steps {
            now += period / 120 * shares + period / 1_000_000 * finer;
            let cost = cost.min(limit);
            let verdict = ask(cost, now);
            if verdict.is_allowed() {
                history.push((now, cost));
            }
            let used: u64 = history.iter().filter(|(at, _)| at + period > now).map(|it| it.1).sum();
            prop_assert!(used <= limit, "{used} of {limit} in a window");
            if let Some(wait) = verdict.retry_after() {
                prop_assert!(wait <= Duration::from_nanos(period), "{wait:?}");
                // Told at once, and in the end right.
                let left = u64::try_from(wait.as_nanos()).unwrap();
                now += left - 1;
                prop_assert!(!ask(cost, now).is_allowed());
                now += 1;
                prop_assert!(ask(cost, now).is_allowed());
                history.push((now, cost));
            }
            prop_assert!(verdict.standings()[0].whole_in() <= Duration::from_nanos(period));
        }
    }

    /// At any phase of the slots.
    #[test]
    fn a_client_that_returns_when_it_is_told_gets_nearly_all_of_a_window(
        limit in 1..200u64,
        period in SECOND..100_000 * SECOND,
        begins in 0..DAY,
    ) {
        let quota = Quota::per(limit, Duration::from_nanos(period)).unwrap();
        let limiter = MemoryLimiter::new();
        let name = name("limit");
        let charge = [Charge::new(&name, Subject::Global, quota, 1)];
        let (mut now, mut admitted) = (begins, 0);
        let end = begins + 600 * period;
        while now < end {
            // All of it within 1/200 of the period, and then one too many.
            let burst = now;
            for at in 0..limit {
                now = burst + period / 200 * at / limit;
                admitted += u64::from(check(&limiter, &charge, now).is_allowed());
            }
            let wait = check(&limiter, &charge, now).retry_after().unwrap();
            now += u64::try_from(wait.as_nanos()).unwrap();
        }
        prop_assert!(admitted * 100 >= 600 * limit * 99, "{admitted} of {}", 600 * limit);
    }

    /// Raised or lowered, in burst and interval.
    #[test]
    fn a_rate_that_is_changed_keeps_the_units_that_were_used(
        used in 1..100u64,
        burst in 1..200u64,
        interval in 1..100u64,
        new_interval in 1..100u64,
        begins in 0..DAY,
    ) {
        let quota = |interval, burst| {
            Quota::per(1, Duration::from_secs(interval)).unwrap().smooth().burst(burst)
        };
        let (before, after) = (quota(interval, 100), quota(new_interval, burst));
        let limiter = MemoryLimiter::new();
        let name = name("limit");
        let ask = |quota, cost| {
            check(&limiter, &[Charge::new(&name, Subject::Global, quota, cost)], begins)
        };
        prop_assert!(ask(before, used).is_allowed());
        let look = ask(after, 0).standings()[0];
        prop_assert_eq!(look.remaining(), burst.saturating_sub(used));
        prop_assert!(look.whole_in() <= after.window());
        if let Some(wait) = ask(after, burst).retry_after() {
            prop_assert!(wait <= after.window());
        }
    }
}

/// Threads read the clock, and then come here in another order.
#[test]
fn a_thread_that_was_held_up_gives_nothing_back() {
    for quota in [
        Quota::per_second(1000).smooth(),
        Quota::per_second(10).smooth().burst(1),
    ] {
        let limiter = MemoryLimiter::new();
        let limit = name("limit");
        let charge = |cost| [Charge::new(&limit, Subject::Global, quota, cost)];
        assert!(check(&limiter, &charge(quota.limit()), START).is_allowed());
        for late in [1, 1_000_000, SECOND - 1] {
            for _ in 0..100 {
                assert!(!check(&limiter, &charge(1), START - late).is_allowed());
                assert!(
                    !check(&limiter, &charge(1), START).is_allowed(),
                    "{quota:?}"
                );
                assert!(check(&limiter, &charge(0), START - late).is_allowed());
            }
        }
    }
}

/// Nor does it make the others forget what they have used.
#[test]
fn what_is_used_counts_for_as_long_whoever_was_held_up() {
    let midnight = START + 60 * SECOND;
    // Until the last instant of a window that begins with the first use.
    for (quota, counts_for) in [
        (Quota::per_second(10), SECOND - 1),
        (Quota::per_minute(10), 60 * SECOND - 1),
        (Quota::per_utc_day(10), DAY - 1),
        (Quota::per_utc_month(10), 28 * DAY - 1),
    ] {
        for parts in [1, 2, 10] {
            for late in [1, SECOND / 59, SECOND / 10, SECOND - 1] {
                let limiter = MemoryLimiter::new();
                let limit = name("limit");
                let charge = |cost| [Charge::new(&limit, Subject::Global, quota, cost)];
                for part in 0..parts {
                    let now = midnight + part * SECOND / 50;
                    assert!(check(&limiter, &charge(10 / parts), now).is_allowed());
                }
                let last = midnight + (parts - 1) * SECOND / 50;
                for _ in 0..3 {
                    let held_up = check(&limiter, &charge(1), last - late);
                    let wait = held_up.retry_after().unwrap();
                    assert!(wait <= Duration::from_nanos(31 * LONGEST), "{wait:?}");
                    assert!(!check(&limiter, &charge(1), last).is_allowed());
                }
                let still = midnight + counts_for;
                assert!(
                    !check(&limiter, &charge(1), still).is_allowed(),
                    "{quota:?} in {parts} parts, {late} late"
                );
            }
        }
    }
}

#[test]
fn waits_are_told_to_the_nanosecond() {
    for quota in SHAPES {
        for (first, second, later) in [(10, 1, 0), (4, 7, 333_333_333), (1, 10, 12_345_678_901)] {
            let limiter = MemoryLimiter::new();
            let limit = name("limit");
            let charge = |cost| [Charge::new(&limit, Subject::Global, quota, cost)];
            assert!(check(&limiter, &charge(first), START).is_allowed());
            let now = START + later;
            let Some(wait) = check(&limiter, &charge(second), now).retry_after() else {
                continue; // it is all back by then
            };
            let then = now + u64::try_from(wait.as_nanos()).unwrap();
            let early = check(&limiter, &charge(second), then - 1);
            assert!(!early.is_allowed(), "{quota:?}");
            assert!(
                check(&limiter, &charge(second), then).is_allowed(),
                "{quota:?}"
            );
        }
    }
}

#[test]
fn instants_at_the_ends_of_time_are_answered() {
    for quota in SHAPES {
        let limiter = MemoryLimiter::new();
        let limit = name("limit");
        let charge = [Charge::new(&limit, Subject::Global, quota, 10)];
        let ends = [
            at(0),
            Now::new(UNIX_EPOCH - Duration::from_secs(1), Duration::ZERO),
            Now::new(
                UNIX_EPOCH + Duration::from_secs(u64::MAX >> 2),
                Duration::MAX,
            ),
            at(u64::MAX),
        ];
        for now in ends {
            let verdict = limiter.check_now(&charge, now).unwrap().unwrap();
            assert_eq!(verdict.standings().len(), 1);
        }
    }
}

#[test]
fn a_cost_of_nothing_only_looks() {
    for quota in SHAPES {
        let limiter = MemoryLimiter::new();
        let limit = name("limit");
        let charge = |cost| [Charge::new(&limit, Subject::Global, quota, cost)];
        for _ in 0..100 {
            let look = check(&limiter, &charge(0), START);
            assert!(look.is_allowed());
            assert_eq!(look.standings()[0].remaining(), 10);
            assert_eq!(look.standings()[0].whole_in(), Duration::ZERO);
        }
        assert_eq!(
            check(&limiter, &charge(4), START).standings()[0].remaining(),
            6
        );
        assert_eq!(
            check(&limiter, &charge(0), START).standings()[0].remaining(),
            6
        );
    }
}

#[test]
fn a_cost_above_the_quota_is_never_admitted_and_has_no_date() {
    for quota in SHAPES {
        let limiter = MemoryLimiter::new();
        let limit = name("limit");
        for cost in [11, u64::MAX] {
            let charge = [Charge::new(&limit, Subject::Global, quota, cost)];
            let verdict = check(&limiter, &charge, START);
            assert!(!verdict.is_allowed());
            assert_eq!(verdict.retry_after(), None);
            assert_eq!(verdict.standings()[0].wait(), None);
        }
        let whole = [Charge::new(&limit, Subject::Global, quota, 10)];
        assert!(
            check(&limiter, &whole, START).is_allowed(),
            "a denial costs nothing"
        );
    }
}

#[test]
fn what_is_given_back_can_be_used_and_no_more() {
    for quota in SHAPES {
        let limiter = MemoryLimiter::new();
        let limit = name("limit");
        let charge = |cost| Charge::new(&limit, Subject::Global, quota, cost);
        let standing = take(&limiter, charge(10), START);
        let taken = (charge(10), START, &standing);
        refund(&limiter, taken, 3, START);
        assert_eq!(remaining(&limiter, charge(0), START), 3);
        for _ in 0..2 {
            refund(&limiter, taken, u64::MAX, START);
        }
        let whole = check(&limiter, &[charge(0)], START).standings()[0];
        assert_eq!((whole.remaining(), whole.whole_in()), (10, Duration::ZERO));
        assert!(
            !check(&limiter, &[charge(11)], START).is_allowed(),
            "{quota:?}"
        );
        // Of a budget that was never used.
        let other = name("other");
        let unused = Charge::new(&other, Subject::Global, quota, 5);
        refund(&limiter, (unused, START, &standing), 5, START);
        assert_eq!(remaining(&limiter, unused, START), 10);
    }
}

/// The units of the charge itself, so that neither more nor less is held at any time after.
#[test]
fn a_refund_gives_back_what_its_own_charge_took() {
    let limiter = MemoryLimiter::new();
    let limit = name("limit");
    let charge = Charge::new(&limit, Subject::Global, Quota::per_minute(10), 5);
    let first = take(&limiter, charge, START);
    take(&limiter, charge, START + 30 * SECOND);
    refund(&limiter, (charge, START, &first), 5, START + 30 * SECOND);
    // Those of second 30 are held for a minute.
    for (second, left) in [(30, 5), (62, 5), (89, 5), (90, 10)] {
        let left_then = remaining(&limiter, charge, START + second * SECOND);
        assert_eq!(left_then, left, "second {second}");
    }
}

proptest! {
    /// What others use is theirs: a refund that comes when its charge does not count any more gives
    /// nothing back, and before that no more than still counts.
    #[test]
    fn a_late_refund_gives_nothing_of_others_back(
        shape in 0..SHAPES.len(), cost in 1..=10u64, others in 0..=10u64, late in 0..2 * 32 * DAY,
        is_late in any::<bool>(),
    ) {
        let quota = SHAPES[shape];
        let limiter = MemoryLimiter::new();
        let limit = name("limit");
        let charge = |cost| Charge::new(&limit, Subject::Global, quota, cost);
        let standing = take(&limiter, charge(cost), START);
        let counts_for = u64::try_from(standing.whole_in().as_nanos()).unwrap();
        let now = START + if is_late { counts_for + late } else { late % counts_for };
        check(&limiter, &[charge(others)], now);
        let before = remaining(&limiter, charge(0), now);
        refund(&limiter, (charge(cost), START, &standing), cost, now);
        let after = remaining(&limiter, charge(0), now);
        if is_late {
            prop_assert_eq!(after, before);
        } else if quota.window() > Duration::ZERO && matches!(quota.shape(), QuotaShape::Rate { .. }) {
            prop_assert!(after >= before && after <= before + cost);
        } else {
            prop_assert_eq!(after, before + cost);
        }
    }

    /// Three a second: whoever gives back as late as they like does no more work for it in any
    /// second.
    #[test]
    fn refunds_that_were_saved_up_are_no_way_around_a_limit(
        shape in 0..2usize, pauses in proptest::collection::vec(0..SECOND, 1..60), seed: u64,
    ) {
        let quota = [Quota::per_second(3), Quota::per_second(3).smooth()][shape];
        let limiter = MemoryLimiter::new();
        let limit = name("limit");
        let charge = Charge::new(&limit, Subject::Global, quota, 1);
        let mut random = Random(seed);
        let (mut saved, mut done) = (Vec::new(), Vec::new());
        let mut now = START;
        for pause in pauses {
            now += pause;
            if random.next().is_multiple_of(3) {
                // All that was saved up is given back.
                for (taken_at, standing) in saved.drain(..) {
                    refund(&limiter, (charge, taken_at, &standing), 1, now);
                }
            }
            loop {
                let verdict = check(&limiter, &[charge], now);
                if !verdict.is_allowed() {
                    break;
                }
                if random.next().is_multiple_of(2) {
                    saved.push((now, verdict.standings()[0]));
                } else {
                    done.push(now);
                }
            }
            let recent = done.iter().filter(|at| **at + SECOND > now).count();
            // A rate admits its burst, and what comes back in a second.
            let most = if shape == 0 { 3 } else { 6 };
            prop_assert!(recent <= most, "{recent} in a second");
        }
    }
}

#[test]
fn a_denial_takes_nothing_of_the_other_budgets() {
    let limiter = MemoryLimiter::new();
    let names: Vec<_> = (0..16).map(|at| name(&format!("limit_{at}"))).collect();
    let quota = |at: usize| SHAPES[at % SHAPES.len()];
    let charges = |cost: u64| -> Vec<_> {
        let charge = |(at, name)| Charge::new(name, Subject::Account("a"), quota(at), cost);
        names.iter().enumerate().map(charge).collect()
    };
    let mut denied = charges(1);
    denied[15] = Charge::new(&names[15], Subject::Account("a"), quota(15), 11);
    assert!(!check(&limiter, &denied, START).is_allowed());
    let look = check(&limiter, &charges(0), START);
    assert!(
        look.standings()
            .iter()
            .all(|standing| standing.remaining() == 10)
    );
    assert!(check(&limiter, &charges(10), START).is_allowed());
}

#[test]
fn charges_against_one_budget_count_together() {
    for quota in SHAPES {
        let limiter = MemoryLimiter::new();
        let limit = name("limit");
        let charge = |cost| Charge::new(&limit, Subject::Global, quota, cost);
        let denied = check(&limiter, &[charge(6), charge(6)], START);
        assert!(!denied.is_allowed(), "{quota:?}");
        assert_eq!(denied.retry_after(), None, "12 are above the whole quota");
        assert!(!check(&limiter, &[charge(1), charge(u64::MAX)], START).is_allowed());
        assert!(check(&limiter, &[charge(4), charge(6)], START).is_allowed());
        let look = check(&limiter, &[charge(0)], START);
        assert_eq!(look.standings()[0].remaining(), 0, "{quota:?}");
    }
    // Also where the quotas are not the same.
    let limiter = MemoryLimiter::new();
    let limit = name("limit");
    let slow = Quota::per_minute(6).smooth().burst(5);
    let fast = Quota::per_second(1).smooth().burst(10);
    let charges = [slow, fast].map(|quota| Charge::new(&limit, Subject::Global, quota, 2));
    assert!(check(&limiter, &charges, START).is_allowed());
    assert_eq!(check(&limiter, &charges, START).standings().len(), 2);
}

#[test]
fn each_subject_has_a_budget_of_its_own() {
    let limiter = MemoryLimiter::new();
    let (one, other) = (name("one"), name("other"));
    let quota = Quota::per_minute(1);
    let id = |byte| tower_api_key::KeyId::from_bytes([byte; 16]);
    let subjects = [
        Subject::Global,
        Subject::Key(id(1)),
        Subject::Key(id(2)),
        Subject::Account("a"),
        Subject::Account("b"),
        Subject::Address("192.0.2.1".parse().unwrap()),
        Subject::Address("2001:db8::".parse().unwrap()),
    ];
    for name in [&one, &other] {
        for subject in subjects {
            let charge = [Charge::new(name, subject, quota, 1)];
            assert!(
                check(&limiter, &charge, START).is_allowed(),
                "{name} {subject:?}"
            );
            assert!(
                !check(&limiter, &charge, START).is_allowed(),
                "{name} {subject:?}"
            );
        }
    }
}

#[test]
fn a_limit_that_is_changed_keeps_what_was_used() {
    let limiter = MemoryLimiter::new();
    let limit = name("limit");
    let charge = |quota, cost| [Charge::new(&limit, Subject::Global, quota, cost)];
    assert!(check(&limiter, &charge(Quota::per_minute(10), 8), START).is_allowed());
    let remaining = |quota, now| check(&limiter, &charge(quota, 0), now).standings()[0].remaining();
    assert_eq!(remaining(Quota::per_minute(9), START), 1);
    assert_eq!(remaining(Quota::per_minute(5), START), 0);
    // A window of another period is another budget, whose uses would be forgotten too early here.
    assert_eq!(remaining(Quota::per_hour(100), START), 100);
    assert_eq!(remaining(Quota::per_minute(10), START), 2);
}

#[test]
fn many_threads_at_once_are_admitted_exactly_the_quota() {
    for quota in [
        Quota::per_day(1000),
        Quota::per_day(1000).smooth(),
        Quota::per_utc_day(1000),
    ] {
        let limiter = MemoryLimiter::new();
        let (shared, own) = (name("shared"), name("own"));
        let admitted = AtomicU64::new(0);
        let barrier = Barrier::new(8);
        std::thread::scope(|scope| {
            for thread in 0..8u8 {
                let (limiter, shared, own) = (&limiter, &shared, &own);
                let (admitted, barrier) = (&admitted, &barrier);
                scope.spawn(move || {
                    let key = tower_api_key::KeyId::from_bytes([thread; 16]);
                    let mut random = Random(u64::from(thread));
                    barrier.wait();
                    for _ in 0..2000 {
                        let cost = 1 + random.below(3);
                        let mut charges = [
                            Charge::new(shared, Subject::Global, quota, cost),
                            Charge::new(own, Subject::Key(key), Quota::per_day(400), cost),
                        ];
                        if random.below(2) == 0 {
                            charges.reverse(); // the order of locking does not follow the order given
                        }
                        if check(limiter, &charges, START).is_allowed() {
                            admitted.fetch_add(cost, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        let admitted = admitted.into_inner();
        let look = |name, subject, quota| {
            let look = check(&limiter, &[Charge::new(name, subject, quota, 0)], START);
            look.standings()[0].remaining()
        };
        let left = look(&shared, Subject::Global, quota);
        assert_eq!(admitted + left, 1000, "partial debits or over-admission");
        assert!(left <= 2, "no reason to be denied with {left} left");
        let used: u64 = (0..8u8)
            .map(|thread| {
                let key = tower_api_key::KeyId::from_bytes([thread; 16]);
                400 - look(&own, Subject::Key(key), Quota::per_day(400))
            })
            .sum();
        assert_eq!(
            used, admitted,
            "a charge was taken in one budget and not in the other"
        );
    }
}

/// More threads than processors, each with its own look at the clock: some come late to the budget.
#[test]
fn threads_that_overtake_each_other_are_admitted_no_more_than_the_rate() {
    let quota = Quota::per_second(1000).smooth().burst(10);
    let (limiter, limit) = (MemoryLimiter::new(), name("limit"));
    let barrier = Barrier::new(8);
    let ask = || {
        barrier.wait();
        let charge = [Charge::new(&limit, Subject::Global, quota, 1)];
        let (mut admitted, mut instants) = (0, Vec::new());
        for _ in 0..20_000 {
            let now = SystemClock.readings();
            instants.push(now.monotonic());
            let verdict = limiter.check_now(&charge, now).unwrap().unwrap();
            admitted += u64::from(verdict.is_allowed());
        }
        let (first, last) = (instants.iter().min(), instants.iter().max());
        (admitted, *first.unwrap(), *last.unwrap())
    };
    let told: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
        let joined = threads.into_iter().map(|thread| thread.join().unwrap());
        joined.collect()
    });
    let admitted: u64 = told.iter().map(|(admitted, ..)| admitted).sum();
    let first = told.iter().map(|(_, first, _)| *first).min().unwrap();
    let last = told.iter().map(|(.., last)| *last).max().unwrap();
    let time = u64::try_from(last.saturating_sub(first).as_millis()).unwrap();
    assert!(admitted <= 10 + time + 1, "{admitted} in {time} ms");
}

/// Junk fills the memory with live budgets; newcomers then share, and whoever was there is exact.
#[test]
fn invariant_7_memory_is_bounded_and_full_memory_is_stricter_never_laxer() {
    for quota in [Quota::per_hour(5), Quota::per_hour(5).smooth()] {
        let limiter = MemoryLimiter::with_memory(0);
        let room = limiter.capacity();
        let (limit, another) = (name("limit"), name("another"));
        let subject = |at: u64| {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&at.to_be_bytes());
            Subject::Key(tower_api_key::KeyId::from_bytes(id))
        };
        let ask_for = |limit, at, now| {
            let charge = Charge::new(limit, subject(at), quota, 1);
            check(&limiter, &[charge], now).is_allowed()
        };
        let ask = |at, now| ask_for(&limit, at, now);
        let watched = 0;
        let mut admitted = 0;
        for junk in 1..=5 * room as u64 {
            ask(junk, START);
            if junk % 100 == 1 {
                admitted += u32::from(ask(watched, START));
            }
            assert!(limiter.len() <= room);
        }
        assert_eq!(admitted, 5, "the budget of a live key was lost or shared");
        // A newcomer finds the budgets that newcomers share used up, long since.
        let newcomers = || (0..5000).map(|at| u64::MAX - at);
        assert_eq!(newcomers().filter(|at| ask(*at, START)).count(), 0);
        // Those under another limit share others: there are 64 of each.
        let shared = newcomers().filter(|at| ask_for(&another, *at, START));
        assert_eq!(shared.count(), 64 * 5);
        // When the junk is idle, its places are given to whoever comes.
        let later = START + 2 * 3600 * SECOND;
        let newcomers = newcomers().take(1000).filter(|at| ask(*at, later));
        assert_eq!(newcomers.count(), 1000);
    }
}

/// An address somewhere in the first bits of a network.
fn address_in(network: IpAddr, bits: u32, random: &mut Random) -> IpAddr {
    let random = u128::from(random.next()) << 64 | u128::from(random.next());
    match network {
        IpAddr::V4(network) => {
            let host = u32::try_from(random >> 96).unwrap() & (u32::MAX >> bits);
            Ipv4Addr::from_bits(network.to_bits() | host).into()
        }
        IpAddr::V6(network) => {
            let host = random & (u128::MAX >> bits);
            // As the rules mask it, to the 64 bits that count as one client.
            Ipv6Addr::from_bits((network.to_bits() | host) >> 64 << 64).into()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever is given back, in parts, late and in any order: the work that is done in any time
    /// is within the burst and what comes back in that time.
    #[test]
    fn refunds_of_a_rate_admit_no_more_work_than_the_rate(
        steps in proptest::collection::vec((0..6 * SECOND, 1..=5u64, any::<u8>()), 1..80), seed: u64,
    ) {
        const BURST: u64 = 10;
        let quota = Quota::per_second(1).smooth().burst(BURST);
        let limiter = MemoryLimiter::new();
        let limit = name("limit");
        let charge = |cost| Charge::new(&limit, Subject::Global, quota, cost);
        let mut random = Random(seed);
        let mut now = START;
        // When, at which standing, at what cost, and how much of it was given back.
        let mut taken: Vec<(u64, BudgetStatus, u64, u64)> = Vec::new();
        for (pause, cost, does) in steps {
            now += if does % 4 == 0 { 0 } else { pause };
            let verdict = check(&limiter, &[charge(cost)], now);
            if verdict.is_allowed() {
                taken.push((now, verdict.standings()[0], cost, 0));
            }
            for _ in 0..does / 64 {
                if taken.is_empty() {
                    break;
                }
                let nth = usize::try_from(random.next() % taken.len() as u64).unwrap();
                let (at_then, standing, cost, before) = &mut taken[nth];
                let units = 1 + random.next() % 5;
                let refund = Refund::new(charge(*cost), units.min(*cost - *before), at(*at_then), standing);
                let refunded = limiter.refund_now(&[refund.after(*before)], at(now));
                refunded.unwrap().unwrap();
                *before += units.min(*cost - *before);
            }
        }
        for (first, (begins, ..)) in taken.iter().enumerate() {
            let mut done = 0;
            for (ends, _, cost, given_back) in &taken[first..] {
                done += cost - given_back;
                prop_assert!(done * SECOND <= BURST * SECOND + (ends - begins), "{done} units");
            }
        }
    }
}

/// Two at once, and the first is given back: the second has come back when it would have without
/// the first.
#[test]
fn a_refund_counts_what_was_given_back_before_it() {
    let quota = Quota::per_minute(10).smooth();
    let limiter = MemoryLimiter::new();
    let limit = name("limit");
    let charge = |cost| Charge::new(&limit, Subject::Global, quota, cost);
    let first = take(&limiter, charge(5), START);
    let second = take(&limiter, charge(5), START);
    refund(&limiter, (charge(5), START, &first), 5, START);
    let later = START + 36 * SECOND;
    take(&limiter, charge(10), later);
    refund(&limiter, (charge(5), START, &second), 5, later);
    assert_eq!(remaining(&limiter, charge(0), later), 0);
    // At once, each gives back all of it, in whatever order.
    for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
        let limiter = MemoryLimiter::new();
        let taken = [(); 3].map(|()| take(&limiter, charge(3), START));
        for at in order {
            refund(&limiter, (charge(3), START, &taken[at]), 3, START);
        }
        assert_eq!(remaining(&limiter, charge(0), START), 10, "{order:?}");
    }
}

/// Keys of one account may have rates of their own.
#[test]
fn a_check_that_takes_nothing_changes_no_rate_of_another_interval() {
    let limiter = MemoryLimiter::new();
    let limit = name("limit");
    let slow = Quota::per_hour(1).smooth().burst(10);
    let fast = Quota::per_second(1).smooth().burst(10);
    let charge = |quota, cost| Charge::new(&limit, Subject::Account("acme"), quota, cost);
    take(&limiter, charge(slow, 10), START);
    for cost in [0, 5, 11] {
        check(&limiter, &[charge(fast, cost)], START);
    }
    assert_eq!(remaining(&limiter, charge(slow, 0), START + 20 * SECOND), 0);
}

/// Memory for slots is nobody's for ever.
#[test]
fn windows_that_nobody_uses_any_more_take_nothing_from_others() {
    let limiter = MemoryLimiter::with_memory(4 << 20);
    let limit = name("limit");
    let quota = Quota::per_minute(60);
    let ask = |address: u32, now| {
        let subject = Subject::Address(Ipv4Addr::from_bits(address).into());
        check(&limiter, &[Charge::new(&limit, subject, quota, 1)], now).is_allowed()
    };
    for second in 0..60 {
        for address in 0..3_000 {
            ask(0x0a00_0000 + address, START + second * SECOND);
        }
    }
    let later = START + 30 * DAY;
    for tick in 0..1_000 {
        let now = later + tick * SECOND * 6 / 5; // 50 a minute
        for client in 0..30 {
            assert!(ask(0xc000_0200 + (client << 16), now), "{client} at {tick}");
        }
    }
}

/// While others keep as many windows busy as they like, nobody who uses half of a quota is refused.
#[test]
fn whoever_uses_half_of_a_quota_is_admitted_however_many_windows_are_busy() {
    let limiter = MemoryLimiter::with_memory(16 << 20);
    let limit = name("limit");
    let quota = Quota::per_minute(60);
    let ask = |address: u32, now| {
        let subject = Subject::Address(Ipv4Addr::from_bits(address).into());
        check(&limiter, &[Charge::new(&limit, subject, quota, 1)], now).is_allowed()
    };
    for second in 0..240 {
        let now = START + second * SECOND;
        for address in 0..4_000 {
            ask(0x0a00_0000 + address, now);
        }
        if second % 2 == 0 {
            for client in 0..30 {
                assert!(
                    ask(0xc000_0200 + (client << 16), now),
                    "{client} in second {second}"
                );
            }
        }
    }
}

/// The first network of a site is the one that most use.
#[test]
fn the_first_network_of_a_wider_one_is_counted_as_all_others_are() {
    for address in [
        "2a11:1450:4001::",
        "2a12:7000::",
        "::1",
        "fd00::",
        "198.51.100.0",
    ] {
        let limiter = MemoryLimiter::with_memory(0);
        let (junk, limit) = (name("junk"), name("limit"));
        let quota = Quota::per_minute(5);
        for at in 0..20_000u128 {
            let stranger = Ipv6Addr::from_bits(0x2a02_1200_u128 << 96 | at << 64).into();
            check(
                &limiter,
                &[Charge::new(&junk, Subject::Address(stranger), quota, 1)],
                START,
            );
        }
        // A neighbour in the next network of 48 or 24 bits, who uses all of it.
        let address: IpAddr = address.parse().unwrap();
        let neighbour: IpAddr = match address {
            IpAddr::V4(it) => Ipv4Addr::from_bits(it.to_bits() + 256).into(),
            IpAddr::V6(it) => Ipv6Addr::from_bits(it.to_bits() + (1 << 80)).into(),
        };
        let ask = |address| {
            let charge = Charge::new(&limit, Subject::Address(address), quota, 1);
            check(&limiter, &[charge], START).is_allowed()
        };
        assert!((0..10).filter(|_| ask(neighbour)).count() >= 5);
        assert!((0..10).filter(|_| ask(address)).count() >= 5, "{address}");
    }
}

/// A network of as many bits as an attacker may have.
fn network() -> impl Strategy<Value = (IpAddr, u32)> {
    let v4 = (1..224u32, 8..=24u32, any::<u32>()).prop_map(|(first, bits, rest)| {
        let network = (first << 24 | rest >> 8) & (u32::MAX << (32 - bits));
        (IpAddr::from(Ipv4Addr::from_bits(network)), bits)
    });
    let v6 = (0x200..0x400u128, 20..=56u32, any::<u128>()).prop_map(|(first, bits, rest)| {
        let network = (first << 116 | rest >> 12) & (u128::MAX << (128 - bits));
        (IpAddr::from(Ipv6Addr::from_bits(network)), bits)
    });
    prop_oneof![v4, v6]
}

/// Returns the widest network that an address may be counted with.
fn widest(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits() >> 24),
        IpAddr::V6(address) => address.to_bits() >> 108 << 32,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Whoever has many addresses uses up the budgets of their own networks: neither those of
    /// others nor those of accounts.
    #[test]
    fn strangers_with_many_addresses_take_nothing_from_others(
        attackers in proptest::collection::vec(network(), 1..4), shape in 0..SHAPES.len(), seed: u64,
    ) {
        let quota = SHAPES[shape];
        let limiter = MemoryLimiter::with_memory(0);
        let (limit, account) = (name("limit"), name("account"));
        let mut random = Random(seed);
        let ask = |address| {
            let charge = Charge::new(&limit, Subject::Address(address), quota, 1);
            check(&limiter, &[charge], START).is_allowed()
        };
        let accounts = limiter.capacity() as u64 / 2;
        let whole = |at| Charge::new(&account, subject(at), quota, 10);
        for at in 0..accounts / 2 {
            prop_assert!(check(&limiter, &[whole(at)], START).is_allowed());
        }
        for at in 0..30_000 {
            let (network, bits) = attackers[at % attackers.len()];
            ask(address_in(network, bits, &mut random));
        }
        // Each of the others has a whole budget, if it is alone in its widest network.
        let theirs = attackers.iter().map(|(network, _)| widest(*network));
        let mut seen: HashSet<u128> = theirs.collect();
        for _ in 0..100 {
            let v4 = IpAddr::from(Ipv4Addr::UNSPECIFIED);
            let v6 = IpAddr::from([0x2000, 0, 0, 0, 0, 0, 0, 0]);
            let (everywhere, bits) = if random.next().is_multiple_of(2) { (v4, 0) } else { (v6, 3) };
            let address = address_in(everywhere, bits, &mut random);
            if seen.insert(widest(address)) {
                // It may get one of its own, after it was counted with its network.
                let admitted = (0..22).filter(|_| ask(address)).count();
                prop_assert!((10..=20).contains(&admitted), "{}", address);
            }
        }
        // So have those accounts that were there, and those that come.
        for at in 0..accounts {
            let is_new = at >= accounts / 2;
            prop_assert_eq!(check(&limiter, &[whole(at)], START).is_allowed(), is_new);
        }
    }

    /// Also when several limits of one request fall back, and when a charge is given back.
    #[test]
    fn addresses_that_are_counted_with_their_network_have_one_budget_together(
        (network, bits) in network(), shape in 0..SHAPES.len(), seed: u64,
    ) {
        let quota = SHAPES[shape];
        let limiter = MemoryLimiter::with_memory(0);
        let names = ["junk", "one", "another"].map(name);
        let mut random = Random(seed);
        // All memory for addresses is in use, and for all networks but the widest.
        for _ in 0..20_000 {
            let address = address_in(IpAddr::from([0x2a00, 0, 0, 0, 0, 0, 0, 0]), 12, &mut random);
            check(&limiter, &[Charge::new(&names[0], Subject::Address(address), quota, 1)], START);
        }
        let charges = |address| {
            let charge = |name| Charge::new(name, Subject::Address(address), quota, 1);
            [charge(&names[1]), charge(&names[2])]
        };
        let mut taken = Vec::new();
        for _ in 0..200 {
            let address = address_in(network, bits.max(24), &mut random);
            let verdict = check(&limiter, &charges(address), START);
            if verdict.is_allowed() {
                taken.push((address, verdict.standings()[0]));
            }
        }
        // Those few that found room of their own have whole budgets, and the others one together or
        // two.
        prop_assert!(taken.len() >= 10);
        if let Some((address, standing)) = taken.last() {
            let [one, another] = charges(*address);
            prop_assert_eq!(remaining(&limiter, one, START), standing.remaining());
            refund(&limiter, (one, START, standing), 1, START);
            prop_assert_eq!(remaining(&limiter, one, START), standing.remaining() + 1);
            prop_assert_eq!(remaining(&limiter, another, START), standing.remaining());
        }
    }
}

/// In a full memory, the budgets of one request take no places from each other.
#[test]
fn invariant_6_what_a_request_is_charged_is_remembered_also_when_memory_is_full() {
    for quota in [Quota::per_hour(1), Quota::per_hour(1).smooth()] {
        let limiter = MemoryLimiter::with_memory(0);
        let limit = name("limit");
        let charge = |at: u64| {
            let key = tower_api_key::key::KeyDigest::of(&at.to_string());
            let subject = Subject::Key(key.id());
            Charge::new(&limit, subject, quota, 1)
        };
        for junk in 0..2 * limiter.capacity() as u64 {
            check(&limiter, &[charge(junk)], START);
        }
        for round in 1..300 {
            let now = START + round * 2 * 3600 * SECOND; // all that came before is whole again
            let charges: Vec<_> = (0..16)
                .map(|at| charge(u64::MAX - at - 16 * round))
                .collect();
            assert!(check(&limiter, &charges, now).is_allowed());
            for charge in &charges {
                assert!(!check(&limiter, &[*charge], now).is_allowed());
            }
        }
    }
}

/// A subject as keys are: spread evenly.
fn subject(at: u64) -> Subject<'static> {
    Subject::Key(tower_api_key::key::KeyDigest::of(&at.to_string()).id())
}

/// Memory that is full of budgets which are whole again is as good as empty.
#[test]
fn newcomers_share_only_when_nearly_all_budgets_are_in_use() {
    for quota in [Quota::per_hour(1), Quota::per_hour(1).smooth()] {
        let limiter = MemoryLimiter::with_memory(0);
        let limit = name("limit");
        let ask = |at, now| {
            check(&limiter, &[Charge::new(&limit, subject(at), quota, 1)], now).is_allowed()
        };
        let room = limiter.capacity() as u64;
        for junk in 0..2 * room {
            ask(junk, START);
        }
        let later = START + 2 * 3600 * SECOND;
        for at in 0..room / 2 {
            assert!(ask(u64::MAX - at, later), "{at} of {room}, {quota:?}");
        }
    }
}

/// A thread that was held up brings an earlier instant, at which the budget was not whole yet.
#[test]
fn what_has_just_become_whole_is_not_forgotten() {
    for quota in [
        Quota::per_hour(1),
        Quota::per_hour(1).smooth(),
        Quota::per_utc_day(1),
    ] {
        let limiter = MemoryLimiter::with_memory(0);
        let (limit, another) = (name("limit"), name("another"));
        let watched = [Charge::new(&limit, subject(0), quota, 1)];
        assert!(check(&limiter, &watched, START).is_allowed());
        let due = check(&limiter, &watched, START).retry_after().unwrap();
        let due = START + u64::try_from(due.as_nanos()).unwrap();
        for junk in 0..4 * limiter.capacity() as u64 {
            let charge = Charge::new(&another, subject(junk), quota, 1);
            check(&limiter, &[charge], due + SECOND / 2);
        }
        assert!(!check(&limiter, &watched, due - 1_000_000).is_allowed());
        assert!(check(&limiter, &watched, due + SECOND / 2).is_allowed());
    }
}

/// A refund that comes so late that its budget is whole again and forgotten goes to nobody else.
#[test]
fn a_late_refund_is_not_given_to_those_who_share() {
    for quota in [Quota::per_hour(1), Quota::per_hour(1).smooth()] {
        let limiter = MemoryLimiter::with_memory(0);
        let limit = name("limit");
        let charge = |at| Charge::new(&limit, subject(at), quota, 1);
        let late = 100;
        let taken: Vec<_> = (0..late)
            .map(|at| take(&limiter, charge(at), START))
            .collect();
        let later = START + 2 * 3600 * SECOND;
        let newcomers = late..4 * limiter.capacity() as u64;
        for at in newcomers.clone() {
            check(&limiter, &[charge(at)], later);
        }
        for (at, standing) in (0..late).zip(&taken) {
            refund(&limiter, (charge(at), START, standing), 1, later);
        }
        let admitted = newcomers.filter(|at| check(&limiter, &[charge(*at)], later).is_allowed());
        assert_eq!(admitted.count(), 0);
    }
}

/// Windows that use many slots take memory of their own; when that is used up, they are coarser.
#[test]
fn windows_without_memory_for_their_slots_are_stricter() {
    let limiter = MemoryLimiter::with_memory(0);
    let limit = name("limit");
    let quota = Quota::per_minute(100);
    let keys = limiter.capacity() as u64 / 3;
    let mut histories: Vec<Vec<(u64, u64)>> = vec![Vec::new(); usize::try_from(keys).unwrap()];
    for second in 0..130 {
        let now = START + second * SECOND;
        for (at, history) in (0u64..).zip(&mut histories) {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&at.to_be_bytes());
            let key = Subject::Key(tower_api_key::KeyId::from_bytes(id));
            if check(&limiter, &[Charge::new(&limit, key, quota, 3)], now).is_allowed() {
                let recent = history.iter().filter(|(at, _)| *at + 60 * SECOND > now);
                let recent: u64 = recent.map(|(_, cost)| cost).sum();
                assert!(recent + 3 <= 100);
                history.push((now, 3));
            }
        }
    }
    let least = histories.iter().map(Vec::len).min().unwrap();
    assert!(
        least >= 33,
        "somebody was denied a window that was free: {least}"
    );
}

#[test]
fn the_verdict_names_what_tells_the_caller_most() {
    let standing = |remaining, whole_in, wait: Option<u64>| {
        let whole_in = Duration::from_secs(whole_in);
        BudgetStatus::new(remaining, whole_in, wait.map(Duration::from_secs))
    };
    let tightest = |standings: &[BudgetStatus]| Verdict::new(standings).tightest();
    assert_eq!(tightest(&[]), None);
    assert_eq!(
        tightest(&[standing(5, 1, Some(0)), standing(3, 1, Some(0))]),
        Some(1)
    );
    assert_eq!(
        tightest(&[standing(3, 9, Some(0)), standing(3, 1, Some(0))]),
        Some(0)
    );
    assert_eq!(
        tightest(&[standing(0, 1, Some(0)), standing(9, 1, Some(2))]),
        Some(1)
    );
    assert_eq!(
        tightest(&[standing(0, 1, Some(7)), standing(0, 1, Some(2))]),
        Some(0)
    );
    assert_eq!(
        tightest(&[standing(9, 1, None), standing(0, 1, Some(2))]),
        Some(0)
    );
    let verdict = Verdict::new(&[standing(0, 1, Some(7)), standing(0, 1, Some(2))]);
    assert_eq!(verdict.retry_after(), Some(Duration::from_secs(7)));
    let never = Verdict::new(&[standing(0, 1, Some(7)), standing(0, 1, None)]);
    assert_eq!(never.retry_after(), None);
}

/// Periods that sixty slots or whole nanoseconds do not divide are rounded against the caller.
#[test]
fn what_does_not_divide_is_rounded_against_the_caller() {
    let limit = name("limit");
    let period = SECOND + 59;
    let quota = Quota::per(1, Duration::from_nanos(period)).unwrap();
    for slot in [period / 60, period.div_ceil(60)] {
        let limiter = MemoryLimiter::new();
        let charge = [Charge::new(&limit, Subject::Global, quota, 1)];
        let last_of_a_slot = START / slot * slot + slot - 1;
        assert!(check(&limiter, &charge, last_of_a_slot).is_allowed());
        assert!(!check(&limiter, &charge, last_of_a_slot + period - 1).is_allowed());
    }
    let thirds = Quota::per_second(3).smooth().burst(1);
    let limiter = MemoryLimiter::new();
    let charge = [Charge::new(&limit, Subject::Global, thirds, 1)];
    assert!(check(&limiter, &charge, START).is_allowed());
    assert!(!check(&limiter, &charge, START + 333_333_333).is_allowed());
    assert!(check(&limiter, &charge, START + 333_333_334).is_allowed());
}
