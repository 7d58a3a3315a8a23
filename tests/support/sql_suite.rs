//! What both SQL stores are tested for beyond the conformance suites.
#![allow(clippy::unwrap_used, unreachable_pub, reason = "a test may panic")]

use std::collections::HashSet;
use std::future::Future;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tower_api_key::key::{KeyDigest, KeyStatus, Revocation, WarningWindow};
use tower_api_key::store::{
    Action, Actor, AuditKey, Change, ChangeFeed, Event, KeyOrder, KeyQuery, KeyUsage, Paging,
    Start, StoreError, StoreErrorKind, TrailFault, TrailQuery, TrailReport, UsageBatch,
    UsagePeriod, UsageQuery,
};
use tower_api_key::{ApiKeys, KeyId, KeyRecord, KeyStore, ManagedKeyStore};

/// A store over a database that nothing else uses, and the database itself.
pub trait Database: Sized {
    type Store: ManagedKeyStore + ChangeFeed + Clone;

    /// Returns the store, with the tables of the current version.
    fn store(&self) -> &Self::Store;
    fn with_audit_key(store: Self::Store, key: AuditKey) -> Self::Store;
    fn verify(store: &Self::Store) -> impl Future<Output = Result<TrailReport, StoreError>> + Send;
    fn purge_events(
        store: &Self::Store,
        before: SystemTime,
    ) -> impl Future<Output = Result<u64, StoreError>> + Send;
    fn purge_usage(store: &Self::Store, before: SystemTime) -> impl Future<Output = u64> + Send;
    fn purge(
        store: &Self::Store,
        before: SystemTime,
    ) -> impl Future<Output = Result<u64, StoreError>> + Send;
    /// Runs a statement beside the store, with the names of tables in braces, and returns the first
    /// column of the first row as text.
    fn sql(&self, statement: &str) -> impl Future<Output = Option<String>> + Send;
    /// The bytes of a literal.
    fn bytes(bytes: &[u8]) -> String;
}

/// The bytes in hexadecimal digits.
pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut digits, byte| {
        use std::fmt::Write;
        write!(digits, "{byte:02x}").unwrap();
        digits
    })
}

fn at(second: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_700_000_000 + second)
}

fn record(name: &str) -> KeyRecord {
    KeyRecord::imported(KeyDigest::of(name), "acme").with_name(name)
}

fn change(second: u64) -> Change {
    Change::new(Actor::user("ops@example.com"), at(second))
}

fn hex(id: KeyId) -> Vec<u8> {
    id.as_bytes().to_vec()
}

/// Issues a key, and changes it so many times.
async fn history(store: &impl ManagedKeyStore, name: &str, versions: u64) -> KeyRecord {
    let mut key = record(name);
    let create = change(0).create(Action::ISSUED, key.clone()).unwrap();
    store.commit(&create).await.unwrap();
    for version in 2..=versions {
        let next = key.clone().with_name(format!("{name} {version}"));
        let update = change(version).update(Action::UPDATED, &key, next).unwrap();
        store.commit(&update).await.unwrap();
        key = update.records().next().unwrap().clone();
    }
    key
}

