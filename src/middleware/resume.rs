//! The two waits of the path: for a record from the store, and for a limiter elsewhere.

use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::Arc;

use http::Request;

use super::charge::WithinLimits;
use super::context::Context;
use super::decide::{
    Gate, Outcome, PendingCharge, PendingLoad, PresentedKey, VerifiedKey, admit_stranger,
};
use crate::cache::{Found, KnownKey, LoadFailure, Sought};
use crate::http::credential::source::Carriers;
use crate::http::rejection::Rejection;
use crate::http::request_head::RequestHead;
use crate::key::digest::KeyId;
use crate::limit::rulebook::{Bound, Charges};
use crate::limit::throttle::Attempt;
use crate::observe::KeyFacts;
use crate::util::trace;

/// A request that waits, and how far it gets after that.
///
/// It owns what it looks at, and never the body: that may be neither `Send` nor `'static`.
pub(super) type Waiting = Pin<Box<dyn Future<Output = (Request<()>, Outcome)> + Send>>;

impl Gate {
    /// Goes on with a request that was not decided.
    pub(super) fn resume(self: Arc<Self>, request: Request<()>, outcome: Outcome) -> Waiting {
        // Each wait in a box of its own, which is no larger than it must be.
        match outcome {
            Outcome::Load(pending) => self.resume_load(request, pending),
            Outcome::Charge(pending) => self.resume_charge(request, pending),
            decided => Box::pin(ready((request, decided))),
        }
    }

    /// Waits for a record, and goes on at step 5.
    fn resume_load(self: Arc<Self>, mut request: Request<()>, pending: PendingLoad) -> Waiting {
        Box::pin(async move {
            let PendingLoad {
                key,
                sought,
                attempt,
            } = pending;
            let outcome = match self.load(&key, sought, attempt).await {
                Ok(found) => self.decide(&mut request, Some((key, found))),
                Err(rejection) => {
                    let context = self.context(&request);
                    self.deny(&context, rejection, None, key.carriers)
                }
            };
            (request, outcome)
        })
    }

    /// Waits for a limiter. Time went by, so a key is looked at once more before step 9.
    fn resume_charge(
        self: Arc<Self>,
        mut request: Request<()>,
        pending: Box<PendingCharge>,
    ) -> Waiting {
        Box::pin(async move {
            let PendingCharge { key, bound } = *pending;
            let outcome = match key {
                Some(key) => self.charge_key(&mut request, key, bound).await,
                None => self.charge_stranger(&mut request, &bound).await,
            };
            (request, outcome)
        })
    }

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
        let carriers = presented.carriers;
        let holder = known.holder(presented.id());
        let mut charges = Charges::new();
        let rules = &self.keyring.metering.limiting.rules;
        rules.charge(Some(holder), &bound, self.keyring.now(), &mut charges);
        let within = match self.charge(&charges, false).await {
            Ok(within) => within,
            Err(exceeded) => {
                let context = self.context(request);
                let facts = KeyFacts::new(&known, lifecycle);
                return self.deny_exceeded(&context, *exceeded, Some(facts), carriers, &charges);
            }
        };
        // The same steps 4 to 7 as before the wait, for a key that was good then.
        let is_current = self
            .keyring
            .cache
            .is_current(&presented.id(), known.stamp());
        let found = if is_current {
            Ok(Found::Key(Arc::clone(&known)))
        } else {
            self.load(&presented, Sought::FoundBefore, None).await
        };
        let compared = found.and_then(|found| self.compare(&presented.digest, found));
        let judged = match compared {
            Err(rejection) => Err((rejection, None)),
            Ok(again) => {
                let context = self.context(request);
                let lifecycle = again.lifecycle(context.now.wall(), self.keyring.warning);
                match self.authorize(&context, &again, lifecycle) {
                    Ok(()) => Ok((again, lifecycle)),
                    Err(rejection) => Err((rejection, Some((again, lifecycle)))),
                }
            }
        };
        match judged {
            Ok((again, lifecycle)) => {
                let facts = Some(KeyFacts::new(&again, lifecycle));
                let context = self.context(request);
                self.announce(
                    &context,
                    Ok(()),
                    facts,
                    carriers,
                    &charges,
                    within.verdict(),
                );
                self.admit(request, again, lifecycle, carriers, bound, within)
            }
            Err((rejection, key)) => {
                self.give_back(&known, presented.id(), &bound, &within)
                    .await;
                let facts = key
                    .as_ref()
                    .map(|(key, lifecycle)| KeyFacts::new(key, *lifecycle));
                self.deny(&self.context(request), rejection, facts, carriers)
            }
        }
    }

    async fn charge_stranger(&self, request: &mut Request<()>, bound: &Bound) -> Outcome {
        let mut charges = Charges::new();
        let rules = &self.keyring.metering.limiting.rules;
        rules.charge(None, bound, self.keyring.now(), &mut charges);
        let within = self.charge(&charges, true).await;
        let context = self.context(request);
        match within {
            Ok(within) => {
                let verdict = within.verdict();
                self.announce(&context, Ok(()), None, Carriers::NONE, &charges, verdict);
                admit_stranger(request, within)
            }
            Err(exceeded) => {
                self.deny_exceeded(&context, *exceeded, None, Carriers::NONE, &charges)
            }
        }
    }

    /// Step 4, from the store. An attempt is forgiven unless there is no such key.
    async fn load(
        &self,
        key: &PresentedKey,
        sought: Sought,
        attempt: Option<Attempt>,
    ) -> Result<Found, Rejection> {
        let environment = self.keyring.formats.at(key.format).environment();
        let loaded = self.keyring.cache.load(key.id(), environment, sought);
        let loaded = loaded.await;
        if let (Some(throttle), Some(attempt)) = (&self.keyring.throttle, attempt)
            && !matches!(&loaded, Ok(Found::Nothing))
        {
            throttle.forgive(attempt, self.keyring.readings());
        }
        loaded.map_err(|failure| self.load_failed(&failure, &key.id()))
    }

    pub(super) fn load_failed(&self, failure: &LoadFailure, id: &KeyId) -> Rejection {
        match failure {
            LoadFailure::Store(error) => trace::store_failed(error, id),
            LoadFailure::TooMany => trace::too_many_loads(id),
        }
        self.outage()
    }

    /// What was charged to a request that goes no further after all.
    async fn give_back(&self, known: &KnownKey, id: KeyId, bound: &Bound, within: &WithinLimits) {
        let Some(receipt) = &within.receipt else {
            return;
        };
        let metering = &self.keyring.metering;
        let refunded = metering.refund(known.holder(id), bound, receipt, u64::MAX);
        if let Err(error) = refunded.await {
            trace::limiter_failed(&error);
        }
    }

    /// The context of a request after a wait: by the time that it is now.
    fn context<'r>(&'r self, request: &'r Request<()>) -> Context<'r> {
        Context::new(self, RequestHead::from(request), self.keyring.readings())
    }
}
