//! The suite for what a commit checks beside the versions of records: deletions, requests for keys,
//! and caps on the keys of an account.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::conformance::keeps::{Field, Keeps, Part};
use crate::conformance::promise::Promise;
use crate::conformance::records::{Digests, named, same};
use crate::key::containment::{Revocation, Suspension};
use crate::key::record::{KeyRecord, Rotation};
use crate::store::{
    AccountCap, Action, Actor, Change, IssueRequest, KeyUsage, ManagedKeyStore, StoreError,
    StoreErrorKind, TrailQuery, UsageBatch, UsagePeriod,
};
use crate::util::join_all::join_all;

const ANSWERS: Promise = Promise("a live store answers");
const REFUSED: Promise = Promise("what is not kept is refused");
const DELETED: Promise = Promise("a deleted record is not found, and its trail stays");
const VERSIONS: Promise = Promise("a deletion of another version is a conflict");
const REQUESTS: Promise = Promise("a request is remembered once, for as long as its key exists");
const LINEAGES: Promise = Promise("the keys of a chain are found by its first key");
const CAPPED: Promise = Promise("an account has at most as many keys as its cap says");
const ALL_OR_NOTHING: Promise = Promise("a change is carried out whole, or not at all");

/// The number of concurrent writers under one cap.
const RIVALS: usize = 20;

/// The time of the suite.
const NOW: SystemTime = UNIX_EPOCH;

pub(super) async fn suite<S: ManagedKeyStore>(store: &S, keeps: &Keeps) {
    let mut digests = Digests::new();
    let suite = GuardSuite {
        store,
        keeps,
        account: format!("acme {}", digests.id()),
    };
    let mut has_all = true;
    for (part, refused) in [
        (
            Part::Deletions,
            GuardSuite::<S>::delete(&named(digests.next(), "key")),
        ),
        (Part::Requests, suite.issue(&mut digests, [1; 32], None).1),
        (Part::Caps, suite.capped(&mut digests, 1)),
    ] {
        if keeps.keeps_part(part) {
            continue;
        }
        has_all = false;
        suite
            .fails(REFUSED, &refused, StoreErrorKind::Refused)
            .await;
    }
    if keeps.keeps_part(Part::Deletions) {
        suite.deletes(&mut digests).await;
    }
    if keeps.keeps_part(Part::Requests) {
        suite.remembers(&mut digests).await;
    }
    if keeps.keeps_part(Part::Caps) {
        suite.caps(&mut digests).await;
        suite.caps_rivals(&mut digests).await;
    }
    if keeps.keeps_field(Field::Lineage) {
        suite.finds_lineages(&mut digests).await;
    }
    if has_all {
        suite.forgets_requests_of_deleted_keys(&mut digests).await;
    }
}

struct GuardSuite<'s, S> {
    store: &'s S,
    keeps: &'s Keeps,
    account: String,
}

