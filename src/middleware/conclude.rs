//! Step 9, and every denial: each decision is announced here, and nowhere else.

use std::sync::Arc;

use http::Request;

use crate::cache::KnownKey;
use crate::http::caller::{Anonymous, Caller};
use crate::http::carriers::Carriers;
use crate::http::rejection::Rejection;
use crate::http::render::rate_limit::Notice;
use crate::key::lifecycle::Lifecycle;
use crate::limit::charge::Charge;
use crate::limit::rulebook::Bound;
use crate::limit::verdict::Verdict;
use crate::middleware::charge::{LimitDenial, WithinLimits};
use crate::middleware::context::Context;
use crate::middleware::gate::Gate;
use crate::middleware::outcome::{Admission, Denial, Outcome};
use crate::observe::{Decision, KeyFacts};

/// The reason of a denial, with what was asked of the limiter.
pub(super) struct Reason<'a> {
    rejection: Rejection,
    limits: Option<Box<Notice>>,
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
    /// The reason of a denial by the limits.
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
    /// Announces and makes a denial. The key is named if its secret was right.
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
        self.keyring.observers.decided(&Decision {
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

    /// Announces an admission. What follows takes the request, so it comes after.
    #[inline]
    pub(super) fn announce_admission(
        &self,
        context: &Context<'_>,
        key: Option<KeyFacts<'_>>,
        carriers: Carriers,
        charges: &[Charge<'_>],
        verdict: Option<&Verdict>,
    ) {
        let observers = &self.keyring.observers;
        let reported = match key {
            Some(key) if self.config.reports.are_on() => self.reported(context, key.known()),
            _ => Vec::new(),
        };
        let is_silent = verdict.is_none() && reported.is_empty();
        if is_silent && !observers.hear_of_admission(key, carriers) {
            return; // it need not be put together
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

    /// Admits a request with a key: the caller goes in, the credential out.
    #[inline]
    pub(super) fn admit<B>(
        &self,
        request: &mut Request<B>,
        known: Arc<KnownKey>,
        lifecycle: Lifecycle,
        carriers: Carriers,
        bound: Bound,
        within: WithinLimits,
    ) -> Outcome {
        self.strip_or_mark(request, carriers);
        self.pass_on(request, Some((&known, &lifecycle)));
        let has_observers = self.keyring.observers.has_observers();
        let for_observers = has_observers.then(|| Arc::clone(&known));
        let caller = Caller::new(known, lifecycle, carriers, bound, within.receipt);
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
        // A caller of other keys, from a layer further out, does not speak for this request.
        request.extensions_mut().remove::<Caller>();
        self.pass_on(request, None);
        let anonymous = Anonymous::new(&self.keyring.metering);
        request.extensions_mut().insert(anonymous);
        Outcome::Admit(Admission::Anonymous {
            limits: within.limits,
        })
    }
}
