//! The counts of one key that are not recorded yet.

use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use smallvec::SmallVec;

use crate::key::digest::KeyId;
use crate::key::environment::Environment;
use crate::key::record::KeyRecord;
use crate::limit::charge::REQUESTS;
use crate::store::{KeyUsage, UsageCounts, UsagePeriod, UseTimes};
use crate::util::timestamp::nanoseconds;

/// The periods of which a meter keeps counts. While the store is down for longer, those of the
/// oldest one are added to the account.
const MOST_PERIODS: usize = 48;

/// The units of a meter that are counted by name. Those with further names are counted as `other`.
const MOST_UNITS: usize = 16;

/// The name of units that have no room of their own.
pub(super) const OTHER: &str = "other";

/// The nanoseconds of an hour.
const HOUR: u64 = 3_600_000_000_000;

/// A meter is on a list of the table.
const LISTED: u8 = 1;

/// A meter was listed for the first use of the key in this process, which is recorded at once.
const USED: u8 = 2;

/// The outcome of a decision, as it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counted {
    /// A limit denied the request.
    Limited,
    /// The request was denied for another reason.
    Refused,
}

/// The counts of a key, in its cached entry.
///
/// A request adds to a count and then looks whether the meter is on the list of those with counts.
/// The worker takes the meter off the list and then its counts. Both do so in one order that all
/// threads see, so no count is left behind on a meter that is on no list.
pub(crate) struct Meter {
    /// The nanoseconds since 1970 at which the current period begins.
    begins: AtomicU64,
    allowed: AtomicU64,
    /// The cost of admitted requests beyond one each, less what was refunded.
    further: AtomicI64,
    /// The last admission since the counts were taken, in nanoseconds since 1970; 0 if there was
    /// none.
    last: AtomicU64,
    /// The bits below.
    state: AtomicU8,
    limited: AtomicU64,
    refused: AtomicU64,
    /// The parts that few keys have and few requests change.
    rest: Mutex<Option<Box<Rest>>>,
    key: KeyId,
    lineage: KeyId,
    account: Box<str>,
    environment: Environment,
    /// Weak, since the table has the meter on its lists.
    table: Weak<dyn Table>,
    is_by_hour: bool,
}

/// The table that meters with counts are listed in.
pub(super) trait Table: Send + Sync {
    /// Puts a meter on a list, if there is room.
    fn list(&self, meter: &Arc<Meter>, is_first_use: bool) -> bool;

    /// Adds counts to those of their account, or to those without an account.
    fn fold(&self, usage: KeyUsage);

    /// Notes that a meter sets the counts of a period aside. Returns `false` if there is no room.
    fn keep_aside(&self) -> bool;

    /// Notes that meters have set so many periods less aside.
    fn release_aside(&self, periods: usize);
}

#[derive(Default)]
struct Rest {
    /// The first admission since the counts were taken.
    first: Option<u64>,
    units: SmallVec<[(Box<str>, i64); 1]>,
    address: Option<IpAddr>,
    /// The counts of periods that are over.
    over: Vec<KeyUsage>,
}

impl Meter {
    pub(super) fn new(
        table: Weak<dyn Table>,
        is_by_hour: bool,
        record: &KeyRecord,
        environment: &Environment,
    ) -> Self {
        Self {
            begins: AtomicU64::new(0),
            allowed: AtomicU64::new(0),
            further: AtomicI64::new(0),
            last: AtomicU64::new(0),
            state: AtomicU8::new(0),
            limited: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            rest: Mutex::default(),
            key: record.id(),
            lineage: record.lineage(),
            account: record.account().into(),
            environment: environment.clone(),
            table,
            is_by_hour,
        }
    }

    /// Returns whether the counts are those of a record in an environment.
    pub(crate) fn is_of(&self, record: &KeyRecord, environment: &Environment) -> bool {
        self.key == record.id()
            && *self.account == *record.account()
            && self.environment == *environment
    }

    /// Counts an admitted request of a cost.
    #[inline]
    pub(crate) fn admitted(
        self: &Arc<Self>,
        now: SystemTime,
        cost: u64,
        client: impl FnOnce() -> Option<IpAddr>,
    ) {
        let now = since_1970(now);
        self.enter(now);
        if cost == 0 {
            // First: if the counts are taken in between, `requests` is too low, and never too high.
            self.add_further(-1);
        }
        self.allowed.fetch_add(1, SeqCst);
        if cost > 1 {
            self.add_further(i64::try_from(cost - 1).unwrap_or(i64::MAX));
        }
        self.last.store(now, SeqCst);
        if self.state.load(SeqCst) != LISTED | USED {
            self.list_use(now, client());
        }
    }

