//! The two waits of the path: for a record from the store, and for a remote limiter.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::Request;

use crate::cache::adoption::AdoptableKey;
use crate::cache::{CachedKey, LoadFailure, LoadPriority, Lookup};
use crate::http::carriers::Carriers;
use crate::http::rejection::Rejection;
use crate::http::request_head::RequestHead;
use crate::key::digest::KeyId;
use crate::limit::compiled_rules::RequestLimits;
use crate::limit::failed_attempts::Attempt;
use crate::limit::refund::Receipt;
use crate::middleware::charge::Payer;
use crate::middleware::conclude::Reason;
use crate::middleware::context::Context;
use crate::middleware::decide::check_status;
use crate::middleware::gate::Gate;
use crate::middleware::outcome::{
    Outcome, Pending, PendingCharge, PendingLoad, PresentedKey, VerifiedKey,
};
use crate::observe::{KeyFacts, KeyLookup, WaitFor};
use crate::util::trace;

/// The future of a waiting request, with the outcome after the wait.
///
/// The future owns the request's head, but never the body, which may be neither `Send` nor
/// `'static`.
pub(super) type ResumeFuture = Pin<Box<dyn Future<Output = (Request<()>, Outcome)> + Send>>;

/// Refunds a charge as a whole.
const ALL: u64 = u64::MAX;

impl Gate {
    /// Waits, and continues with the request from there.
    pub(super) fn resume(self: Arc<Self>, request: Request<()>, pending: Pending) -> ResumeFuture {
        // Each wait is boxed on its own, so that no future is larger than necessary.
        match pending {
            Pending::Load(load) => self.resume_load(request, load),
            Pending::Charge(charge) => self.resume_charge(request, charge),
        }
    }

    /// Waits for a record, and continues at step 5.
    fn resume_load(
        self: Arc<Self>,
        mut request: Request<()>,
        pending: PendingLoad,
    ) -> ResumeFuture {
        Box::pin(async move {
            let PendingLoad {
                mut presented,
                priority,
                adoptable,
                attempt,
            } = pending;
            presented.lookup = KeyLookup::Loaded;
            let outcome = match self.load(&presented, priority, adoptable, attempt).await {
                Ok(lookup) => self.decide(&mut request, Some((presented, lookup))),
                Err(rejection) => {
                    let context = self.context(&request);
                    context.looked_up(presented.lookup);
                    self.deny(&context, rejection, None, presented.carriers)
                }
            };
            (request, outcome)
        })
    }

    /// Waits for a limiter, checks the key again, and continues at step 9.
    fn resume_charge(
        self: Arc<Self>,
        mut request: Request<()>,
        pending: Box<PendingCharge>,
    ) -> ResumeFuture {
        Box::pin(async move {
            let PendingCharge {
                key,
                request_limits,
            } = *pending;
            let outcome = match key {
                Some(key) => self.charge_key(&mut request, key, request_limits).await,
                None => self.charge_anonymous(&mut request, &request_limits).await,
            };
            (request, outcome)
        })
    }

    /// Charges a key, and checks its status and access again, since time passed during the wait. If
    /// the key was changed, it is first loaded and compared again. A request over its limits is
    /// denied at once, with the status from before the wait.
    async fn charge_key(
        &self,
        request: &mut Request<()>,
        verified: VerifiedKey,
        request_limits: RequestLimits,
    ) -> Outcome {
        let VerifiedKey {
            presented,
            key,
            lifecycle,
        } = verified;
        let (id, carriers) = (presented.id(), presented.carriers);
        let charged_key = key.charged_key(id);
        let charged_at = self.shared.now();
        let charges =
            self.rules_of(&request_limits)
                .charges(Some(charged_key), &request_limits, charged_at);
        let mut verdict = None;
        let mut within = match self.charge(&charges, Payer::Key(id), &mut verdict).await {
            Ok(within) => within,
            Err(denial) => {
                let facts = KeyFacts::new(&key, lifecycle);
                let reason = Reason::by_limits(*denial, &charges, verdict.as_ref());
                let context = self.context(request);
                context.looked_up(presented.lookup);
                return self.deny(&context, reason, Some(facts), carriers);
            }
        };
        let again = if self.shared.cache.is_current(&id, key.epoch()) {
            Ok(Arc::clone(&key))
        } else {
            let load = self.load(&presented, LoadPriority::FoundBefore, None, None);
            let lookup = load.await;
            lookup.and_then(|lookup| self.compare(&presented.digest, lookup))
        };
        let denied = {
            let context = self.context(request);
            context.looked_up(presented.lookup);
            match again {
                Err(rejection) => self.deny(&context, rejection, None, carriers),
                Ok(again) => {
                    let lifecycle = again.lifecycle(context.now().wall(), self.shared.warning);
                    let facts = KeyFacts::new(&again, lifecycle);
                    let checked = check_status(&again, lifecycle)
                        .and_then(|()| self.check_access(&context, &again));
                    if let Err(rejection) = checked {
                        self.deny(&context, rejection, Some(facts), carriers)
                    } else {
                        self.count_admission(&context, &again, &request_limits);
                        self.announce_admission(
                            &context,
                            Some(facts),
                            carriers,
                            &charges,
                            verdict.as_ref(),
                        );
                        // With another plan or quota, a refund would go to budgets that the request
                        // was not charged to.
                        let again_charged = again.charged_key(id);
                        let anew = self.rules_of(&request_limits).charges(
                            Some(again_charged),
                            &request_limits,
                            charged_at,
                        );
                        let is_same = anew.len() == charges.len()
                            && anew.iter().zip(&charges).all(|(a, b)| a.is_as(b));
                        drop((anew, charges)); // they borrow the keys and the subjects
                        if !is_same {
                            within.receipt = None;
                        }
                        return self.admit(
                            request,
                            again,
                            lifecycle,
                            carriers,
                            request_limits,
                            within,
                        );
                    }
                }
            }
        };
        if let Some(receipt) = &within.receipt {
            self.refund_all(&key, id, &request_limits, receipt).await;
        }
        denied
    }

