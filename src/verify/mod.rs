//! THE PATH: from a request to a decision, top to bottom.
//!
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
//! [`Gate::begin`] takes these steps without ever waiting, as far as they go; [`wait`] is how a request
//! waits, and goes on from there. Nothing else lets a request through.

mod charge;
mod preflight;
pub(crate) mod wait;

use std::net::IpAddr;
use std::sync::Arc;

use http::Request;

use crate::cache::{Found, KnownKey, LoadFailure, Sought};
use crate::caller::{Anonymous, Caller};
use crate::clock::Now;
use crate::key::digest::{KeyDigest, KeyId};
use crate::key::formats::{Place, Recognized};
use crate::key::lifecycle::{KeyStatus, Lifecycle};
use crate::keyring::Keyring;
use crate::limit::throttle::Attempt;
use crate::rejection::{NotFound, Rejection};
use crate::request::client_address::ClientAddress;
use crate::request::credential::Ambiguous;
use crate::request::head::RequestHead;
use crate::response::rate_limit::Notice;
use crate::response::rejection::Rendered;
use crate::settings::Settings;
use crate::source::Carriers;
use crate::{timestamp, trace};
use charge::Metered;
use wait::Wait;

/// What decides about the requests of one layer.
#[derive(Debug, Clone)]
pub(crate) struct Gate {
    pub(crate) keyring: Arc<Keyring>,
    pub(crate) settings: Settings,
    /// Answers that are the same each time.
    pub(crate) rendered: Rendered,
}

/// How far a request got without a wait.
pub(crate) enum Progress {
    Decided(Result<Admission, Denial>),
    Waiting(Wait),
}

/// A well-formed key, as a digest.
pub(crate) struct Presented {
    digest: KeyDigest,
    /// The place of the format that it is written in.
    format: usize,
    carriers: Carriers,
}

/// A key that may be used here and now, within its limits.
pub(crate) struct Proved {
    known: Arc<KnownKey>,
    lifecycle: Lifecycle,
}

/// A request whose key may be used, before its limits are charged.
pub(crate) struct Candidate {
    key: Presented,
    proved: Proved,
    metered: Metered,
}

/// A decision in favour of a request.
#[derive(Debug)]
pub(crate) enum Admission {
    /// It carries a good key.
    Key {
        lifecycle: Lifecycle,
        carriers: Carriers,
        limits: Option<Notice>,
    },
    /// It carries no key and needs none.
    Anonymous { limits: Option<Notice> },
    /// An outer layer of the same `ApiKeys` speaks for it, and writes the headers.
    SpokenFor,
}

/// A decision against a request.
#[derive(Debug)]
pub(crate) struct Denial {
    pub(crate) rejection: Rejection,
    /// The status of the key, if its secret was right.
    pub(crate) lifecycle: Option<Lifecycle>,
    pub(crate) carriers: Carriers,
    pub(crate) limits: Option<Box<Notice>>,
}

impl Progress {
    fn denied(denial: Denial) -> Self {
        Self::Decided(Err(denial))
    }
}

impl Presented {
    #[inline]
    fn id(&self) -> KeyId {
        self.digest.id()
    }
}

impl Gate {
    /// Steps 1 to 9, as far as they go without a wait.
    pub(crate) fn begin<B>(&self, request: &mut Request<B>) -> Progress {
        if let Some(decision) = self.spoken_for(request) {
            return Progress::Decided(decision);
        }
        if self.settings.allow_preflight && self.is_preflight(RequestHead::from(&*request)) {
            return self.begin_preflight(request);
        }
        let head = RequestHead::from(&*request);
        let found = self.settings.sources.find(head, &self.keyring.formats);
        let credential = match &found {
            Ok(Some(credential)) => credential,
            Ok(None) if self.settings.optional => return self.begin_as_nobody(request),
            Ok(None) => return Progress::denied(stranger(Rejection::Missing, Carriers::NONE)),
            Err(Ambiguous) => {
                return Progress::denied(stranger(Rejection::Ambiguous, Carriers::NONE));
            }
        };
        let carriers = credential.carriers;
        let Some(format) = credential.format else {
            let rejection = Rejection::NotFound(NotFound::Malformed);
            return Progress::denied(stranger(rejection, carriers));
        };
        let now = self.keyring.readings();
        let key = Presented {
            digest: KeyDigest::of_bytes(credential.text.as_bytes()),
            format: self.keyring.formats.place_of(format),
            carriers,
        };
        let Some(found) = self.keyring.cache.find(&key.id(), now.monotonic()) else {
            return self.begin_to_load(head, key);
        };
        if let Found::Nothing = found
            && let Err(rejection) = self.attempt(head)
        {
            return Progress::denied(stranger(rejection, carriers));
        }
        self.go_on(request, key, found, now)
    }

