//! Alerts of anomaly detection: an event, and the action that the application chose.

use std::time::SystemTime;

use serde_json::Value;
use tracing::Level;

use crate::anomaly::{Action as Measure, Alert, AnomalyDetection, Severity};
use crate::key::containment::{Revocation, Suspension, Throttling};
use crate::key::digest::KeyId;
use crate::key::record::KeyRecord;
use crate::manage::change::ChangeError;
use crate::manage::{ATTEMPTS, Manager};
use crate::store::{
    Action, Actor, ActorKind, Change, Event, Once, Origin, StoreError, StoreErrorKind, kinds,
};
use crate::util::trace;

/// The reason of a revocation by the library.
const AUTOMATIC: &str = "automatic_security";

/// A measure against a key, as a change of its record.
struct Planned {
    action: Action,
    record: KeyRecord,
}

impl Manager {
    /// Tells an alert once, and carries out the action on it, in one transaction. `hour` tells it
    /// from the same finding later.
    pub(crate) async fn raise(
        &self,
        alert: &Alert,
        detection: &AnomalyDetection,
        hour: u32,
    ) -> Result<(), ChangeError> {
        let chosen = detection.actions.of(alert.severity);
        let mut attempt = 1;
        loop {
            let Some((seen, is_changeable)) = self.find_watched(&alert.key).await? else {
                return Ok(()); // the key was deleted meanwhile
            };
            let now = self.shared.now();
            let planned = is_changeable.then(|| planned(&seen, chosen, alert, now));
            let planned = planned.flatten();
            let measure = planned.as_ref().map_or(Measure::Tell, |_| chosen);
            let planned = planned.filter(|_| !detection.is_dry_run);
            if planned.is_none() && is_changeable {
                self.learn_of(&seen);
            }
            let origin = Origin::new(Actor::new(ActorKind::System, "anomaly detection"));
            let reason = format!("{} anomaly: {}", alert.severity, alert.detectors());
            let mut change = Change::new(origin.with_reason(reason), now);
            if let Some(Planned { action, record }) = planned {
                let next = seen.version().saturating_add(1);
                change = change.update(action, &seen, record.with_version(next).rounded())?;
            }
            let once = Once::of([
                "anomaly",
                &alert.key.to_string(),
                alert.severity.as_str(),
                &alert.identity(),
                &hour.to_string(),
            ]);
            let event = event(alert, &seen, measure, detection.is_dry_run, now);
            change = change.add_event_once(event, once)?;
            match self.commit(change).await {
                Ok(()) => {
                    log(alert, seen.account(), measure, detection.is_dry_run);
                    return Ok(());
                }
                Err(error) if error.kind() == StoreErrorKind::Conflict && attempt < ATTEMPTS => {
                    attempt += 1;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Makes the cache forget an older record of a key, such as one from before a suspension by
    /// another process.
    fn learn_of(&self, seen: &KeyRecord) {
        let cache = &self.shared.cache;
        cache.remember(seen.clone());
        if cache.has_older(seen) {
            cache.outdate(&seen.id());
        }
    }

    /// Finds the record of a key, and whether the key can be changed: one from the environment cannot,
    /// and is told of all the same.
    async fn find_watched(&self, id: &KeyId) -> Result<Option<(KeyRecord, bool)>, StoreError> {
        match self.find_newest(id).await {
            Ok(found) => Ok(found.map(|record| (record, true))),
            Err(error) if error.kind() == StoreErrorKind::ReadOnly => {
                let found = self.shared.store.find(id).await?;
                Ok(found.map(|record| (record, false)))
            }
            Err(error) => Err(error),
        }
    }
}

/// Returns the change of a record that a measure makes; `None` if it is only told, or if the key is
/// no better than that already.
fn planned(seen: &KeyRecord, measure: Measure, alert: &Alert, now: SystemTime) -> Option<Planned> {
    if seen.revoked().is_some() {
        return None;
    }
    let reason = || format!("{} anomaly: {}", alert.severity, alert.detectors());
    let is_suspended = seen.suspended().is_some_and(|it| it.holds_at(now));
    let record = seen.clone();
    match measure {
        Measure::Tell => None,
        Measure::Throttle { quota, time } => {
            let is_throttled = seen.throttled().is_some_and(|it| it.holds_at(now));
            if is_throttled || is_suspended {
                return None;
            }
            let quota = Measure::quota(quota, alert.hourly_average)?;
            let until = now + Measure::bounded(time);
            let throttling = Throttling::new(quota, until).with_reason(reason());
            Some(Planned {
                action: Action::THROTTLED,
                record: record.with_throttled(throttling),
            })
        }
        Measure::Suspend { time } => {
            let until = time.map(|time| now + Measure::bounded(time));
            let is_longer = |it: &Suspension| match (it.until, until) {
                (None, _) => true,
                (Some(_), None) => false,
                (Some(its), Some(until)) => its >= until,
            };
            if is_suspended && seen.suspended().is_some_and(is_longer) {
                return None;
            }
            let suspension = Suspension::new(now).with_until(until).with_reason(reason());
            Some(Planned {
                action: Action::SUSPENDED,
                record: record.with_suspended(suspension),
            })
        }
        Measure::Revoke => {
            let revocation = Revocation::new(now).with_reason(AUTOMATIC.to_owned());
            Some(Planned {
                action: Action::REVOKED,
                record: record.with_revoked(revocation),
            })
        }
    }
}

/// Returns the event of an alert. Only a high or critical one belongs to the account of the key.
fn event(
    alert: &Alert,
    seen: &KeyRecord,
    measure: Measure,
    is_dry_run: bool,
    now: SystemTime,
) -> Event {
    let kind = match alert.severity {
        Severity::Low => kinds::ANOMALY_LOW,
        Severity::Medium => kinds::ANOMALY_MEDIUM,
        Severity::High => kinds::ANOMALY_HIGH,
        Severity::Critical => kinds::ANOMALY_CRITICAL,
    };
    let mut facts = alert.facts();
    facts.push(("action", measure.as_str().into()));
    if is_dry_run {
        facts.push(("dry_run", Value::Bool(true)));
    }
    let event = Event::of_key(kind, seen, now, facts);
    if alert.severity >= Severity::High {
        return event;
    }
    event.with_account(None)
}

fn log(alert: &Alert, account: &str, action: Measure, is_dry_run: bool) {
    let anomaly = trace::Anomaly {
        severity: alert.severity.as_str(),
        key_id: alert.key.to_string(),
        account,
        detectors: alert.detectors(),
        action: action.as_str(),
        dry_run: is_dry_run,
    };
    let level = match alert.severity {
        Severity::Low | Severity::Medium => Level::INFO,
        Severity::High => Level::WARN,
        Severity::Critical => Level::ERROR,
    };
    trace::anomaly(level, &anomaly);
}
