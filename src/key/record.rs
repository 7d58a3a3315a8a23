//! Records: the stored data of keys.

use std::collections::BTreeMap;
use std::fmt;
use std::time::SystemTime;

use crate::key::containment::{Revocation, Suspension, Throttling};
use crate::key::digest::{KeyDigest, KeyId};
use crate::key::environment::Environment;
use crate::key::network::AllowedNetworks;
use crate::key::quota::Quota;
use crate::key::scope::ScopeSet;
use crate::key::text::{self, KeyRecordError, OptionalText, Rfc3339};
use crate::key::verifier::{PepperId, Verifier};
use crate::key::web_origin::{AllowedOrigins, WebOrigin};

/// The stored data of a key: its owner, its permissions and its lifetime.
///
/// A record does not contain the plaintext. A store builds records with [`new`](Self::new) and the
/// `with_*` methods, and reads them with the methods of the same names.
///
/// ```
/// use tower_api_key::key::{KeyDigest, Verifier};
/// use tower_api_key::KeyRecord;
///
/// // A row of an existing table: the SHA-256 of a key that was issued long ago.
/// let digest = KeyDigest::from_hex(&"ab".repeat(32)).expect("64 hex digits");
/// let record = KeyRecord::new(digest.id(), Verifier::sha256(digest), "acme")
///     .with_scopes("reports:read".parse()?)
///     .with_organization("Acme Inc.");
/// assert_eq!(record.account(), "acme");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct KeyRecord {
    id: KeyId,
    verifier: Verifier,
    rare: Option<Box<RareFields>>,
    expires_at: Option<SystemTime>,
    not_before: Option<SystemTime>,
    created_at: Option<SystemTime>,
    account: Box<str>,
    version: u64,
    plan: Option<Box<str>>,
    scopes: ScopeSet,
    environment: Option<Environment>,
    prefix: Option<Box<str>>,
    name: Option<Box<str>>,
    organization: Option<Box<str>>,
    metadata: BTreeMap<String, String>,
    rotated_from: Option<KeyId>,
}

/// Fields that few keys have.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct RareFields {
    revoked: Option<Revocation>,
    suspended: Option<Suspension>,
    throttled: Option<Throttling>,
    rotated_to: Option<Rotation>,
    networks: AllowedNetworks,
    origins: AllowedOrigins,
    limits: BTreeMap<String, Quota>,
    budget: Option<KeyId>,
    lineage: Option<KeyId>,
}

/// The successor of a key that was rotated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rotation {
    /// The key that replaces this key.
    pub successor: KeyId,
    /// The time when the successor was issued, and this key became deprecated.
    pub at: SystemTime,
}

impl Rotation {
    /// Creates a rotation to this key at a time.
    pub const fn new(successor: KeyId, at: SystemTime) -> Self {
        Self { successor, at }
    }
}

impl KeyRecord {
    /// Creates a record without scopes, in the environment of the key's format, with version 1.
    pub fn new(id: KeyId, verifier: Verifier, account: impl Into<String>) -> Self {
        Self {
            id,
            verifier,
            rare: None,
            expires_at: None,
            not_before: None,
            created_at: None,
            account: account.into().into(),
            version: 1,
            plan: None,
            scopes: ScopeSet::default(),
            environment: None,
            prefix: None,
            name: None,
            organization: None,
            metadata: BTreeMap::new(),
            rotated_from: None,
        }
    }

    fn change(mut self, change: impl FnOnce(&mut RareFields)) -> Self {
        let mut rare = self.rare.take().map_or_else(RareFields::default, |it| *it);
        change(&mut rare);
        let is_some = rare != RareFields::default();
        self.rare = is_some.then(|| Box::new(rare));
        self
    }

    /// Returns the size of the rarely set fields, or 0 if none is set.
    pub(super) fn rare_size(&self) -> usize {
        self.rare.as_deref().map_or(0, size_of_val)
    }

    /// Returns whether the record has no dates and no rarely set fields. Such a key works at any
    /// time and from anywhere.
    pub(crate) fn is_unrestricted(&self) -> bool {
        self.rare.is_none() && self.expires_at.is_none() && self.not_before.is_none()
    }

    /// Creates a record of a key of which only the SHA-256 is known.
    ///
    /// The verifier has no pepper. With a [`PepperRing`](crate::key::PepperRing), replace it by
    /// `.with_verifier(ring.verifier(&digest))`; otherwise, each use of the key is answered with
    /// 503.
    pub fn imported(digest: KeyDigest, account: impl Into<String>) -> Self {
        Self::new(digest.id(), Verifier::sha256(digest), account)
    }

