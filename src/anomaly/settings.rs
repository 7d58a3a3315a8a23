//! The settings of anomaly detection.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::anomaly::action::Actions;
use crate::anomaly::baseline::Baseline;
use crate::anomaly::geographic_anomaly::GeographicAnomaly;
use crate::anomaly::observed::Detector;
use crate::anomaly::temporal_anomaly::TemporalAnomaly;
use crate::anomaly::usage_spike::UsageSpike;
use crate::anomaly::{geographic_anomaly, temporal_anomaly, usage_spike};
use crate::key::record::KeyRecord;

const DAY: u64 = 86_400;

/// The names of the detectors of this crate.
pub(super) const OWN: [&str; 3] = [
    geographic_anomaly::NAME,
    usage_spike::NAME,
    temporal_anomaly::NAME,
];

/// The settings of anomaly detection: see
/// [`ApiKeysBuilder::anomaly_detection`](crate::ApiKeysBuilder::anomaly_detection).
///
/// By default, the three detectors are on, a key is learned for 14 days, and anomalies are told and
/// nothing else is done.
///
/// ```
/// use tower_api_key::anomaly::{Actions, AnomalyDetection, UsageSpike};
/// use tower_api_key::{ApiKeys, MemoryStore};
///
/// let detection = AnomalyDetection::new()
///     .usage_spike(UsageSpike::new().factor(20.0).floor(1_000))
///     .actions(Actions::recommended());
/// let keys = ApiKeys::builder(MemoryStore::new()).anomaly_detection(detection).build()?;
/// # Ok::<(), tower_api_key::BuildError>(())
/// ```
#[derive(Clone)]
#[must_use = "nothing is detected until it is given to a builder"]
pub struct AnomalyDetection {
    pub(super) geographic: Option<GeographicAnomaly>,
    pub(super) spike: Option<UsageSpike>,
    pub(super) temporal: Option<TemporalAnomaly>,
    pub(super) detectors: Vec<Arc<dyn Detector>>,
    pub(crate) actions: Actions,
    pub(super) learning: Duration,
    pub(super) together: Duration,
    pub(crate) is_dry_run: bool,
    pub(crate) baseline: Option<Arc<GiveBaseline>>,
    /// Leaves the addresses of clients out of alerts.
    pub(crate) hides_addresses: bool,
}

/// A function that gives the baseline of a key.
pub(crate) type GiveBaseline = dyn Fn(&KeyRecord) -> Option<Baseline> + Send + Sync;

impl AnomalyDetection {
    /// Creates the default settings.
    pub const fn new() -> Self {
        Self {
            geographic: Some(GeographicAnomaly::new()),
            spike: Some(UsageSpike::new()),
            temporal: Some(TemporalAnomaly::new()),
            detectors: Vec::new(),
            actions: Actions::told_only(),
            learning: Duration::from_secs(14 * DAY),
            together: Duration::from_secs(3_600),
            is_dry_run: false,
            baseline: None,
            hides_addresses: false,
        }
    }

    /// Sets the detector of new countries, or switches it off by `None`. Default: on; it finds
    /// nothing without a source of countries.
    pub fn geographic_anomaly(mut self, detector: impl Into<Option<GeographicAnomaly>>) -> Self {
        self.geographic = detector.into();
        self
    }

    /// Sets the detector of usage spikes, or switches it off by `None`. Default: on.
    pub fn usage_spike(mut self, detector: impl Into<Option<UsageSpike>>) -> Self {
        self.spike = detector.into();
        self
    }

    /// Sets the detector of unusual hours, or switches it off by `None`. Default: on.
    pub fn temporal_anomaly(mut self, detector: impl Into<Option<TemporalAnomaly>>) -> Self {
        self.temporal = detector.into();
        self
    }

    /// Adds a detector of the application's own. Default: none.
    ///
    /// It is asked during the learning time, too, and what it finds is told and acted upon.
    pub fn detector(mut self, detector: impl Detector) -> Self {
        self.detectors.push(Arc::new(detector));
        self
    }

    /// Sets the actions. Default: [`Actions::told_only`].
    ///
    /// Danger: a false alarm then stops a customer. Begin with [`dry_run`](Self::dry_run).
    pub fn actions(mut self, actions: Actions) -> Self {
        self.actions = actions;
        self
    }

    /// Sets the time for which a key is only learned, from its first request on. Default: 14 days;
    /// at least one hour. A rotation does not begin it anew.
    ///
    /// Until then, and until the key was used on five days, nothing is found against a learned
    /// baseline. A shorter time than a week does not see a weekend.
    pub fn learning_time(mut self, time: Duration) -> Self {
        self.learning = time;
        self
    }

    /// Sets the time within which findings of two detectors count as one anomaly, which is one step
    /// more severe. Default: one hour.
    pub fn together_within(mut self, time: Duration) -> Self {
        self.together = time;
        self
    }

    /// Tells what would be done, and does nothing. Default: off.
    ///
    /// The alerts have `"dry_run": true` and the action that was left out.
    pub fn dry_run(mut self) -> Self {
        self.is_dry_run = true;
        self
    }

    /// Sets a function that gives the baseline of a key, from its record. Default: all is learned.
    ///
    /// It is called when a key is loaded, in a request: it must neither block nor panic.
    ///
    /// ```
    /// use tower_api_key::anomaly::{AnomalyDetection, Baseline, Country};
    ///
    /// let detection = AnomalyDetection::new().baseline(|record| {
    ///     let countries = record.metadata().get("countries")?; // such as "DE,FR"
    ///     let countries = countries.split(',').filter_map(|code| Country::new(code).ok());
    ///     Some(Baseline::new().countries(countries))
    /// });
    /// ```
    pub fn baseline(
        mut self,
        give: impl Fn(&KeyRecord) -> Option<Baseline> + Send + Sync + 'static,
    ) -> Self {
        self.baseline = Some(Arc::new(give));
        self
    }

    /// Returns the name of a detector of the application that is no name, or is that of another one.
    pub(crate) fn bad_name(&self) -> Option<&str> {
        let is_plain =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        let mut names: Vec<&str> = OWN.to_vec();
        for detector in &self.detectors {
            let name = detector.name();
            let is_good = (1..=64).contains(&name.len()) && name.bytes().all(is_plain);
            if !is_good || names.contains(&name) {
                return Some(name);
            }
            names.push(name);
        }
        None
    }

    /// Returns the hours for which a key is only learned.
    pub(super) fn learning_hours(&self) -> u32 {
        let hours = self.learning.as_secs().div_ceil(super::hours::HOUR).max(1);
        u32::try_from(hours).unwrap_or(u32::MAX)
    }
}

impl Default for AnomalyDetection {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for AnomalyDetection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnomalyDetection")
            .field("geographic", &self.geographic)
            .field("spike", &self.spike)
            .field("temporal", &self.temporal)
            .field("actions", &self.actions)
            .field("learning", &self.learning)
            .field("together", &self.together)
            .field("is_dry_run", &self.is_dry_run)
            .finish_non_exhaustive()
    }
}
