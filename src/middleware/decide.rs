//! THE PATH: from a request to a decision, top to bottom.
//!
//! 0. **Nested**: an outer layer of the same keys has admitted the request. Status and access are
//!    checked again, and a key that is still in the request must be the same one. A preflight
//!    passes without a key of its own, where that is switched on.
//! 1. **Find** the one credential in the request.
//! 2. **Parse** it: what is not written as a key of ours is refused, and goes no further.
//! 3. **Hash** the key once: the digest names the record.
//! 4. **Look up** the record by its id: in the cache, or else in the store, which is waited for.
//! 5. **Compare** the secret, in constant time.
//! 6. **Status** from the record and the clock.
//! 7. **Access**: environment, kind, web origin, network, scopes.
//! 8. **Limits**: every charge that applies, all of them or none. A limiter elsewhere is waited
//!    for.
//! 9. **Admit**: the caller goes into the request, the credential out of it.
//!
//! Requests are admitted by [`Gate::admit`] and [`Gate::admit_anonymous`], and as
//! [`Admission::Nested`] by `decide_nested` for a key and by `decide_anonymous` without one. All of
//! their callers are in this file and in `resume.rs`.

use std::sync::Arc;

use http::Request;

use crate::cache::{Found, KnownKey, Sought};
use crate::http::browser;
use crate::http::caller::{Anonymous, Caller};
use crate::http::carriers::Carriers;
use crate::http::credential::Ambiguous;
use crate::http::rejection::{NotFound, Rejection};
use crate::http::request_head::RequestHead;
use crate::key::digest::KeyDigest;
use crate::key::kind::KeyKind;
use crate::key::lifecycle::Lifecycle;
use crate::limit::rulebook::Charges;
use crate::limit::throttle::Attempt;
use crate::middleware::charge::Payer;
use crate::middleware::conclude::Reason;
use crate::middleware::context::Context;
use crate::middleware::gate::Gate;
use crate::middleware::outcome::{
    Admission, Outcome, PendingCharge, PendingLoad, PresentedKey, VerifiedKey, Wait,
};
use crate::observe::{KeyFacts, KeyLookup};
use crate::util::trace;

impl Gate {
    /// Decides about a request, as far as that goes without a wait. With the store's answer, it goes
    /// on at step 5.
    pub(super) fn decide<B>(
        &self,
        request: &mut Request<B>,
        loaded: Option<(PresentedKey, Found)>,
    ) -> Outcome {
        let keyring = &*self.keyring;
        if loaded.is_none() {
            // 0. A caller of the same keys was verified, charged and announced by an outer layer. A
            //    preflight has no key of its own, since browsers send none. One in its URL belongs
            //    to the request to come.
            if let Some(outcome) = self.decide_nested(request) {
                return outcome;
            }
            if self.is_allowed_preflight(RequestHead::from(&*request)) {
                return self.decide_preflight(request);
            }
        }
        let context = Context::new(self, RequestHead::from(&*request));
        let (key, found) = if let Some(loaded) = loaded {
            loaded
        } else {
            // 1. Find the one credential. Two different keys are never a silent pick.
            let credential = match self.config.sources.find(context.head, &keyring.formats) {
                Ok(Some(credential)) => credential,
                Ok(None) if self.config.optional => return self.decide_anonymous(request),
                Ok(None) => return self.deny(&context, Rejection::Missing, None, Carriers::NONE),
                Err(Ambiguous) => {
                    return self.deny(&context, Rejection::Ambiguous, None, Carriers::NONE);
                }
            };
            // 2. Parse it. A wrong checksum is refused here: it costs neither a hash nor a look into the store.
            let Some(format) = credential.format else {
                let malformed = Rejection::NotFound(NotFound::Malformed);
                return self.deny(&context, malformed, None, credential.carriers);
            };
            // 3. Hash it.
            let key = PresentedKey {
                digest: KeyDigest::of_bytes(credential.text.as_bytes()),
                format: keyring.formats.place_of(format),
                carriers: credential.carriers,
                lookup: KeyLookup::Cached,
            };
            // 4. Look it up. The clocks are read as late as this, so that junk costs no reading.
            let now = context.now().monotonic();
            let Some(found) = keyring.cache.find(&key.id(), now) else {
                return self.look_up(&context, key);
            };
            context.looked_up(KeyLookup::Cached);
            // A cached miss counts as a failed attempt, too.
            if let Found::Nothing = found
                && let Err(rejection) = self.count_attempt(&context)
            {
                return self.deny(&context, rejection, None, key.carriers);
            }
            (key, found)
        };
        let carriers = key.carriers;
        context.looked_up(key.lookup);
        // 5. Compare the secret. A record whose verifier does not match is a fault of the store:
        //    503, not 401.
        let known = match self.compare(&key.digest, found) {
            Ok(known) => known,
            Err(rejection) => return self.deny(&context, rejection, None, carriers),
        };
        // 6. Status, by the current clock and not by the time of loading.
        let lifecycle = known.lifecycle(context.now().wall(), keyring.warning);
        let facts = KeyFacts::new(&known, lifecycle);
        if let Err(rejection) = check_status(&known, lifecycle) {
            return self.deny(&context, rejection, Some(facts), carriers);
        }
        // 7. Access. A key that is denied here uses nothing of its limits.
        if let Err(rejection) = self.check_access(&context, &known) {
            return self.deny(&context, rejection, Some(facts), carriers);
        }
        // 8. Limits: all charges or none.
        let bound = context.bound(Some(known.record()));
        let holder = known.holder(key.id());
        let mut charges = Charges::new(); // filled in place, since it is large
        self.rules_of(&bound)
            .add_charges(Some(holder), &bound, context.now().wall(), &mut charges);
        let mut verdict = None;
        let within = match self.try_charge(&charges, Payer::Key, context.now(), &mut verdict) {
            Some(Ok(within)) => within,
            Some(Err(denial)) => {
                let reason = Reason::by_limits(*denial, &charges, verdict.as_ref());
                return self.deny(&context, reason, Some(facts), carriers);
            }
            None => {
                drop(charges); // they borrow the key
                let key = Some(VerifiedKey {
                    presented: key,
                    known,
                    lifecycle,
                });
                return Outcome::Wait(Wait::Limits(Box::new(PendingCharge { key, bound })));
            }
        };
        // 9. Admit.
        self.announce_admission(&context, Some(facts), carriers, &charges, verdict.as_ref());
        drop(charges); // they borrow the key
        self.admit(request, known, lifecycle, carriers, bound, within)
    }

