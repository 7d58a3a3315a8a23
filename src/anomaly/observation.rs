//! Observations: what one process saw of one key since it last told.

use std::net::IpAddr;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::anomaly::baseline::Baseline;
use crate::anomaly::country::Country;
use crate::key::digest::KeyId;

/// The requests of a key that a process saw since it last told, and where they came from.
#[derive(Debug, Clone)]
pub(crate) struct Observation {
    pub(crate) key: KeyId,
    /// The first key of the chain of rotations, whose profile it is added to.
    pub(crate) lineage: KeyId,
    pub(crate) account: Box<str>,
    pub(crate) baseline: Option<Arc<Baseline>>,
    pub(super) seen: Seen,
}

/// The requests of a key by hour, and the countries that the process did not know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// The requests of each hour since 1970, in its order. At most two hours.
    pub(super) requests: SmallVec<[(u32, u64); 2]>,
    /// At most eight.
    pub(super) countries: SmallVec<[(Country, IpAddr); 1]>,
}

impl Observation {
    /// Returns the first hour of the requests, since 1970.
    pub(crate) fn first_hour(&self) -> u32 {
        self.seen.requests.first().map_or(0, |(hour, _)| *hour)
    }

    /// Returns the last hour of the requests, since 1970.
    pub(crate) fn last_hour(&self) -> u32 {
        self.seen.requests.last().map_or(0, |(hour, _)| *hour)
    }
}

/// The countries that wait to be told. A key with more new ones within minutes has the others told
/// by its next requests from there.
pub(super) const MOST_COUNTRIES: usize = 8;

impl Seen {
    /// Adds requests of an hour. Those of hours before the last two are counted with the older one
    /// of these.
    pub(super) fn add(&mut self, hour: u32, requests: u64) {
        if requests == 0 {
            return;
        }
        let at = self.requests.partition_point(|(other, _)| *other < hour);
        match self.requests.get_mut(at) {
            Some((other, sum)) if *other == hour => *sum = sum.saturating_add(requests),
            _ => self.requests.insert(at, (hour, requests)),
        }
        if self.requests.len() > 2 {
            let (_, oldest) = self.requests.remove(0);
            let next = &mut self.requests[0].1;
            *next = next.saturating_add(oldest);
        }
    }

    /// Adds a country with an address there. Returns whether there is room for it.
    pub(super) fn add_country(&mut self, country: Country, client: IpAddr) -> bool {
        if self.countries.iter().any(|(known, _)| *known == country) {
            return true;
        }
        if self.countries.len() >= MOST_COUNTRIES {
            return false;
        }
        self.countries.push((country, client));
        true
    }

    /// Adds what was seen besides.
    pub(super) fn add_all(&mut self, other: Self) {
        for (hour, requests) in other.requests {
            self.add(hour, requests);
        }
        for (country, client) in other.countries {
            self.add_country(country, client);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.requests.is_empty() && self.countries.is_empty()
    }
}
