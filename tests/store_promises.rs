//! The conformance suites of lists, trails, events, usage and feeds: a broken promise is named, and
//! a store that declares what it does not keep passes.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use support::block_on;
use tower_api_key::conformance::{self, Field, Keeps};
use tower_api_key::store::{
    Change, ChangeFeed, ChangedKey, Changes, Cursor, ExpiryFilter, FeedError, Followed,
    IssueRequest, KeptEvent, KeptProfile, KeyOrder, KeyQuery, ListedKey, Page, Paging, Start, Step,
    StoreError, StoreErrorKind, TrailQuery, TrailRecord, UsageBatch, UsageDetail, UsageQuery,
    UsageRow,
};
use tower_api_key::{KeyId, KeyRecord, KeyStore, ManagedKeyStore, MemoryStore};

/// What can be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    ListsOldestFirst,
    ListsByPage,
    IgnoresState,
    IgnoresPrefix,
    IgnoresOrder,
    LeavesOutFirstEnd,
    AddsLastEnd,
    LeavesOutReadable,
    TakesAnyCursor,
    ListsMore,
    ListsWithoutPrefixes,
    NeverEnds,
    LosesTrail,
    ForgetsReasons,
    ReadsForwardsOnly,
    TakesAnyTrailCursor,
    LosesEvents,
    RepeatsEvents,
    NumbersEventsAnew,
    ReadsMoreEvents,
    CountsTwice,
    HidesUses,
    SkipsBatches,
    UsesChangeRecords,
    CutsPlans,
    IgnoresCaps,
    KeepsDeleted,
    ForgetsRequests,
    CutsLineages,
    LosesChanges,
    TellsLowVersions,
    TakesAnyFeedCursor,
    TellsAllAtFirst,
    ReportsTwice,
    ReportsUnsorted,
    ReportsWithoutUnits,
    ReportsAllDays,
    TakesAnyReportCursor,
    CutsCurves,
    SavesAnyVersion,
    SavesAllOrNone,
    CutsProfiles,
    KeepsProfiles,
}

/// A store in memory with something wrong.
struct Twisted {
    store: MemoryStore,
    fault: Fault,
    nodes: AtomicU8,
}

impl Twisted {
    fn new(fault: Fault) -> Self {
        Self {
            store: MemoryStore::new(),
            fault,
            nodes: AtomicU8::new(0),
        }
    }

    fn is(&self, fault: Fault) -> bool {
        self.fault == fault
    }
}

impl KeyStore for Twisted {
    async fn find(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.store.find(id).await
    }
}

impl ManagedKeyStore for Twisted {
    async fn find_committed(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.store.find(id).await
    }

