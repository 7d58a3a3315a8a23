//! THE PATH: from a request to a decision, top to bottom.
//!
//! 0. **Nested**: an outer layer of the same keys admitted the request. Status and access are
//!    checked again. A key that is still in the request must be the same key. A preflight passes
//!    without a key, if the layer allows preflights.
//! 1. **Find** the one credential in the request.
//! 2. **Parse** it: text that does not have the format of our keys is refused here.
//! 3. **Hash** the key once: the digest contains the id of the record.
//! 4. **Look up** the record by its id: in the cache, or else in the store, which is awaited.
//! 5. **Compare** the secret, in constant time.
//! 6. **Status** from the record and the clock.
//! 7. **Access**: environment, kind, web origin, network, scopes.
//! 8. **Limits**: all charges that apply, or none. A remote limiter is awaited.
//! 9. **Admit**: insert the caller, and remove the credential.
//!
//! Requests are admitted by [`Gate::admit`] and [`Gate::admit_anonymous`], and as
//! [`Admission::Nested`] by `decide_nested` for a key and by `decide_anonymous` without one. All of
//! their callers are in this file and in `resume.rs`.

use std::sync::Arc;

use http::Request;

use crate::cache::{CachedKey, LoadPriority, Lookup};
use crate::http::browser;
use crate::http::caller::{Anonymous, Caller};
use crate::http::carriers::Carriers;
use crate::http::credential::Ambiguous;
use crate::http::rejection::{NotFound, Rejection};
use crate::http::request_head::RequestHead;
use crate::key::digest::KeyDigest;
use crate::key::kind::KeyKind;
use crate::key::lifecycle::Lifecycle;
use crate::limit::compiled_rules::Charges;
use crate::limit::failed_attempts::Attempt;
use crate::middleware::charge::Payer;
use crate::middleware::conclude::Reason;
use crate::middleware::context::Context;
use crate::middleware::gate::Gate;
use crate::middleware::outcome::{
    Admission, Outcome, Pending, PendingCharge, PendingLoad, PresentedKey, VerifiedKey,
};
use crate::observe::{KeyFacts, KeyLookup};
use crate::util::trace;

