//! The rules, the limiter that keeps their budgets, and what happens when it fails.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::limit::rules::{Limits, client_network};
use crate::limit::{Charge, DynRateLimiter, LimitName, LimiterError, Subject, Verdict};
use crate::quota::Quota;

/// The rules of an application and where their budgets are kept.
pub(crate) struct Limiting {
    pub(crate) rules: Limits,
    pub(crate) limiter: Arc<dyn DynRateLimiter>,
}

impl Limiting {
    /// Takes all charges, or none.
    pub(crate) async fn check(
        &self,
        charges: &[Charge<'_>],
        now: SystemTime,
    ) -> Result<Verdict, LimiterError> {
        let verdict = match self.limiter.check_now(charges, now) {
            Some(verdict) => verdict?,
            None => self.limiter.check(charges, now).await?,
        };
        // A verdict about other charges than these is none: never a silent yes.
        if verdict.standings().len() != charges.len() {
            return Err(LimiterError::unavailable(
                "the verdict is about other charges",
            ));
        }
        Ok(verdict)
    }
}

impl fmt::Debug for Limiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Limiting").field(&self.rules).finish()
    }
}

/// Stops an address from making the store look for keys that do not exist.
///
/// It refuses lookups and never answers them, so junk cannot become load on the store.
pub(crate) struct Throttle {
    name: LimitName,
    quota: Quota,
    limiter: Arc<dyn DynRateLimiter>,
}

impl Throttle {
    pub(crate) fn new(quota: Quota, limiter: Arc<dyn DynRateLimiter>) -> Self {
        Self {
            name: LimitName::new("failed_attempts"),
            quota,
            limiter,
        }
    }

    /// In what time this address may have the store look again; `None` if it may now.
    pub(crate) async fn wait(&self, client: IpAddr, now: SystemTime) -> Option<Duration> {
        let charge = [self.charge(client)];
        let verdict = self.limiter.check(&charge, now).await.ok()?;
        if verdict.is_allowed() {
            // Only a look: whether the attempt fails is not known yet.
            let _ = self.limiter.refund(&charge, now).await;
        }
        verdict.retry_after()
    }

    /// Counts an attempt with a key that does not exist.
    pub(crate) async fn count(&self, client: IpAddr, now: SystemTime) {
        let _ = self.limiter.check(&[self.charge(client)], now).await;
    }

    fn charge(&self, client: IpAddr) -> Charge<'_> {
        Charge::new(
            &self.name,
            Subject::Address(client_network(client)),
            self.quota,
            1,
        )
    }
}

impl fmt::Debug for Throttle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Throttle").field(&self.quota).finish()
    }
}
