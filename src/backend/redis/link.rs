//! The connection to Redis, and its supervision.
//!
//! A task dials, asks for the time until Redis answers, and dials again when the connection breaks
//! or is dead: the client by itself would wait for minutes on a connection whose other end is gone,
//! and tries again seconds later at first. The task runs while the link lives, on the runtime of
//! the first call; if that runtime ends, the next call starts another one.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use rand::TryRng;
use rand::rngs::SysRng;
use redis::{AsyncConnectionConfig, Client, Cmd, ErrorKind, RedisError, ServerErrorKind, Value};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::breaker::{Breaker, NotSent};
use super::connection::Connection;
use super::info::Info;
use super::server_time::ServerTime;
use crate::util::timestamp::nanoseconds;
use crate::util::trace;

/// The time limit of dialing.
pub(super) const DIAL_LIMIT: Duration = Duration::from_secs(1);

/// The pause between two attempts while Redis does not answer.
const PAUSE: Duration = Duration::from_millis(100);

/// The life of a connection under which it is not replaced at once.
const LEAST_LIFE: Duration = Duration::from_secs(1);

/// The time between two looks at a connection in use.
const LOOK: Duration = Duration::from_millis(250);

/// The time after which the kernel gives up on bytes that are not acknowledged.
const USER_TIMEOUT: Duration = Duration::from_secs(5);

/// An error of a call to Redis.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    #[error(transparent)]
    NotSent(#[from] NotSent),
    #[error("Redis did not answer in {0:?}")]
    Late(Duration),
    #[error("Redis answered with an error")]
    Redis(#[from] RedisError),
    #[error("Redis refuses a call as late, which is in time here: its clock does not run evenly")]
    Refused,
    #[error("Redis answered with something else")]
    Malformed,
}

/// The source of connections.
pub(super) enum Source {
    /// We dial.
    Client(Client),
    /// The application's connection, which reconnects by itself.
    Given(Arc<dyn Connection>),
}

/// A supervised connection. Clones share it.
#[derive(Clone)]
pub(super) struct Link(Arc<Shared>);

struct Shared {
    source: Source,
    /// The time limit of a call, in nanoseconds.
    limit: AtomicU64,
    begun: Instant,
    state: Mutex<State>,
    /// Rings when the supervisor has something to do at once.
    bell: Notify,
    /// Rings when the first connection answers, or cannot be had.
    first: Notify,
    /// Rings when a call is over: another one may be sent.
    room: Notify,
}

struct State {
    connection: Option<Arc<dyn Connection>>,
    connected_at: Option<Duration>,
    breaker: Breaker,
    time: ServerTime,
    supervisor: Option<JoinHandle<()>>,
}

/// A call in flight, which ends when it is dropped.
struct InFlight<'s> {
    shared: &'s Shared,
    /// The call was answered, or the time was up.
    is_over: bool,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.breaker.end();
        if !self.is_over {
            state.breaker.cancel();
        }
        drop(state);
        self.shared.room.notify_one();
    }
}

impl Link {
    pub(super) fn new(source: Source, limit: Duration) -> Self {
        Self(Arc::new(Shared {
            source,
            limit: AtomicU64::new(nanoseconds(limit)),
            begun: Instant::now(),
            state: Mutex::new(State {
                connection: None,
                connected_at: None,
                breaker: Breaker::new(limit),
                time: ServerTime::default(),
                supervisor: None,
            }),
            bell: Notify::new(),
            first: Notify::new(),
            room: Notify::new(),
        }))
    }

    /// Returns the time since the link was made.
    pub(super) fn now(&self) -> Duration {
        self.0.begun.elapsed()
    }

    /// Returns the time limit of a call.
    pub(super) fn limit(&self) -> Duration {
        self.0.limit()
    }

    /// Sets the time limit of a call.
    pub(super) fn set_limit(&self, limit: Duration) {
        self.0.limit.store(nanoseconds(limit), Ordering::Relaxed);
        self.0.state().breaker.set_limit(limit);
    }

    /// Returns a time of ours in the time of Redis, or 0 if it is not known.
    pub(super) fn server_time(&self, ours: Duration) -> i64 {
        self.0.state().time.at(ours).unwrap_or_default()
    }

    /// Notes the time of Redis in an answer to a call that was sent at a time.
    pub(super) fn note_time(&self, server: i64, sent: Duration) {
        self.0.state().time.add(server, sent);
    }

    /// Forgets the time of Redis: its clock was set, or another server answers.
    pub(super) fn forget_time(&self) {
        self.0.state().time.forget();
    }

