//! Differences between two records of one key, for the audit trail: by field, without secrets.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::SystemTime;

use crate::key::digest::KeyId;
use crate::key::environment::Environment;
use crate::key::record::KeyRecord;
use crate::key::web_origin::WebOrigin;
use crate::util::timestamp;

/// A field of a record that a change set, replaced or cleared.
///
/// Texts are shown unchanged, sets are separated by blanks, and times are in RFC 3339, in UTC.
/// Entries of maps are fields of their own: `limits.account_per_minute`, `metadata.team`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FieldChange {
    /// The name of the field, such as `expires_at`.
    pub field: String,
    /// The value before the change.
    pub before: FieldValue,
    /// The value after the change.
    pub after: FieldValue,
}

impl FieldChange {
    /// Creates a change of a field, for stores that read their trail.
    pub fn new(field: impl Into<String>, before: FieldValue, after: FieldValue) -> Self {
        Self {
            field: field.into(),
            before,
            after,
        }
    }

    /// Returns the approximate size in bytes.
    pub(crate) fn size(&self) -> usize {
        let shown = |value: &FieldValue| match value {
            FieldValue::Shown(text) => text.len(),
            _ => 0,
        };
        size_of::<Self>() + self.field.len() + shown(&self.before) + shown(&self.after)
    }
}

/// The value of a field before or after a change.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FieldValue {
    /// The field was not set.
    Unset,
    /// The field was set, but the trail does not show the value: a verifier, or a value of
    /// metadata, which may be personal data.
    Hidden,
    /// The field was set to this value.
    Shown(String),
}

impl fmt::Display for FieldValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unset => f.write_str("-"),
            Self::Hidden => f.write_str("(hidden)"),
            Self::Shown(value) => f.write_str(value),
        }
    }
}

/// A value to compare, which may be shown or not.
#[derive(PartialEq, Eq)]
enum ComparedValue {
    Shown(String),
    Hidden(String),
}

impl ComparedValue {
    /// Converts the value of a field, or of a field that is not set, for the trail.
    fn to_shown(value: Option<&Self>) -> FieldValue {
        match value {
            None => FieldValue::Unset,
            Some(Self::Hidden(_)) => FieldValue::Hidden,
            Some(Self::Shown(value)) => FieldValue::Shown(value.clone()),
        }
    }
}

impl KeyRecord {
    /// Returns the fields in which this record differs from an earlier one of the same key, sorted
    /// by name, with the verifier last. Without an earlier record, all fields that are set differ.
    ///
    /// The id and the version are left out, since a trail record has them anyway.
    ///
    /// ```
    /// use tower_api_key::key::KeyDigest;
    /// use tower_api_key::KeyRecord;
    ///
    /// let first = KeyRecord::imported(KeyDigest::of("…"), "acme").with_plan("free");
    /// let next = first.clone().with_plan("pro");
    /// let changes = next.changes_since(&first);
    /// assert_eq!(changes.len(), 1);
    /// assert_eq!(changes[0].to_string(), "plan: free -> pro");
    /// ```
    pub fn changes_since<'r>(&'r self, earlier: impl Into<Option<&'r Self>>) -> Vec<FieldChange> {
        let earlier = earlier.into();
        let (before, after) = (earlier.map(fields).unwrap_or_default(), fields(self));
        let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        let changes = names.into_iter().filter_map(|name| {
            let (before, after) = (before.get(name), after.get(name));
            let change = || {
                FieldChange::new(
                    name,
                    ComparedValue::to_shown(before),
                    ComparedValue::to_shown(after),
                )
            };
            (before != after).then(change)
        });
        let mut changes: Vec<FieldChange> = changes.collect();
        // Compared here and not as a field, to avoid copies of the verifier.
        if earlier.is_none_or(|earlier| earlier.verifier() != self.verifier()) {
            let before = earlier.map_or(FieldValue::Unset, |_| FieldValue::Hidden);
            changes.push(FieldChange::new("verifier", before, FieldValue::Hidden));
        }
        changes
    }
}

impl fmt::Display for FieldChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} -> {}", self.field, self.before, self.after)
    }
}

