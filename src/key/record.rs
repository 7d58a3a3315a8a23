//! What is kept of a key.

use std::collections::BTreeMap;
use std::time::SystemTime;

use crate::key::digest::{KeyDigest, KeyId};
use crate::key::environment::Environment;
use crate::key::network::AllowedNetworks;
use crate::key::scope::{Scope, ScopeSet};
use crate::key::verifier::Verifier;
use crate::quota::Quota;

/// Everything that is kept of a key: whom it identifies, what it may do, and until when.
///
/// The plaintext is not among it. A store builds records with [`new`](Self::new) and the `with_*`
/// methods, and reads them with the methods of the same names.
///
/// ```
/// use tower_api_key::{KeyDigest, KeyRecord, Verifier};
///
/// // A row of an existing table: the SHA-256 of a key that was issued long ago.
/// let digest = KeyDigest::from_hex(&"ab".repeat(32)).expect("64 hex digits");
/// let record = KeyRecord::new(digest.id(), Verifier::sha256(digest), "acme")
///     .with_scopes("reports:read".parse()?)
///     .with_organization("Acme Inc.");
/// assert_eq!(record.account(), "acme");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
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
    revoked: Option<Stop>,
    suspended: Option<Stop>,
    rotated_to: Option<Rotation>,
    networks: AllowedNetworks,
    limits: BTreeMap<String, Quota>,
    budget: Option<KeyId>,
}

/// When and why a key was suspended or revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stop {
    /// When it was done.
    pub at: SystemTime,
    /// Why, for those who operate the service. It is never shown to the caller.
    pub reason: Option<String>,
}

impl Stop {
    /// A stop at an instant, for no stated reason.
    pub const fn new(at: SystemTime) -> Self {
        Self { at, reason: None }
    }

    /// Says why.
    #[must_use]
    pub fn with_reason(mut self, reason: impl Into<Option<String>>) -> Self {
        self.reason = reason.into();
        self
    }
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
    /// It has no pepper. Where a [`PepperRing`](crate::PepperRing) is set, put it under the current
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

    /// Counts the changes of this record, from 1. An update carries the version it saw, plus one, also one
    /// that is made in the table by hand: of two versions, a process believes the higher.
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
    pub fn with_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = Some(prefix.into().into());
        self
    }

    /// What the owner calls the key, such as `nightly export`.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Sets what the owner calls the key.
    #[must_use]
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into().into());
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
    pub fn with_organization(mut self, organization: impl Into<String>) -> Self {
        self.organization = Some(organization.into().into());
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

    /// The name of the account's plan.
    pub fn plan(&self) -> Option<&str> {
        self.plan.as_deref()
    }

    /// Sets the name of the account's plan.
    #[must_use]
    pub fn with_plan(mut self, plan: impl Into<String>) -> Self {
        self.plan = Some(plan.into().into());
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

    /// Replaces the quota of the limit of this [name](crate::Limit) for this key. A name that no limit has
    /// changes nothing.
    ///
    /// A quota of another period, shape or burst than the rule's has a budget of its own: where the
    /// limit is the account's, the account then has one of each.
    ///
    /// ```
    /// # use tower_api_key::{KeyDigest, KeyRecord, Quota};
    /// # let record = KeyRecord::imported(KeyDigest::of("…"), "acme");
    /// let generous = record.with_limit("account_per_minute", Quota::per_minute(10_000));
    /// ```
    #[must_use]
    pub fn with_limit(self, name: impl Into<String>, quota: Quota) -> Self {
        self.change(|it| {
            it.limits.insert(name.into(), quota);
        })
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

    /// The suspension, which can be lifted.
    pub fn suspended(&self) -> Option<&Stop> {
        self.seldom.as_ref()?.suspended.as_ref()
    }

    /// Suspends the key, or lifts the suspension.
    #[must_use]
    pub fn with_suspended(self, stop: impl Into<Option<Stop>>) -> Self {
        self.change(|it| it.suspended = stop.into())
    }

    /// The revocation, which is for ever.
    pub fn revoked(&self) -> Option<&Stop> {
        self.seldom.as_ref()?.revoked.as_ref()
    }

    /// Revokes the key. The first revocation stands: revoked stays revoked, also for `None`.
    #[must_use]
    pub fn with_revoked(self, stop: impl Into<Option<Stop>>) -> Self {
        self.change(|it| it.revoked = it.revoked.take().or(stop.into()))
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

    /// About how much memory the record takes beside itself, in bytes.
    pub(crate) fn heap(&self) -> usize {
        let text = |text: Option<&str>| text.map_or(0, str::len);
        let texts = [self.prefix(), self.name(), self.organization(), self.plan()].map(text);
        let reasons = [self.revoked(), self.suspended()]
            .map(|stop| text(stop.and_then(|stop| stop.reason.as_deref())));
        let metadata = self.metadata.iter();
        let metadata = metadata.map(|(name, value)| name.len() + value.len());
        let limits = self.limits().keys().map(String::len);
        let scopes = self.scopes.iter().map(|scope| scope.as_str().len());
        let networks = self.networks().list().map_or(0, size_of_val::<[_]>);
        let seldom = self.seldom.as_ref().map_or(0, |_| size_of::<Seldom>());
        self.account.len()
            + networks
            + seldom
            + nodes::<(String, String)>(metadata.len())
            + nodes::<(String, Quota)>(limits.len())
            + nodes::<Scope>(self.scopes.len())
            + texts.iter().chain(&reasons).sum::<usize>()
            + metadata.chain(limits).chain(scopes).sum::<usize>()
    }
}

/// About what a map of so many entries takes beside what they point to: its nodes have room for
/// eleven each, and are hardly more than half full if they were filled in order.
fn nodes<Entry>(entries: usize) -> usize {
    entries.div_ceil(6) * (16 + 11 * size_of::<Entry>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_equal_to_one_built_from_what_it_says() {
        let record = KeyRecord::imported(KeyDigest::of("key"), "acme");
        let built = record.clone().with_budget(record.budget());
        assert_eq!(built, record);
        let other = KeyDigest::of("other").id();
        assert_eq!(record.with_budget(other).budget(), other);
    }
}
