//! Random histories, compared with the oracle.

use std::time::{Duration, UNIX_EPOCH};

use crate::conformance::promise::Promise;
use crate::conformance::random::Random;
use crate::conformance::rate_limiter::harness::{FixedClock, Harness, TakenCharges, longest};
use crate::conformance::rate_limiter::oracle::{DAY, Guarantee, Oracle, SECOND, START};
use crate::limit::charge::{Charge, LimitName, Subject};
use crate::limit::limiter::RateLimiter;
use crate::limit::verdict::Verdict;

const NO_MORE: Promise = Promise("no window admits more than its quota");
const NO_LESS: Promise = Promise("nobody is denied what is due to them");
const WAITS: Promise = Promise("a caller who waits as told is admitted");
const NO_LONGER: Promise = Promise("nobody is told to wait for longer than they must");
const WHOLE: Promise = Promise("a budget is whole when it said that it would be");
const NO_LOCKOUT: Promise = Promise("nobody is locked out by a step of the clock");

/// The number of decisions in a history.
const LENGTH: u64 = 300;
/// The amount by which a wait may be rounded up.
const ROUNDING: Duration = Duration::from_millis(1);
/// The earliest time of a history: not before the month in which it starts.
const EARLIEST: u64 = START - 29 * DAY;

const ACCOUNTS: [&str; 2] = ["acme", "globex"];

pub(super) async fn run<L: RateLimiter>(make: &mut impl FnMut() -> L, decisions: u64) {
    let (mut left, mut seed) = (decisions, 0);
    while left > 0 {
        seed += 1;
        let limiter = make();
        let mut history = History::new(Harness::new(&limiter), seed);
        for _ in 0..left.min(LENGTH) {
            history.step().await;
        }
        left = left.saturating_sub(LENGTH);
    }
}

/// A few limits on two accounts, and a clock.
struct History<'l, L> {
    harness: Harness<'l, L>,
    limits: Vec<TestLimit>,
    seed: u64,
    random: Random,
    now: ClockReadings,
    /// Steps the wall clock of this history backwards now and then.
    steps_back: bool,
    /// The number of the last request.
    taken: u64,
    admitted: Vec<AdmittedRequest>,
}

/// An admitted request, which may be refunded later.
struct AdmittedRequest {
    account: usize,
    costs: Vec<u64>,
    at: ClockReadings,
    verdict: Verdict,
    taken: u64,
}

/// The readings of both clocks, in nanoseconds.
#[derive(Clone, Copy)]
struct ClockReadings {
    wall: u64,
    monotonic: u64,
}

impl ClockReadings {
    fn later(self, time: u64) -> Self {
        Self {
            wall: self.wall + time,
            monotonic: self.monotonic + time,
        }
    }

    fn now(self) -> FixedClock {
        let wall = UNIX_EPOCH + Duration::from_nanos(self.wall);
        FixedClock(wall, Duration::from_nanos(self.monotonic))
    }

    /// Returns the reading that a guarantee depends on.
    fn of(self, guarantee: Guarantee) -> u64 {
        match guarantee {
            Guarantee::Window { .. } | Guarantee::Rate { .. } => self.monotonic,
            Guarantee::Day { .. } | Guarantee::Month { .. } => self.wall,
        }
    }
}

struct TestLimit {
    name: LimitName,
    /// One oracle for each account.
    oracles: [Oracle; 2],
}

impl<'l, L: RateLimiter> History<'l, L> {
    fn new(harness: Harness<'l, L>, seed: u64) -> Self {
        let mut random = Random::seeded(seed);
        let limit = |random: &mut Random| {
            let guarantee = guarantee(random);
            TestLimit {
                name: harness.name(),
                oracles: [Oracle::new(guarantee), Oracle::new(guarantee)],
            }
        };
        let count = 1 + random.below(4);
        Self {
            limits: (0..count).map(|_| limit(&mut random)).collect(),
            harness,
            seed,
            now: ClockReadings {
                wall: START - random.below(60 * SECOND),
                monotonic: random.below(100 * DAY),
            },
            steps_back: random.coin(),
            random,
            taken: 0,
            admitted: Vec::new(),
        }
    }

