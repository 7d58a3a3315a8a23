//! Measures that contain a key: suspension, throttling, revocation.

use std::time::SystemTime;

use crate::key::quota::Quota;

/// A revocation, with its time and reason. It cannot be undone.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Revocation {
    /// The time of the revocation.
    pub at: SystemTime,
    /// The reason, for the operators of the service. Callers are never told.
    pub reason: Option<String>,
}

impl Revocation {
    /// Creates a revocation at a time, without a reason.
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

/// A suspension, with its time and reason. It ends when the key is resumed, or at a date.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Suspension {
    /// The time of the suspension.
    pub at: SystemTime,
    /// The time from which the key works again; `None` until it is resumed.
    pub until: Option<SystemTime>,
    /// The reason, for the operators of the service. Callers are never told.
    pub reason: Option<String>,
}

impl Suspension {
    /// Creates a suspension at a time, without an end or a reason.
    pub const fn new(at: SystemTime) -> Self {
        Self {
            at,
            until: None,
            reason: None,
        }
    }

    /// Sets the time from which the key works again.
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

    /// Returns whether the key is suspended at a time. The start of the suspension is ignored, so
    /// that a clock that steps back admits no key.
    pub fn holds_at(&self, now: SystemTime) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

/// A throttle: a temporary quota of a key, in addition to all other limits.
///
/// The quota is charged to the key itself, at the cost of each request, under the name `throttle`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Throttling {
    /// The quota of the key.
    pub quota: Quota,
    /// The time when the throttle ends.
    pub until: SystemTime,
    /// The reason, for the operators of the service. Callers are never told.
    pub reason: Option<String>,
}

impl Throttling {
    /// Creates a throttle that ends at a time, without a reason.
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

    /// Returns whether the throttle applies at a time.
    pub fn holds_at(&self, now: SystemTime) -> bool {
        now < self.until
    }
}
