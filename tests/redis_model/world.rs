//! What lies between nodes and servers, and when what arrives.
//!
//! Messages of a connection arrive in order. What is sent while a way is blocked is sent again by
//! TCP after 200 ms, and after twice as long each time. What has arrived at a server is carried out,
//! whether or not anybody waits for the reply.

use std::collections::BTreeMap;
use std::task::Waker;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use tower_api_key::limit::redis::Value;

use super::ledger::{Answer, Execution, Ledger};
use super::random::Random;
use super::server::Server;

/// The first pause after which TCP sends again.
const SENT_AGAIN: Duration = Duration::from_millis(200);

/// A message to a server.
#[derive(Debug)]
pub struct Request {
    number: u64,
    connection: usize,
    /// The call of a limiter, if it is not of its supervisor.
    call: Option<usize>,
    arguments: Vec<Vec<u8>>,
}

/// A message to a node.
struct Reply {
    number: u64,
    connection: usize,
    value: Value,
    /// When the request was carried out.
    executed: Duration,
}

enum Event {
    Arrives(Request),
    Answers(Reply),
    /// A node is told that a connection is gone.
    Reset(usize),
    /// A server goes on with its work.
    Wakes,
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
    /// The run of the server that it was made to.
    run: u32,
    is_cut: bool,
    /// It swallows everything.
    is_dead: bool,
    /// It is cut instead of the next reply.
    is_cut_at_reply: bool,
    up: Way,
    down: Way,
    /// Who waits for a reply, and when it was asked for.
    waiting: BTreeMap<u64, (oneshot::Sender<Value>, Duration)>,
}

/// The way between a node and the servers.
#[derive(Debug, Clone)]
pub struct Path {
    pub up: Duration,
    pub down: Duration,
    /// A message takes up to so much longer, at random.
    pub unsteady: Duration,
    pub blocks_up: bool,
    pub blocks_down: bool,
    pub refuses: bool,
}

/// The process of a node.
#[derive(Debug, Default)]
pub struct Process {
    pub is_paused: bool,
    pub wakers: Vec<Waker>,
}

/// What becomes of an attempt to dial.
pub enum Dialed {
    Accepted,
    Refused,
    Swallowed,
}

pub struct World {
    begun: Instant,
    random: Random,
    events: BTreeMap<(Duration, u64), Event>,
    count: u64,
    connections: Vec<Connection>,
    pub paths: Vec<Path>,
    pub processes: Vec<Process>,
    pub servers: Vec<Server>,
    /// The server that is dialed.
    pub master: usize,
    pub ledger: Ledger,
}

impl World {
    pub fn new(ledger: Ledger) -> Self {
        let plan = &ledger.plan;
        let paths = plan.nodes.iter().map(|it| Path {
            up: it.up,
            down: it.down,
            unsteady: it.unsteady,
            blocks_up: false,
            blocks_down: false,
            refuses: false,
        });
        Self {
            begun: Instant::now(),
            random: Random::new(plan.seed),
            events: BTreeMap::new(),
            count: 0,
            connections: Vec::new(),
            paths: paths.collect(),
            processes: plan.nodes.iter().map(|_| Process::default()).collect(),
            servers: vec![Server::new(plan.clock)],
            master: 0,
            ledger,
        }
    }

    /// Returns the time since the begin of the schedule.
    pub fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Returns when something is due.
    pub fn next(&self) -> Option<Instant> {
        let next = self.events.keys().next();
        next.map(|it| self.begun + it.0)
    }

    /// Does all that is due.
    pub fn go_on(&mut self) {
        let now = self.now();
        while let Some(entry) = self.events.first_entry() {
            if entry.key().0 > now {
                break;
            }
            match entry.remove() {
                Event::Arrives(request) => self.arrives(now, request),
                Event::Answers(reply) => self.answers(now, reply),
                Event::Reset(connection) => self.cut(connection),
                Event::Wakes => {}
            }
        }
        for server in 0..self.servers.len() {
            self.work(now, server);
        }
    }

    fn push(&mut self, at: Duration, event: Event) {
        self.count += 1;
        self.events.insert((at, self.count), event);
    }

    /// Draws the time of a message.
    fn trip(&mut self, base: Duration, unsteady: Duration) -> Duration {
        let most = usize::try_from(unsteady.as_millis()).unwrap();
        base + Duration::from_millis(self.random.below(most + 1) as u64)
    }

    /// Dials the master. Returns when an answer comes, and which one.
    pub fn dial(&mut self, node: usize, now: Duration) -> (Duration, Dialed) {
        self.ledger.dials(node, now);
        let (path, server) = (&self.paths[node], &self.servers[self.master]);
        let outcome = if path.blocks_up || path.blocks_down || server.is_silent() {
            Dialed::Swallowed
        } else if path.refuses || !server.is_up() {
            Dialed::Refused
        } else {
            Dialed::Accepted
        };
        (path.up + path.down, outcome)
    }