    async fn commit(&self, change: &Change) -> Result<(), StoreError> {
        if self.is(Fault::IgnoresCaps) || self.is(Fault::KeepsDeleted) {
            // Commits the records only, and passes the other step over.
            let skips = |step: &Step<'_>| match step {
                Step::Cap(_) => self.is(Fault::IgnoresCaps),
                Step::Delete { .. } => self.is(Fault::KeepsDeleted),
                _ => false,
            };
            if change.steps().any(|step| skips(&step)) {
                for record in change.records() {
                    let create = support::creates(record.clone());
                    self.store.commit(&create).await?;
                }
                return Ok(());
            }
        }
        let Fault::CutsPlans = self.fault else {
            return self.store.commit(change).await;
        };
        // As a table does that has no such column.
        let cut = |record: &KeyRecord| record.clone().with_plan(None::<&str>);
        for record in change.records() {
            self.store.commit(&support::creates(cut(record))).await?;
        }
        Ok(())
    }

    async fn find_lineage(&self, first: &KeyId) -> Result<Vec<KeyRecord>, StoreError> {
        let found = self.store.find_lineage(first).await?;
        Ok(found
            .into_iter()
            .take(if self.is(Fault::CutsLineages) { 1 } else { 9 })
            .collect())
    }

    async fn find_request(&self, id: &[u8; 32]) -> Result<Option<IssueRequest>, StoreError> {
        let found = self.store.find_request(id).await?;
        Ok(found.filter(|_| !self.is(Fault::ForgetsRequests)))
    }

    async fn find_listed(&self, id: &KeyId) -> Result<Option<ListedKey>, StoreError> {
        let found = self.store.find_listed(id).await?;
        let hides = self.is(Fault::HidesUses);
        Ok(found.map(|key| {
            if hides {
                ListedKey::new(key.record)
            } else {
                key
            }
        }))
    }

    async fn list(&self, query: &KeyQuery, paging: &Paging) -> Result<Page<ListedKey>, StoreError> {
        let mut query = query.clone();
        if self.is(Fault::IgnoresState) {
            query.state = None;
        }
        if self.is(Fault::IgnoresPrefix) {
            query.prefix = None;
        }
        if let Some(ExpiryFilter::Between(from, before)) = &mut query.expiry {
            let microsecond = Duration::from_micros(1);
            *from += microsecond * u32::from(self.is(Fault::LeavesOutFirstEnd));
            *before += microsecond * u32::from(self.is(Fault::AddsLastEnd));
        }
        let mut page = match self.store.list(&query, paging).await {
            Err(error)
                if self.is(Fault::TakesAnyCursor)
                    && error.kind() == StoreErrorKind::InvalidCursor =>
            {
                self.store
                    .list(&query, &Paging::first(paging.limit()))
                    .await?
            }
            listed => listed?,
        };
        if self.is(Fault::ListsMore) && page.next.is_some() {
            let rest = Paging::first(1).after(page.next);
            let rest = self.store.list(&query, &rest).await?;
            page.items.extend(rest.items);
            page.next = rest.next;
        }
        let is_reversed = match query.order {
            KeyOrder::EndingSoon => self.is(Fault::IgnoresOrder),
            _ => self.is(Fault::ListsOldestFirst),
        };
        if is_reversed {
            page.items.reverse();
        }
        if self.is(Fault::ListsByPage) && paging.cursor().is_some() {
            page.items.pop();
        }
        if self.is(Fault::LeavesOutReadable) && query.leaves_out_unreadable {
            page.items.pop();
        }
        if self.is(Fault::ListsWithoutPrefixes) {
            for key in &mut page.items {
                key.record = key.record.clone().with_prefix(None::<&str>);
            }
        }
        if self.is(Fault::NeverEnds) {
            page.next = page.next.or_else(|| paging.cursor().cloned());
        }
        Ok(page)
    }

    async fn trail(
        &self,
        query: &TrailQuery,
        paging: &Paging,
    ) -> Result<Page<TrailRecord>, StoreError> {
        let mut query = query.clone();
        if self.is(Fault::ReadsForwardsOnly) {
            query.newest_first = false;
        }
        let mut page = match self.store.trail(&query, paging).await {
            Err(error)
                if self.is(Fault::TakesAnyTrailCursor)
                    && error.kind() == StoreErrorKind::InvalidCursor =>
            {
                let first = Paging::first(paging.limit());
                self.store.trail(&query, &first).await?
            }
            read => read?,
        };
        if self.is(Fault::LosesTrail) {
            page.items
                .retain(|record| record.action.as_str() != "api_key.imported");
        }
        if self.is(Fault::ForgetsReasons) {
            for record in &mut page.items {
                record.origin.reason = None;
            }
        }
        Ok(page)
    }

    async fn events(&self, start: &Start, limit: u32) -> Result<Followed<KeptEvent>, StoreError> {
        let mut read = self.store.events(start, limit).await?;
        match self.fault {
            Fault::LosesEvents => read.items.retain(|kept| kept.event.key.is_none()),
            Fault::RepeatsEvents if read.is_end && read.items.is_empty() => {
                let first = self.store.events(&Start::Beginning, 1).await?;
                read.items = first.items;
            }
            Fault::NumbersEventsAnew => {
                for kept in &mut read.items {
                    kept.id = self.nodes.fetch_add(1, Ordering::SeqCst).to_string();
                }
            }
            Fault::ReadsMoreEvents if !read.is_end => {
                let rest = Start::After(read.next.clone());
                let rest = self.store.events(&rest, 1).await?;
                read.items.extend(rest.items);
            }
            _ => {}
        }
        Ok(read)
    }

    async fn profiles(&self, keys: &[KeyId]) -> Result<Vec<KeptProfile>, StoreError> {
        let mut profiles = self.store.profiles(keys).await?;
        if self.is(Fault::CutsProfiles) {
            for profile in &mut profiles {
                profile.data.truncate(255);
            }
        }
        if self.is(Fault::KeepsProfiles) {
            let missing = |id: &&KeyId| profiles.iter().all(|profile| profile.key != **id);
            let missing: Vec<_> = keys.iter().filter(missing).collect();
            for id in missing {
                let query = TrailQuery::new().with_key(*id);
                let trail = self.store.trail(&query, &Paging::first(9)).await?;
                let mut actions = trail.items.iter().map(|it| it.action.as_str());
                if actions.any(|action| action == "api_key.purged") {
                    profiles.push(KeptProfile::new(*id, 1, *b"a"));
                }
            }
        }
        Ok(profiles)
    }

    async fn save_profiles(&self, profiles: &[KeptProfile]) -> Result<Vec<KeyId>, StoreError> {
        let ids: Vec<_> = profiles.iter().map(|profile| profile.key).collect();
        let kept = self.store.profiles(&ids).await?;
        let version = |id: &KeyId| {
            let kept = kept.iter().find(|kept| kept.key == *id);
            kept.map_or(0, |kept| kept.version)
        };
        let mut profiles = profiles.to_vec();
        if self.is(Fault::SavesAnyVersion) {
            for profile in &mut profiles {
                profile.version = version(&profile.key) + 1;
            }
        }
        let is_next = |it: &KeptProfile| it.version == version(&it.key) + 1;
        if self.is(Fault::SavesAllOrNone) && !profiles.iter().all(is_next) {
            return Ok(Vec::new());
        }
        self.store.save_profiles(&profiles).await
    }

    async fn usage(
        &self,
        query: &UsageQuery,
        paging: &Paging,
    ) -> Result<Page<UsageRow>, StoreError> {
        let mut query = query.clone();
        if self.is(Fault::ReportsAllDays) {
            (query.first_day, query.last_day) = (0, u32::MAX - 1);
        }
        if self.is(Fault::CutsCurves) && query.lineage.is_some() {
            query = query.with_detail(UsageDetail::Key);
        }
        let mut page = match self.store.usage(&query, paging).await {
            Err(error)
                if self.is(Fault::TakesAnyReportCursor)
                    && error.kind() == StoreErrorKind::InvalidCursor =>
            {
                self.store
                    .usage(&query, &Paging::first(paging.limit()))
                    .await?
            }
            page => page?,
        };
        match self.fault {
            Fault::ReportsTwice => page.items.extend(page.items.first().cloned()),
            Fault::ReportsUnsorted => page.items.reverse(),
            Fault::ReportsWithoutUnits => {
                page.items
                    .iter_mut()
                    .for_each(|row| row.counts.units.clear());
            }
            _ => {}
        }
        Ok(page)
    }

    async fn record_usage(&self, batch: &UsageBatch) -> Result<(), StoreError> {
        let recorded = self.store.record_usage(batch).await;
        match self.fault {
            Fault::CountsTwice if recorded.is_ok() => {
                // As if each batch were of a node of its own.
                let node = [self.nodes.fetch_add(1, Ordering::SeqCst); 16];
                let batch = UsageBatch::new(node, 1, batch.usage().to_vec()).unwrap();
                self.store.record_usage(&batch).await
            }
            Fault::SkipsBatches => Ok(()),
            Fault::UsesChangeRecords => {
                for key in batch.usage().iter().filter_map(|usage| usage.key) {
                    if let Some(record) = self.store.find(&key).await? {
                        let next = record.version() + 1;
                        let used = support::updates(record.with_version(next));
                        self.store.commit(&used).await?;
                    }
                }
                recorded
            }
            _ => recorded,
        }
    }
}

