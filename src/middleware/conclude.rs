//! Step 9 and all denials: the only place where decisions are announced.

use std::sync::Arc;

use http::Request;

use crate::cache::CachedKey;
use crate::http::caller::{Anonymous, Caller};
use crate::http::carriers::Carriers;
use crate::http::rejection::Rejection;
use crate::http::render::rate_limit::LimitReport;
use crate::key::lifecycle::Lifecycle;
use crate::limit::charge::Charge;
use crate::limit::compiled_rules::RequestLimits;
use crate::limit::verdict::Verdict;
use crate::middleware::charge::{LimitDenial, WithinLimits};
use crate::middleware::context::Context;
use crate::middleware::gate::Gate;
use crate::middleware::outcome::{Admission, Denial, Outcome};
use crate::observe::{Decision, KeyFacts};

/// The reason of a denial, with the charges and the limiter's verdict.
pub(super) struct Reason<'a> {
    rejection: Rejection,
    limits: Option<Box<LimitReport>>,
    charges: &'a [Charge<'a>],
    verdict: Option<&'a Verdict>,
}

impl From<Rejection> for Reason<'_> {
    fn from(rejection: Rejection) -> Self {
        Self {
            rejection,
            limits: None,
            charges: &[],
            verdict: None,
        }
    }
}

impl<'a> Reason<'a> {
    /// Creates the reason of a denial by the limits.
    pub(super) fn by_limits(
        denial: LimitDenial,
        charges: &'a [Charge<'a>],
        verdict: Option<&'a Verdict>,
    ) -> Self {
        Self {
            rejection: denial.rejection,
            limits: denial.limits,
            charges,
            verdict,
        }
    }
}

impl Gate {
    /// Announces and creates a denial. It names the key only if the secret was right.
    pub(super) fn deny<'a>(
        &self,
        context: &Context<'_>,
        reason: impl Into<Reason<'a>>,
        key: Option<KeyFacts<'_>>,
        carriers: Carriers,
    ) -> Outcome {
        let Reason {
            rejection,
            limits,
            charges,
            verdict,
        } = reason.into();
        if let Some(key) = key {
            let (key, now) = (key.cached_key(), context.now().wall());
            self.shared.count_denial(key, now, &rejection);
            if rejection.is_by_limits() {
                self.shared.see(key, now, context.head, || context.client());
            }
        }
        self.shared.observers.decided(&Decision {
            outcome: Err(&rejection),
            key,
            request: context,
            carriers,
            charges,
            verdict,
            reported: &[],
        });
        Outcome::Deny(Denial {
            rejection,
            lifecycle: key.map(|key| key.lifecycle()),
            carriers,
            limits,
        })
    }

    /// Counts an admitted request of a key.
    #[inline]
    pub(super) fn count_admission(
        &self,
        context: &Context<'_>,
        key: &CachedKey,
        request_limits: &RequestLimits,
    ) {
        let rules = self.rules_of(request_limits);
        let cost = rules.cost_of(request_limits);
        let now = context.now().wall();
        self.shared
            .count_admission(key, now, cost, || context.client());
        self.shared.see(key, now, context.head, || context.client());
        for (unit, units) in rules.unit_costs_of(request_limits) {
            if let Some(meter) = key.meter() {
                meter.add_units(now, unit, i64::try_from(*units).unwrap_or(i64::MAX));
            }
        }
    }

    /// Announces an admission. Call it before the request is changed, since `context` borrows the
    /// request.
    pub(super) fn announce_admission(
        &self,
        context: &Context<'_>,
        key: Option<KeyFacts<'_>>,
        carriers: Carriers,
        charges: &[Charge<'_>],
        verdict: Option<&Verdict>,
    ) {
        let observers = &self.shared.observers;
        let reported = match key {
            Some(key) if self.config.reports.are_on() => self.reported(context, key.cached_key()),
            _ => Vec::new(),
        };
        let is_silent = verdict.is_none() && reported.is_empty();
        if is_silent && !observers.need_admission(key, carriers) {
            return; // do not build a decision for nobody
        }
        observers.decided(&Decision {
            outcome: Ok(()),
            key,
            request: context,
            carriers,
            charges,
            verdict,
            reported: &reported,
        });
    }

    /// Admits a request with a key: inserts the caller, and removes the credential.
    pub(super) fn admit<B>(
        &self,
        request: &mut Request<B>,
        key: Arc<CachedKey>,
        lifecycle: Lifecycle,
        carriers: Carriers,
        request_limits: RequestLimits,
        within: WithinLimits,
    ) -> Outcome {
        self.strip_or_mark(request, carriers);
        self.pass_on(request, Some((&key, &lifecycle)));
        let has_observers = self.shared.observers.has_observers();
        let for_observers = has_observers.then(|| Arc::clone(&key));
        let rules = self.rules_of(&request_limits);
        let receipt = within.receipt.unwrap_or_default();
        let receipt = receipt.with_counted_units(rules.counted_units(&request_limits));
        let caller = Caller::new(key, lifecycle, carriers, request_limits, receipt);
        request.extensions_mut().insert(caller);
        Outcome::Admit(Admission::Key {
            lifecycle,
            carriers,
            limits: within.limits,
            for_observers,
        })
    }

    /// Admits a request without a key.
    pub(super) fn admit_anonymous<B>(
        &self,
        request: &mut Request<B>,
        within: WithinLimits,
    ) -> Outcome {
        // A caller of other keys, from an outer layer, does not authorize this request.
        request.extensions_mut().remove::<Caller>();
        self.pass_on(request, None);
        let anonymous = Anonymous::new(&self.shared.key_services);
        request.extensions_mut().insert(anonymous);
        Outcome::Admit(Admission::Anonymous {
            limits: within.limits,
        })
    }
}
