//! The suite for stores that keep a trail.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::conformance::keeps::{Keeps, Part};
use crate::conformance::promise::Promise;
use crate::conformance::records::{Digests, named, near};
use crate::key::containment::Revocation;
use crate::key::record::KeyRecord;
use crate::store::{
    Action, Actor, Change, Cursor, ManagedKeyStore, Origin, Paging, Step, StoreErrorKind,
    TrailQuery, TrailRecord,
};

const ANSWERS: Promise = Promise("a live store answers");
const REFUSED: Promise = Promise("what is not kept is refused to be read");
const COMPLETE: Promise = Promise("the trail has one record for each write, in order");
const AS_COMMITTED: Promise = Promise("a record of the trail is read as it was committed");
const NOTHING: Promise = Promise("a change that fails leaves no trail");
const NEWEST_FIRST: Promise = Promise("the trail is read backwards, too");
const CURSORS: Promise = Promise("a cursor of another trail is refused");
const ENDS: Promise = Promise("the trail of a key ends");

/// The maximum number of pages of a short trail.
const MOST_PAGES: usize = 10_000;

pub(super) async fn suite<S: ManagedKeyStore>(store: &S, keeps: &Keeps) {
    if !keeps.keeps_part(Part::Trail) {
        let refused = store.trail(&TrailQuery::new(), &Paging::first(1)).await;
        let refused = refused.map_err(|error| error.kind());
        return REFUSED.holds(
            matches!(refused, Err(StoreErrorKind::Refused)),
            format_args!("{refused:?}"),
        );
    }
    let mut digests = Digests::new();
    let account = format!("acme {}", digests.id());
    let at = |second: u64| {
        UNIX_EPOCH + Duration::from_micros(1_767_225_600_123_456 + second * 1_000_000)
    };
    let origin =
        Origin::new(Actor::user("ops@example.com").with_name("Ünïcode 'quoted'".to_owned()))
            .with_reason("a \"reason\"\nof two lines".to_owned())
            .with_request_id("req-1".to_owned())
            .with_address(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)))
            .with_agent("curl/8.0".to_owned());
    let record = |digest, name: &str| KeyRecord::imported(digest, account.as_str()).with_name(name);
    let (one, other) = (
        record(digests.next(), "one"),
        record(digests.next(), "other"),
    );
    let renamed = one.clone().with_name("renamed").with_version(2);
    let revoked = Revocation::new(at(3)).with_reason("leaked".to_owned());
    let revoked = renamed.clone().with_revoked(revoked);
    let can_be_kept = "the suite's records can be kept";

    // Two keys in one change, then one key at a time, with failures in between.
    let both = Change::new(origin, at(1))
        .create(Action::ISSUED, one.clone())
        .and_then(|change| change.create(Action::IMPORTED, other.clone()))
        .expect(can_be_kept);
    let again = Change::new(Origin::default(), at(2))
        .create(Action::ISSUED, other.clone())
        .expect(can_be_kept);
    let rename = Change::new(Actor::key(one.id()), at(2))
        .update(Action::UPDATED, &one, renamed.clone())
        .expect(can_be_kept);
    let stale = Change::new(Actor::key(one.id()), at(2))
        .update(Action::UPDATED, &one, renamed.clone())
        .expect(can_be_kept);
    let own = Action::new("acme.audited_2").expect("this is an action");
    let audit = Change::new(Actor::default(), at(4))
        .update(own, &other, other.clone())
        .expect(can_be_kept);
    let revoke = Change::new(Actor::service("billing"), at(3))
        .update(Action::REVOKED, &renamed, revoked)
        .expect(can_be_kept);
    let mut expected = Vec::new();
    for (change, fails) in [
        (&both, false),
        (&again, true),
        (&rename, false),
        (&stale, true),
        (&revoke, false),
        (&audit, false),
    ] {
        let committed = store.commit(change).await;
        NOTHING.holds(committed.is_err() == fails, format_args!("{committed:?}"));
        if !fails {
            expected.extend(change.steps().filter_map(|step| match step {
                Step::Create { trail, .. } | Step::Update { trail, .. } => Some(trail.clone()),
                _ => None,
            }));
        }
    }
    let suite = TrailSuite { store };
    let of_account = TrailQuery::new().with_account(account.clone());
    suite.reads(&of_account, &expected).await;
    for key in [&one, &other] {
        let of_key = expected.iter().filter(|record| record.key == key.id());
        let of_key: Vec<_> = of_key.cloned().collect();
        suite
            .reads(&TrailQuery::new().with_key(key.id()), &of_key)
            .await;
        suite
            .reads(&of_account.clone().with_key(key.id()), &of_key)
            .await;
    }
    let unknown = named(digests.next(), "unknown").id();
    suite.reads(&TrailQuery::new().with_key(unknown), &[]).await;
    suite.refuses_foreign_cursors(&of_account).await;
}