impl ChangeFeed for Twisted {
    async fn changes_since(
        &self,
        after: Option<&Cursor>,
        wait: Duration,
    ) -> Result<Changes, FeedError> {
        let mut told = self.store.changes_since(after, wait).await?;
        match self.fault {
            Fault::LosesChanges if told.keys.len() > 1 => {
                told.keys.pop();
            }
            Fault::TellsLowVersions => {
                for key in &mut told.keys {
                    key.version = 1;
                }
            }
            Fault::TakesAnyFeedCursor => told.gap = false,
            Fault::TellsAllAtFirst if after.is_none() => {
                told.keys
                    .push(ChangedKey::new(KeyId::from_bytes([1; 16]), 1));
            }
            _ => {}
        }
        Ok(told)
    }
}

/// The promise that the suite says was broken.
fn broken(suite: impl Future<Output = ()>) -> String {
    let outcome = catch_unwind(AssertUnwindSafe(|| block_on(suite)));
    let message = *outcome.unwrap_err().downcast::<String>().unwrap();
    let promise = message.strip_prefix("broken promise: ").unwrap();
    promise.split(": ").next().unwrap().to_owned()
}

#[test]
fn a_store_with_faulty_lists_fails_with_the_broken_promise() {
    for (fault, promise) in [
        (
            Fault::ListsOldestFirst,
            "a list has each key once, the newest first",
        ),
        (
            Fault::ListsByPage,
            "a list has each key once, the newest first",
        ),
        (
            Fault::IgnoresState,
            "a list has the keys that were asked for, and no others",
        ),
        (
            Fault::IgnoresPrefix,
            "a list has the keys that were asked for, and no others",
        ),
        (
            Fault::IgnoresOrder,
            "a list is in the order that was asked for",
        ),
        (
            Fault::LeavesOutFirstEnd,
            "a list between two ends has each key that ends there, once",
        ),
        (
            Fault::AddsLastEnd,
            "a list between two ends has each key that ends there, once",
        ),
        (
            Fault::LeavesOutReadable,
            "a list that leaves out unreadable keys has all others",
        ),
        (Fault::TakesAnyCursor, "a cursor of another list is refused"),
        (
            Fault::ListsMore,
            "a page has no more keys than were asked for",
        ),
        (
            Fault::ListsWithoutPrefixes,
            "a listed key has the whole record",
        ),
        (Fault::NeverEnds, "a list ends"),
    ] {
        let store = Twisted::new(fault);
        assert_eq!(
            broken(conformance::managed_key_store(&store)),
            promise,
            "{fault:?}"
        );
    }
}

