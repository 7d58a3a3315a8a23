//! Quotas that change from call to call, and the highest and slowest quotas.

use std::time::Duration;

use crate::conformance::promise::Promise;
use crate::conformance::rate_limiter::harness::Harness;
use crate::key::quota::Quota;
use crate::limit::limiter::RateLimiter;

const WITH_EACH_CALL: Promise = Promise("a quota comes with each call");
const APART: Promise = Promise("quotas that count in other ways do not undo each other");
const TO_THE_UNIT: Promise = Promise("the greatest quota is kept to the unit");

pub(super) async fn run<L: RateLimiter>(harness: &Harness<'_, L>) {
    another_quota(harness).await;
    other_kinds(harness).await;
    extremes(harness).await;
}

async fn another_quota<L: RateLimiter>(harness: &Harness<'_, L>) {
    let [quota, less, too_little, more] = [10, 9, 5, 100].map(Quota::per_day);
    let budget = harness.budget(quota);
    harness.ask(&[budget.charge(8)]).await;
    for (quota, remaining) in [(less, 1), (quota, 2), (more, 92)] {
        let look = harness.ask(&[budget.charge_under(quota, 0)]).await;
        let seen = look.statuses()[0].remaining();
        WITH_EACH_CALL.holds(
            seen == remaining,
            format_args!("after 8, {seen} remain instead of {remaining}, {quota:?}"),
        );
    }
    let denied = harness.ask(&[budget.charge_under(too_little, 1)]).await;
    WITH_EACH_CALL.holds(
        !denied.is_allowed(),
        format_args!("after 8, one more is admitted, {too_little:?}"),
    );
    let never = harness.ask(&[budget.charge_under(too_little, 6)]).await;
    WITH_EACH_CALL.holds(
        !never.is_allowed() && never.retry_after().is_none(),
        format_args!("a cost of 6 is not above the quota, {too_little:?}"),
    );
    let allowed = harness.ask(&[budget.charge_under(more, 3)]).await;
    WITH_EACH_CALL.holds(
        allowed.is_allowed(),
        format_args!("a quota that was raised is not honoured, {more:?}"),
    );
}

/// Keys of one account may have their own quotas under one name. A quota of one kind must not reset
/// the usage of another.
async fn other_kinds<L: RateLimiter>(harness: &Harness<'_, L>) {
    let slow = Quota::per_day(1).smooth();
    for (one, other) in [
        (Quota::per_day(10), slow.burst(5)),
        (slow.burst(10), slow.burst(5)),
        (Quota::per_day(10), Quota::per_hour(5)),
    ] {
        let budget = harness.budget(one);
        let mut admitted = 0;
        for _ in 0..20 {
            for quota in [one, other] {
                let verdict = harness.ask(&[budget.charge_under(quota, 1)]).await;
                admitted += u64::from(verdict.is_allowed());
            }
        }
        APART.holds(
            admitted <= one.limit() + other.limit(),
            format_args!("{admitted} admitted by {one:?} and {other:?} in turn"),
        );
    }
}

async fn extremes<L: RateLimiter>(harness: &Harness<'_, L>) {
    let longest_period = Duration::from_secs(400 * 86_400);
    for quota in [
        Quota::per_day(Quota::MAX),
        Quota::per(Quota::MAX, longest_period).unwrap_or(Quota::per_day(Quota::MAX)),
        Quota::per_utc_month(Quota::MAX),
    ] {
        let budget = harness.budget(quota);
        for (cost, remaining) in [(0, Quota::MAX), (Quota::MAX - 1, 1), (1, 0)] {
            let verdict = harness.ask(&[budget.charge(cost)]).await;
            let seen = verdict.statuses()[0].remaining();
            TO_THE_UNIT.holds(
                verdict.is_allowed() && seen == remaining,
                format_args!("after {cost}, {seen} remain instead of {remaining}, {quota:?}"),
            );
        }
        let denied = harness.ask(&[budget.charge(1)]).await;
        TO_THE_UNIT.holds(!denied.is_allowed(), format_args!("one more, {quota:?}"));
    }
    let Ok(slowest) = Quota::per(1, longest_period) else {
        return;
    };
    for quota in [slowest, slowest.smooth()] {
        let budget = harness.budget(quota);
        let first = harness.ask(&[budget.charge(1)]).await;
        let second = harness.ask(&[budget.charge(1)]).await;
        let wait = second.retry_after().unwrap_or_default();
        TO_THE_UNIT.holds(
            first.is_allowed() && wait + Duration::from_secs(3600) > longest_period,
            format_args!("of one in 400 days, another may be had in {wait:?}, {quota:?}"),
        );
    }
}
