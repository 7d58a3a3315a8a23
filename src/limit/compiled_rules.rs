//! Compiled rules: for each plan and endpoint, the list of rules that apply together.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use smallvec::SmallVec;

use crate::key::digest::KeyId;
use crate::key::environment::Environment;
use crate::key::quota::Quota;
use crate::key::record::KeyRecord;
use crate::limit::charge::{Charge, LimitName, MAX_CHARGES, REQUESTS, Subject};
use crate::limit::client_network::Ipv6Prefix;
use crate::limit::endpoint::Endpoint;
use crate::limit::limits::{Exemptions, Limits};
use crate::limit::rule::{By, Rule};
use crate::util::trace;

/// The charges of one request.
pub(crate) type Charges<'a> = SmallVec<[Charge<'a>; 2]>;

/// Validated rules, indexed for requests.
#[expect(
    clippy::struct_excessive_bools,
    reason = "facts about all rules, each asked by itself"
)]
#[derive(Debug)]
pub(crate) struct CompiledRules {
    edition: u16,
    /// The rules that apply to a request, by the indices of its endpoint and of its plan. The last
    /// index of each is for requests without one.
    bundles: Vec<Box<[Rule]>>,
    plans: Vec<String>,
    default_plan: u16,
    endpoints: HashMap<Box<str>, Vec<Route>>,
    /// The endpoint of a path for methods without an endpoint there: all rules of its other methods
    /// apply. A service may ignore the method, so another method must not evade a limit or a cost.
    strictest: HashMap<Box<str>, usize>,
    /// The endpoints by method alone.
    of_any_path: Vec<Route>,
    /// The cost in requests of each endpoint. The last cost is for requests without an endpoint.
    costs: Vec<u64>,
    /// The cost in other units of each endpoint that has one.
    unit_costs: HashMap<u32, Vec<(String, u64)>>,
    /// The units that any limit counts, and `requests`.
    units: BTreeSet<Arc<str>>,
    ipv6_prefix: Ipv6Prefix,
    need_address: bool,
    exemptions: Exemptions,
    /// The subjects of the application's own that rules count by.
    subjects: Vec<Arc<str>>,
    names: BTreeSet<String>,
    /// The unknown plans of records that were logged.
    unknown_plans: Mutex<BTreeSet<String>>,
    /// Set if there are report-only limits.
    has_report_only: bool,
    /// Set if a limit tells when it is nearly used up.
    tells: bool,
    has_calendar: bool,
    /// The name under which keys are throttled.
    throttle: LimitName,
}

/// The plan of a key, as an index into the plans of one edition.
///
/// Under another edition, the plan is looked up again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct PlanIndex {
    edition: u16,
    plan: u16,
}

/// An endpoint of a path.
#[derive(Debug)]
struct Route {
    /// The method; `None` matches any method.
    method: Option<Box<str>>,
    endpoint: usize,
}

/// The facts about a request, other than its key, that determine its limits.
#[derive(Debug, Clone)]
pub(crate) struct RequestLimits {
    edition: u16,
    endpoint: u32,
    /// The client's IPv4 address, or its IPv6 network.
    client: Option<IpAddr>,
    /// Set if there is a request. A key that is verified without one has no address.
    is_request: bool,
    /// Set if the request is exempt from limits.
    is_exempt: bool,
    /// The application's own subjects of the request, in the order of [`CompiledRules::subjects`].
    /// `None` if no rule counts by them.
    subjects: Option<Arc<[Option<Box<str>>]>>,
}

impl RequestLimits {
    #[inline]
    pub(crate) fn edition(&self) -> u16 {
        self.edition
    }

    /// Exempts the request from all limits except a throttle of its key.
    pub(crate) fn exempt(mut self) -> Self {
        self.is_exempt = true;
        self
    }

    /// Sets the application's own subjects.
    pub(crate) fn with_subjects(mut self, subjects: Arc<[Option<Box<str>>]>) -> Self {
        self.subjects = Some(subjects);
        self
    }
}

/// The facts about a key that determine its limits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ChargedKey<'a> {
    pub(crate) record: &'a KeyRecord,
    pub(crate) environment: &'a Environment,
    pub(crate) plan: PlanIndex,
    /// The id of the key that owns the budget.
    pub(crate) budget: KeyId,
    /// Set if the record may have quotas of its own, or a throttle.
    pub(crate) has_limits: bool,
}

