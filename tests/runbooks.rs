//! The calls of the chapter `guide::rotation`, runbook by runbook.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::time::Duration;

use http::HeaderMap;
use support::{Answered, DAY, READ, answer, is_waiting, today, with_key};
use tower_api_key::clock::ManualClock;
use tower_api_key::key::{Alphabet, KeyDigest, KeyFormat, KeyStatus, PepperId, PepperRing};
use tower_api_key::manage::{RotateError, UpdateError};
use tower_api_key::store::{
    Action, Actor, KeyOrder, KeyQuery, KeyState, ListedKey, Paging, Start, TrailQuery,
};
use tower_api_key::{
    ApiKeys, Environment, IssuedKey, KeyId, KeyRecord, ManagedKeyStore, MemoryStore,
};

const SECOND: Duration = Duration::from_secs(1);

type Stop = tokio::sync::oneshot::Sender<()>;
type Running = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

fn keys(clock: &ManualClock) -> ApiKeys {
    let builder = ApiKeys::builder(MemoryStore::new()).clock(clock.clone());
    builder.build().unwrap()
}

fn ops() -> Actor {
    Actor::user("ops@example.com")
}

/// A worker that notes uses, and records them when it is stopped.
fn worker(keys: &ApiKeys) -> (Stop, Running) {
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let worker = keys.worker().until(async {
        let _ = stopped.await;
    });
    let mut running: Running = Box::pin(worker);
    assert!(is_waiting(&mut running));
    (stop, running)
}

async fn all(keys: &ApiKeys, query: &KeyQuery) -> Vec<ListedKey> {
    let page = keys.list(query, &Paging::first(1_000)).await.unwrap();
    assert!(page.next.is_none());
    page.items
}

async fn code(keys: &ApiKeys, key: &str) -> &'static str {
    keys.verify(key).await.map_or_else(|it| it.code(), |_| "ok")
}

/// The response to a key, of which this process has the record.
async fn respond(keys: &ApiKeys, key: &str) -> (u16, HeaderMap) {
    let _ = keys.verify(key).await;
    let layer = keys.layer();
    let layer = layer.deprecation_link("https://docs.example.com/keys");
    let answered: Answered = answer(&layer.unwrap(), with_key(key));
    (answered.status().as_u16(), answered.headers().clone())
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).map(|value| value.to_str().unwrap())
}

#[tokio::test]
async fn the_keys_that_are_due_are_listed() {
    let clock = ManualClock::at(today());
    let keys = keys(&clock);
    let due = keys.issue("globex").expires_in(90 * DAY).await.unwrap();
    let rotated = keys.issue("globex").expires_in(90 * DAY).await.unwrap();
    keys.issue("globex").expires_in(365 * DAY).await.unwrap();
    keys.issue("globex").await.unwrap();
    clock.advance(70 * DAY);
    keys.rotate(rotated.id()).await.unwrap();

    let query = KeyQuery::new()
        .with_state(KeyState::Live, keys.now())
        .with_order(KeyOrder::EndingSoon);
    let listed = all(&keys, &query).await;
    let is_due = |key: &KeyRecord| {
        keys.lifecycle(key).status() == KeyStatus::Deprecated && key.rotated_to().is_none()
    };
    let found = listed.iter().map(|key| &key.record);
    let found: Vec<KeyId> = found.filter(|key| is_due(key)).map(KeyRecord::id).collect();
    assert_eq!(found, [due.id()]);

    clock.advance(20 * DAY);
    let refused = keys.rotate(due.id()).await.unwrap_err();
    let expired = KeyStatus::Expired;
    assert!(matches!(refused, RotateError::NotRotatable(_, status) if status == expired));
}