/// Invariant 12: the trail and the state of every key agree, and an edit behind our back is found.
pub async fn edits_are_found<D: Database>(make: impl AsyncFn() -> D) {
    type Edit = (&'static str, TrailFault);
    let edits: [Edit; 9] = [
        (
            "UPDATE {trail} SET actor_id = 'nobody' WHERE key_id = $key AND version = 2",
            TrailFault::Edited,
        ),
        (
            "UPDATE {trail} SET at = at + 1 WHERE key_id = $key AND version = 3",
            TrailFault::Edited,
        ),
        (
            "DELETE FROM {trail} WHERE key_id = $key AND version = 2",
            TrailFault::Missing,
        ),
        (
            "DELETE FROM {trail} WHERE key_id = $key AND version = 1",
            TrailFault::Missing,
        ),
        (
            "DELETE FROM {trail} WHERE key_id = $key AND version = 4",
            TrailFault::Missing,
        ),
        (
            "DELETE FROM {trail} WHERE key_id = $key",
            TrailFault::Missing,
        ),
        (
            "UPDATE {keys} SET revoked_at = 1 WHERE id = $key",
            TrailFault::KeyEdited,
        ),
        (
            "UPDATE {keys} SET scopes = 'admin' WHERE id = $key",
            TrailFault::KeyEdited,
        ),
        ("DELETE FROM {keys} WHERE id = $key", TrailFault::KeyDeleted),
    ];
    for key in [None, Some(AuditKey::new(&[7; 32]).unwrap())] {
        for (edit, fault) in edits {
            let database = make().await;
            let mut store = database.store().clone();
            if let Some(key) = &key {
                store = D::with_audit_key(store, key.clone());
            }
            history(&store, "first", 3).await;
            let edited = history(&store, "second", 4).await;
            history(&store, "third", 1).await;
            let report = D::verify(&store).await.unwrap();
            assert!(
                report.is_ok() && report.keys == 3 && report.records == 8,
                "{report:?}"
            );
            let id = D::bytes(&hex(edited.id()));
            database.sql(&edit.replace("$key", &id)).await;
            let report = D::verify(&store).await.unwrap();
            let found = report.broken.iter().map(|it| (it.key, it.fault));
            let found: HashSet<_> = found.collect();
            assert!(found.contains(&(edited.id(), fault)), "{edit}: {report:?}");
            assert!(
                found.iter().all(|(key, _)| *key == edited.id()),
                "{edit}: {report:?}"
            );
        }
    }
}

/// An edit stays visible after the next honest change, which does not vouch for it, and the key can
/// still be changed.
pub async fn an_edit_is_not_covered_by_the_next_change<D: Database>(make: impl AsyncFn() -> D) {
    for edit in [
        "UPDATE {keys} SET scopes = 'admin' WHERE id = $key",
        "UPDATE {keys} SET revoked_at = NULL, account = 'mallory' WHERE id = $key",
        "UPDATE {keys} SET head = $key WHERE id = $key",
        "UPDATE {trail} SET digest = $key WHERE key_id = $key AND version = 3",
        "UPDATE {trail} SET reason = 'x' WHERE key_id = $key AND version = 2",
        "DELETE FROM {trail} WHERE key_id = $key AND version = 3",
        "DELETE FROM {trail} WHERE key_id = $key",
    ] {
        let database = make().await;
        let key = AuditKey::new(&[7; 32]).unwrap();
        let store = D::with_audit_key(database.store().clone(), key);
        let key = history(&store, "key", 3).await;
        let id = D::bytes(&hex(key.id()));
        database.sql(&edit.replace("$key", &id)).await;
        for second in [10, 11] {
            let seen = store.find(&key.id()).await.unwrap().unwrap();
            let revoked = seen
                .clone()
                .with_name("next")
                .with_revoked(Revocation::new(at(second)));
            let update = change(second)
                .update(Action::REVOKED, &seen, revoked)
                .unwrap();
            store.commit(&update).await.unwrap();
            assert!(!D::verify(&store).await.unwrap().is_ok(), "{edit}");
        }
        // Nor does a purge, nor a deletion of all but the end.
        D::purge(&store, at(1_000)).await.unwrap();
        assert!(!D::verify(&store).await.unwrap().is_ok(), "{edit}");
        database
            .sql(&format!(
                "DELETE FROM {{trail}} WHERE key_id = {id} AND version < 4"
            ))
            .await;
        assert!(!D::verify(&store).await.unwrap().is_ok(), "{edit}");
    }
}

/// What a purge left cannot be taken for the end of a trail.
pub async fn a_key_is_not_put_back_to_its_stub<D: Database>(database: D) {
    let key = AuditKey::new(&[7; 32]).unwrap();
    let store = D::with_audit_key(database.store().clone(), key);
    let key = history(&store, "key", 4).await;
    D::purge(&store, at(1_000)).await.unwrap();
    assert!(D::verify(&store).await.unwrap().is_ok());
    let id = D::bytes(&hex(key.id()));
    for statement in [
        "DELETE FROM {trail} WHERE key_id = $key",
        "UPDATE {keys} SET scopes = 'admin', version = 3, \
         head = (SELECT digest FROM {stubs} WHERE key_id = $key) WHERE id = $key",
    ] {
        database.sql(&statement.replace("$key", &id)).await;
    }
    assert!(!D::verify(&store).await.unwrap().is_ok());
}

/// Two purges at once, of different times.
pub async fn purges_at_once_do_no_harm<D: Database>(database: D) {
    let store = database.store();
    for name in ["a", "b", "c"] {
        history(store, name, 9).await;
    }
    for round in 0..5 {
        let purges = [
            D::purge(store, at(2 + round)),
            D::purge(store, at(4 + round)),
        ];
        for purged in futures_util::future::join_all(purges).await {
            purged.unwrap();
        }
        assert!(D::verify(store).await.unwrap().is_ok());
    }
}

/// A key that moves to another account is listed there.
pub async fn a_key_that_moves_is_listed_with_its_account<D: Database>(database: D) {
    let store = database.store();
    let key = history(store, "key", 1).await;
    let moved = KeyRecord::new(key.id(), key.verifier().clone(), "globex");
    let update = change(1).update(Action::UPDATED, &key, moved).unwrap();
    store.commit(&update).await.unwrap();
    for (account, keys) in [("acme", 0), ("globex", 1)] {
        let query = KeyQuery::new().with_account(account.to_owned());
        let query = query.with_order(KeyOrder::LeastRecentlyUsed);
        let page = store.list(&query, &Paging::first(10)).await.unwrap();
        assert_eq!(page.items.len(), keys, "{account}");
    }
}

/// Records of the trail that are exchanged, by somebody who exchanges their versions as well.
pub async fn exchanged_records_are_found<D: Database>(database: D) {
    let store = D::with_audit_key(database.store().clone(), AuditKey::new(&[7; 32]).unwrap());
    let key = history(&store, "key", 4).await;
    let id = D::bytes(&hex(key.id()));
    for statement in [
        "UPDATE {trail} SET version = 9 WHERE key_id = $key AND version = 2",
        "UPDATE {trail} SET version = 2 WHERE key_id = $key AND version = 3",
        "UPDATE {trail} SET version = 3 WHERE key_id = $key AND version = 9",
    ] {
        database.sql(&statement.replace("$key", &id)).await;
    }
    assert!(!D::verify(&store).await.unwrap().is_ok());
    // Whoever knows the library, but not the audit key, cannot chain the trail anew.
    let other = D::with_audit_key(database.store().clone(), AuditKey::new(&[8; 32]).unwrap());
    assert!(!D::verify(&other).await.unwrap().is_ok());
}

pub async fn a_purge_leaves_a_sealed_stub<D: Database>(database: D) {
    let store = D::with_audit_key(database.store().clone(), AuditKey::new(&[7; 32]).unwrap());
    let key = history(&store, "key", 5).await;
    history(&store, "other", 1).await;
    let begin = store
        .changes_since(None, Duration::ZERO)
        .await
        .unwrap()
        .next;
    let first = database.sql("SELECT min(seq) FROM {trail}").await;
    assert_eq!(D::purge(&store, at(4)).await.unwrap(), 3); // of the seconds 0, 2 and 3
    assert_eq!(D::purge(&store, at(4)).await.unwrap(), 0);
    let report = D::verify(&store).await.unwrap();
    assert!(report.is_ok() && report.records == 3, "{report:?}");
    // The last record stays, however old.
    assert_eq!(D::purge(&store, at(1_000)).await.unwrap(), 1);
    let update = change(9).update(Action::UPDATED, &key, key.clone().with_name("six"));
    store.commit(&update.unwrap()).await.unwrap();
    assert!(D::verify(&store).await.unwrap().is_ok());
    // A reader that has seen what was purged goes on, and one that has not is told.
    let read = store
        .changes_since(Some(&begin), Duration::ZERO)
        .await
        .unwrap();
    // It may be told in vain: of a transaction that was open elsewhere, when it read.
    assert!(read.gap || read.keys.len() == 1, "{read:?}");
    assert_ne!(database.sql("SELECT min(seq) FROM {trail}").await, first);
    // A stub that is made up does not hide a deletion.
    let id = D::bytes(&hex(key.id()));
    database
        .sql(&format!(
            "UPDATE {{stubs}} SET version = 5 WHERE key_id = {id}"
        ))
        .await;
    database
        .sql(&format!(
            "DELETE FROM {{trail}} WHERE key_id = {id} AND version <= 5"
        ))
        .await;
    assert!(!D::verify(&store).await.unwrap().is_ok());
}

pub async fn a_purged_key_leaves_its_trail_and_is_not_created_again<D: Database>(database: D) {
    let audit_key = || AuditKey::new(&[7; 32]).unwrap();
    let store = D::with_audit_key(database.store().clone(), audit_key());
    let keys = ApiKeys::builder(store.clone()).build().unwrap();
    let [dead, other] = ["dead", "other"].map(|name| record(name).with_expires_at(at(0)));
    keys.import([dead.clone(), other.clone(), record("alive")])
        .await
        .unwrap();
    let purge = change(1).delete(Action::PURGED, &dead).unwrap();
    store.commit(&purge).await.unwrap();
    store.commit(&purge).await.unwrap(); // the answer was lost
    assert!(D::verify(&store).await.unwrap().is_ok());
    // An import that is repeated does not bring it back.
    let imported = keys.import([dead.clone(), record("new")]).await.unwrap();
    assert_eq!((imported.created, imported.existing), (1, 1));
    let again = change(2).create(Action::IMPORTED, dead.clone()).unwrap();
    let error = store.commit(&again).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::AlreadyExists);
    assert!(D::verify(&store).await.unwrap().is_ok());
    // Nor if the beginning of its trail is gone.
    assert_eq!(D::purge(&store, at(1)).await.unwrap(), 0);
    let gone = history(&store, "gone", 4).await; // of the seconds 0, 2, 3 and 4
    let deleted = change(500).delete(Action::PURGED, &gone).unwrap();
    store.commit(&deleted).await.unwrap();
    assert_eq!(D::purge(&store, at(400)).await.unwrap(), 4);
    let again = change(501).create(Action::IMPORTED, gone.with_version(1));
    let error = store.commit(&again.unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::AlreadyExists);
    // Its trail is purged as a whole, since it has no end that must be kept.
    assert_eq!(D::purge(&store, at(1)).await.unwrap(), 0);
    let year_3000 = UNIX_EPOCH + Duration::from_secs(32_503_680_000);
    assert_eq!(D::purge(&store, year_3000).await.unwrap(), 3);
    assert_eq!(D::purge(&store, year_3000).await.unwrap(), 0);
    let report = D::verify(&store).await.unwrap();
    assert!(report.is_ok() && report.records == 3, "{report:?}");
    // A key that is deleted behind the trail is missed, and a purge does not cover that.
    let id = D::bytes(&hex(other.id()));
    database
        .sql(&format!("DELETE FROM {{keys}} WHERE id = {id}"))
        .await;
    assert_eq!(D::purge(&store, year_3000).await.unwrap(), 0);
    let report = D::verify(&store).await.unwrap();
    assert_eq!(report.broken[0].fault, TrailFault::KeyDeleted);
}

