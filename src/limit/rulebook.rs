//! The rules as requests meet them: for each plan and endpoint, what binds together.

use std::collections::HashMap;
use std::net::IpAddr;

use smallvec::SmallVec;

use crate::key::digest::KeyId;
use crate::key::environment::Environment;
use crate::key::record::KeyRecord;
use crate::limit::rules::{By, Ipv6Prefix, Limits, Rule};
use crate::limit::{Charge, Subject};
use crate::quota::Quota;

/// The charges of one request.
pub(crate) type Charges<'a> = SmallVec<[Charge<'a>; 2]>;

/// Rules that were found to be keepable.
#[derive(Debug)]
pub(crate) struct Rulebook {
    /// What binds a request, by the place of its endpoint and that of its plan; the last place of
    /// each is for requests without one.
    bundles: Vec<Box<[Rule]>>,
    plans: Vec<String>,
    default_plan: PlanIndex,
    endpoints: HashMap<Box<str>, Vec<Route>>,
    /// The endpoints by method alone.
    of_any_path: Vec<Route>,
    /// The cost of a request to each endpoint, and to none.
    costs: Vec<u64>,
    ipv6_prefix: Ipv6Prefix,
    need_address: bool,
}

/// What rules a key is bound by, beside those for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct PlanIndex(u32);

impl PlanIndex {
    fn at(index: usize) -> Self {
        Self(u32::try_from(index).expect("fewer plans than memory could hold"))
    }
}

/// An endpoint of a path.
#[derive(Debug)]
struct Route {
    /// None is any method.
    method: Option<Box<str>>,
    endpoint: usize,
}

/// What the rules know of a request beside its key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bound {
    endpoint: usize,
    /// Its address, or the network that counts as one client.
    client: Option<IpAddr>,
}

/// What the rules know of a key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Holder<'a> {
    pub(crate) record: &'a KeyRecord,
    pub(crate) environment: &'a Environment,
    pub(crate) plan: PlanIndex,
    /// Whose budget it draws on.
    pub(crate) budget: KeyId,
    /// Whether the record may have quotas of its own.
    pub(crate) has_limits: bool,
}

impl Holder<'_> {
    /// The quota that a limit has for this key.
    #[inline]
    fn quota(self, rule: &Rule) -> Quota {
        if !self.has_limits {
            return rule.quota;
        }
        let own = self.record.limit(rule.name.as_str());
        own.unwrap_or(rule.quota)
    }
}

impl Rulebook {
    /// Puts together what binds together.
    pub(crate) fn new(limits: Limits) -> Self {
        let none: &[Rule] = &[];
        let endpoints = limits.endpoints.iter().map(|at| at.rules.as_slice());
        let bundles = endpoints.chain([none]).flat_map(|endpoint| {
            let plans = limits.plans.iter().map(|plan| plan.rules.as_slice());
            let bundle = |plan: &[Rule]| [&limits.rules, plan, endpoint].concat().into();
            plans.chain([none]).map(bundle).collect::<Vec<_>>()
        });
        let bundles: Vec<Box<[Rule]>> = bundles.collect();
        let costs = limits.endpoints.iter().map(|endpoint| endpoint.cost);
        let plans: Vec<String> = limits.plans.iter().map(|plan| plan.name.clone()).collect();
        let default = |name| plans.iter().position(|plan| *plan == name);
        let default_plan = limits.default_plan.and_then(default);
        let mut book = Self {
            need_address: limits.rules.iter().any(|rule| rule.by == By::Address),
            default_plan: PlanIndex::at(default_plan.unwrap_or(plans.len())),
            costs: costs.chain([1]).collect(),
            endpoints: HashMap::new(),
            of_any_path: Vec::new(),
            ipv6_prefix: limits.ipv6_prefix,
            bundles,
            plans,
        };
        for (at, endpoint) in limits.endpoints.into_iter().enumerate() {
            let routes = match endpoint.path {
                Some(path) => book.endpoints.entry(path.into()).or_default(),
                None => &mut book.of_any_path,
            };
            routes.push(Route {
                method: endpoint.method.map(Into::into),
                endpoint: at,
            });
        }
        book
    }

    /// Whether the client's address matters.
    pub(crate) fn need_address(&self) -> bool {
        self.need_address
    }

    /// Whether the route of a request matters.
    #[inline]
    pub(crate) fn need_route(&self) -> bool {
        !self.endpoints.is_empty() || !self.of_any_path.is_empty()
    }

