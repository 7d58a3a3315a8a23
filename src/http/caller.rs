//! The caller: the application that a verified key belongs to.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use crate::cache::CachedKey;
use crate::http::carriers::Carriers;
use crate::http::rejection::Rejection;
use crate::key::digest::KeyId;
use crate::key::environment::Environment;
use crate::key::kind::KeyKind;
use crate::key::lifecycle::{KeyStatus, Lifecycle};
use crate::key::scope::{RequiredScopes, Scope, ScopeSet};
use crate::limit::compiled_rules::RequestLimits;
use crate::limit::key_services::{ChargeError, KeyServices, LimitStatus};
use crate::limit::limiter::LimiterError;
use crate::limit::refund::Receipt;
use crate::util::trace::{self, Refusal};

/// The application that sent a request, authenticated by its key. Never a person.
///
/// The layer puts the caller into the request's extensions. With the feature `axum`, `Caller` is an
/// extractor.
///
/// ```
/// use tower_api_key::{Caller, Scope};
///
/// const REPORTS_WRITE: Scope = Scope::from_static("reports:write");
///
/// fn write_report(request: &http::Request<()>) -> Result<String, tower_api_key::Rejection> {
///     let caller = Caller::of(request.extensions())?;
///     caller.require(&REPORTS_WRITE)?;
///     Ok(format!("written for {}", caller.account()))
/// }
/// ```
#[derive(Clone)]
pub struct Caller {
    key: Arc<CachedKey>,
    lifecycle: Lifecycle,
    carriers: Carriers,
    /// The facts of the request that its limits depend on.
    request_limits: RequestLimits,
    /// The receipt for the charges and the counts of the request, for refunds.
    receipt: Receipt,
}

/// The kind of place in a request where a key was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeyCarrier {
    /// `Authorization`, under any scheme.
    Authorization,
    /// A header that is meant for keys, such as `X-API-Key`.
    Header,
    /// A parameter of the URL, which proxies, browsers and logs keep.
    Query,
}

/// Marker in the extensions of a request that a layer of these keys admitted without a key.
#[derive(Debug, Clone)]
pub(crate) struct Anonymous(Arc<KeyServices>);

impl Anonymous {
    pub(crate) fn new(key_services: &Arc<KeyServices>) -> Self {
        Self(Arc::clone(key_services))
    }

    /// Returns whether a layer of these keys admitted the request.
    pub(crate) fn belongs_to(&self, key_services: &Arc<KeyServices>) -> bool {
        Arc::ptr_eq(&self.0, key_services)
    }
}

impl Caller {
    pub(crate) fn new(
        key: Arc<CachedKey>,
        lifecycle: Lifecycle,
        carriers: Carriers,
        request_limits: RequestLimits,
        receipt: Receipt,
    ) -> Self {
        Self {
            key,
            lifecycle,
            carriers,
            request_limits,
            receipt,
        }
    }

    /// Returns the caller that the layer left in a request's extensions.
    ///
    /// # Errors
    ///
    /// [`Rejection::Missing`] if an optional layer admitted the request without a key.
    /// [`Rejection::LayerMissing`] if no layer handled the request. This is a mistake of the
    /// application, and is logged as an error.
    pub fn of(extensions: &http::Extensions) -> Result<&Self, Rejection> {
        match extensions.get::<Self>() {
            Some(caller) => Ok(caller),
            None if extensions.get::<Anonymous>().is_some() => Err(Rejection::Missing),
            None => {
                trace::layer_missing("Caller");
                Err(Rejection::LayerMissing)
            }
        }
    }

    /// Returns the public id of the key, which is safe in logs.
    pub fn key_id(&self) -> KeyId {
        self.key.record().id()
    }

    /// Returns the prefix of the key, such as `sk_live`, if the record has it.
    pub fn prefix(&self) -> Option<&str> {
        self.key.record().prefix()
    }

    /// Returns the kind of the key: secret or publishable.
    pub fn kind(&self) -> KeyKind {
        self.key.kind()
    }

    /// Returns the kind of place where the key was sent. A key that was sent in several places has
    /// the most exposed of them: `Query`, then `Header`, then `Authorization`.
    ///
    /// `None` if the key came in no request, but through
    /// [`ApiKeys::verify`](crate::ApiKeys::verify).
    pub fn carrier(&self) -> Option<KeyCarrier> {
        if self.carriers.include_parameters() {
            return Some(KeyCarrier::Query);
        }
        if self.carriers.include_headers() {
            return Some(KeyCarrier::Header);
        }
        let authorization = self.carriers.include(Carriers::AUTHORIZATION);
        authorization.then_some(KeyCarrier::Authorization)
    }

    /// Returns the name that the owner gave the key.
    pub fn key_name(&self) -> Option<&str> {
        self.key.record().name()
    }