    pub fn connect(&mut self, node: usize) -> usize {
        self.connections.push(Connection {
            node,
            server: self.master,
            run: self.servers[self.master].run(),
            is_cut: false,
            is_dead: false,
            is_cut_at_reply: false,
            up: Way::default(),
            down: Way::default(),
            waiting: BTreeMap::new(),
        });
        self.connections.len() - 1
    }

    /// Sends a command, which was asked for before. Returns what the reply comes by, if the
    /// connection is not known to be cut.
    pub fn send(
        &mut self,
        connection: usize,
        (now, asked): (Duration, Duration),
        call: Option<usize>,
        arguments: Vec<Vec<u8>>,
    ) -> Option<oneshot::Receiver<Value>> {
        if self.is_cut(connection) {
            return None;
        }
        let node = self.connections[connection].node;
        self.ledger.sent(node, call, asked, &arguments);
        self.count += 1;
        let number = self.count;
        let (sender, receiver) = oneshot::channel();
        let path = &self.paths[node];
        let trip = self.trip(path.up, path.unsteady);
        let it = &mut self.connections[connection];
        it.waiting.insert(number, (sender, asked));
        let at = it.up.arrives_at(now + trip);
        let request = Request {
            number,
            connection,
            call,
            arguments,
        };
        self.push(at, Event::Arrives(request));
        Some(receiver)
    }

    fn arrives(&mut self, now: Duration, request: Request) {
        let it = &mut self.connections[request.connection];
        if it.is_cut || it.is_dead {
            return;
        }
        let (path, server) = (&self.paths[it.node], &mut self.servers[it.server]);
        if let Some(later) = it.up.later(now, path.blocks_up || server.is_silent()) {
            self.push(later, Event::Arrives(request));
        } else if server.run() != it.run || !server.is_up() {
            let told = now + path.down;
            self.push(told, Event::Reset(request.connection));
        } else {
            server.inbox.push_back(request);
        }
    }

    /// Lets a server carry out what it can.
    fn work(&mut self, now: Duration, server: usize) {
        while let Some(request) = self.servers[server].next(now) {
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
            let free = it.busy_until;
            if free > now {
                self.push(free, Event::Wakes);
            }
            self.reply(now, &request, executed.reply);
        }
    }

    fn reply(&mut self, now: Duration, request: &Request, value: Value) {
        let it = &self.connections[request.connection];
        if it.is_cut || it.is_dead {
            return;
        }
        if it.is_cut_at_reply {
            self.cut(request.connection);
            return;
        }
        let path = &self.paths[it.node];
        let trip = self.trip(path.down, path.unsteady);
        let way = &mut self.connections[request.connection].down;
        let at = way.arrives_at(now + trip);
        let reply = Reply {
            number: request.number,
            connection: request.connection,
            value,
            executed: now,
        };
        self.push(at, Event::Answers(reply));
    }

    fn answers(&mut self, now: Duration, reply: Reply) {
        let it = &mut self.connections[reply.connection];
        if it.is_cut || it.is_dead {
            return;
        }
        if let Some(later) = it.down.later(now, self.paths[it.node].blocks_down) {
            self.push(later, Event::Answers(reply));
            return;
        }
        let Some((waiting, asked)) = it.waiting.remove(&reply.number) else {
            return;
        };
        let answer = Answer {
            at: now,
            sent: asked,
            arrived: reply.executed,
            tells_time: matches!(reply.value, Value::Array(_)),
            is_late: matches!(&reply.value, Value::Array(it) if it[0] == Value::Int(-1)),
        };
        let node = it.node;
        if waiting.send(reply.value).is_ok() {
            self.ledger.answered(node, answer);
        }
    }

    pub fn is_cut(&self, connection: usize) -> bool {
        self.connections[connection].is_cut
    }

    /// Cuts a connection: what is on its way is lost, and who waits is told.
    fn cut(&mut self, connection: usize) {
        let it = &mut self.connections[connection];
        it.is_cut = true;
        it.waiting.clear();
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

    /// Makes the connections of a node dead.
    pub fn half_open(&mut self, node: usize) {
        for connection in self.of(node) {
            self.connections[connection].is_dead = true;
        }
    }

    /// Returns whether a connection of a node is dead.
    pub fn is_half_open(&self, node: usize) -> bool {
        let its = self.of(node);
        its.iter().any(|it| self.connections[*it].is_dead)
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
    /// Returns when a message arrives that would arrive then if it were the only one.
    fn arrives_at(&mut self, at: Duration) -> Duration {
        self.clear_at = self.clear_at.max(at);
        self.clear_at
    }

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
        Some(self.arrives_at(self.again_at))
    }
}
