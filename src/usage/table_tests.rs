//! Tests of the table together with its meters.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::*;
use crate::key::digest::KeyDigest;
use crate::limit::charge::REQUESTS;

const DAY: Duration = Duration::from_secs(86_400);

fn table(most_keys: usize) -> Arc<UsageTable> {
    let table = UsageTable::new(Metering::new().max_keys(most_keys), false);
    table.add_recorder();
    table
}

fn meter(table: &Arc<UsageTable>, key: &str, environment: &Environment) -> Arc<Meter> {
    let record = KeyRecord::imported(KeyDigest::of(key), "acme");
    table.meter(&record, environment)
}

/// The begin of a day.
fn day(day: u32) -> SystemTime {
    UNIX_EPOCH + day * DAY
}

/// Takes batches until nothing is left.
fn take_all(table: &UsageTable) -> Vec<KeyUsage> {
    let mut all = Vec::new();
    loop {
        let (taken, meters) = table.take(1_000, true);
        let sums = table.take_sums();
        if meters == 0 && sums.is_empty() {
            return all;
        }
        all.extend(taken);
        all.extend(sums);
    }
}

fn allowed(usage: &[KeyUsage]) -> u64 {
    usage.iter().map(|usage| usage.counts.allowed).sum()
}

#[test]
fn periods_that_have_no_room_in_a_meter_are_counted_for_the_account() {
    const PERIODS: u32 = 60;
    let table = table(100);
    let meter = meter(&table, "key", &Environment::TEST);
    for period in 1..=PERIODS {
        for _ in 0..period {
            meter.admitted(day(period), 3, || None);
        }
        meter.add_units(day(period), "tokens", 7);
    }
    let usage = take_all(&table);
    let (of_key, folded): (Vec<_>, Vec<_>) = usage.into_iter().partition(|it| it.key.is_some());
    // 48 periods that are over, and the current one; those of the account are the oldest.
    assert_eq!((of_key.len(), folded.len()), (49, 11));
    assert!(folded.iter().all(|usage| usage.period.day() <= 11));
    for period in 1..=PERIODS {
        let of_period = of_key.iter().chain(&folded);
        let of_period: Vec<_> = of_period
            .filter(|it| it.period == UsagePeriod::Day(period))
            .collect();
        let [usage] = of_period[..] else {
            panic!("{of_period:?}");
        };
        assert_eq!(usage.counts.allowed, u64::from(period));
        let units = [(REQUESTS, i64::from(period) * 3), ("tokens", 7)];
        let units = units.map(|(unit, count)| (unit.to_owned(), count));
        assert_eq!(usage.counts.units, units.into());
        assert_eq!(usage.account.as_deref(), Some("acme"));
        assert_eq!(usage.environment, Some(Environment::TEST));
    }
}

#[test]
fn units_that_have_no_room_in_a_sum_are_counted_as_other() {
    let table = table(1);
    let listed = meter(&table, "listed", &Environment::LIVE);
    listed.admitted(day(1), 1, || None);
    let mut expected = 0;
    for key in 0..10 {
        let meter = meter(&table, &format!("key {key}"), &Environment::LIVE);
        for unit in 1..=15 {
            meter.add_units(day(1), &format!("unit {key} {unit}"), unit);
            expected += unit;
        }
        // It finds no room on the list, and is dropped.
    }
    let mut sums = take_all(&table);
    sums.retain(|usage| usage.key.is_none());
    let [sum] = &sums[..] else {
        panic!("{sums:?}");
    };
    let units = &sum.counts.units;
    assert!(units.len() <= MOST_UNITS, "{} names", units.len());
    assert!(units[OTHER] > 0 && units.len() > 1);
    assert_eq!(units.values().sum::<i64>(), expected);
}

#[test]
fn counts_that_lose_their_key_keep_their_environment() {
    let table = table(1);
    let listed = meter(&table, "listed", &Environment::LIVE);
    listed.admitted(day(1), 1, || None);
    for (key, environment) in [Environment::LIVE, Environment::TEST].iter().enumerate() {
        for request in 0..=key {
            let name = format!("key {key} {request}");
            meter(&table, &name, environment).admitted(day(1), 1, || None);
        }
    }
    let sums = take_all(&table);
    let sums = sums.into_iter().filter(|usage| usage.key.is_none());
    let mut sums: Vec<_> = sums
        .map(|usage| (usage.counts.allowed, usage.environment, usage.account))
        .collect();
    sums.sort_by_key(|(allowed, ..)| *allowed);
    let account = || Some("acme".to_owned());
    let expected = [
        (1, Some(Environment::LIVE), account()),
        (2, Some(Environment::TEST), account()),
    ];
    assert_eq!(sums, expected);
    assert_eq!(table.health().without_key, 3);
}

/// A count is taken, or the meter is on the list for the next time: also if the request comes in
/// the middle of it.
#[test]
fn a_count_that_races_a_take_is_on_the_list() {
    const ROUNDS: u64 = 20_000;
    let table = table(10);
    let meter = meter(&table, "key", &Environment::LIVE);
    let (begun, ended) = (AtomicU64::new(0), AtomicU64::new(0));
    let (mut taken, mut left_behind) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 1..=ROUNDS {
                wait_for(&begun, round);
                spin(round % 61);
                meter.admitted(day(1), 1, || None);
                ended.store(round, Ordering::SeqCst);
            }
        });
        for round in 1..=ROUNDS {
            meter.admitted(day(1), 1, || None);
            begun.store(round, Ordering::SeqCst);
            spin(round % 53);
            taken += allowed(&table.take(10, true).0);
            wait_for(&ended, round);
            taken += allowed(&take_all(&table));
            left_behind += u64::from(taken != 2 * round);
        }
    });
    assert_eq!((left_behind, taken), (0, 2 * ROUNDS));
}

fn wait_for(number: &AtomicU64, expected: u64) {
    for turn in 0_u64.. {
        if number.load(Ordering::SeqCst) == expected {
            return;
        }
        if turn % 100 == 99 {
            std::thread::yield_now();
        }
    }
}

/// Waits for a moment, so that threads meet at each of their steps.
fn spin(turns: u64) {
    for turn in 0..turns {
        std::hint::black_box(turn);
    }
}
