//! Who calls: what a handler learns about the application behind a key.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use crate::cache::KnownKey;
use crate::http::carriers::Carriers;
use crate::http::rejection::Rejection;
use crate::key::digest::KeyId;
use crate::key::environment::Environment;
use crate::key::kind::KeyKind;
use crate::key::lifecycle::{KeyStatus, Lifecycle};
use crate::key::scope::{RequiredScopes, Scope, ScopeSet};
use crate::limit::limiter::LimiterError;
use crate::limit::metering::{ChargeError, LimitStatus, Metering};
use crate::limit::refund::Receipt;
use crate::limit::rulebook::Bound;
use crate::util::trace::{self, Refusal};

/// The application that a request comes from, proved by its key. Never a person.
///
/// The layer puts it into the request's extensions; with the feature `axum` it is an extractor.
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
    key: Arc<KnownKey>,
    lifecycle: Lifecycle,
    carriers: Carriers,
    /// What the limits know of the request.
    bound: Bound,
    /// What its charges may give back, if any were taken.
    receipt: Option<Receipt>,
}

/// The kind of place in a request that a key stood in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeyCarrier {
    /// `Authorization`, under any scheme.
    Authorization,
    /// A header that is made for keys, such as `X-API-Key`.
    Header,
    /// A parameter of the URL, which proxies, browsers and logs keep.
    Query,
}

/// In the extensions of a request that was let through without a key, by a layer of these keys.
#[derive(Debug, Clone)]
pub(crate) struct Anonymous(Arc<Metering>);

impl Anonymous {
    pub(crate) fn new(metering: &Arc<Metering>) -> Self {
        Self(Arc::clone(metering))
    }

    /// Returns whether a layer of these keys let the request through.
    pub(crate) fn belongs_to(&self, metering: &Arc<Metering>) -> bool {
        Arc::ptr_eq(&self.0, metering)
    }
}

impl Caller {
    pub(crate) fn new(
        key: Arc<KnownKey>,
        lifecycle: Lifecycle,
        carriers: Carriers,
        bound: Bound,
        receipt: Option<Receipt>,
    ) -> Self {
        Self {
            key,
            lifecycle,
            carriers,
            bound,
            receipt,
        }
    }

    /// The caller that the layer left in a request's extensions.
    ///
    /// In optional mode, [`Rejection::Missing`] if there was no key; without the layer,
    /// [`Rejection::LayerMissing`], which is the application's mistake and is logged as an error.
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

    /// The public id of the key: safe in logs.
    pub fn key_id(&self) -> KeyId {
        self.key.record().id()
    }

    /// The prefix of the key, such as `sk_live`, where the record knows it.
    pub fn prefix(&self) -> Option<&str> {
        self.key.record().prefix()
    }

    /// The kind of the key: whether anybody can read it.
    pub fn kind(&self) -> KeyKind {
        self.key.kind()
    }

    /// Where the key stood in the request; if it stood in several places, the one that is read by
    /// most others. `None` if it came in no request, by [`ApiKeys::verify`](crate::ApiKeys::verify).
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

    /// What the owner calls the key.
    pub fn key_name(&self) -> Option<&str> {
        self.key.record().name()
    }

    /// The first key of the chain of rotations that the key is in: usage is reported by it.
    pub fn lineage(&self) -> KeyId {
        self.key.record().lineage()
    }

    /// The account: who is limited, metered and billed.
    pub fn account(&self) -> &str {
        self.key.record().account()
    }

    /// The organization that the account belongs to.
    pub fn organization(&self) -> Option<&str> {
        self.key.record().organization()
    }

    /// The environment of the key.
    pub fn environment(&self) -> &Environment {
        self.key.environment()
    }

    /// What the key may do. Of a publishable key, only scopes that are declared publishable.
    pub fn scopes(&self) -> &ScopeSet {
        self.key.record().scopes()
    }

    /// The name of the account's plan, as the record has it. `None` is the default plan.
    pub fn plan(&self) -> Option<&str> {
        self.key.record().plan()
    }

