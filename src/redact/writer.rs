//! A writer that redacts.

use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::sync::Arc;

use crate::redact::search::Search;
use crate::redact::stream::Stream;

/// The maximum number of bytes that are taken at a time.
const PIECE: usize = 64 << 10;

/// A writer that passes on what is written to it without the secrets, from
/// [`Redactor::writer`](crate::redact::Redactor::writer).
///
/// A secret is found even if it is split over several writes. The writer therefore holds back the
/// end of the text while it may be the beginning of a secret: at most 1,024 bytes, and none if the
/// text ends with a line break or a blank. [`flush`](Write::flush) does not pass these on;
/// [`finish`](Self::finish) does, and so does dropping the writer, which ignores errors.
///
/// # Errors
///
/// [`write`](Write::write) either fails and has taken nothing, or takes up to 64 KiB and passes on
/// what it can. If the inner writer fails, even with [`WouldBlock`](ErrorKind::WouldBlock), what it
/// did not accept is kept, and is passed on before anything else by the next call. Nothing is lost,
/// repeated or reordered, and no more than 66 KiB is kept; of text that is full of keys of less than
/// 10 characters, which `[REDACTED]` makes longer, up to 10 times as much. An error after bytes were
/// taken is reported by the next call.
///
/// ```
/// use std::io::Write;
/// use tower_api_key::redact::Redactor;
///
/// let mut log = Vec::new();
/// let mut writer = Redactor::new().writer(&mut log);
/// writer.write_all(b"Bearer eyJhbGciOiJIU")?;
/// writer.write_all(b"zI1NiJ9.e30.c2ln is refused\n")?;
/// writer.finish()?;
/// drop(writer);
/// assert_eq!(log, b"Bearer [REDACTED] is refused\n");
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct RedactingWriter<W: Write> {
    search: Arc<Search>,
    stream: Stream,
    /// What the inner writer has not accepted yet.
    safe: Vec<u8>,
    /// Whether the inner writer panicked, so that it must not be called on drop.
    has_panicked: bool,
    inner: W,
}

impl<W: Write> RedactingWriter<W> {
    pub(super) fn new(search: Arc<Search>, inner: W) -> Self {
        Self {
            search,
            stream: Stream::default(),
            safe: Vec::new(),
            has_panicked: false,
            inner,
        }
    }

    /// Ends the text: passes on what was held back, without a secret in it, and flushes the inner
    /// writer. What is written later is another text.
    ///
    /// After an error, call it again, or [`flush`](Write::flush).
    pub fn finish(&mut self) -> io::Result<()> {
        self.stream.end(&self.search, &mut self.safe);
        self.flush()
    }

    /// Returns the inner writer.
    pub fn get_ref(&self) -> &W {
        &self.inner
    }

    /// Passes on what is decided.
    fn pass_on(&mut self) -> io::Result<()> {
        let mut passed = 0;
        let result = loop {
            if passed == self.safe.len() {
                break Ok(());
            }
            self.has_panicked = true;
            let written = self.inner.write(&self.safe[passed..]);
            self.has_panicked = false;
            match written {
                Ok(0) => break Err(ErrorKind::WriteZero.into()),
                Ok(count) => passed += count.min(self.safe.len() - passed),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        self.safe.drain(..passed);
        result
    }
}

impl<W: Write> Write for RedactingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.pass_on()?;
        let piece = &bytes[..bytes.len().min(PIECE)];
        self.stream.push(&self.search, piece, &mut self.safe);
        // The piece is taken, so an error must wait for the next call.
        let _ = self.pass_on();
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.pass_on()?;
        self.inner.flush()
    }
}

impl<W: Write> Drop for RedactingWriter<W> {
    fn drop(&mut self) {
        if !self.has_panicked {
            self.stream.end(&self.search, &mut self.safe);
            let _ = self.pass_on();
        }
    }
}

impl<W: Write + fmt::Debug> fmt::Debug for RedactingWriter<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedactingWriter")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
