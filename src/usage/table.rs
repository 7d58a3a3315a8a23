//! The table of usage that is not recorded yet.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::meter::{Meter, OTHER, Table};
use super::metering::Metering;
use crate::key::environment::Environment;
use crate::key::record::KeyRecord;
use crate::store::{KeyUsage, UsageCounts, UsagePeriod};

/// The approximate number of rows in a batch, so that a slow database writes them within the time
/// limit.
const MOST_ROWS: usize = 4_000;

/// The units of a sum that are counted by name.
const MOST_UNITS: usize = 64;

/// The sums of accounts that are kept; those of more accounts are added up without an account.
const MOST_SUMS: usize = 10_000;

/// The meters with counts, and the sums of counts that have lost their key.
pub(crate) struct UsageTable {
    /// The workers that record what is counted. Without one, nothing is counted.
    recorders: AtomicUsize,
    hides_addresses: bool,
    settings: Metering,
    lists: Mutex<Lists>,
    /// A meter found no room on the list.
    has_overflowed: AtomicBool,
    sums: Mutex<HashMap<Sum, KeyUsage>>,
    /// The requests that were added to sums of accounts, and to those without an account.
    without_key: AtomicU64,
    unattributed: AtomicU64,
}

#[derive(Default)]
struct Lists {
    /// Those of keys that are used for the first time, and are recorded at once.
    new: Vec<Arc<Meter>>,
    others: Vec<Arc<Meter>>,
}

/// The state of the metering in this process: [`Health::usage`](crate::manage::Health::usage).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct UsageHealth {
    /// The keys whose counts wait to be recorded, at most
    /// [`Metering::max_keys`](crate::usage::Metering::max_keys).
    pub waiting_keys: usize,
    /// The requests, since the process began, that were counted for their account without the key,
    /// since more keys were in use than counts are kept of.
    pub without_key: u64,
    /// The requests, since the process began, that were counted without an account.
    pub unattributed: u64,
}

/// The counts that are added up.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Sum {
    /// `None` if there are too many accounts.
    account: Option<String>,
    environment: Option<Environment>,
    period: UsagePeriod,
}

impl UsageTable {
    pub(crate) fn new(settings: Metering, hides_addresses: bool) -> Arc<Self> {
        Arc::new(Self {
            recorders: AtomicUsize::new(0),
            hides_addresses,
            settings,
            lists: Mutex::default(),
            has_overflowed: AtomicBool::new(false),
            sums: Mutex::default(),
            without_key: AtomicU64::new(0),
            unattributed: AtomicU64::new(0),
        })
    }

    /// Counts a worker that records what is counted.
    pub(crate) fn add_recorder(&self) {
        self.recorders.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn remove_recorder(&self) {
        self.recorders.fetch_sub(1, Ordering::Relaxed);
    }

    /// Returns whether usage is counted.
    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        self.recorders.load(Ordering::Relaxed) > 0
    }

    /// Creates the meter of a key.
    pub(crate) fn meter(
        self: &Arc<Self>,
        record: &KeyRecord,
        environment: &Environment,
    ) -> Arc<Meter> {
        let table: Weak<Self> = Arc::downgrade(self);
        Arc::new(Meter::new(
            table,
            self.settings.by_hour,
            record,
            environment,
        ))
    }

    pub(crate) fn settings(&self) -> Metering {
        self.settings
    }

    /// Returns the address as it is recorded: not at all, if addresses are hidden.
    pub(crate) fn shown(&self, client: Option<IpAddr>) -> Option<IpAddr> {
        client.filter(|_| !self.hides_addresses)
    }

    pub(crate) fn health(&self) -> UsageHealth {
        UsageHealth {
            waiting_keys: self.lists().len(),
            without_key: self.without_key.load(Ordering::Relaxed),
            unattributed: self.unattributed.load(Ordering::Relaxed),
        }
    }

    /// Returns whether a meter found no room on the list since the last call.
    pub(crate) fn take_overflow(&self) -> bool {
        self.has_overflowed.swap(false, Ordering::Relaxed)
    }