    /// Counts a denied request.
    #[cold]
    pub(crate) fn denied(self: &Arc<Self>, now: SystemTime, as_: Counted) {
        self.enter(since_1970(now));
        let count = match as_ {
            Counted::Limited => &self.limited,
            Counted::Refused => &self.refused,
        };
        count.fetch_add(1, SeqCst);
        self.list();
    }

    /// Adds units, or takes back units if their number is negative.
    #[cold]
    pub(crate) fn add_units(self: &Arc<Self>, now: SystemTime, unit: &str, units: i64) {
        self.enter(since_1970(now));
        if unit == REQUESTS {
            self.add_further(units);
        } else {
            let mut rest = self.rest();
            add_unit(&mut rest.get_or_insert_default().units, unit, units);
        }
        self.list();
    }

    /// Begins another period, if the current one is over.
    #[inline]
    fn enter(&self, now: u64) {
        // An earlier time enters as well: the subtraction wraps around to a large number.
        if now.wrapping_sub(self.begins.load(SeqCst)) >= self.period() {
            self.begin_period(now);
        }
    }

    /// Puts the counts of the current period aside. A request that is counted at the same moment
    /// may be counted in either period, and is counted once.
    #[cold]
    fn begin_period(&self, now: u64) {
        let mut rest = self.rest();
        let begins = self.begins.load(SeqCst);
        if now.wrapping_sub(begins) < self.period() {
            return; // another request was faster
        }
        let mut aside = rest.take().unwrap_or_default();
        let counts = self.take_current(&mut aside);
        self.begins.store(now - now % self.period(), SeqCst);
        let no_room = counts.and_then(|counts| self.put_aside(&mut aside.over, counts));
        if !aside.over.is_empty() {
            *rest = Some(aside);
        }
        drop(rest);
        if let Some(no_room) = no_room {
            self.fold(no_room);
        }
    }

    /// Puts the counts of a period that is over aside. Returns counts that find no room.
    fn put_aside(&self, over: &mut Vec<KeyUsage>, counts: KeyUsage) -> Option<KeyUsage> {
        let counts = add_to_same(over, counts)?;
        let has_room = self.table.upgrade().is_some_and(|it| it.keep_aside());
        if !has_room {
            return Some(counts);
        }
        over.push(counts);
        if over.len() <= MOST_PERIODS {
            return None;
        }
        self.release_aside(1);
        Some(over.remove(0))
    }

    fn release_aside(&self, periods: usize) {
        if let Some(table) = self.table.upgrade().filter(|_| periods > 0) {
            table.release_aside(periods);
        }
    }

    /// Notes the time and the address of an admission, and lists the meter.
    #[cold]
    fn list_use(self: &Arc<Self>, now: u64, client: Option<IpAddr>) {
        let mut rest = self.rest();
        let noted = rest.get_or_insert_default();
        noted.first.get_or_insert(now);
        noted.address = client.or(noted.address);
        drop(rest);
        if self.state.fetch_or(USED, SeqCst) & USED != 0 {
            return self.list();
        }
        // Even if a denied request has listed the meter: that list is recorded later.
        self.state.fetch_or(LISTED, SeqCst);
        if !self.list_in_table(true) {
            self.state.fetch_and(!(LISTED | USED), SeqCst);
        }
    }

    /// Puts the meter on the list of those with counts, if there is room.
    fn list(self: &Arc<Self>) {
        let is_listed = self.state.fetch_or(LISTED, SeqCst) & LISTED != 0;
        if !is_listed && !self.list_in_table(false) {
            // It is tried again by the next request, or the counts are folded at the end.
            self.state.fetch_and(!LISTED, SeqCst);
        }
    }

    fn list_in_table(self: &Arc<Self>, is_first_use: bool) -> bool {
        let table = self.table.upgrade();
        table.is_some_and(|table| table.list(self, is_first_use))
    }

    /// Adds counts to those of the account.
    fn fold(&self, usage: KeyUsage) {
        if let Some(table) = self.table.upgrade() {
            table.fold(usage);
        }
    }

