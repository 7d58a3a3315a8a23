//! Measures that contain a key: suspension, throttling, revocation.

use std::time::SystemTime;

use crate::key::quota::Quota;

/// A revocation: when and why a key was stopped. It cannot be undone.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Revocation {
    /// The instant of the revocation.
    pub at: SystemTime,
    /// The reason, for those who operate the service. Callers are never told.
    pub reason: Option<String>,
}

impl Revocation {
    /// Creates a revocation at an instant, for no stated reason.
    pub const fn new(at: SystemTime) -> Self {
        Self { at, reason: None }
    }

    /// Sets the reason.
    #[must_use]
    pub fn with_reason(mut self, reason: impl Into<Option<String>>) -> Self {
        self.reason = reason.into();
        self
    }
}

/// A suspension: when and why a key was stopped, until it is resumed or until a date.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Suspension {
    /// The instant of the suspension.
    pub at: SystemTime,
    /// The instant from which the key works again; `None` until it is resumed.
    pub until: Option<SystemTime>,
    /// The reason, for those who operate the service. Callers are never told.
    pub reason: Option<String>,
}

impl Suspension {
    /// Creates a suspension at an instant, without an end, for no stated reason.
    pub const fn new(at: SystemTime) -> Self {
        Self {
            at,
            until: None,
            reason: None,
        }
    }

    /// Sets the instant from which the key works again.
    #[must_use]
    pub fn with_until(mut self, until: impl Into<Option<SystemTime>>) -> Self {
        self.until = until.into();
        self
    }

    /// Sets the reason.
    #[must_use]
    pub fn with_reason(mut self, reason: impl Into<Option<String>>) -> Self {
        self.reason = reason.into();
        self
    }

    /// Returns whether the key is suspended at an instant. The instant of the suspension does not
    /// matter, so that a clock that steps back lets no key in.
    pub fn holds_at(&self, now: SystemTime) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

/// A throttle: a quota that binds a key until a date, beside the limits that bind it anyway.
///
/// The quota is charged to the key itself, a request at its cost, under the name `throttle`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Throttling {
    /// The quota that binds the key.
    pub quota: Quota,
    /// The instant from which the key is no longer throttled.
    pub until: SystemTime,
    /// The reason, for those who operate the service. Callers are never told.
    pub reason: Option<String>,
}

impl Throttling {
    /// Creates a throttle until an instant, for no stated reason.
    pub const fn new(quota: Quota, until: SystemTime) -> Self {
        Self {
            quota,
            until,
            reason: None,
        }
    }

    /// Sets the reason.
    #[must_use]
    pub fn with_reason(mut self, reason: impl Into<Option<String>>) -> Self {
        self.reason = reason.into();
        self
    }

    /// Returns whether the quota binds the key at an instant.
    pub fn holds_at(&self, now: SystemTime) -> bool {
        now < self.until
    }
}