    /// Returns whether so many counts wait that they should be recorded soon.
    pub(crate) fn is_half_full(&self) -> bool {
        self.lists().len() >= self.settings.most_keys.div_ceil(2)
    }

    /// Takes the counts of at most so many keys, to be recorded: those that count for the first
    /// time; or, if `all` is set, all, and those that have lost their key as well.
    pub(crate) fn take(&self, most: usize, all: bool) -> Vec<KeyUsage> {
        let mut meters = self.lists().take(most, all);
        let mut taken: Vec<KeyUsage> = Vec::new();
        let mut rows = 0;
        while let Some(meter) = meters.pop() {
            let usage = meter.take();
            // A row for each period and unit: after an outage, one key may have hundreds.
            rows += usage
                .iter()
                .map(|it| 1 + it.counts.units.len())
                .sum::<usize>();
            taken.extend(usage);
            if rows >= MOST_ROWS {
                break;
            }
        }
        self.lists().others.append(&mut meters);
        if all && taken.len() < most {
            let mut sums = self.sums();
            let some: Vec<Sum> = sums.keys().take(most - taken.len()).cloned().collect();
            taken.extend(some.iter().filter_map(|sum| sums.remove(sum)));
        }
        taken
    }

    fn lists(&self) -> MutexGuard<'_, Lists> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sums(&self) -> MutexGuard<'_, HashMap<Sum, KeyUsage>> {
        self.sums.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table for UsageTable {
    fn list(&self, meter: &Arc<Meter>, is_first_use: bool) -> bool {
        let mut lists = self.lists();
        if lists.len() >= self.settings.most_keys {
            self.has_overflowed.store(true, Ordering::Relaxed);
            return false;
        }
        let list = if is_first_use {
            &mut lists.new
        } else {
            &mut lists.others
        };
        list.push(Arc::clone(meter));
        true
    }

    #[cold]
    fn fold(&self, mut usage: KeyUsage) {
        if !self.is_on() && usage.counts.is_empty() {
            return;
        }
        usage.fold_into_account();
        let counts = &usage.counts;
        let requests = counts
            .allowed
            .saturating_add(counts.limited)
            .saturating_add(counts.refused);
        let mut sums = self.sums();
        let mut sum = Sum::of(&usage);
        let mut folded = &self.without_key;
        if sums.len() >= MOST_SUMS && !sums.contains_key(&sum) {
            usage.fold_into_rest();
            sum = Sum::of(&usage);
            folded = &self.unattributed;
        }
        folded.fetch_add(requests, Ordering::Relaxed);
        let kept = match sums.entry(sum) {
            Entry::Occupied(entry) => {
                let kept = entry.into_mut();
                kept.add(usage);
                kept
            }
            Entry::Vacant(entry) => entry.insert(usage),
        };
        keep_few_units(&mut kept.counts);
    }
}

/// Adds the units with the last names up, if there are many names.
fn keep_few_units(counts: &mut UsageCounts) {
    while counts.units.len() > MOST_UNITS {
        let last = counts.units.keys().rev().find(|name| *name != OTHER);
        let Some(last) = last.cloned() else { return };
        let units = counts.units.remove(&last).unwrap_or_default();
        let other = counts.units.entry(OTHER.to_owned()).or_default();
        *other = other.saturating_add(units);
    }
}

impl Lists {
    fn len(&self) -> usize {
        self.new.len() + self.others.len()
    }

    fn take(&mut self, most: usize, all: bool) -> Vec<Arc<Meter>> {
        let from = |list: &mut Vec<Arc<Meter>>, most: usize| {
            list.split_off(list.len().saturating_sub(most))
        };
        let mut taken = from(&mut self.new, most);
        if all {
            let room = most - taken.len();
            taken.extend(from(&mut self.others, room));
        }
        taken
    }
}

impl Sum {
    fn of(usage: &KeyUsage) -> Self {
        Self {
            account: usage.account.clone(),
            environment: usage.environment.clone(),
            period: usage.period,
        }
    }
}

impl fmt::Debug for UsageTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UsageTable")
            .field("listed", &self.lists().len())
            .field("sums", &self.sums().len())
            .finish_non_exhaustive()
    }
}
