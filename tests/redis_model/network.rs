//! A network in memory, between nodes and servers, on the clock of the runtime.
//!
//! Messages of a connection arrive in order. What is sent while a way is blocked is sent again by
//! TCP after 200 ms, and after twice as long each time. What has arrived at a server is carried out,
//! whether or not anybody waits for the reply.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Waker;
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep, timeout_at};
use tower_api_key::limit::redis::aio::ConnectionLike;
use tower_api_key::limit::redis::{self, Arg, Cmd, RedisError, RedisFuture, RedisResult, Value};

use super::ledger::{Answer, Execution, Ledger};
use super::random::Random;
use super::server::Server;

tokio::task_local! {
    /// The call that a message belongs to.
    pub static CALL: usize;
}

/// The first pause after which TCP sends again, and that after which it dials again.
const SENT_AGAIN: Duration = Duration::from_millis(200);
const DIALED_AGAIN: Duration = Duration::from_secs(1);

/// A message to a server.
#[derive(Debug)]
pub struct Request {
    number: u64,
    connection: usize,
    /// The call of a limiter, if it is not of its supervisor.
    call: Option<usize>,
    arguments: Vec<Vec<u8>>,
}

enum Event {
    Arrives(Request),
    Answers {
        connection: usize,
        number: u64,
        reply: Value,
        arrived: Duration,
    },
    /// A server goes on with its work.
    Works(usize),
    /// A node is told that a connection is gone.
    Reset(usize),
}

/// One direction of a connection.
#[derive(Debug, Default)]
struct Way {
    /// When the last message arrives.
    clear_at: Duration,
    /// When it is sent again, and the last pause.
    again_at: Duration,
    pause: Duration,
}

struct Connection {
    node: usize,
    server: usize,
    run: u32,
    is_cut: bool,
    /// It swallows everything.
    is_dead: bool,
    /// It is cut instead of the next reply.
    is_cut_at_reply: bool,
    up: Way,
    down: Way,
    waiting: BTreeMap<u64, (oneshot::Sender<RedisResult<Value>>, Duration)>,
}

/// What lies between a node and the servers.
#[derive(Debug, Default, Clone)]
pub struct Path {
    pub up: Duration,
    pub down: Duration,
    /// A message takes up to so much longer, at random.
    pub unsteady: Duration,
    pub blocks_up: bool,
    pub blocks_down: bool,
    pub refuses: bool,
    /// The process of the node does not run.
    pub is_paused: bool,
    pub wakers: Vec<Waker>,
}

pub struct World {
    begun: Instant,
    random: Random,
    events: BTreeMap<(Duration, u64), Event>,
    count: u64,
    connections: Vec<Connection>,
    pub paths: Vec<Path>,
    pub servers: Vec<Server>,
    /// The server that is dialed.
    pub master: usize,
    pub ledger: Ledger,
}

/// The nodes and the servers of a schedule. Clones share them.
#[derive(Clone)]
pub struct Network(Arc<(Mutex<World>, Notify)>);

/// A connection of a node, as the client sees it.
#[derive(Clone)]
pub struct Wire {
    network: Network,
    connection: usize,
}

impl Network {
    pub fn new(server: Server, paths: Vec<Path>, ledger: Ledger, seed: u64) -> Self {
        let world = World {
            begun: Instant::now(),
            random: Random::new(seed),
            events: BTreeMap::new(),
            count: 0,
            connections: Vec::new(),
            paths,
            servers: vec![server],
            master: 0,
            ledger,
        };
        Self(Arc::new((Mutex::new(world), Notify::new())))
    }

    pub fn world(&self) -> MutexGuard<'_, World> {
        self.0.0.lock().unwrap()
    }

    /// Returns the time since the begin of the schedule.
    pub fn now(&self) -> Duration {
        self.world().now()
    }

    /// Changes something in the world, and lets follow what follows from it.
    pub fn change<T>(&self, change: impl FnOnce(&mut World, Duration) -> T) -> T {
        let mut world = self.world();
        let now = world.now();
        let changed = change(&mut world, now);
        self.0.1.notify_one();
        changed
    }

    /// Delivers messages, and never ends.
    pub async fn run(self) {
        loop {
            let next = {
                let mut world = self.world();
                world.work();
                world.events.keys().next().map(|it| world.begun + it.0)
            };
            let far = Instant::now() + Duration::from_secs(3_600);
            let _ = timeout_at(next.unwrap_or(far), self.0.1.notified()).await;
        }
    }

    /// Dials the master, as redis-rs does: with a first command, whose reply it waits for.
    pub async fn dial(&self, node: usize) -> RedisResult<Wire> {
        let mut pause = DIALED_AGAIN;
        let connection = loop {
            let (trip, outcome) = self.world().dial(node);
            match outcome {
                Dialed::Swallowed => {
                    sleep(pause).await;
                    pause *= 2;
                    continue;
                }
                Dialed::Refused => {
                    sleep(trip).await;
                    return Err(lost(std::io::ErrorKind::ConnectionRefused));
                }
                Dialed::Accepted => sleep(trip).await,
            }
            break self.world().connect(node);
        };
        let wire = Wire {
            network: self.clone(),
            connection,
        };
        let mut command = redis::cmd("CLIENT");
        command.arg("SETINFO");
        wire.send(&command, self.now()).await?;
        let mut world = self.world();
        let now = world.now();
        world.ledger.connected(node, now);
        Ok(wire)
    }
}

