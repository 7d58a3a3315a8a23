//! The requests of one key that one process sees, in the cached entry.

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

/// The watch saw something notable, which is told with the next look.
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
    predecessor: Option<KeyId>,
    account: Box<str>,
    version: u64,
    baseline: Option<Arc<Baseline>>,
    /// Weak, since the table has the watch on its list.
    table: Weak<dyn List>,
}

#[derive(Debug, Default)]
struct Rest {
    /// The part that is told with the next look, but for the requests of the current hour.
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
            predecessor: record.rotated_from(),
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

    /// Counts a request. `network` is a number for where it comes from, and `country` tells the
    /// country there, with the address of the client if that is known.
    #[inline]
    pub(crate) fn see(
        self: &Arc<Self>,
        now: SystemTime,
        network: Option<u64>,
        country: impl FnOnce() -> Option<(Country, Option<IpAddr>)>,
    ) {
        let hour = hour_of(now);
        if self.hour.load(SeqCst) != hour {
            self.begin_hour(hour);
        }
        let requests = self.requests.fetch_add(1, SeqCst);
        if requests + 1 == self.notable.load(SeqCst) {
            self.state.fetch_or(URGENT, SeqCst);
        }
        if let Some(network) = network {
            let place = &self.networks[place_of(network)];
            if place.load(SeqCst) != network {
                place.store(network, SeqCst);
                self.see_country(place, country);
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
            self.forget_networks();
        }
        if self.usual_hours.load(SeqCst) >> hour_of_day(hour) & 1 == 0 {
            self.state.fetch_or(URGENT, SeqCst);
        }
    }

    #[cold]
    fn see_country(
        &self,
        place: &AtomicU64,
        country: impl FnOnce() -> Option<(Country, Option<IpAddr>)>,
    ) {
        let Some((country, client)) = country() else {
            return;
        };
        let mut rest = self.rest();
        let Rest { seen, known } = &mut *rest;
        let known = known.as_deref();
        let is_notable = known.is_some_and(|known| !known.contains(&country));
        let is_added = seen.add_country(country, client, known);
        drop(rest);
        if !is_added {
            place.store(0, SeqCst); // there is no room: the next request tries again
        }
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

    /// Lists a watch that was taken off the list, and not looked at.
    pub(crate) fn list_again(self: &Arc<Self>) {
        self.state.fetch_and(!LISTED, SeqCst);
        self.state.fetch_or(URGENT, SeqCst);
        self.list();
    }

    /// Returns whether what the watch saw is to be told: because it is notable, or because the last
    /// look is so many seconds ago.
    pub(super) fn is_due(&self, second: u64, every: u64) -> bool {
        let is_urgent = self.state.load(SeqCst) & URGENT != 0;
        is_urgent || second.saturating_sub(self.looked_at.load(SeqCst)) >= every
    }

    /// Takes what a watch that was on the list saw.
    pub(crate) fn take(&self, second: u64) -> Option<Observation> {
        // First this: who counts from now on lists the watch again.
        self.state.fetch_and(!(LISTED | URGENT), SeqCst);
        self.looked_at.store(second, SeqCst);
        let mut rest = self.rest();
        let mut seen = std::mem::take(&mut rest.seen);
        seen.add(self.hour.load(SeqCst), self.requests.swap(0, SeqCst));
        drop(rest);
        (!seen.is_empty()).then(|| Observation {
            key: self.key,
            predecessor: self.predecessor,
            hour: self.hour.load(SeqCst),
            account: self.account.clone(),
            baseline: self.baseline.clone(),
            seen,
        })
    }

    /// Puts back what could not be told, to be told with the next look.
    pub(crate) fn put_back(self: &Arc<Self>, observation: Observation) {
        let mut rest = self.rest();
        let Rest { seen, known } = &mut *rest;
        let has_room = seen.add_all(observation.seen, known.as_deref());
        drop(rest);
        if !has_room {
            self.forget_networks();
        }
        self.list_again();
    }

    /// Sets what is notable from now on, also of what was seen since the look began.
    pub(crate) fn set(&self, notable: Notable) {
        let requests = notable.requests.max(1);
        self.notable.store(requests, SeqCst);
        self.usual_hours.store(notable.usual_hours, SeqCst);
        self.rest().known = notable.countries;
        if self.requests.load(SeqCst) >= requests {
            self.state.fetch_or(URGENT, SeqCst);
        }
    }

    /// Lets the countries of all networks be looked up again.
    fn forget_networks(&self) {
        for place in &self.networks {
            place.store(0, SeqCst);
        }
    }

    fn rest(&self) -> MutexGuard<'_, Rest> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns a number for the network of a client: the address in IPv4, and the /64 in IPv6, which is
/// given to a customer as a whole. It is never 0.
#[inline]
pub(crate) fn network_of(client: IpAddr) -> u64 {
    match client {
        IpAddr::V4(client) => 1 << 32 | u64::from(client.to_bits()),
        IpAddr::V6(client) => {
            let [a, b, c, d, ..] = client.segments().map(u64::from);
            1 << 63 | a << 48 | b << 32 | c << 16 | d
        }
    }
}

/// Returns a number for a country that is told with each request. It is no number of a network.
#[inline]
pub(crate) fn number_of(country: Country) -> u64 {
    1 << 62 | u64::from(u16::from_le_bytes(country.to_bytes()))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::anomaly::settings::AnomalyDetection;
    use crate::anomaly::watch_table::WatchTable;
    use crate::key::digest::KeyDigest;
    use std::net::Ipv4Addr;
    use std::time::{Duration, UNIX_EPOCH};

    fn watch() -> (Arc<WatchTable>, Arc<Watch>) {
        let table = WatchTable::new(AnomalyDetection::new());
        let record = KeyRecord::imported(KeyDigest::of("a key"), "acme");
        let watch = table.watch(&record);
        (table, watch)
    }

    fn at(hour: u32) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(u64::from(hour) * 3_600 + 7)
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(192, 0, 2, last))
    }

    fn network(last: u8) -> u64 {
        network_of(address(last))
    }

    fn country(code: &str) -> (Country, Option<IpAddr>) {
        (Country::new(code).unwrap(), None)
    }

    fn take(table: &WatchTable, second: u64, all: bool) -> Vec<(Arc<Watch>, Observation)> {
        let due = table.take_due(second, all).into_iter();
        let taken = due.filter_map(|watch| watch.take(second).map(|seen| (watch, seen)));
        taken.collect()
    }

    fn sum(seen: &[(Arc<Watch>, Observation)]) -> u64 {
        let requests = seen.iter().flat_map(|(_, seen)| &seen.seen.requests);
        requests.map(|(_, requests)| requests).sum()
    }

    /// However threads come in between, each request is taken once.
    #[test]
    fn every_request_is_taken_once() {
        const THREADS: u32 = 4;
        const EACH: u32 = 20_000;
        let (table, watch) = watch();
        let mut taken = 0;
        std::thread::scope(|scope| {
            let see = |thread: u32| {
                let watch = Arc::clone(&watch);
                move || {
                    for number in 0..EACH {
                        // The hour goes on, and threads differ about it.
                        watch.see(at(100 + (number + thread) / EACH), None, || None);
                    }
                }
            };
            let threads: Vec<_> = (0..THREADS)
                .map(|thread| scope.spawn(see(thread)))
                .collect();
            while !threads
                .iter()
                .all(std::thread::ScopedJoinHandle::is_finished)
            {
                let seen = take(&table, 0, true);
                if taken % 3 == 1 {
                    for (watch, seen) in seen {
                        watch.put_back(seen); // it could not be told
                    }
                } else {
                    taken += sum(&seen);
                }
            }
        });
        taken += sum(&take(&table, 0, true));
        assert_eq!(taken, u64::from(THREADS * EACH));
        assert!(take(&table, 0, true).is_empty());
    }

    #[test]
    fn a_country_is_looked_up_when_the_network_changes_and_once_a_day() {
        let (_table, watch) = watch();
        let lookups = std::cell::Cell::new(0);
        let see = |hour, client: Option<IpAddr>| {
            watch.see(at(hour), client.map(network_of), || {
                lookups.set(lookups.get() + 1);
                Some((Country::new("DE").ok()?, client))
            });
        };
        for _ in 0..10 {
            see(100, Some(address(1)));
            see(100, Some(address(2)));
            see(100, None);
        }
        assert_eq!(lookups.get(), 2);
        see(119, Some(address(1)));
        assert_eq!(lookups.get(), 2);
        see(120, Some(address(1))); // the next day
        assert_eq!(lookups.get(), 3);
        // An IPv6 client has a network of its own.
        for last in 1..9u16 {
            let client = std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, last);
            see(120, Some(IpAddr::V6(client)));
        }
        assert_eq!(lookups.get(), 4);
    }

