//! The rules of an application: limits by subject, plan and endpoint, and the costs of requests.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use crate::key::network::{Network, NetworkError};
use crate::limit::charge::MAX_CHARGES;
use crate::limit::client_network::Ipv6Prefix;
use crate::limit::endpoint::Endpoint;
use crate::limit::rule::{By, Limit, LimitsError, Rule};

/// The limits of an application. Every request is charged against all limits that apply to it, or
/// against none if one of them denies it.
///
/// A request without a key, where [keys are optional](crate::ApiKeyLayer::optional), is charged
/// against the limits by address, by the application's own subjects, and global ones. A request
/// that is refused for its key is not charged.
///
/// ```
/// use http::Method;
/// use tower_api_key::limit::Plan;
/// use tower_api_key::{ApiKeys, Limits, MemoryStore, Quota};
///
/// const FREE: Quota = Quota::per_minute(60);
///
/// let limits = Limits::new()
///     .add_plan(Plan::new("free").per_account(FREE).per_account(Quota::per_utc_month(10_000)))
///     .add_plan(Plan::new("pro").per_account(Quota::per_second(50).smooth().burst(100)))
///     .default_plan("free")
///     .per_ip(Quota::per_second(100))
///     .global(Quota::per_second(5_000))
///     .add_cost(Method::POST, "/v1/reports", 10);
/// let keys = ApiKeys::builder(MemoryStore::new()).limits(limits).build()?;
/// # Ok::<(), tower_api_key::BuildError>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use = "limits bind nobody until ApiKeysBuilder::limits is given them"]
pub struct Limits {
    pub(super) rules: Vec<Rule>,
    pub(super) plans: Vec<Plan>,
    pub(super) default_plan: Option<String>,
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) ipv6_prefix: Ipv6Prefix,
    pub(super) exemptions: Exemptions,
}

/// The exemptions from limits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Exemptions {
    pub(crate) methods: Vec<String>,
    pub(crate) networks: Vec<Network>,
}

/// A plan: a set of limits for the accounts and keys on it. The record of a key names its plan.
///
/// A key without a plan, or with an unknown one, has the default plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub(super) name: String,
    pub(super) rules: Vec<Rule>,
}

impl Exemptions {
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.methods.is_empty() && self.networks.is_empty()
    }
}

impl Plan {
    /// Creates a plan without limits.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            rules: Vec::new(),
        }
    }

    /// Limits all keys of an account together, separately in each environment.
    #[must_use]
    pub fn per_account(mut self, limit: impl Into<Limit>) -> Self {
        self.rules
            .push(Rule::new(By::AccountIn, limit.into(), None));
        self
    }

    /// Limits each key.
    #[must_use]
    pub fn per_key(mut self, limit: impl Into<Limit>) -> Self {
        self.rules.push(Rule::new(By::Key, limit.into(), None));
        self
    }
}

impl Limits {
    /// Creates an empty set of limits.
    pub fn new() -> Self {
        Self::default()
    }

    /// Limits each key.
    pub fn per_key(self, limit: impl Into<Limit>) -> Self {
        self.rule(By::Key, limit.into())
    }

    /// Limits all keys of each account together, separately in each environment: test keys do not
    /// use live budgets, unless the limit is [across environments](Limit::across_environments).
    pub fn per_account(self, limit: impl Into<Limit>) -> Self {
        self.rule(By::AccountIn, limit.into())
    }

    /// Limits each client address. IPv6 addresses are limited by network: see
    /// [`ipv6_prefix`](Self::ipv6_prefix).
    ///
    /// Behind a proxy, configure the source of the address with
    /// [`ClientAddress`](crate::http::ClientAddress) first. If the address is not known, the peer's
    /// address is used. Callers without either share one budget. An error is logged once then, with
    /// the fix: with axum, serve with `into_make_service_with_connect_info::<SocketAddr>()`;
    /// elsewhere, insert a [`PeerAddr`](crate::http::PeerAddr).
    pub fn per_ip(self, limit: impl Into<Limit>) -> Self {
        self.rule(By::Address, limit.into())
    }

    /// Limits all callers together.
    pub fn global(self, limit: impl Into<Limit>) -> Self {
        self.rule(By::Global, limit.into())
    }

    /// Limits each subject of the application's own, such as a tenant.
    ///
    /// A function that is set with
    /// [`ApiKeysBuilder::add_subject`](crate::ApiKeysBuilder::add_subject) under the same name
    /// returns the subject of a request. The limit does not apply to a request without a subject.
    ///
    /// ```
    /// use tower_api_key::{ApiKeys, Limits, MemoryStore, Quota};
    ///
    /// let keys = ApiKeys::builder(MemoryStore::new())
    ///     .limits(Limits::new().per("tenant", Quota::per_minute(600)))
    ///     .add_subject("tenant", |_request, key| key?.metadata().get("tenant").cloned())
    ///     .build()?;
    /// # Ok::<(), tower_api_key::BuildError>(())
    /// ```
    pub fn per(mut self, subject: impl Into<Arc<str>>, limit: impl Into<Limit>) -> Self {
        self.rules.push(Rule::per(subject.into(), limit.into()));
        self
    }

