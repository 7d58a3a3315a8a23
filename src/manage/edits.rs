//! Edits of the fields of a key that its owner or operator may change, each by presence.

use std::collections::BTreeMap;

use crate::key::kind::KeyKind;
use crate::key::network::AllowedNetworks;
use crate::key::quota::Quota;
use crate::key::record::KeyRecord;
use crate::key::scope::{Scope, ScopeSet};
use crate::key::text::OptionalText;
use crate::key::web_origin::AllowedOrigins;
use crate::shared::Shared;

/// An error for a field that this [`ApiKeys`](crate::ApiKeys) does not allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FieldError {
    /// A publishable key would have a scope that is not declared publishable.
    #[error("a publishable key cannot hold the scope {0}: see ApiKeysBuilder::publishable_scopes")]
    NotPublishable(Scope),
    /// A secret key would be bound to web origins, which apply to publishable keys only.
    #[error("web origins bind publishable keys only: issue a publishable key, or leave them out")]
    OriginsOfSecretKey,
    /// The plan is unknown to this [`ApiKeys`](crate::ApiKeys).
    #[error("there is no plan {0:?}: name one of those in Limits")]
    UnknownPlan(String),
    /// The quota is for a limit that this [`ApiKeys`](crate::ApiKeys) does not have.
    #[error("there is no limit {0:?}: name one of those in Limits, as headers and errors name it")]
    UnknownLimit(String),
}

/// Fields that are set, and entries that are added or removed. What is not mentioned stays.
#[derive(Debug, Clone, Default)]
pub(super) struct Edits {
    pub(super) name: Option<OptionalText>,
    pub(super) plan: Option<OptionalText>,
    pub(super) scopes: Option<ScopeSet>,
    pub(super) networks: Option<AllowedNetworks>,
    pub(super) origins: Option<AllowedOrigins>,
    pub(super) limits: BTreeMap<String, Option<Quota>>,
    pub(super) metadata: BTreeMap<String, Option<String>>,
}

impl Edits {
    /// Returns a record with these edits.
    pub(super) fn apply(&self, mut record: KeyRecord) -> KeyRecord {
        if let Some(name) = &self.name {
            record = record.with_name(name.clone());
        }
        if let Some(plan) = &self.plan {
            record = record.with_plan(plan.clone());
        }
        if let Some(scopes) = &self.scopes {
            record = record.with_scopes(scopes.clone());
        }
        if let Some(networks) = &self.networks {
            record = record.with_networks(networks.clone());
        }
        if let Some(origins) = &self.origins {
            record = record.with_origins(origins.clone());
        }
        if !self.limits.is_empty() {
            let limits = edited(record.limits(), &self.limits);
            record = record.with_limits(limits);
        }
        if !self.metadata.is_empty() {
            let metadata = edited(record.metadata(), &self.metadata);
            record = record.with_metadata(metadata);
        }
        record
    }

    /// Checks the fields that are set. Those that stay may name a plan that is gone.
    pub(super) fn check(&self, shared: &Shared, kind: KeyKind) -> Result<(), FieldError> {
        let rules = shared.key_services.enforcer.rules.current();
        let plan = self.plan.as_ref().and_then(|plan| plan.0.as_deref());
        if let Some(plan) = plan.filter(|plan| !rules.knows_plan(plan)) {
            return Err(FieldError::UnknownPlan(plan.to_owned()));
        }
        let mut set = self.limits.iter().filter(|(_, quota)| quota.is_some());
        if let Some((limit, _)) = set.find(|(limit, _)| !rules.knows_limit(limit)) {
            return Err(FieldError::UnknownLimit(limit.clone()));
        }
        if kind == KeyKind::Secret {
            let origins = self.origins.as_ref().and_then(AllowedOrigins::list);
            return origins.map_or(Ok(()), |_| Err(FieldError::OriginsOfSecretKey));
        }
        let mut scopes = self.scopes.iter().flat_map(ScopeSet::iter);
        match scopes.find(|scope| !shared.publishable.contains(scope)) {
            Some(secret) => Err(FieldError::NotPublishable(secret.clone())),
            None => Ok(()),
        }
    }
}

/// Returns a map with entries set, or removed where the edit is `None`.
fn edited<V: Clone>(
    map: &BTreeMap<String, V>,
    edits: &BTreeMap<String, Option<V>>,
) -> BTreeMap<String, V> {
    let mut map = map.clone();
    for (name, value) in edits {
        match value {
            Some(value) => map.insert(name.clone(), value.clone()),
            None => map.remove(name),
        };
    }
    map
}

/// The setters of [`Edits`], for a call with a field `edits`.
macro_rules! edit_setters {
    () => {
        /// Sets or clears the name of the key. Not called, it stays.
        pub fn name(mut self, name: impl Into<OptionalText>) -> Self {
            self.edits.name = Some(name.into());
            self
        }

        /// Sets or clears the name of the account's plan. Not called, it stays.
        pub fn plan(mut self, plan: impl Into<OptionalText>) -> Self {
            self.edits.plan = Some(plan.into());
            self
        }

        /// Replaces the scopes. Not called, they stay.
        pub fn scopes(mut self, scopes: impl IntoIterator<Item = Scope>) -> Self {
            self.edits.scopes = Some(scopes.into_iter().collect());
            self
        }

        /// Replaces the networks that the key may be used from. Not called, they stay.
        pub fn networks(mut self, networks: AllowedNetworks) -> Self {
            self.edits.networks = Some(networks);
            self
        }

        /// Replaces the web origins of a publishable key. Not called, they stay.
        pub fn origins(mut self, origins: AllowedOrigins) -> Self {
            self.edits.origins = Some(origins);
            self
        }

        /// Replaces the quota of the limit with this name for the key, or, with `None`, takes the
        /// key's own quota away. Each call adds an edit; the other quotas stay.
        pub fn add_limit(
            mut self,
            name: impl Into<String>,
            quota: impl Into<Option<Quota>>,
        ) -> Self {
            self.edits.limits.insert(name.into(), quota.into());
            self
        }

        /// Sets an entry of the metadata, or, with `None`, removes it. Each call adds an edit; the
        /// other entries stay.
        pub fn add_metadata(
            mut self,
            name: impl Into<String>,
            value: impl Into<OptionalText>,
        ) -> Self {
            let value = value.into().0.map(String::from);
            self.edits.metadata.insert(name.into(), value);
            self
        }
    };
}

pub(super) use edit_setters;
