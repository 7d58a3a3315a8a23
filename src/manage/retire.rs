//! The end of keys that nobody uses.

use std::future::IntoFuture;
use std::time::{Duration, SystemTime};

use crate::key::record::KeyRecord;
use crate::key::text::KeyRecordError;
use crate::manage::pages::KeyPages;
use crate::manage::{BoxFuture, Manager};
use crate::store::{
    Action, Change, Event, KeyQuery, KeyState, ListedKey, Origin, Paging, StoreError,
    StoreErrorKind, TrailQuery,
};
use crate::util::timestamp;

/// The shortest time without a use after which a key may be ended.
pub(crate) const SHORTEST_IDLE: Duration = Duration::from_secs(86_400);

/// The keys that are read at a time.
const AT_ONCE: u32 = 200;

/// The end of idle keys, carried out when awaited:
/// [`ApiKeys::retire_idle`](crate::ApiKeys::retire_idle).
///
/// A live key ends if it was not used for the time, was issued and worked before that, and was not
/// changed since. It expires; it is not revoked, so an [update](crate::ApiKeys::update) of its
/// expiry brings it back. Each key has an event `api_key.retired` in the same commit. A key without
/// a record of its last change in the trail is not ended.
///
/// Danger: uses are recorded by [workers](crate::ApiKeys::worker). Keys that are used only in a
/// process without a worker, or of [`ApiKeys::read_only`](crate::ApiKeys::read_only), look idle,
/// and are ended. So do keys whose uses are from before the workers ran.
///
/// Returns the number of keys that were ended.
///
/// ```
/// # use std::time::Duration;
/// # use tower_api_key::store::Actor;
/// # use tower_api_key::ApiKeys;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let keys = ApiKeys::in_memory();
/// let month = Duration::from_secs(31 * 86_400);
/// let ended = keys.retire_idle(month).rotated_only().by(Actor::service("cron")).await?;
/// println!("{ended} old keys were not in use any more");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "nothing is ended until this is awaited"]
pub struct RetireIdle {
    manager: Manager,
    idle: Duration,
    account: Option<String>,
    is_rotated: bool,
    origin: Origin,
}

/// An error for idle keys that were not all ended. Repeat the call.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum RetireError {
    /// The time without a use is too short: an outage may have kept uses from being recorded.
    #[error("keys are ended after a day without a use, or later: set a longer time")]
    TooShort,
    /// The origin has a value that not every store can keep.
    #[error(transparent)]
    Invalid(#[from] KeyRecordError),
    /// The store failed after some keys were ended.
    #[error("the idle keys could not all be ended")]
    Store(#[from] StoreError),
}

impl RetireIdle {
    pub(crate) fn new(manager: Manager, idle: Duration) -> Self {
        Self {
            manager,
            idle,
            account: None,
            is_rotated: false,
            origin: Origin::default(),
        }
    }

    /// Ends only keys of an account. Default: of any.
    pub fn of_account(mut self, account: impl Into<String>) -> Self {
        self.account = Some(account.into());
        self
    }

    /// Ends only keys that were rotated: see
    /// [`KeyQuery::safe_to_remove`](crate::store::KeyQuery::safe_to_remove). Default: all keys.
    pub fn rotated_only(mut self) -> Self {
        self.is_rotated = true;
        self
    }

    /// Sets the origin of the change, for the audit trail. Default: unknown.
    pub fn by(mut self, origin: impl Into<Origin>) -> Self {
        self.origin = origin.into();
        self
    }

    async fn retire(self) -> Result<u64, RetireError> {
        if self.idle < SHORTEST_IDLE {
            return Err(RetireError::TooShort);
        }
        let now = timestamp::microseconds_down(self.manager.shared.now());
        let Some(since) = now.checked_sub(self.idle) else {
            return Ok(0); // nothing is as old as that
        };
        let query = KeyQuery::new()
            .with_account(self.account.clone())
            .with_state(KeyState::Live, now)
            .idle_since(since)
            .leave_out_unreadable();
        let query = if self.is_rotated {
            query.rotated_only()
        } else {
            query
        };
        let store = self.manager.store.clone();
        let mut pages = KeyPages::new(store, query, AT_ONCE);
        let mut ended = 0;
        while let Some(page) = pages.next().await? {
            for key in page {
                if self.is_unchanged_since(&key.record, since).await? {
                    let now = timestamp::microseconds_down(self.manager.shared.now());
                    ended += u64::from(self.end(&key, now).await?);
                }
            }
        }
        Ok(ended)
    }

    /// Returns whether the last change of a key was before a time. A key that was just imported, or
    /// brought back, is not idle, however old it is.
    async fn is_unchanged_since(
        &self,
        key: &KeyRecord,
        since: SystemTime,
    ) -> Result<bool, StoreError> {
        let last = TrailQuery::new().with_key(key.id()).newest_first();
        let last = self.manager.store.trail(&last, &Paging::first(1)).await?;
        let last = last.items.first();
        Ok(last.is_some_and(|last| last.version == key.version() && last.at < since))
    }

    /// Ends a key. Returns whether it was still as it was seen.
    async fn end(&self, key: &ListedKey, now: SystemTime) -> Result<bool, RetireError> {
        let record = &key.record;
        let last_used_at = key.last_used_at.map(timestamp::rfc3339);
        let more = [
            ("last_used_at", last_used_at.into()),
            ("idle_days", (self.idle.as_secs() / 86_400).into()),
            ("actor_kind", self.origin.actor.kind.as_str().into()),
        ];
        let ended = record.clone().with_expires_at(now);
        let event = Event::of_key(Action::RETIRED.as_str(), &ended, now, more);
        let change = Change::new(self.origin.clone(), now)
            .update(Action::RETIRED, record, ended)?
            .add_event(event)?;
        match self.manager.commit(change).await {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == StoreErrorKind::Conflict => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl IntoFuture for RetireIdle {
    type Output = Result<u64, RetireError>;
    type IntoFuture = BoxFuture<Result<u64, RetireError>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.retire())
    }
}
