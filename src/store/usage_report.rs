//! Reports of recorded usage: queries, and rows.

use std::time::SystemTime;

use crate::key::digest::KeyId;
use crate::key::environment::Environment;
use crate::store::list::fingerprint;
use crate::store::usage::{KeyUsage, UsageCounts, UsagePeriod};
use crate::util::hex::{hex, unhex};

/// A query for recorded usage. Usage must meet all filters.
///
/// ```
/// use std::time::SystemTime;
/// use tower_api_key::store::{UsageDetail, UsageQuery};
///
/// // The last 30 days, today included.
/// let query = UsageQuery::last_days(30, SystemTime::now())
///     .with_account("acme".to_owned())
///     .with_detail(UsageDetail::Lineage);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct UsageQuery {
    /// The first day, in days since 1 January 1970, UTC.
    pub first_day: u32,
    /// The last day, which is included.
    pub last_day: u32,
    /// Only the usage of this account. Default: any.
    pub account: Option<String>,
    /// Only the usage of this key. Default: any.
    pub key: Option<KeyId>,
    /// Only the usage of the chain of rotations that began with this key. Default: any.
    pub lineage: Option<KeyId>,
    /// Only the usage in this environment. Default: any, so that test keys are included.
    pub environment: Option<Environment>,
    /// The detail of the rows. Default: by account.
    pub detail: UsageDetail,
    /// One row for each hour instead of each day. Usage that was
    /// [counted](crate::usage::Metering::by_hour) by day is left out.
    pub by_hour: bool,
}

/// The detail of the rows of a [`UsageQuery`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum UsageDetail {
    /// One row for each account.
    #[default]
    Account,
    /// One row for each chain of rotations, so that a rotation does not cut a curve in two.
    Lineage,
    /// One row for each key.
    Key,
}

/// A row of recorded usage: the sum of a period. Rows also differ by environment.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct UsageRow {
    /// The account. `None` for usage that is not itemized by account.
    pub account: Option<String>,
    /// The period.
    pub period: UsagePeriod,
    /// The key, or the first key of the chain, as the [detail](UsageQuery::detail) says. `None` for
    /// usage of the account that is not itemized by key.
    pub key: Option<KeyId>,
    /// The environment.
    pub environment: Option<Environment>,
    /// The counts.
    pub counts: UsageCounts,
}

impl UsageQuery {
    /// Creates a query for some days, from the first to the last.
    pub const fn days(first: u32, last: u32) -> Self {
        Self {
            first_day: first,
            last_day: last,
            account: None,
            key: None,
            lineage: None,
            environment: None,
            detail: UsageDetail::Account,
            by_hour: false,
        }
    }

    /// Creates a query for the last days up to `now`, of which the last may not be over yet.
    pub fn last_days(days: u32, now: SystemTime) -> Self {
        let today = UsagePeriod::at(now, false).day();
        Self::days((today + 1).saturating_sub(days.max(1)), today)
    }

    /// Reads only the usage of an account.
    #[must_use]
    pub fn with_account(mut self, account: impl Into<Option<String>>) -> Self {
        self.account = account.into();
        self
    }

    /// Reads only the usage of a key.
    #[must_use]
    pub fn with_key(mut self, key: impl Into<Option<KeyId>>) -> Self {
        self.key = key.into();
        self
    }

    /// Reads only the usage of a chain of rotations: of all keys whose
    /// [lineage](crate::KeyRecord::lineage) is this key.
    #[must_use]
    pub fn with_lineage(mut self, first: impl Into<Option<KeyId>>) -> Self {
        self.lineage = first.into();
        self
    }

    /// Reads only the usage in an environment.
    #[must_use]
    pub fn with_environment(mut self, environment: impl Into<Option<Environment>>) -> Self {
        self.environment = environment.into();
        self
    }

    /// Sets the detail.
    #[must_use]
    pub const fn with_detail(mut self, detail: UsageDetail) -> Self {
        self.detail = detail;
        self
    }

    /// Reads one row for each hour.
    #[must_use]
    pub const fn by_hour(mut self) -> Self {
        self.by_hour = true;
        self
    }