pub async fn events_are_purged_and_the_gap_is_told<D: Database>(database: D) {
    let store = database.store();
    let add = async |second: u64| {
        let change = change(second).add_event(Event::new("acme.test", at(second)));
        store.commit(&change.unwrap()).await.unwrap();
    };
    for second in 0..10 {
        add(second).await;
    }
    let begin = store.events(&Start::Beginning, 2).await.unwrap();
    let middle = store.events(&Start::Beginning, 6).await.unwrap();
    let end = store.events(&Start::Beginning, 100).await.unwrap();
    assert_eq!(D::purge_events(store, at(5)).await.unwrap(), 5);
    assert_eq!(D::purge_events(store, at(5)).await.unwrap(), 0);
    let late = store.events(&Start::After(begin.next), 100).await.unwrap();
    assert!(late.gap && late.items.len() == 5, "{late:?}");
    let read = store.events(&Start::After(middle.next), 100).await.unwrap();
    // A snapshot may tell it in vain, and then begins anew.
    assert_eq!(read.items.len(), if read.gap { 5 } else { 4 });
    // All of them, also the newest: a reader that has seen it misses nothing.
    assert_eq!(D::purge_events(store, at(100)).await.unwrap(), 5);
    let read = store.events(&Start::After(end.next), 100).await.unwrap();
    assert!(!read.gap && read.items.is_empty(), "{read:?}");
    add(20).await;
    let read = store.events(&Start::After(read.next), 100).await.unwrap();
    assert!(!read.gap && read.items.len() == 1, "{read:?}");
}

