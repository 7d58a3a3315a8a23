//! Profiles: the usual use of a key, as it was learned. Pure arithmetic over hours.

use std::time::SystemTime;

use crate::anomaly::country::Country;
use crate::anomaly::hours::{ALL_HOURS, hour_of, hour_of_day, part_of_hour};
use crate::anomaly::severity::Severity;

/// The countries that a profile remembers. A key with more is used from anywhere.
pub(super) const MOST_COUNTRIES: usize = 32;

/// The findings that a profile remembers.
pub(super) const MOST_TOLD: usize = 16;

/// The writes that a profile remembers, to recognize one whose answer was lost.
const MOST_WRITES: usize = 16;

/// The days after which a country is forgotten in which the key was not used.
const COUNTRY_KEPT: u16 = 180;

/// The days with requests after which a key is known: one that was tried and then put aside is not.
const LEAST_DAYS: u32 = 5;

/// The findings of one detector that are told in a day.
const MOST_OF_DETECTOR: usize = 8;

/// The hour at the begin of 2026. A clock before it is not set, if others are.
const CLOCKS_ARE_SET: u32 = 490_896;

/// The hours by which a clock may differ from those of other processes, if it is this one that is
/// wrong. A profile that lies further ahead was led there by a wrong clock.
const MOST_BEHIND: u32 = 48;

/// The most days by which a profile ages at once.
const MOST_AGING: u32 = 90;

/// The hours with requests over which the average of requests is taken, the last ones: two weeks of
/// a key that is always in use.
const SPAN: f64 = 336.0;

/// The days in which the weight of an hour of the day falls to a half.
const HALF_LIFE: f64 = 30.0;

/// The hours with requests below which no hour of the day is unusual.
const LEAST_HOURS: f64 = 100.0;

/// The share of all hours with requests that an hour of the day has, with its two neighbours, if it
/// is a usual one.
const USUAL_SHARE: f64 = 0.01;

/// The standard deviations of the logarithm above which a number of requests is no chance.
const DEVIATIONS: f64 = 4.0;

/// The multiple of the busiest hour above which a number of requests is no chance, either: a key
/// with a quiet night has a wide deviation, and yet a known peak.
const PEAKS: f64 = 5.0;

/// The variance of the logarithm that is assumed before any hour was seen, and the hours that this
/// counts for: a key with few hours yet has no known variance.
const FIRST_VARIANCE: f64 = 0.5;
const FIRST_HOURS: f64 = 3.0;

/// The usual use of a key.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Profile {
    /// The hour in which learning began. Hours are since 1970.
    pub(super) since: u32,
    /// The last hour with requests, those in it, and those in the hour before.
    pub(super) hour: u32,
    pub(super) current: u64,
    pub(super) previous: u64,
    /// The days with requests, and the last of them since 1970.
    pub(super) days: u32,
    pub(super) learned_on: u32,
    /// The hours with requests, the average of requests in them, and the average and variance of
    /// the logarithm of requests.
    pub(super) active_hours: f64,
    pub(super) mean: f64,
    pub(super) log_mean: f64,
    pub(super) log_variance: f64,
    /// The requests in the busiest hour, which fall to a half in 30 days.
    pub(super) busiest: f64,
    /// The weights of the hours of the day, as of a day since 1970.
    pub(super) weights: [f64; 24],
    pub(super) weighed_on: u32,
    /// The countries, each with the day of the last look in which the key was used there.
    pub(super) countries: Vec<(Country, u16)>,
    /// The findings that were told lately, the oldest first.
    pub(super) told: Vec<Told>,
    /// The last writes, the oldest first.
    pub(super) writes: Vec<u32>,
}

/// A finding that was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) detector: u32,
    pub(super) detail: u32,
    /// The minutes since 1970.
    pub(super) minute: u32,
    pub(super) severity: Severity,
}

impl Profile {
    /// Creates the profile of a key that is used for the first time in an hour since 1970.
    pub(crate) fn new(hour: u32) -> Self {
        Self {
            since: hour,
            hour,
            current: 0,
            previous: 0,
            days: 0,
            learned_on: 0,
            active_hours: 0.0,
            mean: 0.0,
            log_mean: 0.0,
            log_variance: 0.0,
            busiest: 0.0,
            weights: [0.0; 24],
            weighed_on: hour / 24,
            countries: Vec::new(),
            told: Vec::new(),
            writes: Vec::new(),
        }
    }