#[test]
fn a_store_with_faulty_profiles_fails_with_the_broken_promise() {
    for (fault, promise) in [
        (
            Fault::SavesAnyVersion,
            "a profile of another version than the next is not saved",
        ),
        (
            Fault::SavesAllOrNone,
            "each profile of a call is saved or not by itself",
        ),
        (Fault::CutsProfiles, "a profile is found as it was saved"),
        (Fault::KeepsProfiles, "a profile is deleted with its key"),
    ] {
        let store = Twisted::new(fault);
        assert_eq!(
            broken(conformance::managed_key_store(&store)),
            promise,
            "{fault:?}"
        );
    }
}

#[test]
fn a_store_with_a_faulty_trail_fails_with_the_broken_promise() {
    for (fault, promise) in [
        (
            Fault::LosesTrail,
            "the trail has one record for each write, in order",
        ),
        (
            Fault::ForgetsReasons,
            "a record of the trail is read as it was committed",
        ),
        (Fault::ReadsForwardsOnly, "the trail is read backwards, too"),
        (
            Fault::TakesAnyTrailCursor,
            "a cursor of another trail is refused",
        ),
        (
            Fault::LosesEvents,
            "events are read once, in order, as they were committed",
        ),
        (
            Fault::RepeatsEvents,
            "what was read is not read again from the next place on",
        ),
        (
            Fault::NumbersEventsAnew,
            "each event has an id of its own, which does not change",
        ),
        (
            Fault::ReadsMoreEvents,
            "no more events are read than were asked for",
        ),
    ] {
        let store = Twisted::new(fault);
        assert_eq!(
            broken(conformance::managed_key_store(&store)),
            promise,
            "{fault:?}"
        );
    }
}

#[test]
fn a_store_with_faulty_reports_fails_with_the_broken_promise() {
    for (fault, promise) in [
        (
            Fault::ReportsTwice,
            "a report has the sums of what was recorded",
        ),
        (
            Fault::ReportsUnsorted,
            "a report has the sums of what was recorded",
        ),
        (
            Fault::ReportsWithoutUnits,
            "a report has the sums of what was recorded",
        ),
        (
            Fault::ReportsAllDays,
            "a report has the sums of what was recorded",
        ),
        (
            Fault::TakesAnyReportCursor,
            "a cursor of another query is refused",
        ),
        (Fault::CutsCurves, "a chain of rotations is one curve"),
    ] {
        let store = Twisted::new(fault);
        assert_eq!(
            broken(conformance::managed_key_store(&store)),
            promise,
            "{fault:?}"
        );
    }
}

#[test]
fn a_store_with_faulty_guards_fails_with_the_broken_promise() {
    for (fault, promise) in [
        (
            Fault::IgnoresCaps,
            "an account has at most as many keys as its cap says",
        ),
        (
            Fault::KeepsDeleted,
            "a deletion of another version is a conflict",
        ),
        (
            Fault::CutsLineages,
            "the keys of a chain are found by its first key",
        ),
        (
            Fault::ForgetsRequests,
            "a request is remembered once, for as long as its key exists",
        ),
    ] {
        let store = Twisted::new(fault);
        assert_eq!(
            broken(conformance::managed_key_store(&store)),
            promise,
            "{fault:?}"
        );
    }
}

#[test]
fn a_store_with_faulty_usage_fails_with_the_broken_promise() {
    for (fault, promise) in [
        (Fault::CountsTwice, "a batch of usage is recorded once"),
        (
            Fault::SkipsBatches,
            "a batch that follows none of its node is a conflict",
        ),
        (Fault::UsesChangeRecords, "usage changes nothing but usage"),
        (
            Fault::HidesUses,
            "a key is found with its uses as it is listed",
        ),
    ] {
        let store = Twisted::new(fault);
        assert_eq!(
            broken(conformance::managed_key_store(&store)),
            promise,
            "{fault:?}"
        );
    }
}

