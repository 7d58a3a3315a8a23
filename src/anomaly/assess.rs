//! The assessment: from an observation of a key to an alert. Pure code over a profile.

use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::SystemTime;

use sha2::{Digest, Sha256};

use crate::anomaly::baseline::Baseline;
use crate::anomaly::country::Country;
use crate::anomaly::finding::{Alert, Finding, Found};
use crate::anomaly::geographic_anomaly;
use crate::anomaly::hours::ALL_HOURS;
use crate::anomaly::notable::Notable;
use crate::anomaly::observation::Observation;
use crate::anomaly::observed::{Detector, Observed};
use crate::anomaly::profile::{Profile, Told};
use crate::anomaly::settings::{AnomalyDetection, OWN};
use crate::anomaly::severity::Severity;
use crate::util::timestamp::unix_seconds;
use crate::util::trace;

/// The minutes for which the same finding is not told again.
const AGAIN_AFTER: u64 = 24 * 60;

/// The least of these, if an action ends before.
const AGAIN_AFTER_LEAST: u64 = 60;

/// An observation with what is known about it beside the profile.
struct Look<'a> {
    observation: &'a Observation,
    new_countries: &'a [(Country, Option<IpAddr>)],
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
        if !profile.put_right(now) {
            return (None, Notable::quiet());
        }
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
        // What is told no more today is not learned, either, or many countries would hide one.
        let since = minute_of(now).saturating_sub(self.again_after());
        let is_enough = profile.is_told_enough(hash(geographic_anomaly::NAME), since);
        for (country, _) in &observation.seen.countries {
            if !is_enough || profile.knows(*country) {
                profile.add_country(*country, now);
            }
        }
        let average = look.beside(profile).hourly_average();
        let average = average.or_else(|| profile.hourly_average());
        let alert = self.tell(profile, observation, found, average, now);
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

    /// Returns the requests after which the worker looks again at once: a sixteenth of a spike, since
    /// each process may see a part only.
    fn notable_requests(&self, observed: &Observed<'_>) -> u64 {
        let Some(threshold) = self.threshold(observed) else {
            return u64::MAX;
        };
        let requests = (threshold / 16.0).clamp(1.0, 1e15);
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
            if let Some(finding) = ask(&**detector, observed) {
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
        found: Vec<Found>,
        hourly_average: Option<f64>,
        now: SystemTime,
    ) -> Option<Alert> {
        let minute = minute_of(now);
        let age = |told: &Told| minute.saturating_sub(told.minute);
        let again_after = self.again_after();
        let is_told = |found: &Found| {
            let mut told = profile.told.iter();
            told.any(|told| {
                let is_as_severe = told.severity >= found.finding.severity;
                told.is_of(found) && is_as_severe && age(told) < again_after
            }) || profile.is_told_enough(hash(&found.detector), minute.saturating_sub(again_after))
        };
        // What was told and goes on is not told again, but counts beside what is new.
        let (goes_on, found): (Vec<Found>, Vec<Found>) = found.into_iter().partition(is_told);
        let highest = found.iter().map(|found| found.finding.severity).max()?;
        let together = u32::try_from(self.together.as_secs() / 60).unwrap_or(u32::MAX);
        let told = profile.told.iter().filter(|told| age(told) <= together);
        let before = told.map(|told| (told.detector, told.severity));
        let goes_on = goes_on.iter();
        let goes_on = goes_on.map(|it| (hash(&it.detector), it.finding.severity));
        let others = before.chain(goes_on);
        let others = others.filter(|(by, _)| found.iter().all(|it| hash(&it.detector) != *by));
        let others: Vec<(u32, Severity)> = others.collect();
        let severity = others.iter().map(|(_, severity)| *severity);
        let severity = severity.fold(highest, Severity::max);
        let mut after: Vec<Box<str>> = others.iter().map(|(by, _)| self.name(*by)).collect();
        after.sort_unstable();
        after.dedup();
        let first = &found[0].detector;
        let is_one = after.is_empty() && found.iter().all(|found| found.detector == *first);
        let alert = Alert {
            key: observation.key,
            severity: if is_one { severity } else { severity.raised() },
            after,
            hourly_average,
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

    /// Returns the minutes for which the same finding is not told again: a day, or less if an action
    /// ends before. Whoever goes on after that is found again.
    fn again_after(&self) -> u32 {
        let times = Severity::ALL.map(|severity| self.actions.of(severity).time());
        let times = times.into_iter().flatten().map(|time| time.as_secs() / 60);
        let minutes = times.fold(AGAIN_AFTER, u64::min).max(AGAIN_AFTER_LEAST);
        u32::try_from(minutes).unwrap_or(u32::MAX)
    }

    /// Returns the name of a detector by its hash.
    fn name(&self, detector: u32) -> Box<str> {
        let added = self.detectors.iter().map(|detector| detector.name());
        let mut names = OWN.into_iter().chain(added);
        let name = names.find(|name| hash(name) == detector);
        name.unwrap_or("removed").into() // a detector that another process has, or had
    }
}

impl Told {
    fn is_of(&self, found: &Found) -> bool {
        (self.detector, self.detail) == (hash(&found.detector), hash(&found.detail))
    }
}

/// Asks a detector of the application. If it panics, it has found nothing: the others go on, and so
/// does the worker.
fn ask(detector: &dyn Detector, observed: &Observed<'_>) -> Option<Finding> {
    let asked = catch_unwind(AssertUnwindSafe(|| detector.detect(observed)));
    asked.unwrap_or_else(|_| {
        trace::detector_panicked(detector.name());
        None
    })
}

/// Returns the minutes since 1970.
fn minute_of(at: SystemTime) -> u32 {
    u32::try_from(unix_seconds(at) / 60).unwrap_or(u32::MAX)
}

/// Returns a hash of a text, the same in all processes.
fn hash(text: &str) -> u32 {
    let digest = Sha256::digest(text);
    u32::from_le_bytes([digest[0], digest[1], digest[2], digest[3]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::anomaly::finding::Finding;
    use crate::anomaly::observation::Seen;
    use crate::anomaly::observed::Detector;
    use crate::anomaly::severity::Severity;
    use crate::key::digest::KeyId;
    use proptest::prelude::*;
    use std::time::{Duration, UNIX_EPOCH};

    /// A midnight.
    const FIRST: u32 = 480_000;

    fn at(hour: u32, minute: u32) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(u64::from(hour) * 3_600 + u64::from(minute) * 60)
    }

    fn observation(requests: &[(u32, u64)], countries: &[&str]) -> Observation {
        let mut seen = Seen::default();
        for (hour, requests) in requests {
            seen.add(*hour, *requests);
        }
        for country in countries {
            let client = Some([192, 0, 2, 1].into());
            seen.add_country(Country::new(country).unwrap(), client, None);
        }
        let key = KeyId::from_bytes([7; 16]);
        Observation {
            key,
            predecessor: None,
            hour: requests.first().map_or(FIRST, |(hour, _)| *hour),
            account: "acme".into(),
            baseline: None,
            seen,
        }
    }

    /// A key that was used for 20 days, 12 requests in each of ten hours.
    fn used(detection: &AnomalyDetection) -> (Profile, u32) {
        let mut profile = Profile::new(FIRST + 8);
        for day in 0..20 {
            for hour in 8..18 {
                let hour = FIRST + day * 24 + hour;
                let seen = observation(&[(hour, 12)], &["DE"]);
                let (alert, _) = detection.assess(&mut profile, &seen, at(hour, 59));
                assert_eq!(alert, None);
            }
        }
        (profile, FIRST + 20 * 24)
    }

    fn severity(alert: Option<Alert>) -> Option<Severity> {
        alert.map(|alert| alert.severity)
    }

    #[test]
    fn a_spike_that_goes_on_counts_beside_a_new_country_hours_later() {
        let detection = AnomalyDetection::new();
        let (mut profile, today) = used(&detection);
        let mut look = |hour: u32, requests, countries: &[&str]| {
            let seen = observation(&[(today + hour, requests)], countries);
            severity(
                detection
                    .assess(&mut profile, &seen, at(today + hour, 30))
                    .0,
            )
        };
        assert_eq!(look(9, 300, &[]), Some(Severity::High));
        assert_eq!(look(10, 300, &[]), None, "told once in a day");
        assert_eq!(look(12, 300, &["BR"]), Some(Severity::Critical));
        assert_eq!(
            look(13, 12, &["CN"]),
            Some(Severity::Critical),
            "within an hour"
        );
        assert_eq!(look(16, 12, &["US"]), Some(Severity::Medium), "it is over");
    }

    struct Panics;

    impl Detector for Panics {
        fn name(&self) -> &'static str {
            "panics"
        }

        fn detect(&self, _: &Observed<'_>) -> Option<Finding> {
            panic!("a bug of the application");
        }
    }

    #[test]
    fn a_detector_that_panics_stops_no_other() {
        let detection = AnomalyDetection::new().detector(Panics);
        let (mut profile, today) = used(&detection);
        let seen = observation(&[(today + 9, 300)], &[]);
        let (alert, _) = detection.assess(&mut profile, &seen, at(today + 9, 30));
        assert_eq!(severity(alert), Some(Severity::High));
    }

    proptest! {
        /// Whatever is told, in whatever order and by whatever clocks.
        #[test]
        fn a_profile_stays_sound(
            steps in prop::collection::vec(
                (
                    prop::collection::vec((0..u32::MAX, prop_oneof![0..50u64, any::<u64>()]), 0..3),
                    "[A-Z][A-Z]",
                    prop_oneof![0..3_000_000_000u64, 1_700_000_000..1_700_900_000u64],
                ),
                1..60,
            ),
        ) {
            let detection = AnomalyDetection::new();
            let mut profile = Profile::new(steps[0].0.first().map_or(0, |(hour, _)| *hour));
            for (requests, country, seconds) in steps {
                let seen = observation(&requests, &[&country]);
                let now = UNIX_EPOCH + Duration::from_secs(seconds);
                let (alert, notable) = detection.assess(&mut profile, &seen, now);
                prop_assert!(notable.requests >= 1);
                for found in alert.iter().flat_map(|alert| &alert.found) {
                    let text = serde_json::to_string(&found.finding.facts).unwrap();
                    prop_assert!(!text.contains("null"), "{text}");
                }
                let numbers = [
                    profile.mean,
                    profile.log_mean,
                    profile.log_variance,
                    profile.busiest,
                    profile.chance(),
                ];
                prop_assert!(numbers.iter().all(|it| it.is_finite() && *it >= 0.0), "{numbers:?}");
                let bytes = profile.to_bytes();
                prop_assert!(bytes.len() <= 700);
                profile = Profile::from_bytes(&bytes).unwrap();
            }
        }
    }
}
