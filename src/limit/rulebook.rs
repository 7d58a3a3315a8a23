//! The rules as requests meet them: for each plan and endpoint, what binds together.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use smallvec::SmallVec;

use crate::key::digest::KeyId;
use crate::key::environment::Environment;
use crate::key::quota::Quota;
use crate::key::record::KeyRecord;
use crate::limit::charge::{Charge, LimitName, MAX_CHARGES, REQUESTS, Subject};
use crate::limit::client::Ipv6Prefix;
use crate::limit::endpoint::Endpoint;
use crate::limit::rule::{By, Rule};
use crate::limit::rules::Limits;

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
    /// The endpoint of a path for methods that have none there: all that binds any of its methods.
    /// A service may ignore the method, so another one must be no way around a limit or a cost.
    strictest: HashMap<Box<str>, usize>,
    /// The endpoints by method alone.
    of_any_path: Vec<Route>,
    /// How many requests a request to each endpoint counts as, and to none.
    costs: Vec<u64>,
    /// The units that are counted at all.
    units: BTreeSet<Arc<str>>,
    ipv6_prefix: Ipv6Prefix,
    need_address: bool,
    /// Whether there are limits that only report.
    report: bool,
    /// The name under which keys are throttled.
    throttle: LimitName,
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
    /// Whether there is a request at all: a verified key alone comes from no address.
    is_request: bool,
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

/// Adds an endpoint for each path whose endpoints are for single methods: with the greatest of
/// their costs and all of their rules, as far as a request may bring so many charges. Returns their
/// indices by path.
fn add_strictest(limits: &mut Limits) -> HashMap<Box<str>, usize> {
    let mut by_path: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (at, endpoint) in limits.endpoints.iter().enumerate() {
        if let Some(path) = &endpoint.path {
            by_path.entry(path.clone()).or_default().push(at);
        }
    }
    let most_plan = limits.plans.iter().map(|plan| plan.rules.len()).max();
    let room = MAX_CHARGES.saturating_sub(limits.rules.len() + most_plan.unwrap_or_default());
    let mut strictest = HashMap::new();
    for (path, endpoints) in by_path {
        let stated = || endpoints.iter().map(|at| &limits.endpoints[*at]);
        if stated().any(|endpoint| endpoint.method.is_none()) {
            continue;
        }
        let mut rules: Vec<Rule> = Vec::new();
        for rule in stated().flat_map(|endpoint| &endpoint.rules) {
            if rules.len() < room && !rules.iter().any(|other| other.name == rule.name) {
                rules.push(rule.clone());
            }
        }
        // It is never cheaper than a request without an endpoint.
        let cost = stated()
            .map(|endpoint| endpoint.cost)
            .max()
            .unwrap_or(1)
            .max(1);
        let mut costs = BTreeMap::new();
        for (unit, cost) in stated().flat_map(|endpoint| &endpoint.costs) {
            // What is free for one method is not free for others.
            if *cost > 0 {
                let most = costs.entry(unit.clone()).or_insert(*cost);
                *most = (*most).max(*cost);
            }
        }
        strictest.insert(path.clone().into(), limits.endpoints.len());
        let mut endpoint = Endpoint::any(path);
        endpoint.rules = rules;
        endpoint.cost = cost;
        endpoint.costs = costs;
        limits.endpoints.push(endpoint);
    }
    strictest
}

