//! The policy for outages of the limiter.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use crate::key::quota::Quota;
use crate::limit::charge::{Charge, LimitName, Subject};
use crate::limit::compiled_rules::Charges;
use crate::limit::limiter::DynRateLimiter;
use crate::limit::verdict::Verdict;
use crate::util::clock::Now;

/// The policy for requests while the limiter fails, or does not answer in time.
///
/// ```
/// use std::num::NonZeroU32;
/// use tower_api_key::limit::LimiterOutage;
/// use tower_api_key::{ApiKeys, MemoryStore};
///
/// // Four machines share each quota while their common limiter is unavailable.
/// let nodes = NonZeroU32::new(4).unwrap();
/// let keys = ApiKeys::builder(MemoryStore::new())
///     .limiter_outage(LimiterOutage::local_share(nodes))
///     .build()?;
/// # Ok::<(), tower_api_key::BuildError>(())
/// ```
#[derive(Debug, Clone)]
pub struct LimiterOutage {
    pub(crate) policy: Policy,
    pub(crate) time_limit: Duration,
}

#[derive(Debug, Clone)]
pub(crate) enum Policy {
    Refuse,
    Admit(Quota),
    LocalShare(NonZeroU32),
}

impl LimiterOutage {
    /// Answers requests with 503. This is the default.
    pub const fn refuse() -> Self {
        Self::of(Policy::Refuse)
    }

    /// Admits requests without their limits, up to this quota of requests for all callers of this
    /// process together. Further requests are answered with 503.
    ///
    /// Danger: one caller can use the whole quota. Choose a load that the service can bear.
    pub const fn admit(at_most: Quota) -> Self {
        Self::of(Policy::Admit(at_most))
    }

    /// Enforces each quota in this process's memory, divided by the number of machines and rounded
    /// down, but at least 1 and at least the cost of the request (up to the whole quota).
    ///
    /// The use before the outage is not known during it, and the use during it is not known
    /// afterwards. A caller therefore gets up to twice a quota in one window, and more than that if
    /// the cost of a request, or 1, is more than a machine's share.
    pub const fn local_share(nodes: NonZeroU32) -> Self {
        Self::of(Policy::LocalShare(nodes))
    }

    /// Sets the time limit of the limiter's answers, after which it has failed. Default: 250
    /// milliseconds.
    #[must_use]
    pub const fn time_limit(mut self, time: Duration) -> Self {
        self.time_limit = time;
        self
    }

    const fn of(policy: Policy) -> Self {
        Self {
            policy,
            time_limit: Duration::from_millis(250),
        }
    }
}

impl Default for LimiterOutage {
    fn default() -> Self {
        Self::refuse()
    }
}

/// The decision about a request whose limiter failed.
pub(crate) enum OutageDecision<'a> {
    Refuse,
    Admit,
    /// The verdict of the local limiter, about these charges.
    Charged(Box<Charges<'a>>, Verdict),
}

/// The limiter for outages: it decides requests while the configured limiter fails.
pub(crate) struct OutageLimiter {
    policy: Policy,
    name: LimitName,
    local: Arc<dyn DynRateLimiter>,
}

impl OutageLimiter {
    /// Creates the limiter. `local` keeps budgets in memory, and never waits.
    pub(crate) fn new(policy: Policy, local: Arc<dyn DynRateLimiter>) -> Self {
        Self {
            policy,
            name: LimitName::new("limiter_outage"),
            local,
        }
    }

    pub(crate) fn decide<'a>(&self, charges: &[Charge<'a>], now: Now) -> OutageDecision<'a> {
        match self.policy {
            Policy::Refuse => OutageDecision::Refuse,
            Policy::Admit(quota) => {
                let charge = [Charge::new(&self.name, Subject::Global, quota, 1)];
                match self.check(&charge, now) {
                    Some(verdict) if verdict.is_allowed() => OutageDecision::Admit,
                    _ => OutageDecision::Refuse,
                }
            }
            Policy::LocalShare(nodes) => {
                let share = |charge: &Charge<'a>| charge.shared_by(nodes);
                let charges: Charges<'a> = charges.iter().map(share).collect();
                match self.check(&charges, now) {
                    Some(verdict) => OutageDecision::Charged(Box::new(charges), verdict),
                    None => OutageDecision::Refuse,
                }
            }
        }
    }

    fn check(&self, charges: &[Charge<'_>], now: Now) -> Option<Verdict> {
        self.local.check_now(charges, now)?.ok()
    }
}

impl fmt::Debug for OutageLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OutageLimiter").field(&self.policy).finish()
    }
}
