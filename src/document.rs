//! Records as documents: serialization with serde (feature `serde`).
//!
//! A [`KeyRecord`] serializes without its verifier, for admin endpoints and logs. To store a record
//! as a document, use [`KeyRecord::expose_parts`], which adds the verifier. Only parts with a
//! verifier convert back into a record.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::key::containment::{Revocation, Suspension, Throttling};
use crate::key::digest::{KeyDigest, KeyId};
use crate::key::environment::Environment;
use crate::key::lifecycle::KeyStatus;
use crate::key::network::{AllowedNetworks, Network};
use crate::key::quota::{Quota, QuotaShape};
use crate::key::record::{KeyRecord, Rotation};
use crate::key::scope::{Scope, ScopeSet};
use crate::key::text::KeyRecordError;
use crate::key::verifier::Verifier;
use crate::key::web_origin::{AllowedOrigins, WebOrigin};
use crate::util::timestamp::{civil_date, nanoseconds, rfc3339_exact};

/// All fields of a record, in plain types.
///
/// Times are written as RFC 3339, quotas like `{"limit": 60, "window_nanoseconds": 60000000000}`,
/// networks and scopes as lists. Fields that are not set are left out.
///
/// ```
/// use tower_api_key::key::{KeyDigest, RecordParts};
/// use tower_api_key::KeyRecord;
///
/// let record = KeyRecord::imported(KeyDigest::of("…"), "acme").with_name("nightly export");
/// let shown = serde_json::to_value(&record)?;
/// assert_eq!(shown["account"], "acme");
/// assert_eq!(shown.get("verifier"), None);
///
/// let document = serde_json::to_string(&record.expose_parts())?;
/// let parts: RecordParts = serde_json::from_str(&document)?;
/// assert_eq!(KeyRecord::try_from(parts)?, record);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
#[serde(deny_unknown_fields)]
pub struct RecordParts {
    /// The public id of the key.
    pub id: KeyId,
    /// The verifier, if it was [exposed](KeyRecord::expose_parts).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verifier: Option<ExposedVerifier>,
    /// The account.
    pub account: String,
    /// The version of the record.
    pub version: u64,
    /// The organization.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub organization: Option<String>,
    /// The name that the owner gave the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The prefix of the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// The environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<Environment>,
    /// The name of the plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    /// The scopes.
    #[serde(default)]
    pub scopes: ScopeSet,
    /// The networks that the key may be used from; `None` allows any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub networks: Option<Vec<Network>>,
    /// The web origins that the key may be used from; `None` allows any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origins: Option<Vec<WebOrigin>>,
    /// The key's own quotas, by the name of the limit.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, Quota>,
    /// The application's own metadata.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// The key whose budgets this key shares, if it shares those of another key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<KeyId>,
    /// The first key of the chain of rotations, if it is another key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lineage: Option<KeyId>,
    /// The time of issue.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "optional_instant"
    )]
    pub created_at: Option<SystemTime>,
    /// The time from which the key works.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "optional_instant"
    )]
    pub not_before: Option<SystemTime>,
    /// The time when the key expires.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "optional_instant"
    )]
    pub expires_at: Option<SystemTime>,
    /// The suspension.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspended: Option<Suspension>,
    /// The throttle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throttled: Option<Throttling>,
    /// The revocation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<Revocation>,
    /// The key that this key replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotated_from: Option<KeyId>,
    /// The key that replaced this key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotated_to: Option<Rotation>,
}

/// A verifier in plain text.
///
/// Danger: with a verifier, anybody can test guesses of the key, and find an imported key that is
/// guessable. Store it only with the records.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExposedVerifier {
    /// The 32 bytes in hexadecimal digits.
    expected: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pepper: Option<String>,
}

/// Redacts the verifier, like `Verifier` itself.
impl std::fmt::Debug for ExposedVerifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExposedVerifier")
            .field("expected", &"[REDACTED]")
            .field("pepper", &self.pepper)
            .finish()
    }
}

impl From<&Verifier> for ExposedVerifier {
    fn from(verifier: &Verifier) -> Self {
        Self {
            expected: KeyDigest::from_bytes(*verifier.as_bytes()).to_hex(),
            pepper: verifier.pepper().map(|pepper| pepper.as_str().to_owned()),
        }
    }
}

