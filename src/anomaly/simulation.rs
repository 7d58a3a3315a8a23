//! Detection on simulated traffic: how often it is wrong, and how soon it finds a thief.
//!
//! `ANOMALY_KEYS` keys of eight kinds are used for `DAYS` days. Every ten minutes of use are an
//! observation, as the worker makes them. Each alert is a false alarm, since every request is the
//! owner's. Then a thief comes to each key, in one of several ways, and the time until the alert is
//! measured. The test prints the table that the guide has.

#![allow(
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::print_stdout,
    reason = "a simulation, in a test"
)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::observation::Seen;
use super::*;
use crate::key::digest::KeyId;

/// The days of use, and the day on which a thief comes.
const DAYS: u32 = 60;
const THEFT: u32 = 45;

/// The parts of an hour that are one observation each.
const PARTS: u64 = 6;

/// A Monday.
const FIRST_HOUR: u32 = 483_288;

/// The kinds of keys.
const KINDS: [Kind; 8] = [
    Kind::Office,
    Kind::Nightly,
    Kind::Steady,
    Kind::Bursty,
    Kind::Growing,
    Kind::Seldom,
    Kind::Migrating,
    Kind::Launched,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// Used on weekdays in the hours of an office.
    Office,
    /// A job that runs once a day, some minutes to three hours long.
    Nightly,
    /// Used around the clock, more by day than by night and on weekends.
    Steady,
    /// Idle, and then used in bursts of very different sizes.
    Bursty,
    /// Doubles its use every two weeks.
    Growing,
    /// Used a few times a week, at any time of the day.
    Seldom,
    /// Used by an office that moves to another country, over a week.
    Migrating,
    /// Tried on two days by a developer, and in use by an office three weeks later, elsewhere.
    Launched,
}

/// The way in which a thief uses a key, from a time on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Theft {
    /// Takes what there is, from another country, at night.
    Loud,
    /// Thirty times the usual requests, from where the owner is.
    Spike,
    /// Five requests an hour from another country.
    Slow,
    /// A few requests in the hours in which the owner sleeps, from where the owner is.
    OddHours,
    /// A fifth more than usual, from where the owner is, in usual hours.
    Drip,
}

impl Theft {
    /// The percentage of thefts that are told at least, and the minutes until then at most.
    fn is_told(self, of: Kind) -> Option<(usize, u32)> {
        match (self, of) {
            // Some are used so seldom that they are not known yet.
            (Self::Loud | Self::Slow, Kind::Seldom) => Some((98, 10)),
            (Self::Loud | Self::Slow, _) => Some((100, 10)),
            (Self::Spike, Kind::Bursty) => None, // as large as its own bursts
            (Self::Spike, _) => Some((90, 60)),
            (Self::OddHours, Kind::Office) => Some((90, 1_440)),
            (Self::OddHours | Self::Drip, _) => None,
        }
    }
}

const THEFTS: [Theft; 5] = [
    Theft::Loud,
    Theft::Spike,
    Theft::Slow,
    Theft::OddHours,
    Theft::Drip,
];

/// A generator of random numbers (`SplitMix64`), the same in each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 to 1.
    fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn below(&mut self, most: u64) -> u64 {
        self.next() % most
    }

    fn normal(&mut self) -> f64 {
        let (a, b) = (1.0 - self.share(), self.share());
        (-2.0 * a.ln()).sqrt() * (2.0 * std::f64::consts::PI * b).cos()
    }

    fn lognormal(&mut self, median: f64, deviation: f64) -> f64 {
        median * (deviation * self.normal()).exp()
    }

    /// A number of requests with an average, as of independent clients.
    fn poisson(&mut self, mean: f64) -> u64 {
        if mean > 50.0 {
            return (mean + mean.sqrt() * self.normal()).round().max(0.0) as u64;
        }
        let (mut product, mut count) = (self.share(), 0);
        let least = (-mean).exp();
        while product > least {
            product *= self.share();
            count += 1;
        }
        count
    }
}

