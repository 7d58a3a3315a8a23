//! The status of a key: a pure function of its record and a time.
//!
//! A key goes from active to deprecated, and then to revoked or expired. On the way, it may be
//! suspended, or not yet active.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::key::record::KeyRecord;

/// The status of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeyStatus {
    /// The key works.
    Active,
    /// The key works, but will end: it was rotated, or is about to expire.
    Deprecated,
    /// The key does not work yet.
    NotYetActive,
    /// The key was suspended, and may be resumed.
    Suspended,
    /// The key has expired.
    Expired,
    /// The key was revoked for good.
    Revoked,
}

impl KeyStatus {
    /// Returns the status as in `X-Key-Status`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Deprecated => "deprecated",
            Self::NotYetActive => "not_yet_active",
            Self::Suspended => "suspended",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }

    /// Returns whether a key with this status is refused.
    pub const fn is_refused(self) -> bool {
        !matches!(self, Self::Active | Self::Deprecated)
    }
}

/// An error for a text that is not a status of a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no status of a key: use active, deprecated, not_yet_active, suspended, expired or revoked"
)]
pub struct KeyStatusError(String);

/// Parses a status as written by [`as_str`](KeyStatus::as_str).
impl FromStr for KeyStatus {
    type Err = KeyStatusError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let all = [
            Self::Active,
            Self::Deprecated,
            Self::NotYetActive,
            Self::Suspended,
            Self::Expired,
            Self::Revoked,
        ];
        let found = all.into_iter().find(|status| status.as_str() == text);
        found.ok_or_else(|| KeyStatusError(text.to_owned()))
    }
}

impl fmt::Display for KeyStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The time before its expiry in which a key counts as deprecated.
///
/// Default: 30 days, or the last quarter of the key's lifetime if that is shorter. The lifetime
/// begins at `not_before`, or else at `created_at`. If a record has neither, the window is 30 days.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WarningWindow(Duration);

impl WarningWindow {
    /// Creates a window of at most this length. For short-lived keys, the window is the last
    /// quarter of their lifetime.
    ///
    /// With [`Duration::ZERO`], only rotated keys are deprecated.
    pub const fn at_most(longest: Duration) -> Self {
        Self(longest)
    }

    fn begins(self, key: &KeyRecord, expires_at: SystemTime) -> SystemTime {
        let begins = key.not_before().or(key.created_at());
        let quarter = begins.map_or(Duration::MAX, |begins| {
            // The lifetime of a key that expires before it begins is zero.
            expires_at.duration_since(begins).unwrap_or_default() / 4
        });
        expires_at
            .checked_sub(self.0.min(quarter))
            .unwrap_or(UNIX_EPOCH)
    }
}

impl Default for WarningWindow {
    fn default() -> Self {
        Self(Duration::from_secs(30 * 86_400))
    }
}

/// The status of a key at a time, with its dates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifecycle {
    status: KeyStatus,
    expires_at: Option<SystemTime>,
    deprecated_at: Option<SystemTime>,
}

impl Lifecycle {
    /// The lifecycle of a key that works, and has no dates.
    pub(crate) const ACTIVE: Self = Self {
        status: KeyStatus::Active,
        expires_at: None,
        deprecated_at: None,
    };

    /// Returns the status.
    pub const fn status(&self) -> KeyStatus {
        self.status
    }

    /// Returns the time when the key expires or expired, if ever.
    pub const fn expires_at(&self) -> Option<SystemTime> {
        self.expires_at
    }

    /// Returns the time when a deprecated key became deprecated; `None` for any other status.
    pub const fn deprecated_at(&self) -> Option<SystemTime> {
        self.deprecated_at
    }
}