#[tokio::test]
async fn clients_are_told_of_a_rotation() {
    let clock = ManualClock::at(today());
    let store = MemoryStore::new();
    let builder = ApiKeys::builder(store.clone()).clock(clock.clone());
    let keys = builder.build().unwrap();
    let old = keys
        .issue("globex")
        .scopes([READ])
        .expires_in(365 * DAY)
        .await
        .unwrap();
    let (status, headers) = respond(&keys, old.expose_secret()).await;
    assert_eq!(
        (status, text(&headers, "x-key-status")),
        (200, Some("active"))
    );
    assert_eq!(text(&headers, "deprecation"), None);

    let rotated = keys
        .rotate(old.id())
        .owned_by("globex")
        .grace(7 * DAY)
        .by(Actor::user("alice@globex.example"))
        .await
        .unwrap();
    let (status, headers) = respond(&keys, old.expose_secret()).await;
    assert_eq!(status, 200);
    for (name, value) in [
        ("x-key-status", "deprecated"),
        ("x-key-expires-at", "2026-01-08T00:00:00Z"),
        ("deprecation", "@1767225600"),
        ("sunset", "Thu, 08 Jan 2026 00:00:00 GMT"),
        (
            "link",
            r#"<https://docs.example.com/keys>; rel="deprecation"; type="text/html""#,
        ),
    ] {
        assert_eq!(text(&headers, name), Some(value), "{name}");
    }
    let (status, headers) = respond(&keys, rotated.expose_secret()).await;
    assert_eq!(
        (status, text(&headers, "x-key-status")),
        (200, Some("active"))
    );
    let events = store.events(&Start::Beginning, 10).await.unwrap().items;
    let kinds: Vec<_> = events.iter().map(|kept| kept.event.kind.as_str()).collect();
    assert_eq!(kinds, ["api_key.issued", "api_key.rotated"]);

    clock.advance(7 * DAY);
    let (status, headers) = respond(&keys, old.expose_secret()).await;
    assert_eq!(
        (status, text(&headers, "x-key-status")),
        (401, Some("expired"))
    );
    assert_eq!(
        text(&headers, "x-key-expired-at"),
        Some("2026-01-08T00:00:00Z")
    );
    assert_eq!(code(&keys, old.expose_secret()).await, "api_key_expired");
    assert_eq!(code(&keys, rotated.expose_secret()).await, "ok");

    let successor = keys
        .rotate(rotated.id())
        .compromised("leaked")
        .notify(false);
    successor.await.unwrap();
    let (status, headers) = respond(&keys, rotated.expose_secret()).await;
    assert_eq!(
        (status, text(&headers, "x-key-status")),
        (401, Some("revoked"))
    );
    assert_eq!(
        code(&keys, rotated.expose_secret()).await,
        "api_key_revoked"
    );
    let events = store.events(&Start::Beginning, 10).await.unwrap().items;
    let told = events
        .iter()
        .filter(|kept| kept.event.kind == "api_key.rotated");
    assert_eq!(told.count(), 1, "notify(false) stores no event");
}

#[tokio::test]
async fn a_grace_period_ends_when_nobody_uses_the_old_key() {
    let clock = ManualClock::at(today());
    let keys = keys(&clock);
    let (stop, worker) = worker(&keys);
    let old = keys.issue("globex").await.unwrap();
    let never_used = keys.issue("globex").await.unwrap();
    let rotated = keys.rotate(old.id()).await.unwrap();
    keys.verify(old.expose_secret()).await.unwrap();
    clock.advance(DAY);
    keys.verify(rotated.expose_secret()).await.unwrap();
    clock.advance(DAY);
    drop(stop);
    worker.await;

    let listed = keys.find_listed(&old.id()).await.unwrap().unwrap();
    let two_days_ago = keys.now() - 2 * DAY;
    assert!(listed.last_used_at.is_some_and(|at| at <= two_days_ago));
    keys.end_grace(old.id()).by(ops()).await.unwrap();
    assert_eq!(code(&keys, old.expose_secret()).await, "api_key_expired");
    assert_eq!(code(&keys, rotated.expose_secret()).await, "ok");

    let query = KeyQuery::new()
        .with_state(KeyState::Live, keys.now())
        .with_order(KeyOrder::LeastRecentlyUsed);
    let listed = all(&keys, &query).await;
    assert_eq!(listed[0].record.id(), never_used.id());
    assert_eq!(listed[0].last_used_at, None);
}

