//! Concurrent callers: exactly the quota is admitted, and every budget is charged for exactly that.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::conformance::promise::Promise;
use crate::conformance::random::Random;
use crate::conformance::rate_limiter::harness::{FixedClock, Harness, TestBudget};
use crate::conformance::rate_limiter::own_clock::quotas;
use crate::key::quota::Quota;
use crate::limit::limiter::RateLimiter;
use crate::util::clock::{Clock, SystemClock};
use crate::util::join_all::join_all;

const EXACTLY: Promise = Promise("callers at once are admitted exactly the quota");

const THREADS: u64 = 4;
/// The number of requests of each thread.
const ASKED: usize = 500;

pub(super) async fn run<L: RateLimiter>(harness: &Harness<'_, L>) {
    for quota in quotas(harness, 20).await {
        in_one_task(harness, quota).await;
    }
    for quota in quotas(harness, 1000).await {
        on_threads(harness, quota).await;
    }
}

async fn in_one_task<L: RateLimiter>(harness: &Harness<'_, L>, quota: Quota) {
    let single = harness.budget(quota);
    let callers = (0..50).map(|_| async {
        let now = FixedClock::now();
        harness
            .wait_for(&[single.charge(1)], now)
            .await
            .is_allowed()
    });
    let admitted = join_all(callers).await;
    let admitted = admitted.iter().filter(|allowed| **allowed).count();
    EXACTLY.holds(
        admitted == 20,
        format_args!("{admitted} of 50 are admitted, {quota:?}"),
    );

    // Two budgets in both orders, with different costs.
    let (shared, wider) = (harness.budget(quota), harness.budget(Quota::per_day(30)));
    let callers = (0..50).map(|caller: u64| {
        let (shared, wider) = (&shared, &wider);
        async move {
            let cost = 1 + caller % 3;
            let mut charges = [shared.charge(cost), wider.charge(cost)];
            if caller.is_multiple_of(2) {
                charges.reverse();
            }
            let verdict = harness.wait_for(&charges, FixedClock::now()).await;
            if verdict.is_allowed() { cost } else { 0 }
        }
    });
    let admitted = join_all(callers).await.iter().sum();
    exactly_charged(harness, &shared, &wider, admitted).await;
}

/// Tests several threads, if the limiter answers without waiting.
async fn on_threads<L: RateLimiter>(harness: &Harness<'_, L>, quota: Quota) {
    let (shared, wider) = (harness.budget(quota), harness.budget(Quota::per_day(1500)));
    let look = [shared.charge(0)];
    let at_hand = harness.limiter.check_now(&look, SystemClock.readings());
    if at_hand.is_none() {
        return;
    }
    let admitted = AtomicU64::new(0);
    let start = Barrier::new(usize::try_from(THREADS).unwrap_or(1));
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (admitted, start, shared, wider) = (&admitted, &start, &shared, &wider);
            let limiter = harness.limiter;
            scope.spawn(move || {
                let mut random = Random::seeded(thread);
                start.wait();
                for _ in 0..ASKED {
                    let cost = 1 + random.below(3);
                    let mut charges = [shared.charge(cost), wider.charge(cost)];
                    if random.coin() {
                        charges.reverse();
                    }
                    let verdict = limiter.check_now(&charges, SystemClock.readings());
                    if verdict.is_some_and(|verdict| verdict.is_ok_and(|it| it.is_allowed())) {
                        admitted.fetch_add(cost, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    exactly_charged(harness, &shared, &wider, admitted.into_inner()).await;
}

/// Checks the budgets after callers that asked for at most three units at a time, and for more
/// units in total than there were.
async fn exactly_charged<L: RateLimiter>(
    harness: &Harness<'_, L>,
    shared: &TestBudget,
    wider: &TestBudget,
    admitted: u64,
) {
    for budget in [shared, wider] {
        let remaining = harness.remaining(budget).await;
        let quota = budget.quota;
        EXACTLY.holds(
            admitted + remaining == quota.limit(),
            format_args!("{admitted} are admitted and {remaining} remain, {quota:?}"),
        );
    }
    let remaining = harness.remaining(shared).await;
    EXACTLY.holds(
        remaining <= 2,
        format_args!(
            "callers are denied while {remaining} remain, {:?}",
            shared.quota
        ),
    );
}
