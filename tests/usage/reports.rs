//! Reports of recorded usage, as applications read them.

use tower_api_key::Environment;

use super::*;

const HOUR: Duration = Duration::from_secs(3_600);

fn usage_at(at: SystemTime, account: &str, allowed: u64) -> KeyUsage {
    usage_on(UsagePeriod::at(at, false), account, allowed)
}

fn usage_on(period: UsagePeriod, account: &str, allowed: u64) -> KeyUsage {
    let key = KeyId::from_bytes([7; 16]);
    let mut usage = KeyUsage::new(key, account, period);
    usage.counts.allowed = allowed;
    usage
}

/// Keys over a store with this usage, at an instant.
async fn keys_with(usage: Vec<KeyUsage>, now: SystemTime) -> ApiKeys {
    let store = MemoryStore::new();
    record_in(&store, 1, usage).await;
    let keys = ApiKeys::builder(store).clock(ManualClock::at(now));
    keys.build().unwrap()
}

async fn record_in(store: &MemoryStore, number: u64, usage: Vec<KeyUsage>) {
    let batch = UsageBatch::new([1; 16], number, usage).unwrap();
    store.record_usage(&batch).await.unwrap();
}

#[tokio::test]
async fn a_report_has_all_rows_however_many_pages_they_fill() {
    const ROWS: u32 = 2 * Paging::MOST + 500;
    let accounts = (0..ROWS).map(|number| format!("account {number:05}"));
    let usage = accounts.map(|account| usage_at(today(), &account, 3));
    let keys = keys_with(usage.collect(), today()).await;
    let report = keys.usage().await.unwrap();
    assert_eq!(report.rows.len(), ROWS as usize);
    assert!(report.rows.is_sorted_by_key(|row| row.account.clone()));
    assert_eq!(report.total().allowed, 3 * u64::from(ROWS));
}

/// Each day has another power of 2, so that a sum tells which days are in it.
#[tokio::test]
async fn a_report_between_two_times_has_each_day_with_a_moment_in_between() {
    let [nov_1, dec_1] = [61, 31].map(|days| today() - days * DAY);
    let days = [nov_1 - DAY, nov_1, dec_1 - DAY, dec_1, dec_1 + DAY];
    let usage = days.iter().zip(0..);
    let usage = usage.map(|(day, number)| usage_at(*day + HOUR, "acme", 1 << number));
    let keys = keys_with(usage.collect(), today()).await;
    let nanosecond = Duration::from_nanos(1);
    for (start, end, expected) in [
        (nov_1, dec_1, 2 + 4),
        (nov_1 + 12 * HOUR, dec_1 - 12 * HOUR, 2 + 4),
        (nov_1 - nanosecond, dec_1 + nanosecond, 1 + 2 + 4 + 8),
        (nov_1, dec_1 + 12 * HOUR, 2 + 4 + 8),
        (nov_1, nov_1 + nanosecond, 2),
        (dec_1, dec_1 + 2 * DAY, 8 + 16),
        (nov_1, nov_1, 0),
    ] {
        let report = keys.usage().between(start, end).await.unwrap();
        assert_eq!(report.total().allowed, expected, "{start:?} to {end:?}");
    }
    assert_eq!(keys.usage().await.unwrap().rows, []);
}

#[tokio::test]
async fn the_last_days_are_one_at_least_and_end_with_today() {
    let days = (0..5).map(|days| usage_at(today() - days * DAY, "acme", 1 << days));
    let keys = keys_with(days.collect(), today() + 23 * HOUR).await;
    for (days, expected) in [(0, 1), (1, 1), (2, 1 + 2), (5, 31), (u32::MAX, 31)] {
        let report = keys.usage().last_days(days).await.unwrap();
        assert_eq!(report.total().allowed, expected, "{days} days");
    }
}

#[tokio::test]
async fn a_report_of_an_environment_has_no_other() {
    let environments = [None, Some(Environment::LIVE), Some(Environment::TEST)];
    let usage = environments.into_iter().zip(0..);
    let usage = usage.map(|(environment, number)| {
        let mut usage = usage_at(today(), "acme", 1 << number);
        usage.environment = environment;
        usage
    });
    let keys = keys_with(usage.collect(), today()).await;
    for (environment, expected) in [(Environment::LIVE, 2), (Environment::TEST, 4)] {
        let report = keys.usage().of_environment(environment.clone());
        let rows = report.await.unwrap().rows;
        let rows: Vec<_> = rows
            .iter()
            .map(|row| (row.environment.clone(), row.counts.allowed))
            .collect();
        assert_eq!(rows, [(Some(environment), expected)]);
    }
    assert_eq!(keys.usage().await.unwrap().rows.len(), 3);
}

/// The bound that [`MemoryStore`] documents.
#[tokio::test]
async fn the_memory_store_drops_the_oldest_usage_beyond_100_000_counts() {
    const ACCOUNTS: u32 = 1_000;
    const DAYS: u32 = 100;
    const FIRST: u32 = 20_000;
    let store = MemoryStore::new();
    let on = |day: u32, accounts: std::ops::Range<u32>| {
        let period = UsagePeriod::Day(FIRST + day);
        let usage = accounts.map(move |it| usage_on(period, &format!("account {it}"), 1));
        usage.collect::<Vec<_>>()
    };
    // The newest comes first, so that the order of arrival is not that of time.
    for day in (1..=DAYS).rev() {
        record_in(&store, u64::from(DAYS - day) + 1, on(day, 0..ACCOUNTS)).await;
    }
    record_in(&store, u64::from(DAYS) + 1, on(DAYS + 1, 0..7)).await;
    // It is the oldest itself.
    record_in(&store, u64::from(DAYS) + 2, on(0, 0..5)).await;
    let keys = ApiKeys::builder(store).build().unwrap();
    for (day, expected) in [(0, 0), (1, 993), (2, 1_000), (100, 1_000), (101, 7)] {
        let begin = UsagePeriod::Day(FIRST + day).begins_at();
        let report = keys.usage().between(begin, begin + DAY).await.unwrap();
        assert_eq!(report.rows.len(), expected, "day {day}");
    }
}