impl Gate {
    /// Decides about a request, as far as possible without a wait. If `loaded` has the store's
    /// answer, the decision continues at step 5.
    pub(super) fn decide<B>(
        &self,
        request: &mut Request<B>,
        loaded: Option<(PresentedKey, Lookup)>,
    ) -> Outcome {
        let shared = &*self.shared;
        if loaded.is_none() {
            // 0. A caller of the same keys was verified, charged and announced by an outer layer.
            //    A preflight has no key of its own, since browsers send none. A key in its URL
            //    belongs to the actual request that follows.
            if let Some(outcome) = self.decide_nested(request) {
                return outcome;
            }
            if self.is_allowed_preflight(RequestHead::from(&*request)) {
                return self.decide_preflight(request);
            }
        }
        let context = Context::new(self, RequestHead::from(&*request));
        let (presented, lookup) = if let Some(loaded) = loaded {
            loaded
        } else {
            // 1. Find the one credential. If there are two different keys, none is picked.
            let credential = match self.config.sources.find(context.head, &shared.formats) {
                Ok(Some(credential)) => credential,
                Ok(None) if self.config.optional => return self.decide_anonymous(request),
                Ok(None) => return self.deny(&context, Rejection::Missing, None, Carriers::NONE),
                Err(Ambiguous) => {
                    return self.deny(&context, Rejection::Ambiguous, None, Carriers::NONE);
                }
            };
            // 2. Parse it. A wrong checksum is refused here, without a hash or a lookup in the
            //    store.
            let Some(format) = credential.format else {
                let malformed = Rejection::NotFound(NotFound::Malformed);
                return self.deny(&context, malformed, None, credential.carriers);
            };
            // 3. Hash it.
            let presented = PresentedKey {
                digest: KeyDigest::of_bytes(credential.secret.as_bytes()),
                format_index: shared.formats.index_of(format),
                carriers: credential.carriers,
                lookup: KeyLookup::Cached,
            };
            // 4. Look it up. The clocks are read only here, so that junk costs no reading.
            let now = context.now().monotonic();
            let Some(lookup) = shared.cache.find(&presented.id(), now) else {
                return self.look_up(&context, presented, credential.secret.as_bytes());
            };
            context.looked_up(KeyLookup::Cached);
            // A cached miss counts as a failed attempt, too.
            if let Lookup::Absent = lookup
                && let Err(rejection) = self.count_attempt(&context)
            {
                return self.deny(&context, rejection, None, presented.carriers);
            }
            (presented, lookup)
        };
        let carriers = presented.carriers;
        context.looked_up(presented.lookup);
        // 5. Compare the secret. A record whose verifier does not match is a fault of the store:
        //    503, not 401.
        let key = match self.compare(&presented.digest, lookup) {
            Ok(key) => key,
            Err(rejection) => return self.deny(&context, rejection, None, carriers),
        };
        // 6. Status, by the current clock and not by the time of loading.
        let lifecycle = key.lifecycle(context.now().wall(), shared.warning);
        let facts = KeyFacts::new(&key, lifecycle);
        if let Err(rejection) = check_status(&key, lifecycle) {
            return self.deny(&context, rejection, Some(facts), carriers);
        }
        // 7. Access. A key that is denied here is not charged.
        if let Err(rejection) = self.check_access(&context, &key) {
            return self.deny(&context, rejection, Some(facts), carriers);
        }
        // 8. Limits: all charges or none.
        let request_limits = context.request_limits(Some(key.record()));
        let charged_key = key.charged_key(presented.id());
        let mut charges = Charges::new(); // filled in place, since it is large
        self.rules_of(&request_limits).add_charges(
            Some(charged_key),
            &request_limits,
            context.now().wall(),
            &mut charges,
        );
        let mut verdict = None;
        let within = match self.try_charge(
            &charges,
            Payer::Key(presented.id()),
            context.now(),
            &mut verdict,
        ) {
            Some(Ok(within)) => within,
            Some(Err(denial)) => {
                let reason = Reason::by_limits(*denial, &charges, verdict.as_ref());
                return self.deny(&context, reason, Some(facts), carriers);
            }
            None => {
                drop(charges); // they borrow the key
                let key = Some(VerifiedKey {
                    presented,
                    key,
                    lifecycle,
                });
                let pending = PendingCharge {
                    key,
                    request_limits,
                };
                return Outcome::Pending(Pending::Charge(Box::new(pending)));
            }
        };
        // 9. Admit.
        self.count_admission(&context, &key, &request_limits);
        self.announce_admission(&context, Some(facts), carriers, &charges, verdict.as_ref());
        drop(charges); // they borrow the key
        self.admit(request, key, lifecycle, carriers, request_limits, within)
    }

    /// Decides about a request without a key, if none is needed: steps 8 and 9.
    fn decide_anonymous<B>(&self, request: &mut Request<B>) -> Outcome {
        // An outer layer of the same keys has charged and announced the request.
        let anonymous = request.extensions().get::<Anonymous>();
        if anonymous.is_some_and(|it| it.belongs_to(&self.shared.key_services)) {
            // A caller of other keys, from a layer in between, does not authorize this request.
            request.extensions_mut().remove::<Caller>();
            self.pass_on(request, None);
            return Outcome::Admit(Admission::Nested);
        }
        let context = Context::new(self, RequestHead::from(&*request));
        let request_limits = context.request_limits(None);
        let charges =
            self.rules_of(&request_limits)
                .charges(None, &request_limits, context.now().wall());
        let mut verdict = None;
        match self.try_charge(&charges, Payer::Anonymous, context.now(), &mut verdict) {
            Some(Ok(within)) => {
                self.announce_admission(&context, None, Carriers::NONE, &charges, verdict.as_ref());
                self.admit_anonymous(request, within)
            }
            Some(Err(denial)) => {
                let reason = Reason::by_limits(*denial, &charges, verdict.as_ref());
                self.deny(&context, reason, None, Carriers::NONE)
            }
            None => {
                drop(charges); // they borrow the subjects
                let pending = PendingCharge {
                    key: None,
                    request_limits,
                };
                Outcome::Pending(Pending::Charge(Box::new(pending)))
            }
        }
    }

