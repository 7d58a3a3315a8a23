//! The breaker: while Redis does not answer, it is not asked, so that it costs requests no time.
//!
//! Pure state over instants of the monotonic clock. It trips when five calls are unanswered, the
//! oldest of them for longer than the time limit, or when there is no connection. It closes when a
//! probe is answered in time, and then lets more calls at once through with each answer, so that a
//! server that comes back is not met by all of them.

use std::time::Duration;

/// The unanswered calls at which the breaker trips.
const UNANSWERED: u32 = 5;

/// The calls at once after the breaker has closed.
const FIRST_CALLS: u32 = 10;

/// The most calls at once.
const MOST_CALLS: u32 = 4_096;

/// The time without an answer, while calls wait for one, after which a connection is dropped.
const DEAD_AFTER: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Breaker {
    /// The time limit of a call.
    limit: Duration,
    state: State,
    in_flight: u32,
    /// The calls since the last answer, and when the first of them was sent.
    unanswered: u32,
    unanswered_since: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Calls are sent, up to this number at once.
    Closed {
        most: u32,
    },
    Open,
    /// There was no connection yet.
    New,
}

/// Why a call was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotSent {
    #[error("Redis does not answer, and is asked again when it does")]
    Open,
    #[error("there is no connection to Redis yet")]
    New,
    /// After an outage: room is soon made.
    #[error("Redis has just come back, and is not asked by all at once")]
    Later,
    #[error("too many calls wait for Redis")]
    TooMany,
    #[error("Redis is called outside of a runtime of tokio")]
    NoRuntime,
}

impl Breaker {
    /// Creates a breaker that is open until there is a connection.
    pub(super) const fn new(limit: Duration) -> Self {
        Self {
            limit,
            state: State::New,
            in_flight: 0,
            unanswered: 0,
            unanswered_since: Duration::ZERO,
        }
    }

    /// Sets the time limit of a call.
    pub(super) const fn set_limit(&mut self, limit: Duration) {
        self.limit = limit;
    }

    pub(super) const fn is_open(&self) -> bool {
        !matches!(self.state, State::Closed { .. })
    }

    /// Registers a call that is sent now. An error if it must not be sent.
    pub(super) fn send(&mut self, now: Duration) -> Result<(), NotSent> {
        self.may_send(now)?;
        self.in_flight += 1;
        self.register(now);
        Ok(())
    }

    /// Finds out whether a call may be sent now. An error if not.
    pub(super) fn may_send(&mut self, now: Duration) -> Result<(), NotSent> {
        if self.unanswered >= UNANSWERED && now.saturating_sub(self.unanswered_since) >= self.limit
        {
            self.state = State::Open;
        }
        match self.state {
            State::Open => Err(NotSent::Open),
            State::New => Err(NotSent::New),
            State::Closed { .. } if self.in_flight >= MOST_CALLS => Err(NotSent::TooMany),
            State::Closed { most } if self.in_flight >= most => Err(NotSent::Later),
            State::Closed { .. } => Ok(()),
        }
    }

    /// Registers a call that is sent whatever the state: a probe.
    pub(super) const fn register(&mut self, now: Duration) {
        if self.unanswered == 0 {
            self.unanswered_since = now;
        }
        self.unanswered = self.unanswered.saturating_add(1);
    }

    /// Registers the answer to a call that was sent at a time. Late answers do not count.
    pub(super) fn answer(&mut self, sent: Duration, now: Duration) {
        if now.saturating_sub(sent) > self.limit {
            return;
        }
        self.unanswered = 0;
        if let State::Closed { most } = &mut self.state {
            *most = most.saturating_mul(2).min(MOST_CALLS);
        }
    }

    /// Takes back the registration of a call that was sent at a time, and that nobody waits for any
    /// more: that tells nothing about the server.
    pub(super) fn cancel(&mut self, sent: Duration) {
        // One that was sent before the last answer is not counted any more.
        if sent >= self.unanswered_since {
            self.unanswered = self.unanswered.saturating_sub(1);
        }
    }

    /// Registers that a call is over, answered or not.
    pub(super) const fn end(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// Closes the breaker: a probe was answered in time.
    pub(super) const fn close(&mut self) {
        self.unanswered = 0;
        let most = match self.state {
            State::Closed { most } => most,
            State::Open => FIRST_CALLS,
            // A server that was not down has no crowd to fear.
            State::New => MOST_CALLS,
        };
        self.state = State::Closed { most };
    }

    /// Opens the breaker: the connection was lost, or cannot be had.
    pub(super) const fn open(&mut self) {
        self.state = State::Open;
    }

    /// Returns whether the connection is dead: no call was answered for too long.
    pub(super) fn is_dead(&self, now: Duration) -> bool {
        self.unanswered > 0 && now.saturating_sub(self.unanswered_since) >= DEAD_AFTER
    }

    /// Forgets the calls on a connection that was dropped.
    pub(super) const fn forget_calls(&mut self) {
        self.unanswered = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(250);

    fn at(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn closed() -> Breaker {
        let mut breaker = Breaker::new(LIMIT);
        assert_eq!(breaker.send(at(0)), Err(NotSent::New));
        breaker.open();
        breaker.close();
        breaker
    }

    #[test]
    fn the_sixth_call_to_a_hung_server_is_not_sent() {
        let mut breaker = closed();
        for call in 0..5 {
            breaker.send(at(call * 250)).unwrap();
            breaker.end();
        }
        assert_eq!(breaker.send(at(1_250)), Err(NotSent::Open));
        assert!(!breaker.is_dead(at(1_999)) && breaker.is_dead(at(2_000)));
        // An answer that comes late changes nothing, and one in time does.
        breaker.answer(at(1_000), at(1_251));
        assert_eq!(breaker.send(at(1_251)), Err(NotSent::Open));
        breaker.close();
        breaker.send(at(1_252)).unwrap();
    }

    #[test]
    fn calls_at_once_trip_only_when_they_are_late() {
        let mut breaker = closed();
        for _ in 0..10 {
            breaker.send(at(0)).unwrap();
        }
        assert_eq!(breaker.send(at(249)), Err(NotSent::Later));
        breaker.answer(at(0), at(249));
        breaker.send(at(249)).unwrap();
        for _ in 0..9 {
            breaker.send(at(250)).unwrap(); // 20 at once
        }
        assert_eq!(breaker.send(at(498)), Err(NotSent::Later));
        assert_eq!(breaker.send(at(499)), Err(NotSent::Open));
    }

    #[test]
    fn more_calls_are_let_through_with_each_answer() {
        let mut breaker = closed();
        let mut most = 10;
        while most < MOST_CALLS {
            for _ in 0..most {
                breaker.send(at(0)).unwrap();
            }
            assert_eq!(breaker.send(at(0)), Err(NotSent::Later));
            breaker.answer(at(0), at(1));
            for _ in 0..most {
                breaker.end();
            }
            most = (most * 2).min(MOST_CALLS);
        }
        for _ in 0..MOST_CALLS {
            breaker.send(at(0)).unwrap();
        }
        assert_eq!(breaker.send(at(0)), Err(NotSent::TooMany));
        // At first, without an outage, as many at once.
        let mut first = Breaker::new(LIMIT);
        first.close();
        for _ in 0..MOST_CALLS {
            first.send(at(0)).unwrap();
        }
    }
}
