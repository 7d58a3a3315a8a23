//! The detector of unusual hours.

use serde_json::json;

use crate::anomaly::finding::{Finding, Found};
use crate::anomaly::observed::Observed;
use crate::anomaly::severity::Severity;

/// The name of the detector.
pub(super) const NAME: &str = "temporal_anomaly";

/// The detector of unusual hours, `temporal_anomaly`: a request in an hour of the UTC day in which
/// the key is not used usually.
///
/// An hour is unusual if less than 1 % of the key's hours with requests were in it and in the two
/// hours beside it. Old hours count less, half after 30 days. A key with fewer than 100 hours with
/// requests has no usual hours yet. An unusual hour is told once in 24 hours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TemporalAnomaly {
    severity: Severity,
}

impl TemporalAnomaly {
    /// Creates the default settings: [low](Severity::Low).
    pub const fn new() -> Self {
        Self {
            severity: Severity::Low,
        }
    }

    /// Sets the severity of an unusual hour. Default: low.
    #[must_use]
    pub const fn severity(mut self, severity: Severity) -> Self {
        self.severity = severity;
        self
    }

    pub(super) fn detect(self, observed: &Observed<'_>) -> Option<Found> {
        let usual = observed.usual_hours()?;
        let mut hours = observed.hours_of_day();
        let hour = hours.find(|hour| usual >> hour & 1 == 0)?;
        let active: Vec<u8> = (0..24).filter(|hour| usual >> hour & 1 == 1).collect();
        let finding = Finding::new(self.severity)
            .with("utc_hour", json!(hour))
            .with("usual_hours", json!(active));
        Some(Found {
            detector: NAME.to_owned(),
            detail: String::new(),
            finding,
        })
    }
}

impl Default for TemporalAnomaly {
    fn default() -> Self {
        Self::new()
    }
}
