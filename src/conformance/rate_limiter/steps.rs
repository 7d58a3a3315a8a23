//! Steps of the wall clock: they neither fill nor empty a budget, and lock nobody out. Only time
//! fills a budget.

use std::time::{Duration, UNIX_EPOCH};

use crate::conformance::promise::Promise;
use crate::conformance::rate_limiter::harness::{FixedClock, Harness, longest};
use crate::key::quota::{Quota, QuotaShape};
use crate::limit::limiter::RateLimiter;

const FILLS_NOTHING: Promise = Promise("a step of the wall clock fills no budget");
const NO_LOCKOUT: Promise = Promise("nobody is locked out by a step of the clock");
const WAITS: Promise = Promise("a caller who waits as told is admitted");
const FORGETS: Promise = Promise("a budget is whole when its period is over");

const DAY: Duration = Duration::from_secs(86_400);

/// 2026-01-31T23:59:00Z: one minute later, a day and a month end.
const START: u64 = 1_769_903_940;

/// Returns the readings of both clocks some time after the start, with the wall clock set back.
fn after(time: Duration, set_back: Duration) -> FixedClock {
    let start = UNIX_EPOCH + Duration::from_secs(START);
    FixedClock(start + time - set_back, DAY + time)
}

const QUOTAS: [Quota; 5] = [
    Quota::per_minute(10),
    Quota::per_second(10).smooth(),
    Quota::per_second(1).smooth().burst(10),
    Quota::per_utc_day(10),
    Quota::per_utc_month(10),
];

pub(super) async fn run<L: RateLimiter>(make: &mut impl FnMut() -> L) {
    for quota in QUOTAS {
        let seconds = [1, 59, 3600, 40 * 86_400].map(Duration::from_secs);
        let steps = [Duration::from_nanos(1), Duration::from_millis(1)];
        for step in steps.into_iter().chain(seconds) {
            backwards(&make(), quota, step).await;
        }
        forwards(&make(), quota).await;
    }
}

async fn backwards<L: RateLimiter>(limiter: &L, quota: Quota, step: Duration) {
    let harness = Harness::new(limiter);
    let budget = harness.budget(quota);
    let start = after(Duration::ZERO, Duration::ZERO);
    harness.ask_at(&[budget.charge(10)], start).await;
    let back = after(Duration::ZERO, step);
    let denied = harness.ask_at(&[budget.charge(1)], back).await;
    FILLS_NOTHING.holds(
        !denied.is_allowed(),
        format_args!("{step:?} back, one more is admitted, {quota:?}"),
    );
    let wait = denied.retry_after().unwrap_or_default();
    let full_in = denied.statuses()[0].full_in();
    NO_LOCKOUT.holds(
        wait.max(full_in) <= longest(quota),
        format_args!("{step:?} back, one more in {wait:?}, full in {full_in:?}, {quota:?}"),
    );
    if is_calendar(quota) && step < DAY {
        // By the clock of the limiter, the period has not ended.
        let back_again = harness.ask_at(&[budget.charge(1)], start).await;
        FILLS_NOTHING.holds(
            !back_again.is_allowed(),
            format_args!("{step:?} back and forth, one more is admitted, {quota:?}"),
        );
    }
    if is_calendar(quota) {
        return;
    }
    let then = harness.ask_at(&[budget.charge(1)], after(wait, step)).await;
    WAITS.holds(
        then.is_allowed(),
        format_args!("{step:?} back, it is denied after a wait of {wait:?}, {quota:?}"),
    );
}

async fn forwards<L: RateLimiter>(limiter: &L, quota: Quota) {
    let harness = Harness::new(limiter);
    let budget = harness.budget(quota);
    let start = after(Duration::ZERO, Duration::ZERO);
    harness.ask_at(&[budget.charge(10)], start).await;
    if !is_calendar(quota) {
        let set = FixedClock(start.0 + 40 * DAY, start.1);
        let denied = harness.ask_at(&[budget.charge(1)], set).await;
        FILLS_NOTHING.holds(
            !denied.is_allowed(),
            format_args!("set 40 days forwards, one more is admitted, {quota:?}"),
        );
    }
    let later = after(40 * DAY, Duration::ZERO);
    let whole = harness.ask_at(&[budget.charge(10)], later).await;
    FORGETS.holds(
        whole.is_allowed(),
        format_args!("denied 40 days later, {quota:?}"),
    );
}

fn is_calendar(quota: Quota) -> bool {
    matches!(quota.shape(), QuotaShape::UtcDay | QuotaShape::UtcMonth)
}