    /// Returns 16 hexadecimal digits that identify the query, for stores to put into cursors.
    pub fn fingerprint(&self) -> String {
        let [key, lineage] = [self.key, self.lineage].map(|id| id.map(|id| id.to_string()));
        let detail = match self.detail {
            UsageDetail::Account => "account",
            UsageDetail::Lineage => "lineage",
            UsageDetail::Key => "key",
        };
        let [first, last] = [self.first_day, self.last_day].map(|day| day.to_string());
        fingerprint(&[
            Some("usage"),
            Some(&first),
            Some(&last),
            self.account.as_deref(),
            key.as_deref(),
            lineage.as_deref(),
            self.environment.as_ref().map(Environment::as_str),
            Some(detail),
            Some(if self.by_hour { "hour" } else { "day" }),
        ])
    }
}

impl UsageRow {
    /// Creates a row of an account.
    pub fn new(
        account: impl Into<Option<String>>,
        period: UsagePeriod,
        counts: UsageCounts,
    ) -> Self {
        Self {
            account: account.into(),
            period,
            key: None,
            environment: None,
            counts,
        }
    }

    /// Sets the key, or the first key of the chain.
    #[must_use]
    pub fn with_key(mut self, key: impl Into<Option<KeyId>>) -> Self {
        self.key = key.into();
        self
    }

    /// Sets the environment.
    #[must_use]
    pub fn with_environment(mut self, environment: impl Into<Option<Environment>>) -> Self {
        self.environment = environment.into();
        self
    }
}

/// The subject of usage without an account.
const UNATTRIBUTED: &[u8] = &[0];

/// The place of a row in a report, by which rows are sorted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct UsagePlace {
    pub(crate) account: String,
    /// The number of the day or the hour.
    pub(crate) period: u32,
    /// The id of a key or of a chain; empty for an account, and [`UNATTRIBUTED`] for usage without
    /// an account.
    pub(crate) subject: Vec<u8>,
    pub(crate) environment: String,
}

impl UsagePlace {
    /// Returns the place of usage in a report; `None` if the report leaves it out.
    pub(crate) fn of(usage: &KeyUsage, query: &UsageQuery) -> Option<Self> {
        let is_meant = (query.first_day..=query.last_day).contains(&usage.period.day())
            && (query.account.is_none() || query.account == usage.account)
            && (query.key.is_none() || query.key == usage.key)
            && (query.lineage.is_none() || query.lineage == usage.lineage)
            && (query.environment.is_none() || query.environment == usage.environment);
        let period = match usage.period {
            UsagePeriod::Hour(hour) if query.by_hour => hour,
            UsagePeriod::Day(_) if query.by_hour => return None,
            period => period.day(),
        };
        let subject = match query.detail {
            UsageDetail::Account => None,
            UsageDetail::Lineage => usage.lineage,
            UsageDetail::Key => usage.key,
        };
        let subject = match (&usage.account, subject) {
            (None, _) => UNATTRIBUTED.to_vec(),
            (Some(_), subject) => subject.map_or(Vec::new(), |id| id.as_bytes().to_vec()),
        };
        let environment = usage.environment.as_ref().map(Environment::as_str);
        is_meant.then(|| Self {
            account: usage.account.clone().unwrap_or_default(),
            period,
            subject,
            environment: environment.unwrap_or_default().to_owned(),
        })
    }

    /// Returns the row at this place; `None` if the environment is not a valid name.
    pub(crate) fn row(&self, by_hour: bool, counts: UsageCounts) -> Option<UsageRow> {
        let period = if by_hour {
            UsagePeriod::Hour(self.period)
        } else {
            UsagePeriod::Day(self.period)
        };
        let is_unattributed = self.subject == UNATTRIBUTED;
        let account = (!is_unattributed).then(|| self.account.clone());
        let key = <[u8; 16]>::try_from(self.subject.as_slice());
        let environment = match self.environment.as_str() {
            "" => None,
            name => Some(name.parse().ok()?),
        };
        let row = UsageRow::new(account, period, counts);
        Some(
            row.with_key(key.ok().map(KeyId::from_bytes))
                .with_environment(environment),
        )
    }

    /// Returns the place as text, for cursors.
    pub(crate) fn to_text(&self) -> String {
        let texts = [
            self.account.as_bytes(),
            &self.subject,
            self.environment.as_bytes(),
        ];
        let [account, subject, environment] = texts.map(hex);
        format!("{}-{account}-{subject}-{environment}", self.period)
    }

    pub(crate) fn from_text(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let period = parts.next()?.parse().ok()?;
        let mut bytes = || unhex(parts.next()?);
        let place = Self {
            period,
            account: String::from_utf8(bytes()?).ok()?,
            subject: bytes()?,
            environment: String::from_utf8(bytes()?).ok()?,
        };
        parts.next().is_none().then_some(place)
    }
}