pub async fn a_change_that_is_committed_again_is_recognized<D: Database>(database: D) {
    let store = database.store();
    let key = record("key");
    let create = change(0).create(Action::ISSUED, key.clone()).unwrap();
    store.commit(&create).await.unwrap();
    store.commit(&create).await.unwrap();
    let event = Event::new("acme.test", at(1));
    let update = change(1).update(Action::UPDATED, &key, key.clone().with_plan("pro"));
    let update = update.unwrap().add_event(event.clone()).unwrap();
    store.commit(&update).await.unwrap();
    store.commit(&update).await.unwrap();
    let only_event = change(2).add_event(event).unwrap();
    store.commit(&only_event).await.unwrap();
    store.commit(&only_event).await.unwrap();
    let trail = store
        .trail(&TrailQuery::new(), &Paging::first(10))
        .await
        .unwrap();
    assert_eq!(trail.items.len(), 2);
    let events = store.events(&Start::Beginning, 10).await.unwrap();
    assert_eq!(events.items.len(), 2);
    // Another change of the same key is not taken for it.
    let rival = change(3).update(Action::UPDATED, &key, key.clone().with_plan("free"));
    let error = store.commit(&rival.unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Conflict);
}

/// Invariant 10: usage writes change usage only.
pub async fn usage_changes_nothing_but_usage<D: Database>(database: D) {
    let store = database.store();
    let key = history(store, "key", 3).await;
    let revoked = key.clone().with_revoked(Revocation::new(at(5)));
    let revoke = change(5).update(Action::REVOKED, &key, revoked).unwrap();
    store.commit(&revoke).await.unwrap();
    let before = store.find(&key.id()).await.unwrap();
    let gone = KeyDigest::of("gone").id();
    for number in 1..=3 {
        let mut used = KeyUsage::new(key.id(), "acme", UsagePeriod::Day(1)).used_at(at(number));
        used.counts.allowed = 2;
        used.counts.units.insert("tokens".to_owned(), 40);
        let of_nobody = KeyUsage::new(gone, "acme", UsagePeriod::Day(1)).used_at(at(number));
        let batch = UsageBatch::new([1; 16], number, [used, of_nobody]).unwrap();
        store.record_usage(&batch).await.unwrap();
        store.record_usage(&batch).await.unwrap(); // the answer was lost
    }
    let missing = UsageBatch::new([1; 16], 9, []).unwrap();
    let error = store.record_usage(&missing).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Conflict);
    assert_eq!(store.find(&key.id()).await.unwrap(), before);
    assert_eq!(store.find(&gone).await.unwrap(), None);
    let count = |column: &str, unit: &str| {
        format!("SELECT CAST(sum({column}) AS text) FROM {{usage}} WHERE unit = '{unit}'")
    };
    assert_eq!(database.sql(&count("allowed", "")).await.unwrap(), "6");
    assert_eq!(
        database.sql(&count("units", "tokens")).await.unwrap(),
        "120"
    );
    assert!(D::verify(store).await.unwrap().is_ok());
    let status = before
        .unwrap()
        .lifecycle(at(9), WarningWindow::default())
        .status();
    assert_eq!(status, KeyStatus::Revoked);
}

