//! A store in memory.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, SystemTime};

use super::delivery_table::DeliveryTable;
use super::journal::Journal;
use super::record_table::RecordTable;
use super::usage::Usage;
use crate::key::digest::KeyId;
use crate::key::record::KeyRecord;
use crate::store::{
    BoxedOutbox, Change, ChangeFeed, ChangeId, ChangedKey, Changes, Cursor, FeedError, Followed,
    IssueRequest, KeptEvent, KeptProfile, KeyQuery, KeyStore, ListedKey, ManagedKeyStore, Page,
    Paging, Start, Step, StoreError, TrailQuery, TrailRecord, UsageBatch, UsagePlace, UsageQuery,
    UsageRow,
};

/// The maximum number of records that are examined for one page of a list.
const MOST_SCANNED: usize = 2_000;

/// The maximum number of nodes whose last batch number is kept.
const MOST_NODES: usize = 10_000;

/// A store in memory. Clones share their keys, which are dropped with the last clone.
///
/// The store keeps the latest 10,000 records of the trail and the latest 10,000 events, or as many
/// of each as fit into 16 MiB. Of the deliveries of events, it keeps the latest 10,000 that are
/// pending and the latest 10,000 that are settled, or as many of each as fit into 16 MiB, and the
/// latest 100,000 marks of events that are told [once](crate::store::Once). It keeps the usage of at
/// most 100,000 keys and periods, the latest ones. It is also a [feed](ChangeFeed) of its own
/// changes, for several [`ApiKeys`](crate::ApiKeys) in one process.
///
/// ```
/// use tower_api_key::key::KeyDigest;
/// use tower_api_key::{ApiKeys, KeyRecord, MemoryStore};
///
/// let digest = KeyDigest::from_hex(&"ab".repeat(32)).expect("64 hex digits");
/// let store: MemoryStore = [KeyRecord::imported(digest, "acme")].into_iter().collect();
/// let keys = ApiKeys::builder(store).build()?;
/// # Ok::<(), tower_api_key::BuildError>(())
/// ```
#[derive(Clone)]
pub struct MemoryStore {
    /// The id of the store, which its cursors contain.
    id: ChangeId,
    tables: Arc<RwLock<Tables>>,
}

#[derive(Default)]
pub(super) struct Tables {
    records: RecordTable,
    requests: HashMap<[u8; 32], IssueRequest>,
    /// The requests for each key, which are forgotten with it.
    requests_of: HashMap<KeyId, Vec<[u8; 32]>>,
    trail: Journal<TrailRecord>,
    events: Journal<KeptEvent>,
    usage: Usage,
    profiles: HashMap<KeyId, KeptProfile>,
    pub(super) outbox: DeliveryTable,
    /// The number of the last batch of each node.
    last_batches: HashMap<[u8; 16], u64>,
    /// The nodes in the order of their first batch, for eviction.
    nodes_by_age: VecDeque<[u8; 16]>,
}

impl MemoryStore {
    /// Creates an empty store.
    pub fn new() -> Self {
        Self {
            id: ChangeId::unique(),
            tables: Arc::default(),
        }
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, Tables> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, Tables> {
        self.tables.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Encodes a cursor: the store, the list, and the position in the list.
    pub(super) fn cursor(&self, list: &str, position: impl fmt::Display) -> Cursor {
        Cursor::new(format!("{}-{list}-{position}", self.id))
    }

    /// Decodes the position of a cursor of this store for a list.
    pub(super) fn position<'c>(
        &self,
        list: &str,
        cursor: &'c Cursor,
    ) -> Result<&'c str, StoreError> {
        let begin = format!("{}-{list}-", self.id);
        let position = cursor.as_str().strip_prefix(&begin);
        position.ok_or_else(StoreError::invalid_cursor)
    }

