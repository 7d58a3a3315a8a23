//! The usage of the last days.

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Value, json};
use tower_api_key::Environment;
use tower_api_key::usage::{UsageCounts, UsagePeriod, UsageRow};

use crate::call::{Call, DAY};
use crate::database::Database;
use crate::failure::{Failure, usage};
use crate::output::{Output, with_header};
use crate::rfc3339::format as rfc3339;

const USAGE: [&str; 9] = [
    "DAY",
    "ACCOUNT",
    "KEY ID",
    "ENVIRONMENT",
    "ALLOWED",
    "LIMITED",
    "REFUSED",
    "UNITS",
    "REQUESTS",
];

/// The length of the longest bar.
const LONGEST_BAR: u128 = 40;

impl Database {
    pub(crate) async fn usage(&self, call: &Call) -> Result<Output, Failure> {
        let (by_key, by_lineage) = (call.is_set("by-key"), call.is_set("by-lineage"));
        if by_key && by_lineage {
            return Err(usage("--by-key and --by-lineage are two tables: name one"));
        }
        let days = call.days("days")?.unwrap_or(7 * DAY);
        let before = days.checked_sub(DAY);
        let before = before.ok_or_else(|| usage("--days takes at least 1: today"))?;
        let now = self.keys.now();
        let first = now.checked_sub(before).unwrap_or(UNIX_EPOCH);
        let mut read = self
            .keys
            .usage()
            .between(first, now + Duration::from_nanos(1));
        if let Some(account) = call.option("account") {
            read = read.of_account(account);
        }
        if let Some(environment) = call.option("environment") {
            read = read.of_environment(environment.parse().map_err(usage)?);
        }
        if by_key {
            read = read.by_key();
        }
        if by_lineage {
            read = read.by_lineage();
        }
        let rows = read.await?.rows;

        let [first, last] = [first, now].map(|at| UsagePeriod::at(at, false).day());
        let mut of_days: BTreeMap<u32, Vec<UsageRow>> = BTreeMap::new();
        for row in rows {
            of_days.entry(row.period.day()).or_default().push(row);
        }
        let json: Value = of_days.values().flatten().map(row_json).collect();
        let most = of_days.values().flatten().map(|row| requests(&row.counts));
        let most = most.max().unwrap_or_default();
        let lines = (first..=last).flat_map(|day| match of_days.get(&day) {
            Some(rows) => rows.iter().map(|row| line(row, most)).collect(),
            None => vec![empty_line(day)],
        });
        if by_key || by_lineage {
            return Ok(Output::new(json, with_header(USAGE, lines)));
        }
        let table = with_header(without_key(USAGE), lines.map(without_key));
        Ok(Output::new(json, table))
    }
}

/// Returns the cells of a line, whose bar is in proportion to the most requests of a line.
fn line(row: &UsageRow, most: u128) -> [String; 9] {
    let counts = &row.counts;
    let units = counts.units.iter();
    let units = units.map(|(name, count)| format!("{name}={count}"));
    let units: Vec<_> = units.collect();
    [
        date(row.period.day()),
        or_dash(row.account.as_deref()),
        or_dash(row.key.map(|key| key.to_string()).as_deref()),
        or_dash(row.environment.as_ref().map(Environment::as_str)),
        counts.allowed.to_string(),
        counts.limited.to_string(),
        counts.refused.to_string(),
        units.join(" "),
        bar(requests(counts), most),
    ]
}

/// Returns the line of a day without usage, so that a gap is seen.
fn empty_line(day: u32) -> [String; 9] {
    let mut line = [const { String::new() }; 9];
    line[0] = date(day);
    line
}

/// Returns a line without its third cell.
fn without_key<T>(line: [T; 9]) -> [T; 8] {
    let [day, account, _, rest @ ..] = line;
    let [environment, allowed, limited, refused, units, requests] = rest;
    [
        day,
        account,
        environment,
        allowed,
        limited,
        refused,
        units,
        requests,
    ]
}

/// Returns a bar in proportion to the longest one. A few requests have a short bar, and none have no
/// bar.
fn bar(requests: u128, most: u128) -> String {
    let length = (requests * LONGEST_BAR).div_ceil(most.max(1));
    "#".repeat(usize::try_from(length).unwrap_or_default())
}

fn requests(counts: &UsageCounts) -> u128 {
    let counts = [counts.allowed, counts.limited, counts.refused];
    counts.map(u128::from).iter().sum()
}

fn date(day: u32) -> String {
    rfc3339(UsagePeriod::Day(day).begins_at())[..10].to_owned()
}

fn or_dash(text: Option<&str>) -> String {
    text.unwrap_or("-").to_owned()
}

fn row_json(row: &UsageRow) -> Value {
    let counts = &row.counts;
    json!({
        "day": date(row.period.day()),
        "account": row.account,
        "key_id": row.key.map(|key| key.to_string()),
        "environment": row.environment.as_ref().map(Environment::as_str),
        "allowed": counts.allowed,
        "limited": counts.limited,
        "refused": counts.refused,
        "units": counts.units,
    })
}
