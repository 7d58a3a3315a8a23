//! What happens when a limiter fails.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use crate::key::quota::Quota;
use crate::limit::charge::{Charge, LimitName, Subject};
use crate::limit::limiter::DynRateLimiter;
use crate::limit::rulebook::Charges;
use crate::limit::verdict::Verdict;
use crate::util::clock::Now;

/// What happens to requests when the limiter fails, or does not answer in time.
///
/// ```
/// use std::num::NonZeroU32;
/// use tower_api_key::limit::LimiterOutage;
/// use tower_api_key::{ApiKeys, MemoryStore};
///
/// // Four machines share each quota while the limiter that they have in common is away.
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
    /// Requests are answered with 503: the default.
    pub const fn refuse() -> Self {
        Self::of(Policy::Refuse)
    }

    /// Requests pass without being limited, but no more of them than this, counted over all callers
    /// of this process; beyond it, 503.
    ///
    /// Danger: one caller can use it all. Choose what the service bears.
    pub const fn admit(at_most: Quota) -> Self {
        Self::of(Policy::Admit(at_most))
    }

    /// Each quota is kept in this process's memory, divided by the number of machines, rounded
    /// down, but at least 1.
    ///
    /// What was used before the outage is not known here, and what is used during it not
    /// afterwards, so a caller has at most twice a quota in one window.
    pub const fn local_share(nodes: NonZeroU32) -> Self {
        Self::of(Policy::LocalShare(nodes))
    }

    /// How long the limiter may take before it counts as failed. Default: 250 milliseconds.
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

/// What becomes of a request whose limiter failed.
pub(crate) enum Fallback<'a> {
    Refuse,
    Admit,
    /// These charges were made instead.
    Charged(Box<Charges<'a>>, Verdict),
}

/// Decides in the limiter's place.
pub(crate) struct Emergency {
    policy: Policy,
    name: LimitName,
    local: Arc<dyn DynRateLimiter>,
}

impl Emergency {
    /// `local` keeps budgets in memory, and never waits.
    pub(crate) fn new(policy: Policy, local: Arc<dyn DynRateLimiter>) -> Self {
        Self {
            policy,
            name: LimitName::new("limiter_outage"),
            local,
        }
    }

    pub(crate) fn decide<'a>(&self, charges: &[Charge<'a>], now: Now) -> Fallback<'a> {
        match self.policy {
            Policy::Refuse => Fallback::Refuse,
            Policy::Admit(quota) => {
                let charge = [Charge::new(&self.name, Subject::Global, quota, 1)];
                match self.check(&charge, now) {
                    Some(verdict) if verdict.is_allowed() => Fallback::Admit,
                    _ => Fallback::Refuse,
                }
            }
            Policy::LocalShare(nodes) => {
                let share = |charge: &Charge<'a>| charge.shared_by(nodes);
                let charges: Charges<'a> = charges.iter().map(share).collect();
                match self.check(&charges, now) {
                    Some(verdict) => Fallback::Charged(Box::new(charges), verdict),
                    None => Fallback::Refuse,
                }
            }
        }
    }

    fn check(&self, charges: &[Charge<'_>], now: Now) -> Option<Verdict> {
        self.local.check_now(charges, now)?.ok()
    }
}

impl fmt::Debug for Emergency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Emergency").field(&self.policy).finish()
    }
}