impl KeyRecord {
    /// Returns the status of the key at `now`.
    ///
    /// A final status takes precedence over a temporary one: a key that is revoked and expired is
    /// revoked, and a key that is expired and suspended is expired. The start of a revocation or a
    /// suspension is ignored, so that a clock that steps back admits no key.
    ///
    /// ```
    /// use std::time::{Duration, SystemTime};
    /// use tower_api_key::key::{KeyDigest, KeyStatus, WarningWindow};
    /// use tower_api_key::KeyRecord;
    ///
    /// let now = SystemTime::now();
    /// let day = Duration::from_secs(86_400);
    /// let key = KeyRecord::imported(KeyDigest::of("…"), "acme")
    ///     .with_created_at(now - 355 * day)
    ///     .with_expires_at(now + 10 * day);
    /// let lifecycle = key.lifecycle(now, WarningWindow::default());
    /// assert_eq!(lifecycle.status(), KeyStatus::Deprecated);
    /// assert_eq!(lifecycle.deprecated_at(), Some(now - 20 * day));
    /// ```
    pub fn lifecycle(&self, now: SystemTime, warning: WarningWindow) -> Lifecycle {
        let lifecycle = |status, deprecated_at| Lifecycle {
            status,
            expires_at: self.expires_at(),
            deprecated_at,
        };
        if self.revoked().is_some() {
            return lifecycle(KeyStatus::Revoked, None);
        }
        if self.expires_at().is_some_and(|end| now >= end) {
            return lifecycle(KeyStatus::Expired, None);
        }
        if self.suspended().is_some_and(|it| it.holds_at(now)) {
            return lifecycle(KeyStatus::Suspended, None);
        }
        if self.not_before().is_some_and(|begin| now < begin) {
            return lifecycle(KeyStatus::NotYetActive, None);
        }
        let expiring = || {
            let begins = warning.begins(self, self.expires_at()?);
            (now >= begins).then_some(begins)
        };
        // The expiry of a key that was rotated is the end of its grace, from which nothing follows
        // about the time before.
        let rotated = self.rotated_to().map(|rotation| rotation.at);
        match rotated.or_else(expiring) {
            // RFC 9745: the sunset must not be before the deprecation, whatever the record says.
            Some(since) => {
                let since = self.expires_at().map_or(since, |end| since.min(end));
                lifecycle(KeyStatus::Deprecated, Some(since))
            }
            None => lifecycle(KeyStatus::Active, None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::containment::{Revocation, Suspension};
    use crate::key::digest::KeyDigest;
    use crate::key::record::Rotation;
    use proptest::prelude::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn day(count: u32) -> SystemTime {
        UNIX_EPOCH + count * DAY
    }

    fn key() -> KeyRecord {
        KeyRecord::imported(KeyDigest::of("key"), "acme")
    }

    fn status(key: &KeyRecord, now: SystemTime) -> KeyStatus {
        key.lifecycle(now, WarningWindow::default()).status()
    }

    #[test]
    fn a_year_long_key_warns_for_thirty_days() {
        let key = key().with_created_at(day(0)).with_expires_at(day(365));
        assert_eq!(
            status(&key, day(335) - Duration::from_nanos(1)),
            KeyStatus::Active
        );
        assert_eq!(status(&key, day(335)), KeyStatus::Deprecated);
        assert_eq!(
            status(&key, day(365) - Duration::from_nanos(1)),
            KeyStatus::Deprecated
        );
        assert_eq!(status(&key, day(365)), KeyStatus::Expired);
    }

    #[test]
    fn a_short_lived_key_warns_in_its_last_quarter() {
        let key = key().with_created_at(day(0)).with_expires_at(day(4));
        assert_eq!(
            status(&key, day(3) - Duration::from_nanos(1)),
            KeyStatus::Active
        );
        assert_eq!(status(&key, day(3)), KeyStatus::Deprecated);
        let later = key.with_not_before(day(2)); // its life begins later
        assert_eq!(status(&later, day(3)), KeyStatus::Active);
        assert_eq!(status(&later, day(3) + DAY / 2), KeyStatus::Deprecated);
    }

    #[test]
    fn without_a_warning_window_only_rotation_deprecates_a_key() {
        let none = WarningWindow::at_most(Duration::ZERO);
        let key = key().with_created_at(day(0)).with_expires_at(day(4));
        let before = key.lifecycle(day(4) - Duration::from_nanos(1), none);
        assert_eq!(before.status(), KeyStatus::Active);
        let successor = KeyDigest::of("successor").id();
        let rotated = key.with_rotated_to(Rotation {
            successor,
            at: day(1),
        });
        let lifecycle = rotated.lifecycle(day(2), none);
        assert_eq!(lifecycle.status(), KeyStatus::Deprecated);
        assert_eq!(lifecycle.deprecated_at(), Some(day(1)));
    }

    #[test]
    fn a_rotation_dates_the_deprecation_whatever_the_expiry_is_then() {
        let successor = KeyDigest::of("successor").id();
        let key = key().with_created_at(day(0)).with_expires_at(day(365));
        for rotated in [100, 350] {
            let key = key.clone().with_rotated_to(Rotation {
                successor,
                at: day(rotated),
            });
            let lifecycle = key.lifecycle(day(360), WarningWindow::default());
            assert_eq!(lifecycle.deprecated_at(), Some(day(rotated)));
        }
    }

    #[test]
    fn revocation_and_expiry_take_precedence_over_suspension() {
        let key = key()
            .with_not_before(day(50))
            .with_expires_at(day(100))
            .with_suspended(Some(Suspension::new(day(10))));
        assert_eq!(status(&key, day(20)), KeyStatus::Suspended);
        assert_eq!(status(&key, day(100)), KeyStatus::Expired);
        assert_eq!(
            status(&key.clone().with_suspended(None), day(20)),
            KeyStatus::NotYetActive
        );
        let revoked = key.with_revoked(Revocation::new(day(90)));
        assert_eq!(status(&revoked, day(20)), KeyStatus::Revoked);
        assert_eq!(status(&revoked, day(200)), KeyStatus::Revoked);
    }

    #[test]
    fn the_first_revocation_stands() {
        let key = key()
            .with_revoked(Revocation::new(day(1)))
            .with_revoked(Revocation::new(day(2)));
        assert_eq!(key.revoked(), Some(&Revocation::new(day(1))));
    }

    fn instant() -> impl Strategy<Value = SystemTime> {
        prop_oneof![
            (0..4_000_000_000u64).prop_map(|s| UNIX_EPOCH + Duration::from_secs(s)),
            (0..4_000_000_000u64).prop_map(|s| UNIX_EPOCH - Duration::from_secs(s)),
            Just(UNIX_EPOCH + Duration::from_secs(u64::MAX >> 2)),
        ]
    }

    proptest! {
        #[test]
        fn any_record_has_a_status_at_any_instant(
            created in proptest::option::of(instant()),
            begins in proptest::option::of(instant()),
            ends in proptest::option::of(instant()),
            suspended in proptest::option::of(instant()),
            resumes in proptest::option::of(instant()),
            revoked in proptest::option::of(instant()),
            rotated in proptest::option::of(instant()),
            now in instant(),
            window in any::<u64>(),
        ) {
            let suspension = suspended.map(|at| Suspension::new(at).with_until(resumes));
            let mut key = key().with_suspended(suspension);
            if let Some(at) = created { key = key.with_created_at(at); }
            if let Some(at) = begins { key = key.with_not_before(at); }
            if let Some(at) = ends { key = key.with_expires_at(at); }
            if let Some(at) = revoked { key = key.with_revoked(Revocation::new(at)); }
            if let Some(at) = rotated {
                let successor = key.id();
                key = key.with_rotated_to(Rotation { successor, at });
            }
            let lifecycle = key.lifecycle(now, WarningWindow::at_most(Duration::from_secs(window)));
            let is_suspended = suspended.is_some() && resumes.is_none_or(|resumes| now < resumes);
            let works = revoked.is_none() && !is_suspended
                && ends.is_none_or(|end| now < end) && begins.is_none_or(|begin| now >= begin);
            prop_assert_eq!(!lifecycle.status().is_refused(), works);
            prop_assert_eq!(
                lifecycle.deprecated_at().is_some(), lifecycle.status() == KeyStatus::Deprecated);
            if let (Some(since), Some(end)) = (lifecycle.deprecated_at(), ends) {
                prop_assert!(since <= end);
            }
        }
    }
}