    async fn charge_anonymous(
        &self,
        request: &mut Request<()>,
        request_limits: &RequestLimits,
    ) -> Outcome {
        let charges =
            self.rules_of(request_limits)
                .charges(None, request_limits, self.shared.now());
        let mut verdict = None;
        let within = self.charge(&charges, Payer::Anonymous, &mut verdict).await;
        let context = self.context(request);
        match within {
            Ok(within) => {
                self.announce_admission(&context, None, Carriers::NONE, &charges, verdict.as_ref());
                self.admit_anonymous(request, within)
            }
            Err(denial) => {
                let reason = Reason::by_limits(*denial, &charges, verdict.as_ref());
                self.deny(&context, reason, None, Carriers::NONE)
            }
        }
    }

    /// Loads a record from the store: step 4. The attempt is forgiven unless the key does not
    /// exist.
    async fn load(
        &self,
        presented: &PresentedKey,
        priority: LoadPriority,
        adoptable: Option<Arc<AdoptableKey>>,
        attempt: Option<Attempt>,
    ) -> Result<Lookup, Rejection> {
        let (id, cache) = (presented.id(), &self.shared.cache);
        let format = self.shared.formats.at(presented.format_index);
        let facts = self.shared.format_facts(format);
        let asked_at = self.shared.clock.monotonic();
        let loaded = cache.load(id, &facts, priority, adoptable).await;
        self.report_wait(WaitFor::Store, asked_at, loaded.is_ok());
        if let (Some(throttle), Some(attempt)) = (&self.shared.throttle, attempt)
            && !matches!(&loaded, Ok(Lookup::Absent))
        {
            throttle.forgive(attempt, self.shared.readings());
        }
        if loaded.is_ok()
            && let Some(failures) = self.shared.log_throttles.store.recovered()
        {
            trace::store_recovered(failures);
        }
        loaded.map_err(|failure| self.load_failed(&failure, &presented.id()))
    }

    /// Reports a wait to the observers, if there are any.
    pub(super) fn report_wait(&self, on: WaitFor, since: Duration, is_ok: bool) {
        if self.shared.observers.has_observers() {
            let now = self.shared.clock.monotonic();
            self.shared.observers.waited(on, since, now, is_ok);
        }
    }

    /// Logs that a record could not be loaded, and returns the rejection for that failure.
    pub(super) fn load_failed(&self, failure: &LoadFailure, id: &KeyId) -> Rejection {
        let (throttles, now) = (&self.shared.log_throttles, self.shared.now());
        match failure {
            LoadFailure::Store(error) => {
                if let Some(failures) = throttles.store.failed(now) {
                    trace::store_failed(error, id, failures);
                }
            }
            LoadFailure::TooMany => {
                if let Some(failures) = throttles.loads.failed(now) {
                    trace::too_many_loads(id, failures);
                }
            }
        }
        self.outage()
    }

    /// Refunds all charges of a request that is denied after its charge.
    async fn refund_all(
        &self,
        key: &CachedKey,
        id: KeyId,
        request_limits: &RequestLimits,
        receipt: &Receipt,
    ) {
        let key_services = &self.shared.key_services;
        let refunded = key_services.refund(key.charged_key(id), request_limits, receipt, None, ALL);
        if let Err(error) = refunded.await {
            trace::refund_failed(&error);
        }
    }

    /// Returns the context of a request after a wait. It reads the clocks again.
    fn context<'r>(&'r self, request: &'r Request<()>) -> Context<'r> {
        Context::new(self, RequestHead::from(request))
    }
}
