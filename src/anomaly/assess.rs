//! The assessment: from an observation of a key to an alert. Pure code over a profile.

use std::net::IpAddr;
use std::time::SystemTime;

use sha2::{Digest, Sha256};

use crate::anomaly::baseline::Baseline;
use crate::anomaly::country::Country;
use crate::anomaly::finding::{Alert, Found};
use crate::anomaly::hours::ALL_HOURS;
use crate::anomaly::notable::Notable;
use crate::anomaly::observation::Observation;
use crate::anomaly::observed::Observed;
use crate::anomaly::profile::{Profile, Told};
use crate::anomaly::settings::AnomalyDetection;
use crate::anomaly::{geographic_anomaly, temporal_anomaly, usage_spike};
use crate::util::timestamp::unix_seconds;

/// The minutes for which the same finding is not told again.
const AGAIN_AFTER: u32 = 24 * 60;

/// The names of the detectors of this crate.
const OWN: [&str; 3] = [
    geographic_anomaly::NAME,
    usage_spike::NAME,
    temporal_anomaly::NAME,
];

/// An observation with what is known about it beside the profile.
struct Look<'a> {
    observation: &'a Observation,
    new_countries: &'a [(Country, IpAddr)],
    baseline: Option<&'a Baseline>,
    now: SystemTime,
    is_learned: bool,
    hides_addresses: bool,
}

impl<'a> Look<'a> {
    fn beside(&self, profile: &'a Profile) -> Observed<'a> {
        Observed {
            observation: self.observation,
            profile,
            new_countries: self.new_countries,
            baseline: self.baseline,
            now: self.now,
            is_learned: self.is_learned,
            hides_addresses: self.hides_addresses,
        }
    }
}

impl AnomalyDetection {
    /// Adds an observation to the profile of a key. Returns an alert if there is something new to
    /// tell, and what is notable from now on.
    pub(crate) fn assess(
        &self,
        profile: &mut Profile,
        observation: &Observation,
        now: SystemTime,
    ) -> (Option<Alert>, Notable) {
        profile.put_right(now);
        let baseline = observation.baseline.as_deref();
        let is_learned = profile.has_learned(self.learning_hours(), now);
        let given = baseline.and_then(|it| it.countries.as_deref());
        let mut new_countries = observation.seen.countries.clone();
        match given {
            Some(given) => new_countries.retain(|(country, _)| !given.contains(country)),
            None => {
                new_countries.retain(|(country, _)| is_learned && !profile.knows(*country));
            }
        }
        let look = Look {
            observation,
            new_countries: &new_countries,
            baseline,
            now,
            is_learned,
            hides_addresses: self.hides_addresses,
        };
        let most = self.threshold(&look.beside(profile));
        for (hour, requests) in &observation.seen.requests {
            profile.add(*hour, *requests, most.unwrap_or(f64::MAX));
        }
        let found = self.detect(&look.beside(profile));
        for (country, _) in &observation.seen.countries {
            profile.add_country(*country, now);
        }
        let alert = self.tell(profile, observation, found, now);
        let notable = self.notable(&look.beside(profile));
        (alert, notable)
    }

    /// Returns what is notable for a key from now on.
    fn notable(&self, observed: &Observed<'_>) -> Notable {
        let usual_hours = self.temporal.and_then(|_| observed.usual_hours());
        Notable {
            requests: self.notable_requests(observed),
            usual_hours: usual_hours.unwrap_or(ALL_HOURS),
            countries: self.geographic.and_then(|_| observed.known_countries()),
        }
    }

    /// Returns the requests after which the worker looks again at once. Each process may see a part
    /// of a spike only, so that it is a sixteenth of one; and more if the spike is far.
    fn notable_requests(&self, observed: &Observed<'_>) -> u64 {
        let Some(threshold) = self.threshold(observed) else {
            return u64::MAX;
        };
        let left = threshold - observed.requests_in_last_hour();
        let requests = (left / 4.0).max(threshold / 16.0).clamp(1.0, 1e15);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "clamped"
        )]
        let requests = requests as u64;
        requests
    }

    /// Returns the requests in an hour above which they are a spike, if that is known.
    pub(super) fn threshold(&self, observed: &Observed<'_>) -> Option<f64> {
        self.spike.and_then(|spike| spike.threshold(observed))
    }

    fn detect(&self, observed: &Observed<'_>) -> Vec<Found> {
        let mut found = Vec::new();
        if let Some(geographic) = &self.geographic {
            found.extend(geographic.detect(observed));
        }
        found.extend(self.spike.and_then(|spike| spike.detect(observed)));
        found.extend(self.temporal.and_then(|temporal| temporal.detect(observed)));
        for detector in &self.detectors {
            if let Some(finding) = detector.detect(observed) {
                found.push(Found {
                    detector: detector.name().to_owned(),
                    detail: String::new(),
                    finding,
                });
            }
        }
        found
    }

    /// Returns an alert of what was not told lately, and remembers it.
    fn tell(
        &self,
        profile: &mut Profile,
        observation: &Observation,
        mut found: Vec<Found>,
        now: SystemTime,
    ) -> Option<Alert> {
        let minute = u32::try_from(unix_seconds(now) / 60).unwrap_or(u32::MAX);
        let is_told = |found: &Found| {
            let (detector, detail) = (hash(&found.detector), hash(&found.detail));
            profile.told.iter().any(|told| {
                (told.detector, told.detail) == (detector, detail)
                    && minute.saturating_sub(told.minute) < AGAIN_AFTER
            })
        };
        found.retain(|found| !is_told(found));
        let highest = found.iter().map(|found| found.finding.severity).max()?;
        let together = u32::try_from(self.together.as_secs() / 60).unwrap_or(u32::MAX);
        let before = profile
            .told
            .iter()
            .filter(|told| minute.saturating_sub(told.minute) <= together)
            .filter(|told| found.iter().all(|it| hash(&it.detector) != told.detector));
        let severity = before.clone().map(|told| told.severity).max();
        let severity = severity.map_or(highest, |before| before.max(highest));
        let mut after: Vec<Box<str>> = before.map(|told| self.name(told.detector)).collect();
        after.sort_unstable();
        after.dedup();
        let first = &found[0].detector;
        let is_one = after.is_empty() && found.iter().all(|found| found.detector == *first);
        let alert = Alert {
            key: observation.key,
            severity: if is_one { severity } else { severity.raised() },
            after,
            hourly_average: profile.hourly_average(),
            found,
        };
        for found in &alert.found {
            profile.remember(Told {
                detector: hash(&found.detector),
                detail: hash(&found.detail),
                minute,
                severity: found.finding.severity,
            });
        }
        Some(alert)
    }

    /// Returns the name of a detector by its hash.
    fn name(&self, detector: u32) -> Box<str> {
        let added = self.detectors.iter().map(|detector| detector.name());
        let mut names = OWN.into_iter().chain(added);
        let name = names.find(|name| hash(name) == detector);
        name.unwrap_or("removed").into() // a detector that another process has, or had
    }
}

/// Returns a hash of a text, the same in all processes.
fn hash(text: &str) -> u32 {
    let digest = Sha256::digest(text);
    u32::from_le_bytes([digest[0], digest[1], digest[2], digest[3]])
}