/// A key and the habits of its owner.
struct Key {
    kind: Kind,
    random: Random,
    /// The requests in a usual hour.
    rate: f64,
    /// The hour of the UTC day at which the owner's day begins.
    morning: u32,
    countries: Vec<Country>,
    burst: Option<(u32, f64)>,
    moves_on: u32,
    vacation: u32,
    profile: Profile,
    id: KeyId,
}

fn country(number: u64) -> Country {
    let letters = [number / 26 % 26, number % 26].map(|letter| char::from(b'A' + letter as u8));
    Country::new(&letters.iter().collect::<String>()).unwrap()
}

impl Key {
    fn new(number: u64) -> Self {
        let mut random = Random(number);
        let kind = KINDS[(number % KINDS.len() as u64) as usize];
        let rate = match kind {
            Kind::Seldom => 3.0,
            Kind::Nightly => random.lognormal(2_000.0, 1.5),
            _ => random.lognormal(60.0, 1.5),
        };
        let first = random.below(600);
        let countries = (0..=random.below(3)).map(|at| country(first + at));
        Self {
            kind,
            rate,
            morning: random.below(24) as u32,
            countries: countries.collect(),
            burst: None,
            moves_on: 20 + random.below(35) as u32,
            vacation: random.below(200) as u32,
            profile: Profile::new(FIRST_HOUR),
            id: KeyId::from_bytes((u128::from(number)).to_be_bytes()),
            random,
        }
    }

    /// The average of requests in an hour.
    fn mean(&mut self, hour: u32) -> f64 {
        let (day, local) = (hour / 24, (hour + 24 - self.morning) % 24);
        let is_weekend = day % 7 >= 5;
        // Summer time begins or ends on a day of the season.
        let local = if day > 30 { (local + 23) % 24 } else { local };
        if (self.vacation..self.vacation + 10).contains(&day) {
            return 0.0;
        }
        match self.kind {
            Kind::Launched if hour < 48 => {
                let is_tried = local < 10 && self.random.share() < 0.3;
                if is_tried { 3.0 } else { 0.0 }
            }
            Kind::Launched if day < 22 => 0.0,
            Kind::Office | Kind::Migrating | Kind::Launched => {
                if is_weekend && self.random.share() > 0.01 || local >= 10 {
                    // Somebody works late, now and then.
                    let is_late = !is_weekend && local < 13 && self.random.share() < 0.05;
                    return if is_late { self.rate / 4.0 } else { 0.0 };
                }
                self.random.lognormal(self.rate, 0.4)
            }
            Kind::Nightly => match local {
                0 => self.random.lognormal(self.rate, 0.3),
                1 if self.random.share() < 0.5 => self.random.lognormal(self.rate / 3.0, 0.5),
                2 if self.random.share() < 0.1 => self.rate / 4.0,
                _ => 0.0,
            },
            Kind::Steady => {
                let wave = (f64::from(local) / 24.0 * 2.0 * std::f64::consts::PI).sin();
                let week = if is_weekend { 0.6 } else { 1.0 };
                self.random.lognormal(self.rate * (1.1 + wave) * week, 0.3)
            }
            Kind::Bursty => {
                let ends = self.burst.is_some_and(|(end, _)| hour >= end);
                if ends {
                    self.burst = None;
                }
                if self.burst.is_none() && self.random.share() < 0.08 {
                    let hours = 1 + self.random.below(5) as u32;
                    self.burst = Some((hour + hours, self.random.lognormal(self.rate, 1.2)));
                }
                self.burst
                    .map_or(0.0, |(_, rate)| self.random.lognormal(rate, 0.3))
            }
            Kind::Growing => {
                let growth = 2_f64.powf(f64::from(hour) / (14.0 * 24.0));
                self.random.lognormal(self.rate / 4.0 * growth, 0.3)
            }
            Kind::Seldom if self.random.share() < 0.02 => self.rate,
            Kind::Seldom => 0.0,
        }
    }

