//! Charges: a number of units, and the budget that they are taken from.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use crate::key::digest::KeyId;
use crate::key::environment::Environment;
use crate::key::quota::Quota;
use crate::key::record::KeyRecord;

/// The maximum number of charges of one request.
pub(crate) const MAX_CHARGES: usize = 16;

/// The name of a limit, as callers and logs see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitName {
    text: Arc<str>,
    hash: u64,
}

impl LimitName {
    /// Creates a name, such as `account_per_minute`.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        let text = name.into();
        // FNV-1a. The application chooses the names, so nobody attacks it with collisions.
        let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        Self { text, hash }
    }

    /// Returns the name as a string.
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

/// The subject of a limit: each subject has a budget of its own under each limit's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Subject<'a> {
    /// One key.
    Key(KeyId),
    /// All keys of an account together, in all environments.
    Account(&'a str),
    /// All keys of an account in one environment together.
    AccountIn(&'a str, &'a Environment),
    /// One client address, as the rules masked it.
    Address(IpAddr),
    /// All clients whose address is not known, together.
    UnknownAddress,
    /// All callers together.
    Global,
    /// A subject of the application's own, as a function that is set with
    /// [`ApiKeysBuilder::add_subject`] returns it. The text has any length, and a client may have
    /// chosen it.
    ///
    /// [`ApiKeysBuilder::add_subject`]: crate::ApiKeysBuilder::add_subject
    Custom(&'a str),
}

impl Subject<'_> {
    /// Returns whether unrelated callers share the budget.
    pub(crate) const fn is_shared_by_all(self) -> bool {
        matches!(self, Self::Global | Self::UnknownAddress)
    }
}

/// A number of units that is charged against one budget.
#[derive(Debug, Clone, Copy)]
pub struct Charge<'a> {
    name: &'a LimitName,
    subject: Subject<'a>,
    quota: Quota,
    cost: u64,
    /// The units that must remain for the charge to be admissible.
    need: u64,
    unit: &'a str,
    home: Home<'a>,
    is_report_only: bool,
    /// The percents of the quota whose use is told; 0 for none.
    tell_at: u8,
}

/// The account that a charge belongs to.
#[derive(Clone, Copy)]
enum Home<'a> {
    None,
    Account(&'a str),
    /// The account of this key. The record is read only if a limiter asks, since the record of a
    /// cached key is rarely in the processor's caches.
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

/// The unit of limits that name no other.
pub const REQUESTS: &str = "requests";

impl<'a> Charge<'a> {
    /// Creates a charge of requests. A cost of 0 takes nothing and reports the status of the
    /// budget. A cost above the quota is never admitted.
    ///
    /// The [home](Self::home) of the charge is the account of the subject, if the subject has one.
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
            tell_at: 0,
        }
    }

    /// Sets another name, for a limiter that passes charges on to another limiter.
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

    /// Sets the units that must remain for the request to be admitted, if they are more than the
    /// cost. Default: the cost.
    ///
    /// The cost in some units, such as tokens, is known only after the work. A limit in such a unit
    /// takes nothing in advance, but denies requests when it is used up.
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

    /// Makes the charge report-only: it never denies a request. It is taken whenever the other
    /// charges are, even beyond its quota.
    #[must_use]
    pub const fn report_only(mut self) -> Self {
        self.is_report_only = true;
        self
    }

    /// Sets the percents of the quota whose use is told.
    #[inline]
    pub(crate) const fn telling_at(mut self, percent: u8) -> Self {
        self.tell_at = percent;
        self
    }

    /// Returns the percents of the quota whose use is told; 0 for none.
    pub(crate) const fn tell_at(&self) -> u8 {
        self.tell_at
    }

    /// Sets another subject.
    pub(crate) const fn about(mut self, subject: Subject<'a>) -> Self {
        self.subject = subject;
        self
    }

    /// Sets another cost, and the same need.
    pub(crate) const fn with_cost(mut self, cost: u64) -> Self {
        self.cost = cost;
        self.need = cost;
        self
    }

    /// Reduces the quota to the share of one of `nodes` machines.
    pub(crate) fn shared_by(mut self, nodes: NonZeroU32) -> Self {
        // A need within the quota must fit into the share. Otherwise an outage would refuse the
        // request for ever.
        self.quota = self
            .quota
            .shared_by(nodes)
            .at_least(self.need().min(self.quota.limit()));
        self
    }

    /// Returns whether another charge takes the same cost from the same budget.
    pub(crate) fn is_as(&self, other: &Self) -> bool {
        self.name == other.name
            && self.subject == other.subject
            && self.quota == other.quota
            && self.cost == other.cost
            && self.unit == other.unit
    }

    /// Returns the name of the limit.
    pub const fn name(&self) -> &'a LimitName {
        self.name
    }

    /// Returns the subject, which owns the budget.
    pub const fn subject(&self) -> Subject<'a> {
        self.subject
    }

    /// Returns the quota of the budget.
    pub const fn quota(&self) -> Quota {
        self.quota
    }

    /// Returns the units that the charge takes.
    pub const fn cost(&self) -> u64 {
        self.cost
    }

    /// Returns the units that must remain for the charge to be admissible: the cost, or more.
    #[inline]
    pub const fn need(&self) -> u64 {
        if self.need > self.cost {
            return self.need;
        }
        self.cost
    }

    /// Returns the unit that the limit counts: `requests` unless another one was set.
    pub const fn unit(&self) -> &'a str {
        self.unit
    }

    /// Returns the account that the charge belongs to, if any.
    pub fn home(&self) -> Option<&'a str> {
        self.home.account()
    }

    /// Returns whether the charge is report-only.
    pub const fn is_report_only(&self) -> bool {
        self.is_report_only
    }
}
