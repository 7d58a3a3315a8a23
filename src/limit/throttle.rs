//! The throttle of failed attempts: it keeps junk from becoming load on the store.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::key::quota::Quota;
use crate::limit::charge::{Charge, LimitName, Subject};
use crate::limit::client::client_network;
use crate::limit::instant::Nanos;
use crate::limit::limiter::DynRateLimiter;
use crate::limit::refund::Refund;
use crate::limit::refund::Taken;
use crate::limit::verdict::Verdict;
use crate::util::clock::Now;

/// Stops an address that tries keys which do not exist.
///
/// Each attempt is counted before the store is asked, so that many at once are no way around it,
/// and forgiven if there is such a key.
pub(crate) struct Throttle {
    name: LimitName,
    quota: Quota,
    limiter: Arc<dyn DynRateLimiter>,
}

/// An attempt that was counted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attempt {
    client: IpAddr,
    taken: Option<Taken>,
}

impl Throttle {
    /// `limiter` keeps budgets in memory, and never waits.
    pub(crate) fn new(quota: Quota, limiter: Arc<dyn DynRateLimiter>) -> Self {
        Self {
            name: LimitName::new("failed_attempts"),
            quota: quota.as_rate(),
            limiter,
        }
    }

    /// Counts an attempt, or says in what time this address may make another.
    pub(crate) fn attempt(&self, client: IpAddr, now: Now) -> Result<Attempt, Duration> {
        let checked = self.limiter.check_now(&[self.charge(client)], now);
        let verdict = checked.and_then(Result::ok);
        if let Some(retry_after) = verdict.as_ref().and_then(Verdict::retry_after) {
            return Err(retry_after);
        }
        let standing = verdict.and_then(|verdict| verdict.standings().first().copied());
        Ok(Attempt {
            client,
            taken: standing.map(|standing| Taken::new(Nanos::of(now), &standing, 1)),
        })
    }

    /// The attempt did not fail, or not for the caller's fault.
    pub(crate) fn forgive(&self, attempt: Attempt, now: Now) {
        if let Some(taken) = attempt.taken {
            let refund = Refund::of(self.charge(attempt.client), 1, taken);
            let _ = self.limiter.refund_now(&[refund], now);
        }
    }

    fn charge(&self, client: IpAddr) -> Charge<'_> {
        let client = Subject::Address(client_network(client));
        Charge::new(&self.name, client, self.quota, 1)
    }
}

impl fmt::Debug for Throttle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Throttle").field(&self.quota).finish()
    }
}
