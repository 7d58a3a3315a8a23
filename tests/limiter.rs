//! The limiter in memory: its arithmetic to the nanosecond, its threads, and its memory. What any
//! limiter promises, and the oracle that finds any over-admission, is in `tests/conformance.rs`.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Barrier;
use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;
use support::random::Random;
use tower_api_key::clock::{Clock, Now, SystemClock};
use tower_api_key::key::KeyDigest;
use tower_api_key::limit::{
    BudgetStatus, Charge, LimitName, MemoryLimiter, QuotaShape, RateLimiter, Refund, Subject,
    Verdict,
};
use tower_api_key::{KeyId, Quota};

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
    verdict.statuses()[0]
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
    check(limiter, &[look], now).statuses()[0].remaining()
}

fn name(text: &str) -> LimitName {
    LimitName::new(text)
}

/// A subject as keys are: spread evenly.
fn subject(at: u64) -> Subject<'static> {
    Subject::Key(KeyDigest::of(&at.to_string()).id())
}

/// A subject whose bits are those of a number.
fn numbered(at: u64) -> Subject<'static> {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&at.to_be_bytes());
    Subject::Key(KeyId::from_bytes(id))
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
fn a_wall_clock_step_affects_only_calendar_quotas() {
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
                let look = ask(0, set(wall)).statuses()[0];
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
    /// For any spread of uses, and any time of return.
    #[test]
    fn a_wait_is_never_longer_than_the_window(
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
            prop_assert!(verdict.statuses()[0].full_in() <= Duration::from_nanos(period));
        }
    }

    /// At any phase of the slots.
    #[test]
    fn a_client_that_waits_as_told_gets_nearly_the_whole_quota(
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
    fn changing_a_rate_keeps_the_units_used(
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
        let look = ask(after, 0).statuses()[0];
        prop_assert_eq!(look.remaining(), burst.saturating_sub(used));
        prop_assert!(look.full_in() <= after.window());
        if let Some(wait) = ask(after, burst).retry_after() {
            prop_assert!(wait <= after.window());
        }
    }
}