impl Rulebook {
    /// Puts together what binds together.
    pub(crate) fn new(limits: Limits) -> Self {
        let mut limits = limits;
        let strictest = add_strictest(&mut limits);
        let report = limits.all_rules().any(|rule| rule.is_report_only);
        let units = limits.all_rules().map(|rule| Arc::clone(&rule.unit));
        let units = units.chain([REQUESTS.into()]).collect();
        let nowhere = Endpoint::any("");
        let bundles = limits.endpoints.iter().chain([&nowhere]).flat_map(|at| {
            let plans = limits.plans.iter().map(|plan| plan.rules.as_slice());
            let bundle = |plan: &[Rule]| {
                let mut bundle = [&limits.rules, plan, &at.rules].concat();
                for rule in &mut bundle {
                    (rule.cost, rule.need) = at.cost_and_need(&rule.unit);
                }
                bundle.into()
            };
            plans.chain([&[][..]]).map(bundle).collect::<Vec<_>>()
        });
        let bundles: Vec<Box<[Rule]>> = bundles.collect();
        let costs = limits.endpoints.iter();
        let costs = costs.map(|at| at.cost_and_need(REQUESTS).0);
        let plans: Vec<String> = limits.plans.iter().map(|plan| plan.name.clone()).collect();
        let default = |name| plans.iter().position(|plan| *plan == name);
        let default_plan = limits.default_plan.and_then(default);
        let mut book = Self {
            need_address: limits.rules.iter().any(|rule| rule.by == By::Address),
            report,
            default_plan: PlanIndex::at(default_plan.unwrap_or(plans.len())),
            costs: costs.chain([1]).collect(),
            units,
            endpoints: HashMap::new(),
            strictest,
            of_any_path: Vec::new(),
            ipv6_prefix: limits.ipv6_prefix,
            throttle: LimitName::new("throttle"),
            bundles,
            plans,
        };
        let stated = limits.endpoints.len() - book.strictest.len();
        for (at, endpoint) in limits.endpoints.into_iter().take(stated).enumerate() {
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

    /// Returns whether there are limits that only report.
    #[inline]
    pub(crate) fn report(&self) -> bool {
        self.report
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

    /// What the rules must know of a request: the endpoint of its route, or else of its path, or
    /// else of its method.
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
        let endpoint = found
            .or_else(|| self.strictest.get(route).copied())
            .or_else(|| self.strictest.get(path).copied())
            .or_else(|| Self::find(&self.of_any_path, method))
            .unwrap_or(self.costs.len() - 1);
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

    /// What is known of a request that goes to no endpoint.
    #[inline]
    pub(crate) fn bind_nowhere(&self, address: Option<IpAddr>) -> Bound {
        Bound {
            endpoint: self.costs.len() - 1,
            client: address.map(|address| self.ipv6_prefix.mask(address)),
            is_request: true,
        }
    }

    /// What is known of a key that came in no request.
    pub(crate) fn bind_without_request(&self) -> Bound {
        Bound {
            is_request: false,
            ..self.bind_nowhere(None)
        }
    }

    /// Returns whether a limit counts a unit, or all could.
    pub(crate) fn knows_unit(&self, unit: &str) -> bool {
        self.units.contains(unit)
    }

    /// Returns what a request is charged.
    pub(crate) fn charges<'a>(
        &'a self,
        key: Option<Holder<'a>>,
        request: &Bound,
        now: SystemTime,
    ) -> Charges<'a> {
        let mut charges = Charges::new();
        self.add_charges(key, request, now, &mut charges);
        charges
    }

    /// As [`charges`](Self::charges), into a list of the caller's: for the path, which would copy
    /// 256 bytes otherwise.
    #[inline]
    pub(crate) fn add_charges<'a>(
        &'a self,
        key: Option<Holder<'a>>,
        request: &Bound,
        now: SystemTime,
        charges: &mut Charges<'a>,
    ) {
        let plan = key.map_or(self.plans.len(), |key| key.plan.0 as usize);
        let bundle = &self.bundles[request.endpoint * (self.plans.len() + 1) + plan];
        for rule in bundle {
            if rule.is_anonymous && key.is_some() {
                continue;
            }
            // What a key has of its own is about the key and its account: a budget that others draw
            // on too keeps the quota of the rule.
            let own = key.filter(|_| !matches!(rule.by, By::Address | By::Global));
            let quota = own.map_or(rule.quota, |key| key.quota(rule));
            let subject = match (rule.by, key, request.client) {
                (By::Key, Some(key), _) => Subject::Key(key.budget),
                (By::Account, Some(key), _) => Subject::Account(key.record.account()),
                (By::AccountIn, Some(key), _) => {
                    Subject::AccountIn(key.record.account(), key.environment)
                }
                (By::Address, _, Some(client)) => Subject::Address(client),
                // Stricter, never laxer: without an address, nobody gets out of limits by address.
                (By::Address, ..) if request.is_request => Subject::UnknownAddress,
                (By::Global, ..) => Subject::Global,
                // A request without a key has neither a key nor an account to charge.
                // What is no request comes from no address.
                (By::Key | By::Account | By::AccountIn | By::Address, ..) => continue,
            };
            let mut charge = Charge::new(&rule.name, subject, quota, rule.cost)
                .needing(rule.need)
                .with_unit(&rule.unit);
            if let Some(key) = key {
                charge = charge.with_home_of(key.record);
            }
            if rule.is_report_only {
                charge = charge.report_only();
            }
            charges.push(charge);
        }
        // Last, so that the others stand in the same order when they are given back after its end.
        if let Some(key) = key
            && key.has_limits
            && let Some(throttling) = key.record.throttled()
            && throttling.holds_at(now)
        {
            let subject = Subject::Key(key.budget);
            let cost = self.costs[request.endpoint];
            let charge = Charge::new(&self.throttle, subject, throttling.quota, cost);
            charges.push(charge.with_home_of(key.record));
        }
    }
}