#[test]
fn a_faulty_feed_fails_with_the_broken_promise() {
    for (fault, promise) in [
        (
            Fault::LosesChanges,
            "each change is told, with a version that the key has reached",
        ),
        (
            Fault::TellsLowVersions,
            "each change is told, with a version that the key has reached",
        ),
        (
            Fault::TakesAnyFeedCursor,
            "a cursor that the feed does not know is a gap",
        ),
        (
            Fault::TellsAllAtFirst,
            "without a cursor nothing is told but where to go on from",
        ),
    ] {
        let store = Twisted::new(fault);
        assert_eq!(
            broken(conformance::change_feed(&store, &store)),
            promise,
            "{fault:?}"
        );
    }
    let store = Twisted::new(Fault::None);
    block_on(conformance::change_feed(&store, &store));
    block_on(conformance::change_feed(&store, &store));
    block_on(conformance::managed_key_store(&store));
}

/// A store that keeps an id, an owner, a name and an end, as a small table does.
struct Small(MemoryStore);

impl Small {
    fn keeps(record: &KeyRecord) -> bool {
        let kept = KeyRecord::new(record.id(), record.verifier().clone(), record.account())
            .with_name(record.name())
            .with_expires_at(record.expires_at())
            .with_revoked(record.revoked().cloned())
            .with_version(record.version());
        kept == *record && record.verifier().pepper().is_none()
    }
}

impl KeyStore for Small {
    async fn find(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.0.find(id).await
    }
}

impl ManagedKeyStore for Small {
    async fn find_committed(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.0.find(id).await
    }

    async fn commit(&self, change: &Change) -> Result<(), StoreError> {
        if !change.records().all(Self::keeps) {
            return Err(StoreError::refused("the table has no column for this"));
        }
        let is_known = |step| {
            matches!(
                step,
                Step::Create { .. } | Step::Update { .. } | Step::Event { .. }
            )
        };
        if !change.steps().all(is_known) {
            return Err(StoreError::refused("the table is for keys only"));
        }
        self.0.commit(change).await
    }
}

#[test]
fn a_store_that_declares_what_it_does_not_keep_passes() {
    let fields = [
        Field::Pepper,
        Field::Prefix,
        Field::Organization,
        Field::Environment,
        Field::Scopes,
        Field::Networks,
        Field::Origins,
        Field::Plan,
        Field::Limits,
        Field::Budget,
        Field::Metadata,
        Field::CreatedAt,
        Field::NotBefore,
        Field::Suspension,
        Field::Throttling,
        Field::Lineage,
        Field::Rotation,
    ];
    let keeps = Keeps::everything().without_lists().without_trail();
    let keeps = keeps.without_events().without_usage().without_profiles();
    let keeps = keeps.without_deletions().without_requests().without_caps();
    let keeps = fields.into_iter().fold(keeps, Keeps::without);
    let store = Small(MemoryStore::new());
    block_on(conformance::managed_key_store_keeping(&store, &keeps));
    // A store that keeps less than it declares fails, and so does one that keeps a field in part.
    let suite = conformance::managed_key_store(&store);
    assert_eq!(broken(suite), "a live store answers");
    let store = Twisted::new(Fault::CutsPlans);
    let keeps = Keeps::everything().without(Field::Plan);
    let suite = conformance::managed_key_store_keeping(&store, &keeps);
    assert_eq!(
        broken(suite),
        "a record with a field that is not kept is refused"
    );
}

/// A store refuses the calls that it does not implement.
#[test]
fn an_unimplemented_call_of_a_store_is_refused() {
    let store = Small(MemoryStore::new());
    let paging = Paging::first(10);
    let list = block_on(store.list(&KeyQuery::new(), &paging)).unwrap_err();
    let trail = block_on(store.trail(&TrailQuery::new(), &paging)).unwrap_err();
    let events = block_on(store.events(&Start::Beginning, 1)).unwrap_err();
    let batch = UsageBatch::new([0; 16], 1, Vec::new()).unwrap();
    let usage = block_on(store.record_usage(&batch)).unwrap_err();
    let request = block_on(store.find_request(&[0; 32])).unwrap_err();
    let profiles = block_on(store.profiles(&[])).unwrap_err();
    let saved = block_on(store.save_profiles(&[])).unwrap_err();
    for error in [list, trail, events, usage, request, profiles, saved] {
        assert_eq!(error.kind(), StoreErrorKind::Refused);
        assert_eq!(error.to_string(), "the key store does not support this");
    }
}
