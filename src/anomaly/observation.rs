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
    /// The key that this one replaced, whose profile it begins with.
    pub(crate) predecessor: Option<KeyId>,
    /// The hour of the look, since 1970.
    pub(super) hour: u32,
    pub(crate) account: Box<str>,
    pub(crate) baseline: Option<Arc<Baseline>>,
    pub(super) seen: Seen,
}

/// The requests of a key by hour, and the countries that the process did not know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// The requests of each hour since 1970, in its order. At most two hours.
    pub(super) requests: SmallVec<[(u32, u64); 2]>,
    /// At most eight, each with an address there if that is known.
    pub(super) countries: SmallVec<[(Country, Option<IpAddr>); 1]>,
}

impl Observation {
    /// Returns the observation without the numbers of requests.
    pub(crate) fn without_requests(mut self) -> Self {
        self.seen.requests.clear();
        self
    }

    /// Returns the first hour of the requests, since 1970.
    pub(crate) fn first_hour(&self) -> u32 {
        self.seen
            .requests
            .first()
            .map_or(self.hour, |(hour, _)| *hour)
    }

    /// Returns the last hour of the requests, since 1970.
    pub(crate) fn last_hour(&self) -> u32 {
        self.seen
            .requests
            .last()
            .map_or(self.hour, |(hour, _)| *hour)
    }
}

/// The countries that wait to be told. A key with more new ones within minutes has the others told
/// by its next requests from there.
pub(super) const MOST_COUNTRIES: usize = 8;

impl Seen {
    /// Adds requests of an hour. Those of hours before the last two are dropped: nobody learned of
    /// them in time, and added to a later hour they would look like a spike.
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
            self.requests.remove(0);
        }
    }

    /// Adds a country with an address there. If there is no room, it takes the place of one that is
    /// `known`, unless it is itself. Returns whether it was added.
    pub(super) fn add_country(
        &mut self,
        country: Country,
        client: Option<IpAddr>,
        known: Option<&[Country]>,
    ) -> bool {
        let mut countries = self.countries.iter();
        if countries.any(|(other, _)| *other == country) {
            return true;
        }
        if self.countries.len() < MOST_COUNTRIES {
            self.countries.push((country, client));
            return true;
        }
        let Some(known) = known.filter(|known| !known.contains(&country)) else {
            return false;
        };
        let mut countries = self.countries.iter_mut();
        match countries.find(|(other, _)| known.contains(other)) {
            Some(place) => {
                *place = (country, client);
                true
            }
            None => false,
        }
    }

    /// Adds what was seen besides. Returns whether there was room for all countries.
    pub(super) fn add_all(&mut self, other: Self, known: Option<&[Country]>) -> bool {
        for (hour, requests) in other.requests {
            self.add(hour, requests);
        }
        let countries = other.countries.into_iter();
        let added = countries.map(|(country, client)| self.add_country(country, client, known));
        added.fold(true, |all, is_added| all & is_added)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.requests.is_empty() && self.countries.is_empty()
    }
}
