//! THE PATH: from a request to a decision, top to bottom.
//!
//! 1. **Find** the one credential in the request.
//! 2. **Parse** it: what is not written as a key of ours goes no further.
//! 3. **Hash** it once: the digest names the record.
//! 4. **Look up** the record by its id. This is the one step that may wait.
//! 5. **Compare** the secret, in constant time.
//! 6. **Status** from the record and the clock.
//! 7. **Access**: environment, network, scopes.
//! 8. **Limits**: every charge that applies, all of them or none. This may wait, too.
//! 9. **Admit**: the caller goes into the request, the credential out of it.
//!
//! Nothing else lets a request through.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use http::Method;
use http::header::{ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, COOKIE, ORIGIN};
use http::request::Parts;

use crate::caller::{Anonymous, Caller};
use crate::key::digest::KeyDigest;
use crate::key::environment::Environment;
use crate::key::formats::{Place, Recognized};
use crate::key::lifecycle::{KeyStatus, Lifecycle};
use crate::keyring::{Keyring, KnownKey};
use crate::limit::rules::Facts;
use crate::rejection::{NotFound, Rejection};
use crate::request::credential::Ambiguous;
use crate::response::rate_limit::{self, Notice};
use crate::settings::Settings;
use crate::source::Carrier;
use crate::store::StoreError;
use crate::{timestamp, trace};

/// What a look into the store brought.
type Found = Result<Option<Arc<KnownKey>>, StoreError>;

/// What decides about the requests of one layer.
#[derive(Debug, Clone)]
pub(crate) struct Gate {
    pub(crate) keyring: Arc<Keyring>,
    pub(crate) settings: Settings,
}

/// How far a request got without a look into the store.
pub(crate) enum Identified {
    /// It is decided.
    Decided(Result<Admission, Denial>),
    /// It must be looked up, or charged for.
    Open(Candidate),
}

/// A request that is not decided yet.
#[derive(Debug)]
pub(crate) enum Candidate {
    /// It carries a well-formed key.
    Key(Presented),
    /// It carries no key and needs none; limits bind it all the same.
    NoKey,
}

/// A well-formed key, as a digest.
#[derive(Debug)]
pub(crate) struct Presented {
    digest: KeyDigest,
    /// That of the format it is written in.
    environment: Environment,
    carrier: Carrier,
}

/// A decision in favour of a request.
#[derive(Debug)]
pub(crate) enum Admission {
    /// It carries a good key.
    Key {
        lifecycle: Lifecycle,
        carrier: Carrier,
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
    pub(crate) carrier: Option<Carrier>,
    pub(crate) limits: Option<Notice>,
}

impl Gate {
    /// Steps 1 to 3.
    pub(crate) fn identify(&self, parts: &mut Parts) -> Identified {
        if let Some(decision) = self.spoken_for(parts) {
            return Identified::Decided(decision);
        }
        let found = self.settings.sources.find(parts, &self.keyring.formats);
        let credential = match found {
            Err(Ambiguous) => {
                return Identified::Decided(Err(stranger(Rejection::Ambiguous, None)));
            }
            Ok(None) => return self.without_key(parts),
            Ok(Some(credential)) => credential,
        };
        let carrier = credential.carrier;
        let Some(format) = credential.format else {
            let rejection = Rejection::NotFound(NotFound::Malformed);
            return Identified::Decided(Err(stranger(rejection, Some(carrier))));
        };
        Identified::Open(Candidate::Key(Presented {
            digest: KeyDigest::of_bytes(credential.text.as_bytes()),
            environment: format.environment().clone(),
            carrier,
        }))
    }

    /// Steps 4 to 9.
    pub(crate) async fn decide(
        &self,
        parts: &mut Parts,
        candidate: Candidate,
    ) -> Result<Admission, Denial> {
        let key = match candidate {
            Candidate::Key(key) => key,
            Candidate::NoKey => {
                let limits = self.charge(parts, None, self.keyring.now()).await;
                let limits = limits.map_err(Refusal::of_nobody)?;
                return Ok(anonymous(parts, limits));
            }
        };
        let carrier = Some(key.carrier);
        let found = self.look_up(parts, &key).await;
        let found = found.map_err(|rejection| stranger(rejection, carrier))?;
        let now = self.keyring.now(); // after the wait: a key may have expired during it
        let known = match self.prove(&key.digest, found) {
            Ok(known) => known,
            Err(rejection) => {
                self.count_failure(parts, &rejection, now).await;
                return Err(stranger(rejection, carrier));
            }
        };
        let lifecycle = known.record.lifecycle(now, self.keyring.warning);
        self.judge(parts, &known, lifecycle)
            .map_err(|rejection| refused(rejection, &known, lifecycle, carrier))?;
        let limits = self.charge(parts, Some(&known), now).await;
        let limits = limits.map_err(|refusal| refusal.of(&known, lifecycle, carrier))?;
        Ok(self.admit(parts, known, lifecycle, key.carrier, limits, now))
    }

