//! Calls to a server of Redis, over a connection that a task supervises.
//!
//! Clones of a link share the connection. What decides about a call is the
//! [`breaker`](super::breaker); the [`supervisor`](super::supervisor) runs while the link lives, on
//! the runtime of the first call; if that runtime ends, the next call starts another one.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::TryRng;
use rand::rngs::SysRng;
use redis::{Client, Cmd, Value};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::breaker::{Breaker, NotSent};
use super::call_error::CallError;
use super::connection::Connection;
use super::dialing::{Source, is_lost};
use super::server_time::ServerTime;
use super::supervisor::{Shared, State, supervise};
use crate::util::timestamp::nanoseconds;

/// A supervised connection. Clones share it.
#[derive(Clone)]
pub(super) struct Link {
    shared: Arc<Shared>,
    /// Calls are about a slot of a cluster that this server is taking over.
    asks: bool,
}

/// A call that is sent.
struct Sent {
    at: Duration,
    /// The time after which it is refused, in the time of Redis, or 0.
    not_after: i64,
    /// None if it was lost just now.
    connection: Option<Arc<dyn Connection>>,
}

/// A call in flight, which ends when it is dropped.
struct InFlight<'s> {
    shared: &'s Shared,
    sent: Duration,
    /// The call was answered, or the time was up.
    is_over: bool,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.breaker.end();
        if !self.is_over {
            state.breaker.cancel(self.sent);
        }
        drop(state);
        self.shared.room.notify_one();
    }
}

impl Link {
    pub(super) fn new(source: Source, limit: Duration) -> Self {
        Self::since(Instant::now(), source, limit)
    }

    /// Creates a link whose times count from an instant, as those of other links do.
    pub(super) fn since(begun: Instant, source: Source, limit: Duration) -> Self {
        let shared = Shared {
            source,
            limit: AtomicU64::new(nanoseconds(limit)),
            pauses: AtomicU64::new(SysRng.try_next_u64().unwrap_or_default()),
            begun,
            state: Mutex::new(State {
                connection: None,
                tried_at: None,
                breaker: Breaker::new(limit),
                time: ServerTime::default(),
                supervisor: None,
                runtime: None,
            }),
            bell: Notify::new(),
            first: Notify::new(),
            room: Notify::new(),
        };
        Self {
            shared: Arc::new(shared),
            asks: false,
        }
    }