pub async fn old_usage_is_purged<D: Database>(database: D) {
    let store = database.store();
    let day = 20_000;
    let key = KeyId::from_bytes([9; 16]);
    let periods = [
        UsagePeriod::Day(day),
        UsagePeriod::Day(day + 1),
        UsagePeriod::Hour(day * 24 + 23),
        UsagePeriod::Hour((day + 1) * 24),
    ];
    // More than are deleted at once.
    let usage = (0..1_100).flat_map(|account| {
        periods.map(|period| {
            let mut usage = KeyUsage::new(key, format!("account {account}"), period);
            usage.counts.allowed = 1;
            usage
        })
    });
    let batch = UsageBatch::new([9; 16], 1, usage).unwrap();
    store.record_usage(&batch).await.unwrap();
    let before = UsagePeriod::Day(day + 1).begins_at();
    let purged = D::purge_usage(store, before - Duration::from_nanos(1)).await;
    assert_eq!(purged, 0, "the day was not over, nor its last hour");
    assert_eq!(D::purge_usage(store, before).await, 2_200);
    let all = UsageQuery::days(0, u32::MAX - 1);
    let page = store.usage(&all, &Paging::first(1_000)).await.unwrap();
    let mut periods: Vec<_> = page.items.iter().map(|row| row.period).collect();
    periods.dedup();
    assert_eq!(periods, [UsagePeriod::Day(day + 1)]);
    assert_eq!(D::purge_usage(store, before).await, 0);
}