    /// Step 4 goes to the store, unless this address has tried too many keys that do not exist.
    fn begin_to_load(&self, head: RequestHead<'_>, key: Presented) -> Progress {
        // Whoever holds a key that was found before tries nothing out.
        if self.keyring.cache.knew(&key.id()) {
            return Progress::Waiting(Wait::Record {
                key,
                sought: Sought::FoundBefore,
                attempt: None,
            });
        }
        match self.attempt(head) {
            Ok((sought, attempt)) => Progress::Waiting(Wait::Record {
                key,
                sought,
                attempt,
            }),
            Err(rejection) => Progress::denied(stranger(rejection, key.carriers)),
        }
    }

    /// Steps 5 to 9, as far as they go without a wait.
    #[inline]
    fn go_on<B>(
        &self,
        request: &mut Request<B>,
        key: Presented,
        found: Found,
        now: Now,
    ) -> Progress {
        let head = RequestHead::from(&*request);
        let carriers = key.carriers;
        let proved = match self.prove(head, &key, found, now) {
            Ok(proved) => proved,
            Err(denial) => return Progress::denied(denial),
        };
        let mut metered = self.bind(head, false);
        let holder = proved.known.holder(key.id());
        match self.charge_now(Some(holder), &mut metered, now) {
            Some(Ok(())) => Progress::Decided(Ok(self.admit(request, &key, proved, metered))),
            Some(Err(refusal)) => Progress::denied(refusal.of(&proved, carriers)),
            None => Progress::Waiting(Wait::Limits(Box::new(Candidate {
                key,
                proved,
                metered,
            }))),
        }
    }

    /// Steps 2 to 6, for a key that did not come in a request.
    pub(crate) async fn verify(&self, key: &str) -> Result<Caller, Rejection> {
        let recognized = self.keyring.formats.recognize(key.as_bytes(), Place::Own);
        let Recognized::WellFormed(format) = recognized else {
            return Err(Rejection::NotFound(NotFound::Malformed));
        };
        let digest = KeyDigest::of(key);
        let id = digest.id();
        let asked_at = self.keyring.clock.monotonic();
        let found = if let Some(found) = self.keyring.cache.find(&id, asked_at) {
            found
        } else {
            let sought = if self.keyring.cache.knew(&id) {
                Sought::FoundBefore
            } else {
                Sought::New
            };
            let loaded = self.keyring.cache.load(id, format.environment(), sought);
            let loaded = loaded.await;
            loaded.map_err(|failure| self.load_failed(&failure, &id))?
        };
        let known = self.compare(&digest, found)?;
        let now = self.keyring.now();
        let lifecycle = known.lifecycle(now, self.keyring.warning);
        match Rejection::of_lifecycle(&lifecycle, || known.record().not_before()) {
            Some(rejection) => Err(rejection),
            None => Ok(Caller::new(known, lifecycle, None, None)),
        }
    }

    /// Counts an attempt to use a key that does not exist, which it is until it is found.
    fn attempt(&self, head: RequestHead<'_>) -> Result<(Sought, Option<Attempt>), Rejection> {
        let Some(throttle) = &self.keyring.throttle else {
            return Ok((Sought::New, None));
        };
        let Some(client) = self.charged_address(head) else {
            // One budget for all of them would let a stranger lock out the others.
            return Ok((Sought::NewFromNowhere, None));
        };
        match throttle.attempt(client, self.keyring.readings()) {
            Ok(attempt) => Ok((Sought::New, Some(attempt))),
            Err(retry_after) => Err(Rejection::TooManyFailedAttempts { retry_after }),
        }
    }