    /// Returns the public id of the key, which is safe in logs.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// Returns the verifier that a presented key is compared with.
    pub fn verifier(&self) -> &Verifier {
        &self.verifier
    }

    /// Replaces the verifier, for example by one under a new pepper.
    #[must_use]
    pub fn with_verifier(mut self, verifier: Verifier) -> Self {
        self.verifier = verifier;
        self
    }

    /// Returns the version of the record, which starts at 1. Every update must increment it, even a
    /// manual one in the table: of two records of a key, a process uses the one with the higher
    /// version.
    ///
    /// After a restore from a backup, a record therefore needs a version above the lost one.
    /// Otherwise, restart the processes that know the lost version.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Sets the version that a store has read.
    #[must_use]
    pub fn with_version(mut self, version: u64) -> Self {
        self.version = version;
        self
    }

    /// Returns the prefix of the key, such as `sk_live`. It is safe to show.
    pub fn prefix(&self) -> Option<&str> {
        self.prefix.as_deref()
    }

    /// Sets the prefix of the key. Never include more of the key.
    #[must_use]
    pub fn with_prefix(mut self, prefix: impl Into<OptionalText>) -> Self {
        self.prefix = prefix.into().0;
        self
    }

    /// Returns the name that the owner gave the key, such as `nightly export`.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Sets the name that the owner gave the key.
    #[must_use]
    pub fn with_name(mut self, name: impl Into<OptionalText>) -> Self {
        self.name = name.into().0;
        self
    }

    /// Returns the account that the key belongs to, which is limited, metered and billed.
    pub fn account(&self) -> &str {
        &self.account
    }

    /// Returns the organization that the account belongs to.
    pub fn organization(&self) -> Option<&str> {
        self.organization.as_deref()
    }

    /// Sets the organization.
    #[must_use]
    pub fn with_organization(mut self, organization: impl Into<OptionalText>) -> Self {
        self.organization = organization.into().0;
        self
    }

    /// Returns the environment of the key. `None` is the environment of its format.
    pub fn environment(&self) -> Option<&Environment> {
        self.environment.as_ref()
    }

    /// Sets the environment.
    #[must_use]
    pub fn with_environment(mut self, environment: impl Into<Option<Environment>>) -> Self {
        self.environment = environment.into();
        self
    }

    /// Returns the scopes of the key. Default: none, which grants nothing.
    pub fn scopes(&self) -> &ScopeSet {
        &self.scopes
    }

    /// Sets the scopes of the key.
    #[must_use]
    pub fn with_scopes(mut self, scopes: ScopeSet) -> Self {
        self.scopes = scopes;
        self
    }

    /// Returns the networks that the key may be used from. Default: any.
    pub fn networks(&self) -> &AllowedNetworks {
        static ANY: AllowedNetworks = AllowedNetworks::any();
        self.rare.as_ref().map_or(&ANY, |it| &it.networks)
    }

    /// Sets the networks that the key may be used from.
    #[must_use]
    pub fn with_networks(self, networks: AllowedNetworks) -> Self {
        self.change(|it| it.networks = networks)
    }

    /// Returns the web origins that a publishable key may be used from. Default: any.
    pub fn origins(&self) -> &AllowedOrigins {
        static ANY: AllowedOrigins = AllowedOrigins::any();
        self.rare.as_ref().map_or(&ANY, |it| &it.origins)
    }

    /// Sets the web origins that the key may be used from. They do not restrict a secret key.
    #[must_use]
    pub fn with_origins(self, origins: AllowedOrigins) -> Self {
        self.change(|it| it.origins = origins)
    }

    /// Returns the name of the account's plan.
    pub fn plan(&self) -> Option<&str> {
        self.plan.as_deref()
    }

    /// Sets the name of the account's plan.
    #[must_use]
    pub fn with_plan(mut self, plan: impl Into<OptionalText>) -> Self {
        self.plan = plan.into().0;
        self
    }

    /// Returns the quotas of this key that replace those of limits, by the name of the limit.
    pub fn limits(&self) -> &BTreeMap<String, Quota> {
        static NONE: BTreeMap<String, Quota> = BTreeMap::new();
        self.rare.as_ref().map_or(&NONE, |it| &it.limits)
    }

    /// Returns the quota of this key that replaces that of a limit, if there is one.
    pub(crate) fn limit(&self, name: &str) -> Option<Quota> {
        self.rare.as_ref()?.limits.get(name).copied()
    }

