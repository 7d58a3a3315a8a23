//! The suite for stores that report usage.

use crate::conformance::keeps::{Keeps, Part};
use crate::conformance::promise::Promise;
use crate::conformance::records::Digests;
use crate::key::digest::KeyId;
use crate::key::environment::Environment;
use crate::limit::charge::REQUESTS;
use crate::store::{
    Cursor, KeyUsage, ManagedKeyStore, Paging, StoreErrorKind, UsageBatch, UsageCounts,
    UsageDetail, UsagePeriod, UsageQuery, UsageRow,
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
const APART: Promise = Promise("usage in different environments is in rows of its own");
const BORDERS: Promise = Promise("a row at the end of a page has all its units");

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
    suite.environments(&mut digests).await;
    suite.borders(&mut digests).await;
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

    /// Usage of one key, and usage without a key, in several environments. Each has another power of
    /// 2, so that a sum tells what is in it.
    async fn environments(&self, digests: &mut Digests) {
        let (key, node) = (digests.id(), *digests.id().as_bytes());
        let account = format!("umbrella {key}");
        let environments = [None, Some(Environment::LIVE), Some(Environment::TEST)];
        let mut usage = Vec::new();
        for environment in &environments {
            for of_key in [Some(key), None] {
                let mut counted = KeyUsage::new(key, account.as_str(), UsagePeriod::Day(DAY));
                (counted.key, counted.lineage) = (of_key, of_key);
                counted.environment.clone_from(environment);
                counted.counts.allowed = 1 << usage.len();
                usage.push(counted);
            }
        }
        for number in [1, 2] {
            let batch = UsageBatch::new(node, number, usage.iter().cloned());
            let batch = batch.expect("the suite's usage can be kept");
            ANSWERS.answer(self.store.record_usage(&batch).await, "record_usage");
        }
        let query = UsageQuery::days(DAY, DAY).with_account(account);
        let of_account = [(None, [3, 12, 48])];
        let of_keys = [(None, [2, 8, 32]), (Some(key), [1, 4, 16])];
        for (detail, expected) in [
            (UsageDetail::Account, &of_account[..]),
            (UsageDetail::Key, &of_keys[..]),
            (UsageDetail::Lineage, &of_keys[..]),
        ] {
            let rows_of = |(key, sums): &(Option<KeyId>, [u64; 3])| {
                let key = *key;
                let rows = environments.clone().into_iter().zip(*sums);
                rows.map(move |(environment, sum)| (key, environment, 2 * sum))
            };
            let expected: Vec<_> = expected.iter().flat_map(rows_of).collect();
            let rows = self.read(&query.clone().with_detail(detail), 100).await;
            let rows = rows.into_iter();
            let rows: Vec<_> = rows
                .map(|row| (row.key, row.environment, row.counts.allowed))
                .collect();
            APART.holds(rows == expected, format_args!("{rows:?}, not {expected:?}"));
        }
    }

    /// Rows with many units, which pages of any size may cut.
    async fn borders(&self, digests: &mut Digests) {
        const UNITS: i64 = 6;
        let node = *digests.id().as_bytes();
        let account = format!("hooli {}", digests.id());
        let units = (1..=UNITS).map(|unit| (format!("unit {unit}"), unit));
        let usage = [(); 3].map(|()| {
            let mut usage = KeyUsage::new(digests.id(), account.as_str(), UsagePeriod::Day(DAY));
            usage.counts.allowed = 7;
            usage.counts.units = units.clone().collect();
            usage
        });
        let batch = UsageBatch::new(node, 1, usage);
        let batch = batch.expect("the suite's usage can be kept");
        ANSWERS.answer(self.store.record_usage(&batch).await, "record_usage");
        let query = UsageQuery::days(DAY, DAY).with_account(account);
        for limit in [1, 2, 3, 4, 100] {
            let by_key = query.clone().with_detail(UsageDetail::Key);
            let rows = self.read(&by_key, limit).await;
            let is_whole = |row: &UsageRow| {
                row.counts.allowed == 7 && units.clone().eq(row.counts.units.clone())
            };
            BORDERS.holds(
                rows.len() == 3 && rows.iter().all(is_whole),
                format_args!("{rows:?} in pages of {limit}"),
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