impl<S: ManagedKeyStore> GuardSuite<'_, S> {
    async fn deletes(&self, digests: &mut Digests) {
        let key = self.key(digests);
        let conflict = StoreErrorKind::Conflict;
        self.fails(VERSIONS, &Self::delete(&key), conflict).await;
        self.commit(&Self::create(&key)).await;
        let usage =
            KeyUsage::new(key.id(), self.account.as_str(), UsagePeriod::Day(0)).used_at(NOW);
        if self.keeps.keeps_part(Part::Usage) {
            let batch = UsageBatch::new(*digests.id().as_bytes(), 1, [usage]);
            let batch = batch.expect("the suite's usage can be kept");
            ANSWERS.answer(self.store.record_usage(&batch).await, "record_usage");
        }
        let next = key.clone().with_version(2);
        self.fails(VERSIONS, &Self::delete(&next), conflict).await;
        // A change whose other step fails deletes nothing, and one that deletes twice neither.
        let other = named(digests.next(), "other");
        let mixed = Self::delete(&key).update(Action::UPDATED, &other, other.clone());
        let mixed = mixed.expect("the suite's records can be kept");
        self.fails(ALL_OR_NOTHING, &mixed, conflict).await;
        let twice = Self::delete(&key).delete(Action::PURGED, &key);
        let twice = twice.expect("the suite's records can be kept");
        self.fails(ALL_OR_NOTHING, &twice, conflict).await;
        let found = ANSWERS.answer(self.store.find_committed(&key.id()).await, "find_committed");
        same(ALL_OR_NOTHING, found.as_ref(), &key);

        let delete = Self::delete(&key);
        self.commit(&delete).await;
        for found in [
            ANSWERS.answer(self.store.find(&key.id()).await, "find"),
            ANSWERS.answer(self.store.find_committed(&key.id()).await, "find_committed"),
        ] {
            DELETED.holds(found.is_none(), format_args!("{found:?}"));
        }
        if self.keeps.keeps_part(Part::Usage) {
            let listed = ANSWERS.answer(self.store.find_listed(&key.id()).await, "find_listed");
            DELETED.holds(listed.is_none(), format_args!("{listed:?}"));
        }
        if self.keeps.keeps_part(Part::Trail) {
            let of_key = TrailQuery::new().with_key(key.id());
            let paging = crate::store::Paging::first(10);
            let trail = ANSWERS.answer(self.store.trail(&of_key, &paging).await, "trail");
            let told = trail
                .items
                .iter()
                .map(|it| (it.version, it.action.as_str()));
            let told: Vec<_> = told.collect();
            DELETED.holds(
                told == [(1, "api_key.issued"), (2, "api_key.purged")],
                format_args!("{told:?}"),
            );
            // It is gone for good, for as long as its trail is kept.
            let again = self.store.commit(&Self::create(&key)).await;
            let again = again.map_err(|error| error.kind());
            DELETED.holds(
                again == Err(StoreErrorKind::AlreadyExists),
                format_args!("a deleted record was created again: {again:?}"),
            );
        }
        // A change that is based on what was seen before is a conflict.
        self.fails(DELETED, &Self::delete(&key), conflict).await;
        let update = Change::new(Actor::default(), NOW).update(Action::UPDATED, &key, key.clone());
        let update = update.expect("the suite's records can be kept");
        self.fails(DELETED, &update, conflict).await;
    }

    async fn remembers(&self, digests: &mut Digests) {
        let id = hash(digests);
        let find = async || ANSWERS.answer(self.store.find_request(&id).await, "find_request");
        let unknown = find().await;
        REQUESTS.holds(unknown.is_none(), format_args!("{unknown:?}"));
        let (first, change) = self.issue(digests, id, None);
        self.commit(&change).await;
        let request = IssueRequest::new(id, [7; 32], first.id(), NOW);
        let found = find().await;
        REQUESTS.holds(found.as_ref() == Some(&request), format_args!("{found:?}"));
        // A second key for the same request, and a replacement of another key than the first.
        let exists = StoreErrorKind::AlreadyExists;
        let (second, change) = self.issue(digests, id, None);
        self.fails(REQUESTS, &change, exists).await;
        let (_, change) = self.issue(digests, id, Some(&second));
        self.fails(REQUESTS, &change, StoreErrorKind::Conflict)
            .await;
        let other = hash(digests);
        let (_, change) = self.issue(digests, other, Some(&first));
        self.fails(REQUESTS, &change, StoreErrorKind::Conflict)
            .await;
        let found = find().await;
        REQUESTS.holds(found.as_ref() == Some(&request), format_args!("{found:?}"));
        let (third, change) = self.issue(digests, id, Some(&first));
        self.commit(&change).await;
        let found = find().await.map(|request| request.key);
        REQUESTS.holds(found == Some(third.id()), format_args!("{found:?}"));
        // Of rivals with one request, one is carried out.
        let id = hash(digests);
        let rivals: Vec<_> = (0..RIVALS).map(|_| self.issue(digests, id, None)).collect();
        let outcomes = join_all(rivals.iter().map(|(_, change)| self.store.commit(change))).await;
        let winner = outcomes.iter().position(Result::is_ok);
        let others = outcomes.iter().filter_map(|outcome| outcome.as_ref().err());
        let others: Vec<_> = others.map(StoreError::kind).collect();
        REQUESTS.holds(others == [exists; RIVALS - 1], format_args!("{others:?}"));
        for (at, (record, _)) in rivals.iter().enumerate() {
            let found = self.store.find_committed(&record.id()).await;
            let found = ANSWERS.answer(found, "find_committed");
            REQUESTS.holds(
                found.is_some() == (Some(at) == winner),
                format_args!("{found:?}"),
            );
        }
    }

    async fn forgets_requests_of_deleted_keys(&self, digests: &mut Digests) {
        let id = hash(digests);
        let (first, change) = self.issue(digests, id, None);
        self.commit(&change).await;
        let (second, change) = self.issue(digests, id, Some(&first));
        self.commit(&change).await;
        self.commit(&Self::delete(&first)).await;
        let found = ANSWERS.answer(self.store.find_request(&id).await, "find_request");
        let found = found.map(|request| request.key);
        REQUESTS.holds(found == Some(second.id()), format_args!("{found:?}"));
        self.commit(&Self::delete(&second)).await;
        let found = ANSWERS.answer(self.store.find_request(&id).await, "find_request");
        REQUESTS.holds(found.is_none(), format_args!("{found:?}"));
    }

    async fn finds_lineages(&self, digests: &mut Digests) {
        let first = self.key(digests);
        let [second, third, other] = [(); 3].map(|()| self.key(digests));
        let [second, third] = [second, third].map(|key| key.with_lineage(first.id()));
        let expect = async |expected: &[&KeyRecord]| {
            let found = self.store.find_lineage(&first.id()).await;
            let found = ANSWERS.answer(found, "find_lineage");
            let has_all = expected.iter().all(|key| found.contains(key));
            LINEAGES.holds(
                has_all && found.len() == expected.len(),
                format_args!("{found:?} instead of {expected:?}"),
            );
        };
        expect(&[]).await;
        for key in [&first, &other] {
            self.commit(&Self::create(key)).await;
        }
        expect(&[&first]).await;
        for key in [&second, &third] {
            self.commit(&Self::create(key)).await;
        }
        expect(&[&first, &second, &third]).await;
        if self.keeps.keeps_part(Part::Deletions) {
            self.commit(&Self::delete(&first)).await;
            expect(&[&second, &third]).await;
        }
    }

    async fn caps(&self, digests: &mut Digests) {
        let suite = Self {
            account: format!("capped {}", digests.id()),
            ..*self
        };
        let reached = StoreErrorKind::CapReached;
        suite
            .fails(CAPPED, &suite.capped(digests, 0), reached)
            .await;
        let change = suite.capped(digests, 1);
        suite.commit(&change).await;
        suite
            .fails(CAPPED, &suite.capped(digests, 1), reached)
            .await;
        // Dead keys do not count, and suspended ones do.
        let later = NOW + Duration::from_secs(1);
        let states: [fn(KeyRecord) -> KeyRecord; 3] = [
            |key| key.with_expires_at(NOW),
            |key| key.with_revoked(Revocation::new(NOW)),
            |key| key.with_revoked(Revocation::new(NOW)).with_expires_at(NOW),
        ];
        for state in states {
            suite
                .commit(&Self::create(&state(suite.key(digests))))
                .await;
        }
        suite
            .fails(CAPPED, &suite.capped(digests, 1), reached)
            .await;
        suite.commit(&suite.capped(digests, 2)).await;
        let ending = suite.key(digests).with_expires_at(later);
        let change = suite.with_cap(Self::create(&ending), 3);
        suite.commit(&change).await;
        suite
            .fails(CAPPED, &suite.capped(digests, 3), reached)
            .await;
        if suite.keeps.keeps_field(Field::Suspension) {
            let suspended = ending.clone().with_suspended(Suspension::new(NOW));
            suite.commit(&Self::update(&ending, suspended)).await;
            suite
                .fails(CAPPED, &suite.capped(digests, 3), reached)
                .await;
        }
        // An account that is above its cap may change what it has.
        let renamed = ending.clone().with_name("renamed");
        let seen = ending
            .clone()
            .with_version(if suite.keeps.keeps_field(Field::Suspension) {
                2
            } else {
                1
            });
        let update = suite.with_cap(Self::update(&seen, renamed), 1);
        suite.commit(&update).await;
        // Other accounts are not counted.
        suite.commit(&self.capped(digests, 1_000)).await;
        if !self.keeps.keeps_field(Field::Lineage) {
            return;
        }
        // A key and its successor count once, also when either of them is revoked.
        let [old, new] = [suite.key(digests), suite.key(digests)];
        let change = suite.with_cap(Self::create(&old), 4);
        suite.commit(&change).await;
        let new = new.with_lineage(old.id());
        let rotated = old.clone().with_rotated_to(Rotation::new(new.id(), NOW));
        let rotated = suite.keeps.cut(rotated);
        let rotation = Self::create(&new).update(Action::ROTATED, &old, rotated.clone());
        let rotation = rotation.expect("the suite's records can be kept");
        suite.commit(&suite.with_cap(rotation, 4)).await;
        suite
            .fails(CAPPED, &suite.capped(digests, 4), reached)
            .await;
        let revoke = |key: KeyRecord| key.with_revoked(Revocation::new(NOW));
        suite.commit(&Self::update(&new, revoke(new.clone()))).await;
        suite
            .fails(CAPPED, &suite.capped(digests, 4), reached)
            .await;
        let rotated = rotated.with_version(2);
        suite
            .commit(&Self::update(&rotated, revoke(rotated.clone())))
            .await;
        suite.commit(&suite.capped(digests, 4)).await;
    }

    async fn caps_rivals(&self, digests: &mut Digests) {
        const MOST: usize = 7;
        let suite = Self {
            account: format!("contested {}", digests.id()),
            ..*self
        };
        let most = u32::try_from(MOST).unwrap_or_default();
        let rivals: Vec<_> = (0..RIVALS).map(|_| suite.capped(digests, most)).collect();
        let outcomes = join_all(rivals.iter().map(|change| self.store.commit(change))).await;
        let others = outcomes.iter().filter_map(|outcome| outcome.as_ref().err());
        let others: Vec<_> = others.map(StoreError::kind).collect();
        CAPPED.holds(
            others == [StoreErrorKind::CapReached; RIVALS - MOST],
            format_args!("{others:?}"),
        );
    }

    fn key(&self, digests: &mut Digests) -> KeyRecord {
        KeyRecord::imported(digests.next(), self.account.as_str()).with_name("key")
    }

    fn create(key: &KeyRecord) -> Change {
        let change = Change::new(Actor::service("conformance"), NOW);
        let change = change.create(Action::ISSUED, key.clone());
        change.expect("the suite's records can be kept")
    }

    fn update(seen: &KeyRecord, key: KeyRecord) -> Change {
        let change = Change::new(Actor::service("conformance"), NOW);
        let change = change.update(Action::UPDATED, seen, key);
        change.expect("the suite's records can be kept")
    }

    fn delete(seen: &KeyRecord) -> Change {
        let change = Change::new(Actor::service("conformance"), NOW);
        let change = change.delete(Action::PURGED, seen);
        change.expect("the suite's records can be kept")
    }

    /// Returns a new key with the change that creates it for a request.
    fn issue(
        &self,
        digests: &mut Digests,
        id: [u8; 32],
        replaces: Option<&KeyRecord>,
    ) -> (KeyRecord, Change) {
        let key = self.key(digests);
        let request = IssueRequest::new(id, [7; 32], key.id(), NOW);
        let change = Self::create(&key);
        let change = change.add_request(request, replaces.map(KeyRecord::id));
        (key, change.expect("the suite's requests can be kept"))
    }

    fn with_cap(&self, change: Change, most: u32) -> Change {
        let change = change.add_cap(AccountCap::new(self.account.as_str(), most, NOW));
        change.expect("the suite's caps can be kept")
    }

    /// Returns a change that creates a key under a cap.
    fn capped(&self, digests: &mut Digests, most: u32) -> Change {
        self.with_cap(Self::create(&self.key(digests)), most)
    }

    async fn commit(&self, change: &Change) {
        ANSWERS.answer(self.store.commit(change).await, "commit");
    }

    /// Checks that a change fails, and creates nothing.
    async fn fails(&self, promise: Promise, change: &Change, expected: StoreErrorKind) {
        let outcome = self.store.commit(change).await;
        let outcome = outcome.map_err(|error| error.kind());
        promise.holds(
            outcome == Err(expected),
            format_args!("{outcome:?} instead of {expected:?}"),
        );
        for record in change.records().filter(|record| record.version() == 1) {
            let found = self.store.find_committed(&record.id()).await;
            let found = ANSWERS.answer(found, "find_committed");
            ALL_OR_NOTHING.holds(found.is_none(), format_args!("{found:?}"));
        }
    }
}

/// Returns 32 bytes that are new in each call.
fn hash(digests: &mut Digests) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..16].copy_from_slice(digests.id().as_bytes());
    bytes[16..].copy_from_slice(digests.id().as_bytes());
    bytes
}