    /// Sends a command, and waits for the answer until a time.
    pub(super) async fn call(&self, command: Cmd, until: Duration) -> Result<Value, CallError> {
        let shared = &*self.0;
        let (sent, connection) = self.begin(until).await?;
        let mut in_flight = InFlight {
            shared,
            is_over: false,
        };
        let Some(connection) = connection else {
            return Err(NotSent::Open.into());
        };
        let answer = timeout(until.saturating_sub(sent), connection.call(command)).await;
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
                shared.state().breaker.answer(sent, now);
                Ok(answer?)
            }
        }
    }

    /// Registers a call, as soon as it may be sent. Returns the time, and the connection to send it
    /// on.
    async fn begin(
        &self,
        until: Duration,
    ) -> Result<(Duration, Option<Arc<dyn Connection>>), CallError> {
        loop {
            let now = self.now();
            if now >= until {
                return Err(CallError::Late(self.limit()));
            }
            let wait = match self.send(now) {
                Ok(connection) => return Ok((now, connection)),
                Err(NotSent::New) => {
                    self.supervise()?;
                    &self.0.first
                }
                Err(NotSent::Later) => &self.0.room,
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

    /// Registers a call, and returns the connection to send it on.
    fn send(&self, now: Duration) -> Result<Option<Arc<dyn Connection>>, NotSent> {
        let mut state = self.0.state();
        let sending = state.breaker.send(now);
        if sending == Err(NotSent::Open) {
            self.0.bell.notify_one();
        }
        sending.map(|()| state.connection.clone())
    }

    /// Starts the supervisor, if none is running.
    fn supervise(&self) -> Result<(), NotSent> {
        let runtime = Handle::try_current().map_err(|_| NotSent::NoRuntime)?;
        let mut state = self.0.state();
        let runs = state.supervisor.as_ref();
        if runs.is_none_or(JoinHandle::is_finished) {
            let shared = Arc::downgrade(&self.0);
            state.supervisor = Some(runtime.spawn(supervise(shared)));
        }
        Ok(())
    }
}

impl Shared {
    fn limit(&self) -> Duration {
        Duration::from_nanos(self.limit.load(Ordering::Relaxed))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives up a connection.
    fn lose(&self, lost: &Arc<dyn Connection>) {
        let mut state = self.state();
        let is_current = |it: &Arc<dyn Connection>| Arc::ptr_eq(it, lost);
        if !state.connection.as_ref().is_some_and(is_current) {
            return;
        }
        state.breaker.open();
        state.breaker.forget_calls();
        if let Source::Client(_) = self.source {
            state.connection = None;
        }
        drop(state);
        self.bell.notify_one();
    }

    async fn dial(&self) -> Result<Arc<dyn Connection>, CallError> {
        let client = match &self.source {
            Source::Given(connection) => return Ok(Arc::clone(connection)),
            Source::Client(client) => client,
        };
        // Our own limits apply to each call, and to dialing.
        let config = AsyncConnectionConfig::new()
            .set_response_timeout(None)
            .set_connection_timeout(Some(DIAL_LIMIT));
        let dialing = client.get_multiplexed_async_connection_with_config(&config);
        match timeout(DIAL_LIMIT, dialing).await {
            Ok(connection) => Ok(Arc::new(connection?)),
            Err(_) => Err(CallError::Late(DIAL_LIMIT)),
        }
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

/// Keeps a connection, until the link is dropped.
async fn supervise(link: Weak<Shared>) {
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
                trace::redis_is_back();
            }
            Err(error) if !is_down => {
                is_down = true;
                trace::redis_is_down(&error);
            }
            _ => {}
        }
        if is_open {
            drop(shared);
            tokio::time::sleep(jittered(PAUSE)).await;
        } else {
            // Woken when a call finds the breaker open, or the connection lost.
            let _ = timeout(LOOK, shared.bell.notified()).await; // late: the next look
        }
    }
}

/// Dials, and waits for a first answer.
async fn connect(shared: &Shared) -> Result<(), CallError> {
    let last = shared.state().connected_at;
    let is_brief = |at| shared.begun.elapsed().saturating_sub(at) < LEAST_LIFE;
    if last.is_some_and(is_brief) {
        // It was lost at once, as that of a master that was demoted.
        tokio::time::sleep(jittered(PAUSE)).await;
    }
    let connection = shared.dial().await?;
    // Another server may have another clock.
    shared.state().time.forget();
    shared.probe(&connection).await?;
    {
        let mut state = shared.state();
        state.connection = Some(Arc::clone(&connection));
        state.connected_at = Some(shared.begun.elapsed());
        state.breaker.close();
    }
    shared.first.notify_waiters();
    shared.warn_of_eviction(&connection).await;
    Ok(())
}

/// Looks after a connection: probes it while the breaker is open and when it was idle for long, and
/// drops it if it is dead.
async fn attend(shared: &Shared, connection: &Arc<dyn Connection>) -> Result<(), CallError> {
    let now = shared.begun.elapsed();
    let (is_open, is_dead, is_fresh) = {
        let state = shared.state();
        let is_fresh = state.time.is_fresh(now);
        (
            state.breaker.is_open(),
            state.breaker.is_dead(now),
            is_fresh,
        )
    };
    if !is_open && !is_dead && is_fresh {
        return Ok(());
    }
    let probed = shared.probe(connection).await;
    match &probed {
        Ok(()) => shared.state().breaker.close(),
        Err(CallError::Redis(error)) if is_lost(error) => shared.lose(connection),
        Err(_) if is_dead => shared.lose(connection),
        Err(_) => {}
    }
    probed
}

/// Returns whether an error means that the connection is gone, or leads to the wrong server: a
/// master that was demoted refuses writes.
fn is_lost(error: &RedisError) -> bool {
    error.is_io_error()
        || error.is_connection_dropped()
        || error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly)
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

/// Returns a pause, or up to half as long again.
pub(super) fn jittered(pause: Duration) -> Duration {
    let random = SysRng.try_next_u32().unwrap_or(u32::MAX / 2);
    pause + pause.mul_f64(f64::from(random) / f64::from(u32::MAX) / 2.0)
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

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.state();
        f.debug_struct("Link")
            .field("is_connected", &state.connection.is_some())
            .field("breaker", &state.breaker)
            .finish()
    }
}

/// Returns a client that dials as we need it: without the delay of small packets, and with a
/// connection that the kernel gives up when its other end is gone.
pub(super) fn client(info: redis::ConnectionInfo) -> Result<Client, RedisError> {
    let tcp = redis::io::tcp::TcpSettings::default()
        .set_nodelay(true)
        .set_user_timeout(USER_TIMEOUT);
    Client::open(info.set_tcp_settings(tcp))
}
