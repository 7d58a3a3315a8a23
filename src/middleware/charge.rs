//! Step 8 of the path: what a request is charged, and what its caller is told of that.

use crate::http::rejection::Rejection;
use crate::http::render::rate_limit::{self, Notice};
use crate::limit::charge::Charge;
use crate::limit::instant::Nanos;
use crate::limit::limiter::LimiterError;
use crate::limit::limiting;
use crate::limit::outage::Fallback;
use crate::limit::refund::Receipt;
use crate::limit::verdict::Verdict;
use crate::middleware::gate::Gate;
use crate::observe::WaitFor;
use crate::util::clock::Now;
use crate::util::trace;

/// A request that is within its limits.
#[derive(Default)]
pub(super) struct WithinLimits {
    /// What the answer says of the limits.
    pub(super) limits: Option<Notice>,
    /// What the request may give back, if the limiter took anything.
    pub(super) receipt: Option<Receipt>,
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
}

impl Gate {
    /// Takes all charges, or none; `None` if that must be waited for. The verdict is kept for
    /// whoever hears of it.
    #[inline]
    pub(super) fn try_charge(
        &self,
        charges: &[Charge<'_>],
        payer: Payer,
        now: Now,
        kept: &mut Option<Verdict>,
    ) -> Option<Result<WithinLimits, Box<LimitDenial>>> {
        if charges.is_empty() {
            return Some(Ok(WithinLimits::default()));
        }
        let checked = self.keyring.metering.limiting.check_now(charges, now)?;
        Some(self.judge(charges, &checked, payer, Nanos::of(now), now, kept))
    }

    /// As [`try_charge`](Self::try_charge), with a wait. The clock is read anew after it.
    pub(super) async fn charge(
        &self,
        charges: &[Charge<'_>],
        payer: Payer,
        kept: &mut Option<Verdict>,
    ) -> Result<WithinLimits, Box<LimitDenial>> {
        if charges.is_empty() {
            return Ok(WithinLimits::default());
        }
        let clock = &*self.keyring.clock;
        let since = clock.monotonic();
        let asked_at = Nanos::of(self.keyring.readings());
        let checked = self.keyring.metering.limiting.check(clock, charges).await;
        self.tell_of_wait(WaitFor::Limiter, since, checked.is_ok());
        let now = self.keyring.readings();
        self.judge(charges, &checked, payer, asked_at, now, kept)
    }

    #[inline]
    fn judge(
        &self,
        charges: &[Charge<'_>],
        checked: &Result<Verdict, LimiterError>,
        payer: Payer,
        asked_at: Nanos,
        now: Now,
        kept: &mut Option<Verdict>,
    ) -> Result<WithinLimits, Box<LimitDenial>> {
        match limiting::verdict(charges, checked) {
            Ok(verdict) => {
                if let Some(failures) = self.keyring.notices.limiter.works() {
                    trace::limiter_works(failures);
                }
                self.keep(verdict, kept);
                self.within_or_denial(charges, verdict, payer, Some(asked_at), now)
            }
            Err(error) => self.do_without(charges, &error, payer, now, kept),
        }
    }

    /// Makes what follows from a verdict. There is a receipt only for what the limiter took, which
    /// was asked at this instant.
    #[inline]
    fn within_or_denial(
        &self,
        charges: &[Charge<'_>],
        verdict: &Verdict,
        payer: Payer,
        asked_at: Option<Nanos>,
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
        if verdict.is_allowed() {
            let receipt = asked_at.map(|at| Receipt::new(at, verdict));
            return Ok(WithinLimits { limits, receipt });
        }
        let rejection =
            rate_limit::rejection(charges, verdict, payer == Payer::Anonymous, now.wall());
        Err(Box::new(LimitDenial {
            // A verdict that denies without saying why is answered with 503, and never admits.
            rejection: rejection.unwrap_or_else(|| self.outage()),
            limits: limits.map(Box::new),
        }))
    }

    /// Keeps a verdict for observers, if there are any, and for the logs, if limits only report.
    #[inline]
    fn keep(&self, verdict: &Verdict, kept: &mut Option<Verdict>) {
        if self.keyring.observers.has_observers() || self.rules().report() {
            *kept = Some(verdict.clone());
        }
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
        kept: &mut Option<Verdict>,
    ) -> Result<WithinLimits, Box<LimitDenial>> {
        if let Some(failures) = self.keyring.notices.limiter.failed(now.wall()) {
            trace::limiter_failed(error, failures);
        }
        match self
            .keyring
            .metering
            .limiting
            .emergency
            .decide(charges, now)
        {
            Fallback::Charged(shares, verdict) => {
                self.keep(&verdict, kept);
                self.within_or_denial(&shares, &verdict, payer, None, now)
            }
            Fallback::Admit => Ok(WithinLimits::default()),
            Fallback::Refuse => Err(Box::new(LimitDenial {
                rejection: self.outage(),
                limits: None,
            })),
        }
    }
}
