//! The supervisor of a connection: a task that dials, asks for the time until Redis answers, and
//! dials again when the connection breaks or is dead.
//!
//! The client by itself would wait for minutes on a connection whose other end is gone, and tries
//! again seconds later at first.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use redis::Value;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

use super::breaker::Breaker;
use super::call_error::CallError;
use super::connection::Connection;
use super::dialing::{Source, is_lost};
use super::info::Info;
use super::server_time::ServerTime;
use crate::util::trace;

/// The least time from an attempt to the next one, to dial or to probe.
const PAUSE: Duration = Duration::from_millis(100);

/// The time between two looks at a connection in use.
const LOOK: Duration = Duration::from_millis(250);

/// What the calls of a link and its supervisor share.
pub(super) struct Shared {
    pub(super) source: Source,
    /// The time limit of a call, in nanoseconds.
    pub(super) limit: AtomicU64,
    /// Makes each pause a different one, and those of each process others.
    pub(super) pauses: AtomicU64,
    pub(super) begun: Instant,
    pub(super) state: Mutex<State>,
    /// Rings when the supervisor has something to do at once.
    pub(super) bell: Notify,
    /// Rings when the first connection answers, or cannot be had.
    pub(super) first: Notify,
    /// Rings when a call is over: another one may be sent.
    pub(super) room: Notify,
}

/// The state of a connection.
pub(super) struct State {
    pub(super) connection: Option<Arc<dyn Connection>>,
    /// When the last attempt to dial or to probe was made.
    pub(super) tried_at: Option<Duration>,
    pub(super) breaker: Breaker,
    pub(super) time: ServerTime,
    pub(super) supervisor: Option<JoinHandle<()>>,
    /// The runtime that the supervisor runs on.
    pub(super) runtime: Option<Handle>,
}

/// Keeps a connection, until the link is dropped.
pub(super) async fn supervise(link: Weak<Shared>) {
    let mut is_down = false;
    loop {
        let Some(shared) = link.upgrade() else { return };
        let known = shared.state().connection.clone();
        let outcome = match known {
            Some(connection) => attend(&shared, &connection).await,
            None => connect(&shared).await,
        };
        let is_open = {
            let mut state = shared.state();
            if outcome.is_err() {
                state.breaker.open();
            }
            state.breaker.is_open()
        };
        shared.first.notify_waiters();
        match outcome {
            Ok(()) if is_down && !is_open => {
                is_down = false;
                trace::redis_is_back(&shared.source.name());
            }
            Err(error) if !is_down => {
                is_down = true;
                trace::redis_is_down(&shared.source.name(), &error);
            }
            _ => {}
        }
        if !is_open {
            // Woken when a call finds the breaker open, or the connection lost.
            let _ = timeout(LOOK, shared.bell.notified()).await; // late: the next look
        }
    }
}

/// Dials, and waits for a first answer.
async fn connect(shared: &Shared) -> Result<(), CallError> {
    shared.pause().await;
    let connection = shared.source.dial().await?;
    // Another server may have another clock.
    shared.state().time.forget();
    shared.probe(&connection).await?;
    {
        let mut state = shared.state();
        state.connection = Some(Arc::clone(&connection));
        state.breaker.close();
    }
    shared.first.notify_waiters();
    shared.warn_of_eviction(&connection).await;
    Ok(())
}

/// Looks after a connection: probes it while the breaker is open and when it was idle for long, and
/// drops it if it is dead.
async fn attend(shared: &Shared, connection: &Arc<dyn Connection>) -> Result<(), CallError> {
    let is_dead = || {
        let now = shared.begun.elapsed();
        shared.state().breaker.is_dead(now)
    };
    let is_idle = {
        let now = shared.begun.elapsed();
        let state = shared.state();
        !state.breaker.is_open() && state.time.is_fresh(now)
    };
    if is_idle && !is_dead() {
        return Ok(());
    }
    shared.pause().await;
    let probed = shared.probe(connection).await;
    match &probed {
        Ok(()) => shared.state().breaker.close(),
        Err(CallError::Redis(error)) if is_lost(error) => shared.lose(connection),
        Err(_) if is_dead() => shared.lose(connection),
        Err(_) => {}
    }
    probed
}

impl Shared {
    pub(super) fn limit(&self) -> Duration {
        Duration::from_nanos(self.limit.load(Ordering::Relaxed))
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives up a connection.
    pub(super) fn lose(&self, lost: &Arc<dyn Connection>) {
        let mut state = self.state();
        let is_current = |it: &Arc<dyn Connection>| Arc::ptr_eq(it, lost);
        if !state.connection.as_ref().is_some_and(is_current) {
            return;
        }
        state.breaker.open();
        state.breaker.forget_calls();
        if !matches!(self.source, Source::Given(_)) {
            state.connection = None;
        }
        drop(state);
        self.bell.notify_one();
    }

    /// Waits until the next attempt may be made: a pause after the last one, or up to half as long
    /// again.
    async fn pause(&self) {
        // Multiples of the golden ratio spread evenly.
        let number = self
            .pauses
            .fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        let part = u32::try_from(number >> 32).unwrap_or_default();
        let pause = PAUSE + PAUSE.mul_f64(f64::from(part) / f64::from(u32::MAX) / 2.0);
        let next = self
            .state()
            .tried_at
            .map_or(Duration::ZERO, |at| at + pause);
        sleep_until(self.begun + next).await;
        self.state().tried_at = Some(self.begun.elapsed());
    }

    /// Asks for the time.
    async fn probe(&self, connection: &Arc<dyn Connection>) -> Result<(), CallError> {
        let sent = self.begun.elapsed();
        self.state().breaker.register(sent);
        let answer = timeout(self.limit(), connection.call(redis::cmd("TIME"))).await;
        let answer = answer.map_err(|_| CallError::Late(self.limit()))??;
        if let Some(time) = time_of(&answer) {
            self.state().time.add(time, sent);
        }
        Ok(())
    }

    /// Logs a warning if Redis may drop budgets. Whoever may not ask for that is not warned.
    async fn warn_of_eviction(&self, connection: &Arc<dyn Connection>) {
        let mut info = redis::cmd("INFO");
        info.arg("memory");
        let Ok(Ok(answer)) = timeout(self.limit(), connection.call(info)).await else {
            return;
        };
        let info = Info::read(&answer);
        let policy = info.field("maxmemory_policy");
        if info.field("maxmemory") != "0" && !policy.is_empty() && policy != "noeviction" {
            trace::redis_evicts(policy);
        }
    }
}

/// Returns the time in an answer to `TIME`, in microseconds.
fn time_of(answer: &Value) -> Option<i64> {
    let Value::Array(parts) = answer else {
        return None;
    };
    let number = |value: &Value| match value {
        Value::BulkString(text) => str::from_utf8(text).ok()?.parse::<i64>().ok(),
        Value::Int(number) => Some(*number),
        _ => None,
    };
    let [seconds, microseconds] = &parts[..] else {
        return None;
    };
    Some(number(seconds)?.saturating_mul(1_000_000) + number(microseconds)?)
}

/// Ends the supervisor when the link is dropped.
impl Drop for Shared {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(supervisor) = &state.supervisor {
            supervisor.abort();
        }
    }
}
