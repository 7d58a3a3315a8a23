//! Limits: how much a caller may use in how much time.
//!
//! [`rules`] say which quotas bind a request, [`rate`], [`window`] and [`calendar`] are the
//! arithmetic of the three shapes of quota over the [`state`] of one budget, and [`RateLimiter`] is
//! the port to where those states are kept: in this process, or for a whole fleet. A limiter holds
//! state, never configuration: quotas come with each call.

pub(crate) mod calendar;
pub(crate) mod endpoint;
pub(crate) mod limiting;
pub(crate) mod metering;
pub(crate) mod outage;
pub(crate) mod rate;
pub(crate) mod refund;
pub(crate) mod rulebook;
pub(crate) mod rules;
pub(crate) mod state;
pub(crate) mod throttle;
pub(crate) mod verdict;
pub(crate) mod window;

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use async_trait::async_trait;

use crate::clock::{Clock, Now};
use crate::key::digest::KeyId;
use crate::key::environment::Environment;
use crate::quota::Quota;
pub use refund::Refund;
pub use verdict::{Standing, Verdict};

/// The most charges that one request may bring.
pub(crate) const MAX_CHARGES: usize = 16;

/// Keeps budgets, and charges requests against them.
///
/// All charges of a request are taken, or none: a request that breaks one limit uses nothing of the
/// others, and a denied request costs nothing, so that a caller who waits as told is admitted.
///
/// A budget belongs to a limit's name, a subject, the shape of the quota, and the period of a window.
/// Charges that differ in any of these draw on different budgets. Others draw on the same: a quota that is
/// raised or lowered keeps the units that were used.
///
/// Rates and windows go by the monotonic clock, and calendar quotas by the wall clock: see [`Now`].
///
/// A failure is not a denial: what the application chose for outages decides then. The safe
/// direction is to fail whenever it is not certain that a charge was taken for all processes.
///
/// With the feature `conformance`, the suites of `conformance::rate_limiter` ask an implementor what is
/// promised here and by [`Quota`].
///
/// ```
/// use tower_api_key::{
///     Charge, LimitName, MemoryLimiter, Quota, RateLimiter, Subject, SystemClock,
/// };
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

    /// Takes all charges, or none. At most 16; a charge of 0 only looks. Charges against the same
    /// budget count together. Charges that [only report](Charge::report_only) deny nothing, and are taken
    /// with the others, also beyond their quota; their standings are marked
    /// [so](Standing::of_report_only).
    ///
    /// It reads `clock` when it decides, not before a wait of its own. A limiter that serves several machines
    /// goes by a clock of its own instead.
    fn check(
        &self,
        charges: &[Charge<'_>],
        clock: &dyn Clock,
    ) -> impl Future<Output = Result<Verdict, LimiterError>> + Send;

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

    /// Gives back units of charges that were taken for work which did not happen, while the charges count.
    /// No budget becomes more than whole. At most 16.
    ///
    /// A refund is made once. An implementation that asks a server again must see to it that the server
    /// does not give back twice.
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

    fn refund_now(&self, refunds: &[Refund<'_>], now: Now) -> Option<Result<(), LimiterError>> {
        RateLimiter::refund_now(self, refunds, now)
    }

    async fn refund(&self, refunds: &[Refund<'_>], clock: &dyn Clock) -> Result<(), LimiterError> {
        RateLimiter::refund(self, refunds, clock).await
    }
}

/// The name of a limit, as callers and logs read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitName {
    text: Arc<str>,
    hash: u64,
}

impl LimitName {
    /// A name, such as `account_per_minute`.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        let text = name.into();
        // FNV-1a. Names are the application's own, so nobody seeks collisions among them.
        let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        Self { text, hash }
    }

    /// The name as it was given.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }
}

impl fmt::Display for LimitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What a limit counts by: each subject has a budget of its own under each limit's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Subject<'a> {
    /// One key.
    Key(KeyId),
    /// All keys of an account together, of whatever environment.
    Account(&'a str),
    /// All keys of an account in one environment together.
    AccountIn(&'a str, &'a Environment),
    /// One client address, as the rules masked it.
    Address(IpAddr),
    /// All clients together whose address is not known.
    UnknownAddress,
    /// Everybody together.
    Global,
}

impl Subject<'_> {
    /// Returns whether strangers draw on the same budget.
    pub(crate) const fn is_shared_by_all(self) -> bool {
        matches!(self, Self::Global | Self::UnknownAddress)
    }
}

/// Units that are charged against one budget.
#[derive(Debug, Clone, Copy)]
pub struct Charge<'a> {
    name: &'a LimitName,
    subject: Subject<'a>,
    quota: Quota,
    cost: u64,
    unit: &'a str,
    home: Option<&'a str>,
    is_report_only: bool,
}

/// The unit of limits that do not name another.
pub(crate) const REQUESTS: &str = "requests";

impl<'a> Charge<'a> {
    /// Creates a charge of requests. A cost of 0 only looks; one above the whole quota is never admitted.
    ///
    /// Its [home](Self::home) is the account of the subject, if that is one.
    pub const fn new(name: &'a LimitName, subject: Subject<'a>, quota: Quota, cost: u64) -> Self {
        let home = match subject {
            Subject::Account(account) | Subject::AccountIn(account, _) => Some(account),
            _ => None,
        };
        Self {
            name,
            subject,
            quota,
            cost,
            unit: REQUESTS,
            home,
            is_report_only: false,
        }
    }

    /// Sets the unit that the limit counts, such as `tokens`. A limit has one unit, so budgets do not differ
    /// by it.
    #[must_use]
    pub const fn with_unit(mut self, unit: &'a str) -> Self {
        self.unit = unit;
        self
    }

    /// Sets the account that the charge belongs to, so that a cluster may keep the budgets of a key and of its
    /// account in one place.
    #[must_use]
    pub const fn with_home(mut self, account: &'a str) -> Self {
        self.home = Some(account);
        self
    }

    /// Makes the charge one that only reports: it never denies a request, and is taken whenever the others
    /// are, also beyond the quota.
    #[must_use]
    pub const fn report_only(mut self) -> Self {
        self.is_report_only = true;
        self
    }

    /// The same charge about another subject.
    pub(crate) const fn about(mut self, subject: Subject<'a>) -> Self {
        self.subject = subject;
        self
    }

    /// The same charge at another cost.
    pub(crate) const fn with_cost(mut self, cost: u64) -> Self {
        self.cost = cost;
        self
    }

    /// The same charge against one machine's share of the quota.
    pub(crate) fn shared_by(mut self, nodes: NonZeroU32) -> Self {
        // What is within the whole quota is within a share of it, or an outage would refuse it for ever.
        self.quota = self
            .quota
            .shared_by(nodes)
            .at_least(self.cost.min(self.quota.limit()));
        self
    }

    /// The name of the limit.
    pub const fn name(&self) -> &'a LimitName {
        self.name
    }

    /// Whose budget it is.
    pub const fn subject(&self) -> Subject<'a> {
        self.subject
    }

    /// What the budget is.
    pub const fn quota(&self) -> Quota {
        self.quota
    }

    /// How many units are asked for.
    pub const fn cost(&self) -> u64 {
        self.cost
    }

    /// The unit that the limit counts: `requests` unless it says otherwise.
    pub const fn unit(&self) -> &'a str {
        self.unit
    }

    /// The account that the charge belongs to, if any.
    pub const fn home(&self) -> Option<&'a str> {
        self.home
    }

    /// Whether the charge only reports.
    pub const fn is_report_only(&self) -> bool {
        self.is_report_only
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