#[tokio::test]
async fn a_lost_response_is_healed() {
    let clock = ManualClock::at(today());
    let keys = keys(&clock);
    let (_stop, _worker) = worker(&keys);
    let old = keys.issue("globex").await.unwrap();
    let lost = keys.rotate(old.id()).await.unwrap().id();
    let again = keys.rotate(old.id()).await.unwrap_err();
    assert!(matches!(again, RotateError::AlreadyRotated { successor } if successor == lost));
    let healing = keys.rotate(old.id()).replacing_unused();
    let Err(RotateError::TooEarly { retry_after, .. }) = healing.await else {
        panic!("it was rotated a moment ago")
    };
    assert!(retry_after <= 60 * SECOND);
    clock.advance(retry_after);
    let healed = keys.rotate(old.id()).replacing_unused().await.unwrap();
    assert_eq!(code(&keys, old.expose_secret()).await, "ok");
    assert_eq!(code(&keys, healed.expose_secret()).await, "ok");
    let replaced = keys.find(&lost).await.unwrap().unwrap();
    assert!(replaced.revoked().is_some());
}

#[tokio::test]
async fn a_successor_that_was_used_is_not_replaced() {
    let clock = ManualClock::at(today());
    let keys = keys(&clock);
    let (stop, worker) = worker(&keys);
    let old = keys.issue("globex").await.unwrap();
    let rotated = keys.rotate(old.id()).await.unwrap();
    keys.verify(rotated.expose_secret()).await.unwrap();
    drop(stop);
    worker.await;
    clock.advance(60 * SECOND);
    let refused = keys.rotate(old.id()).replacing_unused().await.unwrap_err();
    assert!(
        matches!(refused, RotateError::SuccessorUsed { successor } if successor == rotated.id())
    );
}

/// With `compromised`, the old key is revoked, and stays so.
#[tokio::test]
async fn a_lost_response_about_a_compromised_key_is_healed() {
    let clock = ManualClock::at(today());
    let keys = keys(&clock);
    let old = keys.issue("globex").await.unwrap();
    let lost = keys.rotate(old.id()).compromised("leaked").await.unwrap();
    let refused = keys.rotate(old.id()).await.unwrap_err();
    assert!(matches!(refused, RotateError::AlreadyRotated { successor } if successor == lost.id()));

    clock.advance(60 * SECOND);
    let rotated = keys.rotate(old.id()).replacing_unused().await.unwrap();
    assert_eq!(code(&keys, rotated.expose_secret()).await, "ok");
    assert_eq!(code(&keys, lost.expose_secret()).await, "api_key_revoked");
    assert_eq!(code(&keys, old.expose_secret()).await, "api_key_revoked");
}

#[tokio::test]
async fn an_update_overwrites_nobody() {
    let keys = ApiKeys::in_memory();
    let key = keys.issue("globex").name("export").await.unwrap();
    let seen = keys.find(&key.id()).await.unwrap().unwrap();
    let updated = keys.update(&seen).scopes([READ]).by(ops()).await.unwrap();
    assert_eq!((updated.version(), updated.name()), (2, Some("export")));
    let refused = keys.update(&seen).name("weekly export").await.unwrap_err();
    assert!(matches!(refused, UpdateError::Changed(current) if *current == updated));
}