    /// Lets some time pass, and makes a request.
    async fn step(&mut self) {
        self.pass_time();
        let account = usize::from(self.random.coin());
        let costs = self.costs();
        let verdict = self.ask(account, &costs).await;
        if let Some(wait) = verdict.retry_after() {
            if self.random.coin() {
                self.now = self.now.later(nanoseconds(wait));
                let verdict = self.ask(account, &costs).await;
                let seed = self.seed;
                // A calendar period may last longer than normal, if the clock was set back.
                let is_in_time = || {
                    let budgets = self.limits.iter().map(|limit| &limit.oracles[account]);
                    let is_due = |(oracle, cost): (&Oracle, &u64)| {
                        *cost <= oracle.at_least(self.now.of(oracle.guarantee))
                    };
                    budgets.zip(&costs).all(is_due)
                };
                WAITS.holds(
                    verdict.is_allowed() || (self.steps_back && !is_in_time()),
                    format_args!("denied after {wait:?}, seed {seed}: {:?}", self.limits()),
                );
            }
        } else if verdict.is_allowed() {
            match self.random.below(16) {
                0..=2 => self.refund(account, &costs, &verdict).await,
                3 => self.refund_late().await,
                4 => self.wait_until_full(account, &verdict).await,
                5..=8 => self.remember(account, &costs, &verdict),
                _ => {}
            }
        }
    }

    /// Makes a request, and compares the verdict with the oracles.
    async fn ask(&mut self, account: usize, costs: &[u64]) -> Verdict {
        let (now, seed) = (self.now, self.seed);
        self.taken += 1;
        self.read(account);
        let charges = charges(&self.limits, account, costs);
        let verdict = if self.random.coin() {
            self.harness.ask_at(&charges, now.now()).await
        } else {
            self.harness.wait_for(&charges, now.now()).await
        };
        let budgets = || self.limits.iter().map(|limit| &limit.oracles[account]);
        if verdict.is_allowed() {
            for (oracle, cost) in budgets().zip(costs) {
                let guarantee = oracle.guarantee;
                let room = oracle.at_most(now.of(guarantee));
                NO_MORE.holds(
                    *cost <= room,
                    format_args!(
                        "{cost} admitted where {room} are left, seed {seed}: {guarantee:?}"
                    ),
                );
            }
        } else {
            let due = |then: ClockReadings| {
                budgets()
                    .zip(costs)
                    .any(|(it, cost)| *cost > it.at_least(then.of(it.guarantee)))
            };
            NO_LESS.holds(
                due(now),
                format_args!("{costs:?} denied, seed {seed}: {:?}", self.limits()),
            );
            let wait = verdict.retry_after().unwrap_or_default();
            if let Some(before) = wait.checked_sub(ROUNDING) {
                NO_LONGER.holds(
                    due(now.later(nanoseconds(before))),
                    format_args!("{wait:?} for {costs:?}, seed {seed}: {:?}", self.limits()),
                );
            }
        }
        for (at, status) in verdict.statuses().iter().enumerate() {
            let oracle = &mut self.limits[at].oracles[account];
            if verdict.is_allowed() {
                oracle.take(costs[at], self.taken);
            }
            let (remaining, guarantee) = (status.remaining(), oracle.guarantee);
            let then = now.of(guarantee);
            let (least, most) = (oracle.at_least(then), oracle.at_most(then));
            let says = format_args!(
                "it says that {remaining} remain where {least} to {most} do, seed {seed}: {guarantee:?}"
            );
            NO_MORE.holds(remaining <= most, says);
            NO_LESS.holds(remaining >= least, says);
            let wait = status.wait().unwrap_or_default();
            NO_LOCKOUT.holds(
                wait <= longest(guarantee.quota()),
                format_args!("a wait of {wait:?}, seed {seed}: {guarantee:?}"),
            );
        }
        verdict
    }

    /// Refunds the latest request, in all budgets or only in the first.
    async fn refund(&mut self, account: usize, costs: &[u64], verdict: &Verdict) {
        let taken_at = self.now.now();
        self.now = self.now.later(self.random.below(SECOND / 10));
        let some = 1 + usize::from(self.random.coin()) * (self.limits.len() - 1);
        let charges = charges(&self.limits, account, costs);
        let taken = TakenCharges::new(&charges, taken_at, verdict);
        let refunds: Vec<_> = (0..some).map(|at| taken.refund(at, u64::MAX)).collect();
        self.harness.refund_at(&refunds, self.now.now()).await;
        self.read(account);
        for limit in &mut self.limits[..some] {
            let oracle = &mut limit.oracles[account];
            // After a step of the clock, the period in which a charge was counted is unknown.
            if self.steps_back && oracle.guarantee.is_calendar() {
                oracle.refund_late(self.taken);
            } else {
                oracle.refund();
            }
        }
    }

    /// Advances the oracles of an account to now.
    fn read(&mut self, account: usize) {
        for limit in &mut self.limits {
            let oracle = &mut limit.oracles[account];
            oracle.read(self.now.of(oracle.guarantee));
        }
    }

