//! What is kept of a key.

use std::collections::BTreeMap;
use std::fmt;
use std::time::SystemTime;

use crate::key::containment::{Revocation, Suspension, Throttling};
use crate::key::digest::{KeyDigest, KeyId};
use crate::key::environment::Environment;
use crate::key::network::AllowedNetworks;
use crate::key::quota::Quota;
use crate::key::scope::{Scope, ScopeSet};
use crate::key::text::{self, Instant, KeyRecordError, OptionalText};
use crate::key::verifier::{PepperId, Verifier};
use crate::key::web_origin::{AllowedOrigins, WebOrigin};

/// Everything that is kept of a key: whom it identifies, what it may do, and until when.
///
/// The plaintext is not among it. A store builds records with [`new`](Self::new) and the `with_*`
/// methods, and reads them with the methods of the same names.
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
    seldom: Option<Box<Seldom>>,
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

/// What few keys have.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Seldom {
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
    /// The key that takes its place.
    pub successor: KeyId,
    /// When the successor was issued, and the key became deprecated.
    pub at: SystemTime,
}

impl Rotation {
    /// A rotation to this key at an instant.
    pub const fn new(successor: KeyId, at: SystemTime) -> Self {
        Self { successor, at }
    }
}

impl KeyRecord {
    /// The record of a key without scopes, in the environment of its format, of version 1.
    pub fn new(id: KeyId, verifier: Verifier, account: impl Into<String>) -> Self {
        Self {
            id,
            verifier,
            seldom: None,
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

    fn change(mut self, change: impl FnOnce(&mut Seldom)) -> Self {
        let mut seldom = self.seldom.take().map_or_else(Seldom::default, |it| *it);
        change(&mut seldom);
        let is_some = seldom != Seldom::default();
        self.seldom = is_some.then(|| Box::new(seldom));
        self
    }

    /// Whether it has no dates, and nothing that few keys have: what it may do is then the same at
    /// any time, from anywhere.
    pub(crate) fn is_plain(&self) -> bool {
        self.seldom.is_none() && self.expires_at.is_none() && self.not_before.is_none()
    }

    /// The record of a key of which only the SHA-256 is known.
    ///
    /// It has no pepper. Where a [`PepperRing`](crate::key::PepperRing) is set, put it under the current
    /// one with `.with_verifier(ring.verifier(&digest))`, or each use is answered with 503.
    pub fn imported(digest: KeyDigest, account: impl Into<String>) -> Self {
        Self::new(digest.id(), Verifier::sha256(digest), account)
    }

    /// The public id of the key: safe in logs.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// What a presented key is compared with.
    pub fn verifier(&self) -> &Verifier {
        &self.verifier
    }

    /// Replaces the verifier, as when a record is put under a new pepper.
    #[must_use]
    pub fn with_verifier(mut self, verifier: Verifier) -> Self {
        self.verifier = verifier;
        self
    }

    /// Counts the changes of this record, from 1. An update carries the version it saw, plus one,
    /// also one that is made in the table by hand: of two versions, a process believes the higher.
    /// So a record that is restored from a backup needs a version above the lost one, or a restart
    /// of the processes that know it.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Sets the version that a store kept.
    #[must_use]
    pub fn with_version(mut self, version: u64) -> Self {
        self.version = version;
        self
    }

    /// What the key begins with, such as `sk_live`: safe to show.
    pub fn prefix(&self) -> Option<&str> {
        self.prefix.as_deref()
    }

    /// Sets what the key begins with. Never put more of the key into it than its prefix.
    #[must_use]
    pub fn with_prefix(mut self, prefix: impl Into<OptionalText>) -> Self {
        self.prefix = prefix.into().0;
        self
    }

    /// What the owner calls the key, such as `nightly export`.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Sets what the owner calls the key.
    #[must_use]
    pub fn with_name(mut self, name: impl Into<OptionalText>) -> Self {
        self.name = name.into().0;
        self
    }

    /// The account that the key identifies: who is limited, metered and billed.
    pub fn account(&self) -> &str {
        &self.account
    }

    /// The organization that the account belongs to.
    pub fn organization(&self) -> Option<&str> {
        self.organization.as_deref()
    }

    /// Sets the organization.
    #[must_use]
    pub fn with_organization(mut self, organization: impl Into<OptionalText>) -> Self {
        self.organization = organization.into().0;
        self
    }

    /// The environment that the key opens; unless set, that of the format it is written in.
    pub fn environment(&self) -> Option<&Environment> {
        self.environment.as_ref()
    }

    /// Sets the environment.
    #[must_use]
    pub fn with_environment(mut self, environment: impl Into<Option<Environment>>) -> Self {
        self.environment = environment.into();
        self
    }

    /// What the key may do: nothing unless set.
    pub fn scopes(&self) -> &ScopeSet {
        &self.scopes
    }

    /// Sets what the key may do.
    #[must_use]
    pub fn with_scopes(mut self, scopes: ScopeSet) -> Self {
        self.scopes = scopes;
        self
    }

    /// Where the key may be used from: anywhere unless set.
    pub fn networks(&self) -> &AllowedNetworks {
        static ANY: AllowedNetworks = AllowedNetworks::any();
        self.seldom.as_ref().map_or(&ANY, |it| &it.networks)
    }

    /// Sets where the key may be used from.
    #[must_use]
    pub fn with_networks(self, networks: AllowedNetworks) -> Self {
        self.change(|it| it.networks = networks)
    }

    /// The web origins that the key may be used from, if it is publishable: any unless set.
    pub fn origins(&self) -> &AllowedOrigins {
        static ANY: AllowedOrigins = AllowedOrigins::any();
        self.seldom.as_ref().map_or(&ANY, |it| &it.origins)
    }

    /// Sets the web origins that the key may be used from. A secret key is not bound by them.
    #[must_use]
    pub fn with_origins(self, origins: AllowedOrigins) -> Self {
        self.change(|it| it.origins = origins)
    }

    /// The name of the account's plan.
    pub fn plan(&self) -> Option<&str> {
        self.plan.as_deref()
    }

    /// Sets the name of the account's plan.
    #[must_use]
    pub fn with_plan(mut self, plan: impl Into<OptionalText>) -> Self {
        self.plan = plan.into().0;
        self
    }

    /// Quotas of this key's own, by the name of the limit whose quota they replace.
    pub fn limits(&self) -> &BTreeMap<String, Quota> {
        static NONE: BTreeMap<String, Quota> = BTreeMap::new();
        self.seldom.as_ref().map_or(&NONE, |it| &it.limits)
    }

    /// The quota that a limit has for this key, if it is not that of the rules.
    pub(crate) fn limit(&self, name: &str) -> Option<Quota> {
        self.seldom.as_ref()?.limits.get(name).copied()
    }

    /// Replaces the quota of the limit of this [name](crate::limit::Limit) for this key. A name that no
    /// limit has changes nothing.
    ///
    /// A window of another period and a quota of another shape than the rule's have a budget of
    /// their own: where the limit is the account's, the account then has one of each. Limits by
    /// address and of everybody keep the quota of the rule, since others draw on the same budgets.
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

    /// Replaces all quotas of this key's own.
    #[must_use]
    pub fn with_limits(self, limits: BTreeMap<String, Quota>) -> Self {
        self.change(|it| it.limits = limits)
    }

    /// The key whose budget this one draws on: its own, or that of a predecessor.
    pub fn budget(&self) -> KeyId {
        let budget = self.seldom.as_ref().and_then(|it| it.budget);
        budget.unwrap_or(self.id)
    }

    /// Draws on the budget of another key, so that a key and its successor share one. Its own id is
    /// the same as `None`.
    #[must_use]
    pub fn with_budget(self, key: impl Into<Option<KeyId>>) -> Self {
        let (key, own) = (key.into(), self.id);
        self.change(|it| it.budget = key.filter(|key| *key != own))
    }

    /// What the application wants to know about the key; this crate does not look at it.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Sets what the application wants to know. It is no place for secrets: it may be logged.
    #[must_use]
    pub fn with_metadata(mut self, metadata: BTreeMap<String, String>) -> Self {
        self.metadata = metadata;
        self
    }

    /// When the key was issued, where that is known.
    pub fn created_at(&self) -> Option<SystemTime> {
        self.created_at
    }

    /// Sets when the key was issued.
    #[must_use]
    pub fn with_created_at(mut self, at: impl Into<Option<SystemTime>>) -> Self {
        self.created_at = at.into();
        self
    }

    /// The instant from which the key works: at once unless set.
    pub fn not_before(&self) -> Option<SystemTime> {
        self.not_before
    }

    /// Sets the instant from which the key works.
    #[must_use]
    pub fn with_not_before(mut self, at: impl Into<Option<SystemTime>>) -> Self {
        self.not_before = at.into();
        self
    }

    /// The instant from which the key no longer works: never unless set.
    pub fn expires_at(&self) -> Option<SystemTime> {
        self.expires_at
    }

    /// Sets the instant from which the key no longer works.
    #[must_use]
    pub fn with_expires_at(mut self, at: impl Into<Option<SystemTime>>) -> Self {
        self.expires_at = at.into();
        self
    }

    /// The suspension, which ends when the key is resumed, or at a date.
    pub fn suspended(&self) -> Option<&Suspension> {
        self.seldom.as_ref()?.suspended.as_ref()
    }

    /// Suspends the key, or lifts the suspension.
    #[must_use]
    pub fn with_suspended(self, suspension: impl Into<Option<Suspension>>) -> Self {
        self.change(|it| it.suspended = suspension.into())
    }

    /// The throttle, which ends at a date.
    pub fn throttled(&self) -> Option<&Throttling> {
        self.seldom.as_ref()?.throttled.as_ref()
    }

    /// Throttles the key, or lifts the throttle.
    #[must_use]
    pub fn with_throttled(self, throttling: impl Into<Option<Throttling>>) -> Self {
        self.change(|it| it.throttled = throttling.into())
    }

    /// The revocation, which cannot be undone.
    pub fn revoked(&self) -> Option<&Revocation> {
        self.seldom.as_ref()?.revoked.as_ref()
    }

    /// Revokes the key. The first revocation stands: revoked stays revoked, also for `None`.
    #[must_use]
    pub fn with_revoked(self, revocation: impl Into<Option<Revocation>>) -> Self {
        self.change(|it| it.revoked = it.revoked.take().or(revocation.into()))
    }

    /// The first key of the chain of rotations that this key is in: its own id if it took no
    /// other's place.
    ///
    /// Usage and history are reported by lineage, so that a rotation does not cut them in two.
    pub fn lineage(&self) -> KeyId {
        let lineage = self.seldom.as_ref().and_then(|it| it.lineage);
        lineage.unwrap_or(self.id)
    }

    /// Sets the first key of the chain of rotations. Its own id is the same as `None`.
    #[must_use]
    pub fn with_lineage(self, first: impl Into<Option<KeyId>>) -> Self {
        let (first, own) = (first.into(), self.id);
        self.change(|it| it.lineage = first.filter(|first| *first != own))
    }

    /// The key that this one took the place of.
    pub fn rotated_from(&self) -> Option<KeyId> {
        self.rotated_from
    }

    /// Sets the key that this one took the place of.
    #[must_use]
    pub fn with_rotated_from(mut self, predecessor: impl Into<Option<KeyId>>) -> Self {
        self.rotated_from = predecessor.into();
        self
    }

    /// The key that takes the place of this one.
    pub fn rotated_to(&self) -> Option<&Rotation> {
        self.seldom.as_ref()?.rotated_to.as_ref()
    }

    /// Sets the key that takes the place of this one.
    #[must_use]
    pub fn with_rotated_to(self, rotation: impl Into<Option<Rotation>>) -> Self {
        self.change(|it| it.rotated_to = rotation.into())
    }

    /// The reasons for what contains the key.
    fn reasons(&self) -> [Option<&str>; 3] {
        [
            self.revoked().and_then(|it| it.reason.as_deref()),
            self.suspended().and_then(|it| it.reason.as_deref()),
            self.throttled().and_then(|it| it.reason.as_deref()),
        ]
    }

    /// Checks that every store can keep the record: no NUL in its texts, none longer than 16 KiB,
    /// instants in the years 1970 to 9999. A [`Change`](crate::store::Change) takes no other.
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

    /// About how much memory the record takes beside itself, in bytes.
    pub(crate) fn heap(&self) -> usize {
        let text = |text: Option<&str>| text.map_or(0, str::len);
        let texts = [self.prefix(), self.name(), self.organization(), self.plan()].map(text);
        let reasons = self.reasons().map(text);
        let metadata = self.metadata.iter();
        let metadata = metadata.map(|(name, value)| name.len() + value.len());
        let limits = self.limits().keys().map(String::len);
        let scopes = self.scopes.iter().map(|scope| scope.as_str().len());
        let networks = self.networks().list().map_or(0, size_of_val::<[_]>);
        let origins = self.origins().list().unwrap_or_default().iter();
        let origins = origins.map(|it| it.as_str().len() + size_of::<WebOrigin>());
        let seldom = self.seldom.as_ref().map_or(0, |_| size_of::<Seldom>());
        self.account.len()
            + networks
            + origins.sum::<usize>()
            + seldom
            + nodes::<(String, String)>(metadata.len())
            + nodes::<(String, Quota)>(limits.len())
            + nodes::<Scope>(self.scopes.len())
            + texts.iter().chain(&reasons).sum::<usize>()
            + metadata.chain(limits).chain(scopes).sum::<usize>()
    }
}

impl KeyRecord {
    /// Returns the record with its instants to the microsecond, as stores keep them. Rounding
    /// neither lengthens the life of a key nor shortens what contains it.
    pub(crate) fn rounded(mut self) -> Self {
        use crate::util::timestamp::{microseconds_down as down, microseconds_up as up};
        self.created_at = self.created_at.map(down);
        self.not_before = self.not_before.map(up);
        self.expires_at = self.expires_at.map(down);
        if let Some(seldom) = &mut self.seldom {
            if let Some(it) = &mut seldom.suspended {
                (it.at, it.until) = (down(it.at), it.until.map(up));
            }
            if let Some(it) = &mut seldom.throttled {
                it.until = up(it.until);
            }
            if let Some(it) = &mut seldom.revoked {
                it.at = down(it.at);
            }
            if let Some(it) = &mut seldom.rotated_to {
                it.at = down(it.at);
            }
        }
        self
    }
}

/// Prints what is set, instants as RFC 3339 has them, and nothing secret.
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
            instant.map(|instant| out.field(name, &Instant(instant)));
        }
        if let Some(it) = self.suspended() {
            let until = it.until.map(Instant);
            out.field("suspended", &(Instant(it.at), until, &it.reason));
        }
        if let Some(it) = self.throttled() {
            out.field("throttled", &(it.quota, Instant(it.until), &it.reason));
        }
        if let Some(it) = self.revoked() {
            out.field("revoked", &(Instant(it.at), &it.reason));
        }
        let keys = [
            ("rotated_from", self.rotated_from),
            ("lineage", self.seldom.as_ref().and_then(|it| it.lineage)),
            ("budget", self.seldom.as_ref().and_then(|it| it.budget)),
        ];
        for (name, key) in keys {
            key.map(|key| out.field(name, &key));
        }
        if let Some(it) = self.rotated_to() {
            out.field("rotated_to", &(it.successor, Instant(it.at)));
        }
        if let Some(pepper) = self.verifier.pepper() {
            out.field("pepper", &pepper.as_str());
        }
        out.field("version", &self.version).finish_non_exhaustive()
    }
}

