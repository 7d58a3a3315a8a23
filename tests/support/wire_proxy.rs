//! A proxy before a `PostgreSQL` server, which reads the messages of its protocol, and can lose,
//! count and exchange them. It understands no TLS.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

/// The message of a notification, from the server.
const NOTIFICATION: u8 = b'A';
/// The messages that carry out a statement, from the client.
const QUERY: u8 = b'Q';
const EXECUTE: u8 = b'E';

pub struct WireProxy {
    port: u16,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// Connections that listen are lost from now on, without being closed.
    loses_listeners: AtomicBool,
    /// New connections are accepted, and never answered.
    hangs: AtomicBool,
    /// Notifications are lost.
    loses_notifications: AtomicBool,
    /// What takes the place of a text in statements.
    exchanged: Mutex<Option<(String, String)>>,
    /// The statements that were carried out, and those that began to listen.
    statements: AtomicUsize,
    listens: AtomicUsize,
}

impl WireProxy {
    pub async fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::<State>::default();
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(client, server, Arc::clone(&shared)));
            }
        });
        Self { port, state }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Loses the connections that listen now: they stay open, and nothing comes through any more.
    pub fn lose_listeners(&self) {
        self.state.loses_listeners.store(true, Ordering::SeqCst);
    }

    /// Stops to lose connections. Those that were used meanwhile stay lost.
    pub fn keep_listeners(&self) {
        self.state.loses_listeners.store(false, Ordering::SeqCst);
    }

    pub fn hang(&self, hangs: bool) {
        self.state.hangs.store(hangs, Ordering::SeqCst);
    }

    pub fn lose_notifications(&self, loses: bool) {
        self.state
            .loses_notifications
            .store(loses, Ordering::SeqCst);
    }

    /// Exchanges a text in statements without parameters for another one.
    pub fn exchange(&self, text: &str, other: &str) {
        *self.state.exchanged.lock().unwrap() = Some((text.to_owned(), other.to_owned()));
    }

    pub fn statements(&self) -> usize {
        self.state.statements.load(Ordering::SeqCst)
    }

    pub fn listens(&self) -> usize {
        self.state.listens.load(Ordering::SeqCst)
    }
}

async fn serve(client: TcpStream, server: u16, state: Arc<State>) {
    if state.hangs.load(Ordering::SeqCst) {
        std::future::pending::<()>().await;
    }
    let server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
    for socket in [&client, &server] {
        socket.set_nodelay(true).unwrap();
    }
    let (client_reader, client_writer) = client.into_split();
    let (server_reader, server_writer) = server.into_split();
    let connection = Arc::new(Connection {
        state,
        listens: AtomicBool::new(false),
        is_lost: AtomicBool::new(false),
    });
    let back = tokio::spawn(carry_back(
        server_reader,
        client_writer,
        Arc::clone(&connection),
    ));
    carry_there(client_reader, server_writer, &connection).await;
    back.abort(); // a client that is gone wants no more
}

struct Connection {
    state: Arc<State>,
    listens: AtomicBool,
    is_lost: AtomicBool,
}

impl Connection {
    fn loses(&self) -> bool {
        let state = &self.state;
        if self.listens.load(Ordering::SeqCst) && state.loses_listeners.load(Ordering::SeqCst) {
            self.is_lost.store(true, Ordering::SeqCst);
        }
        self.is_lost.load(Ordering::SeqCst)
    }

    /// Looks at a message of the client, and exchanges what is to be exchanged.
    fn look(&self, message: &mut Message) {
        let state = &self.state;
        if matches!(message.kind, QUERY | EXECUTE) {
            state.statements.fetch_add(1, Ordering::SeqCst);
        }
        if message.kind == QUERY && message.contains("LISTEN \"") {
            self.listens.store(true, Ordering::SeqCst);
            state.listens.fetch_add(1, Ordering::SeqCst);
        }
        if message.kind == QUERY
            && let Some((text, other)) = &*state.exchanged.lock().unwrap()
        {
            message.exchange(text, other);
        }
    }
}

async fn carry_there(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, connection: &Connection) {
    // The first message has no kind.
    let mut message = Message::read(&mut from, false).await;
    while let Some(mut read) = message {
        connection.look(&mut read);
        if !connection.loses() && to.write_all(&read.bytes).await.is_err() {
            return;
        }
        message = Message::read(&mut from, true).await;
    }
}

async fn carry_back(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, connection: Arc<Connection>) {
    while let Some(message) = Message::read(&mut from, true).await {
        let state = &connection.state;
        let is_lost = connection.loses()
            || message.kind == NOTIFICATION && state.loses_notifications.load(Ordering::SeqCst);
        if !is_lost && to.write_all(&message.bytes).await.is_err() {
            return;
        }
    }
}

/// A message, with its kind and its length.
struct Message {
    kind: u8,
    bytes: Vec<u8>,
}

impl Message {
    async fn read(from: &mut OwnedReadHalf, has_kind: bool) -> Option<Self> {
        let head = if has_kind { 5 } else { 4 };
        let mut bytes = vec![0; head];
        from.read_exact(&mut bytes).await.ok()?;
        let length = u32::from_be_bytes(bytes[head - 4..].try_into().unwrap()) as usize;
        let kind = if has_kind { bytes[0] } else { 0 };
        bytes.resize(head - 4 + length, 0);
        from.read_exact(&mut bytes[head..]).await.ok()?;
        Some(Self { kind, bytes })
    }

    fn contains(&self, text: &str) -> bool {
        let mut parts = self.bytes.windows(text.len());
        parts.any(|part| part == text.as_bytes())
    }

    /// Exchanges a text once.
    fn exchange(&mut self, text: &str, other: &str) {
        let mut parts = self.bytes.windows(text.len());
        let Some(at) = parts.position(|part| part == text.as_bytes()) else {
            return;
        };
        self.bytes.splice(at..at + text.len(), other.bytes());
        let length = u32::try_from(self.bytes.len() - 1).unwrap(); // without the kind
        self.bytes[1..5].copy_from_slice(&length.to_be_bytes());
    }
}
