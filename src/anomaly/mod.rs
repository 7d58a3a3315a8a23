//! Anomaly detection: unusual use of a key is noticed, and told.
//!
//! A key that was stolen works as well for the thief as for its owner. What gives the thief away is
//! that it is used in another way than usual. Switch the detection on with
//! [`ApiKeysBuilder::anomaly_detection`](crate::ApiKeysBuilder::anomaly_detection). Three detectors
//! compare the use of each key with its own past:
//!
//! | detector | finds | severity |
//! |---|---|---|
//! | [`temporal_anomaly`](TemporalAnomaly) | an hour of the UTC day in which the key is not used usually | low |
//! | [`geographic_anomaly`](GeographicAnomaly) | a country that the key was not used from | medium |
//! | [`usage_spike`](UsageSpike) | more than ten times the requests of a usual hour | high |
//!
//! If two of them find something within an hour, the anomaly is one step more severe than the higher
//! one. A [`Detector`] of the application's own joins them.
//!
//! Every anomaly is an event `anomaly.low`, `anomaly.medium`, `anomaly.high` or `anomaly.critical`,
//! with the key and the facts. Those that are high or critical belong to the account of the key, so
//! that its endpoints get them, too; and those that are critical are logged at `ERROR`. What else is
//! done is up to the application: see [`Actions`]. By default, that is nothing.
//!
//! The [worker](crate::ApiKeys::worker) looks every 30 seconds at the keys that were used in a
//! notable way, and every ten minutes at all others, and adds what it saw to the *profile* of the
//! key in the store, which all processes share. A profile has up to 700 bytes, and neither addresses
//! nor single requests. Publishable keys are not watched, since anybody may use them. The chapter
//! [`guide::anomalies`](crate::guide::anomalies) tells how to begin, and how good this is.
//!
//! It cannot find a thief who uses the key from the country of its owner, in its usual hours,
//! and at its usual rate. Only a short life of keys, networks and scopes help then.

mod action;
mod assess;
mod baseline;
mod country;
mod encoding;
mod finding;
mod geographic_anomaly;
mod hours;
mod notable;
mod observation;
mod observed;
mod profile;
mod settings;
mod severity;
#[cfg(test)]
mod simulation;
mod temporal_anomaly;
mod usage_spike;
mod watch;
mod watch_table;

pub use action::{Action, Actions};
pub use baseline::Baseline;
pub use country::{Country, CountryError};
pub(crate) use encoding::NoProfile;
pub(crate) use finding::Alert;
pub use finding::Finding;
pub use geographic_anomaly::GeographicAnomaly;
pub(crate) use notable::Notable;
pub(crate) use observation::Observation;
pub use observed::{Detector, Observed};
pub(crate) use profile::Profile;
pub use settings::AnomalyDetection;
pub use severity::Severity;
pub use temporal_anomaly::TemporalAnomaly;
pub use usage_spike::UsageSpike;
pub(crate) use watch::{Watch, network_of, number_of};
pub(crate) use watch_table::WatchTable;

pub use crate::observe::countries::{Countries, CountryHeader};
