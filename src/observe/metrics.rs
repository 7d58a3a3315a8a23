//! Metrics through the `metrics` facade, for any exporter that the application installs.

use metrics::{counter, describe_counter, describe_histogram, histogram};

use super::{Answered, Decision, KeyLookup, Observer, Wait, WaitFor};

const REQUESTS: &str = "api_key_requests_total";
const LOOKUPS: &str = "api_key_lookups_total";
const REPORTS: &str = "api_key_report_only_total";
const ANSWERS: &str = "api_key_answers_total";
const STORE: &str = "api_key_store_seconds";
const LIMITER: &str = "api_key_limiter_seconds";

/// An observer that counts decisions with the [`metrics`](::metrics) facade, for any exporter of
/// the facade, such as Prometheus.
///
/// - `api_key_requests_total` counts decisions. Labels: `outcome` (`admitted`, `denied`), and
///   `code` (that of the rejection, or `ok`).
/// - `api_key_lookups_total` counts lookups of keys. Label: `result` (`hit` in the cache, `miss` if
///   the key was loaded).
/// - `api_key_answers_total` counts responses to requests that were admitted with a key. Label:
///   `status` (the HTTP status).
/// - `api_key_report_only_total` counts requests that a report-only limit would have denied. Label:
///   `limit`.
/// - `api_key_store_seconds` measures the time that requests waited for their record. Label:
///   `result` (`ok`, `error`).
/// - `api_key_limiter_seconds` measures the time that requests waited for a limiter. Label:
///   `result` (`ok`, `error`).
///
/// No label contains an id, an account or an address, so the number of series is small.
///
/// ```
/// use tower_api_key::observe::Metrics;
/// use tower_api_key::{ApiKeys, MemoryStore};
///
/// let keys = ApiKeys::builder(MemoryStore::new()).add_observer(Metrics::new()).build()?;
/// # Ok::<(), tower_api_key::BuildError>(())
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct Metrics(());

impl Metrics {
    /// Creates the observer, and describes its metrics to the installed recorder. Install the
    /// exporter first.
    pub fn new() -> Self {
        describe_counter!(REQUESTS, "Decisions about requests, by outcome and code.");
        describe_counter!(LOOKUPS, "Requests whose key was cached, or was loaded.");
        describe_counter!(ANSWERS, "Answers to requests with a key, by HTTP status.");
        describe_counter!(
            REPORTS,
            "Requests that a report-only limit would have denied."
        );
        describe_histogram!(STORE, metrics::Unit::Seconds, "Waits for the key store.");
        describe_histogram!(
            LIMITER,
            metrics::Unit::Seconds,
            "Waits for the rate limiter."
        );
        Self(())
    }
}

impl Observer for Metrics {
    fn decided(&self, decision: &Decision<'_>) {
        let (outcome, code) = match decision.rejection() {
            None => ("admitted", "ok"),
            Some(rejection) => ("denied", rejection.code()),
        };
        counter!(REQUESTS, "outcome" => outcome, "code" => code).increment(1);
        let lookup = match decision.lookup() {
            KeyLookup::None => None,
            KeyLookup::Cached => Some("hit"),
            KeyLookup::Loaded => Some("miss"),
        };
        if let Some(result) = lookup {
            counter!(LOOKUPS, "result" => result).increment(1);
        }
        for charge in decision.report_only_hits() {
            counter!(REPORTS, "limit" => charge.name().to_string()).increment(1);
        }
    }

    fn waited(&self, wait: &Wait) {
        let result = if wait.is_ok { "ok" } else { "error" };
        let name = match wait.on {
            WaitFor::Store => STORE,
            WaitFor::Limiter => LIMITER,
        };
        histogram!(name, "result" => result).record(wait.time.as_secs_f64());
    }

    fn answered(&self, answer: &Answered<'_>) {
        let status = answer.status().as_str().to_owned();
        counter!(ANSWERS, "status" => status).increment(1);
    }
}
