//! The port to where budgets are kept.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;

use crate::limit::charge::Charge;
use crate::limit::refund::Refund;
use crate::limit::verdict::Verdict;
use crate::util::clock::{Clock, Now};

/// Keeps budgets, and charges requests against them.
///
/// All charges of a request are taken, or none: a request that breaks one limit uses nothing of the
/// others, and a denied request costs nothing, so that a caller who waits as told is admitted.
///
/// A budget belongs to a limit's name, a subject, the shape of the quota, and the period of a
/// window. Charges that differ in any of these draw on different budgets. Others draw on the same:
/// a quota that is raised or lowered keeps the units that were used.
///
/// Rates and windows go by the monotonic clock, and calendar quotas by the wall clock: see [`Now`].
///
/// A failure is not a denial: what the application chose for outages decides then. The safe
/// direction is to fail whenever it is not certain that a charge was taken for all processes.
///
/// With the feature `conformance`, the suites of `conformance::rate_limiter` ask an implementor
/// what is promised here and by [`Quota`](crate::Quota).
///
/// ```
/// use tower_api_key::clock::SystemClock;
/// use tower_api_key::limit::{Charge, LimitName, MemoryLimiter, RateLimiter, Subject};
/// use tower_api_key::Quota;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// const PER_MINUTE: Quota = Quota::per_minute(2);
///
/// let limiter = MemoryLimiter::new();
/// let name = LimitName::new("account_per_minute");
/// let charge = [Charge::new(&name, Subject::Account("acme"), PER_MINUTE, 1)];
/// assert!(limiter.check(&charge, &SystemClock).await?.is_allowed());
/// assert!(limiter.check(&charge, &SystemClock).await?.is_allowed());
/// let denied = limiter.check(&charge, &SystemClock).await?;
/// assert!(!denied.is_allowed());
/// assert!(denied.retry_after().is_some());
/// # Ok(())
/// # }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a `RateLimiter`",
    note = "implement `RateLimiter::check` and `RateLimiter::refund`, or use `MemoryLimiter`"
)]
pub trait RateLimiter: Send + Sync + 'static {
    /// As [`check`](Self::check), where the answer is at hand; `None` if it must be waited for.
    ///
    /// A limiter that never waits spares each request an allocation with this.
    fn check_now(&self, charges: &[Charge<'_>], now: Now) -> Option<Result<Verdict, LimiterError>> {
        let _ = (charges, now);
        None
    }

    /// Takes all charges, or none. At most 16; a charge of 0 only looks, unless it
    /// [needs](Charge::needing) more than it takes. Charges against the same budget count together.
    /// Charges that [only report](Charge::report_only) deny nothing, and are taken with the others,
    /// also beyond their quota; their standings are marked
    /// [so](crate::limit::BudgetStatus::of_report_only).
    ///
    /// It reads `clock` when it decides, not before a wait of its own. A limiter that serves
    /// several machines goes by a clock of its own instead.
    fn check(
        &self,
        charges: &[Charge<'_>],
        clock: &dyn Clock,
    ) -> impl Future<Output = Result<Verdict, LimiterError>> + Send;

    /// Returns whether budgets outlive the process. Default: they do. A quota of the calendar that is
    /// kept by a limiter which forgets them is warned about.
    fn is_durable(&self) -> bool {
        true
    }

    /// Tells how budgets stand, and charges nothing: what the charges cost does not matter.
    fn peek(
        &self,
        charges: &[Charge<'_>],
        clock: &dyn Clock,
    ) -> impl Future<Output = Result<Verdict, LimiterError>> + Send {
        async move {
            let looks = charges.iter().map(|charge| charge.with_cost(0));
            self.check(&looks.collect::<Vec<_>>(), clock).await
        }
    }

    /// As [`refund`](Self::refund), where it can be done at once; `None` if it must be waited for.
    fn refund_now(&self, refunds: &[Refund<'_>], now: Now) -> Option<Result<(), LimiterError>> {
        let _ = (refunds, now);
        None
    }

    /// Gives back units of charges that were taken for work which did not happen, while the charges
    /// count. No budget becomes more than whole. At most 16.
    ///
    /// A refund is made once. An implementation that asks a server again must see to it that the
    /// server does not give back twice.
    fn refund(
        &self,
        refunds: &[Refund<'_>],
        clock: &dyn Clock,
    ) -> impl Future<Output = Result<(), LimiterError>> + Send;
}

/// A shared limiter is a limiter.
impl<L: RateLimiter> RateLimiter for Arc<L> {
    fn check_now(&self, charges: &[Charge<'_>], now: Now) -> Option<Result<Verdict, LimiterError>> {
        (**self).check_now(charges, now)
    }

    async fn check(
        &self,
        charges: &[Charge<'_>],
        clock: &dyn Clock,
    ) -> Result<Verdict, LimiterError> {
        (**self).check(charges, clock).await
    }

    fn is_durable(&self) -> bool {
        (**self).is_durable()
    }

    async fn peek(
        &self,
        charges: &[Charge<'_>],
        clock: &dyn Clock,
    ) -> Result<Verdict, LimiterError> {
        (**self).peek(charges, clock).await
    }

    fn refund_now(&self, refunds: &[Refund<'_>], now: Now) -> Option<Result<(), LimiterError>> {
        (**self).refund_now(refunds, now)
    }

    async fn refund(&self, refunds: &[Refund<'_>], clock: &dyn Clock) -> Result<(), LimiterError> {
        (**self).refund(refunds, clock).await
    }
}

/// The object-safe twin of [`RateLimiter`].
#[async_trait]
pub(crate) trait DynRateLimiter: Send + Sync {
    fn check_now(&self, charges: &[Charge<'_>], now: Now) -> Option<Result<Verdict, LimiterError>>;

    async fn check(
        &self,
        charges: &[Charge<'_>],
        clock: &dyn Clock,
    ) -> Result<Verdict, LimiterError>;

    async fn peek(
        &self,
        charges: &[Charge<'_>],
        clock: &dyn Clock,
    ) -> Result<Verdict, LimiterError>;

    fn is_durable(&self) -> bool;

    fn refund_now(&self, refunds: &[Refund<'_>], now: Now) -> Option<Result<(), LimiterError>>;

    async fn refund(&self, refunds: &[Refund<'_>], clock: &dyn Clock) -> Result<(), LimiterError>;
}

#[async_trait]
impl<L: RateLimiter> DynRateLimiter for L {
    fn check_now(&self, charges: &[Charge<'_>], now: Now) -> Option<Result<Verdict, LimiterError>> {
        RateLimiter::check_now(self, charges, now)
    }

    async fn check(
        &self,
        charges: &[Charge<'_>],
        clock: &dyn Clock,
    ) -> Result<Verdict, LimiterError> {
        RateLimiter::check(self, charges, clock).await
    }

    async fn peek(
        &self,
        charges: &[Charge<'_>],
        clock: &dyn Clock,
    ) -> Result<Verdict, LimiterError> {
        RateLimiter::peek(self, charges, clock).await
    }

    fn is_durable(&self) -> bool {
        RateLimiter::is_durable(self)
    }

    fn refund_now(&self, refunds: &[Refund<'_>], now: Now) -> Option<Result<(), LimiterError>> {
        RateLimiter::refund_now(self, refunds, now)
    }

    async fn refund(&self, refunds: &[Refund<'_>], clock: &dyn Clock) -> Result<(), LimiterError> {
        RateLimiter::refund(self, refunds, clock).await
    }
}

/// A limiter could not say whether a request may pass.
#[derive(Debug, Clone)]
pub struct LimiterError(Arc<dyn Error + Send + Sync>);

impl LimiterError {
    /// The limiter could not be reached, or did not answer.
    ///
    /// The source is logged: strip it of connection strings.
    pub fn unavailable(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(source.into().into())
    }
}

impl fmt::Display for LimiterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the rate limiter is unavailable")
    }
}

impl Error for LimiterError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.0)
    }
}
