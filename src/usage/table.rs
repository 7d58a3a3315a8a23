//! The table of usage that is not recorded yet.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::batches::Batches;
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
    /// The periods that are over, and whose counts are set aside in meters.
    aside: AtomicUsize,
    /// The batches of recorders that were dropped.
    batches: Mutex<Vec<Batches>>,
    /// The requests that were added to sums of accounts, and to those without an account.
    without_key: AtomicU64,
    unattributed: AtomicU64,
}

/// Lists meters, the oldest first, so that a busy key, which is listed again at once, holds up no
/// other.
#[derive(Default)]
struct Lists {
    /// Those of keys that are used for the first time, and are recorded at once.
    new: VecDeque<Arc<Meter>>,
    others: VecDeque<Arc<Meter>>,
}

/// The state of the metering in this process: [`Health::usage`](crate::manage::Health::usage).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct UsageHealth {
    /// The keys whose counts wait to be recorded, at most
    /// [`Metering::max_keys`](crate::usage::Metering::max_keys). Keys of a batch that is being
    /// sent are not included.
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
            aside: AtomicUsize::new(0),
            batches: Mutex::default(),
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

    /// Returns the number of meters with counts: of keys that count for the first time, or of all.
    pub(crate) fn listed(&self, all: bool) -> usize {
        let lists = self.lists();
        if all { lists.len() } else { lists.new.len() }
    }

    /// Takes the counts of meters, to be recorded: of keys that count for the first time; or, if
    /// `all` is set, of all. Returns the number of meters, which is at most `most` and 0 only if
    /// there are none.
    pub(crate) fn take(&self, most: usize, all: bool) -> (Vec<KeyUsage>, usize) {
        let (mut taken, mut meters, mut rows) = (Vec::new(), 0, 0);
        // A row for each period and unit: after an outage, one key may have hundreds.
        while meters < most && rows < MOST_ROWS {
            let Some(meter) = self.lists().pop(all) else {
                break;
            };
            meters += 1;
            let usage = meter.take();
            rows += usage.iter().map(rows_of).sum::<usize>();
            taken.extend(usage);
        }
        (taken, meters)
    }

    /// Returns the number of counts that have lost their key.
    pub(crate) fn sum_count(&self) -> usize {
        self.sums().len()
    }

    /// Takes counts that have lost their key. Returns none if there are none.
    pub(crate) fn take_sums(&self) -> Vec<KeyUsage> {
        let mut sums = self.sums();
        let mut rows = 0;
        let some = sums.iter().take_while(|(_, usage)| {
            let is_room = rows < MOST_ROWS;
            rows += rows_of(usage);
            is_room
        });
        let some: Vec<Sum> = some.map(|(sum, _)| sum.clone()).collect();
        some.iter().filter_map(|sum| sums.remove(sum)).collect()
    }

    /// Returns the batches of a recorder that was dropped, or new ones.
    pub(crate) fn take_batches(&self) -> Batches {
        let left = self.batches().pop();
        left.unwrap_or_default()
    }

    /// Returns batches of a dropped recorder of which the last one is not known to be recorded.
    pub(crate) fn take_unconfirmed(&self) -> Option<Batches> {
        let mut batches = self.batches();
        let at = batches.iter().position(|it| it.unconfirmed().is_some())?;
        Some(batches.swap_remove(at))
    }

    /// Keeps the batches of a recorder that is dropped, for another one.
    pub(crate) fn keep_batches(&self, batches: Batches) {
        self.batches().push(batches);
    }

    fn batches(&self) -> MutexGuard<'_, Vec<Batches>> {
        self.batches.lock().unwrap_or_else(PoisonError::into_inner)
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
        list.push_back(Arc::clone(meter));
        true
    }

    fn keep_aside(&self) -> bool {
        let most = self.settings.most_keys;
        let add = |aside: usize| (aside < most).then_some(aside + 1);
        let (set, fetch) = (Ordering::Relaxed, Ordering::Relaxed);
        self.aside.fetch_update(set, fetch, add).is_ok()
    }

    fn release_aside(&self, periods: usize) {
        self.aside.fetch_sub(periods, Ordering::Relaxed);
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

/// Returns the approximate number of database rows of counts.
fn rows_of(usage: &KeyUsage) -> usize {
    1 + usage.counts.units.len()
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

    fn pop(&mut self, all: bool) -> Option<Arc<Meter>> {
        let new = self.new.pop_front();
        if new.is_some() || !all {
            return new;
        }
        self.others.pop_front()
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

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