enum Dialed {
    Swallowed,
    Refused,
    Accepted,
}

impl Wire {
    /// Sends a command, which was asked for at a time, and returns what becomes of it.
    pub async fn send(&self, command: &Cmd, asked: Duration) -> RedisResult<Value> {
        let arguments = command.args_iter().map(|argument| match argument {
            Arg::Simple(bytes) => bytes.to_vec(),
            _ => panic!("the limiter sends no cursors"),
        });
        let arguments = arguments.collect();
        let reply = self
            .network
            .change(|world, now| world.send((now, asked), self.connection, arguments));
        reply
            .await
            .unwrap_or_else(|_| Err(lost(std::io::ErrorKind::BrokenPipe)))
    }

    pub fn is_cut(&self) -> bool {
        self.network.world().connections[self.connection].is_cut
    }
}

impl ConnectionLike for Wire {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(self.send(command, self.network.now()))
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        _pipeline: &'a redis::Pipeline,
        _offset: usize,
        _count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        panic!("the limiter sends no pipelines")
    }

    fn get_db(&self) -> i64 {
        0
    }
}

impl World {
    /// Returns the time since the begin of the schedule.
    pub fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    fn push(&mut self, at: Duration, event: Event) {
        self.count += 1;
        self.events.insert((at, self.count), event);
    }

    /// Does all that is due.
    fn work(&mut self) {
        let now = self.now();
        while let Some(entry) = self.events.first_entry() {
            if entry.key().0 > now {
                break;
            }
            match entry.remove() {
                Event::Arrives(request) => self.arrives(now, request),
                Event::Answers {
                    connection,
                    number,
                    reply,
                    arrived,
                } => self.answers(now, connection, number, reply, arrived),
                Event::Works(server) => self.works(now, server),
                Event::Reset(connection) => self.cut(connection),
            }
        }
    }

    fn trip(&mut self, base: Duration, unsteady: Duration) -> Duration {
        let most = usize::try_from(unsteady.as_millis()).unwrap();
        base + Duration::from_millis(self.random.below(most + 1) as u64)
    }

    fn dial(&mut self, node: usize) -> (Duration, Dialed) {
        let now = self.now();
        self.ledger.dials(node, now);
        let (path, server) = (&self.paths[node], &self.servers[self.master]);
        let is_swallowed = path.blocks_up || path.blocks_down || server.is_silent;
        let is_refused = path.refuses || !server.is_up;
        let trip = path.up + path.down;
        if is_swallowed {
            return (trip, Dialed::Swallowed);
        }
        (
            trip,
            if is_refused {
                Dialed::Refused
            } else {
                Dialed::Accepted
            },
        )
    }

    fn connect(&mut self, node: usize) -> usize {
        self.connections.push(Connection {
            node,
            server: self.master,
            run: self.servers[self.master].run,
            is_cut: false,
            is_dead: false,
            is_cut_at_reply: false,
            up: Way::default(),
            down: Way::default(),
            waiting: BTreeMap::new(),
        });
        self.connections.len() - 1
    }

    fn send(
        &mut self,
        (now, asked): (Duration, Duration),
        connection: usize,
        arguments: Vec<Vec<u8>>,
    ) -> oneshot::Receiver<RedisResult<Value>> {
        let (sender, receiver) = oneshot::channel();
        let node = self.connections[connection].node;
        if self.connections[connection].is_cut {
            let _ = sender.send(Err(lost(std::io::ErrorKind::BrokenPipe)));
            return receiver;
        }
        let call = CALL.try_with(|call| *call).ok();
        self.ledger.sent(node, call, asked, &arguments);
        self.count += 1;
        let number = self.count;
        let path = &self.paths[node];
        let trip = self.trip(path.up, path.unsteady);
        let it = &mut self.connections[connection];
        it.waiting.insert(number, (sender, asked));
        let at = it.up.clear_at.max(now + trip);
        it.up.clear_at = at;
        let request = Request {
            number,
            connection,
            call,
            arguments,
        };
        self.push(at, Event::Arrives(request));
        receiver
    }

    fn arrives(&mut self, now: Duration, request: Request) {
        let it = &mut self.connections[request.connection];
        if it.is_cut || it.is_dead {
            return;
        }
        let (path, server) = (&self.paths[it.node], &mut self.servers[it.server]);
        if let Some(later) = it.up.later(now, path.blocks_up || server.is_silent) {
            self.push(later, Event::Arrives(request));
        } else if server.run != it.run || !server.is_up {
            let told = now + path.down;
            self.push(told, Event::Reset(request.connection));
        } else {
            let server = it.server;
            self.servers[server].inbox.push_back(request);
            self.works(now, server);
        }
    }