    /// Returns the same link, for calls about a slot that the server is taking over.
    pub(super) fn asking(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            asks: true,
        }
    }

    /// Returns the time since the link was made, or since the instant that its times count from.
    pub(super) fn now(&self) -> Duration {
        self.shared.begun.elapsed()
    }

    /// Returns whether calls are sent.
    pub(super) fn is_up(&self) -> bool {
        !self.shared.state().breaker.is_open()
    }

    /// Returns the client that dials, unless the connection is the application's.
    pub(super) fn client(&self) -> Option<Client> {
        if let Source::Client(client) = &self.shared.source {
            return Some(client.clone());
        }
        None
    }

    /// Returns the runtime of the supervisor.
    pub(super) fn runtime(&self) -> Option<Handle> {
        self.shared.state().runtime.clone()
    }

    /// Returns the time limit of a call.
    pub(super) fn limit(&self) -> Duration {
        self.shared.limit()
    }

    /// Sets the time limit of a call.
    pub(super) fn set_limit(&self, limit: Duration) {
        self.shared
            .limit
            .store(nanoseconds(limit), Ordering::Relaxed);
        self.shared.state().breaker.set_limit(limit);
    }

    /// Makes the pauses follow from a number.
    #[cfg(feature = "testing")]
    pub(super) fn set_pauses(&self, number: u64) {
        self.shared.pauses.store(number, Ordering::Relaxed);
    }

    /// Notes the time of Redis in an answer to a call that was sent at a time.
    pub(super) fn note_time(&self, server: i64, sent: Duration) {
        self.shared.state().time.add(server, sent);
    }

    /// Notes the time of Redis in an answer to a call that it refused as late, but that was in time
    /// here: its clock was set forwards, or another server answers.
    pub(super) fn renew_time(&self, server: i64, sent: Duration, until: Duration) {
        let mut state = self.shared.state();
        // Unless another answer has told so since it was sent.
        if state.time.at(until).is_some_and(|known| known < server) {
            state.time.forget();
        }
        state.time.add(server, sent);
    }

    /// Sends a command, and waits for the answer until a time. `command` makes it from that time in
    /// the time of Redis, or 0 if it is not known. Returns when it was sent, and the answer.
    pub(super) async fn call(
        &self,
        command: impl FnOnce(i64) -> Cmd,
        until: Duration,
    ) -> Result<(Duration, Value), CallError> {
        let shared = &*self.shared;
        let Sent {
            at,
            not_after,
            connection,
        } = self.begin(until).await?;
        let mut in_flight = InFlight {
            shared,
            sent: at,
            is_over: false,
        };
        let Some(connection) = connection else {
            return Err(NotSent::Open.into());
        };
        let command = command(not_after);
        let call = if self.asks {
            connection.call_asking(command)
        } else {
            connection.call(command)
        };
        let answer = timeout(until.saturating_sub(at), call).await;
        in_flight.is_over = true;
        let Ok(answer) = answer else {
            return Err(CallError::Late(shared.limit()));
        };
        match answer {
            Err(error) if is_lost(&error) => {
                shared.lose(&connection);
                Err(error.into())
            }
            answer => {
                let now = self.now();
                shared.state().breaker.answer(at, now);
                Ok((at, answer?))
            }
        }
    }

    /// Waits until a call may be sent. An error if that will not be soon.
    pub(super) async fn ready(&self, until: Duration) -> Result<(), CallError> {
        self.as_soon_as(until, |now| self.look(now)).await
    }

    /// Registers a call, as soon as it may be sent.
    async fn begin(&self, until: Duration) -> Result<Sent, CallError> {
        self.as_soon_as(until, |now| self.send(now, until)).await
    }

    /// Tries something that is refused while no call may be sent.
    async fn as_soon_as<T>(
        &self,
        until: Duration,
        attempt: impl Fn(Duration) -> Result<T, NotSent>,
    ) -> Result<T, CallError> {
        loop {
            let now = self.now();
            if now >= until {
                return Err(CallError::Late(self.limit()));
            }
            let wait = match attempt(now) {
                Ok(done) => return Ok(done),
                Err(NotSent::New) => {
                    self.supervise()?;
                    &self.shared.first
                }
                Err(NotSent::Later) => &self.shared.room,
                Err(NotSent::Open) => {
                    self.supervise()?;
                    return Err(NotSent::Open.into());
                }
                Err(error) => return Err(error.into()),
            };
            // A bell that has just rung is missed; the next look is soon.
            let pause = until.saturating_sub(now).min(Duration::from_millis(5));
            let _ = timeout(pause, wait.notified()).await; // late: the next look decides
        }
    }

    /// Registers a call that is sent now.
    fn send(&self, now: Duration, until: Duration) -> Result<Sent, NotSent> {
        let mut state = self.shared.state();
        let sending = state.breaker.send(now);
        self.wake(sending);
        sending.map(|()| Sent {
            at: now,
            // Not before: while it waited, the first answer may have come, or another server.
            not_after: state.time.at(until).unwrap_or_default(),
            connection: state.connection.clone(),
        })
    }

    /// Finds out whether a call may be sent.
    fn look(&self, now: Duration) -> Result<(), NotSent> {
        let may_send = self.shared.state().breaker.may_send(now);
        self.wake(may_send);
        may_send
    }

    /// Wakes the supervisor, if a call was refused since the breaker is open.
    fn wake(&self, sending: Result<(), NotSent>) {
        if sending == Err(NotSent::Open) {
            self.shared.bell.notify_one();
        }
    }

    /// Starts the supervisor, if none is running.
    fn supervise(&self) -> Result<(), NotSent> {
        let runtime = Handle::try_current().map_err(|_| NotSent::NoRuntime)?;
        let mut state = self.shared.state();
        let runs = state.supervisor.as_ref();
        if runs.is_none_or(JoinHandle::is_finished) {
            let shared = Arc::downgrade(&self.shared);
            state.supervisor = Some(runtime.spawn(supervise(shared)));
            state.runtime = Some(runtime);
        }
        Ok(())
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.state();
        f.debug_struct("Link")
            .field("is_connected", &state.connection.is_some())
            .field("breaker", &state.breaker)
            .finish_non_exhaustive()
    }
}
