//! The feed of changes, read from the stream.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::Value;
use redis::aio::MultiplexedConnection;
use tokio::time::{Instant, timeout};

use super::call_error::CallError;
use super::dialing::{self, DIAL_LIMIT, jittered};
use super::info::Info;
use super::stream::{Announcer, Entry, EntryId, News, Position};
use crate::store::{ChangeFeed, ChangedKey, Changes, Cursor, FeedError};

/// The entries that are read at once.
const AT_ONCE: u32 = 100;

/// The time without an entry after which a reader adds a sign of life: the first one of a fleet, so
/// that the others need not.
const QUIET: Duration = Duration::from_millis(700);

/// The time without an entry, in spite of signs of life, after which a connection is given up: it
/// leads to a server that nobody writes to any more.
const DEAF: Duration = Duration::from_secs(3);

/// The time limit of an answer, beyond the time that the server may wait.
const LIMIT: Duration = Duration::from_millis(500);

/// An error of the feed.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("Redis cannot be read from")]
    Redis(#[from] redis::RedisError),
    #[error("the server of the stream is not known")]
    Unknown(#[from] CallError),
    #[error("Redis did not answer in {0:?}")]
    Late(Duration),
    #[error("the server is a replica, whose stream may lag behind")]
    Replica,
    #[error("INFO does not tell which server this is")]
    Nameless,
    #[error("no sign of life came through the stream for {DEAF:?}")]
    Deaf(#[source] Option<CallError>),
    #[error("Redis answered with something else")]
    Malformed,
    #[error("the stream of changes is empty, and cannot be written to")]
    Empty(#[source] Option<CallError>),
}

impl From<ReadError> for FeedError {
    fn from(error: ReadError) -> Self {
        Self::new(error)
    }
}

/// A feed with a connection of its own: the others would wait behind its blocking reads.
#[derive(Debug)]
pub(super) struct StreamFeed {
    announcer: Arc<Announcer>,
    reader: Mutex<Option<Reader>>,
    heard: Mutex<Heard>,
}

/// When the last entry came, over whatever connection, and in which time another one is expected.
#[derive(Debug, Clone, Copy)]
struct Heard {
    at: Instant,
    quiet: Duration,
}

impl Heard {
    fn now() -> Self {
        Self {
            at: Instant::now(),
            quiet: jittered(QUIET),
        }
    }
}

/// A connection in use.
#[derive(Debug)]
struct Reader {
    connection: MultiplexedConnection,
    /// The run of the server.
    run: String,
}

/// The state of the stream.
struct Look {
    /// The entries after the position; `None` for one in another form.
    entries: Vec<Option<Entry>>,
    /// The last entry of the stream.
    last: Option<EntryId>,
    server: String,
}

impl StreamFeed {
    pub(super) fn new(announcer: Arc<Announcer>) -> Self {
        Self {
            announcer,
            reader: Mutex::new(None),
            heard: Mutex::new(Heard::now()),
        }
    }

    fn reader(&self) -> MutexGuard<'_, Option<Reader>> {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a sign of life. Returns why it could not.
    async fn call_out(&self) -> Option<CallError> {
        self.announcer.announce(News::Alive).await.err()
    }

    async fn dial(&self) -> Result<Reader, ReadError> {
        let dialing = async {
            let client = self.announcer.client().await?;
            let mut connection = dialing::dial(&client).await?;
            let mut info = redis::cmd("INFO");
            let server: Value = info.arg("server").query_async(&mut connection).await?;
            Ok::<_, ReadError>(Reader {
                connection,
                run: Info::read(&server).field("run_id").to_owned(),
            })
        };
        let dialed = timeout(DIAL_LIMIT, dialing).await;
        dialed.map_err(|_| ReadError::Late(DIAL_LIMIT))?
    }

    /// Reads the stream, over the connection of the last call if there is one.
    async fn try_read(&self, after: Option<&Cursor>, wait: Duration) -> Result<Changes, ReadError> {
        let until = Instant::now() + wait;
        // A call that is dropped drops the connection, on which its answer would still come.
        let known = self.reader().take();
        let mut reader = match known {
            Some(reader) => reader,
            None => self.dial().await?,
        };
        let changes = self.read(&mut reader, after, until).await?;
        *self.reader() = Some(reader);
        Ok(changes)
    }

    async fn read(
        &self,
        reader: &mut Reader,
        after: Option<&Cursor>,
        until: Instant,
    ) -> Result<Changes, ReadError> {
        let Some(after) = after else {
            let begin = self.end(reader).await?;
            return Ok(Changes::new(Vec::new(), begin.encode()));
        };
        let Some(mut position) = Position::decode(after) else {
            return Ok(Changes::gap(self.end(reader).await?.encode()));
        };
        loop {
            let mut left = until.saturating_duration_since(Instant::now());
            let heard = *self.heard();
            let quiet = heard.quiet.saturating_sub(heard.at.elapsed());
            let mut failure = None;
            if quiet.is_zero() {
                // It comes back as an entry, or the reader is deaf.
                failure = self.call_out().await;
            } else {
                left = left.min(quiet);
            }
            let look = self.look(reader, Some(position.entry), left).await?;
            let Some((keys, next)) = follow(&position, &look) else {
                return Ok(Changes::gap(self.end(reader).await?.encode()));
            };
            if next != position {
                *self.heard() = Heard::now();
            } else if heard.at.elapsed() > DEAF {
                return Err(ReadError::Deaf(failure));
            }
            position = next;
            if !keys.is_empty() || Instant::now() >= until {
                return Ok(Changes::new(keys, position.encode()));
            }
        }
    }

    /// Returns the position after the last entry, of which there is one from then on.
    async fn end(&self, reader: &mut Reader) -> Result<Position, ReadError> {
        let mut failure = None;
        for _ in 0..2 {
            let look = self.look(reader, None, Duration::ZERO).await?;
            if let Some(entry) = look.last {
                return Ok(Position {
                    server: look.server,
                    entry,
                });
            }
            failure = self.call_out().await;
        }
        Err(ReadError::Empty(failure))
    }

    /// Reads the entries after one, waits for some time if there is none, and looks which server
    /// answers.
    async fn look(
        &self,
        reader: &mut Reader,
        after: Option<EntryId>,
        wait: Duration,
    ) -> Result<Look, ReadError> {
        let stream = self.announcer.stream();
        let mut pipe = redis::pipe();
        if let Some(after) = after {
            pipe.cmd("XREAD").arg("COUNT").arg(AT_ONCE);
            let milliseconds = u64::try_from(wait.as_micros().div_ceil(1_000)).unwrap_or_default();
            if milliseconds > 0 {
                pipe.arg("BLOCK").arg(milliseconds);
            }
            pipe.arg("STREAMS").arg(stream).arg(after.to_string());
        }
        // Looked at afterwards: entries of a server that was demoted meanwhile do not count.
        let last = ("COUNT", 1);
        pipe.cmd("XREVRANGE")
            .arg(stream)
            .arg("+")
            .arg("-")
            .arg(last);
        pipe.cmd("INFO").arg("replication");
        let limit = wait + LIMIT;
        let answers = timeout(limit, pipe.query_async(&mut reader.connection)).await;
        let mut answers: Vec<Value> = answers.map_err(|_| ReadError::Late(limit))??;
        let (Some(info), Some(last)) = (answers.pop(), answers.pop()) else {
            return Err(ReadError::Malformed);
        };
        let info = Info::read(&info);
        let (role, history) = (info.field("role"), info.field("master_replid"));
        if role.is_empty() || reader.run.is_empty() && history.is_empty() {
            return Err(ReadError::Nameless);
        }
        if role != "master" {
            return Err(ReadError::Replica);
        }
        let server = format!("{}:{history}", reader.run);
        let last = entries(&last).and_then(<[_]>::last);
        let read = answers.first().and_then(entries_of_stream);
        Ok(Look {
            entries: read.unwrap_or_default().iter().map(Entry::read).collect(),
            last: last.and_then(Entry::read).map(|entry| entry.id),
            server,
        })
    }
}

/// Returns the entries in an answer to `XREVRANGE`.
fn entries(answer: &Value) -> Option<&[Value]> {
    match answer {
        Value::Array(entries) => Some(entries),
        _ => None,
    }
}

/// Returns the entries in an answer to `XREAD` about one stream.
fn entries_of_stream(answer: &Value) -> Option<&[Value]> {
    match answer {
        Value::Map(streams) => streams.first().and_then(|(_, read)| entries(read)),
        Value::Array(streams) => match streams.first() {
            Some(Value::Array(stream)) => stream.get(1).and_then(entries),
            _ => None,
        },
        _ => None,
    }
}

/// Returns the keys of the entries after a position, and the position after them. `None` if entries
/// are missing, or their keys are not told.
fn follow(at: &Position, look: &Look) -> Option<(Vec<ChangedKey>, Position)> {
    if at.server != look.server {
        return None;
    }
    let mut keys = Vec::new();
    let mut next = at.clone();
    for entry in &look.entries {
        let entry = entry.as_ref()?;
        if !next.entry.is_before(entry.id) {
            return None;
        }
        next.entry = entry.id;
        keys.extend(entry.keys.as_ref()?);
    }
    // A stream that is behind a position is another one.
    let last = look.last?;
    let is_ahead = last.era == next.entry.era && last.number >= next.entry.number;
    is_ahead.then_some((keys, next))
}

impl ChangeFeed for StreamFeed {
    async fn changes_since(
        &self,
        after: Option<&Cursor>,
        wait: Duration,
    ) -> Result<Changes, FeedError> {
        let changes = self.try_read(after, wait).await;
        if changes.is_err() {
            // In a cluster, another server may have the stream now: an announcement finds out.
            let _ = self.call_out().await; // there is an error already
        }
        Ok(changes?)
    }
}
