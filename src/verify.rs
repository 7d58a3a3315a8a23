//! THE PATH: from a request to a decision, top to bottom.
//!
//! 1. **Find** the one credential in the request.
//! 2. **Parse** it: what is not written as a key of ours goes no further.
//! 3. **Hash** it once: the digest names the record.
//! 4. **Look up** the record by its id. This is the one step that may wait.
//! 5. **Compare** the secret, in constant time.
//! 6. **Status** from the record and the clock.
//! 7. **Access**: environment, network, scopes.
//! 8. **Admit**: the caller goes into the request, the credential out of it.
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
use crate::key::lifecycle::{KeyStatus, Lifecycle};
use crate::key::record::KeyRecord;
use crate::keyring::Keyring;
use crate::rejection::{NotFound, Rejection};
use crate::request::credential::Ambiguous;
use crate::settings::Settings;
use crate::source::Carrier;
use crate::store::StoreError;
use crate::{timestamp, trace};

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
    /// It carries a well-formed key, which must be looked up.
    Presented(Presented),
}

/// A well-formed key, as a digest.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Presented {
    digest: KeyDigest,
    carrier: Carrier,
}

/// A decision in favour of a request.
#[derive(Debug)]
pub(crate) enum Admission {
    /// It carries a good key.
    Key {
        lifecycle: Lifecycle,
        carrier: Carrier,
    },
    /// It carries no key and needs none.
    Anonymous,
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
            Ok(None) => return Identified::Decided(self.without_key(parts)),
            Ok(Some(credential)) => credential,
        };
        let carrier = credential.carrier;
        if !credential.well_formed {
            let rejection = Rejection::NotFound(NotFound::Malformed);
            return Identified::Decided(Err(stranger(rejection, Some(carrier))));
        }
        let digest = KeyDigest::of_bytes(credential.text.as_bytes());
        Identified::Presented(Presented { digest, carrier })
    }

    /// Steps 4 to 8.
    pub(crate) async fn decide(
        &self,
        parts: &mut Parts,
        key: Presented,
    ) -> Result<Admission, Denial> {
        let found = self.keyring.find(&key.digest.id()).await;
        let now = self.keyring.now(); // after the wait: a key may have expired during it
        let record = self.prove(key, found)?;
        let lifecycle = record.lifecycle(now, self.keyring.warning);
        self.judge(parts, &record, lifecycle)
            .map_err(|rejection| refused(rejection, &record, lifecycle, Some(key.carrier)))?;
        Ok(self.admit(parts, record, lifecycle, key.carrier, now))
    }

    /// Step 5: the record that was found, if it is that of the key that was presented.
    fn prove(
        &self,
        key: Presented,
        found: Result<Option<Arc<KeyRecord>>, StoreError>,
    ) -> Result<Arc<KeyRecord>, Denial> {
        let id = key.digest.id();
        let not_found = |why| stranger(Rejection::NotFound(why), Some(key.carrier));
        let outage = || Denial {
            rejection: Rejection::ServiceUnavailable {
                retry_after: self.settings.retry_after,
            },
            lifecycle: None,
            carrier: Some(key.carrier),
        };
        let record = found.map_err(|error| {
            trace::store_failed(&error, &id);
            outage()
        })?;
        let Some(record) = record else {
            self.keyring.peppers.verify_dummy(&key.digest);
            return Err(not_found(NotFound::Unknown));
        };
        let proved = self.keyring.peppers.verify(record.verifier(), &key.digest);
        let proved = proved.map_err(|error| {
            trace::unverifiable(&error, &id);
            outage()
        })?;
        if record.id() != id {
            trace::wrong_record(&id);
            return Err(not_found(NotFound::Mismatch));
        }
        if !proved {
            // 128 bits of the key agree, so it is not the caller who is wrong.
            trace::wrong_verifier(&id);
            return Err(outage());
        }
        Ok(record)
    }

    /// Steps 6 and 7.
    fn judge(
        &self,
        parts: &Parts,
        record: &KeyRecord,
        lifecycle: Lifecycle,
    ) -> Result<(), Rejection> {
        if let Some(rejection) = Rejection::of_lifecycle(&lifecycle, record.not_before()) {
            return Err(rejection);
        }
        if let Some(accepted) = &self.settings.environment
            && record.environment() != accepted
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
        match &self.settings.required_scopes {
            Some(required) if !required.are_held_by(record.scopes()) => {
                Err(Rejection::InsufficientScope {
                    required: required.clone(),
                })
            }
            _ => Ok(()),
        }
    }

    /// Step 8.
    fn admit(
        &self,
        parts: &mut Parts,
        record: Arc<KeyRecord>,
        lifecycle: Lifecycle,
        carrier: Carrier,
        now: SystemTime,
    ) -> Admission {
        let (id, account) = (record.id(), record.account());
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
        let caller = Caller::new(record, lifecycle, Arc::clone(&self.keyring));
        parts.extensions.insert(caller);
        Admission::Key { lifecycle, carrier }
    }

    /// A request without a key.
    fn without_key(&self, parts: &mut Parts) -> Result<Admission, Denial> {
        let preflight = self.settings.allow_preflight && is_preflight(parts);
        if !self.settings.optional && !preflight {
            return Err(stranger(Rejection::Missing, None));
        }
        // Nor does a caller of other keys, from a layer further out, speak for this request.
        parts.extensions.remove::<Caller>();
        parts.extensions.insert(Anonymous);
        Ok(Admission::Anonymous)
    }

    /// A request that an outer layer of the same `ApiKeys` has let through: the key is proved, and
    /// need not be in the request any more. What this layer asks for still holds, and if it finds
    /// a key, it must be the same.
    fn spoken_for(&self, parts: &mut Parts) -> Option<Result<Admission, Denial>> {
        let caller = parts.extensions.get::<Caller>()?;
        if !caller.belongs_to(&self.keyring) {
            return None;
        }
        let record = Arc::clone(caller.record());
        let lifecycle = record.lifecycle(self.keyring.now(), self.keyring.warning);
        let carrier = match self.settings.sources.find(parts, &self.keyring.formats) {
            Ok(None) => Ok(None),
            Ok(Some(key)) if KeyDigest::of_bytes(key.text.as_bytes()).id() == record.id() => {
                Ok(Some(key.carrier))
            }
            Ok(Some(_)) | Err(Ambiguous) => Err(Rejection::Ambiguous),
        };
        let judged = carrier.and_then(|carrier| {
            self.judge(parts, &record, lifecycle)?;
            if let Some(carrier) = carrier {
                self.hide(parts, carrier);
            }
            Ok(Admission::SpokenFor)
        });
        Some(judged.map_err(|rejection| refused(rejection, &record, lifecycle, None)))
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

/// A denial to somebody who has not proved to hold a key.
fn stranger(rejection: Rejection, carrier: Option<Carrier>) -> Denial {
    trace::refused_stranger(rejection.code(), &rejection);
    Denial {
        rejection,
        lifecycle: None,
        carrier,
    }
}

/// A denial to a known key.
fn refused(
    rejection: Rejection,
    record: &KeyRecord,
    lifecycle: Lifecycle,
    carrier: Option<Carrier>,
) -> Denial {
    trace::refused_caller(rejection.code(), &record.id(), record.account());
    Denial {
        rejection,
        lifecycle: Some(lifecycle),
        carrier,
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