pub async fn many_keys_are_imported_in_one_change<D: Database>(database: D) {
    const KEYS: usize = 3_000;
    let store = database.store();
    let mut import = change(0);
    for number in 0..KEYS {
        let key = record(&format!("key {number}")).with_created_at(at(number as u64));
        import = import.create(Action::IMPORTED, key).unwrap();
    }
    store.commit(&import).await.unwrap();
    let mut listed = Vec::new();
    let mut paging = Paging::first(1_000);
    loop {
        let page = store.list(&KeyQuery::new(), &paging).await.unwrap();
        listed.extend(page.items.into_iter().map(|key| key.record.id()));
        let Some(next) = page.next else { break };
        paging = paging.after(next);
    }
    let unique: HashSet<_> = listed.iter().collect();
    assert_eq!((listed.len(), unique.len()), (KEYS, KEYS));
    // A filter that only the oldest key passes: pages are short, and the end is reached.
    let query = KeyQuery::new().with_order(KeyOrder::LeastRecentlyUsed);
    let query = query.with_prefix("sk_none".to_owned());
    let mut pages = 0;
    let mut paging = Paging::first(50);
    loop {
        let page = store.list(&query, &paging).await.unwrap();
        assert!(page.items.is_empty());
        pages += 1;
        let Some(next) = page.next else { break };
        paging = paging.after(next);
    }
    assert_eq!(pages, 2); // of 2,000 and of 1,000 keys
    // An import that fails has imported nothing.
    let mut again = change(1);
    for number in [KEYS, KEYS + 1, 7] {
        again = again
            .create(Action::IMPORTED, record(&format!("key {number}")))
            .unwrap();
    }
    let error = store.commit(&again).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::AlreadyExists);
    let new = record(&format!("key {KEYS}")).id();
    assert_eq!(store.find(&new).await.unwrap(), None);
}

/// A view shows the table to people.
pub async fn a_view_shows_keys_to_people<D: Database>(database: D) {
    let store = database.store();
    let key = record("key").with_expires_at(at(5));
    let create = change(0).create(Action::ISSUED, key.clone()).unwrap();
    store.commit(&create).await.unwrap();
    let of_key = format!("FROM {{keys_readable}} WHERE key_id = '{}'", key.id());
    let name = database.sql(&format!("SELECT name {of_key}")).await;
    assert_eq!(name.as_deref(), Some("key"));
    let expires = database
        .sql(&format!("SELECT CAST(expires_at AS text) {of_key}"))
        .await;
    assert!(expires.unwrap().starts_with("2023-11-14"));
    let used = database
        .sql(&format!("SELECT CAST(last_used_at AS text) {of_key}"))
        .await;
    assert_eq!(used, None);
}

/// Texts that no record can have are in no list, and are no outage.
pub async fn texts_that_cannot_be_stored_are_in_no_list<D: Database>(database: D) {
    let store = database.store();
    history(store, "key", 1).await;
    for text in [
        "\0",
        "acme\0",
        "\u{fffd}",
        "'; DROP TABLE keys; --",
        &"a".repeat(70_000),
    ] {
        let text = text.to_owned();
        let of_account = KeyQuery::new().with_account(text.clone());
        let of_prefix = KeyQuery::new().with_prefix(text.clone());
        for query in [of_account, of_prefix] {
            let page = store.list(&query, &Paging::first(10)).await.unwrap();
            assert!(page.items.is_empty() && page.next.is_none());
        }
        let trail = TrailQuery::new().with_account(text);
        assert!(
            store
                .trail(&trail, &Paging::first(10))
                .await
                .unwrap()
                .items
                .is_empty()
        );
    }
}

/// A table of keys that was edited, or restored without the trail.
pub async fn a_version_that_the_trail_has_already_is_an_error<D: Database>(database: D) {
    let store = database.store();
    let key = history(store, "key", 3).await;
    let id = D::bytes(&hex(key.id()));
    database
        .sql(&format!("UPDATE {{keys}} SET version = 2 WHERE id = {id}"))
        .await;
    let seen = store.find(&key.id()).await.unwrap().unwrap();
    let update = change(9).update(Action::UPDATED, &seen, seen.clone().with_plan("pro"));
    let error = store.commit(&update.unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Corrupt);
    assert_eq!(store.find(&key.id()).await.unwrap(), Some(seen));
}

