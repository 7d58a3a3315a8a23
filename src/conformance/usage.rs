//! The suite for stores that record usage.

use std::net::IpAddr;
use std::time::{Duration, UNIX_EPOCH};

use crate::conformance::keeps::{Keeps, Part};
use crate::conformance::lists;
use crate::conformance::promise::Promise;
use crate::conformance::records::{Digests, named, near, same};
use crate::key::digest::KeyId;
use crate::key::record::KeyRecord;
use crate::store::{
    Action, Actor, Change, KeyOrder, KeyQuery, KeyUsage, ListedKey, ManagedKeyStore, StoreError,
    StoreErrorKind, UsageBatch, UsagePeriod,
};
use crate::util::join_all::join_all;

const ANSWERS: Promise = Promise("a live store answers");
const REFUSED: Promise = Promise("what is not kept is refused");
const ONCE: Promise = Promise("a batch of usage is recorded once");
const IN_ORDER: Promise = Promise("a batch that follows none of its node is a conflict");
const MONOTONIC: Promise = Promise("the last use never goes back, and the first never forward");
const PERIODS: Promise = Promise("the uses of all periods of a batch are uses of the key");
const USAGE_ONLY: Promise = Promise("usage changes nothing but usage");
const ADDRESS: Promise = Promise("the address is that of the last use with one, or none is kept");
const UNKNOWN: Promise = Promise("usage of a key that does not exist is left out");
const BY_ID: Promise = Promise("a key is found with its uses as it is listed");
const ORDERED: Promise = Promise("keys that were never used are listed before the least used");

pub(super) async fn suite<S: ManagedKeyStore>(store: &S, keeps: &Keeps) {
    let mut digests = Digests::new();
    let node = *digests.id().as_bytes();
    if !keeps.keeps_part(Part::Usage) {
        let batch = UsageBatch::new(node, 1, Vec::new());
        let batch = batch.expect("the suite's usage can be kept");
        let refused = store.record_usage(&batch).await;
        let refused = refused.map_err(|error| error.kind());
        REFUSED.holds(
            refused == Err(StoreErrorKind::Refused),
            format_args!("{refused:?}"),
        );
        let listed = store.find_listed(&digests.id()).await;
        let listed = listed.map_err(|error| error.kind());
        REFUSED.holds(
            listed == Err(StoreErrorKind::Refused),
            format_args!("{listed:?}"),
        );
        return;
    }
    let suite = UsageSuite {
        store,
        reads: keeps.keeps_part(Part::Lists),
        account: format!("acme {}", digests.id()),
    };
    let keys: Vec<KeyRecord> = ["never", "late", "early"]
        .map(|name| KeyRecord::imported(digests.next(), suite.account.as_str()).with_name(name))
        .into();
    for key in &keys {
        suite.create(key).await;
    }
    let [_, late, early] = [0, 1, 2].map(|at: usize| keys[at].id());
    let unknown = named(digests.next(), "unknown").id();

    suite
        .records(node, 7, &[(late, 50, 60), (unknown, 50, 60)])
        .await;
    suite.is_used(MONOTONIC, late, Some((50, 60))).await;
    suite.is_used(UNKNOWN, unknown, None).await;
    // The batch is sent again after a lost response, or an older batch arrives late.
    for number in [7, 6, 1] {
        suite.records(node, number, &[(late, 10, 90)]).await;
        suite.is_used(ONCE, late, Some((50, 60))).await;
    }
    for number in [9, 10, u64::MAX >> 1] {
        let skipped = suite.record(node, number, &[(late, 10, 90)]).await;
        let skipped = skipped.map_err(|error| error.kind());
        IN_ORDER.holds(
            skipped == Err(StoreErrorKind::Conflict),
            format_args!("{skipped:?}"),
        );
        suite.is_used(IN_ORDER, late, Some((50, 60))).await;
    }
    suite
        .records(node, 8, &[(early, 20, 30), (late, 55, 58)])
        .await;
    suite.is_used(MONOTONIC, late, Some((50, 60))).await;
    suite.is_used(MONOTONIC, early, Some((20, 30))).await;
    // The same batch twice at once, as if a time limit ended before the response.
    let uses = [(early, 20, 35)];
    let twice = [(), ()].map(|()| suite.record(node, 9, &uses));
    for recorded in join_all(twice).await {
        ANSWERS.answer(recorded, "record_usage");
    }
    suite.is_used(ONCE, early, Some((20, 35))).await;
    // Another node has its own numbers.
    let other = *digests.id().as_bytes();
    suite.records(other, 1, &[(late, 40, 70)]).await;
    suite.is_used(MONOTONIC, late, Some((40, 70))).await;
    let apart = UsageSuite {
        account: format!("globex {}", digests.id()),
        ..suite
    };
    apart.adds_up_periods(&mut digests).await;
    apart.keeps_addresses(&mut digests).await;

    for key in &keys {
        let found = ANSWERS.answer(store.find_committed(&key.id()).await, "find_committed");
        same(USAGE_ONLY, found.as_ref(), key);
    }
    if suite.reads {
        let query = suite.query().with_order(KeyOrder::LeastRecentlyUsed);
        let listed = ANSWERS.answer(lists::read(store, &query, 1).await, "list");
        let names: Vec<_> = listed.iter().map(|listed| listed.record.name()).collect();
        ORDERED.holds(
            names == [Some("never"), Some("early"), Some("late")],
            format_args!("{names:?}"),
        );
    }
}