impl ChargedKey<'_> {
    /// Returns the quota of a rule for this key: that of the record if it has one.
    #[inline]
    fn quota(self, rule: &Rule) -> Quota {
        if !self.has_limits {
            return rule.quota;
        }
        let own = self.record.limit(rule.name.as_str());
        own.unwrap_or(rule.quota)
    }
}

/// Adds an endpoint for each path whose endpoints are all for single methods. It has the greatest
/// of their costs and all of their rules, up to the maximum number of charges. Returns the indices
/// of the added endpoints by path.
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
        // At least the cost of a request without an endpoint.
        let cost = stated()
            .map(|endpoint| endpoint.cost)
            .max()
            .unwrap_or(1)
            .max(1);
        let mut costs = BTreeMap::new();
        for (unit, cost) in stated().flat_map(|endpoint| &endpoint.costs) {
            // A unit that is free for one method is not free for others.
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

impl CompiledRules {
    /// Compiles limits, which must be valid.
    pub(crate) fn new(limits: Limits, edition: u16) -> Self {
        let mut limits = limits;
        let strictest = add_strictest(&mut limits);
        let mut subjects: Vec<Arc<str>> = Vec::new();
        for subject in limits.all_rules().filter_map(|rule| rule.subject.as_ref()) {
            if !subjects.contains(subject) {
                subjects.push(Arc::clone(subject));
            }
        }
        let names = limits.all_rules().map(|rule| rule.name.to_string());
        let names = names.collect();
        let has_calendar = limits.have_calendar();
        let need_address = limits.all_rules().any(|rule| rule.by == By::Address);
        let has_report_only = limits.all_rules().any(|rule| rule.is_report_only);
        let tells = limits.all_rules().any(|rule| rule.tell_at > 0);
        let units = limits.all_rules().map(|rule| Arc::clone(&rule.unit));
        let units = units.chain([REQUESTS.into()]).collect();
        let no_endpoint = Endpoint::any("");
        let bundles = limits
            .endpoints
            .iter()
            .chain([&no_endpoint])
            .flat_map(|at| {
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
        let unit_costs = limits.endpoints.iter().enumerate().map(|(at, endpoint)| {
            let costs = endpoint.costs.iter().filter(|(_, units)| **units > 0);
            let costs: Vec<_> = costs.map(|(unit, units)| (unit.clone(), *units)).collect();
            (index(at), costs)
        });
        let unit_costs = unit_costs.filter(|(_, costs)| !costs.is_empty()).collect();
        let plans: Vec<String> = limits.plans.iter().map(|plan| plan.name.clone()).collect();
        let default = |name| plans.iter().position(|plan| *plan == name);
        let default_plan = limits.default_plan.and_then(default);
        let mut rules = Self {
            edition,
            need_address,
            exemptions: limits.exemptions,
            subjects,
            names,
            unknown_plans: Mutex::default(),
            has_report_only,
            tells,
            has_calendar,
            default_plan: plan_index(default_plan.unwrap_or(plans.len())),
            costs: costs.chain([1]).collect(),
            unit_costs,
            units,
            endpoints: HashMap::new(),
            strictest,
            of_any_path: Vec::new(),
            ipv6_prefix: limits.ipv6_prefix,
            throttle: LimitName::new("throttle"),
            bundles,
            plans,
        };
        let stated = limits.endpoints.len() - rules.strictest.len();
        for (at, endpoint) in limits.endpoints.into_iter().take(stated).enumerate() {
            let routes = match endpoint.path {
                Some(path) => rules.endpoints.entry(path.into()).or_default(),
                None => &mut rules.of_any_path,
            };
            routes.push(Route {
                method: endpoint.method.map(Into::into),
                endpoint: at,
            });
        }
        rules
    }

    /// Returns whether any rule needs the client's address.
    pub(crate) fn need_address(&self) -> bool {
        self.need_address
    }

    /// Returns whether a limit tells when it is nearly used up.
    #[inline]
    pub(crate) fn tells(&self) -> bool {
        self.tells
    }

    /// Returns whether there are report-only limits.
    #[inline]
    pub(crate) fn has_report_only(&self) -> bool {
        self.has_report_only
    }

    /// Returns whether there are calendar quotas.
    pub(crate) fn has_calendar(&self) -> bool {
        self.has_calendar
    }

    /// Returns whether any endpoint needs the route of a request.
    #[inline]
    pub(crate) fn need_route(&self) -> bool {
        !self.endpoints.is_empty() || !self.of_any_path.is_empty()
    }

    #[cfg(test)]
    pub(crate) fn edition(&self) -> u16 {
        self.edition
    }

    /// Returns the plan of a key: the plan that its record names, or else the default plan.
    pub(crate) fn plan_of(&self, key: &KeyRecord) -> PlanIndex {
        let own = key.plan().and_then(|name| {
            let own = self.plans.iter().position(|plan| plan == name);
            if own.is_none() && !self.plans.is_empty() {
                self.log_unknown_plan(name);
            }
            own
        });
        PlanIndex {
            edition: self.edition,
            plan: own.map_or(self.default_plan, plan_index),
        }
    }

    /// Logs an unknown plan once, up to 64 different ones.
    #[cold]
    fn log_unknown_plan(&self, name: &str) {
        let logged = self.unknown_plans.lock();
        let mut logged = logged.unwrap_or_else(PoisonError::into_inner);
        if logged.len() < 64 && logged.insert(name.to_owned()) {
            trace::unknown_plan(name, &self.plans[usize::from(self.default_plan)]);
        }
    }

    /// Returns whether there is a plan of this name, or no plan at all.
    pub(crate) fn knows_plan(&self, name: &str) -> bool {
        self.plans.is_empty() || self.plans.iter().any(|plan| plan == name)
    }

    /// Returns whether there is a limit of this name, or no limit at all.
    pub(crate) fn knows_limit(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.contains(name)
    }

    /// Returns the application's own subjects that rules count by.
    #[inline]
    pub(crate) fn subjects(&self) -> &[Arc<str>] {
        &self.subjects
    }

    /// Returns the exemptions from limits.
    #[inline]
    pub(crate) fn exemptions(&self) -> &Exemptions {
        &self.exemptions
    }

    /// Returns the facts about a request, with the endpoint of its route, or else of its path, or
    /// else of its method.
    pub(crate) fn bind(
        &self,
        method: &str,
        route: &str,
        path: &str,
        address: Option<IpAddr>,
    ) -> RequestLimits {
        let of = |text| self.endpoints.get(text).map_or(&[][..], Vec::as_slice);
        let (by_route, by_path) = (of(route), of(path));
        let found = Self::find(by_route, method).or_else(|| Self::find(by_path, method));
        let endpoint = found
            .or_else(|| self.strictest.get(route).copied())
            .or_else(|| self.strictest.get(path).copied())
            .or_else(|| Self::find(&self.of_any_path, method))
            .unwrap_or(self.costs.len() - 1);
        RequestLimits {
            endpoint: index(endpoint),
            ..self.bind_without_route(address)
        }
    }

    /// Finds the endpoint of a method, or else of any method. `HEAD` without an endpoint of its own
    /// is treated as `GET`.
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

    /// Returns the facts about a request that matches no endpoint.
    #[inline]
    pub(crate) fn bind_without_route(&self, address: Option<IpAddr>) -> RequestLimits {
        RequestLimits {
            edition: self.edition,
            endpoint: index(self.costs.len() - 1),
            client: address.map(|address| self.ipv6_prefix.mask(address)),
            is_request: true,
            is_exempt: false,
            subjects: None,
        }
    }

    /// Returns the facts for a key that is verified without a request.
    pub(crate) fn bind_without_request(&self) -> RequestLimits {
        RequestLimits {
            is_request: false,
            ..self.bind_without_route(None)
        }
    }

    /// Returns whether a limit counts a unit, or there is no limit at all.
    pub(crate) fn knows_unit(&self, unit: &str) -> bool {
        self.names.is_empty() || self.units.contains(unit)
    }

    /// Returns the charges of a request.
    pub(crate) fn charges<'a>(
        &'a self,
        key: Option<ChargedKey<'a>>,
        request: &'a RequestLimits,
        now: SystemTime,
    ) -> Charges<'a> {
        let mut charges = Charges::new();
        self.add_charges(key, request, now, &mut charges);
        charges
    }

    /// Adds the charges of a request to an existing list. Returning a list would copy 256 bytes on
    /// the hot path.
    #[inline]
    pub(crate) fn add_charges<'a>(
        &'a self,
        key: Option<ChargedKey<'a>>,
        request: &'a RequestLimits,
        now: SystemTime,
        charges: &mut Charges<'a>,
    ) {
        let plan = match key {
            None => self.plans.len(),
            Some(key) if key.plan.edition == self.edition => usize::from(key.plan.plan),
            Some(key) => usize::from(self.plan_of(key.record).plan),
        };
        let bundle = &self.bundles[request.endpoint as usize * (self.plans.len() + 1) + plan];
        let bundle = if request.is_exempt { &[] } else { &**bundle };
        for rule in bundle {
            if rule.is_anonymous && key.is_some() {
                continue;
            }
            // A record overrides the limits of its key and account only. Budgets that are shared
            // with other accounts keep the quota of the rule.
            let is_own = !matches!(rule.by, By::Address | By::Global | By::Subject);
            let own = key.filter(|_| is_own);
            let quota = own.map_or(rule.quota, |key| key.quota(rule));
            let subject = match (rule.by, key, request.client) {
                (By::Key, Some(key), _) => Subject::Key(key.budget),
                (By::Account, Some(key), _) => Subject::Account(key.record.account()),
                (By::AccountIn, Some(key), _) => {
                    Subject::AccountIn(key.record.account(), key.environment)
                }
                (By::Address, _, Some(client)) => Subject::Address(client),
                // Clients without a known address share one budget, so that they do not evade the
                // limits by address.
                (By::Address, ..) if request.is_request => Subject::UnknownAddress,
                (By::Global, ..) => Subject::Global,
                (By::Subject, ..) => match self.subject(rule, request) {
                    Some(subject) => Subject::Custom(subject),
                    // The application returned no subject: the rule does not apply.
                    None => continue,
                },
                // A request without a key has no key and no account to charge, and a key without a
                // request has no address.
                (By::Key | By::Account | By::AccountIn | By::Address, ..) => continue,
            };
            let mut charge = Charge::new(&rule.name, subject, quota, rule.cost)
                .needing(rule.need)
                .with_unit(&rule.unit)
                .telling_at(rule.tell_at);
            if let Some(key) = key {
                charge = charge.with_home_of(key.record);
            }
            if rule.is_report_only {
                charge = charge.report_only();
            }
            charges.push(charge);
        }
        // The throttle is last: if it has ended when the charges are refunded, the indices of the
        // others are the same.
        if let Some(key) = key
            && key.has_limits
            && let Some(throttling) = key.record.throttled()
            && throttling.holds_at(now)
        {
            let subject = Subject::Key(key.budget);
            let cost = self.costs[request.endpoint as usize];
            let charge = Charge::new(&self.throttle, subject, throttling.quota, cost);
            charges.push(charge.with_home_of(key.record));
        }
    }

    /// Returns the cost of a request, in requests.
    #[inline]
    pub(crate) fn cost_of(&self, request: &RequestLimits) -> u64 {
        self.costs[request.endpoint as usize]
    }

    /// Returns the cost of a request in each other unit that it takes in advance.
    #[inline]
    pub(crate) fn unit_costs_of(&self, request: &RequestLimits) -> &[(String, u64)] {
        if self.unit_costs.is_empty() {
            return &[];
        }
        let costs = self.unit_costs.get(&request.endpoint);
        costs.map_or(&[], Vec::as_slice)
    }

    /// Returns the number of units that a request takes in advance, with `requests`.
    pub(crate) fn counted_units(&self, request: &RequestLimits) -> usize {
        1 + self.unit_costs_of(request).len()
    }

    /// Returns the number of a unit among those that a request takes in advance, and how many it
    /// takes.
    pub(crate) fn counted_unit(&self, unit: &str, request: &RequestLimits) -> Option<(usize, u64)> {
        if unit == REQUESTS {
            return Some((0, self.cost_of(request)));
        }
        let mut costs = self.unit_costs_of(request).iter().zip(1..);
        let ((_, cost), number) = costs.find(|((name, _), _)| name == unit)?;
        Some((number, *cost))
    }

    /// Returns the application's own subject of the request that a rule counts by.
    fn subject<'a>(&self, rule: &Rule, request: &'a RequestLimits) -> Option<&'a str> {
        let name = rule.subject.as_ref()?;
        let at = self.subjects.iter().position(|subject| subject == name)?;
        request.subjects.as_ref()?.get(at)?.as_deref()
    }
}

/// Converts the index of an endpoint.
fn index(at: usize) -> u32 {
    u32::try_from(at).expect("fewer rules than memory could hold")
}

/// Converts the index of a plan. Validated limits have at most 65,535 plans.
fn plan_index(at: usize) -> u16 {
    u16::try_from(at).expect("fewer than 65,536 plans")
}
