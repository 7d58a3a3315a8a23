//! THE PATH: from a request to a decision, top to bottom.
//!
//! 0. **Defer** to an outer layer of the same keys, and let preflights pass where that is switched on.
//! 1. **Find** the one credential in the request.
//! 2. **Parse** it: what is not written as a key of ours goes no further.
//! 3. **Hash** it once: the digest names the record.
//! 4. **Look up** the record by its id: in the cache, or else in the store, which may wait.
//! 5. **Compare** the secret, in constant time.
//! 6. **Status** from the record and the clock.
//! 7. **Access**: environment, network, scopes.
//! 8. **Limits**: every charge that applies, all of them or none. A limiter elsewhere may wait, too.
//! 9. **Admit**: the caller goes into the request, the credential out of it.
//!
//! Nothing else lets a request through.

use std::sync::Arc;

use http::Request;

use super::charge::{Exceeded, WithinLimits};
use super::config::Config;
use super::context::Context;
use crate::cache::{Found, KnownKey, Sought};
use crate::http::caller::{Anonymous, Caller};
use crate::http::credential::Ambiguous;
use crate::http::credential::source::Carriers;
use crate::http::rejection::{NotFound, Rejection};
use crate::http::render::rate_limit::Notice;
use crate::http::render::rejection::Rendered;
use crate::http::request_head::RequestHead;
use crate::key::digest::{KeyDigest, KeyId};
use crate::key::lifecycle::Lifecycle;
use crate::keyring::Keyring;
use crate::limit::charge::Charge;
use crate::limit::rulebook::{Bound, Charges};
use crate::limit::throttle::Attempt;
use crate::limit::verdict::Verdict;
use crate::observe::log::Log;
use crate::observe::{Decision, KeyFacts};
use crate::util::trace;

/// What decides about the requests of one layer.
#[derive(Debug, Clone)]
pub(crate) struct Gate {
    pub(crate) keyring: Arc<Keyring>,
    pub(crate) config: Config,
    /// Answers that are the same each time.
    pub(crate) rendered: Rendered,
}

/// A decision, or what it has to wait for.
pub(crate) enum Outcome {
    Admit(Admission),
    Deny(Denial),
    /// The record is in the store, if anywhere.
    Load(PendingLoad),
    /// The budgets are elsewhere.
    Charge(Box<PendingCharge>),
}

/// A well-formed key, as a digest.
pub(crate) struct PresentedKey {
    pub(super) digest: KeyDigest,
    /// The index of the format that it is written in.
    pub(super) format: usize,
    pub(super) carriers: Carriers,
}

/// A key whose secret is right, and which may be used here and now.
pub(super) struct VerifiedKey {
    pub(super) presented: PresentedKey,
    pub(super) known: Arc<KnownKey>,
    pub(super) lifecycle: Lifecycle,
}

/// A request that waits for its record.
pub(crate) struct PendingLoad {
    pub(super) key: PresentedKey,
    pub(super) sought: Sought,
    /// Counted as failed until the load says otherwise.
    pub(super) attempt: Option<Attempt>,
}

/// A request that waits for a limiter: with a good key, or without one.
pub(crate) struct PendingCharge {
    pub(super) key: Option<VerifiedKey>,
    pub(super) bound: Bound,
}

/// A decision in favour of a request.
pub(crate) enum Admission {
    /// It carries a good key.
    Key {
        lifecycle: Lifecycle,
        carriers: Carriers,
        limits: Option<Notice>,
        /// The key, for observers that are told of the answer.
        observed: Option<Arc<KnownKey>>,
    },
    /// It carries no key and needs none.
    Anonymous { limits: Option<Notice> },
    /// An outer layer of the same `ApiKeys` speaks for it, and writes the headers.
    SpokenFor,
}

/// The answer to a request that goes no further.
pub(crate) struct Denial {
    pub(crate) rejection: Rejection,
    /// The status of the key, if its secret was right.
    pub(crate) lifecycle: Option<Lifecycle>,
    pub(crate) carriers: Carriers,
    pub(crate) limits: Option<Box<Notice>>,
}

impl PresentedKey {
    #[inline]
    pub(super) fn id(&self) -> KeyId {
        self.digest.id()
    }
}