    fn number(&self, list: &str, cursor: &Cursor) -> Result<u64, StoreError> {
        let position = self.position(list, cursor)?.parse();
        position.map_err(|_| StoreError::invalid_cursor())
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

/// Collects imported keys, without a trail. If several have the same id, the last one is kept.
impl FromIterator<KeyRecord> for MemoryStore {
    fn from_iter<I: IntoIterator<Item = KeyRecord>>(records: I) -> Self {
        let store = Self::new();
        let mut tables = store.write();
        for record in records {
            tables.records.put(record, SystemTime::UNIX_EPOCH);
        }
        drop(tables);
        store
    }
}

impl KeyStore for MemoryStore {
    async fn find(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        Ok(self.read().records.get(id).cloned())
    }
}

impl ManagedKeyStore for MemoryStore {
    async fn find_committed(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.find(id).await
    }

    async fn commit(&self, change: &Change) -> Result<(), StoreError> {
        let mut tables = self.write();
        tables.check(change)?;
        for (at, step) in change.steps().enumerate() {
            match step {
                Step::Create { record, trail } | Step::Update { record, trail } => {
                    tables.records.put(record.clone(), change.at());
                    tables.trail.push(trail.clone(), trail.size());
                }
                Step::Delete { record, trail } => {
                    tables.delete(&record.id());
                    tables.trail.push(trail.clone(), trail.size());
                }
                Step::Request { request, replaces } => tables.remember(request, replaces),
                Step::Cap(_) => {}
                Step::Event {
                    event,
                    once,
                    only_to,
                } => {
                    if once.is_none_or(|mark| tables.outbox.add_mark(mark)) {
                        let id = format!("msg_{}_{at}", change.id());
                        let event = KeptEvent::new(id, event.clone());
                        tables.tell(event, only_to, change.at());
                    }
                }
            }
        }
        Ok(())
    }

    async fn list(&self, query: &KeyQuery, paging: &Paging) -> Result<Page<ListedKey>, StoreError> {
        let list = query.fingerprint();
        let after = match paging.cursor() {
            None => RecordTable::before_first(query),
            Some(cursor) => {
                let position = self.position(&list, cursor)?.split_once('-');
                let position =
                    position.and_then(|(by, key)| Some((by.parse().ok()?, key.parse().ok()?)));
                Some(position.ok_or_else(StoreError::invalid_cursor)?)
            }
        };
        let tables = self.read();
        let mut keys = tables.records.list(query.order, after);
        let mut items = Vec::new();
        let mut scanned = None;
        for (sort_key, key) in keys.by_ref().take(MOST_SCANNED) {
            scanned = Some(sort_key);
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

    async fn find_listed(&self, id: &KeyId) -> Result<Option<ListedKey>, StoreError> {
        Ok(self.read().records.get_listed(id).cloned())
    }

    async fn find_lineage(&self, first: &KeyId) -> Result<Vec<KeyRecord>, StoreError> {
        Ok(self.read().records.lineage(first).cloned().collect())
    }

    async fn find_request(&self, id: &[u8; 32]) -> Result<Option<IssueRequest>, StoreError> {
        Ok(self.read().requests.get(id).cloned())
    }

    async fn trail(
        &self,
        query: &TrailQuery,
        paging: &Paging,
    ) -> Result<Page<TrailRecord>, StoreError> {
        let list = query.fingerprint();
        let tables = self.read();
        let after = match paging.cursor() {
            None => None,
            Some(cursor) => {
                let number = self.number(&list, cursor)?;
                // The entry may have been dropped since, but it existed.
                let existed = number <= tables.trail.last();
                Some(
                    existed
                        .then_some(number)
                        .ok_or_else(StoreError::invalid_cursor)?,
                )
            }
        };
        let limit = paging.limit() as usize;
        let matches = |(_, record): &(u64, &TrailRecord)| query.matches(record);
        // One more than the page holds, to find out whether there is a next page.
        let mut found: Vec<(u64, &TrailRecord)> = if query.newest_first {
            let records = tables.trail.before(after.unwrap_or(u64::MAX));
            records.filter(matches).take(limit + 1).collect()
        } else {
            let records = tables.trail.after(after.unwrap_or(0));
            records.filter(matches).take(limit + 1).collect()
        };
        let has_more = found.len() > limit;
        found.truncate(limit);
        let next = found.last().filter(|_| has_more);
        let next = next.map(|(number, _)| self.cursor(&list, number));
        let items = found.into_iter().map(|(_, record)| record.clone());
        Ok(Page::new(items.collect(), next))
    }

    async fn events(&self, start: &Start, limit: u32) -> Result<Followed<KeptEvent>, StoreError> {
        let tables = self.read();
        let events = &tables.events;
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
        let next = found.last().map_or(after, |(number, _)| *number);
        let items = found.iter().map(|(_, event)| (*event).clone()).collect();
        let read = Followed::new(items, self.cursor("events", next));
        Ok(read.end(next == events.last()).gap(!events.reaches(after)))
    }

    fn outbox(&self) -> Option<BoxedOutbox> {
        Some(BoxedOutbox::new(self.clone()))
    }

    async fn record_usage(&self, batch: &UsageBatch) -> Result<(), StoreError> {
        let mut tables = self.write();
        let last = tables.last_batches.get(batch.node()).copied();
        if last.is_some_and(|last| batch.number() <= last) {
            return Ok(());
        }
        if last.is_some_and(|last| batch.number() - 1 > last) {
            return Err(StoreError::conflict());
        }
        tables.set_last_batch(*batch.node(), batch.number());
        let change = ChangeId::unique();
        for (at, usage) in batch.usage().iter().enumerate() {
            tables.usage.record(usage);
            if tables.records.record_use(usage)
                && let Some(event) = usage.first_use()
            {
                let told_at = event.at;
                let event = KeptEvent::new(format!("msg_{change}_{at}"), event);
                tables.tell(event, None, told_at);
            }
        }
        Ok(())
    }

    async fn usage(
        &self,
        query: &UsageQuery,
        paging: &Paging,
    ) -> Result<Page<UsageRow>, StoreError> {
        let list = query.fingerprint();
        let after = match paging.cursor() {
            None => None,
            Some(cursor) => {
                let place = UsagePlace::from_text(self.position(&list, cursor)?);
                Some(place.ok_or_else(StoreError::invalid_cursor)?)
            }
        };
        let limit = paging.limit() as usize;
        let (rows, next) = self.read().usage.report(query, after.as_ref(), limit);
        let next = next.map(|place| self.cursor(&list, place.to_text()));
        Ok(Page::new(rows, next))
    }

    async fn profiles(&self, keys: &[KeyId]) -> Result<Vec<KeptProfile>, StoreError> {
        let tables = self.read();
        let kept = keys.iter();
        let kept = kept.filter_map(|key| tables.profiles.get(key).cloned());
        Ok(kept.collect())
    }

    async fn save_profiles(&self, profiles: &[KeptProfile]) -> Result<Vec<KeyId>, StoreError> {
        let kept = &mut self.write().profiles;
        let mut saved = Vec::new();
        for profile in profiles {
            let version = kept.get(&profile.key).map_or(0, |kept| kept.version);
            if profile.version.checked_sub(1) == Some(version) {
                kept.insert(profile.key, profile.clone());
                saved.push(profile.key);
            }
        }
        Ok(saved)
    }
}

impl Tables {
    /// Checks all steps before the first write, so that a change is committed as a whole or not at
    /// all.
    fn check(&self, change: &Change) -> Result<(), StoreError> {
        // The records as they will be; `None` for those that are deleted.
        let mut written = HashMap::new();
        let version = |id| self.records.get(&id).map(KeyRecord::version);
        for step in change.steps() {
            match step {
                Step::Create { record, .. } => {
                    let is_second = written.insert(record.id(), Some(record)).is_some();
                    if is_second || self.records.is_known(&record.id()) {
                        return Err(StoreError::already_exists());
                    }
                }
                Step::Update { record, .. } => {
                    let is_second = written.insert(record.id(), Some(record)).is_some();
                    let next = version(record.id()).and_then(|seen| seen.checked_add(1));
                    if is_second || next != Some(record.version()) {
                        return Err(StoreError::conflict());
                    }
                }
                Step::Delete { record, .. } => {
                    let is_second = written.insert(record.id(), None).is_some();
                    if is_second || version(record.id()) != Some(record.version()) {
                        return Err(StoreError::conflict());
                    }
                }
                Step::Request { request, replaces } => {
                    let remembered = self.requests.get(&request.id).map(|it| it.key);
                    if remembered.is_some() && replaces.is_none() {
                        return Err(StoreError::already_exists());
                    }
                    if remembered != replaces {
                        return Err(StoreError::conflict());
                    }
                }
                Step::Cap(_) | Step::Event { .. } => {}
            }
        }
        for step in change.steps() {
            if let Step::Cap(cap) = step
                && self.records.exceeds(cap, &written)
            {
                return Err(StoreError::cap_reached());
            }
        }
        Ok(())
    }

    /// Adds an event, and its deliveries.
    fn tell(&mut self, event: KeptEvent, only_to: Option<&str>, at: SystemTime) {
        let number = self.events.last() + 1;
        self.outbox.tell(number, &event, only_to, at);
        let size = event.event.size() + event.id.len();
        self.events.push(event, size);
    }

    fn delete(&mut self, id: &KeyId) {
        self.records.delete(id);
        self.profiles.remove(id);
        for request in self.requests_of.remove(id).unwrap_or_default() {
            self.requests.remove(&request);
        }
    }

    fn remember(&mut self, request: &IssueRequest, replaces: Option<KeyId>) {
        if let Some(of_key) = replaces.and_then(|key| self.requests_of.get_mut(&key)) {
            of_key.retain(|id| *id != request.id);
        }
        self.requests.insert(request.id, request.clone());
        let of_key = self.requests_of.entry(request.key).or_default();
        of_key.push(request.id);
    }

    /// Stores the number of the last batch of a node, and evicts the oldest node if there are too
    /// many.
    fn set_last_batch(&mut self, node: [u8; 16], number: u64) {
        if self.last_batches.insert(node, number).is_some() {
            return;
        }
        self.nodes_by_age.push_back(node);
        if self.nodes_by_age.len() > MOST_NODES
            && let Some(oldest) = self.nodes_by_age.pop_front()
        {
            self.last_batches.remove(&oldest);
        }
    }
}

/// Returns at once, without waiting for changes.
impl ChangeFeed for MemoryStore {
    async fn changes_since(
        &self,
        after: Option<&Cursor>,
        _wait: Duration,
    ) -> Result<Changes, FeedError> {
        let tables = self.read();
        let trail = &tables.trail;
        let next = self.cursor("changes", trail.last());
        let Some(after) = after else {
            return Ok(Changes::new(Vec::new(), next));
        };
        match self.number("changes", after) {
            Ok(after) if trail.reaches(after) => {
                let changes = trail.after(after);
                let keys = changes.map(|(_, it)| {
                    let is_deleted = tables.records.get(&it.key).is_none();
                    ChangedKey::new(it.key, it.version).deleted(is_deleted)
                });
                Ok(Changes::new(keys.collect(), next))
            }
            _ => Ok(Changes::gap(next)),
        }
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore")
            .field("keys", &self.read().records.len())
            .finish()
    }
}
