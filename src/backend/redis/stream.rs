//! The stream of changes: how it is written, and where a reader is in it.
//!
//! Each entry names the keys of a change, or is a sign of life. The entries `E-1`, `E-2`, `E-3`
//! have contiguous numbers, and `E` is another one when the stream was lost and begins anew. A
//! failover may lose entries and give their numbers to others. So a position also names the server
//! that it was read from.

use redis::{Client, Value};

use super::call_error::CallError;
use super::dialing::DIAL_LIMIT;
use super::script::Script;
use super::servers::Servers;
use crate::key::digest::KeyId;
use crate::store::{ChangedKey, Cursor};

/// The keys of an entry.
pub(super) const KEYS_OF_ENTRY: usize = 100;

/// The entries that are kept, about: 4 MB if each has few keys. A reader that is farther behind is
/// told of a gap.
const ENTRIES: u32 = 10_000;

/// The size of a key in an entry: its id, its version, and whether it was deleted.
const SIZE: usize = 25;

/// The first byte of an entry that is no sign of life.
const CHANGES: u8 = b'k';
const GAP: u8 = b'g';

/// The field of an entry.
pub(super) const FIELD: &str = "c";

/// What is announced.
#[derive(Debug, Clone, Copy)]
pub(super) enum News<'n> {
    /// Nothing has changed: a sign of life.
    Alive,
    /// These keys have.
    Changed(&'n [ChangedKey]),
    /// Any key may have.
    Unknown,
}

/// Writes to the stream.
#[derive(Debug)]
pub(super) struct Announcer {
    servers: Servers,
    stream: String,
    script: Script,
}

impl Announcer {
    pub(super) fn new(servers: Servers, prefix: &str) -> Self {
        Self {
            servers,
            stream: format!("{prefix}:f1"),
            script: Script::new(include_str!("announce.lua")),
        }
    }

    /// Returns the name of the stream.
    pub(super) fn stream(&self) -> &str {
        &self.stream
    }

    /// Returns the client of the server that has the stream.
    pub(super) async fn client(&self) -> Result<Client, CallError> {
        let until = self.servers.now() + DIAL_LIMIT;
        let client = self.servers.client_of(&self.stream, until).await?;
        client.ok_or(CallError::Malformed)
    }

    /// Adds an entry.
    pub(super) async fn announce(&self, news: News<'_>) -> Result<(), CallError> {
        let until = self.servers.now() + self.servers.limit();
        let written = write(news);
        let call = |name: &str, script: &str| {
            let mut command = redis::cmd(name);
            command.arg(script).arg(1).arg(&self.stream);
            command.arg(&written[..]).arg(ENTRIES);
            command
        };
        let (stream, script) = (&self.stream, &self.script);
        self.servers.run(stream, script, until, call).await?;
        Ok(())
    }
}

fn write(news: News<'_>) -> Vec<u8> {
    let changed = match news {
        News::Alive => return Vec::new(),
        News::Unknown => return vec![GAP],
        News::Changed(changed) => changed,
    };
    let mut written = Vec::with_capacity(1 + changed.len() * SIZE);
    written.push(CHANGES);
    for key in changed {
        written.extend(key.id.as_bytes());
        written.extend(key.version.to_le_bytes());
        written.push(u8::from(key.is_deleted));
    }
    written
}

/// Reads the keys of an entry. `None` if they are not told, or not in this form.
pub(super) fn read(written: &[u8]) -> Option<Vec<ChangedKey>> {
    let Some((kind, keys)) = written.split_first() else {
        return Some(Vec::new());
    };
    let (keys, rest) = keys.as_chunks::<SIZE>();
    if *kind != CHANGES || !rest.is_empty() {
        return None;
    }
    let key = |key: &[u8; SIZE]| {
        let (id, rest) = key.split_first_chunk::<16>()?;
        let (version, rest) = rest.split_first_chunk::<8>()?;
        let is_deleted = match rest {
            [0] => false,
            [1] => true,
            _ => return None,
        };
        let key = ChangedKey::new(KeyId::from_bytes(*id), u64::from_le_bytes(*version));
        Some(key.deleted(is_deleted))
    };
    keys.iter().map(key).collect()
}