    /// Step 4, unless this address has had too many keys looked up that do not exist.
    async fn look_up(&self, parts: &Parts, key: &Presented) -> Result<Found, Rejection> {
        if let Some(throttle) = &self.keyring.throttle
            && let Some(client) = self.client_address(parts)
            && let Some(retry_after) = throttle.wait(client, self.keyring.now()).await
        {
            return Err(Rejection::TooManyFailedAttempts { retry_after });
        }
        let id = key.digest.id();
        Ok(self.keyring.find(&id, &key.environment).await)
    }

    async fn count_failure(&self, parts: &Parts, rejection: &Rejection, now: SystemTime) {
        if matches!(rejection, Rejection::NotFound(NotFound::Unknown))
            && let Some(throttle) = &self.keyring.throttle
            && let Some(client) = self.client_address(parts)
        {
            throttle.count(client, now).await;
        }
    }

    /// Step 8: what the headers say, or why the request goes no further.
    async fn charge(
        &self,
        parts: &Parts,
        known: Option<&KnownKey>,
        now: SystemTime,
    ) -> Result<Option<Notice>, Refusal> {
        let Some(limiting) = &self.keyring.limiting else {
            return Ok(None);
        };
        let route = self.settings.route.of(parts);
        let needed = limiting.rules.need_address();
        let charges = limiting.rules.charges(&Facts {
            key: known.map(|known| &known.record),
            method: parts.method.as_str(),
            path: &route,
            address: needed.then(|| self.client_address(parts)).flatten(),
        });
        let verdict = limiting.check(&charges, now).await.map_err(|error| {
            trace::limiter_failed(&error);
            Refusal {
                rejection: self.outage(),
                limits: None,
            }
        })?;
        let headers = self.settings.rate_limit_headers;
        let limits = Notice::of(headers, &charges, &verdict, now);
        match rate_limit::rejection(&charges, &verdict, now) {
            Some(rejection) => Err(Refusal { rejection, limits }),
            None => Ok(limits),
        }
    }

    fn outage(&self) -> Rejection {
        Rejection::ServiceUnavailable {
            retry_after: self.settings.retry_after,
        }
    }

    /// Steps 2 to 6, for a key that did not come in a request.
    pub(crate) async fn verify(&self, key: &str) -> Result<Caller, Rejection> {
        let recognized = self.keyring.formats.recognize(key.as_bytes(), Place::Own);
        let Recognized::WellFormed(format) = recognized else {
            return Err(Rejection::NotFound(NotFound::Malformed));
        };
        let digest = KeyDigest::of(key);
        let found = self.keyring.find(&digest.id(), format.environment()).await;
        let known = self.prove(&digest, found)?;
        let lifecycle = known
            .record
            .lifecycle(self.keyring.now(), self.keyring.warning);
        match Rejection::of_lifecycle(&lifecycle, known.record.not_before()) {
            Some(rejection) => Err(rejection),
            None => Ok(Caller::new(known, lifecycle, Arc::clone(&self.keyring))),
        }
    }

    /// Step 5: the record that was found, if it is that of the key that was presented.
    fn prove(&self, digest: &KeyDigest, found: Found) -> Result<Arc<KnownKey>, Rejection> {
        let id = digest.id();
        let peppers = &self.keyring.peppers;
        let known = found.map_err(|error| {
            trace::store_failed(&error, &id);
            self.outage()
        })?;
        let Some(known) = known else {
            peppers.verify_dummy(digest);
            return Err(Rejection::NotFound(NotFound::Unknown));
        };
        let proved = peppers.verify(known.record.verifier(), digest);
        let proved = proved.map_err(|error| {
            trace::unverifiable(&error, &id);
            self.outage()
        })?;
        if known.record.id() != id {
            trace::wrong_record(&id);
            return Err(Rejection::NotFound(NotFound::Mismatch));
        }
        if !proved {
            // 128 bits of the key agree, so it is not the caller who is wrong.
            trace::wrong_verifier(&id);
            return Err(self.outage());
        }
        Ok(known)
    }

