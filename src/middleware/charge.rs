//! Step 8 of the path: charges a request, and prepares the headers and rejections about limits.

use crate::http::rejection::Rejection;
use crate::http::render::rate_limit::{self, LimitReport};
use crate::key::digest::KeyId;
use crate::limit::charge::Charge;
use crate::limit::enforcer;
use crate::limit::instant::Nanos;
use crate::limit::limiter::LimiterError;
use crate::limit::outage::OutageDecision;
use crate::limit::refund::Receipt;
use crate::limit::verdict::Verdict;
use crate::middleware::gate::Gate;
use crate::observe::WaitFor;
use crate::util::clock::Now;
use crate::util::trace;

/// A request that is within its limits.
#[derive(Default)]
pub(super) struct WithinLimits {
    /// The limits that the response headers tell of.
    pub(super) limits: Option<LimitReport>,
    /// The charges that the limiter took, for refunds.
    pub(super) receipt: Option<Receipt>,
}

/// The party that is charged. It determines how much a response tells about the limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Payer {
    /// The key that was presented.
    Key(KeyId),
    Anonymous,
}

impl Payer {
    const fn key(self) -> Option<KeyId> {
        match self {
            Self::Key(key) => Some(key),
            Self::Anonymous => None,
        }
    }
}

/// A denial by the limits, or by a failed limiter.
pub(super) struct LimitDenial {
    pub(super) rejection: Rejection,
    pub(super) limits: Option<Box<LimitReport>>,
}

impl Gate {
    /// Takes all charges or none, if the limiter can answer without a wait; `None` otherwise. The
    /// verdict is stored in `announced` for observers and logs.
    pub(super) fn try_charge(
        &self,
        charges: &[Charge<'_>],
        payer: Payer,
        now: Now,
        announced: &mut Option<Verdict>,
    ) -> Option<Result<WithinLimits, Box<LimitDenial>>> {
        if charges.is_empty() {
            return Some(Ok(WithinLimits::default()));
        }
        let checked = self.shared.key_services.enforcer.check_now(charges, now)?;
        Some(self.judge(charges, &checked, payer, Nanos::of(now), now, announced))
    }

    /// Takes all charges or none, as [`try_charge`](Self::try_charge) does, but waits for the
    /// limiter. The clock is read again after the wait.
    pub(super) async fn charge(
        &self,
        charges: &[Charge<'_>],
        payer: Payer,
        announced: &mut Option<Verdict>,
    ) -> Result<WithinLimits, Box<LimitDenial>> {
        if charges.is_empty() {
            return Ok(WithinLimits::default());
        }
        let clock = &*self.shared.clock;
        let since = clock.monotonic();
        let asked_at = Nanos::of(self.shared.readings());
        let checked = self
            .shared
            .key_services
            .enforcer
            .check(clock, charges)
            .await;
        self.report_wait(WaitFor::Limiter, since, checked.is_ok());
        let now = self.shared.readings();
        self.judge(charges, &checked, payer, asked_at, now, announced)
    }

    fn judge(
        &self,
        charges: &[Charge<'_>],
        checked: &Result<Verdict, LimiterError>,
        payer: Payer,
        asked_at: Nanos,
        now: Now,
        announced: &mut Option<Verdict>,
    ) -> Result<WithinLimits, Box<LimitDenial>> {
        match enforcer::verdict(charges, checked) {
            Ok(verdict) => {
                if let Some(failures) = self.shared.log_throttles.limiter.recovered() {
                    trace::limiter_recovered(failures);
                }
                self.store_verdict(verdict, announced);
                if self.rules().tells() {
                    self.shared
                        .nearly_used
                        .look(charges, verdict, payer.key(), now.wall());
                }
                self.within_or_denial(charges, verdict, payer, Some(asked_at), now)
            }
            Err(error) => self.decide_without_limiter(charges, &error, payer, now, announced),
        }
    }

    /// Converts a verdict into an admission or a denial. `asked_at` is the time when the limiter
    /// was asked; without it, the limiter took nothing and there is no receipt.
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
            LimitReport::for_anonymous(headers, charges, verdict, now.wall())
        } else {
            LimitReport::of(headers, charges, verdict, now.wall())
        };
        // If a shared budget denied the request, do not show a client without a key the numbers of
        // its own budget.
        let is_denied_by_shared = || {
            let tightest = verdict.tightest().and_then(|at| charges.get(at));
            tightest.is_some_and(|charge| charge.subject().is_shared_by_all())
        };
        let is_shown = verdict.is_allowed() || payer.key().is_some() || !is_denied_by_shared();
        let limits = limits.filter(|_| is_shown);
        if verdict.is_allowed() {
            let receipt = asked_at.map(|at| Receipt::new(at, verdict));
            return Ok(WithinLimits { limits, receipt });
        }
        let rejection =
            rate_limit::rejection(charges, verdict, payer == Payer::Anonymous, now.wall());
        Err(Box::new(LimitDenial {
            // A verdict that denies without a reason is answered with 503, and never admits.
            rejection: rejection.unwrap_or_else(|| self.outage()),
            limits: limits.map(Box::new),
        }))
    }

    /// Stores a verdict if there are observers, or report-only limits.
    fn store_verdict(&self, verdict: &Verdict, announced: &mut Option<Verdict>) {
        if self.shared.observers.has_observers() || self.rules().has_report_only() {
            *announced = Some(verdict.clone());
        }
    }

    /// Handles a failed limiter as the application configured. Nothing can be refunded to the
    /// limiter.
    #[cold]
    fn decide_without_limiter(
        &self,
        charges: &[Charge<'_>],
        error: &LimiterError,
        payer: Payer,
        now: Now,
        announced: &mut Option<Verdict>,
    ) -> Result<WithinLimits, Box<LimitDenial>> {
        if let Some(failures) = self.shared.log_throttles.limiter.failed(now.wall()) {
            trace::limiter_failed(error, failures);
        }
        match self
            .shared
            .key_services
            .enforcer
            .outage_limiter
            .decide(charges, now)
        {
            OutageDecision::Charged(shares, verdict) => {
                self.store_verdict(&verdict, announced);
                self.within_or_denial(&shares, &verdict, payer, None, now)
            }
            OutageDecision::Admit => Ok(WithinLimits::default()),
            OutageDecision::Refuse => Err(Box::new(LimitDenial {
                rejection: self.outage(),
                limits: None,
            })),
        }
    }
}
