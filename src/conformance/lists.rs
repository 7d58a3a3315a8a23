//! The suite for stores that list keys.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::conformance::keeps::{Field, Keeps, Part};
use crate::conformance::promise::Promise;
use crate::conformance::records::{Digests, same};
use crate::key::containment::{Revocation, Suspension};
use crate::key::digest::KeyId;
use crate::key::environment::Environment;
use crate::key::record::{KeyRecord, Rotation};
use crate::store::{
    Action, Actor, Change, Cursor, KeyOrder, KeyQuery, KeyState, ListedKey, ManagedKeyStore,
    Paging, StoreError, StoreErrorKind,
};

const ANSWERS: Promise = Promise("a live store answers");
const REFUSED: Promise = Promise("what is not kept is refused to be read");
const NEWEST: Promise = Promise("a list has each key once, the newest first");
const LIMIT: Promise = Promise("a page has no more keys than were asked for");
const ENDS: Promise = Promise("a list ends");
const FILTERED: Promise = Promise("a list has the keys that were asked for, and no others");
const STABLE: Promise = Promise("keys that stay are listed once, also while others change");
const ORDERED: Promise = Promise("a list is in the order that was asked for");
const BETWEEN: Promise = Promise("a list between two ends has each key that ends there, once");
const READABLE: Promise = Promise("a list that leaves out unreadable keys has all others");
const CURSORS: Promise = Promise("a cursor of another list is refused");
const WHOLE: Promise = Promise("a listed key has the whole record");

/// The maximum number of pages of a short list. Pages may be short or empty.
const MOST_PAGES: usize = 10_000;

/// The time when the first key of the suite was issued.
const AT: Duration = Duration::from_secs(1_767_225_600);

const DAY: Duration = Duration::from_secs(86_400);
const MICROSECOND: Duration = Duration::from_micros(1);
const NANOSECOND: Duration = Duration::from_nanos(1);

/// The sizes of pages.
const LIMITS: [u32; 4] = [1, 2, 3, 1_000];

pub(super) async fn suite<S: ManagedKeyStore>(store: &S, keeps: &Keeps) {
    if !keeps.keeps_part(Part::Lists) {
        let refused = store.list(&KeyQuery::new(), &Paging::first(1)).await;
        let refused = refused.map_err(|error| error.kind());
        return REFUSED.holds(
            refused == Err(StoreErrorKind::Refused),
            format_args!("{refused:?}"),
        );
    }
    let mut digests = Digests::new();
    let suite = ListSuite {
        store,
        keeps,
        account: format!("acme {}", digests.id()),
    };
    let keys = suite.keys(&mut digests);
    for (key, at) in keys.iter().zip(0..) {
        suite.create(key, at).await;
    }
    suite.lists_the_newest_first(&keys).await;
    suite.filters(&keys).await;
    suite.orders(&keys).await;
    suite.finds_ends_between(&mut digests).await;
    suite.refuses_foreign_cursors().await;
    suite.stays_stable(&keys, &mut digests).await;
}

struct ListSuite<'s, S> {
    store: &'s S,
    keeps: &'s Keeps,
    account: String,
}

