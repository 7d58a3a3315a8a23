//! Steps of the clock: backwards they fill no budget and lock nobody out, forwards they fill it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::conformance::promise::Promise;
use crate::conformance::rate_limiter::bench::{Bench, longest};
use crate::limit::RateLimiter;
use crate::quota::Quota;

const FILLS_NOTHING: Promise = Promise("a step of the clock backwards fills no budget");
const NO_LOCKOUT: Promise = Promise("nobody is locked out by a step of the clock");
const WAITS: Promise = Promise("a caller who waits as told is admitted");
const FORGETS: Promise = Promise("a budget is whole when its period is over");

const DAY: Duration = Duration::from_secs(86_400);

/// 2026-01-31T23:59:00Z: a day and a month end a minute later.
fn start() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_769_903_940)
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
    let bench = Bench::new(limiter);
    let budget = bench.budget(quota);
    bench.ask_at(&[budget.charge(10)], start()).await;
    let back = start() - step;
    let denied = bench.ask_at(&[budget.charge(1)], back).await;
    FILLS_NOTHING.holds(
        !denied.is_allowed(),
        format_args!("{step:?} back, one more is admitted, {quota:?}"),
    );
    let wait = denied.retry_after().unwrap_or_default();
    let whole_in = denied.standings()[0].whole_in();
    NO_LOCKOUT.holds(
        wait.max(whole_in) <= longest(quota),
        format_args!("{step:?} back, one more in {wait:?}, whole in {whole_in:?}, {quota:?}"),
    );
    let then = bench.ask_at(&[budget.charge(1)], back + wait).await;
    WAITS.holds(
        then.is_allowed(),
        format_args!("{step:?} back, it is denied after a wait of {wait:?}, {quota:?}"),
    );
}

async fn forwards<L: RateLimiter>(limiter: &L, quota: Quota) {
    let bench = Bench::new(limiter);
    let budget = bench.budget(quota);
    bench.ask_at(&[budget.charge(10)], start()).await;
    let whole = bench.ask_at(&[budget.charge(10)], start() + 40 * DAY).await;
    FORGETS.holds(
        whole.is_allowed(),
        format_args!("denied 40 days later, {quota:?}"),
    );
}