/// Each rotation of a trial key has to keep the expiry: without it, the last one begins anew.
#[tokio::test]
async fn a_trial_ends_however_often_its_key_is_rotated() {
    let clock = ManualClock::at(today());
    let keys = keys(&clock);
    let trial = keys.issue("initech").expires_in(14 * DAY).await.unwrap();
    let end = trial.record().expires_at();
    let mut id = trial.id();
    for _ in 0..3 {
        clock.advance(3 * DAY);
        let rotating = keys.rotate(id).owned_by("initech").keep_expiry();
        let rotated = rotating.grace(Duration::ZERO).await.unwrap();
        assert_eq!(rotated.record().expires_at(), end);
        id = rotated.id();
    }
    clock.advance(DAY);
    let extended = keys.rotate(id).await.unwrap();
    assert!(extended.record().expires_at() > end);
}

#[tokio::test]
async fn at_most_three_old_keys_of_a_chain_work() {
    let keys = ApiKeys::in_memory();
    let mut id = keys.issue("globex").await.unwrap().id();
    for _ in 0..3 {
        id = keys.rotate(id).await.unwrap().id();
    }
    let Err(RotateError::TooManyPredecessors(working)) = keys.rotate(id).await else {
        panic!("three old keys work, and a fourth would")
    };
    keys.end_grace(*working.last().unwrap()).await.unwrap();
    keys.rotate(id).await.unwrap();
}

// Runbook: a leaked key.

#[tokio::test]
async fn a_leaked_key_is_replaced_or_revoked() {
    let keys = ApiKeys::in_memory();
    let key = keys.issue("globex").by(ops()).await.unwrap();
    let found = key.expose_secret();
    let id = KeyDigest::of(found).id();
    let record = keys.find(&id).await.unwrap().unwrap();
    assert_eq!(record.account(), "globex");
    let rotated = keys
        .rotate(id)
        .compromised("found in a public repository")
        .by(ops())
        .await
        .unwrap();
    assert_eq!(code(&keys, found).await, "api_key_revoked");
    assert_eq!(code(&keys, rotated.expose_secret()).await, "ok");

    let trail = TrailQuery::new()
        .with_account("globex".to_owned())
        .newest_first();
    let trail = keys.trail(&trail, &Paging::first(50)).await.unwrap().items;
    let told: Vec<_> = trail
        .iter()
        .map(|it| (it.key, it.action.clone(), it.origin.actor.clone()))
        .collect();
    assert_eq!(
        told,
        [
            (id, Action::ROTATED, ops()),
            (rotated.id(), Action::ISSUED, ops()),
            (id, Action::ISSUED, ops()),
        ]
    );

    // Nobody knows who has the successor.
    let family = keys.revoke_family(id).by(ops()).reason("leaked");
    let revoked = family.await.unwrap();
    let revoked: Vec<KeyId> = revoked.iter().map(KeyRecord::id).collect();
    assert_eq!(revoked, [rotated.id()], "the first one is revoked already");

    // The account was taken over.
    keys.issue("globex").await.unwrap();
    let other = keys.issue("initech").await.unwrap();
    let contained = keys.revoke_all().of_account("globex").reason("taken over");
    assert_eq!(contained.await.unwrap().revoked, 1);
    let query = KeyQuery::new().with_state(KeyState::Live, keys.now());
    let left = all(&keys, &query).await;
    assert_eq!((left.len(), left[0].record.id()), (1, other.id()));
    keys.suspend(other.id()).by(ops()).await.unwrap();
    let suspended = code(&keys, other.expose_secret()).await;
    assert_eq!(suspended, "api_key_suspended");
    keys.resume(other.id()).by(ops()).await.unwrap();
    assert_eq!(code(&keys, other.expose_secret()).await, "ok");
}

#[tokio::test]
async fn a_leaked_key_that_expired_is_revoked_all_the_same() {
    let clock = ManualClock::at(today());
    let keys = keys(&clock);
    let key = keys.issue("globex").expires_in(DAY).await.unwrap();
    clock.advance(DAY);
    let refused = keys.rotate(key.id()).compromised("leaked").await;
    assert!(matches!(refused, Err(RotateError::NotRotatable(..))));
    let revoke = keys.revoke(key.id()).by(ops()).reason("leaked");
    assert!(revoke.await.unwrap().revoked().is_some());
    assert_eq!(code(&keys, key.expose_secret()).await, "api_key_revoked");
}

