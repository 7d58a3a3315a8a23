//! Recorded usage, in memory.

use std::collections::BTreeMap;

use crate::key::digest::KeyId;
use crate::key::environment::Environment;
use crate::store::{KeyUsage, UsageCounts, UsagePeriod, UsagePlace, UsageQuery, UsageRow};

/// The most counts of a key, period and environment that are kept. Those of the oldest period are
/// dropped first.
const MOST: usize = 100_000;

/// The usage of each key, by period.
#[derive(Default)]
pub(super) struct Usage {
    counts: BTreeMap<Place, KeyUsage>,
}

/// The first is the begin of the period in hours, so that the oldest come first.
type Place = (u32, UsagePeriod, Option<String>, Option<KeyId>, String);

impl Usage {
    /// Adds the counts of a key.
    pub(super) fn record(&mut self, usage: &KeyUsage) {
        if usage.counts.is_empty() {
            return;
        }
        let begins = match usage.period {
            UsagePeriod::Day(day) => day.saturating_mul(24),
            UsagePeriod::Hour(hour) => hour,
        };
        let environment = usage.environment.as_ref().map(Environment::as_str);
        let place = (
            begins,
            usage.period,
            usage.account.clone(),
            usage.key,
            environment.unwrap_or_default().to_owned(),
        );
        match self.counts.get_mut(&place) {
            Some(kept) => kept.add(usage.clone()),
            None => {
                self.counts.insert(place, usage.clone());
            }
        }
        if self.counts.len() > MOST {
            self.counts.pop_first();
        }
    }

    /// Returns at most `limit` rows of a report after a place, and the place of the last one if
    /// there are more.
    pub(super) fn report(
        &self,
        query: &UsageQuery,
        after: Option<&UsagePlace>,
        limit: usize,
    ) -> (Vec<UsageRow>, Option<UsagePlace>) {
        let mut rows: BTreeMap<UsagePlace, UsageCounts> = BTreeMap::new();
        for usage in self.counts.values() {
            let Some(place) = UsagePlace::of(usage, query) else {
                continue;
            };
            if after.is_none_or(|after| place > *after) {
                rows.entry(place).or_default().add(usage.counts.clone());
            }
        }
        let has_more = rows.len() > limit;
        let page: Vec<_> = rows.into_iter().take(limit).collect();
        let next = page.last().filter(|_| has_more);
        let next = next.map(|(place, _)| place.clone());
        let rows = page.into_iter();
        let rows = rows.filter_map(|(place, counts)| place.row(query.by_hour, counts));
        (rows.collect(), next)
    }
}