struct UsageSuite<'s, S> {
    store: &'s S,
    /// `true` if recorded usage can be read back.
    reads: bool,
    account: String,
}

impl<S: ManagedKeyStore> UsageSuite<'_, S> {
    fn query(&self) -> KeyQuery {
        KeyQuery::new().with_account(self.account.clone())
    }

    async fn create(&self, key: &KeyRecord) {
        let change = Change::new(Actor::service("conformance"), UNIX_EPOCH);
        let change = change.create(Action::ISSUED, key.clone());
        let change = change.expect("the suite's records can be kept");
        ANSWERS.answer(self.store.commit(&change).await, "commit");
    }

    /// The uses of a key in several periods of a batch: the first may be in one, and the last in
    /// another.
    async fn adds_up_periods(&self, digests: &mut Digests) {
        let key = KeyRecord::imported(digests.next(), self.account.as_str());
        self.create(&key).await;
        let periods = [
            (UsagePeriod::Day(0), 30, 40),
            (UsagePeriod::Day(1), 10, 20),
            (UsagePeriod::Hour(2), 50, 60),
            (UsagePeriod::Hour(3), 35, 45),
        ];
        let usage = periods.map(|(period, first, last)| {
            let usage = KeyUsage::new(key.id(), self.account.as_str(), period);
            usage.used_at(second(first)).used_at(second(last))
        });
        let batch = UsageBatch::new(*digests.id().as_bytes(), 1, usage);
        let batch = batch.expect("the suite's usage can be kept");
        ANSWERS.answer(self.store.record_usage(&batch).await, "record_usage");
        self.is_used(PERIODS, key.id(), Some((10, 60))).await;
    }

    /// Uses with and without addresses, in batches that come early and late.
    async fn keeps_addresses(&self, digests: &mut Digests) {
        let key = KeyRecord::imported(digests.next(), self.account.as_str());
        self.create(&key).await;
        let node = *digests.id().as_bytes();
        let [one, other, third] = [1, 2, 3].map(|last| Some(IpAddr::from([192, 0, 2, last])));
        let mut kept = Vec::new();
        for (number, (at, address)) in
            (1..).zip([(20, one), (30, None), (25, other), (10, other), (40, third)])
        {
            let usage = KeyUsage::new(key.id(), self.account.as_str(), UsagePeriod::Day(0));
            let mut usage = usage.used_at(second(at));
            usage.counts.allowed = 1;
            if let Some(used) = &mut usage.used {
                used.last_address = address;
            }
            let batch = UsageBatch::new(node, number, [usage]);
            let batch = batch.expect("the suite's usage can be kept");
            ANSWERS.answer(self.store.record_usage(&batch).await, "record_usage");
            if self.reads {
                let found = self.store.find_listed(&key.id()).await;
                let found = ANSWERS.answer(found, "find_listed");
                kept.push(found.and_then(|listed| listed.last_address));
            }
        }
        let is_kept = kept == [one, one, one, one, third];
        let is_never_kept = kept.iter().all(Option::is_none);
        ADDRESS.holds(is_kept || is_never_kept, format_args!("{kept:?}"));
    }

    async fn record(
        &self,
        node: [u8; 16],
        number: u64,
        uses: &[(KeyId, u64, u64)],
    ) -> Result<(), StoreError> {
        let usage = uses.iter().map(|(key, first, last)| {
            let day = UsagePeriod::Day(0);
            let usage = KeyUsage::new(*key, self.account.as_str(), day);
            let mut usage = usage.used_at(second(*first)).used_at(second(*last));
            usage.counts.allowed = 1;
            usage
        });
        let batch = UsageBatch::new(node, number, usage);
        let batch = batch.expect("the suite's usage can be kept");
        self.store.record_usage(&batch).await
    }

    async fn records(&self, node: [u8; 16], number: u64, uses: &[(KeyId, u64, u64)]) {
        ANSWERS.answer(self.record(node, number, uses).await, "record_usage");
    }

    async fn is_used(&self, promise: Promise, key: KeyId, expected: Option<(u64, u64)>) {
        if !self.reads {
            return;
        }
        let listed = lists::read(self.store, &self.query(), 10).await;
        let listed: Vec<ListedKey> = ANSWERS.answer(listed, "list");
        let listed = listed.iter().find(|listed| listed.record.id() == key);
        let found = self.store.find_listed(&key).await;
        let found = ANSWERS.answer(found, "find_listed");
        BY_ID.holds(
            found.as_ref() == listed,
            format_args!("{found:?} instead of {listed:?}"),
        );
        let (first, last) = listed.map_or((None, None), |it| (it.first_used_at, it.last_used_at));
        let (expected_first, expected_last) = expected.unzip();
        promise.holds(
            near(first, expected_first.map(second)) && near(last, expected_last.map(second)),
            format_args!("{first:?} to {last:?} instead of {expected:?}"),
        );
    }
}

fn second(at: u64) -> std::time::SystemTime {
    UNIX_EPOCH + Duration::from_secs(at)
}
