//! Reading the recorded usage.

use std::collections::BTreeMap;
use std::future::IntoFuture;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::key::digest::KeyId;
use crate::key::environment::Environment;
use crate::manage::BoxFuture;
use crate::store::{
    DynManagedKeyStore, Paging, StoreError, UsageCounts, UsageDetail, UsagePeriod, UsageQuery,
    UsageRow,
};

/// A report of usage, read when awaited: [`ApiKeys::usage`](crate::ApiKeys::usage).
///
/// By default, a report has one row for each account, environment and day, of today. All pages are
/// read into memory: with many accounts, read one account or a few days at a time.
///
/// Counts of the last 37 seconds, by the default of
/// [`Metering::record_every`](crate::usage::Metering::record_every), may still be in the processes
/// that counted them.
///
/// # Errors
/// If the store fails, or reports no usage
/// ([`StoreErrorKind::Refused`](crate::store::StoreErrorKind::Refused)).
#[derive(Debug)]
#[must_use = "nothing is read until this is awaited"]
pub struct ReadUsage {
    store: Arc<dyn DynManagedKeyStore>,
    now: SystemTime,
    query: UsageQuery,
}

/// The usage of some days: the result of [`ReadUsage`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct UsageReport {
    /// The rows, sorted by account, period, key and environment.
    pub rows: Vec<UsageRow>,
}

impl ReadUsage {
    pub(crate) fn new(store: Arc<dyn DynManagedKeyStore>, now: SystemTime) -> Self {
        Self {
            store,
            now,
            query: UsageQuery::last_days(1, now),
        }
    }

    /// Reads the usage of the last days, today included: at least of one. Days are those of UTC.
    pub fn last_days(mut self, days: u32) -> Self {
        let last = UsageQuery::last_days(days, self.now);
        (self.query.first_day, self.query.last_day) = (last.first_day, last.last_day);
        self
    }

    /// Reads the usage of all UTC days with a moment from `start` on and before `end`. For the
    /// beginnings of two successive months, these are the days of the first month.
    pub fn between(mut self, start: SystemTime, end: SystemTime) -> Self {
        let last = end.checked_sub(Duration::from_nanos(1)).unwrap_or(end);
        let day = |at| UsagePeriod::at(at, false).day();
        (self.query.first_day, self.query.last_day) = (day(start), day(last));
        self
    }

    /// Reads only the usage of an account. Default: of all.
    pub fn of_account(mut self, account: impl Into<String>) -> Self {
        self.query.account = Some(account.into());
        self
    }

    /// Reads only the usage of a key, by itself. Default: of all.
    pub fn of_key(mut self, key: KeyId) -> Self {
        self.query.key = Some(key);
        self
    }

    /// Reads only the usage of a chain of rotations, by the [first
    /// key](crate::KeyRecord::lineage) of the chain. Default: of all.
    pub fn of_lineage(mut self, first: KeyId) -> Self {
        self.query.lineage = Some(first);
        self
    }

    /// Reads only the usage in an environment, such as `Environment::LIVE` for a bill. Default: in
    /// all, so that requests with test keys are included.
    pub fn of_environment(mut self, environment: Environment) -> Self {
        self.query.environment = Some(environment);
        self
    }

    /// Gives a row for each key.
    pub fn by_key(mut self) -> Self {
        self.query.detail = UsageDetail::Key;
        self
    }

    /// Gives a row for each chain of rotations, so that the curve of an application goes on when
    /// its key is rotated.
    pub fn by_lineage(mut self) -> Self {
        self.query.detail = UsageDetail::Lineage;
        self
    }

    /// Gives a row for each hour instead of each day. Only what was [counted by
    /// hour](crate::usage::Metering::by_hour) is reported.
    pub fn by_hour(mut self) -> Self {
        self.query.by_hour = true;
        self
    }
}

impl IntoFuture for ReadUsage {
    type Output = Result<UsageReport, StoreError>;
    type IntoFuture = BoxFuture<Result<UsageReport, StoreError>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let mut report = UsageReport::default();
            let mut paging = Paging::first(Paging::MOST);
            loop {
                let page = self.store.usage(&self.query, &paging).await?;
                report.rows.extend(page.items);
                let Some(next) = page.next else {
                    return Ok(report);
                };
                paging = paging.after(next);
            }
        })
    }
}

impl UsageReport {
    /// Returns the sum of all rows, over all accounts, days and environments of the report.
    pub fn total(&self) -> UsageCounts {
        let mut total = UsageCounts::default();
        for row in &self.rows {
            total.add(row.counts.clone());
        }
        total
    }

    /// Returns the sums of all periods with usage, in their order.
    pub fn by_period(&self) -> BTreeMap<UsagePeriod, UsageCounts> {
        let mut periods: BTreeMap<UsagePeriod, UsageCounts> = BTreeMap::new();
        for row in &self.rows {
            let sum = periods.entry(row.period).or_default();
            sum.add(row.counts.clone());
        }
        periods
    }
}