/// An error for parts that do not form a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordPartsError {
    /// The verifier was left out: see [`KeyRecord::expose_parts`].
    #[error("the parts have no verifier: write them with KeyRecord::expose_parts")]
    NoVerifier,
    /// The verifier is not 64 hexadecimal digits.
    #[error("the verifier is not 64 hexadecimal digits")]
    Verifier,
    /// The record has a value that not every store can keep.
    #[error(transparent)]
    Record(#[from] KeyRecordError),
}

impl KeyRecord {
    /// Returns all fields except the verifier.
    pub fn to_parts(&self) -> RecordParts {
        let text = |text: Option<&str>| text.map(str::to_owned);
        let other = |key: KeyId| Some(key).filter(|key| *key != self.id());
        RecordParts {
            id: self.id(),
            verifier: None,
            account: self.account().to_owned(),
            version: self.version(),
            organization: text(self.organization()),
            name: text(self.name()),
            prefix: text(self.prefix()),
            environment: self.environment().cloned(),
            plan: text(self.plan()),
            scopes: self.scopes().clone(),
            networks: self.networks().list().map(<[_]>::to_vec),
            origins: self.origins().list().map(<[_]>::to_vec),
            limits: self.limits().clone(),
            metadata: self.metadata().clone(),
            budget: other(self.budget()),
            lineage: other(self.lineage()),
            created_at: self.created_at(),
            not_before: self.not_before(),
            expires_at: self.expires_at(),
            suspended: self.suspended().cloned(),
            throttled: self.throttled().cloned(),
            revoked: self.revoked().cloned(),
            rotated_from: self.rotated_from(),
            rotated_to: self.rotated_to().copied(),
        }
    }

    /// Returns all fields with the verifier, for a store that keeps records as documents.
    ///
    /// Danger: with the verifier, anybody can test guesses of the key.
    pub fn expose_parts(&self) -> RecordParts {
        RecordParts {
            verifier: Some(self.verifier().into()),
            ..self.to_parts()
        }
    }
}

impl TryFrom<RecordParts> for KeyRecord {
    type Error = RecordPartsError;

    fn try_from(parts: RecordParts) -> Result<Self, RecordPartsError> {
        let exposed = parts.verifier.ok_or(RecordPartsError::NoVerifier)?;
        let digest = KeyDigest::from_hex(&exposed.expected).ok_or(RecordPartsError::Verifier)?;
        let plain = Verifier::sha256(digest);
        let verifier = match exposed.pepper {
            Some(pepper) => Verifier::peppered(*plain.as_bytes(), pepper.as_str().into()),
            None => plain,
        };
        let networks = parts.networks.map(AllowedNetworks::from_iter);
        let origins = parts.origins.map(AllowedOrigins::from_iter);
        let record = Self::new(parts.id, verifier, parts.account)
            .with_version(parts.version)
            .with_organization(parts.organization)
            .with_name(parts.name)
            .with_prefix(parts.prefix)
            .with_environment(parts.environment)
            .with_plan(parts.plan)
            .with_scopes(parts.scopes)
            .with_networks(networks.unwrap_or(AllowedNetworks::any()))
            .with_origins(origins.unwrap_or(AllowedOrigins::any()))
            .with_limits(parts.limits)
            .with_metadata(parts.metadata)
            .with_budget(parts.budget)
            .with_lineage(parts.lineage)
            .with_created_at(parts.created_at)
            .with_not_before(parts.not_before)
            .with_expires_at(parts.expires_at)
            .with_suspended(parts.suspended)
            .with_throttled(parts.throttled)
            .with_revoked(parts.revoked)
            .with_rotated_from(parts.rotated_from)
            .with_rotated_to(parts.rotated_to);
        record.check()?;
        Ok(record)
    }
}

/// Serializes all fields except the verifier.
impl Serialize for KeyRecord {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_parts().serialize(serializer)
    }
}

/// Serializes types with `Display`, and deserializes them with `FromStr`.
macro_rules! as_text {
    ($($type:ty),*) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(D::Error::custom)
            }
        }
    )*};
}

as_text!(KeyId, Environment, KeyStatus, Network, Scope, WebOrigin);

