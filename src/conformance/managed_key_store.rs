//! The suite for stores in which keys are issued and changed.

use std::time::UNIX_EPOCH;

use crate::conformance::keeps::{Field, Keeps};
use crate::conformance::key_store::key_store;
use crate::conformance::promise::Promise;
use crate::conformance::records::{Digests, all_kinds, full, named, same, with_nanoseconds};
use crate::conformance::{
    events, first_use, guards, lists, profiles, trails, usage, usage_reports,
};
use crate::key::containment::Revocation;
use crate::key::digest::KeyId;
use crate::key::record::{KeyRecord, Rotation};
use crate::store::{Action, Actor, Change, ManagedKeyStore, StoreError, StoreErrorKind};
use crate::util::join_all::join_all;

const ANSWERS: Promise = Promise("a live store answers");
const FOUND: Promise = Promise("a record is found as it was committed");
const CREATED_ONCE: Promise = Promise("a record that exists is not created again");
const VERSIONS: Promise = Promise("an update of another version than the one before is a conflict");
const REPLACED: Promise = Promise("an update replaces the whole record");
const ALL_OR_NOTHING: Promise = Promise("a change is carried out whole, or not at all");
const NAMED_ONCE: Promise = Promise("one change names each record once");
const ONE_CREATES: Promise = Promise("of creates of one id at once, exactly one is carried out");
const ONE_UPDATES: Promise =
    Promise("of updates of one version at once, exactly one is carried out");
const DISTINCT: Promise = Promise("records of different ids are different records");
const READABLE: Promise = Promise("a revoked record stays readable");
const REFUSED: Promise = Promise("a record with a field that is not kept is refused");

/// The number of concurrent writers of the same record.
const RIVALS: usize = 12;

/// Tests a [`ManagedKeyStore`].
///
/// - The promises of [`key_store`], for records with all fields and for nearly empty ones: empty,
///   non-ASCII and long texts; times from 1970 to the year 9999, to the microsecond.
/// - A committed record is found at once. An existing record is not created again
///   ([`AlreadyExists`](StoreErrorKind::AlreadyExists)). An update replaces the whole record. An
///   update of a missing record, or not of the preceding version, is a
///   [`Conflict`](StoreErrorKind::Conflict). A failed change has no effect.
/// - A change of several records is committed as a whole or not at all, and contains each record
///   once.
/// - Exactly one of several concurrent writers creates a record, or updates a version. The others
///   get the errors above, even if their changes list the same records in another order.
/// - Similar ids are different ids. A revoked record stays readable.
/// - Lists contain each key once, in the requested order and state, page by page, even while keys
///   change. The trail has one record per write, and none of a failed change. Events are read once,
///   in order. A batch of usage is recorded once, and changes nothing but usage.
/// - A profile is saved in the version that follows the kept one, and is deleted with its key.
/// - A deleted key is gone, and its trail stays. A request for a key is remembered once. Of
///   concurrent writers under a cap on the keys of an account, as many succeed as it allows.
///
/// The suite leaves a few hundred records behind. Concurrent writers are futures of one task: they
/// interleave only if the store waits for its backend.
///
/// # Panics
/// If a promise is broken, or the store fails.
pub async fn managed_key_store<S: ManagedKeyStore>(store: &S) {
    managed_key_store_keeping(store, &Keeps::everything()).await;
}

/// Tests a [`ManagedKeyStore`] that does not keep everything, like [`managed_key_store`]. The store
/// must refuse everything that is declared not to be kept.
///
/// # Panics
/// If a promise is broken, or the store fails.
pub async fn managed_key_store_keeping<S: ManagedKeyStore>(store: &S, keeps: &Keeps) {
    let suite = StoreSuite { store, keeps };
    let mut digests = Digests::new();
    suite.refuses_fields_left_out(&mut digests).await;
    suite.records_come_back(&mut digests).await;
    suite.creates_once(&mut digests).await;
    suite.updates_by_version(&mut digests).await;
    suite.updates_replace(&mut digests).await;
    suite.all_or_nothing(&mut digests).await;
    suite.names_once(&mut digests).await;
    suite.one_creates(&mut digests).await;
    suite.one_updates(&mut digests).await;
    suite.one_changes_several(&mut digests).await;
    suite.one_rotates(&mut digests).await;
    suite.ids_are_distinct(&mut digests).await;
    suite.revoked_stays_readable(&mut digests).await;
    lists::suite(store, keeps).await;
    trails::suite(store, keeps).await;
    events::suite(store, keeps).await;
    usage::suite(store, keeps).await;
    usage_reports::suite(store, keeps).await;
    first_use::suite(store, keeps).await;
    guards::suite(store, keeps).await;
    profiles::suite(store, keeps).await;
}