    /// Creates the profile of the successor of a key, which is used as its predecessor was.
    pub(crate) fn inherited(&self, hour: u32) -> Self {
        Self {
            hour: hour.max(self.hour),
            current: 0,
            previous: 0,
            told: Vec::new(),
            writes: Vec::new(),
            ..self.clone()
        }
    }

    /// Returns whether the profile has learned for a number of hours, and on enough days.
    pub(super) fn has_learned(&self, hours: u32, now: SystemTime) -> bool {
        self.days >= LEAST_DAYS && hour_of(now).saturating_sub(self.since) >= hours
    }

    /// Adds requests of an hour. `most` is the number that one hour is learned as at most, so that a
    /// spike does not become the usual at once.
    pub(super) fn add(&mut self, hour: u32, requests: u64, most: f64) {
        if hour > self.hour {
            self.roll_to(hour, most);
        }
        match self.hour - hour {
            0 => self.current = self.current.saturating_add(requests),
            1 => self.previous = self.previous.saturating_add(requests),
            _ => {} // another process told of later hours before: the hour was learned without these
        }
    }

    /// Begins an hour. Hours are learned when they are two hours old, when all processes have told.
    fn roll_to(&mut self, hour: u32, most: f64) {
        let before = self.hour.wrapping_sub(1);
        self.learn(before, self.previous, most);
        self.previous = self.current;
        if hour > self.hour + 1 {
            self.learn(self.hour, self.previous, most);
            self.previous = 0;
        }
        self.current = 0;
        self.hour = hour;
    }

    fn learn(&mut self, hour: u32, requests: u64, most: f64) {
        if requests == 0 {
            return;
        }
        let is_new_day = self.days == 0 || hour / 24 > self.learned_on;
        if is_new_day {
            self.days = self.days.saturating_add(1);
            self.learned_on = hour / 24;
        }
        self.age_to(hour / 24);
        self.weights[hour_of_day(hour)] += 1.0;
        let requests = number(requests).min(most);
        let logarithm = requests.ln_1p();
        self.busiest = self.busiest.max(requests);
        self.active_hours = (self.active_hours + 1.0).min(SPAN);
        let share = 1.0 / self.active_hours;
        let off = logarithm - self.log_mean;
        self.mean += share * (requests - self.mean);
        self.log_mean += share * off;
        self.log_variance = (1.0 - share) * (self.log_variance + share * off * off);
    }

    /// Lets the weights of the hours, and the busiest one, fall as of a later day.
    fn age_to(&mut self, day: u32) {
        if day <= self.weighed_on {
            return;
        }
        let days = (day - self.weighed_on).min(MOST_AGING);
        let left = 0.5_f64.powf(f64::from(days) / HALF_LIFE);
        for weight in &mut self.weights {
            *weight *= left;
        }
        self.busiest *= left;
        self.weighed_on = day;
    }

    /// Puts the profile right if its last hour lies ahead, since a process had a wrong clock. Returns
    /// `false` if it is the clock here that is wrong.
    pub(super) fn put_right(&mut self, now: SystemTime) -> bool {
        let hour = hour_of(now);
        let is_unset = hour < CLOCKS_ARE_SET && self.hour >= CLOCKS_ARE_SET;
        let ahead = self.hour.saturating_sub(hour);
        if is_unset || (2..=MOST_BEHIND).contains(&ahead) {
            return false;
        }
        if ahead > MOST_BEHIND {
            (self.hour, self.current, self.previous) = (hour, 0, 0);
            self.weighed_on = self.weighed_on.min(hour / 24);
            self.learned_on = self.learned_on.min(hour / 24);
        }
        self.since = self.since.min(hour);
        let minute = hour.saturating_add(1).saturating_mul(60);
        self.told.retain(|told| told.minute <= minute);
        true
    }

    /// Returns the requests of the last hour, to the minute: all of the current hour, and of the
    /// hour before a share, as if they had come evenly.
    pub(super) fn last_hour(&self, now: SystemTime) -> f64 {
        let rest = 1.0 - part_of_hour(now);
        match hour_of(now).wrapping_sub(self.hour) {
            0 => number(self.current) + number(self.previous) * rest,
            1 => number(self.current) * rest,
            _ => 0.0,
        }
    }