    /// Returns the first key in the chain of rotations that the key belongs to. Usage is reported
    /// under this id.
    pub fn lineage(&self) -> KeyId {
        self.key.record().lineage()
    }

    /// Returns the account, which is limited, metered and billed.
    pub fn account(&self) -> &str {
        self.key.record().account()
    }

    /// Returns the organization that the account belongs to.
    pub fn organization(&self) -> Option<&str> {
        self.key.record().organization()
    }

    /// Returns the environment of the key.
    pub fn environment(&self) -> &Environment {
        self.key.environment()
    }

    /// Returns the scopes of the key. A publishable key has only scopes that are declared
    /// publishable.
    pub fn scopes(&self) -> &ScopeSet {
        self.key.record().scopes()
    }

    /// Returns the name of the account's plan, as the record has it. `None` is the default plan.
    pub fn plan(&self) -> Option<&str> {
        self.key.record().plan()
    }

    /// Returns the metadata that the application stored with the key when it was issued.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        self.key.record().metadata()
    }

    /// Returns [`KeyStatus::Active`] or [`KeyStatus::Deprecated`], as of this request.
    pub fn status(&self) -> KeyStatus {
        self.lifecycle.status()
    }

    /// Returns the time when the key expires, if ever.
    pub fn expires_at(&self) -> Option<SystemTime> {
        self.lifecycle.expires_at()
    }

    /// Returns an error unless the key holds this scope. The refusal is logged. To check without
    /// logging, use [`scopes`](Self::scopes).
    pub fn require(&self, scope: &Scope) -> Result<(), Rejection> {
        if self.scopes().contains(scope) {
            return Ok(());
        }
        Err(self.lacks(scope.clone().into()))
    }

    /// Returns an error unless the key holds the required scopes: all of them, or any.
    ///
    /// ```
    /// # use tower_api_key::key::RequiredScopes;
    /// # use tower_api_key::{Caller, Rejection, Scope};
    /// # const READ: Scope = Scope::from_static("reports:read");
    /// # const ADMIN: Scope = Scope::from_static("admin");
    /// # fn handler(caller: &Caller) -> Result<(), Rejection> {
    /// caller.require_scopes(&RequiredScopes::any_of([READ, ADMIN]))
    /// # }
    /// ```
    pub fn require_scopes(&self, required: &RequiredScopes) -> Result<(), Rejection> {
        if required.are_held_by(self.scopes()) {
            return Ok(());
        }
        Err(self.lacks(required.clone()))
    }

    /// Refunds units that this request was charged, for work that did not happen. Every limit that
    /// applied to the request and counts this [unit](crate::limit::Limit::unit) gets the units
    /// back.
    ///
    /// All clones of a caller together refund at most what the request cost, however often `refund`
    /// is called. Refund at once: a refund works only while its charge counts. A window or calendar
    /// period that is over refunds nothing. A smooth quota refunds only the units that it has not
    /// regained by itself.
    ///
    /// A request that [`LimiterOutage`](crate::limit::LimiterOutage) decided refunds nothing to a
    /// limit. Units that [`charge`](Self::charge) took are not refunded either. From
    /// [usage](crate::usage), the units are taken back in any case.
    ///
    /// # Errors
    ///
    /// [`ChargeError::UnknownUnit`] if no limit of this [`ApiKeys`](crate::ApiKeys) counts the
    /// unit. [`ChargeError::Limiter`] if the limiter failed: the refund may have happened or not,
    /// and the units cannot be refunded again.
    ///
    /// ```
    /// # use tower_api_key::limit::{ChargeError, REQUESTS};
    /// # use tower_api_key::Caller;
    /// # async fn render_report() -> Result<(), ()> { Ok(()) }
    /// # async fn handler(caller: Caller) -> Result<(), ChargeError> {
    /// if render_report().await.is_err() {
    ///     caller.refund(REQUESTS, 10).await?; // what POST /v1/reports costs
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn refund(&self, unit: &str, units: u64) -> Result<(), ChargeError> {
        self.check_unit(unit)?;
        let key_services = self.key.key_services();
        let rules = key_services.enforcer.rules.of(&self.request_limits);
        // Whatever limits there are: usage has counted the units also of a key without any.
        if let Some((number, counted)) = rules.counted_unit(unit, &self.request_limits) {
            let taken_back = self.receipt.take_back(number, counted, units);
            self.count_units(unit, -signed(taken_back));
        }
        if self.receipt.has_no_charge() {
            return Ok(());
        }
        let key = self.key.charged_key(self.key_id());
        let (limits, receipt) = (&self.request_limits, &self.receipt);
        key_services
            .refund(key, limits, receipt, Some(unit), units)
            .await?;
        Ok(())
    }

    /// Charges this request more units, if its cost is known only after the work. Every limit that
    /// applied to the request and counts this [unit](crate::limit::Limit::unit) is charged the
    /// units, or the rest of its budget if that is less.
    ///
    /// The work is done, so `charge` never denies; the next request may be denied. After an error,
    /// log it and send the response all the same.
    ///
    /// # Errors
    ///
    /// [`ChargeError::UnknownUnit`] if no limit of this [`ApiKeys`](crate::ApiKeys) counts the
    /// unit. [`ChargeError::Limiter`] if the limiter failed: each limit may have been charged or
    /// not, so do not try again.
    ///
    /// ```
    /// # use tower_api_key::limit::ChargeError;
    /// # use tower_api_key::Caller;
    /// # async fn answer() -> u64 { 120 }
    /// # async fn handler(caller: Caller) -> Result<(), ChargeError> {
    /// let tokens = answer().await;
    /// caller.charge("tokens", tokens).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn charge(&self, unit: &str, units: u64) -> Result<(), ChargeError> {
        self.check_unit(unit)?;
        self.count_units(unit, signed(units));
        let key = self.key.charged_key(self.key_id());
        let key_services = self.key.key_services();
        key_services
            .charge(key, &self.request_limits, unit, units)
            .await?;
        Ok(())
    }

    /// Counts units for the [usage](crate::usage) of the key, without charging a limit: for a bill,
    /// such as megabytes that were sent. [`charge`](Self::charge) and [`refund`](Self::refund) count
    /// their units themselves.
    ///
    /// Name few units. At most 16 names are counted for each key at a time, and those beyond as
    /// `other`. The name is 1 to 255 bytes; units with another name are left out. Nothing is counted
    /// without a [worker](crate::ApiKeys::worker).
    ///
    /// ```
    /// # use tower_api_key::Caller;
    /// # fn handler(caller: Caller, body: &[u8]) {
    /// caller.count("bytes", body.len() as u64);
    /// # }
    /// ```
    pub fn count(&self, unit: &str, units: u64) {
        let is_name = (1..=255).contains(&unit.len()) && !unit.contains('\0');
        if is_name {
            self.count_units(unit, signed(units));
        }
    }

    fn count_units(&self, unit: &str, units: i64) {
        if units == 0 {
            return;
        }
        if let Some(meter) = self.key.meter() {
            meter.add_units(self.key.key_services().clock.now(), unit, units);
        }
    }

    /// Returns the current state of the limits that apply to this request, without charging them:
    /// for a dashboard, or to plan work. Units that [`charge`](Self::charge) took are counted.
    ///
    /// A route that shows the limits is itself denied when they are used up. Let it [cost
    /// 0](crate::Limits::add_cost).
    ///
    /// ```
    /// # use tower_api_key::limit::LimiterError;
    /// # use tower_api_key::Caller;
    /// # async fn handler(caller: Caller) -> Result<(), LimiterError> {
    /// for limit in caller.limits().await? {
    ///     println!("{}: {} of {} {} left", limit.name, limit.remaining, limit.quota, limit.unit);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn limits(&self) -> Result<Vec<LimitStatus>, LimiterError> {
        let key = self.key.charged_key(self.key_id());
        self.key
            .key_services()
            .peek(key, &self.request_limits)
            .await
    }

    fn check_unit(&self, unit: &str) -> Result<(), ChargeError> {
        if self
            .key
            .key_services()
            .enforcer
            .rules
            .of(&self.request_limits)
            .knows_unit(unit)
        {
            return Ok(());
        }
        Err(ChargeError::UnknownUnit(unit.to_owned()))
    }

    fn lacks(&self, required: RequiredScopes) -> Rejection {
        let rejection = Rejection::InsufficientScope { required };
        let key_services = self.key.key_services();
        let at = || key_services.clock.now();
        trace::refused(&key_services.refusals, at, || Refusal {
            code: rejection.code(),
            key_id: Some(self.key_id().to_string()),
            account: Some(self.account()),
            plan: self.plan(),
            ..Refusal::default()
        });
        rejection
    }

    pub(crate) fn key(&self) -> &Arc<CachedKey> {
        &self.key
    }

    /// Returns whether these keys verified the caller. Another `ApiKeys` in the same stack decides
    /// for itself.
    pub(crate) fn belongs_to(&self, key_services: &Arc<KeyServices>) -> bool {
        Arc::ptr_eq(self.key.key_services(), key_services)
    }
}

fn signed(units: u64) -> i64 {
    i64::try_from(units).unwrap_or(i64::MAX)
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller")
            .field("key_id", &self.key_id())
            .field("account", &self.account())
            .field("organization", &self.organization())
            .field("environment", &self.environment().as_str())
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}