    /// Steps 5 to 7.
    #[inline]
    fn prove(
        &self,
        head: RequestHead<'_>,
        key: &Presented,
        found: Found,
        now: Now,
    ) -> Result<Proved, Denial> {
        let compared = self.compare(&key.digest, found);
        let known = compared.map_err(|rejection| stranger(rejection, key.carriers))?;
        let lifecycle = known.lifecycle(now.wall(), self.keyring.warning);
        if let Err(rejection) = self.judge(head, &known, lifecycle) {
            return Err(refused(rejection, &known, lifecycle, key.carriers));
        }
        Ok(Proved { known, lifecycle })
    }

    /// Step 5: the record that was found, if it is that of the key that was presented.
    fn compare(&self, digest: &KeyDigest, found: Found) -> Result<Arc<KnownKey>, Rejection> {
        let peppers = &self.keyring.peppers;
        let Found::Key(known) = found else {
            peppers.verify_dummy(digest);
            return Err(Rejection::NotFound(NotFound::Unknown));
        };
        let proved = peppers.verify(known.verifier(), digest);
        let proved = proved.map_err(|error| {
            trace::unverifiable(&error, &digest.id());
            self.outage()
        })?;
        if !proved {
            // 128 bits of the key agree, so it is not the caller who is wrong.
            trace::wrong_verifier(&digest.id());
            return Err(self.outage());
        }
        Ok(known)
    }

    /// Steps 6 and 7.
    fn judge(
        &self,
        head: RequestHead<'_>,
        known: &KnownKey,
        lifecycle: Lifecycle,
    ) -> Result<(), Rejection> {
        let record = known.record();
        if let Some(rejection) = Rejection::of_lifecycle(&lifecycle, || record.not_before()) {
            return Err(rejection);
        }
        if let Some(accepted) = &self.settings.environments
            && !known.is_of(accepted)
        {
            return Err(Rejection::WrongEnvironment {
                accepted: accepted.clone(),
            });
        }
        if let Some(networks) = known.networks() {
            let client = self.client_address(head);
            if client.is_none() {
                let notices = &self.keyring.notices;
                trace::no_address_for_allow_list(&notices.no_address_for_allow_list);
            }
            if !networks.allow(client) {
                return Err(Rejection::IpNotAllowed { client });
            }
        }
        for required in &self.settings.required_scopes {
            if !required.are_held_by(record.scopes()) {
                return Err(Rejection::InsufficientScope {
                    required: required.clone(),
                });
            }
        }
        Ok(())
    }

    fn outage(&self) -> Rejection {
        Rejection::ServiceUnavailable {
            retry_after: self.settings.retry_after,
        }
    }

    fn load_failed(&self, failure: &LoadFailure, id: &KeyId) -> Rejection {
        match failure {
            LoadFailure::Store(error) => trace::store_failed(error, id),
            LoadFailure::TooMany => trace::too_many_loads(id),
        }
        self.outage()
    }

    /// Step 9.
    #[inline]
    fn admit<B>(
        &self,
        request: &mut Request<B>,
        key: &Presented,
        proved: Proved,
        metered: Metered,
    ) -> Admission {
        self.note(key, &proved);
        self.hide(request, key.carriers);
        let Proved { known, lifecycle } = proved;
        let caller = Caller::new(known, lifecycle, metered.bound, metered.receipt);
        request.extensions_mut().insert(caller);
        Admission::Key {
            lifecycle,
            carriers: key.carriers,
            limits: metered.limits,
        }
    }

    /// What the logs are told of a request that passes.
    fn note(&self, key: &Presented, proved: &Proved) {
        let Proved { known, lifecycle } = proved;
        let id = key.id();
        trace::admitted(&id, || known.record().account());
        let due = || {
            let notices = &self.keyring.notices.deprecated;
            let now = timestamp::unix_seconds(self.keyring.now());
            notices.is_due(id.as_bytes(), now)
        };
        if lifecycle.status() == KeyStatus::Deprecated && due() {
            let expires_at = lifecycle.expires_at().map(timestamp::rfc3339);
            let expires_at = expires_at.as_deref().unwrap_or("never");
            trace::deprecated(&id, known.record().account(), expires_at);
        }
        if key.carriers.go_beyond_authorization() {
            for parameter in self.settings.sources.parameters_in(key.carriers) {
                trace::key_in_query(parameter, &id);
            }
        }
    }

