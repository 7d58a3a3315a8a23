//! Step 8 of the path: what a request is charged, and what its caller is told of that.

use super::{Denial, Gate, Presented, Proved, refused, stranger};
use crate::clock::Now;
use crate::limit::limiting::{self, Limiting};
use crate::limit::outage::Fallback;
use crate::limit::refund::Receipt;
use crate::limit::rulebook::{Bound, Charges, Holder};
use crate::limit::state::Nanos;
use crate::limit::{Charge, LimiterError, Verdict};
use crate::rejection::Rejection;
use crate::request::head::RequestHead;
use crate::response::rate_limit::{self, Notice};
use crate::source::Carriers;
use crate::trace;

/// What the limits must know of a request, and what its caller is told of them.
pub(crate) struct Metered {
    /// Whether the request has no key.
    pub(super) is_stranger: bool,
    pub(super) bound: Option<Bound>,
    pub(super) limits: Option<Notice>,
    /// What it may give back, if the limiter took anything.
    pub(super) receipt: Option<Receipt>,
}

/// Why a request is not admitted although its key is good, or none is needed.
pub(super) struct Refusal {
    rejection: Rejection,
    limits: Option<Box<Notice>>,
}

impl Refusal {
    pub(super) fn of_nobody(self) -> Denial {
        Denial {
            limits: self.limits,
            ..stranger(self.rejection, Carriers::NONE)
        }
    }

    pub(super) fn of(self, proved: &Proved, carriers: Carriers) -> Denial {
        let Proved {
            known, lifecycle, ..
        } = proved;
        Denial {
            limits: self.limits,
            ..refused(self.rejection, known, *lifecycle, carriers)
        }
    }
}

impl Gate {
    /// What the limits must know of a request.
    #[inline]
    pub(super) fn bind(&self, head: RequestHead<'_>, is_stranger: bool) -> Metered {
        Metered {
            is_stranger,
            bound: self.bound(head),
            limits: None,
            receipt: None,
        }
    }

    #[inline]
    fn bound(&self, head: RequestHead<'_>) -> Option<Bound> {
        let rules = &self.keyring.metering.limiting.as_ref()?.rules;
        let needed = rules.need_address();
        let address = needed.then(|| self.charged_address(head)).flatten();
        if !rules.need_route() {
            return Some(rules.bind_nowhere(address));
        }
        let route = self.settings.route.of(head);
        let path = head.uri.path();
        Some(rules.bind(head.method.as_str(), &route, path, address))
    }

    /// Takes all charges, or none; `None` if that must be waited for.
    pub(super) fn charge_now(
        &self,
        key: Option<Holder<'_>>,
        metered: &mut Metered,
        now: Now,
    ) -> Option<Result<(), Box<Refusal>>> {
        let (Some(limiting), Some(bound)) = (&self.keyring.metering.limiting, &metered.bound)
        else {
            return Some(Ok(()));
        };
        let mut charges = Charges::new();
        limiting.rules.charge(key, bound, &mut charges);
        let checked = limiting.check_now(&charges, now);
        let checked = checked.as_ref()?;
        Some(self.conclude(limiting, &charges, checked, metered, Nanos::of(now), now))
    }

    /// As [`charge_now`](Self::charge_now), with a wait. The clock is read anew after it.
    pub(super) async fn charge(
        &self,
        key: Option<Holder<'_>>,
        metered: &mut Metered,
    ) -> Result<(), Box<Refusal>> {
        let (Some(limiting), Some(bound)) = (&self.keyring.metering.limiting, &metered.bound)
        else {
            return Ok(());
        };
        let mut charges = Charges::new();
        limiting.rules.charge(key, bound, &mut charges);
        let asked_at = Nanos::of(self.keyring.readings());
        let checked = limiting.check(&*self.keyring.clock, &charges).await;
        let now = self.keyring.readings();
        self.conclude(limiting, &charges, &checked, metered, asked_at, now)
    }

    #[inline]
    fn conclude(
        &self,
        limiting: &Limiting,
        charges: &[Charge<'_>],
        checked: &Result<Verdict, LimiterError>,
        metered: &mut Metered,
        asked_at: Nanos,
        now: Now,
    ) -> Result<(), Box<Refusal>> {
        match limiting::verdict(charges, checked) {
            Ok(verdict) => {
                self.tell(charges, verdict, metered, now)?;
                if let Some(charge) = charges.first() {
                    metered.receipt = Some(Receipt::new(asked_at, verdict, charge.cost()));
                }
                Ok(())
            }
            Err(error) => self.do_without(limiting, charges, &error, metered, now),
        }
    }

    #[inline]
    fn tell(
        &self,
        charges: &[Charge<'_>],
        verdict: &Verdict,
        metered: &mut Metered,
        now: Now,
    ) -> Result<(), Box<Refusal>> {
        let headers = self.settings.rate_limit_headers;
        metered.limits = if metered.is_stranger {
            Notice::of_stranger(headers, charges, verdict, now.wall())
        } else {
            Notice::of(headers, charges, verdict, now.wall())
        };
        if verdict.is_allowed() {
            return Ok(());
        }
        // Never a silent yes.
        let rejection = rate_limit::rejection(charges, verdict, metered.is_stranger, now.wall());
        Err(Box::new(Refusal {
            rejection: rejection.unwrap_or_else(|| self.outage()),
            limits: metered.limits.take().map(Box::new),
        }))
    }

    /// The limiter failed: what the application chose for that decides.
    #[cold]
    fn do_without(
        &self,
        limiting: &Limiting,
        charges: &[Charge<'_>],
        error: &LimiterError,
        metered: &mut Metered,
        now: Now,
    ) -> Result<(), Box<Refusal>> {
        trace::limiter_failed(error);
        match limiting.emergency.decide(charges, now) {
            Fallback::Charged(shares, verdict) => self.tell(&shares, &verdict, metered, now),
            Fallback::Admit => Ok(()),
            Fallback::Refuse => Err(Box::new(Refusal {
                rejection: self.outage(),
                limits: None,
            })),
        }
    }

    /// What was charged to a request that goes no further after all.
    pub(super) async fn give_back(&self, key: &Presented, proved: &Proved, metered: &Metered) {
        let (Some(bound), Some(receipt)) = (&metered.bound, &metered.receipt) else {
            return;
        };
        let holder = proved.known.holder(key.id());
        let metering = &self.keyring.metering;
        let refunded = metering.refund(holder, bound, receipt, u64::MAX);
        if let Err(error) = refunded.await {
            trace::limiter_failed(&error);
        }
    }
}