    /// Returns the requests of an hour since 1970, if it is one of the last two.
    pub(super) fn requests_in(&self, hour: u32) -> f64 {
        match self.hour.wrapping_sub(hour) {
            0 => number(self.current),
            1 => number(self.previous),
            _ => 0.0,
        }
    }

    /// Returns the average of requests in an hour with any, if one was learned.
    pub(super) fn hourly_average(&self) -> Option<f64> {
        (self.active_hours > 0.0).then_some(self.mean)
    }

    /// Returns the number of requests in an hour above which chance is ruled out, by the variance of
    /// the hours before or by the busiest one.
    pub(super) fn chance(&self) -> f64 {
        let hours = self.active_hours;
        let known = self.log_variance * hours + FIRST_VARIANCE * FIRST_HOURS;
        let deviation = (known / (hours + FIRST_HOURS)).sqrt();
        let far = (self.log_mean + DEVIATIONS * deviation).exp_m1();
        far.min(PEAKS * self.busiest)
    }

    /// Returns the usual hours of the UTC day, as bits. All are, as long as too few were seen.
    pub(super) fn usual_hours(&self) -> u32 {
        let all: f64 = self.weights.iter().sum();
        if all < LEAST_HOURS {
            return ALL_HOURS;
        }
        let near = |hour: usize| {
            let hours = [hour + 23, hour, hour + 1];
            hours
                .iter()
                .map(|hour| self.weights[hour % 24])
                .sum::<f64>()
        };
        let usual = (0..24).filter(|hour| near(*hour) >= USUAL_SHARE * all);
        usual.fold(0, |set, hour| set | 1 << hour)
    }

    /// Returns whether the key was used from a country, or is used from so many that none is new.
    pub(super) fn knows(&self, country: Country) -> bool {
        self.is_everywhere() || self.countries.iter().any(|(known, _)| *known == country)
    }

    /// Returns whether the key is used from so many countries that none is new.
    pub(super) fn is_everywhere(&self) -> bool {
        self.countries.len() >= MOST_COUNTRIES
    }

    /// Adds a country, and forgets those in which the key was not used for long.
    pub(super) fn add_country(&mut self, country: Country, now: SystemTime) {
        let day = u16::try_from(hour_of(now) / 24).unwrap_or(u16::MAX);
        self.countries
            .retain(|(_, last)| day.saturating_sub(*last) < COUNTRY_KEPT);
        let known = self.countries.iter_mut();
        let known = known.into_iter().find(|(known, _)| *known == country);
        if let Some((_, last)) = known {
            *last = day.max(*last);
        } else if !self.is_everywhere() {
            self.countries.push((country, day));
        }
    }

    /// Returns whether so many findings of a detector were told lately that no more are.
    pub(super) fn is_told_enough(&self, detector: u32, since: u32) -> bool {
        let told = self.told.iter();
        let told = told.filter(|told| told.detector == detector && told.minute > since);
        told.count() >= MOST_OF_DETECTOR
    }

    /// Remembers a finding that was told, in the place of the same one, or of the oldest.
    pub(super) fn remember(&mut self, told: Told) {
        let is_same = |other: &Told| (other.detector, other.detail) == (told.detector, told.detail);
        self.told.retain(|other| !is_same(other));
        if self.told.len() >= MOST_TOLD {
            // Of its own detector, if that has many: others are not forgotten for these.
            let own = |other: &Told| other.detector == told.detector;
            let has_many = self.told.iter().filter(|other| own(other)).count() >= MOST_OF_DETECTOR;
            let oldest = self.told.iter().position(|other| !has_many || own(other));
            self.told.remove(oldest.unwrap_or_default());
        }
        self.told.push(told);
    }

    /// Remembers a write, by a random number.
    pub(crate) fn written(&mut self, write: u32) {
        if self.writes.len() >= MOST_WRITES {
            self.writes.remove(0);
        }
        self.writes.push(write);
    }

    /// Returns whether a write is among the last ones.
    pub(crate) fn has_write(&self, write: u32) -> bool {
        self.writes.contains(&write)
    }
}

/// Returns the number as it is reckoned with, to 53 bits.
pub(super) fn number(count: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "an average needs no more")]
    let number = count as f64;
    number
}