    /// Decides about a preflight, as about an anonymous request.
    fn decide_preflight<B>(&self, request: &mut Request<B>) -> Outcome {
        // A key in the URL belongs to the actual request that follows: it is removed, but neither
        // verified nor charged.
        let carriers = self.config.sources.parameters_of(request.uri());
        self.strip_or_mark(request, carriers);
        self.decide_anonymous(request)
    }

    /// Decides about a request that an outer layer of the same keys admitted; `None` if there is no
    /// such layer. The key is verified, and may be gone from the request. The requirements of this
    /// layer still apply. If this layer finds a key, it must be the same key.
    fn decide_nested<B>(&self, request: &mut Request<B>) -> Option<Outcome> {
        let head = RequestHead::from(&*request);
        let caller = head.extensions.get::<Caller>()?;
        if !caller.belongs_to(&self.shared.key_services) {
            return None;
        }
        let key = Arc::clone(caller.key());
        let context = Context::new(self, head);
        let lifecycle = key.lifecycle(context.now().wall(), self.shared.warning);
        let (carriers, is_same) = match self.config.sources.find(head, &self.shared.formats) {
            Ok(None) => (Carriers::NONE, true),
            Ok(Some(credential)) => {
                let digest = || KeyDigest::of_bytes(credential.secret.as_bytes());
                let is_same = credential.format.is_some() && digest().id() == key.record().id();
                (credential.carriers, is_same)
            }
            Err(Ambiguous) => (Carriers::NONE, false),
        };
        let checked = if is_same {
            check_status(&key, lifecycle).and_then(|()| self.check_access(&context, &key))
        } else {
            Err(Rejection::Ambiguous)
        };
        if let Err(rejection) = checked {
            let facts = KeyFacts::new(&key, lifecycle);
            return Some(self.deny(&context, rejection, Some(facts), carriers));
        }
        // The outer layer has announced the decision.
        self.strip_or_mark(request, carriers);
        self.pass_on(request, Some((&key, &lifecycle)));
        Some(Outcome::Admit(Admission::Nested))
    }

    /// Makes the request wait for the store, unless its address sent too many keys that do not
    /// exist.
    fn look_up(&self, context: &Context<'_>, presented: PresentedKey, secret: &[u8]) -> Outcome {
        let (priority, attempt) = if self.shared.cache.was_found(&presented.id()) {
            // A key that was found before is not a guess.
            (LoadPriority::FoundBefore, None)
        } else {
            match self.count_attempt(context) {
                Ok(counted) => counted,
                Err(rejection) => return self.deny(context, rejection, None, presented.carriers),
            }
        };
        let adoptable = self.shared.cache.adoptable(presented.format_index, secret);
        Outcome::Pending(Pending::Load(PendingLoad {
            presented,
            priority,
            adoptable,
            attempt,
        }))
    }

    /// Counts a failed attempt in advance. A load that finds the key, or fails, takes the attempt
    /// back.
    fn count_attempt(
        &self,
        context: &Context<'_>,
    ) -> Result<(LoadPriority, Option<Attempt>), Rejection> {
        let Some(throttle) = &self.shared.throttle else {
            return Ok((LoadPriority::New, None));
        };
        let Some(client) = context.charged_address() else {
            // Without an address, attempts are not limited: in a budget shared by all such clients,
            // one stranger could lock out the others.
            return Ok((LoadPriority::NewWithoutAddress, None));
        };
        match throttle.attempt(client, context.now()) {
            Ok(attempt) => Ok((LoadPriority::New, Some(attempt))),
            Err(retry_after) => Err(Rejection::TooManyFailedAttempts { retry_after }),
        }
    }

