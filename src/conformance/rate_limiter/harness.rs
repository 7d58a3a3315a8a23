//! The test harness: calls a limiter as the layer does, and checks each verdict for consistency.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use crate::conformance::promise::Promise;
use crate::conformance::random::Random;
use crate::key::quota::{Quota, QuotaShape};
use crate::limit::charge::{Charge, LimitName, Subject};
use crate::limit::limiter::RateLimiter;
use crate::limit::refund::Refund;
use crate::limit::verdict::{BudgetStatus, Verdict};
use crate::util::clock::{Clock, SystemClock};

const ANSWERS: Promise = Promise("a live limiter answers");
pub(super) const NEVER: Promise = Promise("a cost above the whole quota is never admitted");
pub(super) const TELLS: Promise = Promise("a verdict tells how each budget stands");

/// A limiter under test, and names of limits that were never used before.
pub(super) struct Harness<'l, L> {
    pub(super) limiter: &'l L,
    run: u64,
    named: AtomicU64,
}

/// A clock that stands still at the time of a decision.
#[derive(Debug, Clone, Copy)]
pub(super) struct FixedClock(pub(super) SystemTime, pub(super) Duration);

impl FixedClock {
    pub(super) fn now() -> Self {
        let now = SystemClock.readings();
        Self(now.wall(), now.monotonic())
    }
}

impl Clock for FixedClock {
    fn now(&self) -> SystemTime {
        self.0
    }

    fn monotonic(&self) -> Duration {
        self.1
    }
}

/// A budget that was never used before.
#[derive(Debug)]
pub(super) struct TestBudget {
    pub(super) name: LimitName,
    pub(super) quota: Quota,
}

impl TestBudget {
    pub(super) fn charge(&self, cost: u64) -> Charge<'_> {
        self.charge_under(self.quota, cost)
    }

    /// Creates a charge with another quota.
    pub(super) fn charge_under(&self, quota: Quota, cost: u64) -> Charge<'_> {
        Charge::new(&self.name, Subject::Account("acme"), quota, cost)
    }
}

/// Charges that were taken, with the status of their budgets at that time.
#[derive(Debug)]
pub(super) struct TakenCharges<'a> {
    charges: Vec<Charge<'a>>,
    at: FixedClock,
    statuses: Vec<BudgetStatus>,
}

impl<'a> TakenCharges<'a> {
    pub(super) fn new(charges: &[Charge<'a>], at: FixedClock, verdict: &Verdict) -> Self {
        Self {
            charges: charges.to_vec(),
            at,
            statuses: verdict.statuses().to_vec(),
        }
    }

    /// Returns a refund of units of one of the charges.
    pub(super) fn refund(&self, charge: usize, units: u64) -> Refund<'a> {
        self.refund_as(charge, self.charges[charge], units)
    }

    /// Returns a refund of a charge that was not taken, with the time and the status of one that
    /// was.
    pub(super) fn refund_as(&self, taken: usize, charge: Charge<'a>, units: u64) -> Refund<'a> {
        Refund::new(charge, units, self.at.readings(), &self.statuses[taken])
    }
}

impl<'l, L: RateLimiter> Harness<'l, L> {
    pub(super) fn new(limiter: &'l L) -> Self {
        Self {
            limiter,
            run: Random::new().next(),
            named: AtomicU64::new(0),
        }
    }

    pub(super) fn name(&self) -> LimitName {
        let count = self.named.fetch_add(1, Ordering::Relaxed);
        LimitName::new(format!("conformance_{:016x}_{count}", self.run))
    }

    pub(super) fn budget(&self, quota: Quota) -> TestBudget {
        TestBudget {
            name: self.name(),
            quota,
        }
    }

