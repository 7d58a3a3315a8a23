//! Notice a stolen key by how it is used.
//!
//! ```
//! use tower_api_key::anomaly::{Actions, AnomalyDetection, CountryHeader};
//! use tower_api_key::{ApiKeys, MemoryStore};
//!
//! let keys = ApiKeys::builder(MemoryStore::new())
//!     .anomaly_detection(AnomalyDetection::new().actions(Actions::recommended()).dry_run())
//!     .countries(CountryHeader::new("cf-ipcountry")?)
//!     .build()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Then spawn the [worker](crate::ApiKeys::worker) of each process. `examples/watching` shows a theft
//! from the first alert to the suspension of the key:
//! `cargo run --features webhook --example watching`.
//!
//! # In four steps
//!
//! 1. Switch the detection on. By default, it tells and does nothing else. A key is only learned for
//!    14 days from its first request on, and until it was used on five days.
//! 2. Read the alerts for some weeks: the events `anomaly.low` to `anomaly.critical`, with a
//!    [sink](crate::ApiKeysBuilder::sink) or a webhook of all accounts, or in the log.
//! 3. Choose [`Actions`], with [`dry_run`]: each alert says what would have been done.
//! 4. Leave out `dry_run`.
//!
//! # When a key was stopped
//!
//! 1. Read the alert, and ask the owner of the key.
//! 2. If the use is not theirs, the key is stolen: call [`ApiKeys::revoke`], and see the runbook in
//!    [`rotation`](crate::guide::rotation).
//! 3. If it may be stolen, free it by [`ApiKeys::resume`] or [`ApiKeys::unthrottle`], and let the owner
//!    [rotate](crate::ApiKeys::rotate) it at once. The same finding is not told again for 24 hours; or
//!    for the shortest time of an action that you chose, of any severity, if that is less, but at least
//!    an hour. So a key that was freed is not stopped again at once, and neither is a thief who has it.
//! 4. If the use is theirs, free the key. What was new is known from now on.
//!
//! A key that cannot be changed, such as one of the environment, is told of and not stopped.
//!
//! # Who is told what
//!
//! | severity | event | the account's endpoints | log |
//! |---|---|---|---|
//! | low | `anomaly.low` | no | `INFO` |
//! | medium | `anomaly.medium` | no | `INFO` |
//! | high | `anomaly.high` | yes | `WARN` |
//! | critical | `anomaly.critical` | yes | `ERROR` |
//!
//! Endpoints and sinks without an account get all four. For operators, register one of the kind
//! `anomaly.critical`. The data of an alert:
//!
//! ```json
//! {
//!   "key_id": "4b7e…", "account": "acme", "name": "nightly export", "…": "…",
//!   "severity": "critical",
//!   "findings": [
//!     { "detector": "usage_spike", "severity": "high", "requests": 304.0, "hourly_average": 12.0 }
//!   ],
//!   "after": ["geographic_anomaly"],
//!   "action": "suspend"
//! }
//! ```
//!
//! `after` names what was found up to an hour before, or still goes on, which made the anomaly more
//! severe. `action` is
//! what was done: `none`, `throttle`, `suspend` or `revoke`; or what would have been, if `dry_run` is
//! there. An alert and its action are one transaction. The trail has the action, with the actor
//! `anomaly detection` and the detectors in its reason.
//!
//! # Countries
//!
//! [`ApiKeysBuilder::countries`] takes a source of countries: [`CountryHeader`] for a header that a
//! proxy sets, or your own [`Countries`], such as a database in the format of `MaxMind`
//! (`examples/watching/geo_database.rs`). A header is read with each request. A database is asked when
//! a key is used from another network than lately, and once a day: set
//! [`ApiKeyLayer::client_address`] first, if there is a proxy. Your source must not block, and a panic
//! in it is one in the request.
//!
//! Only the codes of countries are kept. An alert has one address of a new country, unless
//! [`log_without_addresses`] is set.
//!
//! # Given baselines
//!
//! What you know of a key need not be learned: give it with [`AnomalyDetection::baseline`]. It holds
//! from the first request on, without a learning time. The function is called when a key is loaded, in
//! a request: a panic in it is one in the request.
//!
//! # Detectors of your own
//!
//! A [`Detector`] is asked with each look at a key, also while the key is learned, and what it finds is
//! told and acted upon like the rest. It is called by the worker. If it panics, that is logged at
//! `ERROR`, and it has found nothing.
//!
//! # What is seen
//!
//! Requests that were admitted, those that a limit denied, and uses by [`ApiKeys::verify`]. Not those
//! that the status, the scopes or the networks of the key denied: they harm nobody, and whoever may not
//! use a key must not get it suspended by trying. The log has them.
//!
//! Only processes with a worker see anything, from the first poll of the worker on. A successor begins
//! with the profile of the key that it replaced.
//!
//! # In tests
//!
//! On a [`ManualClock`](crate::clock::ManualClock), spawn the worker and yield to it once; send
//! requests; advance the clock by 30 seconds, and yield again, until the event is in the store. Give a
//! baseline, so that nothing must be learned.
//!
//! # How good it is
//!
//! Simulated traffic of 10,000 keys over 60 days, at the default settings, looked at every ten
//! minutes (`ANOMALY_KEYS=10000 cargo test --lib simulation -- --nocapture`). False alarms per key and
//! year:
//!
//! | keys | low | medium | high | critical |
//! |---|---|---|---|---|
//! | of an office, with late evenings | 10.0 | 0.18 | 0 | 0 |
//! | of a job that runs each night | 0 | 0.05 | 0 | 0 |
//! | in use around the clock, less by night and on weekends | 0 | 0.62 | 0 | 0 |
//! | with bursts of very different sizes | 0 | 0.14 | 0.49 | 0 |
//! | whose use doubles every two weeks | 0 | 0.71 | 0 | 0 |
//! | used a few times a week, at any time | 0 | 0.03 | 0 | 0 |
//! | of an office that moves to another country | 10.0 | 6.2 | 0.03 | 0 |
//! | tried on two days, and launched elsewhere three weeks later | 5.0 | 0.15 | 0 | 0 |
//!
//! Thefts on the 45th day, with the time until they are told:
//!
//! | the thief | is told | and as high or critical |
//! |---|---|---|
//! | takes what there is: from another country, at night, 20 times the usual | always, by the first look | one in ten keys with bursts, nine in ten of keys around the clock, and all others; half of them within 10 to 50 minutes |
//! | sends 30 times the usual from the owner's country | as high | half of keys with bursts, 99 % or more of all others, half of them within 10 to 40 minutes |
//! | sends five requests an hour from another country | always, by the first look | if the hour is unusual, too |
//! | uses the key at night, from the owner's country | keys of an office: 99 % within a day and a half | no |
//! | takes a fifth of the usual, as the owner does | no | no |
//!
//! "Always" leaves out the few seldom used keys that are not known yet: those used on fewer than five
//! days. The worker looks every 30 seconds at what is notable, so "the first look" is within a minute. Of a
//! spike that is spread over many processes, each tells its part once it is a sixteenth of a spike,
//! or after ten minutes. Of the new countries of a key, eight are told in a day; the others are not
//! learned.
//!
//! The last line is why detection does not replace the rest: short lives, networks, scopes and
//! limits bound what a stolen key can do while nobody notices.
//!
//! # What it costs
//!
//! A request takes 5 % more instructions with all detectors and the counting of usage
//! (`benches/instructions.sh addressed_10k watched_10k`). The store gets a read and a write of a
//! profile, about 250 bytes and at most 700, for each key in use every ten minutes, 200 keys at a
//! time. A key in the cache takes about 350 bytes more.
//!
//! [`Actions`]: crate::anomaly::Actions
//! [`AnomalyDetection::baseline`]: crate::anomaly::AnomalyDetection::baseline
//! [`ApiKeys::revoke`]: crate::ApiKeys::revoke
//! [`ApiKeys::verify`]: crate::ApiKeys::verify
//! [`Detector`]: crate::anomaly::Detector
//! [`ApiKeyLayer::client_address`]: crate::ApiKeyLayer::client_address
//! [`ApiKeys::resume`]: crate::ApiKeys::resume
//! [`ApiKeys::unthrottle`]: crate::ApiKeys::unthrottle
//! [`ApiKeysBuilder::countries`]: crate::ApiKeysBuilder::countries
//! [`Countries`]: crate::anomaly::Countries
//! [`CountryHeader`]: crate::anomaly::CountryHeader
//! [`dry_run`]: crate::anomaly::AnomalyDetection::dry_run
//! [`log_without_addresses`]: crate::ApiKeysBuilder::log_without_addresses
