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
//! [`Gate::begin`] takes these steps without ever waiting, as far as they go; [`Gate::finish`] takes
//! the others. Nothing else lets a request through.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use http::Method;
use http::header::{ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, COOKIE, ORIGIN};
use http::request::Parts;

use crate::cache::{Found, KnownKey};
use crate::caller::{Anonymous, Caller};
use crate::key::digest::{KeyDigest, KeyId};
use crate::key::formats::{Place, Recognized};
use crate::key::lifecycle::{KeyStatus, Lifecycle};
use crate::keyring::Keyring;
use crate::limit::limiting::Limiting;
use crate::limit::outage::Fallback;
use crate::limit::rulebook::Bound;
use crate::limit::{Charge, LimiterError, Verdict};
use crate::rejection::{NotFound, Rejection};
use crate::request::credential::Ambiguous;
use crate::response::rate_limit::{self, Notice};
use crate::response::rejection::Rendered;
use crate::settings::Settings;
use crate::source::Carrier;
use crate::store::StoreError;
use crate::{timestamp, trace};

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
    Waiting(Box<Candidate>),
}

/// A request that must wait to be decided.
pub(crate) enum Candidate {
    /// For its record.
    ToLoad(Presented),
    /// For its limits. Its key is good.
    ToCharge(Presented, Proved),
    /// For its limits. It has no key and needs none.
    NoKey(Option<Bound>),
}

/// A well-formed key, as a digest.
pub(crate) struct Presented {
    digest: KeyDigest,
    id: KeyId,
    /// The place of the format that it is written in.
    format: usize,
    /// When it was presented, by either clock.
    now: SystemTime,
    asked_at: Duration,
    carrier: Carrier,
    client: Client,
}

/// The address of the client: worked out once, and only if somebody asks.
#[derive(Default)]
struct Client(OnceLock<Option<IpAddr>>);

/// A key that may be used here and now, within its limits.
pub(crate) struct Proved {
    known: Arc<KnownKey>,
    lifecycle: Lifecycle,
    bound: Option<Bound>,
    now: SystemTime,
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
    pub(crate) limits: Option<Box<Notice>>,
}

impl Gate {
    /// Steps 1 to 9, as far as they go without a wait.
    pub(crate) fn begin(&self, parts: &mut Parts) -> Progress {
        if let Some(decision) = self.spoken_for(parts) {
            return Progress::Decided(decision);
        }
        let key = match self.identify(parts) {
            Err(denial) => return Progress::Decided(Err(denial)),
            Ok(None) => return self.begin_without_key(parts),
            Ok(Some(key)) => key,
        };
        let looked = self.keyring.cache.view(&key.id, key.asked_at, |found| {
            if found.key().is_none() {
                let attempt = self.attempt(parts, &key);
                attempt.map_err(|rejection| stranger(rejection, Some(key.carrier)))?;
            }
            self.prove(parts, &key, found, key.now)
        });
        let mut proved = match looked {
            None => return Progress::Waiting(Box::new(Candidate::ToLoad(key))),
            Some(Err(denial)) => return Progress::Decided(Err(denial)),
            Some(Ok(proved)) => proved,
        };
        match self.charge_now(Some(&proved.known), &mut proved.bound, proved.now) {
            None => Progress::Waiting(Box::new(Candidate::ToCharge(key, proved))),
            Some(Ok(limits)) => Progress::Decided(Ok(self.admit(parts, &key, proved, limits))),
            Some(Err(refusal)) => Progress::Decided(Err(refusal.of(&proved, key.carrier))),
        }
    }

