//! Profiles as bytes, for stores.

use crate::anomaly::country::Country;
use crate::anomaly::profile::{MOST_COUNTRIES, MOST_TOLD, Profile, Told};
use crate::anomaly::severity::Severity;

/// The version of the encoding. A process leaves a profile in a later one as it is.
const VERSION: u8 = 1;

/// An error for bytes that are no profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoProfile {
    /// A later version of the library wrote it.
    Later,
    /// The bytes are damaged.
    Damaged,
}

impl Profile {
    /// Encodes the profile: about 250 bytes, at most 700.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        let numbers = [
            self.since,
            self.hour,
            self.weighed_on,
            self.days,
            self.learned_on,
        ];
        for number in numbers {
            bytes.extend(number.to_le_bytes());
        }
        for number in [self.current, self.previous] {
            bytes.extend(number.to_le_bytes());
        }
        let averages = [
            self.active_hours,
            self.mean,
            self.log_mean,
            self.log_variance,
            self.busiest,
        ];
        for number in averages.iter().chain(&self.weights) {
            #[expect(clippy::cast_possible_truncation, reason = "24 bits are enough")]
            let number = *number as f32;
            bytes.extend(number.to_le_bytes());
        }
        bytes.push(length(&self.countries));
        for (country, day) in &self.countries {
            bytes.extend(country.to_bytes());
            bytes.extend(day.to_le_bytes());
        }
        bytes.push(length(&self.told));
        for told in &self.told {
            for number in [told.detector, told.detail, told.minute] {
                bytes.extend(number.to_le_bytes());
            }
            bytes.push(told.severity as u8);
        }
        bytes.push(length(&self.writes));
        for write in &self.writes {
            bytes.extend(write.to_le_bytes());
        }
        bytes
    }

    /// Decodes a profile.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, NoProfile> {
        let mut reader = Reader(bytes);
        match reader.byte()? {
            VERSION => {}
            0 => return Err(NoProfile::Damaged),
            _ => return Err(NoProfile::Later),
        }
        let mut numbers = [0; 5];
        for number in &mut numbers {
            *number = reader.u32()?;
        }
        let [since, hour, weighed_on, days, learned_on] = numbers;
        let [current, previous] = [reader.u64()?, reader.u64()?];
        let mut averages = [0.0; 5];
        for number in &mut averages {
            *number = reader.f32()?;
        }
        let [active_hours, mean, log_mean, log_variance, busiest] = averages;
        let mut weights = [0.0; 24];
        for weight in &mut weights {
            *weight = reader.f32()?;
        }
        let countries = reader.list(MOST_COUNTRIES, |reader| {
            let code = reader.take::<2>()?;
            let country = std::str::from_utf8(&code).ok();
            let country = country.and_then(|code| Country::new(code).ok());
            let day = u16::from_le_bytes(reader.take()?);
            Ok((country.ok_or(NoProfile::Damaged)?, day))
        })?;
        let told = reader.list(MOST_TOLD, |reader| {
            Ok(Told {
                detector: reader.u32()?,
                detail: reader.u32()?,
                minute: reader.u32()?,
                severity: Severity::from_byte(reader.byte()?).ok_or(NoProfile::Damaged)?,
            })
        })?;
        let writes = reader.list(usize::from(u8::MAX), Reader::u32)?;
        if !reader.0.is_empty() {
            return Err(NoProfile::Damaged);
        }
        Ok(Self {
            since,
            hour,
            current,
            previous,
            days,
            learned_on,
            active_hours,
            mean,
            log_mean,
            log_variance,
            busiest,
            weights,
            weighed_on,
            countries,
            told,
            writes,
        })
    }
}

/// Returns the length of a list, which is bounded.
fn length<T>(list: &[T]) -> u8 {
    u8::try_from(list.len()).unwrap_or(u8::MAX)
}

/// The bytes that are not read yet.
struct Reader<'b>(&'b [u8]);

impl Reader<'_> {
    fn take<const COUNT: usize>(&mut self) -> Result<[u8; COUNT], NoProfile> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(NoProfile::Damaged)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn byte(&mut self) -> Result<u8, NoProfile> {
        self.take().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Result<u32, NoProfile> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, NoProfile> {
        self.take().map(u64::from_le_bytes)
    }

    /// Reads a number, which is finite and not negative.
    fn f32(&mut self) -> Result<f64, NoProfile> {
        let number = self.take().map(f32::from_le_bytes)?;
        let is_good = number.is_finite() && number >= 0.0;
        is_good
            .then_some(f64::from(number))
            .ok_or(NoProfile::Damaged)
    }

    fn list<T>(
        &mut self,
        most: usize,
        read: impl Fn(&mut Self) -> Result<T, NoProfile>,
    ) -> Result<Vec<T>, NoProfile> {
        let length = usize::from(self.byte()?);
        if length > most {
            return Err(NoProfile::Damaged);
        }
        (0..length).map(|_| read(self)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::{Duration, UNIX_EPOCH};

    fn used(hours: &[(u32, u64)], countries: &[String]) -> Profile {
        let now = UNIX_EPOCH + Duration::from_secs(400_000 * 3_600);
        let mut profile = Profile::new(400_000);
        for (hour, requests) in hours {
            profile.add(400_000 + hour, *requests, f64::MAX);
        }
        for country in countries {
            profile.add_country(Country::new(country).unwrap(), now);
        }
        for (at, severity) in (0..).zip(Severity::ALL.into_iter().cycle().take(20)) {
            profile.remember(Told {
                detector: at,
                detail: 7,
                minute: 24_000_000,
                severity,
            });
        }
        for write in 0..20 {
            profile.written(write);
        }
        profile
    }

    proptest! {
        #[test]
        fn a_profile_comes_back_and_is_small(
            hours in prop::collection::vec((0..2_000u32, 0..u64::MAX), 0..60),
            countries in prop::collection::vec("[A-Z][A-Z0-9]", 0..40),
        ) {
            let profile = used(&hours, &countries);
            let bytes = profile.to_bytes();
            prop_assert!(bytes.len() <= 700, "{}", bytes.len());
            let back = Profile::from_bytes(&bytes).unwrap();
            // Rounded once, it stays the same.
            prop_assert_eq!(back.to_bytes(), bytes.clone());
            prop_assert_eq!((&back.countries, &back.told), (&profile.countries, &profile.told));
            prop_assert!(back.has_write(19) && !back.has_write(3));
            for cut in 0..bytes.len() {
                prop_assert_eq!(Profile::from_bytes(&bytes[..cut]), Err(NoProfile::Damaged));
            }
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
            let _ = Profile::from_bytes(&bytes);
        }
    }

    #[test]
    fn a_profile_of_a_later_version_is_recognized() {
        let mut bytes = used(&[], &[]).to_bytes();
        bytes[0] = 2;
        assert_eq!(Profile::from_bytes(&bytes), Err(NoProfile::Later));
    }
}
