//! The masters of a cluster, and which of them has which slots.
//!
//! The slots are fetched when they are first needed, and again when a server names another one,
//! answers that it has them no more, or is lost. One task fetches at a time, from a server that
//! answers; requests do not wait for it, except for the first slots.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use redis::{Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, RedisError, ServerErrorKind};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, timeout};

use super::breaker::NotSent;
use super::call_error::CallError;
use super::connection::Connection;
use super::dialing::{self, Source};
use super::link::Link;
use super::slot_map::{Address, SlotMap};
use crate::util::timestamp::nanoseconds;
use crate::util::trace;

/// The least time between two fetches of the slots.
const PAUSE: Duration = Duration::from_millis(100);

/// The time after which the next server is asked for the slots, if one does not answer.
const PATIENCE: Duration = Duration::from_millis(100);

/// The masters of a cluster, as far as they are known.
pub(super) struct Cluster {
    /// The servers that the application named. The first one has the settings for all.
    seeds: Vec<ConnectionInfo>,
    begun: Instant,
    /// The time limit of a call, in nanoseconds.
    limit: AtomicU64,
    state: Mutex<State>,
    /// Rings when the slots were fetched, or could not be.
    fetched: Notify,
}

#[derive(Default)]
struct State {
    masters: Vec<Arc<Master>>,
    /// For each slot, the place of its master. Empty before they are known.
    owners: Vec<u16>,
    replicas: Vec<Address>,
    fetching: Option<JoinHandle<()>>,
    /// When the last fetch was over.
    fetched_at: Option<Duration>,
    /// The error of the last fetch.
    failure: Option<Arc<CallError>>,
    /// The fetches so far.
    fetches: usize,
}

/// A master of a cluster.
pub(super) struct Master {
    pub(super) address: Address,
    pub(super) link: Link,
}

impl Cluster {
    pub(super) fn new(seeds: Vec<ConnectionInfo>, limit: Duration) -> Self {
        Self {
            seeds,
            begun: Instant::now(),
            limit: AtomicU64::new(nanoseconds(limit)),
            state: Mutex::default(),
            fetched: Notify::new(),
        }
    }

    /// Returns the time since the cluster was made. The times of all links count from then.
    pub(super) fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Returns the time limit of a call.
    pub(super) fn limit(&self) -> Duration {
        Duration::from_nanos(self.limit.load(Ordering::Relaxed))
    }

    /// Sets the time limit of a call.
    pub(super) fn set_limit(&self, limit: Duration) {
        let state = self.state();
        self.limit.store(nanoseconds(limit), Ordering::Relaxed);
        for master in &state.masters {
            master.link.set_limit(limit);
        }
    }

    /// Returns the master of a slot. Waits until a time for the slots, if they were never fetched.
    pub(super) async fn master_of(
        self: &Arc<Self>,
        slot: u16,
        until: Duration,
    ) -> Result<Arc<Master>, CallError> {
        loop {
            let unknown = match self.state().find(slot) {
                Ok(master) => return Ok(master),
                Err(unknown) => unknown,
            };
            self.fetch(None)?;
            if let Some(error) = unknown {
                return Err(error);
            }
            let now = self.now();
            if now >= until {
                return Err(CallError::Late(self.limit()));
            }
            // A bell that has just rung is missed; the next look is soon.
            let pause = until.saturating_sub(now).min(Duration::from_millis(5));
            let _ = timeout(pause, self.fetched.notified()).await; // late: the next look decides
        }
    }

    /// Returns the runtime of the link to the master of a slot, if it was used.
    pub(super) fn runtime_of(&self, slot: u16) -> Option<Handle> {
        self.state().master_of(slot)?.link.runtime()
    }

    /// Returns the server that a redirection names, without giving it the slot.
    pub(super) fn named(&self, address: Address) -> Result<Arc<Master>, CallError> {
        let mut state = self.state();
        let at = self.place_of(&mut state, address)?;
        Ok(Arc::clone(&state.masters[at]))
    }

