//! Where the time comes from: [`SystemClock`] in production, [`ManualClock`] in tests.

use std::cell::Cell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant, SystemTime};

/// A wait for a [`Clock`].
pub type Sleep = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The source of time for everything that this crate decides.
///
/// Each request reads it once, and again after each wait. If the wall clock is wrong, keys
/// expire early or late by as much, so the safe failure is to run fast.
///
/// A clock of an application's own need only tell the wall-clock time; what else there is, is the
/// operating system's unless it says otherwise.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a `Clock`",
    note = "use `SystemClock`, or `ManualClock` in tests"
)]
pub trait Clock: Send + Sync + 'static {
    /// The current wall-clock time. It may step backwards.
    fn now(&self) -> SystemTime;

    /// The time since a fixed moment. It is never set, and tells how old cached records are.
    fn monotonic(&self) -> Duration {
        START.elapsed()
    }

    /// Reads [`now`](Self::now) and [`monotonic`](Self::monotonic) at one moment, as each request
    /// does. A clock that can tell both at one look spares each request the other.
    fn readings(&self) -> Now {
        Now::new(self.now(), self.monotonic())
    }

    /// Waits for a time: the limit of a load from the store, or of a check by a limiter.
    fn sleep(&self, time: Duration) -> Sleep {
        Box::pin(futures_timer::Delay::new(time))
    }
}

/// Both readings of a [`Clock`] at one moment.
///
/// The wall clock says which day it is, and may be set. The monotonic clock says how much time has
/// gone by, and never goes backwards: rates and windows go by it, so that a step of the wall clock
/// neither empties nor fills a budget.
///
/// It is not `Send`, so no future that holds it across an await can be spawned: an instant from
/// before a wait is the past, and to decide by it would admit what is no longer due.
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
    /// A pointer is not `Send`.
    _stays_here: PhantomData<*const ()>,
}

impl Now {
    /// Two readings that belong together.
    pub const fn new(wall: SystemTime, monotonic: Duration) -> Self {
        Self {
            wall,
            monotonic,
            _stays_here: PhantomData,
        }
    }

    /// The wall-clock time.
    pub const fn wall(&self) -> SystemTime {
        self.wall
    }

    /// The time since a fixed moment, on a clock that is never set.
    pub const fn monotonic(&self) -> Duration {
        self.monotonic
    }
}

/// A shared clock is a clock.
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

/// The operating system's clock: the default.
///
/// To ask the operating system takes longer than to charge a limit. So each thread asks it once in
/// a millisecond, and in between the processor's counter tells how much time has gone by: a step of
/// the wall clock is noticed up to a millisecond late, and what two threads say may differ by as
/// much. Where there is no such counter, or it goes backwards, the operating system takes its
/// place.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

/// What the operating system said, and where the processor's counter stood.
#[derive(Clone, Copy)]
struct Anchor {
    counter: u64,
    wall: SystemTime,
    monotonic: Duration,
}

impl Anchor {
    /// What the clocks say when the counter stands there, as long as it is believed.
    #[inline]
    fn after(self, counter: u64) -> Option<(SystemTime, Duration)> {
        if counter < self.counter {
            return None;
        }
        let since = COUNTER.delta_as_nanos(self.counter, counter);
        let since = u32::try_from(since)
            .ok()
            .filter(|since| *since < BELIEVED)?;
        let since = Duration::new(0, since);
        Some((self.wall + since, self.monotonic + since))
    }

    fn cast(counter: u64) -> Self {
        Self {
            counter,
            wall: SystemTime::now(),
            monotonic: START.elapsed(),
        }
    }
}

static START: LazyLock<Instant> = LazyLock::new(Instant::now);
static COUNTER: LazyLock<quanta::Clock> = LazyLock::new(quanta::Clock::new);

/// For how long the counter is believed, in nanoseconds.
const BELIEVED: u32 = 1_000_000;

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
        // The counter goes first: a thread that is held up before it asks the operating system is
        // fast then, by less than the counter is believed for, and not slow.
        let counter = COUNTER.raw();
        let believed = ANCHOR.get().and_then(|anchor| anchor.after(counter));
        let (wall, monotonic) = believed.unwrap_or_else(|| {
            let anchor = Anchor::cast(counter);
            ANCHOR.set(Some(anchor));
            (anchor.wall, anchor.monotonic)
        });
        // A thread that was fast stands still until the operating system has caught up.
        let monotonic = monotonic.max(LAST.get());
        LAST.set(monotonic);
        Now::new(wall, monotonic)
    }
}

/// What came first of an answer and the end of a time limit: `None` if that was the end.
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
        // What answers at once needs no timer.
        let end = end.get_or_insert_with(|| clock.sleep(limit));
        end.as_mut().poll(cx).map(|()| None)
    })
    .await
}

/// A clock that moves only when it is told to. Clones share the same hands.
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

struct Hands {
    wall: SystemTime,
    monotonic: Duration,
    /// Who waits, and until when.
    sleepers: Vec<(Duration, Waker)>,
}

impl ManualClock {
    /// A clock that stands at `instant`.
    pub fn at(instant: SystemTime) -> Self {
        Self(Arc::new(Mutex::new(Hands {
            wall: instant,
            monotonic: Duration::ZERO,
            sleepers: Vec::new(),
        })))
    }

    /// Lets time go by: the wall clock and the monotonic one move forwards, and those who slept
    /// for long enough wake up.
    ///
    /// # Panics
    /// If the result is beyond what [`SystemTime`] can hold.
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

    /// Sets the wall clock, also backwards. No time goes by.
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
            // Whoever is polled again and again sleeps but once.
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

    /// It is never slow, however often this thread is held up.
    #[test]
    fn between_two_looks_the_counter_tells_the_time() {
        let slack = Duration::from_micros(500);
        for _ in 0..200_000 {
            let asked = Anchor::cast(0);
            let now = SystemClock.readings();
            assert!(now.wall() + slack > asked.wall && now.monotonic() + slack > asked.monotonic);
            let later = SystemClock.readings().wall();
            let asked = Anchor::cast(0);
            assert!(later < asked.wall + Duration::new(0, BELIEVED) + slack);
        }
    }

    /// However often it asks the operating system anew.
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
    fn both_hands_are_read_at_once() {
        let clock = ManualClock::at(SystemTime::UNIX_EPOCH);
        clock.advance(Duration::from_secs(3));
        clock.set(SystemTime::UNIX_EPOCH);
        let shared: Arc<dyn Clock> = Arc::new(clock);
        let expected = Now::new(SystemTime::UNIX_EPOCH, Duration::from_secs(3));
        assert_eq!(shared.readings(), expected);
        assert_eq!(Now::new(shared.now(), shared.monotonic()), expected);
    }
}
