//! The logs. They are written before the application's observers are called.

use std::sync::Arc;
use std::time::SystemTime;

use super::{Decision, KeyFacts};
use crate::http::carriers::Carriers;
use crate::http::rejection::{NotFound, Rejection};
use crate::key::lifecycle::KeyStatus;
use crate::limit::charge::Charge;
use crate::util::log_throttle::{LineBudget, LogOncePer};
use crate::util::timestamp;
use crate::util::trace::{self, Refusal};

/// Writes decisions to the application's logs.
#[derive(Debug, Default)]
pub(crate) struct Log {
    deprecated: LogOncePer<HOUR>,
    reported: LogOncePer<MINUTE>,
    refusals: Arc<LineBudget>,
    /// Leaves out the addresses of clients.
    hides_addresses: bool,
}

const MINUTE: u64 = 60;
const HOUR: u64 = 3600;

impl Log {
    /// Creates the logs. `refusals` is the budget of log lines, shared with handlers.
    pub(super) fn new(hides_addresses: bool, refusals: Arc<LineBudget>) -> Self {
        Self {
            refusals,
            hides_addresses,
            ..Self::default()
        }
    }

    /// Returns whether an admission with these facts is logged.
    pub(super) fn logs_admission(key: Option<KeyFacts<'_>>, carriers: Carriers) -> bool {
        trace::traces_admissions()
            || carriers.include_parameters()
            || key.is_some_and(|key| key.status() == KeyStatus::Deprecated)
    }

    pub(super) fn decided(&self, decision: &Decision<'_>) {
        if decision.verdict.is_some() {
            for charge in decision.report_only_hits() {
                self.report(charge, decision);
            }
        }
        if let Some(key) = &decision.key {
            for rejection in decision.reported {
                self.report_access(rejection, key, decision.at());
            }
        }
        match (decision.outcome, &decision.key) {
            (Ok(()), Some(key)) => {
                trace::admitted(|| key.id(), || key.account());
                if key.status() == KeyStatus::Deprecated {
                    self.deprecated(key, decision.at());
                }
                if decision.carriers.include_parameters() {
                    for parameter in decision.request.parameters(decision.carriers) {
                        trace::key_in_query(parameter, &key.id());
                    }
                }
            }
            // Outages are logged elsewhere.
            (Ok(()), None) | (Err(Rejection::ServiceUnavailable { .. }), _) => {}
            (Err(rejection), _) => self.refused(rejection, decision),
        }
    }

    /// Logs a key that an access check which only reports would have denied, at most once a minute.
    #[cold]
    fn report_access(&self, rejection: &Rejection, key: &KeyFacts<'_>, at: SystemTime) {
        if self
            .reported
            .is_due(hash_of(key) ^ rejection.code().len() as u64, at)
        {
            trace::access_would_deny(rejection.code(), &key.id(), key.account());
        }
    }

    /// Logs a request that a limit which only reports would have denied, at most once a minute.
    #[cold]
    fn report(&self, charge: &Charge<'_>, decision: &Decision<'_>) {
        let name = charge.name();
        if !self.reported.is_due(name.hash(), decision.at()) {
            return;
        }
        let key = decision.key.as_ref();
        let key_id = key.map(|key| key.id().to_string());
        let account = key.map(KeyFacts::account);
        trace::limit_would_deny(name.as_str(), key_id.as_deref(), account);
    }

    /// Logs a refusal.
    fn refused(&self, rejection: &Rejection, decision: &Decision<'_>) {
        let at = || decision.at();
        trace::refused(&self.refusals, at, || {
            let key = decision.key.as_ref();
            // Do not log a key in the path, which is no place for keys.
            let route = Some(decision.route()).filter(|it| !decision.request.has_key_in(it));
            let client = || decision.client().map(|client| client.to_string());
            Refusal {
                code: rejection.code(),
                reason: reason(rejection),
                client: (!self.hides_addresses).then(client).flatten(),
                method: Some(decision.method().as_str()),
                route: route.or(Some("[a path with an API key in it]")),
                key_id: key.map(|key| key.id().to_string()),
                account: key.map(KeyFacts::account),
                plan: key.and_then(|key| key.record().plan()),
                limit: limit(rejection),
            }
        });
    }

    /// Logs the number of refusals that were left out, if the minute is over.
    pub(super) fn flush(&self, at: SystemTime) {
        self.refusals.flush(at, trace::refusals_suppressed);
    }

    /// Logs a deprecated key that is in use, at most once an hour.
    #[cold]
    fn deprecated(&self, key: &KeyFacts<'_>, at: SystemTime) {
        if self.deprecated.is_due(hash_of(key), at) {
            let expires_at = key.lifecycle().expires_at().map(timestamp::rfc3339);
            let expires_at = expires_at.as_deref().unwrap_or("never");
            trace::deprecated(&key.id(), key.account(), expires_at);
        }
    }
}

/// Returns a hash of a key: the first bytes of the id, which is a digest.
fn hash_of(key: &KeyFacts<'_>) -> u64 {
    let id = *key.id().as_bytes();
    u64::from_le_bytes(std::array::from_fn(|at| id[at]))
}

/// Returns the reason why a key is not found, which the caller is not told.
fn reason(rejection: &Rejection) -> Option<&'static str> {
    match rejection {
        Rejection::NotFound(NotFound::Malformed) => Some("malformed"),
        Rejection::NotFound(NotFound::Unknown) => Some("unknown"),
        _ => None,
    }
}

/// Returns the name of the limit that denied the request.
fn limit(rejection: &Rejection) -> Option<&str> {
    match rejection {
        Rejection::RateLimited(exceeded) => Some(&exceeded.name),
        Rejection::CostExceedsQuota { name, .. } => Some(name),
        _ => None,
    }
}
