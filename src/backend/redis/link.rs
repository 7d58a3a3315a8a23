//! The connection to Redis, and its supervision.
//!
//! A task dials, asks for the time until Redis answers, and dials again when the connection breaks
//! or is dead: the client by itself would wait for minutes on a connection whose other end is gone,
//! and tries again seconds later at first. The task runs while the link lives, on the runtime of
//! the first call; if that runtime ends, the next call starts another one.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use rand::TryRng;
use rand::rngs::SysRng;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, ErrorKind, RedisError, ServerErrorKind, Value};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

use super::breaker::{Breaker, NotSent};
use super::connection::Connection;
use super::info::Info;
use super::server_time::ServerTime;
use crate::util::timestamp::nanoseconds;
use crate::util::trace;

/// The time limit of dialing. Less than the second after which TCP tries again by itself, so that
/// an attempt that was swallowed does not take up the second in which we are back.
pub(super) const DIAL_LIMIT: Duration = Duration::from_millis(750);

/// The least time from an attempt to the next one, to dial or to probe.
const PAUSE: Duration = Duration::from_millis(100);

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
    #[error("the server is one of a cluster: use connect_cluster ({0})")]
    OfCluster(RedisError),
    #[error("no server of the cluster tells which slots it has: {0}")]
    NoSlots(Arc<CallError>),
    #[error("no server of the cluster has the slot {0}")]
    NoOwner(u16),
}

/// The source of connections.
pub(super) enum Source {
    /// We dial.
    Client(Client),
    /// A test dials.
    #[cfg(feature = "testing")]
    Dialed(super::connection::Dial),
    /// The application's connection, which reconnects by itself.
    Given(Arc<dyn Connection>),
}

impl Source {
    /// Returns the name of the server, for logs.
    fn name(&self) -> String {
        match self {
            Self::Client(client) => client.get_connection_info().addr().to_string(),
            #[cfg(feature = "testing")]
            Self::Dialed(_) => "the server of a test".to_owned(),
            Self::Given(_) => "the connection of the application".to_owned(),
        }
    }
}

/// A supervised connection. Clones share it.
#[derive(Clone)]
pub(super) struct Link {
    shared: Arc<Shared>,
    /// Calls are about a slot of a cluster that this server is taking over.
    asks: bool,
}

struct Shared {
    source: Source,
    /// The time limit of a call, in nanoseconds.
    limit: AtomicU64,
    /// Makes each pause a different one, and those of each process others.
    pauses: AtomicU64,
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
    /// When the last attempt to dial or to probe was made.
    tried_at: Option<Duration>,
    breaker: Breaker,
    time: ServerTime,
    supervisor: Option<JoinHandle<()>>,
    /// The runtime that the supervisor runs on.
    runtime: Option<Handle>,
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
        match &self.shared.source {
            Source::Client(client) => Some(client.clone()),
            _ => None,
        }
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

impl Shared {
    fn limit(&self) -> Duration {
        Duration::from_nanos(self.limit.load(Ordering::Relaxed))
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
        if !matches!(self.source, Source::Given(_)) {
            state.connection = None;
        }
        drop(state);
        self.bell.notify_one();
    }

    async fn dial(&self) -> Result<Arc<dyn Connection>, CallError> {
        let client = match &self.source {
            Source::Given(connection) => return Ok(Arc::clone(connection)),
            #[cfg(feature = "testing")]
            Source::Dialed(dial) => {
                let connection = timeout(DIAL_LIMIT, dial()).await;
                return Ok(connection.map_err(|_| CallError::Late(DIAL_LIMIT))??);
            }
            Source::Client(client) => client,
        };
        Ok(Arc::new(dial(client).await?))
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
    let connection = shared.dial().await?;
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

/// Makes a connection.
pub(super) async fn dial(client: &Client) -> Result<MultiplexedConnection, CallError> {
    // Our own limits apply to each call, and to dialing.
    let config = AsyncConnectionConfig::new()
        .set_response_timeout(None)
        .set_connection_timeout(Some(DIAL_LIMIT));
    let dialing = client.get_multiplexed_async_connection_with_config(&config);
    let dialed = timeout(DIAL_LIMIT, dialing).await;
    Ok(dialed.map_err(|_| CallError::Late(DIAL_LIMIT))??)
}

/// Returns whether an error means that the connection is gone, or leads to the wrong server: a
/// master that was demoted refuses writes.
pub(super) fn is_lost(error: &RedisError) -> bool {
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
        let state = self.shared.state();
        f.debug_struct("Link")
            .field("is_connected", &state.connection.is_some())
            .field("breaker", &state.breaker)
            .finish_non_exhaustive()
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