/// A finder needs nothing but the key.
#[tokio::test]
async fn a_leaked_key_is_revoked_by_who_has_found_it() {
    let keys = ApiKeys::in_memory();
    let key = keys.issue("globex").await.unwrap();
    let found = key.expose_secret();
    let record = keys.revoke_own(found).reason("found in a log").await;
    assert!(record.unwrap().revoked().is_some());
    assert_eq!(code(&keys, found).await, "api_key_revoked");
}

// Runbook: a leaked table.

/// Keys of less than 112 bits can be found from their hashes.
#[tokio::test]
async fn guessable_keys_are_replaced_and_revoked_by_their_age() {
    let clock = ManualClock::at(today());
    let old_keys =
        KeyFormat::dangerous_guessable("acme-", Alphabet::HEX, 16..=16, Environment::LIVE);
    let new_keys = KeyFormat::new("acme_live", Environment::LIVE).unwrap();
    let keys = ApiKeys::builder(MemoryStore::new())
        .clock(clock.clone())
        .formats([new_keys, old_keys.unwrap()])
        .build()
        .unwrap();
    let guessable = ["acme-0123456789abcdef", "acme-0123456789abcde0"];
    let records = guessable.map(|key| KeyRecord::imported(KeyDigest::of(key), "globex"));
    keys.import(records).await.unwrap();
    clock.advance(DAY);
    let changeover = keys.now();
    clock.advance(DAY);
    let good = keys.issue("globex").await.unwrap();

    let query = KeyQuery::new().with_state(KeyState::Live, keys.now());
    for ListedKey { record, .. } in all(&keys, &query).await {
        if record.prefix().is_none() && record.rotated_to().is_none() {
            let rotated = keys.rotate(record.id()).grace(7 * DAY).await.unwrap();
            assert!(rotated.expose_secret().starts_with("acme_live_"));
        }
    }
    let contained = keys
        .revoke_all()
        .issued_before(changeover)
        .by(ops())
        .reason("the table leaked")
        .await
        .unwrap();
    assert_eq!(contained.revoked, 2);
    for key in guessable {
        assert_eq!(code(&keys, key).await, "api_key_revoked");
    }
    assert_eq!(code(&keys, good.expose_secret()).await, "ok");
    let query = KeyQuery::new().with_state(KeyState::Live, keys.now());
    assert_eq!(all(&keys, &query).await.len(), 3);
}

// Runbook: a leaked pepper.

const LEAKED: &[u8] = &[1; 32];
const NEW: &[u8] = &[2; 32];

fn peppered(store: &MemoryStore, ring: PepperRing) -> ApiKeys {
    let builder = ApiKeys::builder(store.clone()).peppers(ring);
    builder.build().unwrap()
}

