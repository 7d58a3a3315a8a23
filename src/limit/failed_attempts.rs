//! The throttle of failed attempts: it keeps requests with invalid keys away from the store.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::key::quota::Quota;
use crate::limit::charge::{Charge, LimitName, Subject};
use crate::limit::client_network::client_network;
use crate::limit::instant::Nanos;
use crate::limit::limiter::DynRateLimiter;
use crate::limit::refund::Refund;
use crate::limit::refund::Taken;
use crate::limit::verdict::Verdict;
use crate::util::clock::Now;

/// The throttle of failed attempts: it denies addresses that try keys which do not exist.
///
/// Each attempt is counted before the store is asked, so that concurrent attempts do not evade it.
/// An attempt is refunded if the key exists.
pub(crate) struct FailedAttempts {
    name: LimitName,
    quota: Quota,
    limiter: Arc<dyn DynRateLimiter>,
}

/// A counted attempt.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attempt {
    client: IpAddr,
    taken: Option<Taken>,
}

impl FailedAttempts {
    /// Creates a throttle. `limiter` keeps budgets in memory, and never waits.
    pub(crate) fn new(quota: Quota, limiter: Arc<dyn DynRateLimiter>) -> Self {
        Self {
            name: LimitName::new("failed_attempts"),
            quota: quota.as_rate(),
            limiter,
        }
    }

    /// Counts an attempt of a client.
    ///
    /// Fails with the time until the client may make another attempt if its attempts are used up.
    pub(crate) fn attempt(&self, client: IpAddr, now: Now) -> Result<Attempt, Duration> {
        let checked = self.limiter.check_now(&[self.charge(client)], now);
        let verdict = checked.and_then(Result::ok);
        if let Some(retry_after) = verdict.as_ref().and_then(Verdict::retry_after) {
            return Err(retry_after);
        }
        let status = verdict.and_then(|verdict| verdict.statuses().first().copied());
        Ok(Attempt {
            client,
            taken: status.map(|status| Taken::new(Nanos::of(now), &status, 1)),
        })
    }

    /// Refunds an attempt that did not fail, or that failed without the caller's fault.
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

impl fmt::Debug for FailedAttempts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FailedAttempts").field(&self.quota).finish()
    }
}