/// A change of records that every store can keep.
struct Writes(Change);

impl Writes {
    fn new() -> Self {
        Self(Change::new(Actor::service("conformance"), UNIX_EPOCH))
    }

    fn create(self, record: KeyRecord) -> Self {
        let change = self.0.create(Action::ISSUED, record);
        Self(change.expect("the suite's records can be kept"))
    }

    /// Updates the version that precedes that of the record.
    fn update(self, record: KeyRecord) -> Self {
        let seen = record.clone().with_version(record.version() - 1);
        let change = self.0.update(Action::UPDATED, &seen, record);
        Self(change.expect("the suite's records can be kept"))
    }
}

struct StoreSuite<'s, S> {
    store: &'s S,
    keeps: &'s Keeps,
}

impl<S: ManagedKeyStore> StoreSuite<'_, S> {
    async fn refuses_fields_left_out(&self, digests: &mut Digests) {
        let full = full(digests, UNIX_EPOCH);
        for field in self.keeps.fields_left_out() {
            // A record with this field, and none of the other optional fields.
            let others = Field::ALL.into_iter().filter(|other| other != field);
            let record = others.fold(full.clone(), |record, other| other.clear(record));
            let refused = self.commit(Writes::new().create(record.clone())).await;
            fails(REFUSED, refused, StoreErrorKind::Refused);
            self.is_not_kept(REFUSED, record.id()).await;
        }
    }

    async fn records_come_back(&self, digests: &mut Digests) {
        let mut records = all_kinds(digests);
        records.push(with_nanoseconds(digests));
        let records = records.into_iter().map(|record| self.keeps.cut(record));
        let records: Vec<_> = records.collect();
        for record in &records {
            self.create(record).await;
            self.is_kept(FOUND, record).await;
        }
        key_store(self.store, &records).await;
    }

    async fn creates_once(&self, digests: &mut Digests) {
        let digest = digests.next();
        let first = named(digest, "first");
        self.create(&first).await;
        let second = named(digest, "second");
        for again in [first.clone(), second.clone(), second.with_version(2)] {
            let refused = self.commit(Writes::new().create(again)).await;
            fails(CREATED_ONCE, refused, StoreErrorKind::AlreadyExists);
            self.is_kept(CREATED_ONCE, &first).await;
        }
    }

    async fn updates_by_version(&self, digests: &mut Digests) {
        let digest = digests.next();
        let first = named(digest, "first").with_version(5);
        let nobody = self.update(&first.clone().with_version(6)).await;
        fails(VERSIONS, nobody, StoreErrorKind::Conflict);
        self.is_not_kept(VERSIONS, first.id()).await;
        self.create(&first).await;
        for version in [1, 4, 5, 7, u64::MAX >> 1] {
            let wrong = named(digest, "wrong").with_version(version);
            fails(
                VERSIONS,
                self.update(&wrong).await,
                StoreErrorKind::Conflict,
            );
            self.is_kept(VERSIONS, &first).await;
        }
        for version in [6, 7] {
            let next = named(digest, "next").with_version(version);
            VERSIONS.answer(self.update(&next).await, "an update of the version before");
            self.is_kept(FOUND, &next).await;
        }
        let stale = self.update(&first.with_version(6)).await;
        fails(VERSIONS, stale, StoreErrorKind::Conflict);
    }

    async fn updates_replace(&self, digests: &mut Digests) {
        let set = self.keeps.cut(full(digests, UNIX_EPOCH));
        let bare = KeyRecord::new(set.id(), set.verifier().clone(), "acme");
        self.create(&bare).await;
        let mut version = 1;
        for next in [set, bare] {
            version += 1;
            let next = next.with_version(version);
            REPLACED.answer(self.update(&next).await, "update");
            self.is_kept(REPLACED, &next).await;
        }
    }

    async fn all_or_nothing(&self, digests: &mut Digests) {
        let [one, other] = [digests.next(), digests.next()];
        let kept = [named(one, "kept"), named(other, "kept")];
        let both = Writes::new()
            .create(kept[0].clone())
            .create(kept[1].clone());
        ALL_OR_NOTHING.answer(self.commit(both).await, "two creates");
        let right = |digest| named(digest, "changed").with_version(2);
        let stale = |digest| named(digest, "changed").with_version(3);
        let new = |digests: &mut Digests| named(digests.next(), "new");
        let [first, last, third, fourth] = [(); 4].map(|()| new(digests));
        let (exists, conflict) = (StoreErrorKind::AlreadyExists, StoreErrorKind::Conflict);
        let changes = [
            (
                Writes::new().create(first.clone()).create(kept[0].clone()),
                exists,
            ),
            (
                Writes::new().create(kept[0].clone()).create(last.clone()),
                exists,
            ),
            (
                Writes::new().create(kept[0].clone()).update(right(other)),
                exists,
            ),
            (
                Writes::new().create(third.clone()).update(stale(one)),
                conflict,
            ),
            (
                Writes::new().update(right(one)).update(stale(other)),
                conflict,
            ),
            (
                Writes::new().update(stale(one)).update(right(other)),
                conflict,
            ),
            (
                Writes::new()
                    .update(right(one))
                    .update(fourth.clone().with_version(2)),
                conflict,
            ),
        ];
        for (change, kind) in changes {
            fails(ALL_OR_NOTHING, self.commit(change).await, kind);
            for new in [&first, &last, &third, &fourth] {
                self.is_not_kept(ALL_OR_NOTHING, new.id()).await;
            }
            for record in &kept {
                self.is_kept(ALL_OR_NOTHING, record).await;
            }
        }
        let (one, other) = (right(one), right(other));
        let all = Writes::new()
            .create(first.clone())
            .update(one.clone())
            .create(last.clone())
            .update(other.clone());
        ALL_OR_NOTHING.answer(self.commit(all).await, "two creates and two updates");
        for record in [&first, &last, &one, &other] {
            self.is_kept(ALL_OR_NOTHING, record).await;
        }
    }

    async fn names_once(&self, digests: &mut Digests) {
        let (new, kept) = (digests.next(), digests.next());
        let record = named(kept, "kept");
        self.create(&record).await;
        let next = |version| named(kept, "next").with_version(version);
        let changes = [
            Writes::new()
                .create(named(new, "one"))
                .create(named(new, "other")),
            Writes::new()
                .create(named(new, "one"))
                .update(named(new, "other").with_version(2)),
            Writes::new().update(next(2)).update(next(2)),
            Writes::new().update(next(2)).update(next(3)),
        ];
        for change in changes {
            let refused = self.commit(change).await.map_err(|error| error.kind());
            let expected = [StoreErrorKind::AlreadyExists, StoreErrorKind::Conflict];
            NAMED_ONCE.holds(
                refused.is_err_and(|kind| expected.contains(&kind)),
                format_args!("a second time is {refused:?}"),
            );
            self.is_not_kept(NAMED_ONCE, new.id()).await;
            self.is_kept(NAMED_ONCE, &record).await;
        }
    }

    async fn one_creates(&self, digests: &mut Digests) {
        let digest = digests.next();
        let rivals: Vec<_> = rivals(|name| named(digest, name));
        let changes = rivals
            .iter()
            .map(|record| Writes::new().create(record.clone()));
        let winner = self
            .one_wins(ONE_CREATES, changes, StoreErrorKind::AlreadyExists)
            .await;
        self.is_kept(ONE_CREATES, &rivals[winner]).await;
    }

    async fn one_updates(&self, digests: &mut Digests) {
        let digest = digests.next();
        self.create(&named(digest, "first")).await;
        let rivals: Vec<_> = rivals(|name| named(digest, name).with_version(2));
        let changes = rivals
            .iter()
            .map(|record| Writes::new().update(record.clone()));
        let winner = self
            .one_wins(ONE_UPDATES, changes, StoreErrorKind::Conflict)
            .await;
        self.is_kept(ONE_UPDATES, &rivals[winner]).await;
    }

    /// Concurrent changes of the same two records, in both orders.
    async fn one_changes_several(&self, digests: &mut Digests) {
        let (one, other) = (digests.next(), digests.next());
        self.create(&named(one, "first")).await;
        self.create(&named(other, "first")).await;
        let rivals: Vec<_> =
            rivals(|name| [one, other].map(|digest| named(digest, name).with_version(2)));
        let changes = rivals.iter().enumerate().map(|(at, [one, other])| {
            let (first, second) = if at % 2 == 0 {
                (one, other)
            } else {
                (other, one)
            };
            Writes::new().update(first.clone()).update(second.clone())
        });
        let winner = self
            .one_wins(ONE_UPDATES, changes, StoreErrorKind::Conflict)
            .await;
        for record in &rivals[winner] {
            self.is_kept(ALL_OR_NOTHING, record).await;
        }
    }

    /// Concurrent rotations: each creates a successor, and updates the predecessor.
    async fn one_rotates(&self, digests: &mut Digests) {
        let digest = digests.next();
        self.create(&named(digest, "first")).await;
        let rivals: Vec<_> = rivals(|name| {
            let successor = named(digests.next(), name).with_rotated_from(digest.id());
            let rotation = Rotation::new(successor.id(), UNIX_EPOCH);
            let predecessor = named(digest, name)
                .with_version(2)
                .with_rotated_to(rotation);
            (self.keeps.cut(successor), self.keeps.cut(predecessor))
        });
        let changes = rivals.iter().map(|(successor, predecessor)| {
            Writes::new()
                .create(successor.clone())
                .update(predecessor.clone())
        });
        let winner = self
            .one_wins(ONE_UPDATES, changes, StoreErrorKind::Conflict)
            .await;
        self.is_kept(ONE_UPDATES, &rivals[winner].1).await;
        for (at, (successor, _)) in rivals.iter().enumerate() {
            if at == winner {
                self.is_kept(ALL_OR_NOTHING, successor).await;
            } else {
                self.is_not_kept(ALL_OR_NOTHING, successor.id()).await;
            }
        }
    }

    async fn ids_are_distinct(&self, digests: &mut Digests) {
        let near = digests.near_each_other();
        let records = near
            .into_iter()
            .map(|digest| named(digest, &digest.to_hex()));
        let records: Vec<_> = records.collect();
        for record in &records {
            self.is_not_kept(DISTINCT, record.id()).await;
            let created = self.commit(Writes::new().create(record.clone())).await;
            DISTINCT.answer(created, "create");
        }
        let changed = records[0].clone().with_name("changed").with_version(2);
        DISTINCT.answer(self.update(&changed).await, "update");
        self.is_kept(DISTINCT, &changed).await;
        for record in &records[1..] {
            self.is_kept(DISTINCT, record).await;
        }
    }

    async fn revoked_stays_readable(&self, digests: &mut Digests) {
        let digest = digests.next();
        self.create(&named(digest, "key")).await;
        let revoked = named(digest, "key")
            .with_expires_at(UNIX_EPOCH)
            .with_revoked(Revocation::new(UNIX_EPOCH).with_reason("leaked".to_owned()))
            .with_version(2);
        READABLE.answer(self.update(&revoked).await, "update");
        self.is_kept(READABLE, &revoked).await;
        let renamed = revoked.with_name("renamed").with_version(3);
        READABLE.answer(self.update(&renamed).await, "update");
        self.is_kept(READABLE, &renamed).await;
    }

    /// Commits all changes concurrently, and returns the index of the one that succeeded. The
    /// others must fail with this error.
    async fn one_wins(
        &self,
        promise: Promise,
        changes: impl Iterator<Item = Writes>,
        others: StoreErrorKind,
    ) -> usize {
        let outcomes = join_all(changes.map(|change| self.commit(change))).await;
        let outcomes: Vec<_> = outcomes
            .into_iter()
            .map(|outcome| outcome.map_err(|error| error.kind()))
            .collect();
        let winners = outcomes.iter().filter(|outcome| outcome.is_ok());
        let expected =
            |outcome: &Result<(), StoreErrorKind>| matches!(outcome, Err(kind) if *kind != others);
        promise.holds(
            winners.count() == 1 && !outcomes.iter().any(expected),
            format_args!("{outcomes:?}"),
        );
        let winner = outcomes.iter().position(Result::is_ok);
        winner.unwrap_or_default()
    }

    async fn commit(&self, writes: Writes) -> Result<(), StoreError> {
        self.store.commit(&writes.0).await
    }

    async fn create(&self, record: &KeyRecord) {
        let created = self.commit(Writes::new().create(record.clone())).await;
        ANSWERS.answer(created, "create");
    }

    async fn update(&self, record: &KeyRecord) -> Result<(), StoreError> {
        self.commit(Writes::new().update(record.clone())).await
    }

    async fn is_kept(&self, promise: Promise, record: &KeyRecord) {
        let committed = self.store.find_committed(&record.id()).await;
        let committed = ANSWERS.answer(committed, "find_committed");
        same(promise, committed.as_ref(), record);
        let found = ANSWERS.answer(self.store.find(&record.id()).await, "find");
        same(promise, found.as_ref(), record);
    }

    async fn is_not_kept(&self, promise: Promise, id: KeyId) {
        let committed = self.store.find_committed(&id).await;
        let committed = ANSWERS.answer(committed, "find_committed");
        let found = ANSWERS.answer(self.store.find(&id).await, "find");
        for found in [committed, found] {
            promise.holds(
                found.is_none(),
                format_args!("{id} is kept, which nobody created: {found:?}"),
            );
        }
    }
}

fn rivals<T>(mut rival: impl FnMut(&str) -> T) -> Vec<T> {
    (0..RIVALS)
        .map(|at| rival(&format!("rival {at}")))
        .collect()
}

fn fails(promise: Promise, outcome: Result<(), StoreError>, expected: StoreErrorKind) {
    let outcome = outcome.map_err(|error| error.kind());
    promise.holds(
        outcome == Err(expected),
        format_args!("{outcome:?} instead of {expected:?}"),
    );
}