    /// Replaces the quota of the limit with this [name](crate::limit::Limit) for this key. A name
    /// that no limit has is ignored.
    ///
    /// A window with another period, or a quota of another kind than the rule's, has a budget of
    /// its own. If the limit is per account, the account then has two budgets. Limits by address
    /// and global limits keep the quota of the rule, since their budgets are shared with others.
    ///
    /// ```
    /// # use tower_api_key::key::KeyDigest;
    /// # use tower_api_key::{KeyRecord, Quota};
    /// # let record = KeyRecord::imported(KeyDigest::of("…"), "acme");
    /// let generous = record.with_limit("account_per_minute", Quota::per_minute(10_000));
    /// ```
    #[must_use]
    pub fn with_limit(self, name: impl Into<String>, quota: Quota) -> Self {
        self.change(|it| {
            it.limits.insert(name.into(), quota);
        })
    }

    /// Replaces all quotas of this key.
    #[must_use]
    pub fn with_limits(self, limits: BTreeMap<String, Quota>) -> Self {
        self.change(|it| it.limits = limits)
    }

    /// Returns the key whose budgets this key uses: this key itself, or a predecessor.
    pub fn budget(&self) -> KeyId {
        let budget = self.rare.as_ref().and_then(|it| it.budget);
        budget.unwrap_or(self.id)
    }

    /// Uses the budgets of another key, so that a key and its successor share them. The key's own
    /// id means the same as `None`.
    #[must_use]
    pub fn with_budget(self, key: impl Into<Option<KeyId>>) -> Self {
        let (key, id) = (key.into(), self.id);
        self.change(|it| it.budget = key.filter(|key| *key != id))
    }

    /// Returns the application's own metadata of the key, which this crate ignores.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Sets the application's own metadata. It may be logged, so do not store secrets in it.
    #[must_use]
    pub fn with_metadata(mut self, metadata: BTreeMap<String, String>) -> Self {
        self.metadata = metadata;
        self
    }

    /// Returns the time when the key was issued, if it is known.
    pub fn created_at(&self) -> Option<SystemTime> {
        self.created_at
    }

    /// Sets the time when the key was issued.
    #[must_use]
    pub fn with_created_at(mut self, at: impl Into<Option<SystemTime>>) -> Self {
        self.created_at = at.into();
        self
    }

    /// Returns the time from which the key works. `None` is at once.
    pub fn not_before(&self) -> Option<SystemTime> {
        self.not_before
    }

    /// Sets the time from which the key works.
    #[must_use]
    pub fn with_not_before(mut self, at: impl Into<Option<SystemTime>>) -> Self {
        self.not_before = at.into();
        self
    }

    /// Returns the time when the key expires. `None` is never.
    pub fn expires_at(&self) -> Option<SystemTime> {
        self.expires_at
    }

    /// Sets the time when the key expires.
    #[must_use]
    pub fn with_expires_at(mut self, at: impl Into<Option<SystemTime>>) -> Self {
        self.expires_at = at.into();
        self
    }

    /// Returns the suspension, which ends when the key is resumed, or at a date.
    pub fn suspended(&self) -> Option<&Suspension> {
        self.rare.as_ref()?.suspended.as_ref()
    }

    /// Suspends the key, or ends the suspension.
    #[must_use]
    pub fn with_suspended(self, suspension: impl Into<Option<Suspension>>) -> Self {
        self.change(|it| it.suspended = suspension.into())
    }

    /// Returns the throttle, which ends at a date.
    pub fn throttled(&self) -> Option<&Throttling> {
        self.rare.as_ref()?.throttled.as_ref()
    }

    /// Throttles the key, or ends the throttle.
    #[must_use]
    pub fn with_throttled(self, throttling: impl Into<Option<Throttling>>) -> Self {
        self.change(|it| it.throttled = throttling.into())
    }

    /// Returns the revocation, which cannot be undone.
    pub fn revoked(&self) -> Option<&Revocation> {
        self.rare.as_ref()?.revoked.as_ref()
    }

    /// Revokes the key. The first revocation is kept: a further one, or `None`, has no effect.
    #[must_use]
    pub fn with_revoked(self, revocation: impl Into<Option<Revocation>>) -> Self {
        self.change(|it| it.revoked = it.revoked.take().or(revocation.into()))
    }

    /// Returns the first key in the chain of rotations that this key belongs to: its own id if it
    /// replaced no other key.
    ///
    /// Usage and history are reported by lineage, so that a rotation does not split them.
    pub fn lineage(&self) -> KeyId {
        let lineage = self.rare.as_ref().and_then(|it| it.lineage);
        lineage.unwrap_or(self.id)
    }

    /// Sets the first key in the chain of rotations. The key's own id means the same as `None`.
    #[must_use]
    pub fn with_lineage(self, first: impl Into<Option<KeyId>>) -> Self {
        let (first, id) = (first.into(), self.id);
        self.change(|it| it.lineage = first.filter(|first| *first != id))
    }