/// Serializes the scopes as a list.
impl Serialize for ScopeSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for ScopeSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let scopes: Vec<Scope> = Vec::deserialize(deserializer)?;
        Ok(scopes.into_iter().collect())
    }
}

/// A quota as it is serialized: its limit and its kind.
#[derive(Serialize, Deserialize)]
struct QuotaParts {
    limit: u64,
    #[serde(flatten)]
    shape: ShapeParts,
}

/// The kind of a quota. Nanoseconds keep its durations exact.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ShapeParts {
    WindowNanoseconds(u64),
    IntervalNanoseconds(u64),
    Calendar(CalendarParts),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum CalendarParts {
    UtcDay,
    UtcMonth,
}

impl Serialize for Quota {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let shape = match self.shape() {
            QuotaShape::Window { period } => ShapeParts::WindowNanoseconds(nanoseconds(period)),
            QuotaShape::Rate { interval } => ShapeParts::IntervalNanoseconds(nanoseconds(interval)),
            QuotaShape::UtcDay => ShapeParts::Calendar(CalendarParts::UtcDay),
            QuotaShape::UtcMonth => ShapeParts::Calendar(CalendarParts::UtcMonth),
        };
        let limit = self.limit();
        QuotaParts { limit, shape }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Quota {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let QuotaParts { limit, shape } = QuotaParts::deserialize(deserializer)?;
        let shape = match shape {
            ShapeParts::WindowNanoseconds(period) => QuotaShape::Window {
                period: Duration::from_nanos(period),
            },
            ShapeParts::IntervalNanoseconds(interval) => QuotaShape::Rate {
                interval: Duration::from_nanos(interval),
            },
            ShapeParts::Calendar(CalendarParts::UtcDay) => QuotaShape::UtcDay,
            ShapeParts::Calendar(CalendarParts::UtcMonth) => QuotaShape::UtcMonth,
        };
        Self::from_shape(limit, shape).map_err(D::Error::custom)
    }
}

/// (De)serializes a time as RFC 3339.
mod instant {
    use super::{Deserialize, Deserializer, Serializer, SystemTime, parse_rfc3339, rfc3339_exact};
    use serde::de::Error as _;

    pub(super) fn serialize<S: Serializer>(at: &SystemTime, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&rfc3339_exact(*at))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<SystemTime, D::Error> {
        let text = String::deserialize(from)?;
        parse_rfc3339(&text).ok_or_else(|| {
            D::Error::custom(format_args!(
                "{text:?} is no instant: write 2026-01-31T23:59:59Z"
            ))
        })
    }
}

/// (De)serializes an optional time.
mod optional_instant {
    use super::{Deserialize, Deserializer, Serialize, Serializer, SystemTime, instant};

    #[derive(Serialize, Deserialize)]
    struct InstantParts(#[serde(with = "instant")] SystemTime);

    #[expect(clippy::ref_option, reason = "serde calls it so")]
    pub(super) fn serialize<S: Serializer>(
        at: &Option<SystemTime>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        at.map(InstantParts).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<SystemTime>, D::Error> {
        let written = Option::<InstantParts>::deserialize(from)?;
        Ok(written.map(|written| written.0))
    }
}

/// The fields of a suspension.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Suspension", deny_unknown_fields)]
struct SuspensionFields {
    #[serde(with = "instant")]
    at: SystemTime,
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "optional_instant"
    )]
    until: Option<SystemTime>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// The fields of a throttle.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Throttling", deny_unknown_fields)]
struct ThrottlingFields {
    quota: Quota,
    #[serde(with = "instant")]
    until: SystemTime,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// The fields of a revocation.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Revocation", deny_unknown_fields)]
struct RevocationFields {
    #[serde(with = "instant")]
    at: SystemTime,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// The fields of a rotation.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Rotation", deny_unknown_fields)]
struct RotationFields {
    successor: KeyId,
    #[serde(with = "instant")]
    at: SystemTime,
}

/// Serializes types field by field.
macro_rules! by_fields {
    ($($type:ty as $fields:ty),*) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                <$fields>::serialize(self, serializer)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                <$fields>::deserialize(deserializer)
            }
        }
    )*};
}

by_fields!(
    Suspension as SuspensionFields,
    Throttling as ThrottlingFields,
    Revocation as RevocationFields,
    Rotation as RotationFields
);

