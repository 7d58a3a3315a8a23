//! Connections that bring only so much.

use std::error::Error;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// The most bytes that are read for one request, with all of TLS and interim answers. The largest
/// message of TLS's handshake has 64 KiB.
const MOST_READ: usize = 128 * 1024;

/// A connection from which no more than [`MOST_READ`] bytes are read, and hardly more than a buffer
/// beyond.
///
/// Without a bound, a receiver could send interim answers (`102 Processing`) or empty records of TLS
/// without end, and keep the task from all else until the time limit.
#[derive(Debug)]
pub(super) struct BoundedStream {
    stream: TcpStream,
    left: usize,
}

impl BoundedStream {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            left: MOST_READ,
        }
    }
}

impl AsyncRead for BoundedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.left == 0 {
            return Poll::Ready(Err(io::Error::other(TooMuch)));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        let read = buffer.filled().len() - before;
        self.left = self.left.saturating_sub(read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for BoundedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// More came than is read.
#[derive(Debug, thiserror::Error)]
#[error("more than {} KiB came", MOST_READ / 1024)]
struct TooMuch;

/// Returns whether an error is that of a connection that brought too much.
pub(super) fn is_too_much(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let inner = error.downcast_ref().and_then(io::Error::get_ref);
        if let Some(inner) = inner
            && inner.is::<TooMuch>()
        {
            return true;
        }
        next = error.source();
    }
    false
}
