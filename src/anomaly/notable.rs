//! The use of a key that a process looks out for, as the profile tells it.

use crate::anomaly::country::Country;
use crate::anomaly::hours::ALL_HOURS;

/// The bounds beyond which the use of a key is notable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Notable {
    /// The requests since the last look that are.
    pub(super) requests: u64,
    /// The hours of the UTC day that are not, as bits.
    pub(super) usual_hours: u32,
    /// The countries that are not. `None` if no country is.
    pub(super) countries: Option<Box<[Country]>>,
}

impl Notable {
    /// Creates what lets the worker look only now and then.
    pub(crate) const fn quiet() -> Self {
        Self {
            requests: u64::MAX,
            usual_hours: ALL_HOURS,
            countries: None,
        }
    }
}
