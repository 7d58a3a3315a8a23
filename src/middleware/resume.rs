//! The two waits of the path: for a record from the store, and for a limiter elsewhere.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::Request;

use crate::cache::{Found, KnownKey, LoadFailure, Sought};
use crate::http::carriers::Carriers;
use crate::http::rejection::Rejection;
use crate::http::request_head::RequestHead;
use crate::key::digest::KeyId;
use crate::limit::refund::Receipt;
use crate::limit::rulebook::Bound;
use crate::limit::throttle::Attempt;
use crate::middleware::charge::Payer;
use crate::middleware::conclude::Reason;
use crate::middleware::context::Context;
use crate::middleware::decide::check_status;
use crate::middleware::gate::Gate;
use crate::middleware::outcome::{
    Outcome, PendingCharge, PendingLoad, PresentedKey, VerifiedKey, Wait,
};
use crate::observe::{KeyFacts, KeyLookup, WaitFor};
use crate::util::trace;

/// A request that waits, and how far it gets after that.
///
/// It owns what it looks at, and never the body: that may be neither `Send` nor `'static`.
pub(super) type Waiting = Pin<Box<dyn Future<Output = (Request<()>, Outcome)> + Send>>;

/// The units of a charge that is given back as a whole.
const ALL: u64 = u64::MAX;

impl Gate {
    /// Waits, and goes on with the request from there.
    pub(super) fn resume(self: Arc<Self>, request: Request<()>, wait: Wait) -> Waiting {
        // Each wait in a box of its own, which is no larger than it must be.
        match wait {
            Wait::Record(pending) => self.resume_load(request, pending),
            Wait::Limits(pending) => self.resume_charge(request, pending),
        }
    }

    /// Waits for a record, and goes on at step 5.
    fn resume_load(self: Arc<Self>, mut request: Request<()>, pending: PendingLoad) -> Waiting {
        Box::pin(async move {
            let PendingLoad {
                mut key,
                sought,
                attempt,
            } = pending;
            key.lookup = KeyLookup::Loaded;
            let outcome = match self.load(&key, sought, attempt).await {
                Ok(found) => self.decide(&mut request, Some((key, found))),
                Err(rejection) => {
                    let context = self.context(&request);
                    context.looked_up(key.lookup);
                    self.deny(&context, rejection, None, key.carriers)
                }
            };
            (request, outcome)
        })
    }

    /// Waits for a limiter, checks the key again, and goes on to step 9.
    fn resume_charge(
        self: Arc<Self>,
        mut request: Request<()>,
        pending: Box<PendingCharge>,
    ) -> Waiting {
        Box::pin(async move {
            let PendingCharge { key, bound } = *pending;
            let outcome = match key {
                Some(key) => self.charge_key(&mut request, key, bound).await,
                None => self.charge_anonymous(&mut request, &bound).await,
            };
            (request, outcome)
        })
    }

