//! The logs, which are told before the application's observers.

use std::time::SystemTime;

use super::{Decision, KeyFacts};
use crate::http::carriers::Carriers;
use crate::http::rejection::Rejection;
use crate::key::lifecycle::KeyStatus;
use crate::limit::charge::Charge;
use crate::util::timestamp;
use crate::util::trace::{self, Seldom};

/// Writes decisions to the application's logs.
#[derive(Debug, Default)]
pub(crate) struct Log {
    deprecated: Seldom<HOUR>,
    reported: Seldom<MINUTE>,
}

const MINUTE: u64 = 60;
const HOUR: u64 = 3600;

impl Log {
    /// Returns whether there is something to write about an admission like this.
    #[inline]
    pub(super) fn hears_of_admission(key: Option<KeyFacts<'_>>, carriers: Carriers) -> bool {
        trace::traces_admissions()
            || carriers.include_parameters()
            || key.is_some_and(|key| key.status() == KeyStatus::Deprecated)
    }

    #[inline]
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
            (Ok(()), None) => {}
            (Err(rejection), Some(key)) => {
                trace::refused_caller(rejection.code(), &key.id(), key.account());
            }
            (Err(rejection), None) => trace::refused_stranger(rejection.code(), rejection),
        }
    }

    /// Tells of a key that would have been denied by what is only reported, at most once a minute.
    #[cold]
    fn report_access(&self, rejection: &Rejection, key: &KeyFacts<'_>, at: SystemTime) {
        if self
            .reported
            .is_due(hash_of(key) ^ rejection.code().len() as u64, at)
        {
            trace::would_refuse(rejection.code(), &key.id(), key.account());
        }
    }

    /// Tells of a limit that only reports and would have denied a request, at most once a minute.
    #[cold]
    fn report(&self, charge: &Charge<'_>, decision: &Decision<'_>) {
        let name = charge.name();
        if !self.reported.is_due(name.hash(), decision.at()) {
            return;
        }
        let key = decision.key.as_ref();
        let key_id = key.map(|key| key.id().to_string());
        let account = key.map(KeyFacts::account);
        trace::would_deny(name.as_str(), key_id.as_deref(), account);
    }

    /// Tells of a deprecated key that is in use, at most once an hour.
    #[cold]
    fn deprecated(&self, key: &KeyFacts<'_>, at: SystemTime) {
        if self.deprecated.is_due(hash_of(key), at) {
            let expires_at = key.lifecycle().expires_at().map(timestamp::rfc3339);
            let expires_at = expires_at.as_deref().unwrap_or("never");
            trace::deprecated(&key.id(), key.account(), expires_at);
        }
    }
}

/// A number that few keys share: the head of the id, which is a digest.
fn hash_of(key: &KeyFacts<'_>) -> u64 {
    let id = *key.id().as_bytes();
    u64::from_le_bytes(std::array::from_fn(|at| id[at]))
}