impl Gate {
    /// Steps 0 to 9, as far as they go without a wait. With a record that was waited for, from step 5 on.
    pub(crate) fn decide<B>(
        &self,
        request: &mut Request<B>,
        loaded: Option<(PresentedKey, Found)>,
    ) -> Outcome {
        let keyring = &*self.keyring;
        let (key, found, now) = if let Some((key, found)) = loaded {
            (key, found, keyring.readings())
        } else {
            // 0. A caller of the same keys was verified, charged and announced by an outer layer. A
            //    preflight has no key, since browsers send none: it passes as nobody.
            if let Some(outcome) = self.defer(request) {
                return outcome;
            }
            let head = RequestHead::from(&*request);
            // 1. Find the one credential. Two different keys are never a silent pick.
            let credential = match self.config.sources.find(head, &keyring.formats) {
                Ok(Some(credential)) => credential,
                Ok(None) if self.config.optional => return self.decide_stranger(request),
                Ok(None) => return self.deny_stranger(head, Rejection::Missing, Carriers::NONE),
                Err(Ambiguous) => {
                    return self.deny_stranger(head, Rejection::Ambiguous, Carriers::NONE);
                }
            };
            // 2. Parse it. A wrong checksum costs neither a hash nor a look into the store.
            let Some(format) = credential.format else {
                let malformed = Rejection::NotFound(NotFound::Malformed);
                return self.deny_stranger(head, malformed, credential.carriers);
            };
            // 3. Hash it. The clock is read as late as this, so that junk costs no reading.
            let now = keyring.readings();
            let key = PresentedKey {
                digest: KeyDigest::of_bytes(credential.text.as_bytes()),
                format: keyring.formats.place_of(format),
                carriers: credential.carriers,
            };
            // 4. Look it up.
            let Some(found) = keyring.cache.find(&key.id(), now.monotonic()) else {
                return self.look_up(&Context::new(self, head, now), key);
            };
            // That there is no such key is remembered, and is an attempt each time.
            if let Found::Nothing = found
                && let Err(rejection) = self.attempt(&Context::new(self, head, now))
            {
                return self.deny_stranger(head, rejection, key.carriers);
            }
            (key, found, now)
        };
        let context = Context::new(self, RequestHead::from(&*request), now);
        // 5. Compare the secret. A store that answered with another row proves nothing.
        let known = match self.compare(&key.digest, found) {
            Ok(known) => known,
            Err(rejection) => return self.deny(&context, rejection, None, key.carriers),
        };
        // 6. Status, as of now, whenever the record was loaded.
        let lifecycle = known.lifecycle(now.wall(), keyring.warning);
        let facts = KeyFacts::new(&known, lifecycle);
        // 7. Access. A key that is refused here uses nothing of its limits.
        if let Err(rejection) = self.authorize(&context, &known, lifecycle) {
            return self.deny(&context, rejection, Some(facts), key.carriers);
        }
        // 8. Limits: all charges or none.
        let bound = context.bound();
        let mut charges = Charges::new();
        let holder = known.holder(key.id());
        let rules = &keyring.metering.limiting.rules;
        rules.charge(Some(holder), &bound, now.wall(), &mut charges);
        let within = match self.charge_now(&charges, false, now) {
            Some(Ok(within)) => within,
            Some(Err(exceeded)) => {
                return self.deny_exceeded(
                    &context,
                    *exceeded,
                    Some(facts),
                    key.carriers,
                    &charges,
                );
            }
            None => {
                drop(charges);
                let key = VerifiedKey {
                    presented: key,
                    known,
                    lifecycle,
                };
                let key = Some(key);
                return Outcome::Charge(Box::new(PendingCharge { key, bound }));
            }
        };
        // 9. Admit.
        self.announce(
            &context,
            Ok(()),
            Some(facts),
            key.carriers,
            &charges,
            within.verdict(),
        );
        drop(charges);
        let carriers = key.carriers;
        self.admit(request, known, lifecycle, carriers, bound, within)
    }

    /// A request that needs no key, and has none: steps 8 and 9.
    pub(super) fn decide_stranger<B>(&self, request: &mut Request<B>) -> Outcome {
        let now = self.keyring.readings();
        let context = Context::new(self, RequestHead::from(&*request), now);
        let bound = context.bound();
        let mut charges = Charges::new();
        let rules = &self.keyring.metering.limiting.rules;
        rules.charge(None, &bound, now.wall(), &mut charges);
        match self.charge_now(&charges, true, now) {
            Some(Ok(within)) => {
                self.announce(
                    &context,
                    Ok(()),
                    None,
                    Carriers::NONE,
                    &charges,
                    within.verdict(),
                );
                admit_stranger(request, within)
            }
            Some(Err(exceeded)) => {
                self.deny_exceeded(&context, *exceeded, None, Carriers::NONE, &charges)
            }
            None => Outcome::Charge(Box::new(PendingCharge { key: None, bound })),
        }
    }

