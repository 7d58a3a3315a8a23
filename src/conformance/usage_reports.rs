//! The suite for stores that report usage.

use std::time::{Duration, UNIX_EPOCH};

use crate::conformance::keeps::{Keeps, Part};
use crate::conformance::promise::Promise;
use crate::conformance::records::Digests;
use crate::key::digest::KeyId;
use crate::key::environment::Environment;
use crate::key::record::KeyRecord;
use crate::limit::charge::REQUESTS;
use crate::store::kinds::API_KEY_FIRST_USED;
use crate::store::{
    Action, Actor, Change, Cursor, KeyUsage, ManagedKeyStore, Paging, Start, StoreErrorKind,
    UsageBatch, UsageCounts, UsageDetail, UsagePeriod, UsageQuery, UsageRow,
};

const ANSWERS: Promise = Promise("a live store answers");
const REFUSED: Promise = Promise("what is not kept is refused");
const SUMS: Promise = Promise("a report has the sums of what was recorded");
const SORTED: Promise = Promise("a report is sorted by account, period, key and environment");
const PAGES: Promise = Promise("pages of any size make the same report");
const LINEAGE: Promise = Promise("a chain of rotations is one curve");
const HOURS: Promise = Promise("usage by hour is reported by hour and by day");
const FOLDED: Promise =
    Promise("usage without a key stays with its account, and other usage apart");
const CURSORS: Promise = Promise("a cursor of another query is refused");
const BOUNDED: Promise = Promise("counts stop at the largest one, and are recorded");
const ONCE: Promise = Promise("the first use of a key is told once");

/// The days of the suite, which are its own: 2,000 years after others.
const DAY: u32 = 800_000;

pub(super) async fn suite<S: ManagedKeyStore>(store: &S, keeps: &Keeps) {
    let mut digests = Digests::new();
    if !keeps.keeps_part(Part::Reports) || !keeps.keeps_part(Part::Usage) {
        let refused = store
            .usage(&UsageQuery::days(0, 0), &Paging::first(1))
            .await;
        let refused = refused.map_err(|error| error.kind());
        return REFUSED.holds(
            matches!(refused, Err(StoreErrorKind::Refused)),
            format_args!("{refused:?}"),
        );
    }
    let [one, other, third] = [(); 3].map(|()| digests.id());
    let [acme, globex] = ["acme", "globex"].map(|name| format!("{name} {one}"));
    let suite = ReportSuite {
        store,
        acme,
        globex,
    };
    let node = *digests.id().as_bytes();
    let day = UsagePeriod::Day(DAY);
    let acme = |key, period| KeyUsage::new(key, suite.acme.as_str(), period);

    let mut first = acme(one, day);
    (
        first.counts.allowed,
        first.counts.limited,
        first.counts.refused,
    ) = (5, 2, 1);
    first.counts.units = [("tokens".to_owned(), 40), (REQUESTS.to_owned(), 14)].into();
    let mut again = acme(one, day);
    again.counts.allowed = 1;
    again.counts.units = [("tokens".to_owned(), -45), (REQUESTS.to_owned(), -2)].into();
    // A rotation: another key of the same chain.
    let mut successor = acme(other, UsagePeriod::Day(DAY + 1));
    successor.lineage = Some(one);
    successor.counts.allowed = 3;
    let mut hour = acme(third, UsagePeriod::Hour((DAY + 1) * 24 + 23));
    hour.counts.allowed = 7;
    let mut next_hour = acme(third, UsagePeriod::Hour((DAY + 2) * 24));
    next_hour.counts.allowed = 8;
    let mut test = KeyUsage::new(third, suite.globex.as_str(), day);
    test.environment = Some(Environment::TEST);
    test.counts.allowed = 11;
    let mut folded = acme(third, day);
    (folded.key, folded.lineage, folded.counts.allowed) = (None, None, 13);
    let mut rest = acme(third, day);
    (rest.key, rest.lineage, rest.account) = (None, None, None);
    rest.counts.refused = 17;
    let unattributed_before = suite.unattributed().await;
    for (number, usage) in [
        (1, vec![first, folded, rest, test]),
        (2, vec![again, successor, hour, next_hour]),
    ] {
        let batch = UsageBatch::new(node, number, usage);
        let batch = batch.expect("the suite's usage can be kept");
        for _ in 0..2 {
            ANSWERS.answer(store.record_usage(&batch).await, "record_usage");
        }
    }
    suite.sums(one, other, third).await;
    suite.other_details(one, third).await;
    FOLDED.holds(
        suite.unattributed().await == unattributed_before + 17,
        "usage without an account is not reported apart",
    );
    suite.pages().await;
    suite.cursors().await;
    suite.stops_at_the_most(&mut digests).await;
    if keeps.keeps_part(Part::Events) {
        tells_first_use(store, &mut digests).await;
    }
}

struct ReportSuite<'s, S> {
    store: &'s S,
    acme: String,
    globex: String,
}

/// A row as it is compared: the day or hour after the first day of the suite, the key, and counts.
type Seen = (u32, Option<KeyId>, [u64; 3], Vec<(String, i64)>);