/// Threads read the clock, and then come here in another order.
#[test]
fn a_delayed_thread_does_not_refill_a_budget() {
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

/// A late thread does not make the budget forget what others have used.
#[test]
fn a_delayed_thread_does_not_release_used_units_early() {
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
fn waits_are_exact_to_the_nanosecond() {
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
fn extreme_instants_are_handled() {
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
            assert_eq!(verdict.statuses().len(), 1);
        }
    }
}

/// The units of the charge itself, so that neither more nor less is held at any time after.
#[test]
fn a_refund_returns_the_units_of_its_own_charge() {
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
    /// A refund that comes when its charge does not count any more gives nothing back, and before
    /// that at most what still counts: units of others stay used.
    #[test]
    fn invariant_11_a_late_refund_does_not_return_the_units_of_others(
        shape in 0..SHAPES.len(), cost in 1..=10u64, others in 0..=10u64, late in 0..2 * 32 * DAY,
        is_late in any::<bool>(),
    ) {
        let quota = SHAPES[shape];
        let limiter = MemoryLimiter::new();
        let limit = name("limit");
        let charge = |cost| Charge::new(&limit, Subject::Global, quota, cost);
        let standing = take(&limiter, charge(cost), START);
        let counts_for = u64::try_from(standing.full_in().as_nanos()).unwrap();
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

    /// At three a second, refunds of any delay do not admit more work in any second.
    #[test]
    fn saved_up_refunds_do_not_bypass_a_limit(
        shape in 0..2usize, pauses in proptest::collection::vec(0..SECOND, 1..60), seed: u64,
    ) {
        let quota = [Quota::per_second(3), Quota::per_second(3).smooth()][shape];
        let limiter = MemoryLimiter::new();
        let limit = name("limit");
        let charge = Charge::new(&limit, Subject::Global, quota, 1);
        let mut random = Random::new(seed);
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
                    saved.push((now, verdict.statuses()[0]));
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
fn the_sum_of_charges_against_one_budget_does_not_overflow() {
    for quota in SHAPES {
        let limiter = MemoryLimiter::new();
        let limit = name("limit");
        let charge = |cost| Charge::new(&limit, Subject::Global, quota, cost);
        let denied = check(&limiter, &[charge(1), charge(u64::MAX)], START);
        assert!(!denied.is_allowed(), "{quota:?}");
        assert_eq!(remaining(&limiter, charge(0), START), 10, "{quota:?}");
    }
}

#[test]
fn charges_against_one_budget_may_differ_in_their_quotas() {
    let limiter = MemoryLimiter::new();
    let limit = name("limit");
    let slow = Quota::per_minute(6).smooth().burst(5);
    let fast = Quota::per_second(1).smooth().burst(10);
    let charges = [slow, fast].map(|quota| Charge::new(&limit, Subject::Global, quota, 2));
    assert!(check(&limiter, &charges, START).is_allowed());
    assert_eq!(check(&limiter, &charges, START).statuses().len(), 2);
}

/// Its uses would be forgotten too early otherwise.
#[test]
fn a_window_of_another_period_is_another_budget() {
    let limiter = MemoryLimiter::new();
    let limit = name("limit");
    let charge = |quota, cost| Charge::new(&limit, Subject::Global, quota, cost);
    take(&limiter, charge(Quota::per_minute(10), 8), START);
    assert_eq!(
        remaining(&limiter, charge(Quota::per_hour(100), 0), START),
        100
    );
    assert_eq!(
        remaining(&limiter, charge(Quota::per_minute(10), 0), START),
        2
    );
}

/// More threads than processors, each with its own look at the clock: some come late to the budget.
#[test]
fn threads_that_overtake_each_other_do_not_exceed_the_rate() {
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

/// Junk fills the memory with live budgets; newcomers then share, and older budgets are exact.
#[test]
fn invariant_7_memory_is_bounded_and_full_memory_is_stricter_never_laxer() {
    for quota in [Quota::per_hour(5), Quota::per_hour(5).smooth()] {
        let limiter = MemoryLimiter::with_memory(0);
        let room = limiter.capacity();
        let (limit, another) = (name("limit"), name("another"));
        let ask_for = |limit, at, now| {
            let charge = Charge::new(limit, numbered(at), quota, 1);
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

    /// For refunds in parts, late and in any order: the work that is done in any time is within the
    /// burst and what comes back in that time.
    #[test]
    fn refunds_do_not_admit_work_beyond_the_rate(
        steps in proptest::collection::vec((0..6 * SECOND, 1..=5u64, any::<u8>()), 1..80), seed: u64,
    ) {
        const BURST: u64 = 10;
        let quota = Quota::per_second(1).smooth().burst(BURST);
        let limiter = MemoryLimiter::new();
        let limit = name("limit");
        let charge = |cost| Charge::new(&limit, Subject::Global, quota, cost);
        let mut random = Random::new(seed);
        let mut now = START;
        // When, at which standing, at what cost, and how much of it was given back.
        let mut taken: Vec<(u64, BudgetStatus, u64, u64)> = Vec::new();
        for (pause, cost, does) in steps {
            now += if does % 4 == 0 { 0 } else { pause };
            let verdict = check(&limiter, &[charge(cost)], now);
            if verdict.is_allowed() {
                taken.push((now, verdict.statuses()[0], cost, 0));
            }
            for _ in 0..does / 64 {
                if taken.is_empty() {
                    break;
                }
                let nth = random.below(taken.len());
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
fn a_refund_takes_earlier_refunds_into_account() {
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
fn a_check_that_takes_nothing_does_not_change_a_rate() {
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

/// Memory for slots is not held for ever.
#[test]
fn idle_windows_take_nothing_from_others() {
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
fn a_client_using_half_its_quota_is_admitted_among_busy_windows() {
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
fn the_first_subnet_of_a_wider_network_is_counted_like_the_others() {
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

    /// A client with many addresses uses up the budgets of its own networks: neither those of
    /// others nor those of accounts.
    #[test]
    fn clients_with_many_addresses_take_nothing_from_others(
        attackers in proptest::collection::vec(network(), 1..4), shape in 0..SHAPES.len(), seed: u64,
    ) {
        let quota = SHAPES[shape];
        let limiter = MemoryLimiter::with_memory(0);
        let (limit, account) = (name("limit"), name("account"));
        let mut random = Random::new(seed);
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
    fn addresses_counted_with_their_network_share_one_budget(
        (network, bits) in network(), shape in 0..SHAPES.len(), seed: u64,
    ) {
        let quota = SHAPES[shape];
        let limiter = MemoryLimiter::with_memory(0);
        let names = ["junk", "one", "another"].map(name);
        let mut random = Random::new(seed);
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
                taken.push((address, verdict.statuses()[0]));
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
fn invariant_6_all_charges_of_a_request_are_kept_when_memory_is_full() {
    for quota in [Quota::per_hour(1), Quota::per_hour(1).smooth()] {
        let limiter = MemoryLimiter::with_memory(0);
        let limit = name("limit");
        let charge = |at| Charge::new(&limit, subject(at), quota, 1);
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
fn a_budget_that_has_just_become_whole_is_not_forgotten() {
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
fn a_late_refund_is_not_added_to_a_shared_budget() {
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
            let charge = Charge::new(&limit, numbered(at), quota, 3);
            if check(&limiter, &[charge], now).is_allowed() {
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
fn the_verdict_names_the_tightest_limit() {
    let standing = |remaining, full_in, wait: Option<u64>| {
        let full_in = Duration::from_secs(full_in);
        BudgetStatus::new(remaining, full_in, wait.map(Duration::from_secs))
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
fn indivisible_periods_are_rounded_against_the_caller() {
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