    /// Steps 6 and 7.
    fn judge(
        &self,
        parts: &Parts,
        known: &KnownKey,
        lifecycle: Lifecycle,
    ) -> Result<(), Rejection> {
        let record = &known.record;
        if let Some(rejection) = Rejection::of_lifecycle(&lifecycle, record.not_before()) {
            return Err(rejection);
        }
        if let Some(accepted) = &self.settings.environments
            && !accepted.contains(&known.environment)
        {
            return Err(Rejection::WrongEnvironment {
                accepted: accepted.clone(),
            });
        }
        if record.networks().list().is_some() {
            let client = self.client_address(parts);
            if !record.networks().allow(client) {
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

    /// Step 9.
    fn admit(
        &self,
        parts: &mut Parts,
        known: Arc<KnownKey>,
        lifecycle: Lifecycle,
        carrier: Carrier,
        limits: Option<Notice>,
        now: SystemTime,
    ) -> Admission {
        let (id, account) = (known.record.id(), known.record.account());
        trace::admitted(&id, account);
        if lifecycle.status() == KeyStatus::Deprecated
            && self
                .keyring
                .notices
                .deprecated
                .is_due(id.as_bytes(), timestamp::unix_seconds(now))
        {
            let expires_at = lifecycle.expires_at().map(timestamp::rfc3339);
            trace::deprecated(&id, account, expires_at.as_deref().unwrap_or("never"));
        }
        if let Some(parameter) = self.settings.sources.parameter(carrier) {
            trace::key_in_query(parameter, &id);
        }
        self.hide(parts, carrier);
        let caller = Caller::new(known, lifecycle, Arc::clone(&self.keyring));
        parts.extensions.insert(caller);
        Admission::Key {
            lifecycle,
            carrier,
            limits,
        }
    }

    /// A request without a key.
    fn without_key(&self, parts: &mut Parts) -> Identified {
        let preflight = self.settings.allow_preflight && is_preflight(parts);
        if !self.settings.optional && !preflight {
            return Identified::Decided(Err(stranger(Rejection::Missing, None)));
        }
        if self.keyring.limiting.is_some() {
            return Identified::Open(Candidate::NoKey);
        }
        Identified::Decided(Ok(anonymous(parts, None)))
    }

    /// A request that an outer layer of the same `ApiKeys` has let through: the key is proved, and
    /// need not be in the request any more. What this layer asks for still holds, and if it finds
    /// a key, it must be the same.
    fn spoken_for(&self, parts: &mut Parts) -> Option<Result<Admission, Denial>> {
        let caller = parts.extensions.get::<Caller>()?;
        if !caller.belongs_to(&self.keyring) {
            return None;
        }
        let known = Arc::clone(caller.key());
        let lifecycle = known
            .record
            .lifecycle(self.keyring.now(), self.keyring.warning);
        let carrier = match self.settings.sources.find(parts, &self.keyring.formats) {
            Ok(None) => Ok(None),
            Ok(Some(key)) if KeyDigest::of_bytes(key.text.as_bytes()).id() == known.record.id() => {
                Ok(Some(key.carrier))
            }
            Ok(Some(_)) | Err(Ambiguous) => Err(Rejection::Ambiguous),
        };
        let judged = carrier.and_then(|carrier| {
            self.judge(parts, &known, lifecycle)?;
            if let Some(carrier) = carrier {
                self.hide(parts, carrier);
            }
            Ok(Admission::SpokenFor)
        });
        Some(judged.map_err(|rejection| refused(rejection, &known, lifecycle, None)))
    }

    fn hide(&self, parts: &mut Parts, carrier: Carrier) {
        if self.settings.hide_credential {
            self.settings.sources.hide(parts, carrier);
        } else {
            self.settings.sources.mark_sensitive(parts, carrier);
        }
    }

    fn client_address(&self, parts: &Parts) -> Option<IpAddr> {
        let source = &self.settings.client_address;
        let notices = &self.keyring.notices;
        if source.ignores_forwarding(&parts.headers) {
            trace::untrusted_forwarding(&notices.untrusted_forwarding);
        }
        let address = source.of(parts);
        if address.is_none() {
            trace::no_client_address(&notices.no_client_address);
        }
        address
    }
}

/// Lets a request through that comes from nobody in particular.
fn anonymous(parts: &mut Parts, limits: Option<Notice>) -> Admission {
    // A caller of other keys, from a layer further out, does not speak for this request.
    parts.extensions.remove::<Caller>();
    parts.extensions.insert(Anonymous);
    Admission::Anonymous { limits }
}

/// Why a request is not admitted although its key is good, or none is needed.
struct Refusal {
    rejection: Rejection,
    limits: Option<Notice>,
}

impl Refusal {
    fn of_nobody(self) -> Denial {
        Denial {
            limits: self.limits,
            ..stranger(self.rejection, None)
        }
    }

    fn of(self, known: &KnownKey, lifecycle: Lifecycle, carrier: Option<Carrier>) -> Denial {
        Denial {
            limits: self.limits,
            ..refused(self.rejection, known, lifecycle, carrier)
        }
    }
}

/// A denial to somebody who has not proved to hold a key.
fn stranger(rejection: Rejection, carrier: Option<Carrier>) -> Denial {
    trace::refused_stranger(rejection.code(), &rejection);
    Denial {
        rejection,
        lifecycle: None,
        carrier,
        limits: None,
    }
}

/// A denial to a known key.
fn refused(
    rejection: Rejection,
    known: &KnownKey,
    lifecycle: Lifecycle,
    carrier: Option<Carrier>,
) -> Denial {
    let record = &known.record;
    trace::refused_caller(rejection.code(), &record.id(), record.account());
    Denial {
        rejection,
        lifecycle: Some(lifecycle),
        carrier,
        limits: None,
    }
}

/// A CORS preflight as the Fetch standard sends it; it never carries credentials.
fn is_preflight(parts: &Parts) -> bool {
    parts.method == Method::OPTIONS
        && parts.headers.contains_key(ORIGIN)
        && parts.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
        && !parts.headers.contains_key(AUTHORIZATION)
        && !parts.headers.contains_key(COOKIE)
}
