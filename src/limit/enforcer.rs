//! The enforcer of limits: the rules, and the limiter that keeps their budgets.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::limit::charge::Charge;
use crate::limit::limiter::{DynRateLimiter, LimiterError};
use crate::limit::outage::OutageLimiter;
use crate::limit::refund::Refund;
use crate::limit::rule_editions::RuleEditions;
use crate::limit::verdict::{BudgetStatus, Verdict};
use crate::util::clock::{Clock, Now, within};
use crate::util::trace;

/// The rules of an application, the limiter that keeps their budgets, and the limiter for its
/// outages.
pub(crate) struct Enforcer {
    pub(crate) rules: RuleEditions,
    pub(crate) limiter: Arc<dyn DynRateLimiter>,
    /// The time after which a call of the limiter has failed. `None` if the limiter keeps it by
    /// itself.
    pub(crate) time_limit: Option<Duration>,
    pub(crate) outage_limiter: OutageLimiter,
}

impl Enforcer {
    /// Logs a warning if there are calendar quotas whose budgets end with the process.
    pub(crate) fn warn_of_calendar(&self) {
        if self.rules.current().has_calendar() && !self.limiter.is_durable() {
            trace::calendar_in_memory();
        }
    }

    /// Takes all charges, or none. Returns `None` if the limiter must wait for its answer.
    #[inline]
    pub(crate) fn check_now(
        &self,
        charges: &[Charge<'_>],
        now: Now,
    ) -> Option<Result<Verdict, LimiterError>> {
        self.limiter.check_now(charges, now)
    }

    /// Takes all charges, or none. Waits for the limiter if necessary, up to the time limit.
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

    /// Returns the status of budgets, within the time limit.
    pub(crate) async fn peek(
        &self,
        clock: &dyn Clock,
        charges: &[Charge<'_>],
    ) -> Result<Verdict, LimiterError> {
        let peeked = self.limiter.peek(charges, clock);
        self.in_time(clock, peeked).await
    }

    /// Refunds units of charges, within the time limit.
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

    /// Takes a charge, or the remaining units of its budget if they are fewer.
    pub(crate) async fn take(
        &self,
        clock: &dyn Clock,
        charge: Charge<'_>,
    ) -> Result<(), LimiterError> {
        let mut charge = [charge];
        // Other callers use the budget, too. The units that remained at the first try may be gone
        // at the second.
        for _ in 0..3 {
            let checked = self.check(clock, &charge).await;
            let verdict = verdict(&charge, &checked)?;
            let left = verdict
                .statuses()
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
        let Some(limit) = self.time_limit else {
            return answer.await;
        };
        let answer = within(clock, limit, answer).await;
        answer.unwrap_or_else(|| Err(LimiterError::unavailable(format!("no answer in {limit:?}"))))
    }
}

/// Returns the verdict of a check about these charges. A verdict with another number of statuses is
/// an error, and never admits a request.
#[inline]
pub(crate) fn verdict<'v>(
    charges: &[Charge<'_>],
    checked: &'v Result<Verdict, LimiterError>,
) -> Result<&'v Verdict, LimiterError> {
    match checked {
        Ok(verdict) if verdict.statuses().len() == charges.len() => Ok(verdict),
        Ok(_) => Err(LimiterError::unavailable(
            "the verdict is about other charges",
        )),
        Err(error) => Err(error.clone()),
    }
}

impl fmt::Debug for Enforcer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Enforcer")
            .field("rules", &self.rules)
            .field("outage_limiter", &self.outage_limiter)
            .finish_non_exhaustive()
    }
}
