//! The rules, and the limiter that keeps their budgets.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::limit::charge::Charge;
use crate::limit::editions::Editions;
use crate::limit::limiter::{DynRateLimiter, LimiterError};
use crate::limit::outage::Emergency;
use crate::limit::refund::Refund;
use crate::limit::verdict::{BudgetStatus, Verdict};
use crate::util::clock::{Clock, Now, within};
use crate::util::trace;

/// The rules of an application, where their budgets are kept, and what happens when that fails.
pub(crate) struct Limiting {
    pub(crate) rules: Editions,
    pub(crate) limiter: Arc<dyn DynRateLimiter>,
    pub(crate) time_limit: Duration,
    pub(crate) emergency: Emergency,
}

impl Limiting {
    /// Warns of quotas of the calendar whose budgets end with the process.
    pub(crate) fn warn_of_calendar(&self) {
        if self.rules.current().has_calendar() && !self.limiter.is_durable() {
            trace::calendar_in_memory();
        }
    }

    /// Takes all charges, or none; `None` if that must be waited for.
    #[inline]
    pub(crate) fn check_now(
        &self,
        charges: &[Charge<'_>],
        now: Now,
    ) -> Option<Result<Verdict, LimiterError>> {
        self.limiter.check_now(charges, now)
    }

    /// As [`check_now`](Self::check_now), and if need be with a wait within the time limit.
    pub(crate) async fn check(
        &self,
        clock: &dyn Clock,
        charges: &[Charge<'_>],
    ) -> Result<Verdict, LimiterError> {
        if let Some(checked) = self.check_now(charges, clock.readings()) {
            return checked;
        }
        let checked = self.limiter.check(charges, clock);
        self.in_time(clock, checked).await
    }

    /// Asks how budgets stand, within the time limit.
    pub(crate) async fn peek(
        &self,
        clock: &dyn Clock,
        charges: &[Charge<'_>],
    ) -> Result<Verdict, LimiterError> {
        let peeked = self.limiter.peek(charges, clock);
        self.in_time(clock, peeked).await
    }

    /// Gives units of charges back.
    pub(crate) async fn refund(
        &self,
        clock: &dyn Clock,
        refunds: &[Refund<'_>],
    ) -> Result<(), LimiterError> {
        if let Some(refunded) = self.limiter.refund_now(refunds, clock.readings()) {
            return refunded;
        }
        let refunded = self.limiter.refund(refunds, clock);
        self.in_time(clock, refunded).await
    }

    /// Takes a charge, or what is left of its budget.
    pub(crate) async fn take(
        &self,
        clock: &dyn Clock,
        charge: Charge<'_>,
    ) -> Result<(), LimiterError> {
        let mut charge = [charge];
        // Others draw on the budget, too: what was left a moment ago may be gone.
        for _ in 0..3 {
            let checked = self.check(clock, &charge).await;
            let verdict = verdict(&charge, &checked)?;
            let left = verdict
                .standings()
                .first()
                .map_or(0, BudgetStatus::remaining);
            if verdict.is_allowed() || left == 0 {
                break;
            }
            charge = charge.map(|charge| charge.with_cost(left));
        }
        Ok(())
    }

    async fn in_time<T>(
        &self,
        clock: &dyn Clock,
        answer: impl Future<Output = Result<T, LimiterError>>,
    ) -> Result<T, LimiterError> {
        let limit = self.time_limit;
        let answer = within(clock, limit, answer).await;
        answer.unwrap_or_else(|| Err(LimiterError::unavailable(format!("no answer in {limit:?}"))))
    }
}

/// What a check says of these charges. A verdict about others is none: never a silent yes.
#[inline]
pub(crate) fn verdict<'v>(
    charges: &[Charge<'_>],
    checked: &'v Result<Verdict, LimiterError>,
) -> Result<&'v Verdict, LimiterError> {
    match checked {
        Ok(verdict) if verdict.standings().len() == charges.len() => Ok(verdict),
        Ok(_) => Err(LimiterError::unavailable(
            "the verdict is about other charges",
        )),
        Err(error) => Err(error.clone()),
    }
}

impl fmt::Debug for Limiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limiting")
            .field("rules", &self.rules)
            .field("emergency", &self.emergency)
            .finish_non_exhaustive()
    }
}