    /// Remembers the latest request, to refund it later.
    fn remember(&mut self, account: usize, costs: &[u64], verdict: &Verdict) {
        self.admitted.push(AdmittedRequest {
            account,
            costs: costs.to_vec(),
            at: self.now,
            verdict: verdict.clone(),
            taken: self.taken,
        });
    }

    /// Refunds an earlier request, whose charges may have expired.
    async fn refund_late(&mut self) {
        if self.admitted.is_empty() {
            return;
        }
        let nth = self.random.below(self.admitted.len() as u64);
        let request = self
            .admitted
            .swap_remove(usize::try_from(nth).unwrap_or_default());
        let account = request.account;
        let charges = charges(&self.limits, account, &request.costs);
        let taken = TakenCharges::new(&charges, request.at.now(), &request.verdict);
        let (mut refunds, mut refunded) = (Vec::new(), Vec::new());
        for (at, limit) in self.limits.iter().enumerate() {
            // After a step of more than a period, a day that was over may be counted again.
            if !self.steps_back || !limit.oracles[account].guarantee.is_calendar() {
                refunds.push(taken.refund(at, u64::MAX));
                refunded.push(at);
            }
        }
        self.harness.refund_at(&refunds, self.now.now()).await;
        self.read(account);
        for at in refunded {
            self.limits[at].oracles[account].refund_late(request.taken);
        }
        let nothing = vec![0; self.limits.len()];
        self.ask(account, &nothing).await;
    }

    async fn wait_until_full(&mut self, account: usize, verdict: &Verdict) {
        let full_in = |status: &crate::limit::verdict::BudgetStatus| status.full_in();
        let longest = verdict.statuses().iter().map(full_in).max();
        self.now = self.now.later(nanoseconds(longest.unwrap_or_default()));
        let nothing = vec![0; self.limits.len()];
        let look = self.ask(account, &nothing).await;
        let seed = self.seed;
        for (limit, status) in self.limits.iter().zip(look.statuses()) {
            let oracle = &limit.oracles[account];
            let guarantee = oracle.guarantee;
            if self.steps_back
                && oracle.at_least(self.now.of(guarantee)) < guarantee.quota().limit()
            {
                continue; // the clock was set back into a period that has not ended yet
            }
            let (remaining, all) = (status.remaining(), guarantee.quota().limit());
            WHOLE.holds(
                remaining == all,
                format_args!("{remaining} of {all} remain, seed {seed}: {guarantee:?}"),
            );
        }
    }

    fn pass_time(&mut self) {
        let random = &mut self.random;
        let passes = match random.below(40) {
            0..10 => 0,
            10..20 => random.below(SECOND / 10),
            20..29 => random.below(SECOND),
            29..38 => random.below(20 * SECOND),
            38 => random.below(2 * DAY),
            _ => {
                if self.steps_back {
                    self.step_back();
                }
                0
            }
        };
        self.now = self.now.later(passes);
    }

    fn step_back(&mut self) {
        let furthest = match self.random.below(4) {
            0 => SECOND / 100,
            1 => SECOND,
            2 => 100 * SECOND,
            _ => 3 * DAY,
        };
        let back = self.now.wall - self.random.below(furthest);
        self.now.wall = EARLIEST.max(back);
    }

    fn costs(&mut self) -> Vec<u64> {
        let random = &mut self.random;
        let cost = |limit: &TestLimit| match random.below(40) {
            0 => limit.oracles[0].guarantee.quota().limit() + random.below(2),
            _ => random.below(5),
        };
        self.limits.iter().map(cost).collect()
    }

    fn limits(&self) -> Vec<Guarantee> {
        let limits = self.limits.iter();
        limits.map(|limit| limit.oracles[0].guarantee).collect()
    }
}

fn guarantee(random: &mut Random) -> Guarantee {
    let limit = 1 + random.below(30);
    match random.below(6) {
        0 | 1 => Guarantee::Window {
            limit,
            period: SECOND * (1 + random.below(90)) + random.below(1000),
        },
        2 => Guarantee::Rate {
            burst: limit,
            interval: SECOND / (1 << random.below(8)),
        },
        3 => Guarantee::Rate {
            burst: limit,
            interval: SECOND * (1 + random.below(30)) + random.below(1000),
        },
        4 => Guarantee::Day { limit },
        _ => Guarantee::Month { limit },
    }
}

fn charges<'a>(limits: &'a [TestLimit], account: usize, costs: &[u64]) -> Vec<Charge<'a>> {
    let charge = |(limit, cost): (&'a TestLimit, &u64)| {
        let quota = limit.oracles[account].guarantee.quota();
        Charge::new(
            &limit.name,
            Subject::Account(ACCOUNTS[account]),
            quota,
            *cost,
        )
    };
    limits.iter().zip(costs).map(charge).collect()
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