impl<S: ManagedKeyStore> ListSuite<'_, S> {
    /// Creates keys in all states, each issued one second after the previous one.
    fn keys(&self, digests: &mut Digests) -> Vec<KeyRecord> {
        let now = UNIX_EPOCH + AT + DAY;
        let states: [fn(KeyRecord, SystemTime) -> KeyRecord; 11] = [
            |key, _| key,
            |key, now| key.with_expires_at(now + Duration::from_secs(90_000)),
            |key, now| key.with_expires_at(now + Duration::from_secs(60)),
            |key, now| key.with_expires_at(now),
            |key, now| key.with_expires_at(now - Duration::from_secs(60)),
            |key, now| key.with_not_before(now + Duration::from_secs(60)),
            |key, now| key.with_suspended(Suspension::new(now)),
            |key, now| key.with_suspended(Suspension::new(now).with_until(now)),
            |key, now| key.with_revoked(Revocation::new(now - Duration::from_secs(60))),
            |key, now| key.with_revoked(Revocation::new(now)).with_expires_at(now),
            |key, now| {
                let successor = KeyId::from_bytes([1; 16]);
                key.with_rotated_to(Rotation::new(successor, now))
            },
        ];
        let keys = states.iter().zip(0..).map(|(set, at)| {
            let issued_at = UNIX_EPOCH + AT + Duration::from_secs(at);
            let key = KeyRecord::imported(digests.next(), self.account.as_str())
                .with_name(format!("key {at}"))
                .with_created_at(issued_at)
                .with_prefix(if at % 2 == 0 { "sk_live" } else { "sk_test" })
                .with_environment(if at % 2 == 0 {
                    Environment::LIVE
                } else {
                    Environment::TEST
                });
            self.keeps.cut(set(key, now))
        });
        keys.collect()
    }

    async fn lists_the_newest_first(&self, keys: &[KeyRecord]) {
        let expected: Vec<KeyId> = keys.iter().rev().map(KeyRecord::id).collect();
        for limit in LIMITS {
            let listed = self.read(&self.query(), limit).await;
            NEWEST.holds(
                ids(&listed) == expected,
                format_args!("{:?} instead of {expected:?}", ids(&listed)),
            );
            for key in keys {
                let listed = listed.iter().find(|listed| listed.record.id() == key.id());
                same(WHOLE, listed.map(|listed| &listed.record), key);
            }
        }
    }

    async fn filters(&self, keys: &[KeyRecord]) {
        let states = [
            KeyState::Live,
            KeyState::NotYetActive,
            KeyState::Suspended,
            KeyState::Expired,
            KeyState::Revoked,
        ];
        // Times around each change of a state.
        let day = UNIX_EPOCH + AT + DAY;
        let moments = [0, 59, 60, 61, 119, 120, 121, 90_060].map(Duration::from_secs);
        let mut queries = vec![self.query()];
        for moment in moments {
            let at = day - Duration::from_secs(60) + moment;
            queries.extend(states.map(|state| self.query().with_state(state, at)));
        }
        if self.keeps.keeps_field(Field::Prefix) {
            queries.push(self.query().with_prefix("sk_live".to_owned()));
        }
        if self.keeps.keeps_field(Field::Environment) {
            let of_test = self.query().with_environment(Environment::TEST);
            queries.push(of_test.clone().with_state(KeyState::Live, day));
            queries.push(of_test);
        }
        for at in [
            AT,
            AT + Duration::from_secs(4),
            AT + Duration::from_secs(86_400),
        ] {
            let at = UNIX_EPOCH + at;
            for within in [0, 60, 61, 90_001].map(Duration::from_secs) {
                queries.push(self.query().expiring_within(within, at));
            }
            queries.push(self.query().idle_since(at));
            queries.push(self.query().idle_since(at).with_order(KeyOrder::Newest));
            for order in [KeyOrder::Newest, KeyOrder::RecentlyRevoked] {
                queries.push(self.query().revoked_before(at).with_order(order));
            }
            queries.push(self.query().safe_to_remove(Duration::ZERO, at));
        }
        for order in [KeyOrder::Newest, KeyOrder::LeastRecentlyUsed] {
            queries.push(self.query().never_expires().with_order(order));
            queries.push(self.query().rotated_only().with_order(order));
        }
        queries.push(KeyQuery::new().with_account(format!("{} ", self.account)));
        queries.push(KeyQuery::new().with_account(self.account.to_uppercase()));
        for query in queries {
            let expected = keys.iter().rev().filter(|key| {
                let listed = ListedKey::new((*key).clone());
                query.matches(&listed)
            });
            let mut expected: Vec<KeyId> = expected.map(KeyRecord::id).collect();
            let mut listed = ids(&self.read(&query, 4).await);
            if query.order != KeyOrder::Newest {
                expected.sort_by_key(|id| *id.as_bytes());
                listed.sort_by_key(|id| *id.as_bytes());
            }
            FILTERED.holds(
                listed == expected,
                format_args!("{listed:?} instead of {expected:?} for {query:?}"),
            );
        }
    }

    async fn orders(&self, keys: &[KeyRecord]) {
        let query = self.query().with_order(KeyOrder::EndingSoon);
        let ends = |listed: &ListedKey| listed.record.expires_at();
        let listed = self.read(&query, 2).await;
        let expected = keys.iter().filter(|key| key.expires_at().is_some()).count();
        ORDERED.holds(
            listed.len() == expected && listed.is_sorted_by_key(ends),
            format_args!("{:?}", listed.iter().map(ends).collect::<Vec<_>>()),
        );
        let query = self.query().with_order(KeyOrder::RecentlyRevoked);
        let revoked = |listed: &ListedKey| listed.record.revoked().map(|it| it.at);
        let listed = self.read(&query, 1).await;
        let expected = keys.iter().filter(|key| key.revoked().is_some()).count();
        ORDERED.holds(
            listed.len() == expected && listed.iter().rev().is_sorted_by_key(revoked),
            format_args!("{:?}", listed.iter().map(revoked).collect::<Vec<_>>()),
        );
    }

    /// Lists keys by their ends, at and around the bounds: a page may end anywhere among keys that
    /// end at the same time.
    async fn finds_ends_between(&self, digests: &mut Digests) {
        let [from, before] = [2_000, 3_000].map(|days| UNIX_EPOCH + AT + DAY * days);
        let ends = [
            None,
            Some(from - MICROSECOND),
            Some(from),
            Some(from),
            Some(from),
            Some(from + MICROSECOND),
            Some(from + DAY),
            Some(before - MICROSECOND),
            Some(before - MICROSECOND),
            Some(before),
            Some(before + MICROSECOND),
            None,
        ];
        let of_ends = Self {
            account: format!("ends {}", digests.id()),
            ..*self
        };
        let mut keys = Vec::new();
        for (end, at) in ends.into_iter().zip(0..) {
            let key = KeyRecord::imported(digests.next(), of_ends.account.as_str());
            let key = key.with_name(format!("end {at}")).with_expires_at(end);
            of_ends.create(&key, at).await;
            keys.push(key);
        }
        let bounds = [
            (from, before),
            (from, from),
            (before, from),
            (from, from + MICROSECOND),
            (from + MICROSECOND, before + MICROSECOND),
            (UNIX_EPOCH, before),
            (UNIX_EPOCH, UNIX_EPOCH),
            (before, before + DAY * 1_000_000),
            // What is less than a microsecond is cut off.
            (from + MICROSECOND - NANOSECOND, before + NANOSECOND),
        ];
        for ((from, before), limit) in bounds.into_iter().flat_map(|at| LIMITS.map(|it| (at, it))) {
            let query = of_ends.query().expiring_between(from, before);
            of_ends.finds(BETWEEN, &query, &keys, limit).await;
            let readable = query.clone().leave_out_unreadable();
            of_ends.finds(READABLE, &readable, &keys, limit).await;
            let newest = query.with_order(KeyOrder::Newest);
            of_ends.finds(BETWEEN, &newest, &keys, limit).await;
        }
        // Among the keys of all accounts.
        let query = KeyQuery::new().expiring_between(from, before);
        let query = query.leave_out_unreadable();
        let expected: Vec<KeyId> = keys[2..9].iter().map(KeyRecord::id).collect();
        let listed = ids(&self.read(&query, 2).await);
        let times = |id: &KeyId| listed.iter().filter(|listed| *listed == id).count();
        BETWEEN.holds(
            expected.iter().all(|id| times(id) == 1),
            format_args!("{listed:?} instead of {expected:?}"),
        );
    }

    /// Reads a list of these keys and no others: each that matches, once, the next to end first.
    async fn finds(&self, promise: Promise, query: &KeyQuery, keys: &[KeyRecord], limit: u32) {
        let listed = self.read(query, limit).await;
        let matches = |key: &&KeyRecord| query.matches(&ListedKey::new((*key).clone()));
        let mut expected: Vec<KeyId> = keys.iter().filter(matches).map(KeyRecord::id).collect();
        let mut found = ids(&listed);
        for ids in [&mut expected, &mut found] {
            ids.sort_by_key(|id| *id.as_bytes());
        }
        promise.holds(
            found == expected,
            format_args!("{found:?} instead of {expected:?} for {query:?} by {limit}"),
        );
        let is_sorted = listed.is_sorted_by_key(|listed| listed.record.expires_at());
        ORDERED.holds(
            is_sorted || query.order != KeyOrder::EndingSoon,
            format_args!("{:?}", ids(&listed)),
        );
    }

    async fn refuses_foreign_cursors(&self) {
        let page = self.store.list(&self.query(), &Paging::first(1)).await;
        let next = ANSWERS.answer(page, "list").next;
        let mut foreign: Vec<(KeyQuery, Cursor)> = Vec::new();
        if let Some(next) = next {
            for other in [
                self.query().with_order(KeyOrder::EndingSoon),
                self.query().with_state(KeyState::Live, UNIX_EPOCH + AT),
                KeyQuery::new(),
                KeyQuery::new().with_account(format!("{}!", self.account)),
            ] {
                foreign.push((other, next.clone()));
            }
        }
        for junk in ["", "1", "0-0", "\u{1f511}", "-", "9223372036854775807"] {
            foreign.push((self.query(), Cursor::new(junk)));
        }
        for (query, cursor) in foreign {
            let paging = Paging::first(1).after(cursor);
            let refused = self.store.list(&query, &paging).await;
            let refused = refused.map_err(|error| error.kind());
            CURSORS.holds(
                matches!(refused, Err(StoreErrorKind::InvalidCursor)),
                format_args!("{refused:?} for {paging:?}"),
            );
        }
    }

    /// Revokes one key and issues another between two pages.
    async fn stays_stable(&self, keys: &[KeyRecord], digests: &mut Digests) {
        let mut paging = Paging::first(2);
        let mut listed = Vec::new();
        let mut at = 0;
        loop {
            let page = self.store.list(&self.query(), &paging).await;
            let page = ANSWERS.answer(page, "list");
            listed.extend(ids(&page.items));
            let Some(next) = page.next else { break };
            paging = paging.after(next);
            if let Some(key) = keys.get(at) {
                let revoked = key.clone().with_revoked(Revocation::new(UNIX_EPOCH + AT));
                let change = change(1_000).update(Action::REVOKED, key, revoked);
                self.commit(change.expect("the suite's records can be kept"))
                    .await;
                let newer = KeyRecord::imported(digests.next(), self.account.as_str());
                self.create(&newer.with_name("newer"), 1_000).await;
            }
            at += 1;
            ENDS.holds(at < MOST_PAGES, "more pages than keys by far");
        }
        let expected: Vec<KeyId> = keys.iter().rev().map(KeyRecord::id).collect();
        let seen: Vec<&KeyId> = listed.iter().filter(|id| expected.contains(id)).collect();
        STABLE.holds(
            seen.iter().copied().eq(&expected),
            format_args!("{seen:?} instead of {expected:?}"),
        );
    }

    fn query(&self) -> KeyQuery {
        KeyQuery::new().with_account(self.account.clone())
    }

    /// Reads a whole list, page by page.
    async fn read(&self, query: &KeyQuery, limit: u32) -> Vec<ListedKey> {
        ANSWERS.answer(read(self.store, query, limit).await, "list")
    }

    /// Creates a key, a number of seconds after the first one. A key without `created_at` is listed
    /// by this time.
    async fn create(&self, key: &KeyRecord, second: u64) {
        let change = change(second).create(Action::ISSUED, key.clone());
        self.commit(change.expect("the suite's records can be kept"))
            .await;
    }

    async fn commit(&self, change: Change) {
        ANSWERS.answer(self.store.commit(&change).await, "commit");
    }
}

/// Reads a whole list, page by page.
pub(super) async fn read<S: ManagedKeyStore>(
    store: &S,
    query: &KeyQuery,
    limit: u32,
) -> Result<Vec<ListedKey>, StoreError> {
    let mut paging = Paging::first(limit);
    let mut listed = Vec::new();
    for _ in 0..MOST_PAGES {
        let page = store.list(query, &paging).await?;
        LIMIT.holds(
            page.items.len() <= limit as usize,
            format_args!("{} keys instead of at most {limit}", page.items.len()),
        );
        listed.extend(page.items);
        let Some(next) = page.next else {
            return Ok(listed);
        };
        paging = paging.after(next);
    }
    ENDS.holds(
        false,
        format_args!("{MOST_PAGES} pages and more to come for {query:?}"),
    );
    Ok(listed)
}

fn ids(listed: &[ListedKey]) -> Vec<KeyId> {
    listed.iter().map(|listed| listed.record.id()).collect()
}

fn change(second: u64) -> Change {
    let at = UNIX_EPOCH + AT + Duration::from_secs(second);
    Change::new(Actor::service("conformance"), at)
}