    /// A request that needs no key, and has none.
    fn begin_as_nobody<B>(&self, request: &mut Request<B>) -> Progress {
        let head = RequestHead::from(&*request);
        let mut metered = self.bind(head, true);
        match self.charge_now(None, &mut metered, self.keyring.readings()) {
            None => Progress::Waiting(Wait::LimitsOfNobody(metered)),
            Some(Ok(())) => Progress::Decided(Ok(anonymous(request, metered.limits))),
            Some(Err(refusal)) => Progress::denied(refusal.of_nobody()),
        }
    }

    /// A request that an outer layer of the same `ApiKeys` has let through: the key is proved, and
    /// need not be in the request any more. What this layer asks for still holds, and if it finds
    /// a key, it must be the same.
    fn spoken_for<B>(&self, request: &mut Request<B>) -> Option<Result<Admission, Denial>> {
        let head = RequestHead::from(&*request);
        let caller = head.extensions.get::<Caller>()?;
        if !caller.belongs_to(&self.keyring) {
            return None;
        }
        let known = Arc::clone(caller.key());
        let lifecycle = known.lifecycle(self.keyring.now(), self.keyring.warning);
        let carriers = match self.settings.sources.find(head, &self.keyring.formats) {
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
            self.judge(head, &known, lifecycle)?;
            Ok(carriers)
        });
        Some(match judged {
            Err(rejection) => Err(refused(rejection, &known, lifecycle, Carriers::NONE)),
            Ok(carriers) => {
                self.hide(request, carriers);
                Ok(Admission::SpokenFor)
            }
        })
    }

    fn hide<B>(&self, request: &mut Request<B>, carriers: Carriers) {
        if self.settings.hide_credential {
            self.settings.sources.hide(request, carriers);
        } else {
            self.settings
                .sources
                .mark_sensitive(request.headers_mut(), carriers);
        }
    }

    /// Whom limits by address go by: a client that sends a header of which nothing can be told opens no
    /// door so, but must not get out of limits either.
    fn charged_address(&self, head: RequestHead<'_>) -> Option<IpAddr> {
        let client = self.client_address(head);
        let charged = client.or_else(|| ClientAddress::peer().of(head));
        if charged.is_none() {
            trace::no_address_for_limits(&self.keyring.notices.no_address_for_limits);
        }
        charged
    }

    fn client_address(&self, head: RequestHead<'_>) -> Option<IpAddr> {
        let source = &self.settings.client_address;
        if source.ignores_forwarding(head.headers) {
            trace::untrusted_forwarding(&self.keyring.notices.untrusted_forwarding);
        }
        source.of(head)
    }
}

/// Lets a request through that comes from nobody in particular.
fn anonymous<B>(request: &mut Request<B>, limits: Option<Notice>) -> Admission {
    // A caller of other keys, from a layer further out, does not speak for this request.
    request.extensions_mut().remove::<Caller>();
    request.extensions_mut().insert(Anonymous);
    Admission::Anonymous { limits }
}

/// A denial to somebody who has not proved to hold a key.
fn stranger(rejection: Rejection, carriers: Carriers) -> Denial {
    trace::refused_stranger(rejection.code(), &rejection);
    Denial {
        rejection,
        lifecycle: None,
        carriers,
        limits: None,
    }
}

/// A denial to a known key.
fn refused(
    rejection: Rejection,
    known: &KnownKey,
    lifecycle: Lifecycle,
    carriers: Carriers,
) -> Denial {
    let record = known.record();
    trace::refused_caller(rejection.code(), &record.id(), record.account());
    Denial {
        rejection,
        lifecycle: Some(lifecycle),
        carriers,
        limits: None,
    }
}