    /// The country of a part of an hour.
    fn country(&mut self, hour: u32) -> Country {
        // A colleague travels, or a provider routes another way, about once a year.
        if self.random.share() < 1.0 / (365.0 * 24.0 * PARTS as f64) {
            return country(self.random.below(600));
        }
        let day = hour / 24;
        if self.kind == Kind::Launched && day < 20 {
            return country(602);
        }
        let has_moved = self.kind == Kind::Migrating
            && self.random.share() < f64::from(day.saturating_sub(self.moves_on)) / 7.0;
        if has_moved {
            return country(601);
        }
        let at = self.random.below(self.countries.len() as u64) as usize;
        self.countries[at]
    }

    /// Looks at ten minutes of use.
    fn look(
        &mut self,
        detection: &AnomalyDetection,
        hour: u32,
        part: u64,
        uses: &[(u64, Country)],
    ) -> Option<Alert> {
        let mut seen = Seen::default();
        for (requests, country) in uses {
            seen.add(FIRST_HOUR + hour, *requests);
            if *requests > 0 {
                seen.add_country(*country, None, None);
            }
        }
        if seen.is_empty() {
            return None;
        }
        let observation = Observation {
            key: self.id,
            predecessor: None,
            hour: FIRST_HOUR + hour,
            account: "acme".into(),
            baseline: None,
            seen,
        };
        let now = at(hour, (part + 1) as f64 / PARTS as f64);
        detection.assess(&mut self.profile, &observation, now).0
    }
}

fn at(hour: u32, part: f64) -> SystemTime {
    let seconds = u64::from(FIRST_HOUR + hour) * 3_600;
    // A look comes shortly before the end of its part.
    UNIX_EPOCH + Duration::from_secs(seconds + (part * 3_599.0) as u64)
}

/// The alarms of each severity, and the days of use.
#[derive(Default)]
struct Alarms {
    counts: [u32; 4],
    key_days: u32,
}

/// The minutes until the alerts of thefts, by severity at least.
#[derive(Default)]
struct Found {
    thefts: usize,
    told: Vec<u32>,
    high: Vec<u32>,
}

fn simulate(keys: u64) -> (BTreeMap<Kind, Alarms>, BTreeMap<(Theft, Kind), Found>) {
    let detection = AnomalyDetection::new();
    let mut alarms: BTreeMap<Kind, Alarms> = BTreeMap::new();
    let mut found: BTreeMap<(Theft, Kind), Found> = BTreeMap::new();
    for number in 0..keys {
        let mut key = Key::new(number);
        let mut at_theft = None;
        for hour in 0..DAYS * 24 {
            if hour == THEFT * 24 {
                at_theft = Some(key.profile.clone());
            }
            let mean = key.mean(hour);
            if mean <= 0.0 {
                continue;
            }
            for part in 0..PARTS {
                let uses = [(key.random.poisson(mean / PARTS as f64), key.country(hour))];
                if let Some(alert) = key.look(&detection, hour, part, &uses) {
                    let of_kind = alarms.entry(key.kind).or_default();
                    of_kind.counts[alert.severity as usize] += 1;
                }
            }
        }
        alarms.entry(key.kind).or_default().key_days += DAYS;
        for theft in THEFTS {
            key.profile = at_theft.clone().unwrap();
            key.vacation = u32::MAX - 100;
            let result = found.entry((theft, key.kind)).or_default();
            steal(&mut key, &detection, theft, result);
        }
    }
    (alarms, found)
}