    /// Returns the server that a redirection names as the new master of a slot. The next calls about
    /// the slot are sent there, and the slots are fetched: others may have moved, too.
    pub(super) fn moved(
        self: &Arc<Self>,
        slot: u16,
        address: Address,
    ) -> Result<Arc<Master>, CallError> {
        let master = {
            let mut state = self.state();
            let at = self.place_of(&mut state, address)?;
            let owner = state.owners.get_mut(usize::from(slot));
            if let (Some(owner), Ok(at)) = (owner, u16::try_from(at)) {
                *owner = at;
            }
            Arc::clone(&state.masters[at])
        };
        self.fetch(Some(Arc::clone(&master)))?;
        Ok(master)
    }

    /// Returns the place of a master, which is added if it is new.
    fn place_of(&self, state: &mut State, address: Address) -> Result<usize, CallError> {
        let known = state.masters.iter().position(|it| it.address == address);
        if let Some(at) = known {
            return Ok(at);
        }
        state.masters.push(self.master(address)?);
        Ok(state.masters.len() - 1)
    }

    /// Fetches the slots if a call failed since they may have another owner now.
    pub(super) fn note(self: &Arc<Self>, error: &CallError) {
        let may_have_moved = match error {
            CallError::NotSent(NotSent::Open) => true,
            CallError::Redis(error) => dialing::is_lost(error) || is_down(error),
            _ => false,
        };
        if may_have_moved {
            let _ = self.fetch(None); // without a runtime, the call would have failed before
        }
    }

    /// Begins to fetch the slots, unless that is being done or was just done. `first` is the server
    /// that is asked first.
    fn fetch(self: &Arc<Self>, first: Option<Arc<Master>>) -> Result<(), NotSent> {
        let mut state = self.state();
        let fetching = state.fetching.as_ref();
        if fetching.is_some_and(|it| !it.is_finished()) {
            return Ok(());
        }
        let is_recent = |at: Duration| self.now().saturating_sub(at) < PAUSE;
        if state.fetched_at.is_some_and(is_recent) {
            return Ok(());
        }
        let runtime = Handle::try_current().map_err(|_| NotSent::NoRuntime)?;
        state.fetching = Some(runtime.spawn(fetch(Arc::downgrade(self), first)));
        Ok(())
    }

    /// Asks servers for the slots, until one tells them: those with a connection that works, and
    /// then all over new ones.
    async fn ask(&self, first: Option<Arc<Master>>) -> Result<SlotMap, CallError> {
        for master in first.into_iter().chain(self.masters_up()) {
            let until = self.now() + self.limit().min(dialing::DIAL_LIMIT);
            if let Ok((_, answer)) = master.link.call(|_| slots(), until).await
                && let Some(map) = SlotMap::read(&answer, &master.address.host)
            {
                return Ok(map);
            }
        }
        let mut asked = JoinSet::new();
        let mut servers = self.servers().into_iter();
        let mut failure = CallError::Malformed;
        loop {
            match servers.next() {
                Some(server) => drop(asked.spawn(ask(server))),
                None if asked.is_empty() => return Err(failure),
                None => {}
            }
            // Late, or a task that panicked: the next one is asked as well.
            if let Ok(Some(Ok(told))) = timeout(PATIENCE, asked.join_next()).await {
                match told {
                    Ok(map) => return Ok(map),
                    Err(error) => failure = error,
                }
            }
        }
    }

    /// Returns the masters whose connections work, each time beginning with another one.
    fn masters_up(&self) -> Vec<Arc<Master>> {
        let (mut masters, fetches) = {
            let mut state = self.state();
            state.fetches = state.fetches.wrapping_add(1);
            (state.masters.clone(), state.fetches)
        };
        masters.retain(|master| master.link.is_up());
        let begin = fetches.checked_rem(masters.len());
        masters.rotate_left(begin.unwrap_or_default());
        masters
    }

    /// Returns how all servers that are known are dialed.
    fn servers(&self) -> Vec<ConnectionInfo> {
        let state = self.state();
        let known = state.masters.iter().map(|it| &it.address);
        let known = known.chain(&state.replicas);
        let known = known.filter_map(|address| self.info(address));
        let mut servers = self.seeds.clone();
        servers.extend(known.filter(|it| !self.seeds.iter().any(|seed| seed.addr() == it.addr())));
        servers
    }

