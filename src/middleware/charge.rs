//! Step 8 of the path: what a request is charged, and what its caller is told of that.

use super::decide::Gate;
use crate::http::rejection::Rejection;
use crate::http::render::rate_limit::{self, Notice};
use crate::limit::charge::Charge;
use crate::limit::instant::Nanos;
use crate::limit::limiter::LimiterError;
use crate::limit::limiting;
use crate::limit::outage::Fallback;
use crate::limit::refund::Receipt;
use crate::limit::verdict::Verdict;
use crate::util::clock::Now;
use crate::util::trace;

/// A request that is within its limits.
#[derive(Default)]
pub(super) struct WithinLimits {
    /// What the answer says of the limits.
    pub(super) limits: Option<Notice>,
    /// What the request may give back, if the limiter took anything.
    pub(super) receipt: Option<Receipt>,
    /// For observers.
    verdict: Option<Verdict>,
}

impl WithinLimits {
    pub(super) fn verdict(&self) -> Option<&Verdict> {
        self.verdict.as_ref()
    }
}

/// A request that is not within its limits, or of which that cannot be said.
pub(super) struct Exceeded {
    pub(super) rejection: Rejection,
    pub(super) limits: Option<Box<Notice>>,
    pub(super) verdict: Option<Verdict>,
}

impl Gate {
    /// Takes all charges, or none; `None` if that must be waited for.
    #[inline]
    pub(super) fn charge_now(
        &self,
        charges: &[Charge<'_>],
        is_stranger: bool,
        now: Now,
    ) -> Option<Result<WithinLimits, Box<Exceeded>>> {
        if charges.is_empty() {
            return Some(Ok(WithinLimits::default()));
        }
        let checked = self.keyring.metering.limiting.check_now(charges, now)?;
        Some(self.conclude(charges, &checked, is_stranger, Nanos::of(now), now))
    }

    /// As [`charge_now`](Self::charge_now), with a wait. The clock is read anew after it.
    pub(super) async fn charge(
        &self,
        charges: &[Charge<'_>],
        is_stranger: bool,
    ) -> Result<WithinLimits, Box<Exceeded>> {
        let asked_at = Nanos::of(self.keyring.readings());
        let clock = &*self.keyring.clock;
        let checked = self.keyring.metering.limiting.check(clock, charges).await;
        let now = self.keyring.readings();
        self.conclude(charges, &checked, is_stranger, asked_at, now)
    }

    #[inline]
    fn conclude(
        &self,
        charges: &[Charge<'_>],
        checked: &Result<Verdict, LimiterError>,
        is_stranger: bool,
        asked_at: Nanos,
        now: Now,
    ) -> Result<WithinLimits, Box<Exceeded>> {
        match limiting::verdict(charges, checked) {
            Ok(verdict) => {
                let mut within = self.tell(charges, verdict, is_stranger, now)?;
                if let Some(charge) = charges.first() {
                    within.receipt = Some(Receipt::new(asked_at, verdict, charge.cost()));
                }
                Ok(within)
            }
            Err(error) => self.do_without(charges, &error, is_stranger, now),
        }
    }

    #[inline]
    fn tell(
        &self,
        charges: &[Charge<'_>],
        verdict: &Verdict,
        is_stranger: bool,
        now: Now,
    ) -> Result<WithinLimits, Box<Exceeded>> {
        let headers = self.config.rate_limit_headers;
        let limits = if is_stranger {
            Notice::of_stranger(headers, charges, verdict, now.wall())
        } else {
            Notice::of(headers, charges, verdict, now.wall())
        };
        // A refusal by a budget that everybody shares is not beside numbers of another one.
        let is_of_others = || {
            let tightest = verdict.tightest().and_then(|at| charges.get(at));
            tightest.is_some_and(|charge| charge.subject().is_shared_by_all())
        };
        let is_told = verdict.is_allowed() || !is_stranger || !is_of_others();
        let limits = limits.filter(|_| is_told);
        let observed = self.keyring.observers.are_told().then(|| verdict.clone());
        if verdict.is_allowed() {
            return Ok(WithinLimits {
                limits,
                receipt: None,
                verdict: observed,
            });
        }
        let rejection = rate_limit::rejection(charges, verdict, is_stranger, now.wall());
        Err(Box::new(Exceeded {
            // Never a silent yes.
            rejection: rejection.unwrap_or_else(|| self.outage()),
            limits: limits.map(Box::new),
            verdict: observed,
        }))
    }

    /// The limiter failed: what the application chose for that decides. Nothing is to be given back to it.
    #[cold]
    fn do_without(
        &self,
        charges: &[Charge<'_>],
        error: &LimiterError,
        is_stranger: bool,
        now: Now,
    ) -> Result<WithinLimits, Box<Exceeded>> {
        trace::limiter_failed(error);
        match self
            .keyring
            .metering
            .limiting
            .emergency
            .decide(charges, now)
        {
            Fallback::Charged(shares, verdict) => self.tell(&shares, &verdict, is_stranger, now),
            Fallback::Admit => Ok(WithinLimits::default()),
            Fallback::Refuse => Err(Box::new(Exceeded {
                rejection: self.outage(),
                limits: None,
                verdict: None,
            })),
        }
    }
}
