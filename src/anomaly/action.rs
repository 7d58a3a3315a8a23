//! Actions on anomalies.

use std::time::Duration;

use crate::anomaly::severity::Severity;
use crate::key::quota::Quota;

const DAY: Duration = Duration::from_secs(86_400);

/// The longest time of an action: ten years.
const LONGEST: Duration = DAY.saturating_mul(3_650);

/// The least requests per hour that a throttle to the usual rate leaves.
const LEAST: f64 = 60.0;

/// An action on an anomaly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Action {
    /// Nothing but the alert.
    #[default]
    Tell,
    /// A throttle of the key, with an end. A throttle that the key has already is kept.
    Throttle {
        /// The quota of the key. `None` for twice its hourly average, at least 60 requests per hour;
        /// a key whose average is not known yet is not throttled then.
        quota: Option<Quota>,
        /// The time until the throttle ends.
        time: Duration,
    },
    /// A suspension of the key.
    Suspend {
        /// The time until the key works again. `None` until it is resumed.
        time: Option<Duration>,
    },
    /// A revocation of the key, which cannot be undone, with the reason `automatic_security`.
    Revoke,
}

impl Action {
    /// Creates a throttle to twice the hourly average of the key, and at least 60 requests per hour,
    /// for a time. Its owner hardly notices it, and a thief gets little.
    pub const fn throttle_to_usual(time: Duration) -> Self {
        Self::Throttle { quota: None, time }
    }

    /// Creates a throttle to a quota for a time.
    pub const fn throttle(quota: Quota, time: Duration) -> Self {
        let quota = Some(quota);
        Self::Throttle { quota, time }
    }

    /// Creates a suspension until the key is resumed.
    pub const fn suspend() -> Self {
        Self::Suspend { time: None }
    }

    /// Creates a suspension for a time.
    pub const fn suspend_for(time: Duration) -> Self {
        Self::Suspend { time: Some(time) }
    }

    /// Returns the name: `none`, `throttle`, `suspend` or `revoke`.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Tell => "none",
            Self::Throttle { .. } => "throttle",
            Self::Suspend { .. } => "suspend",
            Self::Revoke => "revoke",
        }
    }

    /// Returns the time after which it ends, if it does.
    pub(super) const fn time(&self) -> Option<Duration> {
        match self {
            Self::Throttle { time, .. } => Some(*time),
            Self::Suspend { time } => *time,
            Self::Tell | Self::Revoke => None,
        }
    }

    /// Returns the quota of a throttle of a key with an hourly average. `None` if neither is known.
    pub(crate) fn quota(quota: Option<Quota>, hourly_average: Option<f64>) -> Option<Quota> {
        quota.or_else(|| {
            let hourly_average = hourly_average?;
            let limit = (2.0 * hourly_average).ceil().clamp(LEAST, 1e9);
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "clamped"
            )]
            let limit = limit as u64;
            Quota::try_per_hour(limit).ok()
        })
    }

    /// Returns the time, at most ten years.
    pub(crate) fn bounded(time: Duration) -> Duration {
        time.min(LONGEST)
    }
}

/// The actions on anomalies, by severity. Default: all are told, and nothing else is done.
///
/// A finding is told again, and acted upon again, after 24 hours. If an action of any severity ends
/// earlier, it is after that time, and at least an hour.
///
/// ```
/// use std::time::Duration;
/// use tower_api_key::anomaly::{Action, Actions, Severity};
///
/// let day = Duration::from_secs(86_400);
/// let actions = Actions::told_only()
///     .on(Severity::High, Action::throttle_to_usual(day))
///     .on(Severity::Critical, Action::Revoke);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Actions([Action; 4]);

impl Actions {
    /// Creates actions that only tell. The default.
    pub const fn told_only() -> Self {
        Self([Action::Tell; 4])
    }

    /// Creates the recommended actions: a throttle to the usual rate for a day on high anomalies,
    /// and a suspension on critical ones, until the key is resumed.
    ///
    /// Danger: an application whose use changes at once in two respects is suspended, such as one
    /// that moves to another country and repeats all its work there. Watch the alerts of a
    /// [dry run](super::AnomalyDetection::dry_run) first.
    pub const fn recommended() -> Self {
        Self([
            Action::Tell,
            Action::Tell,
            Action::throttle_to_usual(DAY),
            Action::suspend(),
        ])
    }

    /// Sets the action on anomalies of a severity.
    #[must_use]
    pub const fn on(mut self, severity: Severity, action: Action) -> Self {
        self.0[severity as usize] = action;
        self
    }

    /// Returns the action on anomalies of a severity.
    pub const fn of(&self, severity: Severity) -> Action {
        self.0[severity as usize]
    }
}