    /// Sets the networks that are exempt from all limits. Default: none.
    ///
    /// The address of a request is found by
    /// [`ApiKeyLayer::client_address`](crate::ApiKeyLayer::client_address). A client whose address
    /// is not known is not exempt. A key that is throttled stays throttled.
    ///
    /// # Errors
    ///
    /// [`NetworkError`] if a text is not a network.
    ///
    /// ```
    /// use tower_api_key::{Limits, Quota};
    ///
    /// let limits = Limits::new()
    ///     .per_ip(Quota::per_second(10))
    ///     .exempt_networks(["10.0.0.0/8", "192.0.2.7"])?;
    /// # Ok::<(), tower_api_key::key::NetworkError>(())
    /// ```
    pub fn exempt_networks<N: AsRef<str>>(
        mut self,
        networks: impl IntoIterator<Item = N>,
    ) -> Result<Self, NetworkError> {
        let networks = networks.into_iter().map(|network| network.as_ref().parse());
        self.exemptions.networks = networks.collect::<Result<_, _>>()?;
        Ok(self)
    }

    /// Sets the methods whose requests are exempt from all limits. Default: none. A key that is
    /// throttled stays throttled.
    ///
    /// Danger: the client chooses the method. A service that ignores the method, such as a gRPC
    /// service, then has no limits at all.
    ///
    /// ```
    /// use http::Method;
    /// use tower_api_key::{Limits, Quota};
    ///
    /// let limits = Limits::new()
    ///     .per_key(Quota::per_second(10))
    ///     .dangerous_exempt_methods([Method::OPTIONS]);
    /// ```
    pub fn dangerous_exempt_methods<M: AsRef<str>>(
        mut self,
        methods: impl IntoIterator<Item = M>,
    ) -> Self {
        let methods = methods.into_iter().map(|method| method.as_ref().to_owned());
        self.exemptions.methods = methods.collect();
        self
    }

    /// Adds a plan. If there are plans, a [default plan](Self::default_plan) is required.
    pub fn add_plan(mut self, plan: Plan) -> Self {
        self.plans.push(plan);
        self
    }

    /// Sets the plan of keys without a plan, or with an unknown one, so that no key is without
    /// limits.
    pub fn default_plan(mut self, name: impl Into<String>) -> Self {
        self.default_plan = Some(name.into());
        self
    }

    /// Adds an endpoint with limits or a cost of its own. Each method and path may have one
    /// endpoint.
    pub fn add_endpoint(mut self, endpoint: Endpoint) -> Self {
        self.endpoints.push(endpoint);
        self
    }

    /// Sets the cost of a request to an endpoint, in requests. Default: 1.
    ///
    /// The path is compared as described at [`Endpoint`]: with the feature `axum`, write
    /// `/v1/reports/{id}` as in the router. For an endpoint with a cost and limits, use one
    /// [`add_endpoint`](Self::add_endpoint) instead.
    pub fn add_cost(self, method: impl AsRef<str>, path: impl Into<String>, requests: u64) -> Self {
        self.add_endpoint(Endpoint::new(method, path).cost(requests))
    }

    /// Sets the length of the IPv6 prefix that identifies one client, in bits. Default: 64, the
    /// longest prefix that networks usually assign to one customer. The number is clamped to 48 to
    /// 128.
    ///
    /// Danger: with more than 64, one machine can have any number of budgets.
    pub fn ipv6_prefix(mut self, bits: u8) -> Self {
        self.ipv6_prefix = Ipv6Prefix(bits.clamp(48, 128));
        self
    }

    fn rule(mut self, by: By, limit: Limit) -> Self {
        self.rules.push(Rule::new(by, limit, None));
        self
    }

    /// Returns all rules: those for all requests, of all plans and of all endpoints.
    pub(super) fn all_rules(&self) -> impl Iterator<Item = &Rule> {
        let of_plans = self.plans.iter().flat_map(|plan| &plan.rules);
        let of_endpoints = self.endpoints.iter().flat_map(|at| &at.rules);
        self.rules.iter().chain(of_plans).chain(of_endpoints)
    }

    /// Returns whether there are calendar quotas.
    pub(crate) fn have_calendar(&self) -> bool {
        self.all_rules().any(|rule| rule.quota.is_calendar())
    }

