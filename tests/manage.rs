//! Issuing and changing keys: what is kept, what is refused, and what holds under contention.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use http::StatusCode;
use support::{DAY, READ, WRITE, answer, today, with_key};
use tower_api_key::clock::ManualClock;
use tower_api_key::key::{
    AllowedNetworks, Alphabet, KeyDigest, KeyFormat, KeyRecordError, PepperRing, Verifier,
};
use tower_api_key::manage::{ChangeError, ImportError, IssueError};
use tower_api_key::store::{
    Action, Actor, Change, KeyQuery, Origin, Paging, Step, StoreError, StoreErrorKind, TrailQuery,
};
use tower_api_key::{
    ApiKeys, Environment, KeyId, KeyRecord, KeyStore, ManagedKeyStore, MemoryStore, Quota,
};

fn keys_in(store: &MemoryStore) -> ApiKeys {
    let clock = ManualClock::at(today());
    let builder = ApiKeys::builder(store.clone()).clock(clock);
    builder.build().unwrap()
}

fn status<A>(keys: &ApiKeys<A>, key: &str) -> StatusCode {
    answer(&keys.layer(), with_key(key)).status()
}

#[tokio::test]
async fn an_issued_key_is_stored_as_requested() {
    let store = MemoryStore::new();
    let keys = keys_in(&store);
    let networks = AllowedNetworks::only(["192.0.2.0/24"]).unwrap();
    let issued = keys
        .issue("acme")
        .organization("Acme Inc.")
        .name("nightly export")
        .environment(Environment::TEST)
        .scopes([READ, WRITE])
        .networks(networks.clone())
        .plan("pro")
        .add_metadata("region", "eu")
        .not_before(today() + DAY)
        .expires_in(90 * DAY)
        .await
        .unwrap();
    let digest = KeyDigest::of(issued.expose_secret());
    assert!(issued.expose_secret().starts_with("sk_test_"));
    assert_eq!(issued.id(), digest.id());

    let kept = store.find(&issued.id()).await.unwrap().unwrap();
    assert_eq!(&kept, issued.record());
    assert_eq!(kept.account(), "acme");
    assert_eq!(kept.organization(), Some("Acme Inc."));
    assert_eq!(kept.name(), Some("nightly export"));
    assert_eq!(kept.prefix(), Some("sk_test"));
    assert_eq!(kept.environment(), Some(&Environment::TEST));
    assert_eq!(kept.scopes().to_string(), "reports:read reports:write");
    assert_eq!(kept.networks(), &networks);
    assert_eq!(kept.plan(), Some("pro"));
    assert_eq!(kept.metadata()["region"], "eu");
    assert_eq!(kept.created_at(), Some(today()));
    assert_eq!(kept.not_before(), Some(today() + DAY));
    assert_eq!(kept.expires_at(), Some(today() + 91 * DAY));
    assert_eq!(kept.version(), 1);
    assert_eq!(kept.verifier().pepper(), None);
}

#[tokio::test]
async fn every_issued_key_is_unique() {
    let store = MemoryStore::new();
    let keys = keys_in(&store);
    let clone = keys.clone(); // a cloned generator made every key the same, elsewhere
    let mut seen = std::collections::HashSet::new();
    for _ in 0..1000 {
        for keys in [&keys, &clone] {
            let key = keys.issue("acme").await.unwrap();
            assert!(seen.insert(key.expose_secret().to_owned()));
        }
    }
}

