//! The throttle of failed attempts: it keeps junk from becoming load on the store.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Now;
use crate::limit::rules::client_network;
use crate::limit::{Charge, DynRateLimiter, LimitName, Subject};
use crate::quota::Quota;

/// Stops an address that tries keys which do not exist.
///
/// Each attempt is counted before the store is asked, so that many at once are no way around it,
/// and forgiven if there is such a key.
pub(crate) struct Throttle {
    name: LimitName,
    quota: Quota,
    limiter: Arc<dyn DynRateLimiter>,
}

impl Throttle {
    /// `limiter` keeps budgets in memory, and never waits.
    pub(crate) fn new(quota: Quota, limiter: Arc<dyn DynRateLimiter>) -> Self {
        Self {
            name: LimitName::new("failed_attempts"),
            quota,
            limiter,
        }
    }

    /// Counts an attempt, or says in what time this address may make another.
    pub(crate) fn attempt(&self, client: IpAddr, now: Now) -> Result<(), Duration> {
        match self.limiter.check_now(&[self.charge(client)], now) {
            Some(Ok(verdict)) => verdict.retry_after().map_or(Ok(()), Err),
            _ => Ok(()),
        }
    }

    /// The attempt did not fail, or not for the caller's fault.
    pub(crate) fn forgive(&self, client: IpAddr, now: Now) {
        let _ = self.limiter.refund_now(&[self.charge(client)], now);
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
