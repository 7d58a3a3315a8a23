//! A store in memory.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use super::journal::Journal;
use super::shelves::Shelves;
use crate::key::digest::KeyId;
use crate::key::record::KeyRecord;
use crate::store::{
    Change, ChangeFeed, Changes, Cursor, Event, FeedError, KeyQuery, KeyStore, ListedKey,
    ManagedKeyStore, Page, Paging, StoreError, TrailQuery, TrailRecord, UsageBatch,
};

/// The most records to look at for one page of a list.
const MOST_SCANNED: usize = 2_000;

/// A store in memory. Clones share their keys; with the last of them, the keys are gone.
///
/// It keeps the latest 10,000 records of the trail, and as many events. It is a
/// [feed](ChangeFeed) of its own changes, for several [`ApiKeys`](crate::ApiKeys) in one process.
/// Of usage, it keeps the first and the last use of each key.
///
/// ```
/// use tower_api_key::{ApiKeys, KeyDigest, KeyRecord, MemoryStore};
///
/// let known = KeyDigest::from_hex(&"ab".repeat(32)).expect("64 hex digits");
/// let store: MemoryStore = [KeyRecord::imported(known, "acme")].into_iter().collect();
/// let keys = ApiKeys::builder(store).build()?;
/// # Ok::<(), tower_api_key::BuildError>(())
/// ```
#[derive(Clone)]
pub struct MemoryStore {
    /// The number of this store among those of the process: cursors name it.
    number: u64,
    state: Arc<RwLock<State>>,
}

#[derive(Default)]
struct State {
    shelves: Shelves,
    trail: Journal<TrailRecord>,
    events: Journal<Event>,
    /// The number of the last batch of each node.
    nodes: HashMap<[u8; 16], u64>,
}

