//! The detector of new countries.

use crate::anomaly::finding::{Finding, Found};
use crate::anomaly::observed::Observed;
use crate::anomaly::severity::Severity;

/// The name of the detector.
pub(super) const NAME: &str = "geographic_anomaly";

/// The detector of new countries, `geographic_anomaly`: a request from a country that the key was
/// not used from before.
///
/// It needs a source of countries: see
/// [`ApiKeysBuilder::countries`](crate::ApiKeysBuilder::countries). A country is forgotten after 180
/// days without a request from it. A key that is used from 32 countries or more is used from
/// anywhere, and none is new for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GeographicAnomaly {
    severity: Severity,
}

impl GeographicAnomaly {
    /// Creates the default settings: [medium](Severity::Medium).
    pub const fn new() -> Self {
        Self {
            severity: Severity::Medium,
        }
    }

    /// Sets the severity of a new country. Default: medium.
    #[must_use]
    pub const fn severity(mut self, severity: Severity) -> Self {
        self.severity = severity;
        self
    }

    pub(super) fn detect<'o>(&'o self, observed: &'o Observed<'_>) -> impl Iterator<Item = Found> {
        observed.new_countries().map(|(country, client)| {
            let mut finding = Finding::new(self.severity).with("country", country.as_str().into());
            if let Some(client) = client.filter(|_| !observed.hides_addresses) {
                finding = finding.with("address", client.to_string().into());
            }
            Found {
                detector: NAME.to_owned(),
                detail: country.as_str().to_owned(),
                finding,
            }
        })
    }
}

impl Default for GeographicAnomaly {
    fn default() -> Self {
        Self::new()
    }
}
