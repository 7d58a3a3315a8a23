//! A proxy in front of a server, that does to connections what networks do to them.
#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    dead_code,
    reason = "a test may panic, and uses its part"
)]

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

/// What happens to bytes in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Passes,
    /// They take so long.
    Takes(Duration),
    /// They are kept until this changes.
    Blocked,
}

#[derive(Debug, Clone, Copy)]
struct Modes {
    up: Way,
    down: Way,
    /// The connections before this one are reset, and those before that one are dead.
    reset: usize,
    dead: usize,
    /// All are reset after so many bytes of replies.
    cut_after: Option<usize>,
}

struct Shared {
    target: AtomicU16,
    modes: watch::Sender<Modes>,
    connections: AtomicUsize,
}

/// A proxy on a port of its own. It ends when it is dropped.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    pub async fn start(target: u16) -> Self {
        let modes = Modes {
            up: Way::Passes,
            down: Way::Passes,
            reset: 0,
            dead: 0,
            cut_after: None,
        };
        let shared = Arc::new(Shared {
            target: AtomicU16::new(target),
            modes: watch::Sender::new(modes),
            connections: AtomicUsize::new(0),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self {
            port: listener.local_addr().unwrap().port(),
            accepting: tokio::spawn(accept(listener, Arc::clone(&shared))),
            shared,
        }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// Sets what happens to requests, and to replies.
    pub fn set(&self, up: Way, down: Way) {
        let modes = &self.shared.modes;
        modes.send_modify(|it| (it.up, it.down) = (up, down));
    }

    /// Resets all connections.
    pub fn reset(&self) {
        let all = self.shared.connections.load(Ordering::SeqCst);
        self.shared.modes.send_modify(|it| it.reset = all);
    }

    /// Resets all connections after so many bytes of replies.
    pub fn cut_after(&self, bytes: usize) {
        let modes = &self.shared.modes;
        modes.send_modify(|it| it.cut_after = Some(bytes));
    }

    /// Makes all connections swallow everything. New ones work.
    pub fn kill_silently(&self) {
        let all = self.shared.connections.load(Ordering::SeqCst);
        self.shared.modes.send_modify(|it| it.dead = all);
    }

    /// Resets all connections, and refuses new ones.
    pub fn refuse(&self) {
        self.reset();
        self.accepting.abort();
    }

    /// Accepts connections again.
    pub async fn accept(&mut self) {
        for _ in 0..100 {
            if let Ok(listener) = TcpListener::bind(("127.0.0.1", self.port)).await {
                self.accepting = tokio::spawn(accept(listener, Arc::clone(&self.shared)));
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
        panic!("the port is used by somebody else");
    }

    /// Connects to another server, and resets the connections to the old one.
    pub fn move_to(&self, target: u16) {
        self.shared.target.store(target, Ordering::SeqCst);
        self.reset();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.unwrap();
        let number = shared.connections.fetch_add(1, Ordering::SeqCst);
        connections.spawn(serve(client, number, Arc::clone(&shared)));
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(mut client: TcpStream, number: usize, shared: Arc<Shared>) {
    let target = shared.target.load(Ordering::SeqCst);
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", target)).await else {
        client.set_zero_linger().unwrap();
        return;
    };
    for stream in [&client, &server] {
        stream.set_nodelay(true).unwrap();
        stream.set_zero_linger().unwrap();
    }
    let mut modes = shared.modes.subscribe();
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    tokio::select! {
        () = pump(from_client, to_server, number, &shared, true) => {}
        () = pump(from_server, to_client, number, &shared, false) => {}
        _ = modes.wait_for(|it| number < it.reset) => {}
    }
}

/// Passes bytes on, until one of both ends closes.
async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    number: usize,
    shared: &Shared,
    is_up: bool,
) {
    let mut modes = shared.modes.subscribe();
    let mut buffer = vec![0; 16 * 1_024];
    loop {
        let read = from.read(&mut buffer).await.unwrap_or_default();
        let way = |it: &Modes| if is_up { it.up } else { it.down };
        let Ok(now) = modes
            .wait_for(|it| way(it) != Way::Blocked)
            .await
            .map(|it| *it)
        else {
            return;
        };
        if number < now.dead {
            if read == 0 {
                pending::<()>().await;
            }
            continue;
        }
        if let Way::Takes(time) = way(&now) {
            sleep(time).await;
        }
        let passed = match now.cut_after {
            Some(bytes) if !is_up => read.min(bytes),
            _ => read,
        };
        if read == 0 || to.write_all(&buffer[..passed]).await.is_err() {
            return;
        }
        if let (Some(bytes), false) = (now.cut_after, is_up) {
            let left = bytes - passed;
            let all = shared.connections.load(Ordering::SeqCst);
            shared.modes.send_modify(|it| {
                it.cut_after = (left > 0).then_some(left);
                if left == 0 {
                    it.reset = all;
                }
            });
        }
    }
}