    /// Lets a server carry out what it can.
    pub fn works(&mut self, now: Duration, server: usize) {
        loop {
            let it = &mut self.servers[server];
            if it.is_hung || it.busy_until > now {
                return;
            }
            let Some(request) = it.inbox.pop_front() else {
                return;
            };
            let slowness = it.slowness;
            self.execute(now, server, request);
            if !slowness.is_zero() {
                self.servers[server].busy_until = now + slowness;
                self.push(now + slowness, Event::Works(server));
            }
        }
    }

    fn execute(&mut self, now: Duration, server: usize, request: Request) {
        let it = &mut self.servers[server];
        let executed = it.execute(now, &request.arguments);
        if let (Some(call), Some(outcome)) = (request.call, executed.outcome) {
            let execution = Execution {
                server,
                at: now,
                time: it.clock.at(now),
                outcome,
                passed: 0,
                lost: None,
            };
            self.ledger.executed(call, execution, &request.arguments);
        }
        let connection = &mut self.connections[request.connection];
        if connection.is_cut || connection.is_dead {
            return;
        }
        if connection.is_cut_at_reply {
            self.cut(request.connection);
            return;
        }
        let path = &self.paths[connection.node];
        let trip = self.trip(path.down, path.unsteady);
        let way = &mut self.connections[request.connection].down;
        way.clear_at = way.clear_at.max(now + trip);
        let at = way.clear_at;
        let answer = Event::Answers {
            connection: request.connection,
            number: request.number,
            reply: executed.reply,
            arrived: now,
        };
        self.push(at, answer);
    }

    fn answers(
        &mut self,
        now: Duration,
        connection: usize,
        number: u64,
        reply: Value,
        arrived: Duration,
    ) {
        let it = &mut self.connections[connection];
        if it.is_cut || it.is_dead {
            return;
        }
        let path = &self.paths[it.node];
        if let Some(later) = it.down.later(now, path.blocks_down) {
            let answer = Event::Answers {
                connection,
                number,
                reply,
                arrived,
            };
            self.push(later, answer);
            return;
        }
        let Some((sender, sent)) = it.waiting.remove(&number) else {
            return;
        };
        let node = it.node;
        let answer = Answer {
            at: now,
            sent,
            arrived,
            tells_time: matches!(reply, Value::Array(_)),
            is_late: matches!(&reply, Value::Array(it) if it[0] == Value::Int(-1)),
        };
        if sender.send(Ok(reply)).is_ok() {
            self.ledger.answered(node, answer);
        }
    }

    /// Cuts a connection: what is on its way is lost.
    fn cut(&mut self, connection: usize) {
        let it = &mut self.connections[connection];
        it.is_cut = true;
        for (_, (sender, _)) in std::mem::take(&mut it.waiting) {
            let _ = sender.send(Err(lost(std::io::ErrorKind::ConnectionReset)));
        }
    }

    /// Lets a server be hung, or go on.
    pub fn hang(&mut self, now: Duration, server: usize, is_hung: bool) {
        self.servers[server].is_hung = is_hung;
        self.works(now, server);
    }

    /// Returns the connections of a node that are not cut.
    fn of(&self, node: usize) -> Vec<usize> {
        let all = self.connections.iter().enumerate();
        let its = all.filter(|(_, it)| it.node == node && !it.is_cut);
        its.map(|(at, _)| at).collect()
    }

    pub fn cut_all(&mut self, node: usize) {
        for connection in self.of(node) {
            self.cut(connection);
        }
    }

    /// Cuts the connections of a node with a server.
    pub fn cut_from(&mut self, node: usize, server: usize) {
        for connection in self.of(node) {
            if self.connections[connection].server == server {
                self.cut(connection);
            }
        }
    }

    pub fn cut_at_reply(&mut self, node: usize) {
        for connection in self.of(node) {
            self.connections[connection].is_cut_at_reply = true;
        }
    }

    pub fn half_open(&mut self, node: usize) {
        for connection in self.of(node) {
            self.connections[connection].is_dead = true;
        }
    }

    /// Returns whether a connection of a node is dead.
    pub fn is_half_open(&self, node: usize) -> bool {
        self.of(node).iter().any(|it| self.connections[*it].is_dead)
    }

    /// Kills a server. The nodes are told at once, or never.
    pub fn kill(&mut self, now: Duration, server: usize, is_silent: bool) {
        self.servers[server].kill(is_silent);
        if is_silent {
            return;
        }
        for at in 0..self.connections.len() {
            let it = &self.connections[at];
            if it.server == server && !it.is_cut {
                let told = now + self.paths[it.node].down;
                self.push(told, Event::Reset(at));
            }
        }
    }
}

impl Way {
    /// Returns when a message is sent again that does not get through.
    fn later(&mut self, now: Duration, is_blocked: bool) -> Option<Duration> {
        if self.again_at <= now {
            if !is_blocked {
                self.pause = Duration::ZERO;
                return None;
            }
            self.pause = SENT_AGAIN.max(2 * self.pause);
            self.again_at = now + self.pause;
        }
        self.clear_at = self.clear_at.max(self.again_at);
        Some(self.again_at)
    }
}

fn lost(kind: std::io::ErrorKind) -> RedisError {
    std::io::Error::from(kind).into()
}
