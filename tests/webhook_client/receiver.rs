//! Receivers of webhooks, on loopback.

use std::future::Future;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// A receiver on a port of its own. It ends with its test.
pub struct Receiver {
    pub port: u16,
    connections: Arc<AtomicUsize>,
    received: UnboundedReceiver<Received>,
}

/// A request as it arrived.
pub struct Received {
    pub line: String,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Receiver {
    /// Reads each request, and answers with these bytes. Then it waits until the client closes.
    pub async fn answering(answer: impl Into<Vec<u8>>) -> Self {
        let answer: Arc<[u8]> = answer.into().into();
        Self::doing(move |stream, received| serve(stream, answer.clone(), received)).await
    }

    /// Does something with each connection.
    pub async fn doing<F>(
        mut serve: impl FnMut(TcpStream, UnboundedSender<Received>) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = connections.clone();
        let (sender, received) = unbounded_channel();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(stream, sender.clone()));
            }
        });
        Self {
            port,
            connections,
            received,
        }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/hooks?of=acme", self.port)
    }

    /// How many connections were accepted. It accepts one itself before, so that all that were made
    /// earlier are counted.
    pub async fn connections(&self) -> usize {
        let before = self.connections.load(Ordering::SeqCst);
        let own = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        while self.connections.load(Ordering::SeqCst) == before {
            tokio::task::yield_now().await;
        }
        drop(own);
        self.connections.fetch_sub(1, Ordering::SeqCst) - 1
    }

    pub async fn next(&mut self) -> Received {
        self.received.recv().await.unwrap()
    }
}

/// Reads a request, answers it, and waits until the client closes.
pub async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    answer: Arc<[u8]>,
    received: UnboundedSender<Received>,
) {
    let Some(request) = read(&mut stream).await else {
        return;
    };
    let _ = received.send(request);
    let _ = stream.write_all(&answer).await;
    let _ = stream.flush().await;
    let _ = stream.read(&mut [0]).await;
}

pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Option<Received> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.trim_end().split("\r\n");
    let line = lines.next().unwrap().to_owned();
    let headers = lines.map(|field| {
        let (name, value) = field.split_once(": ").unwrap();
        (
            HeaderName::from_str(name).unwrap(),
            HeaderValue::from_str(value).unwrap(),
        )
    });
    let headers: HeaderMap = headers.collect();
    let length = headers["content-length"].to_str().unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).await.ok()?;
    Some(Received {
        line,
        headers,
        body,
    })
}
