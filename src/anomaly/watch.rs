//! What one process sees of one key, in its cached entry.

use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::SystemTime;

use crate::anomaly::baseline::Baseline;
use crate::anomaly::country::Country;
use crate::anomaly::hours::{ALL_HOURS, hour_of, hour_of_day};
use crate::anomaly::notable::Notable;
use crate::anomaly::observation::{Observation, Seen};
use crate::key::digest::KeyId;
use crate::key::record::KeyRecord;

/// The watch is on the list of those that saw something.
const LISTED: u8 = 1;

/// What the watch saw is notable, and told with the next look.
const URGENT: u8 = 2;

/// The networks of clients whose country is not looked up again, since few others came after them.
const NETWORKS: usize = 8;

/// The requests of a key that were not told yet.
///
/// A request adds to a count, and compares it, the hour and the network of its client with what it
/// finds here. As long as all of it is usual, there is nothing else to do; the worker tells the
/// count now and then. A watch of a key that was not looked at yet is notable at once, so that the
/// worker fetches its profile.
pub(crate) struct Watch {
    hour: AtomicU32,
    requests: AtomicU64,
    /// The requests from which on they are notable.
    notable: AtomicU64,
    /// The networks of the last clients, as numbers, each at the place that its number tells.
    networks: [AtomicU64; NETWORKS],
    /// The bits above.
    state: AtomicU8,
    usual_hours: AtomicU32,
    /// The monotonic second of the last look.
    looked_at: AtomicU64,
    rest: Mutex<Rest>,
    key: KeyId,
    lineage: KeyId,
    account: Box<str>,
    version: u64,
    baseline: Option<Arc<Baseline>>,
    /// Weak, since the table has the watch on its list.
    table: Weak<dyn List>,
}

#[derive(Debug, Default)]
struct Rest {
    /// What is told with the next look, but for the requests of the current hour.
    seen: Seen,
    /// The countries that are known. `None` if none is notable.
    known: Option<Box<[Country]>>,
}

/// The list of watches that saw something.
pub(super) trait List: Send + Sync {
    /// Puts a watch on the list, if there is room.
    fn list(&self, watch: &Arc<Watch>) -> bool;
}

impl Watch {
    pub(super) fn new(
        table: Weak<dyn List>,
        record: &KeyRecord,
        baseline: Option<Arc<Baseline>>,
    ) -> Self {
        Self {
            hour: AtomicU32::new(0),
            requests: AtomicU64::new(0),
            notable: AtomicU64::new(1), // the first one, to fetch the profile
            networks: Default::default(),
            state: AtomicU8::new(0),
            usual_hours: AtomicU32::new(ALL_HOURS),
            looked_at: AtomicU64::new(0),
            rest: Mutex::new(Rest {
                seen: Seen::default(),
                known: Some(Box::default()),
            }),
            key: record.id(),
            lineage: record.lineage(),
            account: record.account().into(),
            version: record.version(),
            baseline,
            table,
        }
    }

    /// Returns whether the watch is that of a record.
    pub(crate) fn is_of(&self, record: &KeyRecord) -> bool {
        self.key == record.id() && self.version == record.version()
    }

    /// Counts a request of a client.
    #[inline]
    pub(crate) fn see(
        self: &Arc<Self>,
        now: SystemTime,
        client: Option<IpAddr>,
        country: impl FnOnce(IpAddr) -> Option<Country>,
    ) {
        let hour = hour_of(now);
        if self.hour.load(SeqCst) != hour {
            self.begin_hour(hour);
        }
        let requests = self.requests.fetch_add(1, SeqCst);
        if requests + 1 == self.notable.load(SeqCst) {
            self.state.fetch_or(URGENT, SeqCst);
        }
        if let Some(client) = client {
            let network = network_of(client);
            let place = &self.networks[place_of(network)];
            if place.load(SeqCst) != network {
                place.store(network, SeqCst);
                self.see_network(place, client, country);
            }
        }
        if self.state.load(SeqCst) & LISTED == 0 {
            self.list();
        }
    }