impl<S: ManagedKeyStore> ReportSuite<'_, S> {
    fn query(&self) -> UsageQuery {
        UsageQuery::days(DAY, DAY + 2).with_account(self.acme.clone())
    }

    async fn read(&self, query: &UsageQuery, limit: u32) -> Vec<UsageRow> {
        let mut rows = Vec::new();
        let mut paging = Paging::first(limit);
        loop {
            let page = ANSWERS.answer(self.store.usage(query, &paging).await, "usage");
            PAGES.holds(
                page.items.len() <= limit as usize,
                format_args!("{} rows instead of {limit}", page.items.len()),
            );
            rows.extend(page.items);
            let Some(next) = page.next else { return rows };
            paging = paging.after(next);
        }
    }

    async fn seen(&self, query: &UsageQuery) -> Vec<Seen> {
        let rows = self.read(query, 100).await;
        let of = |row: UsageRow| {
            let period = match row.period {
                UsagePeriod::Day(day) => day - DAY,
                UsagePeriod::Hour(hour) => hour - DAY * 24,
            };
            let counts = row.counts;
            let requests = [counts.allowed, counts.limited, counts.refused];
            (
                period,
                row.key,
                requests,
                counts.units.into_iter().collect(),
            )
        };
        rows.into_iter().map(of).collect()
    }

    async fn sums(&self, one: KeyId, other: KeyId, third: KeyId) {
        let units = || vec![(REQUESTS.to_owned(), 12), ("tokens".to_owned(), -5)];
        let by_key = self.seen(&self.query().with_detail(UsageDetail::Key)).await;
        let mut expected = vec![
            (0, None, [13, 0, 0], vec![]),
            (0, Some(one), [6, 2, 1], units()),
            (1, Some(other), [3, 0, 0], vec![]),
            (1, Some(third), [7, 0, 0], vec![]),
            (2, Some(third), [8, 0, 0], vec![]),
        ];
        expected.sort();
        SUMS.holds(by_key == expected, format_args!("{by_key:?}"));
        let by_account = self.seen(&self.query()).await;
        let expected = [
            (0, None, [19, 2, 1], units()),
            (1, None, [10, 0, 0], vec![]),
            (2, None, [8, 0, 0], vec![]),
        ];
        SUMS.holds(by_account == expected, format_args!("{by_account:?}"));
    }

    async fn other_details(&self, one: KeyId, third: KeyId) {
        let chain = self.query().with_lineage(one);
        let chain = self.seen(&chain.with_detail(UsageDetail::Lineage)).await;
        let of_one = |(day, key, requests, _): &Seen| (*day, *key, requests[0]);
        let chain: Vec<_> = chain.iter().map(of_one).collect();
        LINEAGE.holds(
            chain == [(0, Some(one), 6), (1, Some(one), 3)],
            format_args!("{chain:?}"),
        );
        let hours = self.seen(&self.query().with_key(third).by_hour()).await;
        let hours: Vec<_> = hours.iter().map(of_one).collect();
        HOURS.holds(
            hours == [(47, None, 7), (48, None, 8)],
            format_args!("{hours:?}"),
        );
        let globex = UsageQuery::days(DAY, DAY).with_account(self.globex.clone());
        let live = globex.clone().with_environment(Environment::LIVE);
        let live = self.read(&live, 100).await;
        SUMS.holds(live.is_empty(), format_args!("{live:?} of no live key"));
        let test = globex.clone().with_environment(Environment::TEST);
        let test = self.read(&test, 100).await;
        let globex = self.read(&globex, 100).await;
        SUMS.holds(test == globex, format_args!("{test:?}, not {globex:?}"));
        let environments: Vec<_> = globex.iter().map(|row| row.environment.clone()).collect();
        SUMS.holds(
            environments == [Some(Environment::TEST)] && globex[0].counts.allowed == 11,
            format_args!("{globex:?}"),
        );
        let mut earlier = self.query();
        (earlier.first_day, earlier.last_day) = (DAY - 9, DAY - 1);
        let before = self.seen(&earlier).await;
        SUMS.holds(before.is_empty(), format_args!("{before:?} of no day"));
    }

    /// Returns the refused requests of nobody.
    async fn unattributed(&self) -> u64 {
        let rows = self.read(&UsageQuery::days(DAY, DAY), 100).await;
        let rows = rows.iter().filter(|row| row.account.is_none());
        rows.map(|row| row.counts.refused).sum()
    }

    async fn pages(&self) {
        for detail in [UsageDetail::Key, UsageDetail::Lineage, UsageDetail::Account] {
            let query = self.query().with_detail(detail);
            let whole = self.read(&query, 100).await;
            let sort_key = |row: &UsageRow| {
                let key = row.key.map(|key| *key.as_bytes());
                let environment = row.environment.as_ref().map(|it| it.as_str().to_owned());
                (row.account.clone(), row.period, key, environment)
            };
            SORTED.holds(whole.is_sorted_by_key(sort_key), format_args!("{whole:?}"));
            for limit in [1, 2, 3] {
                let paged = self.read(&query, limit).await;
                PAGES.holds(paged == whole, format_args!("{paged:?}, not {whole:?}"));
            }
            // Of all accounts; others may report at the same time.
            let query = UsageQuery::days(DAY, DAY + 2).with_detail(detail);
            for limit in [1, 3] {
                let mut paged = self.read(&query, limit).await;
                paged.retain(|row| row.account.as_ref() == Some(&self.acme));
                PAGES.holds(paged == whole, format_args!("{paged:?}, not {whole:?}"));
            }
        }
    }

    /// Counts that are too large for sums do not fail a batch, which would be sent again for ever.
    async fn stops_at_the_most(&self, digests: &mut Digests) {
        let (key, node) = (digests.id(), *digests.id().as_bytes());
        let account = format!("initech {key}");
        let (least, most) = (-UsageCounts::MOST, UsageCounts::MOST);
        let steps = [
            (most, most),
            (most, most),
            (least, 0),
            (i64::MAX, most),
            (i64::MAX, most),
            (i64::MIN, 0),
            (i64::MIN, least),
            (i64::MIN, least),
        ];
        let mut allowed = 0;
        for (number, (units, expected)) in (1..).zip(steps) {
            let mut usage = KeyUsage::new(key, account.as_str(), UsagePeriod::Day(DAY));
            usage.counts.allowed = units.unsigned_abs();
            usage.counts.units = [("tokens".to_owned(), units)].into();
            allowed += usage.counts.allowed.min(most.unsigned_abs());
            allowed = allowed.min(most.unsigned_abs());
            // Another period of the same account, so that the report adds up two such counts.
            let mut later = usage.clone();
            later.period = UsagePeriod::Hour(DAY * 24);
            let batch = UsageBatch::new(node, number, [usage, later]);
            let batch = batch.expect("the suite's usage can be kept");
            let recorded = self.store.record_usage(&batch).await;
            BOUNDED.holds(recorded.is_ok(), format_args!("{recorded:?} for {units}"));
            let query = UsageQuery::days(DAY, DAY).with_account(account.clone());
            let rows = self.read(&query, 100).await;
            let [row] = &rows[..] else {
                return BOUNDED.holds(false, format_args!("{rows:?} instead of one row"));
            };
            let tokens = row.counts.units.get("tokens").copied().unwrap_or_default();
            BOUNDED.holds(
                (row.counts.allowed, tokens) == (allowed, expected),
                format_args!("{row:?} instead of {allowed} and {expected}"),
            );
        }
    }

    async fn cursors(&self) {
        let first = self.store.usage(&self.query(), &Paging::first(1)).await;
        let next = ANSWERS.answer(first, "usage").next;
        CURSORS.holds(next.is_some(), "there is no second page");
        let other = self.query().with_detail(UsageDetail::Key);
        let cursors = [Cursor::new(""), Cursor::new("u1-x")];
        let environment = self.query().with_environment(Environment::LIVE);
        let queries = [&other, &other, &other, &environment];
        let next = next.into_iter().flat_map(|next| [next.clone(), next]);
        for (query, cursor) in queries.into_iter().zip(cursors.into_iter().chain(next)) {
            let paging = Paging::first(1).after(cursor);
            let refused = self.store.usage(query, &paging).await;
            let refused = refused.map_err(|error| error.kind());
            CURSORS.holds(
                matches!(refused, Err(StoreErrorKind::InvalidCursor)),
                format_args!("{refused:?}"),
            );
        }
    }
}