impl MemoryStore {
    /// Creates an empty store.
    pub fn new() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Self {
            number: LAST.fetch_add(1, Ordering::Relaxed),
            state: Arc::default(),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes places in a list: what the list is, and how far it was read.
    fn cursor(&self, list: &str, place: impl fmt::Display) -> Cursor {
        Cursor::new(format!("{}-{list}-{place}", self.number))
    }

    /// Reads the place of a cursor of this store and of a list.
    fn place<'c>(&self, list: &str, cursor: &'c Cursor) -> Result<&'c str, StoreError> {
        let begin = format!("{}-{list}-", self.number);
        let place = cursor.as_str().strip_prefix(&begin);
        place.ok_or_else(StoreError::invalid_cursor)
    }

    fn number(&self, list: &str, cursor: &Cursor) -> Result<u64, StoreError> {
        let place = self.place(list, cursor)?.parse();
        place.map_err(|_| StoreError::invalid_cursor())
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

/// Keys that come from elsewhere; of two with one id, the last stays. They leave no trail.
impl FromIterator<KeyRecord> for MemoryStore {
    fn from_iter<I: IntoIterator<Item = KeyRecord>>(records: I) -> Self {
        let store = Self::new();
        let mut state = store.write();
        for record in records {
            state.shelves.put(record);
        }
        drop(state);
        store
    }
}

impl KeyStore for MemoryStore {
    async fn find(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        Ok(self.read().shelves.get(id).cloned())
    }
}

impl ManagedKeyStore for MemoryStore {
    async fn find_committed(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.find(id).await
    }

    async fn commit(&self, change: &Change) -> Result<(), StoreError> {
        let mut state = self.write();
        // Look at everything before anything is written: all of the change, or nothing.
        let mut named = HashSet::new();
        for record in change.creates() {
            if state.shelves.get(&record.id()).is_some() || !named.insert(record.id()) {
                return Err(StoreError::already_exists());
            }
        }
        for record in change.updates() {
            let seen = state.shelves.get(&record.id()).map(KeyRecord::version);
            let next = seen.and_then(|seen| seen.checked_add(1));
            if next != Some(record.version()) || !named.insert(record.id()) {
                return Err(StoreError::conflict());
            }
        }
        for record in change.creates().iter().chain(change.updates()) {
            state.shelves.put(record.clone());
        }
        for record in change.trail() {
            state.trail.push(record.clone());
        }
        for event in change.events() {
            state.events.push(event.clone());
        }
        Ok(())
    }

    async fn list(&self, query: &KeyQuery, paging: &Paging) -> Result<Page<ListedKey>, StoreError> {
        let list = query.fingerprint();
        let after = match &paging.after {
            None => None,
            Some(cursor) => {
                let place = self.place(&list, cursor)?.split_once('-');
                let place = place.and_then(|(by, key)| Some((by.parse().ok()?, key.parse().ok()?)));
                Some(place.ok_or_else(StoreError::invalid_cursor)?)
            }
        };
        let state = self.read();
        let mut keys = state.shelves.list(query.order, after);
        let mut items = Vec::new();
        let mut scanned = None;
        for (place, key) in keys.by_ref().take(MOST_SCANNED) {
            scanned = Some(place);
            if query.matches(&key.record) {
                items.push(key.clone());
                if items.len() == paging.limit as usize {
                    break;
                }
            }
        }
        let has_more = keys.next().is_some();
        let next = scanned.filter(|_| has_more);
        let next = next.map(|(by, key)| self.cursor(&list, format_args!("{by}-{key}")));
        Ok(Page::new(items, next))
    }

    async fn trail(
        &self,
        query: &TrailQuery,
        paging: &Paging,
    ) -> Result<Page<TrailRecord>, StoreError> {
        let list = query.fingerprint();
        let after = paging
            .after
            .as_ref()
            .map(|cursor| self.number(&list, cursor));
        let after = after.transpose()?;
        let state = self.read();
        let limit = paging.limit as usize;
        let matches = |(_, record): &(u64, &TrailRecord)| query.matches(record);
        // One more than the page has tells whether there is another.
        let mut found: Vec<(u64, &TrailRecord)> = if query.newest_first {
            let records = state.trail.before(after.unwrap_or(u64::MAX));
            records.filter(matches).take(limit + 1).collect()
        } else {
            let records = state.trail.after(after.unwrap_or(0));
            records.filter(matches).take(limit + 1).collect()
        };
        let has_more = found.len() > limit;
        found.truncate(limit);
        let next = found.last().filter(|_| has_more);
        let next = next.map(|(place, _)| self.cursor(&list, place));
        let items = found.into_iter().map(|(_, record)| record.clone());
        Ok(Page::new(items.collect(), next))
    }

    async fn events(&self, paging: &Paging) -> Result<Page<Event>, StoreError> {
        let after = paging.after.as_ref();
        let after = after.map(|cursor| self.number("events", cursor));
        let after = after.transpose()?.unwrap_or(0);
        let state = self.read();
        let found = state.events.after(after).take(paging.limit as usize);
        let found: Vec<(u64, &Event)> = found.collect();
        let next = found.last().map_or(after, |(place, _)| *place);
        let next = self.cursor("events", next);
        let items = found.into_iter().map(|(_, event)| event.clone());
        Ok(Page::new(items.collect(), Some(next)))
    }

    async fn record_usage(&self, batch: &UsageBatch) -> Result<(), StoreError> {
        let mut state = self.write();
        let last = state.nodes.get(&batch.node).copied();
        if last.is_some_and(|last| batch.number <= last) {
            return Ok(());
        }
        if last.is_some_and(|last| batch.number - 1 > last) {
            return Err(StoreError::conflict());
        }
        state.nodes.insert(batch.node, batch.number);
        for usage in &batch.usage {
            state.shelves.note(usage);
        }
        Ok(())
    }
}

/// It never waits: a call returns what there is.
impl ChangeFeed for MemoryStore {
    async fn changes_since(
        &self,
        after: Option<&Cursor>,
        _wait: Duration,
    ) -> Result<Changes, FeedError> {
        let state = self.read();
        let trail = &state.trail;
        let next = self.cursor("changes", trail.last());
        let Some(after) = after else {
            return Ok(Changes::new(Vec::new(), next));
        };
        match self.number("changes", after) {
            Ok(after) if (trail.before_first()..=trail.last()).contains(&after) => {
                let changes = trail.after(after);
                let keys = changes.map(|(_, record)| (record.key, record.version));
                Ok(Changes::new(keys.collect(), next))
            }
            _ => Ok(Changes::gap(next)),
        }
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore")
            .field("keys", &self.read().shelves.len())
            .finish()
    }
}
