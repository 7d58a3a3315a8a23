//! A limiter under test, asked as the layer asks it, and what each of its answers must be.

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

/// A limiter, and names of limits that nobody used before.
pub(super) struct Bench<'l, L> {
    pub(super) limiter: &'l L,
    run: u64,
    named: AtomicU64,
}

/// A clock that stands still: what a limiter reads when it decides.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stopped(pub(super) SystemTime, pub(super) Duration);

impl Stopped {
    pub(super) fn now() -> Self {
        let now = SystemClock.readings();
        Self(now.wall(), now.monotonic())
    }
}

impl Clock for Stopped {
    fn now(&self) -> SystemTime {
        self.0
    }

    fn monotonic(&self) -> Duration {
        self.1
    }
}

/// A budget that nobody used before.
#[derive(Debug)]
pub(super) struct Budget {
    pub(super) name: LimitName,
    pub(super) quota: Quota,
}

impl Budget {
    pub(super) fn charge(&self, cost: u64) -> Charge<'_> {
        self.charge_under(self.quota, cost)
    }

    /// A charge that comes with another quota.
    pub(super) fn charge_under(&self, quota: Quota, cost: u64) -> Charge<'_> {
        Charge::new(&self.name, Subject::Account("acme"), quota, cost)
    }
}

/// Charges that were taken, and how their budgets stood then.
#[derive(Debug)]
pub(super) struct Taken<'a> {
    charges: Vec<Charge<'a>>,
    at: Stopped,
    standings: Vec<BudgetStatus>,
}

impl<'a> Taken<'a> {
    pub(super) fn new(charges: &[Charge<'a>], at: Stopped, verdict: &Verdict) -> Self {
        Self {
            charges: charges.to_vec(),
            at,
            standings: verdict.standings().to_vec(),
        }
    }

    /// Returns the refund of units of one of the charges.
    pub(super) fn refund(&self, charge: usize, units: u64) -> Refund<'a> {
        self.refund_as(charge, self.charges[charge], units)
    }

    /// Returns the refund of a charge that was not taken, as if it had been taken in place of one
    /// that was.
    pub(super) fn refund_as(&self, taken: usize, charge: Charge<'a>, units: u64) -> Refund<'a> {
        Refund::new(charge, units, self.at.readings(), &self.standings[taken])
    }
}

impl<'l, L: RateLimiter> Bench<'l, L> {
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

    pub(super) fn budget(&self, quota: Quota) -> Budget {
        Budget {
            name: self.name(),
            quota,
        }
    }

    /// Asks now.
    pub(super) async fn ask(&self, charges: &[Charge<'_>]) -> Verdict {
        self.ask_at(charges, Stopped::now()).await
    }

    /// Asks as the layer does: for an answer at hand, and then for one to wait for.
    pub(super) async fn ask_at(&self, charges: &[Charge<'_>], at: Stopped) -> Verdict {
        match self.limiter.check_now(charges, at.readings()) {
            Some(verdict) => understood(charges, ANSWERS.answer(verdict, "check_now")),
            None => self.wait_for(charges, at).await,
        }
    }

    /// Asks without looking for an answer at hand.
    pub(super) async fn wait_for(&self, charges: &[Charge<'_>], at: Stopped) -> Verdict {
        let verdict = self.limiter.check(charges, &at).await;
        understood(charges, ANSWERS.answer(verdict, "check"))
    }

    /// Takes charges that are admissible, now.
    pub(super) async fn take<'a>(&self, charges: &[Charge<'a>]) -> Taken<'a> {
        let at = Stopped::now();
        let verdict = self.ask_at(charges, at).await;
        Taken::new(charges, at, &verdict)
    }

    /// Gives back now.
    pub(super) async fn refund(&self, refunds: &[Refund<'_>]) {
        self.refund_at(refunds, Stopped::now()).await;
    }

    /// Gives back as the layer does: at once, or else by waiting.
    pub(super) async fn refund_at(&self, refunds: &[Refund<'_>], at: Stopped) {
        match self.limiter.refund_now(refunds, at.readings()) {
            Some(refunded) => ANSWERS.answer(refunded, "refund_now"),
            None => self.wait_for_refund(refunds, at).await,
        }
    }

    /// Gives back without trying to do it at once.
    pub(super) async fn wait_for_refund(&self, refunds: &[Refund<'_>], at: Stopped) {
        let refunded = self.limiter.refund(refunds, &at).await;
        ANSWERS.answer(refunded, "refund");
    }

    /// How much of a budget is admissible now.
    pub(super) async fn remaining(&self, budget: &Budget) -> u64 {
        let verdict = self.ask(&[budget.charge(0)]).await;
        verdict.standings()[0].remaining()
    }
}

/// The longest that a quota may make a caller wait: its period; of a calendar quota, and a second
/// for a wall clock that is read in pieces.
pub(super) fn longest(quota: Quota) -> Duration {
    match quota.shape() {
        QuotaShape::UtcDay | QuotaShape::UtcMonth => quota.window() + Duration::from_secs(1),
        _ => quota.window(),
    }
}

/// The verdict, if it makes sense of itself.
fn understood(charges: &[Charge<'_>], verdict: Verdict) -> Verdict {
    let standings = verdict.standings();
    let (seen, expected) = (standings.len(), charges.len());
    TELLS.holds(
        seen == expected,
        format_args!("{seen} standings for {expected} charges"),
    );
    for (charge, standing) in charges.iter().zip(standings) {
        let (need, quota) = (charge.need(), charge.quota());
        let tells = |kept: bool, what: &str| {
            let seen = format_args!("{what}: a need of {need} under {quota:?}: {standing:?}");
            TELLS.holds(kept, seen);
        };
        tells(
            standing.remaining() <= quota.limit(),
            "more remains than the quota",
        );
        tells(
            standing.whole_in().is_zero() == (standing.remaining() == quota.limit()),
            "exactly what is whole needs no time to be",
        );
        let is_same = |other: &&Charge<'_>| {
            other.name() == charge.name() && other.subject() == charge.subject()
        };
        if charges.iter().filter(is_same).count() > 1 {
            continue; // what they cost together is asked for where that is the matter
        }
        let wait = standing.wait();
        NEVER.holds(
            wait.is_none() || need <= quota.limit(),
            format_args!("{need} in {wait:?}, {quota:?}"),
        );
        tells(
            wait.is_some() || need > quota.limit(),
            "what is within the quota is never admissible",
        );
        tells(
            standing.is_report_only() == charge.is_report_only(),
            "it is not marked as that of a charge that only reports",
        );
        if !verdict.is_allowed() {
            // Nothing was taken, so the standings are those before the charges.
            tells(
                standing.is_admissible() == (need <= standing.remaining()),
                "exactly what is within what remains is admissible",
            );
            tells(
                wait.is_none_or(|wait| wait <= standing.whole_in()),
                "the wait is longer than until the budget is whole",
            );
        }
    }
    verdict
}
