//! Baselines that the application gives.

use crate::anomaly::country::Country;

/// The usual use of a key, as far as the application knows it. What is given is not learned, and
/// holds from the first request on.
///
/// ```
/// use tower_api_key::anomaly::{Baseline, Country};
///
/// let office = Baseline::new()
///     .countries([Country::new("DE")?, Country::new("FR")?])
///     .active_hours(6..19)
///     .hourly_average(40);
/// # Ok::<(), tower_api_key::anomaly::CountryError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Baseline {
    pub(super) countries: Option<Box<[Country]>>,
    /// A bit for each hour of the UTC day.
    pub(super) hours: Option<u32>,
    pub(super) hourly_average: Option<u64>,
}

impl Baseline {
    /// Creates a baseline that gives nothing: everything is learned.
    pub const fn new() -> Self {
        Self {
            countries: None,
            hours: None,
            hourly_average: None,
        }
    }

    /// Sets the countries that the key is used from. Default: those that it was seen from.
    #[must_use]
    pub fn countries(mut self, countries: impl IntoIterator<Item = Country>) -> Self {
        self.countries = Some(countries.into_iter().collect());
        self
    }

    /// Sets the hours of the UTC day in which the key is used, each from 0 to 23. Others are
    /// ignored. Default: those in which it was used.
    #[must_use]
    pub fn active_hours(mut self, hours: impl IntoIterator<Item = u8>) -> Self {
        let bits = hours.into_iter().filter(|hour| *hour < 24);
        self.hours = Some(bits.fold(0, |set, hour| set | 1 << hour));
        self
    }

    /// Sets the average number of requests in an hour with any. Default: the learned one.
    #[must_use]
    pub const fn hourly_average(mut self, requests: u64) -> Self {
        self.hourly_average = Some(requests);
        self
    }
}