    /// What the application noted about the key when it was issued.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        self.key.record().metadata()
    }

    /// [`KeyStatus::Active`] or [`KeyStatus::Deprecated`], as of this request.
    pub fn status(&self) -> KeyStatus {
        self.lifecycle.status()
    }

    /// When the key expires, if ever.
    pub fn expires_at(&self) -> Option<SystemTime> {
        self.lifecycle.expires_at()
    }

    /// Goes on only if the key holds this scope. A refusal is logged; to merely look, use
    /// [`scopes`](Self::scopes).
    pub fn require(&self, scope: &Scope) -> Result<(), Rejection> {
        if self.scopes().contains(scope) {
            return Ok(());
        }
        Err(self.lacks(scope.clone().into()))
    }

    /// Goes on only if the key holds all of several scopes, or any of them.
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

    /// Gives back what this request was charged, for work that did not happen: this
    /// number of units of each limit that applied to it and counts this
    /// [unit](crate::limit::Limit::unit).
    ///
    /// All clones of a caller together give back no more than the request cost, however often they
    /// are asked to. Give back at once: a refund counts only while its charge does. Of a window or
    /// a calendar period that is over, nothing is given back, and of a smooth quota only what has
    /// not come back by itself.
    ///
    /// Nothing is given back of a request that [`LimiterOutage`](crate::limit::LimiterOutage) decided
    /// about, nor of what [`charge`](Self::charge) took.
    ///
    /// # Errors
    ///
    /// [`ChargeError::UnknownUnit`] if no limit of this [`ApiKeys`](crate::ApiKeys) counts the
    /// unit, and [`ChargeError::Limiter`] if the limiter failed. It may have given back or not then.
    /// What was asked for is gone either way.
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
        let Some(receipt) = &self.receipt else {
            return Ok(()); // nothing was charged
        };
        let key = self.key.holder(self.key_id());
        self.key
            .metering()
            .refund(key, &self.bound, receipt, Some(unit), units)
            .await?;
        Ok(())
    }

    /// Charges this request more, where its cost is known only after the work: this number of
    /// units of each limit that applied to it and counts this [unit](crate::limit::Limit::unit), or what is
    /// left of it.
    /// The work is done, so this denies nothing. The next request may be denied. After an error, log
    /// it, and answer all the same.
    ///
    /// # Errors
    ///
    /// [`ChargeError::UnknownUnit`] if no limit of this [`ApiKeys`](crate::ApiKeys) counts the
    /// unit, and [`ChargeError::Limiter`] if the limiter failed. It may have charged each limit or
    /// not then: do not try again.
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
        let key = self.key.holder(self.key_id());
        let metering = self.key.metering();
        metering.charge(key, &self.bound, unit, units).await?;
        Ok(())
    }

    /// Asks the limiter how the limits stand that bound this request, and charges nothing: for a
    /// dashboard, or to plan work. What [`charge`](Self::charge) took is counted.
    ///
    /// A route that shows them is denied when they are used up, as any other. Let it
    /// [cost 0](crate::Limits::add_cost).
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
        let key = self.key.holder(self.key_id());
        self.key.metering().peek(key, &self.bound).await
    }

    fn check_unit(&self, unit: &str) -> Result<(), ChargeError> {
        if self
            .key
            .metering()
            .limiting
            .rules
            .of(&self.bound)
            .knows_unit(unit)
        {
            return Ok(());
        }
        Err(ChargeError::UnknownUnit(unit.to_owned()))
    }

    fn lacks(&self, required: RequiredScopes) -> Rejection {
        let rejection = Rejection::InsufficientScope { required };
        let metering = self.key.metering();
        let at = || metering.clock.now();
        trace::refused(&metering.refusals, at, || Refusal {
            code: rejection.code(),
            key_id: Some(self.key_id().to_string()),
            account: Some(self.account()),
            plan: self.plan(),
            ..Refusal::default()
        });
        rejection
    }

    pub(crate) fn key(&self) -> &Arc<KnownKey> {
        &self.key
    }

    /// Whether it is a caller of these keys: another `ApiKeys` in the same stack judges for itself.
    pub(crate) fn belongs_to(&self, metering: &Arc<Metering>) -> bool {
        Arc::ptr_eq(self.key.metering(), metering)
    }
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