#[tokio::test]
async fn keys_get_a_new_pepper_by_their_rotation_only() {
    let store = MemoryStore::new();
    let before = peppered(&store, PepperRing::new("2025-11", LEAKED).unwrap());
    let key: IssuedKey = before.issue("globex").await.unwrap();

    // Each process knows the new pepper before one of them uses it.
    let ring = PepperRing::new("2025-11", LEAKED).unwrap();
    let first = peppered(&store, ring.add_retired("2026-11", NEW).unwrap());
    let ring = PepperRing::new("2026-11", NEW).unwrap();
    let second = peppered(&store, ring.add_retired("2025-11", LEAKED).unwrap());
    assert_eq!(code(&second, key.expose_secret()).await, "ok");
    let new = second.issue("globex").await.unwrap();
    assert_eq!(code(&first, new.expose_secret()).await, "ok");
    let unprepared = code(&before, new.expose_secret()).await;
    assert_eq!(unprepared, "service_unavailable");

    // An update keeps the pepper.
    let seen = second.find(&key.id()).await.unwrap().unwrap();
    let updated = second.update(&seen).name("export").await.unwrap();
    let leaked = PepperId::from("2025-11");
    assert_eq!(updated.verifier().pepper(), Some(&leaked));
    // A rotation does not.
    let query = KeyQuery::new().with_state(KeyState::Live, second.now());
    let listed = all(&second, &query).await;
    let has_leaked = |key: &KeyRecord| key.verifier().pepper() == Some(&leaked);
    let left = listed.iter().map(|key| &key.record);
    let left: Vec<KeyId> = left
        .filter(|key| has_leaked(key) && key.rotated_to().is_none())
        .map(KeyRecord::id)
        .collect();
    assert_eq!(left, [key.id()]);
    let rotated = second.rotate(key.id()).await.unwrap();
    let pepper = rotated.record().verifier().pepper();
    assert_eq!(pepper, Some(&PepperId::from("2026-11")));

    // Without the leaked pepper, the old keys are an outage, even those that were revoked.
    second.end_grace(key.id()).by(ops()).await.unwrap();
    second.revoke(key.id()).by(ops()).await.unwrap();
    let third = peppered(&store, PepperRing::new("2026-11", NEW).unwrap());
    assert_eq!(code(&third, rotated.expose_secret()).await, "ok");
    let old = code(&third, key.expose_secret()).await;
    assert_eq!(old, "service_unavailable");
}

/// Who has the leaked pepper and writes the table can plant a key, until the pepper is removed.
#[tokio::test]
async fn a_planted_key_works_until_the_leaked_pepper_is_removed() {
    let planted = ApiKeys::in_memory().issue("mallory").await.unwrap();
    let digest = KeyDigest::of(planted.expose_secret());
    let leaked = PepperRing::new("2025-11", LEAKED).unwrap();
    let record = planted.record().clone();
    let table: MemoryStore = [record.with_verifier(leaked.verifier(&digest))]
        .into_iter()
        .collect();
    let ring = PepperRing::new("2026-11", NEW).unwrap();
    let removed = peppered(&table, ring.clone());
    let retired = peppered(&table, ring.add_retired("2025-11", LEAKED).unwrap());
    assert_eq!(code(&retired, planted.expose_secret()).await, "ok");
    let refused = code(&removed, planted.expose_secret()).await;
    assert_eq!(refused, "service_unavailable");
}

/// A record without a pepper can be converted, since its verifier is the digest.
#[tokio::test]
async fn records_without_a_pepper_are_converted_by_an_import() {
    let store = MemoryStore::new();
    let plain = ApiKeys::in_memory();
    let key = plain.issue("globex").await.unwrap();
    let keys = peppered(&store, PepperRing::new("2026-11", NEW).unwrap());
    keys.import([key.record().clone()]).by(ops()).await.unwrap();
    let record = keys.find(&key.id()).await.unwrap().unwrap();
    assert_eq!(record.verifier().pepper(), Some(&PepperId::from("2026-11")));
    assert_eq!(code(&keys, key.expose_secret()).await, "ok");
}

#[cfg(feature = "sqlite")]
mod in_sqlite {
    use std::path::PathBuf;

    use super::*;
    use support::{asking, from};
    use tower_api_key::store::sqlx::{self, Connection, Row, SqliteConnection};
    use tower_api_key::store::{AuditKey, SqliteStore, TrailFault};

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let name = format!("tower-api-key-runbooks-{name}-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn file(&self) -> PathBuf {
            self.0.join("keys.db")
        }