/// About what a map of so many entries takes beside what they point to: its nodes have room for
/// eleven each, and are hardly more than half full if they were filled in order.
fn nodes<Entry>(entries: usize) -> usize {
    entries.div_ceil(6) * (16 + 11 * size_of::<Entry>())
}

#[cfg(test)]
impl KeyRecord {
    /// The names of the fields that are not set, so that whoever adds a field must add it here, and
    /// in `diff.rs`.
    pub(crate) fn unset(&self) -> Vec<&'static str> {
        let Self {
            id: _,
            verifier,
            seldom,
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
        let Seldom {
            revoked,
            suspended,
            throttled,
            rotated_to,
            networks,
            origins,
            limits,
            budget,
            lineage,
        } = seldom.as_deref().unwrap_or(&Seldom::default()).clone();
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
    fn a_plain_record_sets_an_account_and_a_version() {
        let plain = KeyRecord::imported(KeyDigest::of("key"), "acme");
        let unset = plain.unset();
        assert!(!unset.contains(&"account") && !unset.contains(&"version"));
        assert_eq!(unset.len(), 21, "{unset:?}");
    }

    #[test]
    fn a_record_is_equal_to_one_built_from_what_it_says() {
        let record = KeyRecord::imported(KeyDigest::of("key"), "acme");
        let built = record.clone().with_budget(record.budget());
        assert_eq!(built, record);
        let other = KeyDigest::of("other").id();
        assert_eq!(record.with_budget(other).budget(), other);
    }
}