    /// Step 0.
    fn defer<B>(&self, request: &mut Request<B>) -> Option<Outcome> {
        let head = RequestHead::from(&*request);
        if let Some(caller) = head.extensions.get::<Caller>()
            && caller.belongs_to(&self.keyring.metering)
        {
            let known = Arc::clone(caller.key());
            return Some(self.decide_again(request, &known));
        }
        if !self.config.allow_preflight || !self.is_preflight(head) {
            return None;
        }
        // A key in its URL is that of the request to come: it is taken out, and neither judged nor charged.
        let carriers = self.config.sources.parameters_of(request.uri());
        self.hide(request, carriers);
        Some(self.decide_stranger(request))
    }

    /// A request that an outer layer of the same keys has let through. The key is verified, and need not be
    /// in the request any more. What this layer asks for still holds, and if it finds a key, it must be
    /// the same.
    fn decide_again<B>(&self, request: &mut Request<B>, known: &KnownKey) -> Outcome {
        let now = self.keyring.readings();
        let context = Context::new(self, RequestHead::from(&*request), now);
        let lifecycle = known.lifecycle(now.wall(), self.keyring.warning);
        let found = self
            .config
            .sources
            .find(context.head, &self.keyring.formats);
        let carriers = match found {
            Ok(None) => Ok(Carriers::NONE),
            Ok(Some(key))
                if key.format.is_some()
                    && KeyDigest::of_bytes(key.text.as_bytes()).id() == known.record().id() =>
            {
                Ok(key.carriers)
            }
            Ok(Some(_)) | Err(Ambiguous) => Err(Rejection::Ambiguous),
        };
        let judged = carriers.and_then(|carriers| {
            self.authorize(&context, known, lifecycle)?;
            Ok(carriers)
        });
        match judged {
            Err(rejection) => {
                let facts = KeyFacts::new(known, lifecycle);
                self.deny(&context, rejection, Some(facts), Carriers::NONE)
            }
            // The outer layer has announced it.
            Ok(carriers) => {
                self.hide(request, carriers);
                Outcome::Admit(Admission::SpokenFor)
            }
        }
    }

    /// Step 4 goes to the store, unless this address has tried too many keys that do not exist.
    fn look_up(&self, context: &Context<'_>, key: PresentedKey) -> Outcome {
        let (sought, attempt) = if self.keyring.cache.knew(&key.id()) {
            // Whoever holds a key that was found before tries nothing out.
            (Sought::FoundBefore, None)
        } else {
            match self.attempt(context) {
                Ok(counted) => counted,
                Err(rejection) => return self.deny(context, rejection, None, key.carriers),
            }
        };
        Outcome::Load(PendingLoad {
            key,
            sought,
            attempt,
        })
    }

    /// Counts an attempt to use a key that does not exist, which it is until it is found.
    fn attempt(&self, context: &Context<'_>) -> Result<(Sought, Option<Attempt>), Rejection> {
        let Some(throttle) = &self.keyring.throttle else {
            return Ok((Sought::New, None));
        };
        let Some(client) = context.charged_address() else {
            // One budget for all of them would let a stranger lock out the others.
            return Ok((Sought::NewFromNowhere, None));
        };
        match throttle.attempt(client, context.now) {
            Ok(attempt) => Ok((Sought::New, Some(attempt))),
            Err(retry_after) => Err(Rejection::TooManyFailedAttempts { retry_after }),
        }
    }

    /// Step 5: the record that was found, if it is that of the key that was presented.
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
            // 128 bits of the key agree, so it is not the caller who is wrong.
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