/// Returns the fields that are set, by name.
fn fields(record: &KeyRecord) -> BTreeMap<String, ComparedValue> {
    let text = |text: Option<&str>| text.map(|text| ComparedValue::Shown(text.to_owned()));
    let instant =
        |at: Option<SystemTime>| at.map(|at| ComparedValue::Shown(timestamp::rfc3339_exact(at)));
    let key = |id: Option<KeyId>| id.map(|id| ComparedValue::Shown(id.to_string()));
    let (suspended, throttled) = (record.suspended(), record.throttled());
    let (revoked, rotated) = (record.revoked(), record.rotated_to());
    let other_key = |id: KeyId| (id != record.id()).then_some(id);
    let networks = record.networks().list().map(|list| {
        let list: Vec<String> = list.iter().map(ToString::to_string).collect();
        ComparedValue::Shown(list.join(" "))
    });
    let origins = record.origins().list().map(|list| {
        let list: Vec<&str> = list.iter().map(WebOrigin::as_str).collect();
        ComparedValue::Shown(list.join(" "))
    });
    let scopes =
        (!record.scopes().is_empty()).then(|| ComparedValue::Shown(record.scopes().to_string()));
    let fields = [
        ("account", text(Some(record.account()))),
        ("budget", key(other_key(record.budget()))),
        ("created_at", instant(record.created_at())),
        (
            "environment",
            text(record.environment().map(Environment::as_str)),
        ),
        ("expires_at", instant(record.expires_at())),
        ("lineage", key(other_key(record.lineage()))),
        ("name", text(record.name())),
        ("networks", networks),
        ("not_before", instant(record.not_before())),
        ("organization", text(record.organization())),
        ("origins", origins),
        ("plan", text(record.plan())),
        ("prefix", text(record.prefix())),
        ("revoked_at", instant(revoked.map(|it| it.at))),
        (
            "revoked_reason",
            text(revoked.and_then(|it| it.reason.as_deref())),
        ),
        ("rotated_at", instant(rotated.map(|it| it.at))),
        ("rotated_from", key(record.rotated_from())),
        ("rotated_to", key(rotated.map(|it| it.successor))),
        ("scopes", scopes),
        ("suspended_at", instant(suspended.map(|it| it.at))),
        (
            "suspended_reason",
            text(suspended.and_then(|it| it.reason.as_deref())),
        ),
        (
            "suspended_until",
            instant(suspended.and_then(|it| it.until)),
        ),
        (
            "throttled_quota",
            throttled.map(|it| ComparedValue::Shown(format!("{:?}", it.quota))),
        ),
        (
            "throttled_reason",
            text(throttled.and_then(|it| it.reason.as_deref())),
        ),
        ("throttled_until", instant(throttled.map(|it| it.until))),
    ];
    let fields = fields
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value));
    let limits = record.limits().iter().map(|(name, quota)| {
        (
            format!("limits.{name}"),
            Some(ComparedValue::Shown(format!("{quota:?}"))),
        )
    });
    let metadata = record.metadata().iter().map(|(name, value)| {
        (
            format!("metadata.{name}"),
            Some(ComparedValue::Hidden(value.clone())),
        )
    });
    let set = fields.chain(limits).chain(metadata);
    set.filter_map(|(name, value)| Some((name, value?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::digest::KeyDigest;
    use crate::key::verifier::Verifier;

    fn record() -> KeyRecord {
        KeyRecord::imported(KeyDigest::of("key"), "acme")
    }

    #[test]
    fn a_record_does_not_differ_from_itself() {
        assert_eq!(record().changes_since(&record()), []);
    }

    #[test]
    fn a_new_record_differs_in_every_field_that_is_set() {
        let changes = record().changes_since(None);
        let shown: Vec<String> = changes.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["account: - -> acme", "verifier: - -> (hidden)"]);
    }

    #[test]
    fn verifiers_and_metadata_values_are_hidden() {
        let next = record()
            .with_verifier(Verifier::sha256(KeyDigest::of("other")))
            .with_metadata([("owner".to_owned(), "Jane Doe".to_owned())].into());
        let changes = next.changes_since(&record());
        let shown: Vec<String> = changes.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "metadata.owner: - -> (hidden)",
                "verifier: (hidden) -> (hidden)"
            ]
        );
    }
}
