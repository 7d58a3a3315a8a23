//! The doorbell of a feed: a notification says that there is a change, and no more.
//!
//! It is never relied on. Whether somebody rings or not, the feed looks for changes at each
//! interval; the ring only makes it look at once. So a ring that is lost costs an interval, and a
//! ring for nothing costs a look.

use std::time::Duration;

use sqlx::postgres::PgPool;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::listener::{Listener, NotListening};
use crate::util::trace;

/// The least time between two looks, however often somebody rings.
const LEAST_INTERVAL: Duration = Duration::from_millis(5);

/// The time between two attempts to listen, doubled for each one that failed, up to the longest.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The failed attempts after which a warning is logged.
const FAILURES: u32 = 3;

/// A doorbell. It is served while somebody waits for a ring; a clone is another doorbell.
#[derive(Debug, Default)]
pub(super) struct Doorbell(Mutex<Line>);

impl Clone for Doorbell {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Doorbell {
    /// Waits for a ring, at most so long. `looked_at` is when the last look for changes began.
    ///
    /// Returns whether it was silent: it listened all the time, and nobody rang. One caller at a
    /// time can listen, and others wait for the time to pass. The future may be dropped at any
    /// time.
    pub(super) async fn wait(
        &self,
        pool: &PgPool,
        channel: &str,
        looked_at: Instant,
        limit: Duration,
    ) -> bool {
        let Ok(mut line) = self.0.try_lock() else {
            sleep(limit).await;
            return false;
        };
        let was_open = line.is_open();
        if timeout(limit, line.ring(pool, channel)).await.is_err() {
            return was_open && line.is_open();
        }
        // Who rings until the next look may begin, rings for that one.
        let pause = LEAST_INTERVAL.saturating_sub(looked_at.elapsed());
        let more = async {
            loop {
                line.ring(pool, channel).await;
            }
        };
        let _: Result<(), _> = timeout(pause, more).await;
        false
    }

    /// Notes that a look has found a change, though it was silent before.
    pub(super) fn doubt(&self) {
        let Ok(mut line) = self.0.try_lock() else {
            return;
        };
        if let State::Open(listener) = &mut line.state {
            listener.doubt();
        }
    }
}

/// The connection of a doorbell, and what became of those before.
#[derive(Debug, Default)]
struct Line {
    state: State,
    /// The last attempt to listen.
    tried_at: Option<Instant>,
    /// The attempts that came to nothing since somebody rang.
    failures: u32,
    is_warned: bool,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Closed,
    Opening(Opening),
    Open(Listener),
}

impl Line {
    const fn is_open(&self) -> bool {
        matches!(self.state, State::Open(_))
    }

    /// Waits for a ring. Connects before that, if need be, as often as need be.
    async fn ring(&mut self, pool: &PgPool, channel: &str) {
        loop {
            match &mut self.state {
                State::Closed => {
                    if let Some(at) = self.tried_at {
                        sleep_until(at + self.pause()).await;
                    }
                    self.tried_at = Some(Instant::now());
                    self.state = State::Opening(Opening::begin(pool, channel));
                }
                State::Opening(opening) => match opening.end().await {
                    Ok(listener) => {
                        self.open(listener);
                        // Nobody told of the changes before.
                        return;
                    }
                    Err(error) => self.fail(&error),
                },
                State::Open(listener) => match listener.ring().await {
                    Ok(()) => {
                        self.failures = 0;
                        return;
                    }
                    Err(error) => self.lose(&error),
                },
            }
        }
    }

    fn pause(&self) -> Duration {
        let doubled = PAUSE.saturating_mul(1 << self.failures.min(16));
        doubled.min(LONGEST_PAUSE)
    }

    fn open(&mut self, listener: Listener) {
        self.state = State::Open(listener);
        if self.is_warned {
            self.is_warned = false;
            trace::listening_works();
        }
    }

    /// Notes a failed attempt. What cannot pass by itself is logged at once.
    fn fail(&mut self, error: &NotListening) {
        self.state = State::Closed;
        self.failures += 1;
        let is_certain = matches!(error, NotListening::Shared | NotListening::Unheard);
        if !self.is_warned && (is_certain || self.failures >= FAILURES) {
            self.is_warned = true;
            trace::listening_fails(error);
        }
    }

    /// Closes a connection that hears nothing any more. Where changes are not told of, another one
    /// may hear nothing either, so that is a failure.
    fn lose(&mut self, error: &NotListening) {
        self.state = State::Closed;
        if matches!(error, NotListening::Deaf) {
            self.failures += 1;
        }
    }
}

/// A connection that is being opened, on a task: a wait for it may end before it, and it has a time
/// limit of its own.
#[derive(Debug)]
struct Opening(JoinHandle<Result<Listener, NotListening>>);

impl Opening {
    fn begin(pool: &PgPool, channel: &str) -> Self {
        let (options, channel) = (pool.connect_options(), channel.to_owned());
        Self(tokio::spawn(async move {
            Listener::open(&options, &channel).await
        }))
    }

    async fn end(&mut self) -> Result<Listener, NotListening> {
        let ended = (&mut self.0).await;
        ended.unwrap_or_else(|error| Err(NotListening::Failed(error.to_string())))
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        self.0.abort();
    }
}