    fn add_further(&self, units: i64) {
        let add = |further: i64| Some(further.saturating_add(units));
        let _ = self.further.fetch_update(SeqCst, SeqCst, add);
    }

    /// Takes the counts of a meter that was on the list.
    pub(super) fn take(&self) -> Vec<KeyUsage> {
        // Clears the flag first, so that a request that counts later lists the meter again.
        self.state.fetch_and(!LISTED, SeqCst);
        self.take_all()
    }

    fn take_all(&self) -> Vec<KeyUsage> {
        let mut rest = self.rest();
        let mut aside = rest.take().unwrap_or_default();
        self.release_aside(aside.over.len());
        if let Some(counts) = self.take_current(&mut aside) {
            let new = add_to_same(&mut aside.over, counts);
            aside.over.extend(new);
        }
        aside.over
    }

    fn take_current(&self, rest: &mut Rest) -> Option<KeyUsage> {
        let allowed = self.allowed.swap(0, SeqCst);
        let further = self.further.swap(0, SeqCst);
        let requests = i64::try_from(allowed).unwrap_or(i64::MAX);
        let requests = requests.saturating_add(further);
        let mut counts = UsageCounts {
            allowed,
            limited: self.limited.swap(0, SeqCst),
            refused: self.refused.swap(0, SeqCst),
            ..UsageCounts::default()
        };
        let units = rest.units.drain(..);
        let units = units.map(|(unit, units)| (unit.into(), units));
        counts.units.extend(units);
        let (first, address) = (rest.first.take(), rest.address.take());
        if requests != 0 {
            counts.units.insert(REQUESTS.to_owned(), requests);
        }
        let last = self.last.swap(0, SeqCst);
        let used = (last > 0).then(|| UseTimes {
            first: at(first.map_or(last, |first| first.min(last))),
            last: at(last),
            last_address: address,
        });
        if counts.is_empty() && used.is_none() {
            return None;
        }
        let period = UsagePeriod::at(at(self.begins.load(SeqCst)), self.is_by_hour);
        let mut usage = KeyUsage::new(self.key, &*self.account, period);
        usage.lineage = Some(self.lineage);
        usage.environment = Some(self.environment.clone());
        usage.used = used;
        usage.counts = counts;
        Some(usage)
    }

    #[inline]
    const fn period(&self) -> u64 {
        if self.is_by_hour { HOUR } else { 24 * HOUR }
    }

    /// Puts the meter on the list if it has counts that found no room there.
    pub(crate) fn list_again(self: &Arc<Self>) {
        let counts = [&self.allowed, &self.limited, &self.refused];
        let is_empty = counts.iter().all(|count| count.load(SeqCst) == 0);
        if !is_empty || self.further.load(SeqCst) != 0 || self.rest().is_some() {
            self.list();
        }
    }

    fn rest(&self) -> MutexGuard<'_, Option<Box<Rest>>> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts that found no room on the list are added to those of the account.
impl Drop for Meter {
    fn drop(&mut self) {
        for usage in self.take_all() {
            self.fold(usage);
        }
    }
}

impl fmt::Debug for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meter")
            .field("key", &self.key)
            .field("allowed", &self.allowed)
            .finish_non_exhaustive()
    }
}

/// Adds units to those of the same name, or of all names that have no room.
fn add_unit(all: &mut SmallVec<[(Box<str>, i64); 1]>, unit: &str, units: i64) {
    let is_full = all.len() >= MOST_UNITS;
    let name = |all: &[(Box<str>, i64)], unit: &str| all.iter().position(|(it, _)| **it == *unit);
    let unit = if is_full && name(all, unit).is_none() {
        OTHER
    } else {
        unit
    };
    match name(all, unit) {
        Some(found) => all[found].1 = all[found].1.saturating_add(units),
        None => all.push((unit.into(), units)),
    }
}

/// Adds counts to those of the same period. Returns them if there are none.
fn add_to_same(all: &mut [KeyUsage], counts: KeyUsage) -> Option<KeyUsage> {
    let Some(same) = all.iter_mut().find(|it| it.period == counts.period) else {
        return Some(counts);
    };
    same.add(counts);
    None
}

/// Returns the nanoseconds since 1970, at least 1.
#[inline]
fn since_1970(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(1, nanoseconds).max(1)
}

fn at(nanoseconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(nanoseconds)
}
