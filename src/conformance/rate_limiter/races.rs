//! Callers at once: exactly the quota is admitted, and every budget is charged for exactly that.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::conformance::promise::Promise;
use crate::conformance::random::Random;
use crate::conformance::rate_limiter::bench::{Bench, Budget, Stopped};
use crate::conformance::rate_limiter::own_clock::quotas;
use crate::conformance::together::together;
use crate::key::quota::Quota;
use crate::limit::limiter::RateLimiter;
use crate::util::clock::{Clock, SystemClock};

const EXACTLY: Promise = Promise("callers at once are admitted exactly the quota");

const THREADS: u64 = 4;
/// What each thread asks for.
const ASKED: usize = 500;

pub(super) async fn run<L: RateLimiter>(bench: &Bench<'_, L>) {
    for quota in quotas(bench, 20).await {
        in_one_task(bench, quota).await;
    }
    for quota in quotas(bench, 1000).await {
        on_threads(bench, quota).await;
    }
}

async fn in_one_task<L: RateLimiter>(bench: &Bench<'_, L>, quota: Quota) {
    let single = bench.budget(quota);
    let callers = (0..50).map(|_| async {
        let now = Stopped::now();
        bench.wait_for(&[single.charge(1)], now).await.is_allowed()
    });
    let admitted = together(callers).await;
    let admitted = admitted.iter().filter(|allowed| **allowed).count();
    EXACTLY.holds(
        admitted == 20,
        format_args!("{admitted} of 50 are admitted, {quota:?}"),
    );

    // Two budgets, in one order and in the other, at different costs.
    let (shared, wider) = (bench.budget(quota), bench.budget(Quota::per_day(30)));
    let callers = (0..50).map(|caller: u64| {
        let (shared, wider) = (&shared, &wider);
        async move {
            let cost = 1 + caller % 3;
            let mut charges = [shared.charge(cost), wider.charge(cost)];
            if caller.is_multiple_of(2) {
                charges.reverse();
            }
            let verdict = bench.wait_for(&charges, Stopped::now()).await;
            if verdict.is_allowed() { cost } else { 0 }
        }
    });
    let admitted = together(callers).await.iter().sum();
    exactly_charged(bench, &shared, &wider, admitted).await;
}

/// Where answers are at hand, they are given on any thread.
async fn on_threads<L: RateLimiter>(bench: &Bench<'_, L>, quota: Quota) {
    let (shared, wider) = (bench.budget(quota), bench.budget(Quota::per_day(1500)));
    let look = [shared.charge(0)];
    let at_hand = bench.limiter.check_now(&look, SystemClock.readings());
    if at_hand.is_none() {
        return;
    }
    let admitted = AtomicU64::new(0);
    let start = Barrier::new(usize::try_from(THREADS).unwrap_or(1));
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (admitted, start, shared, wider) = (&admitted, &start, &shared, &wider);
            let limiter = bench.limiter;
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
    exactly_charged(bench, &shared, &wider, admitted.into_inner()).await;
}

/// All was asked for in threes at most, and more of it than there was.
async fn exactly_charged<L: RateLimiter>(
    bench: &Bench<'_, L>,
    shared: &Budget,
    wider: &Budget,
    admitted: u64,
) {
    for budget in [shared, wider] {
        let remaining = bench.remaining(budget).await;
        let quota = budget.quota;
        EXACTLY.holds(
            admitted + remaining == quota.limit(),
            format_args!("{admitted} are admitted and {remaining} remain, {quota:?}"),
        );
    }
    let remaining = bench.remaining(shared).await;
    EXACTLY.holds(
        remaining <= 2,
        format_args!(
            "callers are denied while {remaining} remain, {:?}",
            shared.quota
        ),
    );
}