    /// The plan of a key: its own if there is one of that name, or else the default.
    pub(crate) fn plan_of(&self, key: &KeyRecord) -> PlanIndex {
        let own = key
            .plan()
            .and_then(|name| self.plans.iter().position(|plan| plan == name));
        own.map_or(self.default_plan, PlanIndex::at)
    }

    /// What the rules must know of a request: the endpoint of its route, or else of its path, or else of its
    /// method.
    pub(crate) fn bind(
        &self,
        method: &str,
        route: &str,
        path: &str,
        address: Option<IpAddr>,
    ) -> Bound {
        let of = |text| self.endpoints.get(text).map_or(&[][..], Vec::as_slice);
        let (by_route, by_path) = (of(route), of(path));
        let found = Self::find(by_route, method).or_else(|| Self::find(by_path, method));
        let endpoint = found.unwrap_or_else(|| {
            let of_method = Self::find(&self.of_any_path, method);
            self.dearest(by_route.iter().chain(by_path), of_method)
        });
        Bound {
            endpoint,
            ..self.bind_nowhere(address)
        }
    }

    /// The endpoint of a method, or of any. `HEAD` is what `GET` would be without a body.
    fn find(routes: &[Route], method: &str) -> Option<usize> {
        let of = |wanted: Option<&str>| {
            let found = routes
                .iter()
                .find(|route| route.method.as_deref() == wanted);
            found.map(|route| route.endpoint)
        };
        let as_get = || (method == "HEAD").then(|| of(Some("GET"))).flatten();
        of(Some(method)).or_else(as_get).or_else(|| of(None))
    }

    /// The endpoint of a path that has endpoints, but none of the request's method: the dearest of them.
    /// A service may ignore the method, so another one must be no way around a limit or a cost. It is
    /// never cheaper than a request without an endpoint.
    fn dearest<'r>(
        &self,
        routes: impl Iterator<Item = &'r Route>,
        of_method: Option<usize>,
    ) -> usize {
        let nowhere = self.costs.len() - 1;
        let candidates = routes.map(|route| route.endpoint).chain(of_method);
        let price = |endpoint: &usize| {
            let rules = self.bundles[endpoint * (self.plans.len() + 1)].len();
            (self.costs[*endpoint], rules)
        };
        let Some(dearest) = candidates.max_by_key(price) else {
            return nowhere;
        };
        // A method that has an endpoint of its own may be as cheap as that says.
        if of_method == Some(dearest) || price(&dearest) >= price(&nowhere) {
            return dearest;
        }
        nowhere
    }

    /// What is known of a request that goes to no endpoint.
    #[inline]
    pub(crate) fn bind_nowhere(&self, address: Option<IpAddr>) -> Bound {
        Bound {
            endpoint: self.costs.len() - 1,
            client: address.map(|address| self.ipv6_prefix.mask(address)),
        }
    }

    /// What a request costs, of each limit.
    #[inline]
    pub(crate) fn cost_of(&self, request: &Bound) -> u64 {
        self.costs[request.endpoint]
    }

    /// Adds what a request is charged.
    #[inline]
    pub(crate) fn charge<'a>(
        &'a self,
        key: Option<Holder<'a>>,
        request: &Bound,
        charges: &mut Charges<'a>,
    ) {
        let plan = key.map_or(self.plans.len(), |key| key.plan.0 as usize);
        let bundle = &self.bundles[request.endpoint * (self.plans.len() + 1) + plan];
        let cost = self.cost_of(request);
        for rule in bundle {
            let quota = key.map_or(rule.quota, |key| key.quota(rule));
            let mut charge = |subject| charges.push(Charge::new(&rule.name, subject, quota, cost));
            match (rule.by, key, request.client) {
                (By::Key, Some(key), _) => charge(Subject::Key(key.budget)),
                (By::Account, Some(key), _) => charge(Subject::Account(key.record.account())),
                (By::AccountIn, Some(key), _) => {
                    charge(Subject::AccountIn(key.record.account(), key.environment));
                }
                (By::Address, _, Some(client)) => charge(Subject::Address(client)),
                // Stricter, never laxer: without an address, nobody gets out of limits by address.
                (By::Address, ..) => charge(Subject::UnknownAddress),
                (By::Global, ..) => charge(Subject::Global),
                // A request without a key has neither a key nor an account to charge.
                (By::Key | By::Account | By::AccountIn, ..) => {}
            }
        }
    }
}
