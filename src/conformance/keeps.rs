//! Declarations of the fields and parts that a store keeps.

use std::collections::BTreeMap;

use crate::key::digest::KeyDigest;
use crate::key::network::AllowedNetworks;
use crate::key::record::KeyRecord;
use crate::key::scope::ScopeSet;
use crate::key::verifier::Verifier;
use crate::key::web_origin::AllowedOrigins;

/// The fields and parts that a store keeps, for
/// [`managed_key_store_keeping`](super::managed_key_store_keeping).
///
/// Every store keeps the id, the verifier, the version, the account, the name, the expiry and the
/// revocation of a key.
///
/// ```
/// use tower_api_key::conformance::{Field, Keeps};
///
/// let keeps = Keeps::everything()
///     .without(Field::Metadata)
///     .without(Field::Lineage)
///     .without_events();
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "it says what a store keeps; give it to a suite"]
pub struct Keeps {
    fields_left_out: Vec<Field>,
    parts_left_out: Vec<Part>,
}

/// A part beside records that a store may keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Lists,
    Trail,
    Events,
    Usage,
    Reports,
    Profiles,
    Deletions,
    Requests,
    Caps,
}

/// A field of a record that a store may leave out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Field {
    /// The pepper of the verifier.
    Pepper,
    /// The prefix.
    Prefix,
    /// The organization.
    Organization,
    /// The environment.
    Environment,
    /// The scopes.
    Scopes,
    /// The networks.
    Networks,
    /// The web origins.
    Origins,
    /// The plan.
    Plan,
    /// The key's own quotas.
    Limits,
    /// The key whose budgets are shared.
    Budget,
    /// The metadata.
    Metadata,
    /// The time of issue.
    CreatedAt,
    /// The time from which the key works.
    NotBefore,
    /// The suspension.
    Suspension,
    /// The throttle.
    Throttling,
    /// The lineage.
    Lineage,
    /// The predecessor and the successor of a rotation.
    Rotation,
}

impl Field {
    pub(super) const ALL: [Self; 17] = [
        Self::Pepper,
        Self::Prefix,
        Self::Organization,
        Self::Environment,
        Self::Scopes,
        Self::Networks,
        Self::Origins,
        Self::Plan,
        Self::Limits,
        Self::Budget,
        Self::Metadata,
        Self::CreatedAt,
        Self::NotBefore,
        Self::Suspension,
        Self::Throttling,
        Self::Lineage,
        Self::Rotation,
    ];

    /// Returns a record without this field.
    pub(super) fn clear(self, record: KeyRecord) -> KeyRecord {
        match self {
            Self::Pepper => {
                let plain = KeyDigest::from_bytes(*record.verifier().as_bytes());
                record.with_verifier(Verifier::sha256(plain))
            }
            Self::Prefix => record.with_prefix(None::<&str>),
            Self::Organization => record.with_organization(None::<&str>),
            Self::Environment => record.with_environment(None),
            Self::Scopes => record.with_scopes(ScopeSet::default()),
            Self::Networks => record.with_networks(AllowedNetworks::any()),
            Self::Origins => record.with_origins(AllowedOrigins::any()),
            Self::Plan => record.with_plan(None::<&str>),
            Self::Limits => record.with_limits(BTreeMap::new()),
            Self::Budget => record.with_budget(None),
            Self::Metadata => record.with_metadata(BTreeMap::new()),
            Self::CreatedAt => record.with_created_at(None),
            Self::NotBefore => record.with_not_before(None),
            Self::Suspension => record.with_suspended(None),
            Self::Throttling => record.with_throttled(None),
            Self::Lineage => record.with_lineage(None),
            Self::Rotation => record.with_rotated_from(None).with_rotated_to(None),
        }
    }
}

impl Keeps {
    /// Declares that the store keeps everything.
    pub const fn everything() -> Self {
        Self {
            fields_left_out: Vec::new(),
            parts_left_out: Vec::new(),
        }
    }

    /// Declares that the store does not keep a field, so that it refuses records with it.
    pub fn without(mut self, field: Field) -> Self {
        self.fields_left_out.push(field);
        self
    }

    /// Declares that the store does not list keys.
    pub fn without_lists(mut self) -> Self {
        self.parts_left_out.push(Part::Lists);
        self
    }

    /// Declares that the store keeps no trail.
    pub fn without_trail(mut self) -> Self {
        self.parts_left_out.push(Part::Trail);
        self
    }

    /// Declares that the store keeps no events.
    pub fn without_events(mut self) -> Self {
        self.parts_left_out.push(Part::Events);
        self
    }

    /// Declares that the store records no usage.
    pub fn without_usage(mut self) -> Self {
        self.parts_left_out.push(Part::Usage);
        self
    }

    /// Declares that the store records usage and does not report it.
    pub fn without_usage_reports(mut self) -> Self {
        self.parts_left_out.push(Part::Reports);
        self
    }

    /// Declares that the store keeps no profiles.
    pub fn without_profiles(mut self) -> Self {
        self.parts_left_out.push(Part::Profiles);
        self
    }

    /// Declares that the store deletes no keys.
    pub fn without_deletions(mut self) -> Self {
        self.parts_left_out.push(Part::Deletions);
        self
    }

    /// Declares that the store remembers no requests for keys.
    pub fn without_requests(mut self) -> Self {
        self.parts_left_out.push(Part::Requests);
        self
    }

    /// Declares that the store checks no caps on the keys of an account.
    pub fn without_caps(mut self) -> Self {
        self.parts_left_out.push(Part::Caps);
        self
    }

    pub(super) fn keeps_part(&self, part: Part) -> bool {
        !self.parts_left_out.contains(&part)
    }

    pub(super) fn fields_left_out(&self) -> &[Field] {
        &self.fields_left_out
    }

    pub(super) fn keeps_field(&self, field: Field) -> bool {
        !self.fields_left_out.contains(&field)
    }

    /// Returns a record without the fields that the store does not keep.
    pub(super) fn cut(&self, record: KeyRecord) -> KeyRecord {
        let left_out = self.fields_left_out.iter();
        left_out.fold(record, |record, field| field.clear(record))
    }
}