    /// Steps 6 and 7: whether a key of this status may be used for this request.
    pub(super) fn authorize(
        &self,
        context: &Context<'_>,
        known: &KnownKey,
        lifecycle: Lifecycle,
    ) -> Result<(), Rejection> {
        let record = known.record();
        if let Some(rejection) = Rejection::of_lifecycle(&lifecycle, || record.not_before()) {
            return Err(rejection);
        }
        if let Some(accepted) = &self.config.environments
            && !known.is_of(accepted)
        {
            let accepted = accepted.clone();
            return Err(Rejection::WrongEnvironment { accepted });
        }
        if let Some(networks) = known.networks() {
            let client = context.client();
            if client.is_none() {
                let notices = &self.keyring.notices;
                trace::no_address_for_allow_list(&notices.no_address_for_allow_list);
            }
            if !networks.allow(client) {
                return Err(Rejection::IpNotAllowed { client });
            }
        }
        for required in &self.config.required_scopes {
            if !required.are_held_by(record.scopes()) {
                let required = required.clone();
                return Err(Rejection::InsufficientScope { required });
            }
        }
        Ok(())
    }

    pub(super) fn outage(&self) -> Rejection {
        Rejection::ServiceUnavailable {
            retry_after: self.config.retry_after,
        }
    }

    /// Step 9, for a decision that was announced.
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
        self.hide(request, carriers);
        let observed = self
            .keyring
            .observers
            .are_told()
            .then(|| Arc::clone(&known));
        let caller = Caller::new(known, lifecycle, bound, within.receipt);
        request.extensions_mut().insert(caller);
        Outcome::Admit(Admission::Key {
            lifecycle,
            carriers,
            limits: within.limits,
            observed,
        })
    }

    /// Takes the credential out of the request, or marks it where the application wants to see it.
    fn hide<B>(&self, request: &mut Request<B>, carriers: Carriers) {
        let sources = &self.config.sources;
        if self.config.hide_credential {
            sources.hide(request, carriers);
        } else {
            sources.mark_sensitive(request.headers_mut(), carriers);
        }
    }

    /// Denies a request of which no more is known than its head.
    fn deny_stranger(
        &self,
        head: RequestHead<'_>,
        rejection: Rejection,
        carriers: Carriers,
    ) -> Outcome {
        if self.keyring.observers.are_told() {
            let context = Context::new(self, head, self.keyring.readings());
            return self.deny(&context, rejection, None, carriers);
        }
        Log::refused_stranger(&rejection);
        Outcome::Deny(Denial {
            rejection,
            lifecycle: None,
            carriers,
            limits: None,
        })
    }

    pub(super) fn deny(
        &self,
        context: &Context<'_>,
        rejection: Rejection,
        key: Option<KeyFacts<'_>>,
        carriers: Carriers,
    ) -> Outcome {
        let lifecycle = key.map(|key| key.lifecycle());
        self.announce(context, Err(&rejection), key, carriers, &[], None);
        Outcome::Deny(Denial {
            rejection,
            lifecycle,
            carriers,
            limits: None,
        })
    }

    pub(super) fn deny_exceeded(
        &self,
        context: &Context<'_>,
        exceeded: Exceeded,
        key: Option<KeyFacts<'_>>,
        carriers: Carriers,
        charges: &Charges<'_>,
    ) -> Outcome {
        let Exceeded {
            rejection,
            limits,
            verdict,
        } = exceeded;
        let lifecycle = key.map(|key| key.lifecycle());
        self.announce(
            context,
            Err(&rejection),
            key,
            carriers,
            charges,
            verdict.as_ref(),
        );
        Outcome::Deny(Denial {
            rejection,
            lifecycle,
            carriers,
            limits,
        })
    }

    /// The one place where decisions are announced.
    #[inline]
    pub(super) fn announce(
        &self,
        context: &Context<'_>,
        outcome: Result<(), &Rejection>,
        key: Option<KeyFacts<'_>>,
        carriers: Carriers,
        charges: &[Charge<'_>],
        verdict: Option<&Verdict>,
    ) {
        let decision = Decision {
            outcome,
            key,
            request: context,
            carriers,
            charges,
            verdict,
            now: context.now,
        };
        self.keyring.observers.decided(&decision);
    }
}

/// Step 9 for a request without a key.
pub(super) fn admit_stranger<B>(request: &mut Request<B>, within: WithinLimits) -> Outcome {
    // A caller of other keys, from a layer further out, does not speak for this request.
    request.extensions_mut().remove::<Caller>();
    request.extensions_mut().insert(Anonymous);
    Outcome::Admit(Admission::Anonymous {
        limits: within.limits,
    })
}