    /// Returns the key that this key replaced.
    pub fn rotated_from(&self) -> Option<KeyId> {
        self.rotated_from
    }

    /// Sets the key that this key replaced.
    #[must_use]
    pub fn with_rotated_from(mut self, predecessor: impl Into<Option<KeyId>>) -> Self {
        self.rotated_from = predecessor.into();
        self
    }

    /// Returns the key that replaces this key, with the time of the rotation.
    pub fn rotated_to(&self) -> Option<&Rotation> {
        self.rare.as_ref()?.rotated_to.as_ref()
    }

    /// Sets the key that replaces this key.
    #[must_use]
    pub fn with_rotated_to(self, rotation: impl Into<Option<Rotation>>) -> Self {
        self.change(|it| it.rotated_to = rotation.into())
    }

    /// Returns the reasons of the revocation, the suspension and the throttle.
    pub(super) fn reasons(&self) -> [Option<&str>; 3] {
        [
            self.revoked().and_then(|it| it.reason.as_deref()),
            self.suspended().and_then(|it| it.reason.as_deref()),
            self.throttled().and_then(|it| it.reason.as_deref()),
        ]
    }

    /// Checks that every store can keep the record: no NUL in its texts, no text longer than 16
    /// KiB, times in the years 1970 to 9999. A [`Change`](crate::store::Change) accepts no other
    /// record.
    pub fn check(&self) -> Result<(), KeyRecordError> {
        let indexed = [
            ("the account", Some(self.account())),
            ("the prefix", self.prefix()),
            ("the plan", self.plan()),
            ("the pepper", self.verifier.pepper().map(PepperId::as_str)),
        ];
        for (field, value) in indexed {
            text::check_indexed(field, value.unwrap_or_default())?;
        }
        let texts = [
            ("the organization", self.organization()),
            ("the name", self.name()),
        ];
        let reasons = self.reasons().map(|reason| ("a reason", reason));
        for (field, value) in texts.into_iter().chain(reasons) {
            text::check(field, value.unwrap_or_default())?;
        }
        for name in self.limits().keys() {
            text::check_indexed("the name of a limit", name)?;
        }
        let metadata = self.metadata.iter();
        text::check_all(
            "the metadata",
            metadata.map(|(name, value)| (name.as_str(), value.as_str())),
        )?;
        let suspended = self.suspended();
        for (field, instant) in [
            ("created_at", self.created_at),
            ("not_before", self.not_before),
            ("expires_at", self.expires_at),
            ("the revocation", self.revoked().map(|it| it.at)),
            ("the suspension", suspended.map(|it| it.at)),
            (
                "the end of the suspension",
                suspended.and_then(|it| it.until),
            ),
            (
                "the end of the throttle",
                self.throttled().map(|it| it.until),
            ),
            ("the rotation", self.rotated_to().map(|it| it.at)),
        ] {
            text::check_instant(field, instant)?;
        }
        if self.version == 0 || i64::try_from(self.version).is_err() {
            return Err(KeyRecordError::Version(self.version));
        }
        Ok(())
    }
}

impl KeyRecord {
    /// Rounds all times to microseconds, as stores keep them. Rounding neither extends the lifetime
    /// of a key nor shortens a suspension or a throttle.
    pub(crate) fn rounded(mut self) -> Self {
        use crate::util::timestamp::{microseconds_down as down, microseconds_up as up};
        self.created_at = self.created_at.map(down);
        self.not_before = self.not_before.map(up);
        self.expires_at = self.expires_at.map(down);
        if let Some(rare) = &mut self.rare {
            if let Some(it) = &mut rare.suspended {
                (it.at, it.until) = (down(it.at), it.until.map(up));
            }
            if let Some(it) = &mut rare.throttled {
                it.until = up(it.until);
            }
            if let Some(it) = &mut rare.revoked {
                it.at = down(it.at);
            }
            if let Some(it) = &mut rare.rotated_to {
                it.at = down(it.at);
            }
        }
        self
    }
}