/// Parses the output of [`rfc3339_exact`]. Only the offset `Z` is accepted.
fn parse_rfc3339(text: &str) -> Option<SystemTime> {
    let text = text.strip_suffix('Z')?;
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if fraction.is_empty() || fraction.len() > 9 || !digits(fraction) {
        return None;
    }
    let nanoseconds: u32 = format!("{fraction:0<9}").parse().ok()?;
    let (date, time) = seconds.split_once('T')?;
    let numbers = |text: &str, separator, widths: [usize; 3]| -> Option<[u64; 3]> {
        let mut parts = text.split(separator);
        let mut number = |width: usize| {
            let part = parts
                .next()
                .filter(|part| part.len() == width && digits(part))?;
            part.parse::<u64>().ok()
        };
        let numbers = [number(widths[0])?, number(widths[1])?, number(widths[2])?];
        parts.next().is_none().then_some(numbers)
    };
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let [hour, minute, second] = numbers(time, ':', [2, 2, 2])?;
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    // Days are counted in years that begin on March 1, so that February is the last month.
    let year_from_march = if month < 3 {
        year.checked_sub(1)?
    } else {
        year
    };
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day.checked_sub(1)?;
    let days = 365 * year_from_march + year_from_march / 4 - year_from_march / 100
        + year_from_march / 400
        + day_of_year;
    let days = days.checked_sub(719_468)?;
    // Reject dates that do not exist, such as February 30: they would be written as another date.
    if civil_date(days) != (year, month, day) {
        return None;
    }
    let seconds = ((days * 24 + hour) * 60 + minute) * 60 + second;
    Some(UNIX_EPOCH + Duration::new(seconds, nanoseconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_invalid_instant_is_not_parsed() {
        for no in [
            "",
            "Z",
            "2024-02-30T00:00:00Z",
            "2023-02-29T00:00:00Z",
            "2024-13-01T00:00:00Z",
            "2024-00-01T00:00:00Z",
            "2024-01-00T00:00:00Z",
            "2024-01-01T24:00:00Z",
            "2024-01-01T00:60:00Z",
            "2024-01-01T00:00:60Z",
            "2024-01-01T00:00:00",
            "2024-01-01T00:00:00+00:00",
            "2024-1-01T00:00:00Z",
            "2024-01-01T00:00:00.Z",
            "2024-01-01T00:00:00.1234567890Z",
            "1969-12-31T23:59:59Z",
            "2024-01-01 00:00:00Z",
            "+024-01-01T00:00:00Z",
            "0000-01-01T00:00:00Z",
            "2024-01-01T00:00:00-1Z",
        ] {
            assert_eq!(parse_rfc3339(no), None, "{no}");
        }
        assert_eq!(rfc3339_exact(UNIX_EPOCH), "1970-01-01T00:00:00Z");
    }

    #[test]
    fn quotas_round_trip_through_json() {
        for quota in [
            Quota::per_minute(60),
            Quota::per_minute(7).smooth().burst(3),
            Quota::per_utc_day(1),
            Quota::per_utc_month(Quota::MAX),
        ] {
            let text = serde_json::to_string(&quota).unwrap();
            assert_eq!(
                serde_json::from_str::<Quota>(&text).unwrap(),
                quota,
                "{text}"
            );
        }
        for no in [
            r#"{"limit":0,"window_nanoseconds":60000000000}"#,
            r#"{"limit":1,"window_nanoseconds":1}"#,
            r#"{"limit":1,"interval_nanoseconds":0}"#,
            r#"{"limit":1}"#,
            r#"{"limit":1,"calendar":"week"}"#,
        ] {
            assert!(serde_json::from_str::<Quota>(no).is_err(), "{no}");
        }
    }

    proptest! {
        #[test]
        fn an_exact_timestamp_round_trips(seconds in 0..=253_402_300_799u64, fraction in 0..1_000_000_000u32) {
            for fraction in [0, fraction, fraction / 1_000_000 * 1_000_000] {
                let instant = UNIX_EPOCH + Duration::new(seconds, fraction);
                prop_assert_eq!(parse_rfc3339(&rfc3339_exact(instant)), Some(instant));
            }
        }

    }
}
