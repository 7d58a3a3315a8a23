//! Clocks: [`SystemClock`] in production, [`ManualClock`] in tests.

use std::cell::Cell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant, SystemTime};

/// The future of [`Clock::sleep`].
pub type Sleep = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A clock: the source of time for all decisions of this crate.
///
/// Each request reads the clock once, and again after each wait. If the wall clock is wrong, keys
/// expire early or late by the same time, so the safe failure is to run fast.
///
/// An application's own clock needs only [`now`](Self::now). The other methods use the operating
/// system's clock by default.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a `Clock`",
    note = "use `SystemClock`, or `ManualClock` in tests"
)]
pub trait Clock: Send + Sync + 'static {
    /// Returns the current wall-clock time. It may step backwards.
    fn now(&self) -> SystemTime;

    /// Returns the time since a fixed instant. It never goes backwards. The age of cached records,
    /// rates and windows are measured with it. Default: the operating system's monotonic clock.
    fn monotonic(&self) -> Duration {
        START.elapsed()
    }

    /// Returns [`now`](Self::now) and [`monotonic`](Self::monotonic) at the same instant. Each
    /// request calls this. Default: calls both. Override it if one reading of the clock gives both
    /// times.
    fn readings(&self) -> Now {
        Now::new(self.now(), self.monotonic())
    }

    /// Waits for a time: the time limit of a call of the store or of a limiter. Default: a timer of
    /// the operating system's clock, which needs no runtime.
    fn sleep(&self, time: Duration) -> Sleep {
        Box::pin(futures_timer::Delay::new(time))
    }
}

/// Both readings of a [`Clock`] at the same instant.
///
/// The wall clock has the date, and may be set. The monotonic clock measures elapsed time, and
/// never goes backwards. Rates and windows use the monotonic clock, so that a step of the wall
/// clock neither empties nor fills a budget.
///
/// `Now` is not `Send`, so a future that holds it across an await cannot be spawned on a thread
/// pool. After a wait the readings are out of date, and a decision by them could admit an expired
/// key.
///
/// ```
/// use tower_api_key::clock::{Clock, SystemClock};
///
/// let now = SystemClock.readings();
/// assert!(SystemClock.readings().monotonic() >= now.monotonic());
/// ```
///
/// ```compile_fail
/// # use tower_api_key::clock::{Clock, SystemClock};
/// fn spawn(_: impl Future<Output = ()> + Send) {}
///
/// spawn(async {
///     let now = SystemClock.readings();
///     std::future::ready(()).await;
///     drop(now);
/// });
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    wall: SystemTime,
    monotonic: Duration,
    /// Makes the type not `Send`.
    _stays_here: PhantomData<*const ()>,
}

impl Now {
    /// Creates the readings of one instant.
    pub const fn new(wall: SystemTime, monotonic: Duration) -> Self {
        Self {
            wall,
            monotonic,
            _stays_here: PhantomData,
        }
    }

    /// Returns the wall-clock time.
    pub const fn wall(&self) -> SystemTime {
        self.wall
    }

    /// Returns the time since a fixed instant, by the monotonic clock.
    pub const fn monotonic(&self) -> Duration {
        self.monotonic
    }
}

/// Forwards to the shared clock.
impl<C: Clock + ?Sized> Clock for Arc<C> {
    fn now(&self) -> SystemTime {
        (**self).now()
    }

    fn monotonic(&self) -> Duration {
        (**self).monotonic()
    }

    fn readings(&self) -> Now {
        (**self).readings()
    }

    fn sleep(&self, time: Duration) -> Sleep {
        (**self).sleep(time)
    }
}

/// The operating system's clock. This is the default.
///
/// A reading of the operating system's clock takes longer than a charge of a limit. So each thread
/// reads that clock at most once in a millisecond, and adds the time by the processor's counter in
/// between. A step of the wall clock is noticed up to a millisecond late, and the readings of two
/// threads may differ by as much. If there is no such counter, or it goes backwards, the operating
/// system's clock is read each time.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

/// The last reading of the operating system's clock, with the processor's counter at that time.
#[derive(Clone, Copy)]
struct Anchor {
    counter: u64,
    wall: SystemTime,
    monotonic: Duration,
}

impl Anchor {
    /// Returns the readings at a value of the counter. Returns `None` if the counter went backwards
    /// or [`MAX_AGE`] has passed.
    #[inline]
    fn readings_at(self, counter: u64) -> Option<(SystemTime, Duration)> {
        if counter < self.counter {
            return None;
        }
        let since = COUNTER.delta_as_nanos(self.counter, counter);
        let since = u32::try_from(since).ok().filter(|since| *since < MAX_AGE)?;
        let since = Duration::new(0, since);
        Some((self.wall + since, self.monotonic + since))
    }

    /// Reads the operating system's clock.
    fn new(counter: u64) -> Self {
        Self {
            counter,
            wall: SystemTime::now(),
            monotonic: START.elapsed(),
        }
    }
}

static START: LazyLock<Instant> = LazyLock::new(Instant::now);
static COUNTER: LazyLock<quanta::Clock> = LazyLock::new(quanta::Clock::new);

/// The maximum age of an anchor, in nanoseconds.
const MAX_AGE: u32 = 1_000_000;

impl Clock for SystemClock {
    #[inline]
    fn now(&self) -> SystemTime {
        self.readings().wall()
    }

    #[inline]
    fn monotonic(&self) -> Duration {
        self.readings().monotonic()
    }