/// The number of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EntryId {
    pub(super) era: u64,
    pub(super) number: u64,
}

impl EntryId {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (era, number) = text.split_once('-')?;
        Some(Self {
            era: era.parse().ok()?,
            number: number.parse().ok()?,
        })
    }

    /// Returns whether an entry comes next.
    pub(super) fn is_before(self, next: Self) -> bool {
        self.era == next.era && self.number.checked_add(1) == Some(next.number)
    }
}

impl std::fmt::Display for EntryId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.era, self.number)
    }
}

/// The position of a reader: the server, and the last entry that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Position {
    /// The run of the server, and the history of its data.
    pub(super) server: String,
    pub(super) entry: EntryId,
}

impl Position {
    pub(super) fn encode(&self) -> Cursor {
        Cursor::new(format!("r1-{}-{}", self.server, self.entry))
    }

    pub(super) fn decode(cursor: &Cursor) -> Option<Self> {
        let rest = cursor.as_str().strip_prefix("r1-")?;
        let (server, entry) = rest.split_once('-')?;
        Some(Self {
            server: server.to_owned(),
            entry: EntryId::parse(entry)?,
        })
    }
}

/// An entry as it is read: its number, and its keys unless they are not told.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) id: EntryId,
    pub(super) keys: Option<Vec<ChangedKey>>,
}

impl Entry {
    /// Reads `[id, [field, value, …]]`.
    pub(super) fn read(value: &Value) -> Option<Self> {
        let Value::Array(parts) = value else {
            return None;
        };
        let [Value::BulkString(id), Value::Array(fields)] = &parts[..] else {
            return None;
        };
        let keys = match &fields[..] {
            [Value::BulkString(name), Value::BulkString(keys)] if name == FIELD.as_bytes() => {
                read(keys)
            }
            _ => None,
        };
        let id = EntryId::parse(str::from_utf8(id).ok()?)?;
        Some(Self { id, keys })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn changed() -> impl Strategy<Value = ChangedKey> {
        (any::<[u8; 16]>(), any::<u64>(), any::<bool>()).prop_map(|(id, version, is_deleted)| {
            ChangedKey::new(KeyId::from_bytes(id), version).deleted(is_deleted)
        })
    }

    proptest! {
        #[test]
        fn entries_are_read_back(keys in prop::collection::vec(changed(), 0..5), cut in 1_usize..25) {
            let written = write(News::Changed(&keys));
            prop_assert_eq!(read(&written), Some(keys.clone()));
            if !keys.is_empty() {
                prop_assert_eq!(read(&written[..written.len() - cut]), None);
            }
        }

        /// Any bytes are read or refused.
        #[test]
        fn any_entry_is_read_or_refused(written in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Some(keys) = read(&written) {
                prop_assert!(keys.len() * SIZE < 80);
            }
        }

        #[test]
        fn a_position_is_read_back(era: u64, number: u64) {
            let entry = EntryId { era, number };
            let position = Position { server: "ab:cd".to_owned(), entry };
            prop_assert_eq!(Position::decode(&position.encode()), Some(position));
        }

        /// Any text is a position or none.
        #[test]
        fn any_cursor_is_decoded_or_refused(text in "[rf]?1?-?[0-9a-f:-]{0,20}") {
            if let Some(position) = Position::decode(&Cursor::new(text.as_str())) {
                prop_assert!(!position.server.contains('-'));
            }
        }
    }

    #[test]
    fn a_sign_of_life_names_no_key_and_a_gap_is_none() {
        assert_eq!(read(&write(News::Alive)), Some(Vec::new()));
        assert_eq!(read(&write(News::Unknown)), None);
    }

    #[test]
    fn only_the_next_number_of_the_same_stream_comes_next() {
        let id = |text: &str| EntryId::parse(text).unwrap();
        assert!(id("5-1").is_before(id("5-2")));
        for next in ["5-1", "5-3", "6-2", "5-0", "6-1"] {
            assert!(!id("5-1").is_before(id(next)), "{next}");
        }
        let last = EntryId {
            era: 5,
            number: u64::MAX,
        };
        assert!(!last.is_before(id("5-0")));
    }
}