        async fn connection(&self) -> SqliteConnection {
            let url = format!("sqlite://{}", self.file().display());
            SqliteConnection::connect(&url).await.unwrap()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    async fn open(folder: &Folder, audit_key: [u8; 32]) -> SqliteStore {
        let store = SqliteStore::open(folder.file()).await.unwrap();
        let store = store.audit_key(AuditKey::new(&audit_key).unwrap());
        store.migrate().await.unwrap();
        store
    }

    #[tokio::test]
    async fn the_last_address_of_a_leaked_key_is_in_the_table_of_uses() {
        let folder = Folder::new("address");
        let keys = ApiKeys::builder(open(&folder, [1; 32]).await)
            .build()
            .unwrap();
        let (stop, worker) = worker(&keys);
        let key = keys.issue("globex").await.unwrap();
        let request = from("203.0.113.7", &with_key(key.expose_secret()));
        assert_eq!(asking(&keys.layer(), request).await.status(), 200);
        drop(stop);
        worker.await;
        let listed = keys.find_listed(&key.id()).await.unwrap().unwrap();
        assert!(listed.last_used_at.is_some());
        let statement = format!(
            "SELECT last_address FROM api_key_uses WHERE key_id = x'{}'",
            key.id()
        );
        let statement = sqlx::query(sqlx::AssertSqlSafe(statement));
        let mut connection = folder.connection().await;
        let row = statement.fetch_one(&mut connection).await.unwrap();
        assert_eq!(row.get::<String, _>(0), "203.0.113.7");
    }

    /// An edit is found, also after the next change, and its key can be revoked.
    #[tokio::test]
    async fn edits_of_a_leaked_table_are_found() {
        let folder = Folder::new("edit");
        let store = open(&folder, [1; 32]).await;
        let keys = ApiKeys::builder(store.clone()).build().unwrap();
        let key = keys.issue("globex").await.unwrap();
        let edit = "UPDATE api_key_keys SET scopes = 'admin'";
        let mut connection = folder.connection().await;
        sqlx::query(edit).execute(&mut connection).await.unwrap();

        let report = store.verify_trail().await.unwrap();
        assert_eq!((report.keys, report.records), (1, 1));
        let [broken] = report.broken.as_slice() else {
            panic!("{report:?}")
        };
        assert_eq!(
            (broken.key, broken.fault),
            (key.id(), TrailFault::KeyEdited)
        );
        let revoke = keys.revoke(broken.key).by(ops()).reason("edited");
        revoke.await.unwrap();
        assert_eq!(code(&keys, key.expose_secret()).await, "api_key_revoked");
        let report = store.verify_trail().await.unwrap();
        assert!(report.broken.iter().any(|it| it.key == key.id()));
    }

    /// A new audit key needs new tables.
    #[tokio::test]
    async fn keys_are_moved_under_a_new_audit_key() {
        let folder = Folder::new("audit");
        let store = open(&folder, [1; 32]).await;
        let keys = ApiKeys::builder(store.clone()).build().unwrap();
        let live = keys.issue("globex").await.unwrap();
        let revoked = keys.issue("globex").await.unwrap();
        keys.revoke(revoked.id()).await.unwrap();
        assert!(store.verify_trail().await.unwrap().is_ok());
        let other = open(&folder, [2; 32]).await.verify_trail().await.unwrap();
        assert_eq!(other.broken.len(), 5, "{other:?}");

        let new = SqliteStore::open(folder.file()).await.unwrap();
        let new = new.table_prefix("api_key_2_").unwrap();
        let new = new.audit_key(AuditKey::new(&[2; 32]).unwrap());
        new.migrate().await.unwrap();
        let moved = ApiKeys::builder(new.clone()).build().unwrap();
        let mut paging = Paging::first(500);
        loop {
            let page = keys.list(&KeyQuery::new(), &paging).await.unwrap();
            let records = page.items.into_iter().map(|key| key.record);
            moved.import(records).by(ops()).await.unwrap();
            let Some(next) = page.next else { break };
            paging = paging.after(next);
        }
        let report = new.verify_trail().await.unwrap();
        assert!(report.is_ok(), "{report:?}");
        assert_eq!(report.keys, 2);
        assert_eq!(code(&moved, live.expose_secret()).await, "ok");
        let refused = code(&moved, revoked.expose_secret()).await;
        assert_eq!(refused, "api_key_revoked");
    }
}