/// Calls that are dropped after so many polls, each at another await.
pub async fn calls_dropped_at_every_await_leave_the_store_whole<D: Database>(database: D) {
    let store = database.store();
    let key = history(store, "key", 2).await;
    let id = key.id();
    let query = KeyQuery::new();
    for polls in 0..30 {
        let create = change(1)
            .create(Action::ISSUED, record(&format!("new {polls}")))
            .unwrap();
        let number = KeyUsage::new(id, "acme", UsagePeriod::Day(1)).used_at(at(1));
        let batch = UsageBatch::new([polls; 16], 1, [number]).unwrap();
        drop_after(polls, store.find(&id)).await;
        drop_after(polls, store.list(&query, &Paging::first(5))).await;
        drop_after(polls, store.trail(&TrailQuery::new(), &Paging::first(5))).await;
        drop_after(polls, store.events(&Start::Beginning, 5)).await;
        drop_after(polls, store.changes_since(None, Duration::ZERO)).await;
        drop_after(polls, store.record_usage(&batch)).await;
        drop_after(polls, store.commit(&create)).await;
        drop_after(polls, D::verify(store)).await;
        drop_after(polls, D::purge(store, at(0))).await;
    }
    for number in 0..5 {
        history(store, &format!("later {number}"), 2).await;
    }
    assert!(D::verify(store).await.unwrap().is_ok());
}

/// Polls a future so often at most, then drops it. Returns whether it came to its end.
pub async fn drop_after(polls: u8, future: impl Future) -> bool {
    let mut future = std::pin::pin!(future);
    let mut left = polls;
    std::future::poll_fn(|cx| {
        if left == 0 {
            return std::task::Poll::Ready(false);
        }
        if future.as_mut().poll(cx).is_ready() {
            return std::task::Poll::Ready(true);
        }
        left -= 1;
        std::task::Poll::Pending
    })
    .await
}

/// Two changes of the same keys, in another order, do not wait for each other in a circle.
pub async fn rivals_do_not_lock_each_other_out<D: Database>(database: D, rounds: u64) {
    let store = database.store();
    let keys = [history(store, "a", 1).await, history(store, "b", 1).await];
    let rename = |keys: Vec<KeyRecord>, name: &'static str| async move {
        let mut rename = change(1);
        for key in keys {
            let next = key.clone().with_name(name);
            rename = rename.update(Action::UPDATED, &key, next).unwrap();
        }
        match store.commit(&rename).await {
            Ok(()) => true,
            Err(error) if error.kind() == StoreErrorKind::Conflict => false,
            Err(error) => panic!("{error:?}"),
        }
    };
    for _ in 0..rounds {
        let mut seen = Vec::new();
        for key in &keys {
            seen.push(store.find(&key.id()).await.unwrap().unwrap());
        }
        let reversed = seen.iter().rev().cloned().collect();
        let (one, other) = tokio::join!(rename(seen, "one"), rename(reversed, "other"));
        assert!(one != other, "exactly one is carried out");
    }
    assert!(D::verify(store).await.unwrap().is_ok());
}

/// The story of a key through [`ApiKeys`], in two processes on one database.
pub async fn a_change_is_known_elsewhere_within_a_second<D: Database>(
    here: &impl AsyncFn() -> D::Store,
) {
    let start = async |store: D::Store| {
        let keys = ApiKeys::builder(store).build().unwrap();
        (keys.clone(), tokio::spawn(keys.worker().into_future()))
    };
    let (one, one_worker) = start(here().await).await;
    let (two, two_worker) = start(here().await).await;
    // Until both have their place in the feed.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let key = one.issue("acme").await.unwrap();
    let plaintext = key.expose_secret();
    assert!(
        two.verify(plaintext).await.is_ok(),
        "it was never asked for"
    );
    two.revoke(key.id()).reason("leaked").await.unwrap();
    assert!(two.verify(plaintext).await.is_err());
    let revoked_at = tokio::time::Instant::now();
    while one.verify(plaintext).await.is_ok() {
        assert!(
            revoked_at.elapsed() < Duration::from_secs(5),
            "the revocation never arrives"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    println!("the revocation arrived after {:?}", revoked_at.elapsed());
    one_worker.abort();
    two_worker.abort();
}
