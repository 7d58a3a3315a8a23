//! Where the time comes from: [`SystemClock`] in production, [`ManualClock`] in tests.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// The source of time for everything that this crate decides.
///
/// It is read once per request. A clock that is wrong makes keys expire early or late by as much,
/// so the safe failure is to run fast.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a `Clock`",
    note = "use `SystemClock`, or `ManualClock` in tests"
)]
pub trait Clock: Send + Sync + 'static {
    /// The current wall-clock time. It may step backwards.
    fn now(&self) -> SystemTime;
}

/// A shared clock is a clock.
impl<C: Clock + ?Sized> Clock for Arc<C> {
    fn now(&self) -> SystemTime {
        (**self).now()
    }
}

/// The operating system's clock: the default.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}

/// A clock that moves only when it is told to. Clones share the same hands.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use tower_api_key::{ApiKeys, ManualClock};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let clock = ManualClock::at(SystemTime::UNIX_EPOCH);
/// let keys = ApiKeys::builder(tower_api_key::MemoryStore::new())
///     .clock(clock.clone())
///     .build()?;
/// let key = keys.issue("acme").expires_in(Duration::from_secs(60)).await?;
/// clock.advance(Duration::from_secs(60)); // the key has now expired
/// # assert!(key.record().lifecycle(clock.now(), Default::default()).status().is_refused());
/// # Ok(())
/// # }
/// # use tower_api_key::Clock;
/// ```
#[derive(Clone)]
pub struct ManualClock(Arc<Mutex<SystemTime>>);

impl ManualClock {
    /// A clock that stands at `instant`.
    pub fn at(instant: SystemTime) -> Self {
        Self(Arc::new(Mutex::new(instant)))
    }

    /// Moves the clock forwards.
    ///
    /// # Panics
    /// If the result is beyond what [`SystemTime`] can hold.
    pub fn advance(&self, by: Duration) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) += by;
    }

    /// Sets the clock, also backwards.
    pub fn set(&self, instant: SystemTime) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = instant;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> SystemTime {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for ManualClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ManualClock").field(&self.now()).finish()
    }
}