    /// Steps 4 to 9, for what had to wait.
    pub(crate) async fn finish(
        &self,
        parts: &mut Parts,
        candidate: Candidate,
    ) -> Result<Admission, Denial> {
        let (key, mut proved) = match candidate {
            Candidate::ToLoad(key) => {
                let found = self.load(parts, &key).await?;
                let proved = self.prove(parts, &key, &found, self.keyring.now())?;
                (key, proved)
            }
            Candidate::ToCharge(key, proved) => (key, proved),
            Candidate::NoKey(mut bound) => {
                let limits = self.charge(None, &mut bound, self.keyring.now()).await;
                return Ok(anonymous(parts, limits.map_err(Refusal::of_nobody)?));
            }
        };
        let charged = self.charge(Some(&proved.known), &mut proved.bound, proved.now);
        let limits = charged
            .await
            .map_err(|refusal| refusal.of(&proved, key.carrier))?;
        if self.keyring.cache.is_current(&key.id, proved.known.stamp()) {
            return Ok(self.admit(parts, &key, proved, limits));
        }
        // The key was changed while the limiter let it wait.
        match self.prove_anew(parts, &key).await {
            Ok(anew) => {
                let bound = proved.bound; // as it was charged
                Ok(self.admit(parts, &key, Proved { bound, ..anew }, limits))
            }
            Err(denial) => {
                self.give_back(&proved).await;
                Err(denial)
            }
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
        let mut found = self.keyring.cache.view(&id, asked_at, Found::clone);
        if found.is_none() {
            let loaded = self.keyring.cache.load(id, format.environment()).await;
            found = Some(loaded.map_err(|error| self.store_failed(&error, &id))?);
        }
        let found = found.as_ref().and_then(Found::key);
        let known = Arc::clone(self.compare(&digest, id, found)?);
        let now = self.keyring.now();
        let lifecycle = known.record.lifecycle(now, self.keyring.warning);
        match Rejection::of_lifecycle(&lifecycle, known.record.not_before()) {
            Some(rejection) => Err(rejection),
            None => Ok(Caller::new(known, lifecycle, None)),
        }
    }

    /// Steps 1 to 3. `None` if there is no credential.
    fn identify(&self, parts: &Parts) -> Result<Option<Presented>, Denial> {
        let found = self.settings.sources.find(parts, &self.keyring.formats);
        let found = found.map_err(|Ambiguous| stranger(Rejection::Ambiguous, None))?;
        let Some(credential) = found else {
            return Ok(None);
        };
        let carrier = credential.carrier;
        let Some(format) = credential.format else {
            let rejection = Rejection::NotFound(NotFound::Malformed);
            return Err(stranger(rejection, Some(carrier)));
        };
        // Before the hash: to read a clock, the processor waits for all that it has begun.
        let (now, asked_at) = (self.keyring.now(), self.keyring.clock.monotonic());
        let digest = KeyDigest::of_bytes(credential.text.as_bytes());
        Ok(Some(Presented {
            id: digest.id(),
            digest,
            now,
            asked_at,
            format: self.keyring.formats.place_of(format),
            carrier,
            client: Client::default(),
        }))
    }

    /// Step 4, from the store, unless this address has tried too many keys that do not exist.
    async fn load(&self, parts: &Parts, key: &Presented) -> Result<Found, Denial> {
        let carrier = Some(key.carrier);
        // Whoever holds a key that was found before tries nothing out.
        let unknown = !self.keyring.cache.knew(&key.id);
        if unknown {
            let attempt = self.attempt(parts, key);
            attempt.map_err(|rejection| stranger(rejection, carrier))?;
        }
        let environment = self.keyring.formats.at(key.format).environment();
        let loaded = self.keyring.cache.load(key.id, environment).await;
        if unknown && !matches!(&loaded, Ok(Found::Nothing { .. })) {
            self.forgive(parts, key);
        }
        loaded.map_err(|error| stranger(self.store_failed(&error, &key.id), carrier))
    }

    /// Counts an attempt to use a key that does not exist, which it is until it is found.
    fn attempt(&self, parts: &Parts, key: &Presented) -> Result<(), Rejection> {
        if let Some(throttle) = &self.keyring.throttle
            && let Some(client) = key.client.address(self, parts)
        {
            let attempt = throttle.attempt(client, self.keyring.now());
            attempt.map_err(|retry_after| Rejection::TooManyFailedAttempts { retry_after })?;
        }
        Ok(())
    }

    fn forgive(&self, parts: &Parts, key: &Presented) {
        if let Some(throttle) = &self.keyring.throttle
            && let Some(client) = key.client.address(self, parts)
        {
            throttle.forgive(client, self.keyring.now());
        }
    }

    /// Steps 5 to 7.
    fn prove(
        &self,
        parts: &Parts,
        key: &Presented,
        found: &Found,
        now: SystemTime,
    ) -> Result<Proved, Denial> {
        let compared = self.compare(&key.digest, key.id, found.key());
        let known = compared.map_err(|rejection| stranger(rejection, Some(key.carrier)))?;
        let lifecycle = known.record.lifecycle(now, self.keyring.warning);
        if let Err(rejection) = self.judge(parts, known, lifecycle, &key.client) {
            return Err(refused(rejection, known, lifecycle, Some(key.carrier)));
        }
        Ok(Proved {
            bound: self.bind(parts, &key.client),
            known: Arc::clone(known),
            lifecycle,
            now,
        })
    }

    async fn prove_anew(&self, parts: &Parts, key: &Presented) -> Result<Proved, Denial> {
        let found = self.load(parts, key).await?;
        self.prove(parts, key, &found, self.keyring.now())
    }

    /// Step 5: the record that was found, if it is that of the key that was presented.
    fn compare<'f>(
        &self,
        digest: &KeyDigest,
        id: KeyId,
        found: Option<&'f Arc<KnownKey>>,
    ) -> Result<&'f Arc<KnownKey>, Rejection> {
        let peppers = &self.keyring.peppers;
        let Some(known) = found else {
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
        client: &Client,
    ) -> Result<(), Rejection> {
        let record = &known.record;
        if let Some(rejection) = Rejection::of_lifecycle(&lifecycle, record.not_before()) {
            return Err(rejection);
        }
        if let Some(accepted) = &self.settings.environments
            && !known.is_of(accepted)
        {
            return Err(Rejection::WrongEnvironment {
                accepted: accepted.clone(),
            });
        }
        if record.networks().list().is_some() {
            let client = client.address(self, parts);
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

    /// What the limits must know of a request.
    fn bind(&self, parts: &Parts, client: &Client) -> Option<Bound> {
        let rules = &self.keyring.metering.limiting.as_ref()?.rules;
        let needed = rules.need_address();
        let address = needed.then(|| client.address(self, parts)).flatten();
        if !rules.need_route() {
            return Some(rules.bind_nowhere(address));
        }
        let route = self.settings.route.of(parts);
        let path = parts.uri.path();
        Some(rules.bind(parts.method.as_str(), &route, path, address))
    }

    /// Step 8: what the headers say, or why the request goes no further. `None` if that must be
    /// waited for.
    fn charge_now(
        &self,
        known: Option<&KnownKey>,
        bound: &mut Option<Bound>,
        now: SystemTime,
    ) -> Option<Result<Option<Notice>, Refusal>> {
        let (Some(limiting), Some(bound)) = (&self.keyring.metering.limiting, bound) else {
            return Some(Ok(None));
        };
        let charges = limiting.rules.charges(known.map(KnownKey::holder), *bound);
        let checked = limiting.check_now(&charges, now)?;
        Some(self.conclude(limiting, &charges, &checked, bound, now))
    }

    /// Step 8, with a wait.
    async fn charge(
        &self,
        known: Option<&KnownKey>,
        bound: &mut Option<Bound>,
        now: SystemTime,
    ) -> Result<Option<Notice>, Refusal> {
        let (Some(limiting), Some(bound)) = (&self.keyring.metering.limiting, bound) else {
            return Ok(None);
        };
        let charges = limiting.rules.charges(known.map(KnownKey::holder), *bound);
        let checked = match limiting.check_now(&charges, now) {
            Some(checked) => checked,
            None => limiting.check(&*self.keyring.clock, &charges, now).await,
        };
        self.conclude(limiting, &charges, &checked, bound, now)
    }

    fn conclude(
        &self,
        limiting: &Limiting,
        charges: &[Charge<'_>],
        checked: &Result<Verdict, LimiterError>,
        bound: &mut Bound,
        now: SystemTime,
    ) -> Result<Option<Notice>, Refusal> {
        let told = |charges: &[Charge<'_>], verdict: &Verdict| {
            let limits = Notice::of(self.settings.rate_limit_headers, charges, verdict, now);
            match rate_limit::rejection(charges, verdict, now) {
                None => Ok(limits),
                Some(rejection) => Err(Refusal {
                    rejection,
                    limits: limits.map(Box::new),
                }),
            }
        };
        let error = match checked {
            Ok(verdict) => return told(charges, verdict),
            Err(error) => error,
        };
        trace::limiter_failed(error);
        bound.let_off();
        match limiting.emergency.decide(charges, now) {
            Fallback::Charged(shares, verdict) => told(&shares, &verdict),
            Fallback::Admit => Ok(None),
            Fallback::Refuse => Err(Refusal {
                rejection: self.outage(),
                limits: None,
            }),
        }
    }

    /// What was charged to a request that goes no further after all.
    async fn give_back(&self, proved: &Proved) {
        let Some(bound) = proved.bound else {
            return;
        };
        let key = proved.known.holder();
        let refunded = self.keyring.metering.refund(key, bound, u64::MAX);
        if let Err(error) = refunded.await {
            trace::limiter_failed(&error);
        }
    }

    fn outage(&self) -> Rejection {
        Rejection::ServiceUnavailable {
            retry_after: self.settings.retry_after,
        }
    }

    fn store_failed(&self, error: &StoreError, id: &KeyId) -> Rejection {
        trace::store_failed(error, id);
        self.outage()
    }

    /// Step 9.
    fn admit(
        &self,
        parts: &mut Parts,
        key: &Presented,
        proved: Proved,
        limits: Option<Notice>,
    ) -> Admission {
        let Proved {
            known,
            lifecycle,
            bound,
            now,
            ..
        } = proved;
        trace::admitted(&key.id, || known.record.account());
        if lifecycle.status() == KeyStatus::Deprecated
            && self
                .keyring
                .notices
                .deprecated
                .is_due(key.id.as_bytes(), timestamp::unix_seconds(now))
        {
            let expires_at = lifecycle.expires_at().map(timestamp::rfc3339);
            let expires_at = expires_at.as_deref().unwrap_or("never");
            trace::deprecated(&key.id, known.record.account(), expires_at);
        }
        if let Some(parameter) = self.settings.sources.parameter(key.carrier) {
            trace::key_in_query(parameter, &key.id);
        }
        self.hide(parts, key.carrier);
        parts
            .extensions
            .insert(Caller::new(known, lifecycle, bound));
        Admission::Key {
            lifecycle,
            carrier: key.carrier,
            limits,
        }
    }

    /// A request without a key.
    fn begin_without_key(&self, parts: &mut Parts) -> Progress {
        let preflight = self.settings.allow_preflight && is_preflight(parts);
        if !self.settings.optional && !preflight {
            return Progress::Decided(Err(stranger(Rejection::Missing, None)));
        }
        let mut bound = self.bind(parts, &Client::default());
        match self.charge_now(None, &mut bound, self.keyring.now()) {
            None => Progress::Waiting(Box::new(Candidate::NoKey(bound))),
            Some(Ok(limits)) => Progress::Decided(Ok(anonymous(parts, limits))),
            Some(Err(refusal)) => Progress::Decided(Err(refusal.of_nobody())),
        }
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
            self.judge(parts, &known, lifecycle, &Client::default())?;
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

impl Client {
    fn address(&self, gate: &Gate, parts: &Parts) -> Option<IpAddr> {
        *self.0.get_or_init(|| gate.client_address(parts))
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
    limits: Option<Box<Notice>>,
}

impl Refusal {
    fn of_nobody(self) -> Denial {
        Denial {
            limits: self.limits,
            ..stranger(self.rejection, None)
        }
    }

    fn of(self, proved: &Proved, carrier: Carrier) -> Denial {
        Denial {
            limits: self.limits,
            ..refused(
                self.rejection,
                &proved.known,
                proved.lifecycle,
                Some(carrier),
            )
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