#[tokio::test]
async fn a_key_with_invalid_settings_is_not_issued() {
    let keys = keys_in(&MemoryStore::new());
    for nobody in ["", " "] {
        let error = keys.issue(nobody).await.unwrap_err();
        assert!(matches!(error, IssueError::NoAccount));
    }
    for ends in [today() - DAY, today()] {
        let error = keys.issue("acme").expires_at(ends).await.unwrap_err();
        assert!(matches!(error, IssueError::EndsBeforeItBegins), "{error}");
    }
    // A life is counted from its beginning.
    let later = keys.issue("acme").not_before(today() + 30 * DAY);
    let later = later.expires_in(30 * DAY).await.unwrap();
    assert_eq!(later.record().expires_at(), Some(today() + 60 * DAY));
    let never = keys
        .issue("acme")
        .not_before(today() + 2 * DAY)
        .expires_at(today() + DAY);
    let error = never.await.unwrap_err();
    assert!(matches!(error, IssueError::EndsBeforeItBegins));
    let error = keys
        .issue("acme")
        .expires_in(Duration::MAX)
        .await
        .unwrap_err();
    assert!(matches!(error, IssueError::EndsTooLate));
    let error = keys.issue("acme").prefix("pk_live").await.unwrap_err();
    assert!(error.to_string().contains("pk_live"), "{error}");
    let staging = Environment::from_static("staging");
    let error = keys.issue("acme").environment(staging).await.unwrap_err();
    assert!(error.to_string().contains("staging"), "{error}");
}

#[tokio::test]
async fn the_format_is_chosen_by_environment_or_by_prefix() {
    let imported = KeyFormat::imported("old-", Alphabet::HEX, 40..=40, Environment::LIVE).unwrap();
    let keys = ApiKeys::builder(MemoryStore::new())
        .formats([
            imported, // recognized, never issued
            KeyFormat::new("sk_live", Environment::LIVE).unwrap(),
            KeyFormat::new("pk_live", Environment::LIVE)
                .unwrap()
                .secret_bytes(16)
                .unwrap(),
            KeyFormat::new("sk_test", Environment::TEST)
                .unwrap()
                .without_checksum(),
        ])
        .build()
        .unwrap();
    let key = keys.issue("acme").await.unwrap();
    assert!(key.expose_secret().starts_with("sk_live_"));
    let key = keys.issue("acme").prefix("pk_live").await.unwrap();
    assert_eq!(key.expose_secret().len(), "pk_live_".len() + 22 + 6);
    assert_eq!(status(&keys, key.expose_secret()), StatusCode::OK);
    let key = keys.issue("acme").prefix("sk_test").await.unwrap();
    assert_eq!(key.record().environment(), Some(&Environment::TEST));
    assert_eq!(key.expose_secret().len(), "sk_test_".len() + 43);
    let both = keys
        .issue("acme")
        .prefix("sk_test")
        .environment(Environment::LIVE);
    assert!(matches!(
        both.await.unwrap_err(),
        IssueError::NoFormat { .. }
    ));
}

#[tokio::test]
async fn changes_are_idempotent_and_increment_the_version() {
    let store = MemoryStore::new();
    let keys = keys_in(&store);
    let key = keys.issue("acme").await.unwrap();
    assert_eq!(keys.resume(key.id()).await.unwrap().version(), 1);
    let suspended = keys.suspend(key.id()).reason("unpaid").await.unwrap();
    assert_eq!(suspended.version(), 2);
    assert_eq!(
        suspended.suspended().unwrap().reason.as_deref(),
        Some("unpaid")
    );
    assert_eq!(
        keys.suspend(key.id()).reason("again").await.unwrap(),
        suspended
    );
    let revoked = keys.revoke(key.id()).reason("leaked").await.unwrap();
    assert_eq!(
        (revoked.version(), revoked.revoked().unwrap().at),
        (3, today())
    );
    assert_eq!(
        keys.revoke(key.id()).reason("other").await.unwrap(),
        revoked
    );
    assert_eq!(store.find(&key.id()).await.unwrap(), Some(revoked));

    let nobody = KeyDigest::of("nobody").id();
    let error = keys.revoke(nobody).await.unwrap_err();
    assert!(matches!(error, ChangeError::NotFound(id) if id == nobody));
}