    /// Decides about a request that needs no key, and has none: steps 8 and 9.
    fn decide_anonymous<B>(&self, request: &mut Request<B>) -> Outcome {
        // An outer layer of the same keys has charged and announced it.
        let anonymous = request.extensions().get::<Anonymous>();
        if anonymous.is_some_and(|it| it.belongs_to(&self.keyring.metering)) {
            // A caller of other keys, from a layer in between, does not speak for this request.
            request.extensions_mut().remove::<Caller>();
            self.pass_on(request, None);
            return Outcome::Admit(Admission::Nested);
        }
        let context = Context::new(self, RequestHead::from(&*request));
        let bound = context.bound(None);
        let charges = self
            .rules_of(&bound)
            .charges(None, &bound, context.now().wall());
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
                let pending = PendingCharge { key: None, bound };
                Outcome::Wait(Wait::Limits(Box::new(pending)))
            }
        }
    }

    /// Decides about a preflight: as nobody's request.
    fn decide_preflight<B>(&self, request: &mut Request<B>) -> Outcome {
        // A key in the URL is that of the request to come: it is taken out, and neither judged nor
        // charged.
        let carriers = self.config.sources.parameters_of(request.uri());
        self.strip_or_mark(request, carriers);
        self.decide_anonymous(request)
    }

    /// Decides about a request that an outer layer of the same keys has admitted, if there is one.
    /// The key is verified, and need not be in the request any more. What this layer asks for still
    /// holds, and if it finds a key, it must be the same.
    fn decide_nested<B>(&self, request: &mut Request<B>) -> Option<Outcome> {
        let head = RequestHead::from(&*request);
        let caller = head.extensions.get::<Caller>()?;
        if !caller.belongs_to(&self.keyring.metering) {
            return None;
        }
        let known = Arc::clone(caller.key());
        let context = Context::new(self, head);
        let lifecycle = known.lifecycle(context.now().wall(), self.keyring.warning);
        let (carriers, is_same) = match self.config.sources.find(head, &self.keyring.formats) {
            Ok(None) => (Carriers::NONE, true),
            Ok(Some(key)) => {
                let is_same = key.format.is_some()
                    && KeyDigest::of_bytes(key.text.as_bytes()).id() == known.record().id();
                (key.carriers, is_same)
            }
            Err(Ambiguous) => (Carriers::NONE, false),
        };
        let checked = if is_same {
            check_status(&known, lifecycle).and_then(|()| self.check_access(&context, &known))
        } else {
            Err(Rejection::Ambiguous)
        };
        if let Err(rejection) = checked {
            let facts = KeyFacts::new(&known, lifecycle);
            return Some(self.deny(&context, rejection, Some(facts), carriers));
        }
        // The outer layer has announced it.
        self.strip_or_mark(request, carriers);
        self.pass_on(request, Some((&known, &lifecycle)));
        Some(Outcome::Admit(Admission::Nested))
    }

    /// Makes the request wait for the store, unless its address has tried too many keys that do not
    /// exist.
    fn look_up(&self, context: &Context<'_>, key: PresentedKey) -> Outcome {
        let (sought, attempt) = if self.keyring.cache.knew(&key.id()) {
            // A key that was found before is not a guess.
            (Sought::FoundBefore, None)
        } else {
            match self.count_attempt(context) {
                Ok(counted) => counted,
                Err(rejection) => return self.deny(context, rejection, None, key.carriers),
            }
        };
        Outcome::Wait(Wait::Record(PendingLoad {
            key,
            sought,
            attempt,
        }))
    }

    /// Counts an attempt as failed, in advance: a load that finds the key, or fails itself, takes
    /// that back.
    fn count_attempt(&self, context: &Context<'_>) -> Result<(Sought, Option<Attempt>), Rejection> {
        let Some(throttle) = &self.keyring.throttle else {
            return Ok((Sought::New, None));
        };
        let Some(client) = context.charged_address() else {
            // A budget that all clients without an address share would let one stranger lock out
            // the others.
            return Ok((Sought::NewFromNowhere, None));
        };
        match throttle.attempt(client, context.now()) {
            Ok(attempt) => Ok((Sought::New, Some(attempt))),
            Err(retry_after) => Err(Rejection::TooManyFailedAttempts { retry_after }),
        }
    }

    /// Step 5: returns the record that was found, if it is that of the key that was presented.
    pub(super) fn compare(
        &self,
        digest: &KeyDigest,
        found: Found,
    ) -> Result<Arc<KnownKey>, Rejection> {
        let peppers = &self.keyring.peppers;
        let Found::Key(known) = found else {
            peppers.verify_dummy(digest);
            return Err(Rejection::NotFound(NotFound::Unknown));
        };
        match peppers.verify(known.verifier(), digest) {
            Ok(true) => Ok(known),
            // The id, 128 bits of the digest, matched: the data is wrong, and not the caller.
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

    /// A part of step 7: checks whether a key may be used from this address.
    #[inline]
    fn check_networks(&self, context: &Context<'_>, known: &KnownKey) -> Result<(), Rejection> {
        let Some(networks) = known.networks() else {
            return Ok(());
        };
        let client = context.client();
        if client.is_none() {
            let notices = &self.keyring.notices;
            trace::no_address_for_allow_list(&notices.no_address_for_allow_list);
        }
        if !networks.allow(client) {
            return Err(Rejection::IpNotAllowed { client });
        }
        Ok(())
    }

    /// Returns the denials of a request that is admitted, by what is only reported.
    #[cold]
    pub(super) fn reported(&self, context: &Context<'_>, known: &KnownKey) -> Vec<Rejection> {
        let reports = &self.config.reports;
        let held = known.record().scopes();
        let lacking = reports.scopes.iter().filter(|it| !it.are_held_by(held));
        let lacking = lacking.map(|required| Rejection::InsufficientScope {
            required: required.clone(),
        });
        let outside = reports
            .networks
            .then(|| self.check_networks(context, known));
        let outside = outside.and_then(Result::err);
        outside.into_iter().chain(lacking).collect()
    }

    /// A part of step 7: checks whether a key of its kind may be sent here, and by this client.
    #[inline]
    fn check_kind(&self, context: &Context<'_>, known: &KnownKey) -> Result<(), Rejection> {
        let kind = known.kind();
        let kinds = self.config.kinds;
        if !kinds.accept(kind) {
            return Err(Rejection::WrongKind { kind });
        }
        let headers = context.head.headers;
        if kind == KeyKind::Secret && kinds.refuse_in_browsers && browser::sent(headers) {
            return Err(Rejection::SecretKeyInBrowser);
        }
        if let Some(origins) = known.origins()
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
        known: &KnownKey,
    ) -> Result<(), Rejection> {
        if let Some(accepted) = &self.config.environments
            && !known.is_of(accepted)
        {
            let accepted = accepted.clone();
            return Err(Rejection::WrongEnvironment { accepted });
        }
        self.check_kind(context, known)?;
        if !self.config.reports.networks {
            self.check_networks(context, known)?;
        }
        for required in &self.config.required_scopes {
            if !required.are_held_by(known.record().scopes()) {
                let required = required.clone();
                return Err(Rejection::InsufficientScope { required });
            }
        }
        Ok(())
    }
}

/// Step 6: checks whether a key of this status may be used at all.
pub(super) fn check_status(known: &KnownKey, lifecycle: Lifecycle) -> Result<(), Rejection> {
    let not_before = || known.record().not_before();
    Rejection::of_lifecycle(&lifecycle, not_before).map_or(Ok(()), Err)
}
