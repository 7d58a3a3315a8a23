//! The rules, and the limiter that keeps their budgets.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::clock::{Clock, within};
use crate::limit::outage::Emergency;
use crate::limit::rulebook::Rulebook;
use crate::limit::{Charge, DynRateLimiter, LimiterError, Standing, Verdict};

/// The rules of an application, where their budgets are kept, and what happens when that fails.
pub(crate) struct Limiting {
    pub(crate) rules: Rulebook,
    pub(crate) limiter: Arc<dyn DynRateLimiter>,
    pub(crate) time_limit: Duration,
    pub(crate) emergency: Emergency,
}

impl Limiting {
    /// Takes all charges, or none; `None` if that must be waited for.
    #[inline]
    pub(crate) fn check_now(
        &self,
        charges: &[Charge<'_>],
        now: SystemTime,
    ) -> Option<Result<Verdict, LimiterError>> {
        let checked = self.limiter.check_now(charges, now)?;
        if checked
            .as_ref()
            .is_ok_and(|verdict| !is_about(charges, verdict))
        {
            return Some(Err(about_others()));
        }
        Some(checked)
    }

    /// As [`check_now`](Self::check_now), after a wait within the time limit.
    pub(crate) async fn check(
        &self,
        clock: &dyn Clock,
        charges: &[Charge<'_>],
        now: SystemTime,
    ) -> Result<Verdict, LimiterError> {
        let verdict = self.limiter.check(charges, now);
        let verdict = self.in_time(clock, verdict).await?;
        if !is_about(charges, &verdict) {
            return Err(about_others());
        }
        Ok(verdict)
    }

    /// Gives charges back.
    pub(crate) async fn refund(
        &self,
        clock: &dyn Clock,
        charges: &[Charge<'_>],
    ) -> Result<(), LimiterError> {
        let now = clock.now();
        match self.limiter.refund_now(charges, now) {
            Some(refunded) => refunded,
            None => self.in_time(clock, self.limiter.refund(charges, now)).await,
        }
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
            let now = clock.now();
            let verdict = match self.check_now(&charge, now) {
                Some(verdict) => verdict?,
                None => self.check(clock, &charge, now).await?,
            };
            let left = verdict.standings().first().map_or(0, Standing::remaining);
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

/// A verdict about other charges than these is none: never a silent yes.
fn is_about(charges: &[Charge<'_>], verdict: &Verdict) -> bool {
    verdict.standings().len() == charges.len()
}

fn about_others() -> LimiterError {
    LimiterError::unavailable("the verdict is about other charges")
}

impl fmt::Debug for Limiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limiting")
            .field("rules", &self.rules)
            .field("emergency", &self.emergency)
            .finish_non_exhaustive()
    }
}