    /// Puts the requests of the hour before aside. A request that is counted at the same moment may
    /// be counted in either hour, and is counted once.
    #[cold]
    fn begin_hour(&self, hour: u32) {
        let mut rest = self.rest();
        let before = self.hour.load(SeqCst);
        if before == hour {
            return; // another request was faster
        }
        let requests = self.requests.swap(0, SeqCst);
        rest.seen.add(before, requests);
        self.hour.store(hour, SeqCst);
        drop(rest);
        if before / 24 != hour / 24 {
            // Once a day, countries are looked up again, so that the profile keeps those in use.
            self.networks
                .iter()
                .for_each(|place| place.store(0, SeqCst));
        }
        if self.usual_hours.load(SeqCst) >> hour_of_day(hour) & 1 == 0 {
            self.state.fetch_or(URGENT, SeqCst);
        }
    }

    #[cold]
    fn see_network(
        &self,
        place: &AtomicU64,
        client: IpAddr,
        country: impl FnOnce(IpAddr) -> Option<Country>,
    ) {
        let Some(country) = country(client) else {
            return;
        };
        let mut rest = self.rest();
        let is_notable = rest
            .known
            .as_ref()
            .is_some_and(|known| !known.contains(&country));
        if !rest.seen.add_country(country, client) {
            place.store(0, SeqCst); // there is no room: the next request tries again
        }
        drop(rest);
        if is_notable {
            self.state.fetch_or(URGENT, SeqCst);
        }
    }

    fn list(self: &Arc<Self>) {
        if self.state.fetch_or(LISTED, SeqCst) & LISTED != 0 {
            return;
        }
        let is_listed = self.table.upgrade().is_some_and(|table| table.list(self));
        if !is_listed {
            self.state.fetch_and(!LISTED, SeqCst); // the next request tries again
        }
    }

    /// Returns whether what the watch saw is to be told: because it is notable, or because the last
    /// look is so many seconds ago.
    pub(super) fn is_due(&self, second: u64, every: u64) -> bool {
        let is_urgent = self.state.load(SeqCst) & URGENT != 0;
        is_urgent || second.saturating_sub(self.looked_at.load(SeqCst)) >= every
    }

    /// Takes what a watch that was on the list saw.
    pub(super) fn take(&self, second: u64) -> Option<Observation> {
        // First this: who counts from now on lists the watch again.
        self.state.fetch_and(!(LISTED | URGENT), SeqCst);
        self.looked_at.store(second, SeqCst);
        let mut rest = self.rest();
        let mut seen = std::mem::take(&mut rest.seen);
        seen.add(self.hour.load(SeqCst), self.requests.swap(0, SeqCst));
        drop(rest);
        (!seen.is_empty()).then(|| Observation {
            key: self.key,
            lineage: self.lineage,
            account: self.account.clone(),
            baseline: self.baseline.clone(),
            seen,
        })
    }

    /// Puts back what could not be told, to be told with a later look.
    pub(crate) fn put_back(self: &Arc<Self>, observation: Observation) {
        self.rest().seen.add_all(observation.seen);
        self.list();
    }

    /// Sets what is notable from now on.
    pub(crate) fn set(&self, notable: Notable) {
        self.notable.store(notable.requests.max(1), SeqCst);
        self.usual_hours.store(notable.usual_hours, SeqCst);
        self.rest().known = notable.countries;
    }

    fn rest(&self) -> MutexGuard<'_, Rest> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns a number for the network of a client: the address in IPv4, and the /64 in IPv6, which is
/// given to a customer as a whole. It is never 0.
#[inline]
fn network_of(client: IpAddr) -> u64 {
    match client {
        IpAddr::V4(client) => 1 << 32 | u64::from(client.to_bits()),
        IpAddr::V6(client) => {
            let [a, b, c, d, ..] = client.segments().map(u64::from);
            1 << 63 | a << 48 | b << 32 | c << 16 | d
        }
    }
}

/// Returns the place of a network among those that are remembered.
#[inline]
const fn place_of(network: u64) -> usize {
    (network.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 61) as usize
}

const _: () = assert!(NETWORKS == 1 << (64 - 61));

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("key", &self.key)
            .field("requests", &self.requests)
            .finish_non_exhaustive()
    }
}