#[tokio::test]
async fn a_commit_is_all_or_nothing() {
    let store = MemoryStore::new();
    let record = |key: &str| KeyRecord::imported(KeyDigest::of(key), "acme");
    let create = support::creates;
    let update = |change: Change, record: KeyRecord| {
        let seen = record.clone().with_version(record.version() - 1);
        change.update(Action::UPDATED, &seen, record).unwrap()
    };
    store.commit(&create(record("one"))).await.unwrap();

    let kind = |result: Result<(), StoreError>| result.unwrap_err().kind();
    let both = create(record("two"))
        .create(Action::ISSUED, record("one"))
        .unwrap();
    assert_eq!(
        kind(store.commit(&both).await),
        StoreErrorKind::AlreadyExists
    );
    let twice = create(record("two"))
        .create(Action::ISSUED, record("two"))
        .unwrap();
    assert_eq!(
        kind(store.commit(&twice).await),
        StoreErrorKind::AlreadyExists
    );
    let again = |version| record("one").with_version(version);
    let doubled = update(support::updates(again(2)), again(2));
    assert_eq!(kind(store.commit(&doubled).await), StoreErrorKind::Conflict);
    let stale = update(create(record("two")), record("one").with_version(3));
    assert_eq!(kind(store.commit(&stale).await), StoreErrorKind::Conflict);
    let absent = update(create(record("two")), record("three").with_version(2));
    assert_eq!(kind(store.commit(&absent).await), StoreErrorKind::Conflict);
    assert_eq!(store.find(&record("two").id()).await.unwrap(), None);

    let good = update(create(record("two")), record("one").with_version(2));
    store.commit(&good).await.unwrap();
    let one = store.find(&record("one").id()).await.unwrap().unwrap();
    assert_eq!(one.version(), 2);
}

/// A store in which somebody else is faster, so many times.
struct Contended {
    store: MemoryStore,
    rivals: AtomicUsize,
}

impl KeyStore for Contended {
    async fn find(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.store.find(id).await
    }
}

impl ManagedKeyStore for Contended {
    async fn find_committed(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.find(id).await
    }

    async fn commit(&self, change: &Change) -> Result<(), StoreError> {
        if let Some(Step::Update { record: update, .. }) = change.steps().next()
            && self.rivals.load(Ordering::SeqCst) > 0
        {
            self.rivals.fetch_sub(1, Ordering::SeqCst);
            let seen = self.store.find(&update.id()).await?.unwrap();
            let next = seen.version() + 1;
            let renamed = seen.with_name(format!("rival {next}")).with_version(next);
            self.store.commit(&support::updates(renamed)).await?;
        }
        self.store.commit(change).await
    }
}

