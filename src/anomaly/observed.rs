//! The view that a detector has of a key.

use std::net::IpAddr;
use std::time::SystemTime;

use crate::anomaly::baseline::Baseline;
use crate::anomaly::country::Country;
use crate::anomaly::finding::Finding;
use crate::anomaly::hours::hour_of_day;
use crate::anomaly::observation::Observation;
use crate::anomaly::profile::Profile;
use crate::key::digest::KeyId;

/// The port to detectors of the application's own.
///
/// The [worker](crate::ApiKeys::worker) calls a detector with each observation of a key: within
/// about 30 seconds after something notable, and every ten minutes otherwise, from each process that
/// the key is used in. It must not block. If it panics, that is logged, and it has found nothing. A
/// finding is told once in 24 hours for each key, and acted upon like any other.
///
/// ```
/// use tower_api_key::anomaly::{AnomalyDetection, Detector, Finding, Observed, Severity};
///
/// /// A key that is planted where only a thief finds it.
/// struct Canary(tower_api_key::KeyId);
///
/// impl Detector for Canary {
///     fn name(&self) -> &str {
///         "canary_used"
///     }
///
///     fn detect(&self, observed: &Observed<'_>) -> Option<Finding> {
///         (observed.key() == self.0).then(|| Finding::new(Severity::Critical))
///     }
/// }
///
/// # let canary = tower_api_key::key::KeyDigest::of("…").id();
/// let detection = AnomalyDetection::new().detector(Canary(canary));
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a `Detector`",
    note = "implement `Detector::name` and `Detector::detect`"
)]
pub trait Detector: Send + Sync + 'static {
    /// Returns the name of the detector, for alerts: 1 to 64 lower-case letters, digits and `_`, which
    /// no other detector has.
    fn name(&self) -> &str;

    /// Returns a finding, if there is something to tell.
    fn detect(&self, observed: &Observed<'_>) -> Option<Finding>;
}

/// The use of a key, beside what is usual for it.
#[derive(Debug)]
pub struct Observed<'a> {
    pub(super) observation: &'a Observation,
    /// As it was before the observation, but for the requests.
    pub(super) profile: &'a Profile,
    pub(super) new_countries: &'a [(Country, Option<IpAddr>)],
    pub(super) baseline: Option<&'a Baseline>,
    pub(super) now: SystemTime,
    pub(super) is_learned: bool,
    pub(super) hides_addresses: bool,
}

impl Observed<'_> {
    /// Returns the key.
    pub fn key(&self) -> KeyId {
        self.observation.key
    }

    /// Returns the account of the key.
    pub fn account(&self) -> &str {
        &self.observation.account
    }

    /// Returns the time of the look.
    pub fn now(&self) -> SystemTime {
        self.now
    }

    /// Returns whether the learning time is over. Before, a detector of the application's own is
    /// asked all the same, and what it finds is told and acted upon.
    pub fn is_learned(&self) -> bool {
        self.is_learned
    }

    /// Returns the requests of the last hour, in all processes, as far as they have told. Requests
    /// that a limit denied are counted, too. If the look is late, it is the busiest of the hours that
    /// the observation is about.
    pub fn requests_in_last_hour(&self) -> f64 {
        let hours = self.observation.seen.requests.iter();
        let hours = hours.map(|(hour, _)| self.profile.requests_in(*hour));
        hours.fold(self.profile.last_hour(self.now), f64::max)
    }

    /// Returns the average number of requests in an hour with any: what is given, or else learned.
    /// `None` if it is not known yet.
    pub fn hourly_average(&self) -> Option<f64> {
        let given = self.baseline.and_then(|it| it.hourly_average);
        let given = given.map(super::profile::number);
        given.or_else(|| self.profile.hourly_average().filter(|_| self.is_learned))
    }

    /// Returns the countries that the key was not used from before, each with an address there if
    /// that is known.
    pub fn new_countries(&self) -> impl Iterator<Item = (Country, Option<IpAddr>)> {
        self.new_countries.iter().copied()
    }

    /// Returns the hours of the UTC day in which the requests of this observation came.
    pub fn hours_of_day(&self) -> impl Iterator<Item = u8> {
        let hours = self.observation.seen.requests.iter();
        hours.map(|(hour, _)| u8::try_from(hour_of_day(*hour)).unwrap_or_default())
    }

    /// Returns the countries that are not new: those that are given, or else learned. `None` if none
    /// is new.
    pub(super) fn known_countries(&self) -> Option<Box<[Country]>> {
        if let Some(given) = self.baseline.and_then(|it| it.countries.clone()) {
            return Some(given);
        }
        if !self.is_learned || self.profile.is_everywhere() {
            return None;
        }
        let countries = self.profile.countries.iter();
        Some(countries.map(|(country, _)| *country).collect())
    }

    /// Returns the requests of an hour that chance still explains; 0 if the average is given.
    pub(super) fn chance(&self) -> f64 {
        let is_given = self.baseline.is_some_and(|it| it.hourly_average.is_some());
        if is_given { 0.0 } else { self.profile.chance() }
    }

    /// Returns the usual hours of the UTC day, as bits: those that are given, or else learned.
    pub(super) fn usual_hours(&self) -> Option<u32> {
        let given = self.baseline.and_then(|it| it.hours);
        given.or_else(|| self.is_learned.then(|| self.profile.usual_hours()))
    }
}