    /// Checks that the limits of all endpoints of a path can apply together, to a request of a
    /// method without an endpoint there.
    fn check_paths(&self) -> Result<(), LimitsError> {
        let mut by_path: BTreeMap<&str, Vec<&Endpoint>> = BTreeMap::new();
        for endpoint in &self.endpoints {
            if let Some(path) = &endpoint.path {
                by_path.entry(path).or_default().push(endpoint);
            }
        }
        let most_plan = self.plans.iter().map(|plan| plan.rules.len()).max();
        let others = self.rules.len() + most_plan.unwrap_or_default();
        for endpoints in by_path.values() {
            if endpoints.iter().any(|endpoint| endpoint.method.is_none()) {
                continue;
            }
            let mut rules: BTreeMap<&str, &Rule> = BTreeMap::new();
            for rule in endpoints.iter().flat_map(|endpoint| &endpoint.rules) {
                let name = rule.name.as_str();
                if *rules.entry(name).or_insert(rule) != rule {
                    return Err(LimitsError::SameName(name.to_owned()));
                }
            }
            if rules.len() + others > MAX_CHARGES {
                return Err(LimitsError::TooMany);
            }
        }
        Ok(())
    }

    /// Checks that the limits can be enforced. `subjects` are the names of the subjects that the
    /// application has functions for.
    pub(crate) fn validate(&self, subjects: &[&str]) -> Result<(), LimitsError> {
        if self.plans.len() > usize::from(u16::MAX) {
            return Err(LimitsError::TooManyPlans);
        }
        let plan_names = self.plans.iter().map(|plan| plan.name.as_str());
        let mut names = HashSet::new();
        for name in plan_names {
            if !names.insert(name) {
                return Err(LimitsError::SamePlan(name.to_owned()));
            }
        }
        match &self.default_plan {
            Some(default) if !names.contains(default.as_str()) => {
                return Err(LimitsError::UnknownPlan(default.clone()));
            }
            None if !self.plans.is_empty() => return Err(LimitsError::NoDefaultPlan),
            _ => {}
        }
        self.check_paths()?;
        let mut labels = HashSet::new();
        for endpoint in &self.endpoints {
            endpoint.check()?;
            if !labels.insert((&endpoint.method, &endpoint.path)) {
                return Err(LimitsError::SameEndpoint(endpoint.label()));
            }
        }
        for rule in self.all_rules() {
            if !is_plain(&rule.unit) {
                return Err(LimitsError::Unit(rule.unit.to_string()));
            }
            if let Some(subject) = &rule.subject
                && !subjects.contains(&&**subject)
            {
                return Err(LimitsError::UnknownSubject(subject.to_string()));
            }
            let has_key = !matches!(rule.by, By::Address | By::Global | By::Subject);
            if rule.is_anonymous && has_key {
                return Err(LimitsError::Anonymous(rule.name.to_string()));
            }
        }
        for unit in self.endpoints.iter().flat_map(|at| at.costs.keys()) {
            if !self.all_rules().any(|rule| *rule.unit == **unit) {
                return Err(LimitsError::UnknownUnit(unit.clone()));
            }
        }
        let none: &[Rule] = &[];
        let plans = || {
            self.plans
                .iter()
                .map(|plan| plan.rules.as_slice())
                .chain([none])
        };
        let endpoints = || {
            self.endpoints
                .iter()
                .map(|at| at.rules.as_slice())
                .chain([none])
        };
        for plan in plans() {
            for endpoint in endpoints() {
                let together = || self.rules.iter().chain(plan).chain(endpoint);
                if together().count() > MAX_CHARGES {
                    return Err(LimitsError::TooMany);
                }
                let mut names = HashSet::new();
                for name in together().map(|rule| rule.name.as_str()) {
                    if !is_plain(name) {
                        return Err(LimitsError::Name(name.to_owned()));
                    }
                    if !names.insert(name) {
                        return Err(LimitsError::SameName(name.to_owned()));
                    }
                }
            }
        }
        Ok(())
    }
}

/// Returns whether a text can be written in a string of a structured field without escapes.
fn is_plain(text: &str) -> bool {
    let plain = |byte: u8| matches!(byte, 0x20 | 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
    !text.is_empty() && text.len() <= 64 && text.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::client_network::client_network;

    #[test]
    fn an_ipv6_client_is_counted_by_its_network() {
        let masked = |bits, address: &str| {
            let address = address.parse().unwrap();
            Limits::new()
                .ipv6_prefix(bits)
                .ipv6_prefix
                .mask(address)
                .to_string()
        };
        assert_eq!(
            client_network("2001:db8:1:2:3:4:5:6".parse().unwrap()).to_string(),
            "2001:db8:1:2::"
        );
        assert_eq!(masked(48, "2001:db8:1:2:3:4:5:6"), "2001:db8:1::");
        assert_eq!(masked(0, "2001:db8:1:2:3:4:5:6"), "2001:db8:1::");
        assert_eq!(masked(128, "2001:db8::1"), "2001:db8::1");
        // A mapped IPv4 address is IPv4. As IPv6, all of them would be one client.
        assert_eq!(masked(64, "::ffff:192.0.2.1"), "192.0.2.1");
        assert_eq!(masked(48, "192.0.2.1"), "192.0.2.1");
        // A NAT64 address is the IPv4 address in it, if that is public.
        assert_eq!(masked(64, "64:ff9b::8.8.8.8"), "8.8.8.8");
        assert_eq!(masked(64, "64:ff9b::10.0.0.1"), "64:ff9b::");
    }
}