#[tokio::test]
async fn a_change_is_retried_on_a_conflict_and_keeps_the_other_write() {
    for (rivals, succeeds) in [(3, true), (15, true), (16, false)] {
        let store = Arc::new(Contended {
            store: MemoryStore::new(),
            rivals: rivals.into(),
        });
        let keys = ApiKeys::builder(store).build().unwrap();
        let key = keys.issue("acme").await;
        let id = key.unwrap().id();
        match keys.revoke(id).await {
            Ok(record) if succeeds => {
                assert_eq!(
                    record.name(),
                    Some(format!("rival {}", rivals + 1).as_str())
                );
                assert!(record.revoked().is_some());
            }
            Err(ChangeError::Store(error)) if !succeeds => {
                assert_eq!(error.kind(), StoreErrorKind::Conflict);
            }
            other => panic!("{rivals} rivals: {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_revocations_record_a_single_revocation() {
    let store = MemoryStore::new();
    let keys = keys_in(&store);
    let id = keys.issue("acme").await.unwrap().id();
    let revoke = |at: usize| {
        let revocation = keys.revoke(id).reason(at.to_string());
        tokio::spawn(async move { revocation.await.unwrap() })
    };
    let all: Vec<_> = (0..32).map(revoke).collect();
    let mut reasons = std::collections::HashSet::new();
    for one in all {
        reasons.insert(one.await.unwrap().revoked().unwrap().reason.clone());
    }
    assert_eq!(reasons.len(), 1);
    assert_eq!(store.find(&id).await.unwrap().unwrap().version(), 2);
}

#[tokio::test]
async fn peppers_can_be_rotated_without_the_plaintext_keys() {
    let store = MemoryStore::new();
    let ring = |current, pepper: u8| PepperRing::new(current, &[pepper; 32]).unwrap();
    let build = |ring| {
        let builder = ApiKeys::builder(store.clone()).peppers(ring);
        builder.build().unwrap()
    };
    let key = build(ring("old", 1)).issue("acme").await.unwrap();
    let text = key.expose_secret();
    assert_eq!(key.record().verifier().pepper(), Some(&"old".into()));

    // Retired, it is still accepted; without it, the record cannot be judged.
    let rotated = ring("new", 2).add_retired("old", &[1; 32]).unwrap();
    assert_eq!(status(&build(rotated.clone()), text), StatusCode::OK);
    assert_eq!(
        status(&build(ring("new", 2)), text),
        StatusCode::SERVICE_UNAVAILABLE
    );
    // A pepper of the same name and another content is a mistake of ours, not of every caller.
    assert_eq!(
        status(&build(ring("old", 9)), text),
        StatusCode::SERVICE_UNAVAILABLE
    );

    // From the digest alone, which an import has, too.
    let digest = KeyDigest::of(text);
    let rehashed = key
        .record()
        .clone()
        .with_verifier(rotated.verifier(&digest));
    let rehash = support::updates(rehashed.with_version(2));
    store.commit(&rehash).await.unwrap();
    assert_eq!(status(&build(ring("new", 2)), text), StatusCode::OK);
}

/// Forgetting to set it does not open a live layer to a test key.
#[tokio::test]
async fn a_record_without_an_environment_takes_that_of_its_format() {
    let format = KeyFormat::new("acme_test", Environment::TEST).unwrap();
    let key = format.generate().unwrap();
    let record = KeyRecord::imported(KeyDigest::of(key.expose_secret()), "acme");
    let store: MemoryStore = [record.clone()].into_iter().collect();
    let keys = ApiKeys::builder(store)
        .formats([format.clone()])
        .build()
        .unwrap();
    assert_eq!(status(&keys, key.expose_secret()), StatusCode::FORBIDDEN);
    let caller = keys.verify(key.expose_secret()).await.unwrap();
    assert_eq!(caller.environment(), &Environment::TEST);
    // The record's own goes before.
    let live = record.with_environment(Environment::LIVE);
    let store: MemoryStore = [live].into_iter().collect();
    let keys = ApiKeys::builder(store).formats([format]).build().unwrap();
    assert_eq!(status(&keys, key.expose_secret()), StatusCode::OK);
}

#[tokio::test]
async fn a_key_can_be_verified_without_a_request() {
    let store = MemoryStore::new();
    let keys = keys_in(&store);
    let key = keys.issue("acme").await.unwrap();
    let read_only = keys.to_read_only();
    let verify = async || read_only.verify(key.expose_secret()).await;
    assert_eq!(verify().await.unwrap().key_id(), key.id());
    assert_eq!(
        keys.find(&key.id()).await.unwrap().as_ref(),
        Some(key.record())
    );
    keys.suspend(key.id()).await.unwrap();
    assert_eq!(verify().await.unwrap_err().code(), "api_key_suspended");
    keys.revoke(key.id()).await.unwrap();
    assert_eq!(verify().await.unwrap_err().code(), "api_key_revoked");
    let other = ApiKeys::in_memory().issue("acme").await.unwrap();
    let unknown = keys.verify(other.expose_secret()).await.unwrap_err();
    assert_eq!(unknown.code(), "api_key_not_found");
    assert_eq!(
        keys.verify("junk").await.unwrap_err().code(),
        "api_key_not_found"
    );
    let down = ApiKeys::read_only(support::Down).build().unwrap();
    let outage = down.verify(key.expose_secret()).await.unwrap_err();
    assert_eq!(outage.code(), "service_unavailable");
}

#[tokio::test]
async fn existing_sha256_hashes_can_be_imported_unchanged() {
    let store = MemoryStore::new();
    let old = "acme-3f8a1c0b9d2e4f5a6b7c8d9e0f1a2b3c";
    let sha256 = KeyDigest::of(old).to_hex();
    let digest = KeyDigest::from_hex(&sha256).unwrap();
    let import = support::creates(KeyRecord::imported(digest, "acme"));
    store.commit(&import).await.unwrap();

    let formats = || {
        let imported = KeyFormat::imported("acme-", Alphabet::HEX, 32..=32, Environment::LIVE);
        [
            imported.unwrap(),
            KeyFormat::new("sk_live", Environment::LIVE).unwrap(),
        ]
    };
    let keys = ApiKeys::builder(store.clone())
        .formats(formats())
        .build()
        .unwrap();
    assert_eq!(status(&keys, old), StatusCode::OK);
    let read_only = ApiKeys::read_only(store)
        .formats(formats())
        .build()
        .unwrap();
    assert_eq!(status(&read_only, old), StatusCode::OK);
    assert_eq!(
        status(&read_only, &old.to_uppercase()),
        StatusCode::UNAUTHORIZED
    );
    // Beside it, keys of the new format are issued.
    let key = keys.issue("acme").await.unwrap();
    assert_eq!(status(&keys, key.expose_secret()), StatusCode::OK);
}

/// Finds one record, whatever it is asked for.
struct OneForAll(KeyRecord, Arc<AtomicUsize>);

impl KeyStore for OneForAll {
    async fn find(&self, _: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        Ok(Some(self.0.clone()))
    }
}

impl ManagedKeyStore for OneForAll {
    async fn find_committed(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.find(id).await
    }

    async fn commit(&self, _: &Change) -> Result<(), StoreError> {
        self.1.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

#[tokio::test]
async fn a_change_never_applies_to_another_keys_record() {
    let [meant, other] = ["meant", "other"].map(KeyDigest::of);
    let commits = Arc::new(AtomicUsize::new(0));
    let store = OneForAll(KeyRecord::imported(other, "acme"), Arc::clone(&commits));
    let keys = ApiKeys::builder(store).build().unwrap();
    let found = keys.find(&meant.id()).await.unwrap_err();
    assert_eq!(found.kind(), StoreErrorKind::Corrupt);
    let error = keys.revoke(meant.id()).await.unwrap_err();
    assert!(matches!(error, ChangeError::Store(error) if error.kind() == StoreErrorKind::Corrupt));
    assert_eq!(commits.load(Ordering::SeqCst), 0);
    assert!(keys.revoke(other.id()).await.is_ok());
}

#[tokio::test]
async fn an_unstorable_record_is_refused_before_the_commit() {
    let keys = ApiKeys::in_memory();
    let nul = keys.issue("acme").name("a\0b").await.unwrap_err();
    assert!(
        matches!(nul, IssueError::Invalid(KeyRecordError::Nul(_))),
        "{nul:?}"
    );
    let long = "x".repeat((16 << 10) + 1);
    let too_long = keys.issue(&*long).await.unwrap_err();
    assert!(matches!(
        too_long,
        IssueError::Invalid(KeyRecordError::TooLong(..))
    ));
    let late = SystemTime::UNIX_EPOCH + Duration::from_secs(300_000_000_000);
    let instant = keys.issue("acme").expires_at(late).await.unwrap_err();
    assert!(matches!(
        instant,
        IssueError::Invalid(KeyRecordError::Instant(_))
    ));
    let mut much = keys.issue("acme");
    for at in 0..5 {
        much = much.add_metadata(at.to_string(), "x".repeat(16 << 10));
    }
    let much = much.await.unwrap_err();
    assert!(matches!(
        much,
        IssueError::Invalid(KeyRecordError::TooLong(..))
    ));

    let key = keys.issue("acme").await.unwrap();
    let refused = keys.revoke(key.id()).reason("\0").await.unwrap_err();
    assert!(matches!(
        refused,
        ChangeError::Invalid(KeyRecordError::Nul(_))
    ));
    assert!(keys.verify(key.expose_secret()).await.is_ok());
    // A change that is made by hand is looked at as well.
    let by = |actor| Change::new(actor, today());
    let (record, good) = (|| key.record().clone(), Actor::user("ops"));
    let create = by(good.clone()).create(Action::ISSUED, record().with_plan("\0"));
    assert!(matches!(create, Err(KeyRecordError::Nul("the plan"))));
    let last = record().with_version(i64::MAX as u64);
    let update = by(good.clone()).update(Action::UPDATED, &last, record());
    assert!(matches!(update, Err(KeyRecordError::Version(_))));
    let other = KeyRecord::imported(KeyDigest::of("other"), "acme");
    let update = by(good).update(Action::UPDATED, &other, record());
    assert!(matches!(update, Err(KeyRecordError::OfAnotherKey)));
    let nobody = by(Actor::user("ops\0")).create(Action::ISSUED, record());
    assert!(matches!(nobody, Err(KeyRecordError::Nul("the actor"))));
}

#[tokio::test]
async fn a_dated_suspension_ends_at_its_date_and_can_be_extended() {
    let clock = ManualClock::at(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000));
    let builder = ApiKeys::builder(MemoryStore::new()).clock(clock.clone());
    let keys = builder.build().unwrap();
    let key = keys.issue("acme").await.unwrap();
    let hour = Duration::from_secs(3600);
    let until = keys.now() + hour;
    keys.suspend(key.id()).until(until).await.unwrap();
    assert!(keys.verify(key.expose_secret()).await.is_err());
    // The same again changes nothing, and another end does.
    let same = keys.suspend(key.id()).until(until).await.unwrap();
    assert_eq!(same.version(), 2);
    let longer = keys.suspend(key.id()).until(until + hour).await.unwrap();
    assert_eq!(longer.version(), 3);
    clock.advance(hour);
    assert!(keys.verify(key.expose_secret()).await.is_err());
    clock.advance(hour);
    assert!(keys.verify(key.expose_secret()).await.is_ok());
    // One that is over does not keep the key from being suspended again.
    let again = keys.suspend(key.id()).await.unwrap();
    assert_eq!(again.version(), 4);
    assert!(keys.verify(key.expose_secret()).await.is_err());
}

/// What was done to a key, as the trail tells it.
async fn trail(keys: &ApiKeys, query: &TrailQuery) -> Vec<String> {
    let page = keys.trail(query, &Paging::first(100)).await.unwrap();
    let told = page.items.iter().map(|record| {
        let changes: Vec<_> = record.changes.iter().map(ToString::to_string).collect();
        let reason = record.origin.reason.as_deref().unwrap_or("no reason");
        format!(
            "{} {} by {} ({reason}): {}",
            record.version,
            record.action,
            record.origin.actor,
            changes.join(", ")
        )
    });
    told.collect()
}

#[tokio::test]
async fn each_change_of_a_key_adds_one_trail_record_and_a_repeat_adds_none() {
    let store = MemoryStore::new();
    let keys = keys_in(&store);
    let billing = Actor::service("billing");
    let issue = keys
        .issue("acme")
        .plan("pro")
        .add_metadata("owner", "Jane Doe");
    let key = issue.by(billing.clone()).await.unwrap();
    let tomorrow = today() + DAY;
    let suspend = || keys.suspend(key.id()).reason("unpaid").until(tomorrow);
    suspend().by(billing.clone()).await.unwrap();
    suspend().by(billing).await.unwrap();
    keys.resume(key.id()).await.unwrap();
    let ops = Origin::new(Actor::user("ops@example.com"))
        .with_reason("incident 7".to_owned())
        .with_request_id("req-1".to_owned());
    let revoke = keys.revoke(key.id()).reason("leaked");
    revoke.by(ops.clone()).await.unwrap();
    keys.revoke(key.id()).by(ops.clone()).await.unwrap();
    keys.issue("globex").await.unwrap();

    let of_key = TrailQuery::new().with_key(key.id());
    let told = trail(&keys, &of_key).await;
    assert_eq!(
        told,
        [
            "1 api_key.issued by service billing (no reason): account: - -> acme, \
             created_at: - -> 2026-01-01T00:00:00Z, environment: - -> live, \
             metadata.owner: - -> (hidden), plan: - -> pro, prefix: - -> sk_live, \
             verifier: - -> (hidden)",
            "2 api_key.suspended by service billing (unpaid): \
             suspended_at: - -> 2026-01-01T00:00:00Z, suspended_reason: - -> unpaid, \
             suspended_until: - -> 2026-01-02T00:00:00Z",
            "3 api_key.resumed by unknown (no reason): \
             suspended_at: 2026-01-01T00:00:00Z -> -, suspended_reason: unpaid -> -, \
             suspended_until: 2026-01-02T00:00:00Z -> -",
            "4 api_key.revoked by user ops@example.com (incident 7): \
             revoked_at: - -> 2026-01-01T00:00:00Z, revoked_reason: - -> leaked",
        ]
    );
    let of_account = TrailQuery::new().with_account("acme".to_owned());
    assert_eq!(trail(&keys, &of_account).await, told);
    assert_eq!(trail(&keys, &TrailQuery::new()).await.len(), 5);
    let last = of_key.newest_first();
    let last = keys.trail(&last, &Paging::first(1)).await.unwrap();
    assert_eq!(last.items[0].origin, ops);
}

#[tokio::test]
async fn a_change_with_an_invalid_trail_record_is_refused_as_a_whole() {
    let store = MemoryStore::new();
    let keys = keys_in(&store);
    let key = keys.issue("acme").await.unwrap();
    let nobody = Actor::user("\0");
    let refused = keys.revoke(key.id()).by(nobody.clone()).await.unwrap_err();
    assert!(matches!(
        refused,
        ChangeError::Invalid(KeyRecordError::Nul("the actor"))
    ));
    let refused = keys.issue("acme").by(nobody).await.unwrap_err();
    assert!(matches!(
        refused,
        IssueError::Invalid(KeyRecordError::Nul("the actor"))
    ));
    assert_eq!(status(&keys, key.expose_secret()), StatusCode::OK);
    let all = keys
        .list(&KeyQuery::new(), &Paging::first(10))
        .await
        .unwrap();
    assert_eq!(all.items.len(), 1);
}

/// However often a key is changed: the latest changes stay, and memory does not grow.
#[tokio::test]
async fn the_memory_trail_keeps_the_latest_changes() {
    let store = MemoryStore::new();
    let keys = keys_in(&store);
    let key = keys.issue("acme").await.unwrap();
    for round in 0..5_100 {
        keys.suspend(key.id())
            .reason(round.to_string())
            .await
            .unwrap();
        keys.resume(key.id()).await.unwrap();
    }
    let mut paging = Paging::first(1_000);
    let mut versions = Vec::new();
    loop {
        let page = keys.trail(&TrailQuery::new(), &paging).await.unwrap();
        versions.extend(page.items.iter().map(|record| record.version));
        let Some(next) = page.next else { break };
        paging = paging.after(next);
    }
    assert_eq!(versions, (202..=10_201).collect::<Vec<u64>>());
}

/// An import can be repeated, and takes the peppers of the ring.
#[tokio::test]
async fn an_import_is_repeated_without_harm() {
    let store = MemoryStore::new();
    let ring = PepperRing::new("2026", &[7; 32]).unwrap();
    let keys = ApiKeys::builder(store.clone())
        .peppers(ring)
        .build()
        .unwrap();
    let plaintexts: Vec<String> = support::strangers().take(1_200).collect();
    let records = |from: usize, to: usize| {
        let records = plaintexts[from..to].iter();
        let records = records.map(|it| KeyRecord::imported(KeyDigest::of(it), "acme"));
        records.collect::<Vec<_>>()
    };
    assert!(
        keys.verify(&plaintexts[7]).await.is_err(),
        "its absence is cached"
    );
    let imported = keys
        .import(records(0, 700))
        .by(Actor::user("ops"))
        .await
        .unwrap();
    assert_eq!((imported.created, imported.existing), (700, 0));
    let twice = [records(0, 1_200), records(1_190, 1_200)].concat();
    let imported = keys.import(twice).await.unwrap();
    assert_eq!((imported.created, imported.existing), (500, 710));
    for plaintext in [&plaintexts[7], &plaintexts[1_199]] {
        assert_eq!(keys.verify(plaintext).await.unwrap().account(), "acme");
    }
    // Of a key that is changed, nothing is undone.
    let id = KeyDigest::of(&plaintexts[7]).id();
    keys.revoke(id).await.unwrap();
    keys.import(records(0, 10)).await.unwrap();
    assert!(keys.verify(&plaintexts[7]).await.is_err());
    let trail = TrailQuery::new().with_key(id);
    let trail = keys.trail(&trail, &Paging::first(10)).await.unwrap().items;
    assert_eq!(trail[0].action, Action::IMPORTED);
    // A verifier that no key has is refused, as is a value that cannot be kept.
    let id = KeyId::from_bytes([9; 16]);
    let stray = KeyRecord::new(id, Verifier::sha256(KeyDigest::of("key")), "acme");
    let error = keys.import([stray]).await.unwrap_err();
    assert!(
        matches!(error, ImportError::NotItsDigest(it) if it == id),
        "{error}"
    );
    let long = KeyRecord::imported(KeyDigest::of("key"), "a".repeat(256));
    let error = keys.import([long]).await.unwrap_err();
    assert!(matches!(error, ImportError::Invalid { .. }), "{error}");
}

#[tokio::test]
async fn a_key_is_throttled_until_a_time_or_until_the_throttle_is_ended() {
    let store = MemoryStore::new();
    let keys = keys_in(&store);
    let issued = keys.issue("acme").await.unwrap();
    let (id, key) = (issued.id(), issued.expose_secret());
    let throttle = || keys.throttle(id, Quota::per_hour(2), today() + DAY);
    let changed = throttle()
        .by(Actor::user("ops@example.com"))
        .reason("a runaway script")
        .await
        .unwrap();
    let throttled = changed.throttled().unwrap();
    assert_eq!(throttled.quota, Quota::per_hour(2));
    assert_eq!(throttled.until, today() + DAY);
    assert_eq!(throttled.reason.as_deref(), Some("a runaway script"));
    assert_eq!(
        [(); 3].map(|()| status(&keys, key).as_u16()),
        [200, 200, 429]
    );
    let again = throttle().reason("a runaway script").await.unwrap();
    assert_eq!(again.version(), changed.version(), "nothing changed");

    let freed = keys.unthrottle(id).await.unwrap();
    assert_eq!(freed.throttled(), None);
    assert_eq!(status(&keys, key), StatusCode::OK);
    let again = keys.unthrottle(id).await.unwrap();
    assert_eq!(again.version(), freed.version());
    let trail = TrailQuery::new().with_key(id).newest_first();
    let trail = keys.trail(&trail, &Paging::first(2)).await.unwrap();
    let actions: Vec<_> = trail.items.iter().map(|it| it.action.clone()).collect();
    assert_eq!(actions, [Action::UNTHROTTLED, Action::THROTTLED]);
    let missing = keys
        .unthrottle(KeyDigest::of("none").id())
        .await
        .unwrap_err();
    assert!(matches!(missing, ChangeError::NotFound(_)));
}