/// Lets a thief use the key for two days, and adds when that was told.
fn steal(key: &mut Key, detection: &AnomalyDetection, theft: Theft, result: &mut Found) {
    let begin = THEFT * 24 + key.random.below(24) as u32;
    let home = key.countries[0];
    let (mut told, mut high) = (None, None);
    let mut since = None;
    for hour in THEFT * 24..THEFT * 24 + 72 {
        let mean = key.mean(hour);
        let local = (hour + 24 - key.morning) % 24;
        let is_night = (12..23).contains(&local);
        let usual = key.profile.hourly_average().unwrap_or_default().max(10.0);
        let stolen = match theft {
            Theft::Loud if is_night || since.is_some() => (usual * 20.0, country(675)),
            Theft::Spike => ((usual * 30.0).max(1_000.0), home),
            Theft::Slow => (5.0, country(675)),
            Theft::OddHours if is_night => (5.0, home),
            Theft::Loud | Theft::OddHours => (0.0, home),
            Theft::Drip => (mean / 5.0, home),
        };
        for part in 0..PARTS {
            let own = (key.random.poisson(mean / PARTS as f64), home);
            let is_on = hour >= begin && stolen.0 > 0.0;
            let of_thief = if is_on {
                key.random.poisson(stolen.0 / PARTS as f64).max(1)
            } else {
                0
            };
            let minute = hour * 60 + part as u32 * 10;
            if is_on {
                since.get_or_insert(minute);
            }
            let alert = key.look(detection, hour, part, &[own, (of_thief, stolen.1)]);
            let (Some(alert), Some(since)) = (alert, since) else {
                continue;
            };
            told.get_or_insert(minute + 10 - since);
            if alert.severity >= Severity::High {
                high.get_or_insert(minute + 10 - since);
            }
        }
    }
    result.thefts += usize::from(since.is_some());
    result.told.extend(told);
    result.high.extend(high);
}

fn median(minutes: &mut [u32]) -> u32 {
    minutes.sort_unstable();
    minutes.get(minutes.len() / 2).copied().unwrap_or_default()
}

fn percent(part: usize, whole: usize) -> usize {
    (100 * part).checked_div(whole).unwrap_or_default()
}

#[test]
fn detection_is_seldom_wrong_and_finds_thieves() {
    let keys = std::env::var("ANOMALY_KEYS").map_or(210, |keys| keys.parse().unwrap());
    let (alarms, mut found) = simulate(keys);
    let mut table = String::new();
    writeln!(
        table,
        "{keys} keys, {DAYS} days; false alarms per key and year"
    )
    .unwrap();
    for (kind, alarms) in &alarms {
        let per_year = |severity: Severity| {
            f64::from(alarms.counts[severity as usize]) * 365.0 / f64::from(alarms.key_days)
        };
        let [low, medium, high, critical] = Severity::ALL.map(per_year);
        writeln!(
            table,
            "{:<12}{low:8.2}{medium:8.2}{high:8.2}{critical:8.2}",
            format!("{kind:?}")
        )
        .unwrap();
        assert!(high + critical <= 1.0, "{table}");
    }
    writeln!(table, "\nthefts: told, and as high: share, median, worst").unwrap();
    for ((theft, kind), found) in &mut found {
        let (told, high) = (found.told.len(), found.high.len());
        found.told.sort_unstable();
        if let Some((share, minutes)) = theft.is_told(*kind) {
            let in_time = found.told.iter().filter(|told| **told <= minutes).count();
            assert!(
                percent(in_time, found.thefts) >= share,
                "{theft:?} {kind:?}: {table}"
            );
        }
        writeln!(
            table,
            "{:<10}{:<12}{:4} % {:5} {:5} min {:4} % {:5} {:5} min",
            format!("{theft:?}"),
            format!("{kind:?}"),
            percent(told, found.thefts),
            median(&mut found.told),
            found.told.last().copied().unwrap_or_default(),
            percent(high, found.thefts),
            median(&mut found.high),
            found.high.last().copied().unwrap_or_default(),
        )
        .unwrap();
    }
    println!("{table}");
}
