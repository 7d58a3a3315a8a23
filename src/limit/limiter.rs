//! The port to limiters, which keep budgets.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::limit::charge::Charge;
use crate::limit::refund::Refund;
use crate::limit::verdict::Verdict;
use crate::util::clock::{Clock, Now};

/// A limiter: it keeps budgets, and charges requests against them.
///
/// All charges of a request are taken, or none: a request that exceeds one limit uses nothing of
/// the others, and a denied request costs nothing. A caller who waits as told is therefore
/// admitted.
///
/// A budget belongs to a limit's name, a subject, the shape of the quota, and the period of a
/// window. Charges that differ in any of these use different budgets. All other charges use the
/// same budget: a quota that is raised or lowered keeps the used units.
///
/// Rates and windows use the monotonic clock, and calendar quotas the wall clock: see [`Now`].
///
/// A failure is not a denial: [`LimiterOutage`](crate::limit::LimiterOutage) decides then. The safe
/// direction is to fail whenever it is not certain that a charge was taken for all processes.
///
/// With the feature `conformance`, the suites of `conformance::rate_limiter` test an implementation
/// against the promises here and of [`Quota`](crate::Quota).
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
    /// Does the same as [`check`](Self::check) without a wait. Default: returns `None`, so that
    /// `check` is called.
    ///
    /// A limiter that never waits saves an allocation for each request with this.
    fn check_now(&self, charges: &[Charge<'_>], now: Now) -> Option<Result<Verdict, LimiterError>> {
        let _ = (charges, now);
        None
    }

    /// Takes all charges, or none. There are at most 16.
    ///
    /// A charge of 0 takes nothing and denies nothing, unless it [needs](Charge::needing) more than
    /// it takes. Charges against the same budget count together.
    /// [Report-only](Charge::report_only) charges deny nothing, and are taken with the others, even
    /// beyond their quota; their statuses are
    /// [marked](crate::limit::BudgetStatus::of_report_only).
    ///
    /// A limiter reads `clock` when it decides, not before a wait of its own. A limiter that serves
    /// several machines uses a clock of its own instead.
    fn check(
        &self,
        charges: &[Charge<'_>],
        clock: &dyn Clock,
    ) -> impl Future<Output = Result<Verdict, LimiterError>> + Send;

    /// Returns whether budgets outlive the process. Default: `true`. A warning is logged if it is
    /// `false` and there is a calendar quota.
    fn is_durable(&self) -> bool {
        true
    }

    /// Tells the limiter the [time limit](crate::limit::LimiterOutage::time_limit) of its calls, once.
    /// Returns whether it ends its calls by itself then, so that nobody else needs a timer for each
    /// of them. Default: `false`.
    fn keep_time_limit(&self, limit: Duration) -> bool {
        let _ = limit;
        false
    }

    /// Returns the status of budgets without charging them. The costs of the charges are ignored.
    fn peek(
        &self,
        charges: &[Charge<'_>],
        clock: &dyn Clock,
    ) -> impl Future<Output = Result<Verdict, LimiterError>> + Send {
        async move {
            let free = charges.iter().map(|charge| charge.with_cost(0));
            self.check(&free.collect::<Vec<_>>(), clock).await
        }
    }

    /// Does the same as [`refund`](Self::refund) without a wait. Default: returns `None`, so that
    /// `refund` is called.
    fn refund_now(&self, refunds: &[Refund<'_>], now: Now) -> Option<Result<(), LimiterError>> {
        let _ = (refunds, now);
        None
    }

    /// Refunds units of charges that still count, for work that did not happen. There are at most
    /// 16 refunds. No budget becomes more than full.
    ///
    /// A refund is made once. An implementation that retries a request to a server must make sure
    /// that the server does not refund twice.
    fn refund(
        &self,
        refunds: &[Refund<'_>],
        clock: &dyn Clock,
    ) -> impl Future<Output = Result<(), LimiterError>> + Send;
}

/// Forwards to the shared limiter.
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

    fn keep_time_limit(&self, limit: Duration) -> bool {
        (**self).keep_time_limit(limit)
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

    fn keep_time_limit(&self, limit: Duration) -> bool;

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

    fn keep_time_limit(&self, limit: Duration) -> bool {
        RateLimiter::keep_time_limit(self, limit)
    }

    fn refund_now(&self, refunds: &[Refund<'_>], now: Now) -> Option<Result<(), LimiterError>> {
        RateLimiter::refund_now(self, refunds, now)
    }

    async fn refund(&self, refunds: &[Refund<'_>], clock: &dyn Clock) -> Result<(), LimiterError> {
        RateLimiter::refund(self, refunds, clock).await
    }
}

/// A failure of a limiter, which could not decide a request.
#[derive(Debug, Clone)]
pub struct LimiterError(Arc<dyn Error + Send + Sync>);

impl LimiterError {
    /// Creates the error of a limiter that could not be reached, or did not answer.
    ///
    /// Danger: the source is logged. Remove connection strings from it.
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