struct TrailSuite<'s, S> {
    store: &'s S,
}

impl<S: ManagedKeyStore> TrailSuite<'_, S> {
    /// Reads a part of the trail in pages of several lengths, in both orders.
    async fn reads(&self, query: &TrailQuery, expected: &[TrailRecord]) {
        for limit in [1, 2, 1_000] {
            let read = self.read(query, limit).await;
            COMPLETE.holds(
                written(&read).eq(written(expected)),
                format_args!("{read:?} instead of {expected:?}"),
            );
            for (read, expected) in read.iter().zip(expected) {
                let rounded = TrailRecord {
                    at: expected.at,
                    ..read.clone()
                };
                AS_COMMITTED.holds(
                    rounded == *expected && near(Some(read.at), Some(expected.at)),
                    format_args!("{read:?} instead of {expected:?}"),
                );
            }
            let backwards = self.read(&query.clone().newest_first(), limit).await;
            NEWEST_FIRST.holds(
                backwards.iter().rev().eq(&read),
                format_args!("{backwards:?} where the trail is {read:?}"),
            );
        }
    }

    async fn read(&self, query: &TrailQuery, limit: u32) -> Vec<TrailRecord> {
        let mut paging = Paging::first(limit);
        let mut records = Vec::new();
        for _ in 0..MOST_PAGES {
            let page = ANSWERS.answer(self.store.trail(query, &paging).await, "trail");
            records.extend(page.items);
            let Some(next) = page.next else {
                return records;
            };
            paging = paging.after(next);
        }
        ENDS.holds(false, format_args!("{MOST_PAGES} pages and more to come"));
        records
    }

    async fn refuses_foreign_cursors(&self, query: &TrailQuery) {
        let first = self.store.trail(query, &Paging::first(1)).await;
        let next = ANSWERS.answer(first, "trail").next;
        let mut foreign: Vec<(TrailQuery, Cursor)> = Vec::new();
        if let Some(next) = next {
            foreign.push((query.clone().newest_first(), next.clone()));
            foreign.push((TrailQuery::new(), next));
        }
        for junk in ["", "0", "x-1", "-"] {
            foreign.push((query.clone(), Cursor::new(junk)));
        }
        for (query, cursor) in foreign {
            let paging = Paging::first(1).after(cursor);
            let refused = self.store.trail(&query, &paging).await;
            let refused = refused.map_err(|error| error.kind());
            CURSORS.holds(
                matches!(refused, Err(StoreErrorKind::InvalidCursor)),
                format_args!("{refused:?} for {paging:?}"),
            );
        }
    }
}

/// Returns the writes that the records of a trail describe.
fn written(
    records: &[TrailRecord],
) -> impl Iterator<Item = (crate::KeyId, u64, &Action, SystemTime)> {
    let second = |at: SystemTime| {
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        UNIX_EPOCH + Duration::from_secs(since.as_secs())
    };
    let written = records.iter();
    written.map(move |record| {
        (
            record.key,
            record.version,
            &record.action,
            second(record.at),
        )
    })
}