/// The first use of a key is told by an event, in whatever batches it comes.
async fn tells_first_use<S: ManagedKeyStore>(store: &S, digests: &mut Digests) {
    let key = KeyRecord::imported(digests.next(), "acme");
    let id = key.id();
    let at = UNIX_EPOCH + Duration::from_secs(86_400);
    let change = Change::new(Actor::service("conformance"), at).create(Action::ISSUED, key);
    let change = change.expect("the suite's records can be kept");
    let now = store.events(&Start::Now, 1).await;
    let mut next = ANSWERS.answer(now, "events").next;
    ANSWERS.answer(store.commit(&change).await, "commit");
    let mut refused = KeyUsage::new(id, "acme", UsagePeriod::Day(1));
    refused.counts.refused = 1;
    let mut used = refused.clone().used_at(at);
    used.counts.allowed = 1;
    for usage in [refused, used.clone(), used] {
        let batch = UsageBatch::new(*digests.id().as_bytes(), 1, [usage]);
        let batch = batch.expect("the suite's usage can be kept");
        ANSWERS.answer(store.record_usage(&batch).await, "record_usage");
    }
    let mut told = Vec::new();
    loop {
        let read = store.events(&Start::After(next), 100).await;
        let read = ANSWERS.answer(read, "events");
        let events = read.items.into_iter().map(|kept| kept.event);
        told.extend(events.filter(|event| event.key == Some(id)));
        next = read.next;
        if read.is_end {
            break;
        }
    }
    let told: Vec<_> = told.iter().map(|it| (it.kind.as_str(), it.at)).collect();
    ONCE.holds(told == [(API_KEY_FIRST_USED, at)], format_args!("{told:?}"));
}