    /// Checks charges at the current time.
    pub(super) async fn ask(&self, charges: &[Charge<'_>]) -> Verdict {
        self.ask_at(charges, FixedClock::now()).await
    }

    /// Checks charges as the layer does: first without waiting, and then with a wait.
    pub(super) async fn ask_at(&self, charges: &[Charge<'_>], at: FixedClock) -> Verdict {
        match self.limiter.check_now(charges, at.readings()) {
            Some(verdict) => check_verdict(charges, ANSWERS.answer(verdict, "check_now")),
            None => self.wait_for(charges, at).await,
        }
    }

    /// Checks charges with a wait.
    pub(super) async fn wait_for(&self, charges: &[Charge<'_>], at: FixedClock) -> Verdict {
        let verdict = self.limiter.check(charges, &at).await;
        check_verdict(charges, ANSWERS.answer(verdict, "check"))
    }

    /// Takes admissible charges at the current time.
    pub(super) async fn take<'a>(&self, charges: &[Charge<'a>]) -> TakenCharges<'a> {
        let at = FixedClock::now();
        let verdict = self.ask_at(charges, at).await;
        TakenCharges::new(charges, at, &verdict)
    }

    /// Refunds at the current time.
    pub(super) async fn refund(&self, refunds: &[Refund<'_>]) {
        self.refund_at(refunds, FixedClock::now()).await;
    }

    /// Refunds as the layer does: first without waiting, and then with a wait.
    pub(super) async fn refund_at(&self, refunds: &[Refund<'_>], at: FixedClock) {
        match self.limiter.refund_now(refunds, at.readings()) {
            Some(refunded) => ANSWERS.answer(refunded, "refund_now"),
            None => self.wait_for_refund(refunds, at).await,
        }
    }

    /// Refunds with a wait.
    pub(super) async fn wait_for_refund(&self, refunds: &[Refund<'_>], at: FixedClock) {
        let refunded = self.limiter.refund(refunds, &at).await;
        ANSWERS.answer(refunded, "refund");
    }

    /// Returns the units of a budget that are admissible now.
    pub(super) async fn remaining(&self, budget: &TestBudget) -> u64 {
        let verdict = self.ask(&[budget.charge(0)]).await;
        verdict.statuses()[0].remaining()
    }
}

/// Returns the longest wait under a quota: its period. For a calendar quota, one second is added,
/// since the wall clock may be read in two steps.
pub(super) fn longest(quota: Quota) -> Duration {
    match quota.shape() {
        QuotaShape::UtcDay | QuotaShape::UtcMonth => quota.window() + Duration::from_secs(1),
        _ => quota.window(),
    }
}

/// Returns the verdict, or panics if it is inconsistent.
fn check_verdict(charges: &[Charge<'_>], verdict: Verdict) -> Verdict {
    let statuses = verdict.statuses();
    let (seen, expected) = (statuses.len(), charges.len());
    TELLS.holds(
        seen == expected,
        format_args!("{seen} statuses for {expected} charges"),
    );
    for (charge, status) in charges.iter().zip(statuses) {
        let (need, quota) = (charge.need(), charge.quota());
        let tells = |kept: bool, claim: &str| {
            let seen = format_args!("{claim}: a need of {need} under {quota:?}: {status:?}");
            TELLS.holds(kept, seen);
        };
        tells(
            status.remaining() <= quota.limit(),
            "more remains than the quota",
        );
        tells(
            status.full_in().is_zero() == (status.remaining() == quota.limit()),
            "exactly what is whole needs no time to be",
        );
        let is_same = |other: &&Charge<'_>| {
            other.name() == charge.name() && other.subject() == charge.subject()
        };
        if charges.iter().filter(is_same).count() > 1 {
            continue; // several charges against one budget are tested elsewhere
        }
        let wait = status.wait();
        NEVER.holds(
            wait.is_none() || need <= quota.limit(),
            format_args!("{need} in {wait:?}, {quota:?}"),
        );
        tells(
            wait.is_some() || need > quota.limit(),
            "what is within the quota is never admissible",
        );
        tells(
            status.is_report_only() == charge.is_report_only(),
            "it is not marked as that of a charge that only reports",
        );
        if !verdict.is_allowed() {
            // Nothing was taken, so the statuses are those before the charges.
            tells(
                status.is_admissible() == (need <= status.remaining()),
                "exactly what is within what remains is admissible",
            );
            tells(
                wait.is_none_or(|wait| wait <= status.full_in()),
                "the wait is longer than until the budget is whole",
            );
        }
    }
    verdict
}