    /// Step 5: returns the record that was found, if it belongs to the presented key.
    pub(super) fn compare(
        &self,
        digest: &KeyDigest,
        lookup: Lookup,
    ) -> Result<Arc<CachedKey>, Rejection> {
        let peppers = &self.shared.peppers;
        let Lookup::Hit(key) = lookup else {
            peppers.verify_dummy(digest);
            return Err(Rejection::NotFound(NotFound::Unknown));
        };
        match peppers.verify(key.verifier(), digest) {
            Ok(true) => Ok(key),
            // The id, 128 bits of the digest, matched, so the store's data is wrong: not the
            // caller's fault.
            Ok(false) => {
                trace::wrong_verifier(&digest.id());
                Err(self.outage())
            }
            Err(error) => {
                trace::unverifiable(&error, &digest.id());
                Err(self.outage())
            }
        }
    }

    /// Checks whether a key may be used from this address: a part of step 7.
    fn check_networks(&self, context: &Context<'_>, key: &CachedKey) -> Result<(), Rejection> {
        let Some(networks) = key.networks() else {
            return Ok(());
        };
        let client = context.client();
        if client.is_none() {
            let throttles = &self.shared.log_throttles;
            trace::no_address_for_allow_list(&throttles.no_address_for_allow_list);
        }
        if !networks.allow(client) {
            return Err(Rejection::IpNotAllowed { client });
        }
        Ok(())
    }

    /// Returns the denials that are only reported, for a request that is admitted.
    #[cold]
    pub(super) fn reported(&self, context: &Context<'_>, key: &CachedKey) -> Vec<Rejection> {
        let reports = &self.config.reports;
        let held = key.record().scopes();
        let lacking = reports.scopes.iter().filter(|it| !it.are_held_by(held));
        let lacking = lacking.map(|required| Rejection::InsufficientScope {
            required: required.clone(),
        });
        let outside = reports.networks.then(|| self.check_networks(context, key));
        let outside = outside.and_then(Result::err);
        outside.into_iter().chain(lacking).collect()
    }

    /// Checks whether this kind of key is accepted here, and from this client: a part of step 7.
    fn check_kind(&self, context: &Context<'_>, key: &CachedKey) -> Result<(), Rejection> {
        let kind = key.kind();
        let kinds = self.config.kinds;
        if !kinds.accept(kind) {
            return Err(Rejection::WrongKind { kind });
        }
        let headers = context.head.headers;
        if kind == KeyKind::Secret && kinds.refuse_in_browsers && browser::sent(headers) {
            return Err(Rejection::SecretKeyInBrowser);
        }
        if let Some(origins) = key.origins()
            && !browser::may_use(origins, context.head)
        {
            return Err(Rejection::OriginNotAllowed);
        }
        Ok(())
    }

    /// Step 7: checks whether a key may be used for this request.
    pub(super) fn check_access(
        &self,
        context: &Context<'_>,
        key: &CachedKey,
    ) -> Result<(), Rejection> {
        if let Some(accepted) = &self.config.environments
            && !key.is_of(accepted)
        {
            let accepted = accepted.clone();
            return Err(Rejection::WrongEnvironment { accepted });
        }
        self.check_kind(context, key)?;
        if !self.config.reports.networks {
            self.check_networks(context, key)?;
        }
        for required in &self.config.required_scopes {
            if !required.are_held_by(key.record().scopes()) {
                let required = required.clone();
                return Err(Rejection::InsufficientScope { required });
            }
        }
        Ok(())
    }
}

/// Step 6: checks whether a key of this status may be used at all.
pub(super) fn check_status(key: &CachedKey, lifecycle: Lifecycle) -> Result<(), Rejection> {
    let not_before = || key.record().not_before();
    Rejection::of_lifecycle(&lifecycle, not_before).map_or(Ok(()), Err)
}
