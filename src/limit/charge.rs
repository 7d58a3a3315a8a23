//! Charges: units that a request is asked for, and whose budget they come from.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use crate::key::digest::KeyId;
use crate::key::environment::Environment;
use crate::key::quota::Quota;
use crate::key::record::KeyRecord;

/// The most charges that one request may bring.
pub(crate) const MAX_CHARGES: usize = 16;

/// The name of a limit, as callers and logs read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitName {
    text: Arc<str>,
    hash: u64,
}

impl LimitName {
    /// A name, such as `account_per_minute`.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        let text = name.into();
        // FNV-1a. Names are the application's own, so nobody seeks collisions among them.
        let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        Self { text, hash }
    }

    /// The name as it was given.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }
}

impl fmt::Display for LimitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What a limit counts by: each subject has a budget of its own under each limit's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Subject<'a> {
    /// One key.
    Key(KeyId),
    /// All keys of an account together, of whatever environment.
    Account(&'a str),
    /// All keys of an account in one environment together.
    AccountIn(&'a str, &'a Environment),
    /// One client address, as the rules masked it.
    Address(IpAddr),
    /// All clients together whose address is not known.
    UnknownAddress,
    /// Everybody together.
    Global,
    /// A subject of the application's own, as [`ApiKeysBuilder::add_subject`] says: a text of any
    /// length, which a client may have chosen.
    ///
    /// [`ApiKeysBuilder::add_subject`]: crate::ApiKeysBuilder::add_subject
    Custom(&'a str),
}

impl Subject<'_> {
    /// Returns whether strangers draw on the same budget.
    pub(crate) const fn is_shared_by_all(self) -> bool {
        matches!(self, Self::Global | Self::UnknownAddress)
    }
}

/// Units that are charged against one budget.
#[derive(Debug, Clone, Copy)]
pub struct Charge<'a> {
    name: &'a LimitName,
    subject: Subject<'a>,
    quota: Quota,
    cost: u64,
    /// Units that must be left at least.
    need: u64,
    unit: &'a str,
    home: Home<'a>,
    is_report_only: bool,
}

/// The account that a charge belongs to.
#[derive(Clone, Copy)]
enum Home<'a> {
    None,
    Account(&'a str),
    /// The account of this key. It is read only if a limiter asks, since the record of a cached key
    /// is seldom in the processor's caches.
    AccountOf(&'a KeyRecord),
}

impl<'a> Home<'a> {
    fn account(self) -> Option<&'a str> {
        match self {
            Self::None => None,
            Self::Account(account) => Some(account),
            Self::AccountOf(record) => Some(record.account()),
        }
    }
}

impl fmt::Debug for Home<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.account().fmt(f)
    }
}

/// The unit of limits that do not name another.
pub const REQUESTS: &str = "requests";

impl<'a> Charge<'a> {
    /// Creates a charge of requests. A cost of 0 only looks; one above the whole quota is never
    /// admitted.
    ///
    /// Its [home](Self::home) is the account of the subject, if that is one.
    pub const fn new(name: &'a LimitName, subject: Subject<'a>, quota: Quota, cost: u64) -> Self {
        let home = match subject {
            Subject::Account(account) | Subject::AccountIn(account, _) => Home::Account(account),
            _ => Home::None,
        };
        Self {
            name,
            subject,
            quota,
            cost,
            need: cost,
            unit: REQUESTS,
            home,
            is_report_only: false,
        }
    }

    /// Returns the same charge under another name, for a limiter that passes charges on to another.
    #[must_use]
    pub const fn with_name(mut self, name: &'a LimitName) -> Self {
        self.name = name;
        self
    }

    /// Sets the unit that the limit counts, such as `tokens`. A limit has one unit, so budgets do
    /// not differ by it.
    #[must_use]
    pub const fn with_unit(mut self, unit: &'a str) -> Self {
        self.unit = unit;
        self
    }

    /// Sets how many units must be left for the request to be admitted, where that is more than it
    /// takes. Default: as many as it takes.
    ///
    /// A limit whose unit is known only after the work, such as tokens, takes nothing in advance,
    /// and yet denies requests once it is used up.
    #[must_use]
    pub const fn needing(mut self, units: u64) -> Self {
        self.need = units;
        self
    }

    /// Sets the account that the charge belongs to, so that a cluster may keep the budgets of a key
    /// and of its account in one place.
    #[must_use]
    pub const fn with_home(mut self, account: &'a str) -> Self {
        self.home = Home::Account(account);
        self
    }

    /// Sets the account of a key as the one that the charge belongs to.
    #[inline]
    pub(crate) const fn with_home_of(mut self, key: &'a KeyRecord) -> Self {
        self.home = Home::AccountOf(key);
        self
    }

    /// Makes the charge one that only reports: it never denies a request, and is taken whenever the
    /// others are, also beyond the quota.
    #[must_use]
    pub const fn report_only(mut self) -> Self {
        self.is_report_only = true;
        self
    }

    /// The same charge about another subject.
    pub(crate) const fn about(mut self, subject: Subject<'a>) -> Self {
        self.subject = subject;
        self
    }

    /// The same charge at another cost, which is all that it needs.
    pub(crate) const fn with_cost(mut self, cost: u64) -> Self {
        self.cost = cost;
        self.need = cost;
        self
    }

    /// The same charge against one machine's share of the quota.
    pub(crate) fn shared_by(mut self, nodes: NonZeroU32) -> Self {
        // What is within the whole quota is within a share of it, or an outage would refuse it for
        // ever.
        self.quota = self
            .quota
            .shared_by(nodes)
            .at_least(self.need().min(self.quota.limit()));
        self
    }

    /// Returns whether another charge takes as much from the same budget.
    pub(crate) fn is_as(&self, other: &Self) -> bool {
        self.name == other.name
            && self.subject == other.subject
            && self.quota == other.quota
            && self.cost == other.cost
            && self.unit == other.unit
    }

    /// The name of the limit.
    pub const fn name(&self) -> &'a LimitName {
        self.name
    }

    /// Whose budget it is.
    pub const fn subject(&self) -> Subject<'a> {
        self.subject
    }

    /// What the budget is.
    pub const fn quota(&self) -> Quota {
        self.quota
    }

    /// How many units are asked for.
    pub const fn cost(&self) -> u64 {
        self.cost
    }

    /// Returns how many units must be left for the charge to be admissible: as many as it costs, or
    /// more.
    #[inline]
    pub const fn need(&self) -> u64 {
        if self.need > self.cost {
            return self.need;
        }
        self.cost
    }

    /// The unit that the limit counts: `requests` unless it says otherwise.
    pub const fn unit(&self) -> &'a str {
        self.unit
    }

    /// The account that the charge belongs to, if any.
    pub fn home(&self) -> Option<&'a str> {
        self.home.account()
    }

    /// Whether the charge only reports.
    pub const fn is_report_only(&self) -> bool {
        self.is_report_only
    }
}