/// Prints the fields that are set, with times in RFC 3339, and no secrets.
impl fmt::Debug for KeyRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("KeyRecord");
        out.field("id", &self.id).field("account", &self.account());
        let texts = [
            ("organization", self.organization()),
            ("name", self.name()),
            ("prefix", self.prefix()),
            ("environment", self.environment().map(Environment::as_str)),
            ("plan", self.plan()),
        ];
        for (name, text) in texts {
            text.map(|text| out.field(name, &text));
        }
        if !self.scopes.is_empty() {
            out.field("scopes", &format_args!("{}", self.scopes));
        }
        if let Some(list) = self.networks().list() {
            let networks: Vec<_> = list.iter().map(ToString::to_string).collect();
            out.field("networks", &networks);
        }
        if let Some(list) = self.origins().list() {
            let origins: Vec<_> = list.iter().map(WebOrigin::as_str).collect();
            out.field("origins", &origins);
        }
        if !self.limits().is_empty() {
            out.field("limits", self.limits());
        }
        if !self.metadata.is_empty() {
            out.field("metadata", &self.metadata);
        }
        let instants = [
            ("created_at", self.created_at),
            ("not_before", self.not_before),
            ("expires_at", self.expires_at),
        ];
        for (name, instant) in instants {
            instant.map(|instant| out.field(name, &Rfc3339(instant)));
        }
        if let Some(it) = self.suspended() {
            let until = it.until.map(Rfc3339);
            out.field("suspended", &(Rfc3339(it.at), until, &it.reason));
        }
        if let Some(it) = self.throttled() {
            out.field("throttled", &(it.quota, Rfc3339(it.until), &it.reason));
        }
        if let Some(it) = self.revoked() {
            out.field("revoked", &(Rfc3339(it.at), &it.reason));
        }
        let keys = [
            ("rotated_from", self.rotated_from),
            ("lineage", self.rare.as_ref().and_then(|it| it.lineage)),
            ("budget", self.rare.as_ref().and_then(|it| it.budget)),
        ];
        for (name, key) in keys {
            key.map(|key| out.field(name, &key));
        }
        if let Some(it) = self.rotated_to() {
            out.field("rotated_to", &(it.successor, Rfc3339(it.at)));
        }
        if let Some(pepper) = self.verifier.pepper() {
            out.field("pepper", &pepper.as_str());
        }
        out.field("version", &self.version).finish_non_exhaustive()
    }
}

#[cfg(test)]
impl KeyRecord {
    /// Returns the names of the fields that are not set. The exhaustive pattern makes sure that a
    /// new field is added here, and in `diff.rs`.
    pub(crate) fn unset(&self) -> Vec<&'static str> {
        let Self {
            id: _,
            verifier,
            rare,
            expires_at,
            not_before,
            created_at,
            account,
            version,
            plan,
            scopes,
            environment,
            prefix,
            name,
            organization,
            metadata,
            rotated_from,
        } = self;
        let RareFields {
            revoked,
            suspended,
            throttled,
            rotated_to,
            networks,
            origins,
            limits,
            budget,
            lineage,
        } = rare.as_deref().unwrap_or(&RareFields::default()).clone();
        let set = [
            ("pepper", verifier.pepper().is_some()),
            ("expires_at", expires_at.is_some()),
            ("not_before", not_before.is_some()),
            ("created_at", created_at.is_some()),
            ("account", !account.is_empty()),
            ("version", *version > 0),
            ("plan", plan.is_some()),
            ("scopes", !scopes.is_empty()),
            ("environment", environment.is_some()),
            ("prefix", prefix.is_some()),
            ("name", name.is_some()),
            ("organization", organization.is_some()),
            ("metadata", !metadata.is_empty()),
            ("rotated_from", rotated_from.is_some()),
            ("lineage", lineage.is_some()),
            (
                "revoked",
                revoked.as_ref().is_some_and(|it| it.reason.is_some()),
            ),
            (
                "suspended",
                suspended
                    .as_ref()
                    .is_some_and(|it| it.reason.is_some() && it.until.is_some()),
            ),
            (
                "throttled",
                throttled.as_ref().is_some_and(|it| it.reason.is_some()),
            ),
            ("rotated_to", rotated_to.is_some()),
            ("networks", networks.list().is_some()),
            ("origins", origins.list().is_some()),
            ("limits", !limits.is_empty()),
            ("budget", budget.is_some()),
        ];
        let unset = set.into_iter().filter(|(_, is_set)| !is_set);
        unset.map(|(name, _)| name).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_record_sets_only_an_account_and_a_version() {
        let plain = KeyRecord::imported(KeyDigest::of("key"), "acme");
        let unset = plain.unset();
        assert!(!unset.contains(&"account") && !unset.contains(&"version"));
        assert_eq!(unset.len(), 21, "{unset:?}");
    }

    #[test]
    fn setting_the_default_budget_leaves_a_record_equal() {
        let record = KeyRecord::imported(KeyDigest::of("key"), "acme");
        let built = record.clone().with_budget(record.budget());
        assert_eq!(built, record);
        let other = KeyDigest::of("other").id();
        assert_eq!(record.with_budget(other).budget(), other);
    }
}