    #[test]
    fn more_new_countries_than_there_is_room_for_are_told_with_the_next_looks() {
        let (table, watch) = watch();
        let codes: Vec<String> = (b'A'..=b'Z')
            .map(|it| format!("A{}", char::from(it)))
            .collect();
        let see_all = || {
            for (code, last) in codes.iter().zip(1..) {
                watch.see(at(100), Some(network(last)), || {
                    Some((Country::new(code).ok()?, None))
                });
            }
        };
        let mut found = std::collections::BTreeSet::new();
        for _ in 0..8 {
            see_all();
            for (_, seen) in take(&table, 0, true) {
                assert!(seen.seen.countries.len() <= super::super::observation::MOST_COUNTRIES);
                found.extend(seen.seen.countries.iter().map(|(country, _)| *country));
            }
            // What is known now makes room for what is not.
            watch.set(Notable {
                requests: 1_000,
                usual_hours: ALL_HOURS,
                countries: Some(found.iter().copied().collect()),
            });
        }
        assert_eq!(found.len(), codes.len());
    }

    #[test]
    fn what_is_notable_is_due_at_once_and_the_rest_later() {
        let (table, watch) = watch();
        let due = |second| take(&table, second, false).len();
        watch.see(at(108), Some(network(1)), || Some(country("DE")));
        assert_eq!(due(0), 1, "a key without a profile");
        watch.set(Notable {
            requests: 5,
            usual_hours: 1 << 12 | 1 << 13,
            countries: Some([Country::new("DE").unwrap()].into()),
        });
        for _ in 0..4 {
            watch.see(at(108), Some(network(1)), || None);
        }
        assert_eq!((due(599), due(600)), (0, 1));
        for _ in 0..5 {
            watch.see(at(108), Some(network(1)), || None);
        }
        assert_eq!(due(601), 1, "the fifth request");
        watch.see(at(109), Some(network(1)), || None);
        assert_eq!(due(602), 0, "a usual hour");
        watch.see(at(110), Some(network(1)), || None);
        assert_eq!(due(603), 1, "an unusual one");
        watch.see(at(110), Some(network(2)), || Some(country("DE")));
        assert_eq!(due(604), 0, "a country that is known");
        watch.see(at(110), Some(network(3)), || Some(country("FR")));
        assert_eq!(due(605), 1, "another one");
    }

    #[test]
    fn a_full_list_takes_others_when_there_is_room_again() {
        let table = WatchTable::new(AnomalyDetection::new());
        let watches: Vec<_> = (0..super::super::watch_table::MOST + 5)
            .map(|number| {
                let digest = KeyDigest::of(&number.to_string());
                table.watch(&KeyRecord::imported(digest, "acme"))
            })
            .collect();
        for round in 0..2 {
            for watch in &watches {
                watch.see(at(100), None, || None);
            }
            let taken = take(&table, 0, true);
            assert_eq!(
                taken.len(),
                super::super::watch_table::MOST,
                "round {round}"
            );
        }
        for watch in &watches {
            watch.see(at(100), None, || None);
        }
        let last = watches.last().unwrap();
        let mut requests = 0;
        while requests == 0 {
            last.see(at(100), None, || None);
            for (watch, seen) in take(&table, 0, true) {
                if Arc::ptr_eq(&watch, last) {
                    requests = sum(&[(watch, seen)]);
                }
            }
        }
        assert!(requests >= 4, "none of its requests is lost");
    }
}
