//! The detector of usage spikes.

use serde_json::json;

use crate::anomaly::finding::{Finding, Found};
use crate::anomaly::observed::Observed;
use crate::anomaly::severity::Severity;

/// The name of the detector.
pub(super) const NAME: &str = "usage_spike";

/// The detector of usage spikes, `usage_spike`: far more requests in the last hour than usual.
///
/// A spike is a number of requests within one hour
/// - above a multiple of the key's own hourly average, by default ten times, and
/// - above a floor, so that the second request of a quiet key is no alarm, and
/// - above what is likely by the hours before: four standard deviations of their logarithm, or five
///   times the busiest one, which is less. A key with regular bursts is used to them.
///
/// The average is that of hours with requests, over the last 336 of them. A request that was denied
/// by a limit counts, too. A spike is told once in 24 hours.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct UsageSpike {
    severity: Severity,
    factor: f64,
    floor: u64,
}

impl UsageSpike {
    /// Creates the default settings: [high](Severity::High), above ten times the average, and above
    /// 100 requests.
    pub const fn new() -> Self {
        Self {
            severity: Severity::High,
            factor: 10.0,
            floor: 100,
        }
    }

    /// Sets the multiple of the hourly average above which requests are a spike. Default: 10; at
    /// least 1. A lower one finds less, sooner, and is wrong more often.
    #[must_use]
    pub const fn factor(mut self, factor: f64) -> Self {
        self.factor = if factor >= 1.0 { factor } else { 1.0 };
        self
    }

    /// Sets the number of requests in an hour that are never a spike. Default: 100.
    #[must_use]
    pub const fn floor(mut self, requests: u64) -> Self {
        self.floor = requests;
        self
    }

    /// Sets the severity of a spike. Default: high.
    #[must_use]
    pub const fn severity(mut self, severity: Severity) -> Self {
        self.severity = severity;
        self
    }

    /// Returns the number of requests in an hour above which they are a spike, if the average is
    /// known.
    pub(super) fn threshold(&self, observed: &Observed<'_>) -> Option<f64> {
        let average = observed.hourly_average()?;
        let least = super::profile::number(self.floor).max(self.factor * average);
        Some(least.max(observed.chance()))
    }

    pub(super) fn detect(&self, observed: &Observed<'_>) -> Option<Found> {
        let requests = observed.requests_in_last_hour();
        if requests <= self.threshold(observed)? {
            return None;
        }
        let average = observed.hourly_average()?;
        let finding = Finding::new(self.severity)
            .with("requests", json!(requests.round()))
            .with("hourly_average", json!((average * 10.0).round() / 10.0));
        Some(Found {
            detector: NAME.to_owned(),
            detail: String::new(),
            finding,
        })
    }
}

impl Default for UsageSpike {
    fn default() -> Self {
        Self::new()
    }
}