    fn readings(&self) -> Now {
        thread_local! {
            static ANCHOR: Cell<Option<Anchor>> = const { Cell::new(None) };
            static LAST: Cell<Duration> = const { Cell::new(Duration::ZERO) };
        }
        // The counter is read first. A thread that is delayed before it reads the operating
        // system's clock is then fast by the delay, while the anchor is valid, and never slow.
        let counter = COUNTER.raw();
        let extrapolated = ANCHOR.get().and_then(|anchor| anchor.readings_at(counter));
        let (wall, monotonic) = extrapolated.unwrap_or_else(|| {
            let anchor = Anchor::new(counter);
            ANCHOR.set(Some(anchor));
            (anchor.wall, anchor.monotonic)
        });
        // A thread that was fast repeats its last reading until the operating system has caught up.
        let monotonic = monotonic.max(LAST.get());
        LAST.set(monotonic);
        Now::new(wall, monotonic)
    }
}

/// Waits for an answer within a time limit. Returns `None` if the time limit ended first.
pub(crate) async fn within<T>(
    clock: &dyn Clock,
    limit: Duration,
    answer: impl Future<Output = T>,
) -> Option<T> {
    let mut answer = std::pin::pin!(answer);
    let mut end: Option<Sleep> = None;
    poll_fn(|cx| {
        if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
            return Poll::Ready(Some(answer));
        }
        // An immediate answer needs no timer.
        let end = end.get_or_insert_with(|| clock.sleep(limit));
        end.as_mut().poll(cx).map(|()| None)
    })
    .await
}

/// A clock for tests, which moves only when it is advanced or set. Clones share the same time.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use tower_api_key::clock::ManualClock;
/// use tower_api_key::ApiKeys;
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
/// # use tower_api_key::clock::Clock;
/// ```
#[derive(Clone)]
pub struct ManualClock(Arc<Mutex<Hands>>);

/// The time of a manual clock, and the waiting tasks.
struct Hands {
    wall: SystemTime,
    monotonic: Duration,
    /// The tasks that wait, each with the monotonic time at which it wakes up.
    sleepers: Vec<(Duration, Waker)>,
}

impl ManualClock {
    /// Creates a clock at `instant`, with a monotonic time of zero.
    pub fn at(instant: SystemTime) -> Self {
        Self(Arc::new(Mutex::new(Hands {
            wall: instant,
            monotonic: Duration::ZERO,
            sleepers: Vec::new(),
        })))
    }

    /// Advances the wall clock and the monotonic clock, and wakes the tasks whose sleep has ended.
    ///
    /// # Panics
    ///
    /// Panics if a time overflows [`SystemTime`] or [`Duration`].
    pub fn advance(&self, by: Duration) {
        let mut hands = self.hands();
        hands.wall += by;
        hands.monotonic += by;
        let now = hands.monotonic;
        let awake: Vec<_> = hands
            .sleepers
            .extract_if(.., |(until, _)| *until <= now)
            .collect();
        drop(hands);
        for (_, waker) in awake {
            waker.wake();
        }
    }

    /// Sets the wall clock, also backwards. The monotonic clock does not change.
    pub fn set(&self, instant: SystemTime) {
        self.hands().wall = instant;
    }

    fn hands(&self) -> MutexGuard<'_, Hands> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock for ManualClock {
    fn now(&self) -> SystemTime {
        self.hands().wall
    }

    fn monotonic(&self) -> Duration {
        self.hands().monotonic
    }

    fn readings(&self) -> Now {
        let hands = self.hands();
        Now::new(hands.wall, hands.monotonic)
    }

    fn sleep(&self, time: Duration) -> Sleep {
        let clock = self.clone();
        let until = clock.monotonic().saturating_add(time);
        Box::pin(poll_fn(move |cx| {
            let mut hands = clock.hands();
            if hands.monotonic >= until {
                return Poll::Ready(());
            }
            // A task that is polled several times is added once.
            let is_known =
                |(at, waker): &(Duration, Waker)| *at == until && waker.will_wake(cx.waker());
            if !hands.sleepers.iter().any(is_known) {
                hands.sleepers.push((until, cx.waker().clone()));
            }
            Poll::Pending
        }))
    }
}

impl fmt::Debug for ManualClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ManualClock").field(&self.now()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The clock is never slow, even if this thread is delayed.
    #[test]
    fn readings_stay_close_to_the_system_clock() {
        let slack = Duration::from_micros(500);
        for _ in 0..200_000 {
            let system = Anchor::new(0);
            let now = SystemClock.readings();
            assert!(now.wall() + slack > system.wall && now.monotonic() + slack > system.monotonic);
            let later = SystemClock.readings().wall();
            let system = Anchor::new(0);
            assert!(later < system.wall + Duration::new(0, MAX_AGE) + slack);
        }
    }

    /// A new anchor does not set the clock back.
    #[test]
    fn the_monotonic_clock_of_a_thread_never_goes_backwards() {
        let mut last = Duration::ZERO;
        for _ in 0..2_000_000 {
            let now = SystemClock.readings().monotonic();
            assert!(now >= last, "{now:?} after {last:?}");
            last = now;
        }
    }

    #[test]
    fn wall_and_monotonic_time_are_read_together() {
        let clock = ManualClock::at(SystemTime::UNIX_EPOCH);
        clock.advance(Duration::from_secs(3));
        clock.set(SystemTime::UNIX_EPOCH);
        let shared: Arc<dyn Clock> = Arc::new(clock);
        let expected = Now::new(SystemTime::UNIX_EPOCH, Duration::from_secs(3));
        assert_eq!(shared.readings(), expected);
        assert_eq!(Now::new(shared.now(), shared.monotonic()), expected);
    }
}
