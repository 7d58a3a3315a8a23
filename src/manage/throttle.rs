//! Throttling keys, and ending their throttles.

use std::future::IntoFuture;
use std::time::SystemTime;

use crate::key::containment::Throttling;
use crate::key::digest::KeyId;
use crate::key::quota::Quota;
use crate::key::record::KeyRecord;
use crate::manage::change::{ChangeError, with_default_reason};
use crate::manage::{BoxFuture, Manager};
use crate::store::{Action, Origin};

/// A throttle of a key, carried out when awaited: [`ApiKeys::throttle`](crate::ApiKeys::throttle).
///
/// Returns the record after the change. The quota is charged in addition to all other limits, under
/// the name `throttle`, and answers tell of it as of any limit. A throttle replaces the one before.
///
/// ```
/// # use std::time::Duration;
/// # use tower_api_key::{ApiKeys, Quota};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let keys = ApiKeys::in_memory();
/// let key = keys.issue("acme").await?;
/// let tomorrow = keys.now() + Duration::from_secs(86_400);
/// keys.throttle(key.id(), Quota::per_minute(10), tomorrow).reason("a runaway script").await?;
/// keys.unthrottle(key.id()).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "nothing is throttled until this is awaited"]
pub struct ThrottleKey {
    manager: Manager,
    id: KeyId,
    quota: Quota,
    until: SystemTime,
    origin: Origin,
    reason: Option<String>,
}

impl ThrottleKey {
    pub(crate) fn new(manager: Manager, id: KeyId, quota: Quota, until: SystemTime) -> Self {
        Self {
            manager,
            id,
            quota,
            until,
            origin: Origin::default(),
            reason: None,
        }
    }

    /// Sets the origin of the change, for the audit trail. Default: unknown.
    pub fn by(mut self, origin: impl Into<Origin>) -> Self {
        self.origin = origin.into();
        self
    }

    /// Sets the reason, for the operators of the service. Callers are not told.
    pub fn reason(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(reason.into());
        self
    }
}

impl IntoFuture for ThrottleKey {
    type Output = Result<KeyRecord, ChangeError>;
    type IntoFuture = BoxFuture<Result<KeyRecord, ChangeError>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let origin = with_default_reason(self.origin, self.reason.as_ref());
            let throttling = Throttling::new(self.quota, self.until).with_reason(self.reason);
            let throttle = |key: &KeyRecord| {
                let changed = key.clone().with_throttled(throttling.clone()).rounded();
                (changed != *key).then_some(changed)
            };
            self.manager
                .update(self.id, origin, Action::THROTTLED, throttle)
                .await
        })
    }
}

/// The end of a throttle, carried out when awaited:
/// [`ApiKeys::unthrottle`](crate::ApiKeys::unthrottle).
///
/// Returns the record after the change. A key without a throttle does not change.
#[derive(Debug)]
#[must_use = "no throttle is ended until this is awaited"]
pub struct UnthrottleKey {
    manager: Manager,
    id: KeyId,
    origin: Origin,
}

impl UnthrottleKey {
    pub(crate) fn new(manager: Manager, id: KeyId) -> Self {
        Self {
            manager,
            id,
            origin: Origin::default(),
        }
    }

    /// Sets the origin of the change, for the audit trail. Default: unknown.
    pub fn by(mut self, origin: impl Into<Origin>) -> Self {
        self.origin = origin.into();
        self
    }
}

impl IntoFuture for UnthrottleKey {
    type Output = Result<KeyRecord, ChangeError>;
    type IntoFuture = BoxFuture<Result<KeyRecord, ChangeError>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let unthrottle = |key: &KeyRecord| {
                let key = key.throttled().is_some().then(|| key.clone())?;
                Some(key.with_throttled(None))
            };
            self.manager
                .update(self.id, self.origin, Action::UNTHROTTLED, unthrottle)
                .await
        })
    }
}