    /// Remembers the slots. Connections to masters that stay are kept.
    fn learn(&self, map: SlotMap) -> Result<(), CallError> {
        let mut state = self.state();
        let master = |address: Address| {
            let known = state.masters.iter().find(|it| it.address == address);
            known.map_or_else(|| self.master(address), |it| Ok(Arc::clone(it)))
        };
        let masters = map.masters.into_iter().map(master);
        state.masters = masters.collect::<Result<_, _>>()?;
        (state.owners, state.replicas) = (map.owners, map.replicas);
        Ok(())
    }

    /// Notes the outcome of a fetch. Returns whether it is to be tried again.
    fn finish(&self, fetched: Result<(), CallError>) -> bool {
        let failure = fetched.err().map(Arc::new);
        let mut state = self.state();
        let before = std::mem::replace(&mut state.failure, failure);
        state.fetched_at = Some(self.now());
        let failure = state.failure.clone();
        drop(state);
        self.fetched.notify_waiters();
        match (before, &failure) {
            (None, Some(failure)) => trace::redis_is_down("the cluster", &**failure),
            (Some(_), None) => trace::redis_is_back("the cluster"),
            _ => {}
        }
        failure.is_some()
    }

    fn master(&self, address: Address) -> Result<Arc<Master>, CallError> {
        let info = self.info(&address).ok_or(CallError::Malformed)?;
        let source = Source::Client(dialing::client(info)?);
        let link = Link::since(self.begun, source, self.limit());
        Ok(Arc::new(Master { address, link }))
    }

    /// Returns how a server is dialed: with the settings of the first seed.
    fn info(&self, address: &Address) -> Option<ConnectionInfo> {
        let seed = self.seeds.first()?;
        let (host, port) = (address.host.clone(), address.port);
        let address = match seed.addr() {
            ConnectionAddr::TcpTls {
                insecure,
                tls_params,
                ..
            } => ConnectionAddr::TcpTls {
                host,
                port,
                insecure: *insecure,
                tls_params: tls_params.clone(),
            },
            _ => ConnectionAddr::Tcp(host, port),
        };
        Some(seed.clone().set_addr(address))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Finds the master of a slot. The error says why there is none, unless the slots were never
    /// fetched.
    fn find(&self, slot: u16) -> Result<Arc<Master>, Option<CallError>> {
        if let Some(master) = self.master_of(slot) {
            return Ok(Arc::clone(master));
        }
        let failure = self.failure.clone().map(CallError::NoSlots);
        let none = self.fetched_at.map(|_| CallError::NoOwner(slot));
        Err(failure.or(none))
    }

    fn master_of(&self, slot: u16) -> Option<&Arc<Master>> {
        let owner = self.owners.get(usize::from(slot))?;
        self.masters.get(usize::from(*owner))
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        let masters = state.masters.iter().map(|it| (&it.address, &it.link));
        f.debug_map().entries(masters).finish()
    }
}

/// Fetches the slots, until a server tells them or the cluster is dropped.
async fn fetch(cluster: Weak<Cluster>, mut first: Option<Arc<Master>>) {
    loop {
        let Some(cluster) = cluster.upgrade() else {
            return;
        };
        let told = cluster.ask(first.take()).await;
        let learned = told.and_then(|map| cluster.learn(map));
        if !cluster.finish(learned) {
            return;
        }
        drop(cluster);
        tokio::time::sleep(dialing::jittered(PAUSE)).await;
    }
}

/// Asks a server for the slots, over a connection of its own.
async fn ask(server: ConnectionInfo) -> Result<SlotMap, CallError> {
    let host = match server.addr() {
        ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. } => host.clone(),
        _ => "localhost".to_owned(),
    };
    let connection = dialing::dial(&dialing::client(server)?).await?;
    let limit = dialing::DIAL_LIMIT;
    let answer = timeout(limit, connection.call(slots())).await;
    let answer = answer.map_err(|_| CallError::Late(limit))??;
    SlotMap::read(&answer, &host).ok_or(CallError::Malformed)
}

fn slots() -> Cmd {
    let mut command = redis::cmd("CLUSTER");
    command.arg("SLOTS");
    command
}

/// Returns whether a server answers that a slot is not served.
fn is_down(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::ClusterDown)
}