    /// Charges a key. Time goes by meanwhile, so its status and access are checked once more after
    /// that. If the key was changed, it is loaded and compared before. A request that is over its
    /// limits is denied at once, with the status that it had before the wait.
    async fn charge_key(
        &self,
        request: &mut Request<()>,
        key: VerifiedKey,
        bound: Bound,
    ) -> Outcome {
        let VerifiedKey {
            presented,
            known,
            lifecycle,
        } = key;
        let (id, carriers) = (presented.id(), presented.carriers);
        let holder = known.holder(id);
        let charged_at = self.keyring.now();
        let charges = self
            .rules_of(&bound)
            .charges(Some(holder), &bound, charged_at);
        let mut verdict = None;
        let mut within = match self.charge(&charges, Payer::Key, &mut verdict).await {
            Ok(within) => within,
            Err(denial) => {
                let facts = KeyFacts::new(&known, lifecycle);
                let reason = Reason::by_limits(*denial, &charges, verdict.as_ref());
                let context = self.context(request);
                context.looked_up(presented.lookup);
                return self.deny(&context, reason, Some(facts), carriers);
            }
        };
        let again = if self.keyring.cache.is_current(&id, known.stamp()) {
            Ok(Arc::clone(&known))
        } else {
            let found = self.load(&presented, Sought::FoundBefore, None).await;
            found.and_then(|found| self.compare(&presented.digest, found))
        };
        let denied = {
            let context = self.context(request);
            context.looked_up(presented.lookup);
            match again {
                Err(rejection) => self.deny(&context, rejection, None, carriers),
                Ok(again) => {
                    let lifecycle = again.lifecycle(context.now().wall(), self.keyring.warning);
                    let facts = KeyFacts::new(&again, lifecycle);
                    let checked = check_status(&again, lifecycle)
                        .and_then(|()| self.check_access(&context, &again));
                    if let Err(rejection) = checked {
                        self.deny(&context, rejection, Some(facts), carriers)
                    } else {
                        self.announce_admission(
                            &context,
                            Some(facts),
                            carriers,
                            &charges,
                            verdict.as_ref(),
                        );
                        // A record with another plan or budget would give back to budgets that the
                        // request did not draw on.
                        let again_holder = again.holder(id);
                        let anew =
                            self.rules_of(&bound)
                                .charges(Some(again_holder), &bound, charged_at);
                        let is_same = anew.len() == charges.len()
                            && anew.iter().zip(&charges).all(|(a, b)| a.is_as(b));
                        drop((anew, charges)); // they borrow the keys and the subjects
                        if !is_same {
                            within.receipt = None;
                        }
                        return self.admit(request, again, lifecycle, carriers, bound, within);
                    }
                }
            }
        };
        if let Some(receipt) = &within.receipt {
            self.give_back(&known, id, &bound, receipt).await;
        }
        denied
    }

    async fn charge_anonymous(&self, request: &mut Request<()>, bound: &Bound) -> Outcome {
        let charges = self
            .rules_of(bound)
            .charges(None, bound, self.keyring.now());
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

    /// Loads a record from the store: step 4. The attempt is forgiven unless there is no such key.
    async fn load(
        &self,
        key: &PresentedKey,
        sought: Sought,
        attempt: Option<Attempt>,
    ) -> Result<Found, Rejection> {
        let written = self.keyring.written(self.keyring.formats.at(key.format));
        let asked_at = self.keyring.clock.monotonic();
        let loaded = self.keyring.cache.load(key.id(), &written, sought);
        let loaded = loaded.await;
        self.tell_of_wait(WaitFor::Store, asked_at, loaded.is_ok());
        if let (Some(throttle), Some(attempt)) = (&self.keyring.throttle, attempt)
            && !matches!(&loaded, Ok(Found::Nothing))
        {
            throttle.forgive(attempt, self.keyring.readings());
        }
        if loaded.is_ok()
            && let Some(failures) = self.keyring.notices.store.works()
        {
            trace::store_works(failures);
        }
        loaded.map_err(|failure| self.load_failed(&failure, &key.id()))
    }

    /// Tells observers of a wait, if there are any.
    pub(super) fn tell_of_wait(&self, on: WaitFor, since: Duration, is_ok: bool) {
        if self.keyring.observers.has_observers() {
            let now = self.keyring.clock.monotonic();
            self.keyring.observers.waited(on, since, now, is_ok);
        }
    }

    /// Logs that a record could not be loaded, and returns the rejection for that.
    pub(super) fn load_failed(&self, failure: &LoadFailure, id: &KeyId) -> Rejection {
        let (notices, now) = (&self.keyring.notices, self.keyring.now());
        match failure {
            LoadFailure::Store(error) => {
                if let Some(failures) = notices.store.failed(now) {
                    trace::store_failed(error, id, failures);
                }
            }
            LoadFailure::TooMany => {
                if let Some(failures) = notices.loads.failed(now) {
                    trace::too_many_loads(id, failures);
                }
            }
        }
        self.outage()
    }

    /// Refunds what was charged to a request that is denied after all.
    async fn give_back(&self, known: &KnownKey, id: KeyId, bound: &Bound, receipt: &Receipt) {
        let metering = &self.keyring.metering;
        let refunded = metering.refund(known.holder(id), bound, receipt, None, ALL);
        if let Err(error) = refunded.await {
            trace::refund_failed(&error);
        }
    }

    /// Returns the context of a request after a wait, with clocks that are read anew.
    fn context<'r>(&'r self, request: &'r Request<()>) -> Context<'r> {
        Context::new(self, RequestHead::from(request))
    }
}
