//! Step 8 of the path: what a request is charged, and what its caller is told of that.

use crate::http::rejection::Rejection;
use crate::http::render::rate_limit::{self, Notice};
use crate::limit::charge::Charge;
use crate::limit::instant::Nanos;
use crate::limit::limiter::LimiterError;
use crate::limit::limiting;
use crate::limit::outage::Fallback;
use crate::limit::refund::Receipt;
use crate::limit::rulebook::{Bound, Charges, Holder};
use crate::limit::verdict::Verdict;
use crate::middleware::gate::Gate;
use crate::util::clock::Now;
use crate::util::trace;

/// A request that is within its limits.
#[derive(Default)]
pub(super) struct WithinLimits {
    /// What the answer says of the limits.
    pub(super) limits: Option<Notice>,
    /// What the request may give back, if the limiter took anything.
    pub(super) receipt: Option<Receipt>,
    /// For observers, if there are any.
    pub(super) verdict: Option<Verdict>,
}

/// Who is charged, and so how much is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Payer {
    Key,
    Anonymous,
}

/// A request that is not within its limits, or of which that cannot be said.
pub(super) struct LimitDenial {
    pub(super) rejection: Rejection,
    pub(super) limits: Option<Box<Notice>>,
    pub(super) verdict: Option<Verdict>,
}

impl Gate {
    /// Returns what a request is charged.
    #[inline]
    pub(super) fn charges<'a>(
        &'a self,
        key: Option<Holder<'a>>,
        bound: &Bound,
        now: Now,
    ) -> Charges<'a> {
        let rules = &self.keyring.metering.limiting.rules;
        rules.charges(key, bound, now.wall())
    }

    /// Takes all charges, or none; `None` if that must be waited for.
    #[inline]
    pub(super) fn charge_now(
        &self,
        charges: &[Charge<'_>],
        payer: Payer,
        now: Now,
    ) -> Option<Result<WithinLimits, Box<LimitDenial>>> {
        if charges.is_empty() {
            return Some(Ok(WithinLimits::default()));
        }
        let checked = self.keyring.metering.limiting.check_now(charges, now)?;
        Some(self.conclude(charges, &checked, payer, Nanos::of(now), now))
    }

    /// As [`charge_now`](Self::charge_now), with a wait. The clock is read anew after it.
    pub(super) async fn charge(
        &self,
        charges: &[Charge<'_>],
        payer: Payer,
    ) -> Result<WithinLimits, Box<LimitDenial>> {
        let asked_at = Nanos::of(self.keyring.readings());
        let clock = &*self.keyring.clock;
        let checked = self.keyring.metering.limiting.check(clock, charges).await;
        let now = self.keyring.readings();
        self.conclude(charges, &checked, payer, asked_at, now)
    }

    #[inline]
    fn conclude(
        &self,
        charges: &[Charge<'_>],
        checked: &Result<Verdict, LimiterError>,
        payer: Payer,
        asked_at: Nanos,
        now: Now,
    ) -> Result<WithinLimits, Box<LimitDenial>> {
        match limiting::verdict(charges, checked) {
            Ok(verdict) => {
                let mut within = self.tell(charges, verdict, payer, now)?;
                // Each charge of a request has the same cost.
                if let Some(charge) = charges.first() {
                    within.receipt = Some(Receipt::new(asked_at, verdict, charge.cost()));
                }
                Ok(within)
            }
            Err(error) => self.do_without(charges, &error, payer, now),
        }
    }

    #[inline]
    fn tell(
        &self,
        charges: &[Charge<'_>],
        verdict: &Verdict,
        payer: Payer,
        now: Now,
    ) -> Result<WithinLimits, Box<LimitDenial>> {
        let headers = self.config.rate_limit_headers;
        let limits = if payer == Payer::Anonymous {
            Notice::of_stranger(headers, charges, verdict, now.wall())
        } else {
            Notice::of(headers, charges, verdict, now.wall())
        };
        // A stranger who is denied by a shared budget is not shown the numbers of another one.
        let is_of_others = || {
            let tightest = verdict.tightest().and_then(|at| charges.get(at));
            tightest.is_some_and(|charge| charge.subject().is_shared_by_all())
        };
        let is_told = verdict.is_allowed() || payer == Payer::Key || !is_of_others();
        let limits = limits.filter(|_| is_told);
        let observed = self
            .keyring
            .observers
            .has_observers()
            .then(|| verdict.clone());
        if verdict.is_allowed() {
            return Ok(WithinLimits {
                limits,
                receipt: None,
                verdict: observed,
            });
        }
        let rejection =
            rate_limit::rejection(charges, verdict, payer == Payer::Anonymous, now.wall());
        Err(Box::new(LimitDenial {
            // A verdict that denies without saying why is answered with 503, and never admits.
            rejection: rejection.unwrap_or_else(|| self.outage()),
            limits: limits.map(Box::new),
            verdict: observed,
        }))
    }

    /// The limiter failed: what the application chose for that decides. Nothing is to be given back
    /// to it.
    #[cold]
    fn do_without(
        &self,
        charges: &[Charge<'_>],
        error: &LimiterError,
        payer: Payer,
        now: Now,
    ) -> Result<WithinLimits, Box<LimitDenial>> {
        trace::limiter_failed(error);
        match self
            .keyring
            .metering
            .limiting
            .emergency
            .decide(charges, now)
        {
            Fallback::Charged(shares, verdict) => self.tell(&shares, &verdict, payer, now),
            Fallback::Admit => Ok(WithinLimits::default()),
            Fallback::Refuse => Err(Box::new(LimitDenial {
                rejection: self.outage(),
                limits: None,
                verdict: None,
            })),
        }
    }
}
