//! The network as nodes see it: they dial, send, and wait.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout_at};
use tower_api_key::limit::redis::aio::ConnectionLike;
use tower_api_key::limit::redis::{
    self, Arg, Cmd, Pipeline, RedisError, RedisFuture, RedisResult, Value,
};

use super::world::{Dialed, World};

tokio::task_local! {
    /// The call that a message belongs to.
    pub static CALL: usize;
}

/// The pause after which TCP dials again by itself. Each further one is twice as long.
const DIALED_AGAIN: Duration = Duration::from_secs(1);

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
    pub fn new(world: World) -> Self {
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

    /// Lets the world go on, and never ends.
    pub async fn run(self) {
        loop {
            let next = {
                let mut world = self.world();
                world.go_on();
                world.next()
            };
            let far = Instant::now() + Duration::from_secs(3_600);
            // Late: something is due.
            let _ = timeout_at(next.unwrap_or(far), self.0.1.notified()).await;
        }
    }

    /// Dials the master, as redis-rs does: with a first command, whose reply it waits for.
    pub async fn dial(&self, node: usize) -> RedisResult<Wire> {
        let mut pause = DIALED_AGAIN;
        loop {
            let (trip, outcome) = self.change(|world, now| world.dial(node, now));
            match outcome {
                Dialed::Accepted => {
                    sleep(trip).await;
                    break;
                }
                Dialed::Refused => {
                    sleep(trip).await;
                    return Err(lost(io::ErrorKind::ConnectionRefused));
                }
                Dialed::Swallowed => {
                    sleep(pause).await;
                    pause *= 2;
                }
            }
        }
        let connection = self.world().connect(node);
        let wire = Wire {
            network: self.clone(),
            connection,
        };
        let mut command = redis::cmd("CLIENT");
        command.arg("SETINFO");
        wire.send(&command, self.now()).await?;
        self.change(|world, now| world.ledger.connected(node, now));
        Ok(wire)
    }
}

impl Wire {
    /// Sends a command, which was asked for at a time, and returns what becomes of it.
    pub async fn send(&self, command: &Cmd, asked: Duration) -> RedisResult<Value> {
        let arguments = command.args_iter().map(|argument| match argument {
            Arg::Simple(bytes) => bytes.to_vec(),
            _ => panic!("the limiter sends no cursors"),
        });
        let arguments = arguments.collect();
        let call = CALL.try_with(|call| *call).ok();
        let reply = self
            .network
            .change(|world, now| world.send(self.connection, (now, asked), call, arguments));
        let Some(reply) = reply else {
            return Err(lost(io::ErrorKind::BrokenPipe));
        };
        let lost = |_| lost(io::ErrorKind::ConnectionReset);
        reply.await.map_err(lost)
    }

    pub fn is_cut(&self) -> bool {
        self.network.world().is_cut(self.connection)
    }
}

impl ConnectionLike for Wire {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(self.send(command, self.network.now()))
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        _pipeline: &'a Pipeline,
        _offset: usize,
        _count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        panic!("the limiter sends no pipelines")
    }

    fn get_db(&self) -> i64 {
        0
    }
}

fn lost(kind: io::ErrorKind) -> RedisError {
    io::Error::from(kind).into()
}
