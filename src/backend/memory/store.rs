//! A store in memory.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, SystemTime};

use super::journal::Journal;
use super::shelves::Shelves;
use crate::key::digest::KeyId;
use crate::key::record::KeyRecord;
use crate::store::{
    Change, ChangeFeed, ChangeId, ChangedKey, Changes, Cursor, FeedError, Followed, KeptEvent,
    KeyQuery, KeyStore, ListedKey, ManagedKeyStore, Page, Paging, Start, Step, StoreError,
    TrailQuery, TrailRecord, UsageBatch,
};

/// The most records to look at for one page of a list.
const MOST_SCANNED: usize = 2_000;

/// The most nodes whose last batches are remembered.
const MOST_NODES: usize = 10_000;

/// A store in memory. Clones share their keys; with the last of them, the keys are gone.
///
/// It keeps the latest 10,000 records of the trail, and as many events, or as many as 16 MiB hold.
/// It is a [feed](ChangeFeed) of its own changes, for several [`ApiKeys`](crate::ApiKeys) in one
/// process. Of usage, it keeps the first and the last use of each key.
///
/// ```
/// use tower_api_key::key::KeyDigest;
/// use tower_api_key::{ApiKeys, KeyRecord, MemoryStore};
///
/// let known = KeyDigest::from_hex(&"ab".repeat(32)).expect("64 hex digits");
/// let store: MemoryStore = [KeyRecord::imported(known, "acme")].into_iter().collect();
/// let keys = ApiKeys::builder(store).build()?;
/// # Ok::<(), tower_api_key::BuildError>(())
/// ```
#[derive(Clone)]
pub struct MemoryStore {
    /// Cursors name the store that made them.
    id: ChangeId,
    state: Arc<RwLock<State>>,
}

#[derive(Default)]
struct State {
    shelves: Shelves,
    trail: Journal<TrailRecord>,
    events: Journal<KeptEvent>,
    /// The number of the last batch of each of the latest nodes.
    nodes: HashMap<[u8; 16], u64>,
    /// The oldest node first.
    known_nodes: VecDeque<[u8; 16]>,
}

impl MemoryStore {
    /// Creates an empty store.
    pub fn new() -> Self {
        Self {
            id: ChangeId::unique(),
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
        Cursor::new(format!("{}-{list}-{place}", self.id))
    }

    /// Reads the place of a cursor of this store and of a list.
    fn place<'c>(&self, list: &str, cursor: &'c Cursor) -> Result<&'c str, StoreError> {
        let begin = format!("{}-{list}-", self.id);
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
            state.shelves.put(record, SystemTime::UNIX_EPOCH);
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
        for step in change.steps() {
            match step {
                Step::Create { record, .. } => {
                    let exists = state.shelves.get(&record.id()).is_some();
                    if exists || !named.insert(record.id()) {
                        return Err(StoreError::already_exists());
                    }
                }
                Step::Update { record, .. } => {
                    let seen = state.shelves.get(&record.id()).map(KeyRecord::version);
                    let next = seen.and_then(|seen| seen.checked_add(1));
                    if next != Some(record.version()) || !named.insert(record.id()) {
                        return Err(StoreError::conflict());
                    }
                }
                Step::Event(_) => {}
            }
        }
        for (at, step) in change.steps().enumerate() {
            match step {
                Step::Create { record, trail } | Step::Update { record, trail } => {
                    state.shelves.put(record.clone(), change.at());
                    state.trail.push(trail.clone(), trail.size());
                }
                Step::Event(event) => {
                    let id = format!("msg_{}_{at}", change.id());
                    let size = event.size() + id.len();
                    state.events.push(KeptEvent::new(id, event.clone()), size);
                }
            }
        }
        Ok(())
    }

    async fn list(&self, query: &KeyQuery, paging: &Paging) -> Result<Page<ListedKey>, StoreError> {
        let list = query.fingerprint();
        let after = match paging.cursor() {
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
            if query.matches(key) {
                items.push(key.clone());
                if items.len() == paging.limit() as usize {
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
        let state = self.read();
        let after = match paging.cursor() {
            None => None,
            Some(cursor) => {
                let place = self.number(&list, cursor)?;
                // What stood there may be forgotten by now, but it was there once.
                let is_known = place <= state.trail.last();
                Some(
                    is_known
                        .then_some(place)
                        .ok_or_else(StoreError::invalid_cursor)?,
                )
            }
        };
        let limit = paging.limit() as usize;
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

    async fn events(&self, start: &Start, limit: u32) -> Result<Followed<KeptEvent>, StoreError> {
        let state = self.read();
        let events = &state.events;
        let after = match start {
            Start::Beginning => events.before_first(),
            Start::Now => events.last(),
            Start::After(cursor) => self.number("events", cursor)?,
        };
        if after > events.last() {
            return Err(StoreError::invalid_cursor());
        }
        let limit = limit.max(1) as usize;
        let found: Vec<(u64, &KeptEvent)> = events.after(after).take(limit).collect();
        let next = found.last().map_or(after, |(place, _)| *place);
        let items = found.iter().map(|(_, event)| (*event).clone()).collect();
        let read = Followed::new(items, self.cursor("events", next));
        Ok(read.end(next == events.last()).gap(!events.reaches(after)))
    }

    async fn record_usage(&self, batch: &UsageBatch) -> Result<(), StoreError> {
        let mut state = self.write();
        let last = state.nodes.get(batch.node()).copied();
        if last.is_some_and(|last| batch.number() <= last) {
            return Ok(());
        }
        if last.is_some_and(|last| batch.number() - 1 > last) {
            return Err(StoreError::conflict());
        }
        state.last_of_node(*batch.node(), batch.number());
        for usage in batch.usage() {
            if let Some(key) = &usage.key {
                state
                    .shelves
                    .note(key, usage.first_used_at, usage.last_used_at);
            }
        }
        Ok(())
    }
}

impl State {
    /// Remembers the last batch of a node, and forgets the oldest node if there are too many.
    fn last_of_node(&mut self, node: [u8; 16], number: u64) {
        if self.nodes.insert(node, number).is_some() {
            return;
        }
        self.known_nodes.push_back(node);
        if self.known_nodes.len() > MOST_NODES
            && let Some(oldest) = self.known_nodes.pop_front()
        {
            self.nodes.remove(&oldest);
        }
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
            Ok(after) if trail.reaches(after) => {
                let changes = trail.after(after);
                let keys = changes.map(|(_, it)| ChangedKey::new(it.key, it.version));
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
