//! Facts of a request that are derived at most once, on demand.

use std::borrow::Cow;
use std::cell::{Cell, OnceCell};
use std::net::IpAddr;

use crate::http::carriers::Carriers;
use crate::http::client_address::ClientAddress;
use crate::http::request_head::RequestHead;
use crate::key::record::KeyRecord;
use crate::limit::compiled_rules::{CompiledRules, RequestLimits};
use crate::limit::limits::Exemptions;
use crate::middleware::gate::Gate;
use crate::observe::{KeyLookup, RequestFacts};
use crate::util::clock::Now;
use crate::util::trace;

/// A request in the course of a decision: its head, the time of the decision, and the client's
/// address.
pub(super) struct Context<'r> {
    gate: &'r Gate,
    pub(super) head: RequestHead<'r>,
    now: OnceCell<Now>,
    client: OnceCell<Option<IpAddr>>,
    charged: OnceCell<Option<IpAddr>>,
    route: OnceCell<Cow<'r, str>>,
    lookup: Cell<KeyLookup>,
}

impl<'r> Context<'r> {
    pub(super) fn new(gate: &'r Gate, head: RequestHead<'r>) -> Self {
        Self {
            gate,
            head,
            now: OnceCell::new(),
            client: OnceCell::new(),
            charged: OnceCell::new(),
            route: OnceCell::new(),
            lookup: Cell::new(KeyLookup::None),
        }
    }

    /// Records how the key was looked up.
    pub(super) fn looked_up(&self, lookup: KeyLookup) {
        self.lookup.set(lookup);
    }

    /// Returns the readings of the wall clock and the monotonic clock.
    pub(super) fn now(&self) -> Now {
        *self.now.get_or_init(|| self.gate.shared.readings())
    }

    /// Returns the client's address; `None` if no trusted source tells it.
    pub(super) fn client(&self) -> Option<IpAddr> {
        *self.client.get_or_init(|| {
            let source = &self.gate.config.client_address;
            if source.ignores_forwarding(self.head) {
                let peer = ClientAddress::peer().of(self.head);
                trace::untrusted_forwarding(
                    &self.gate.shared.log_throttles.untrusted_forwarding,
                    peer,
                );
            }
            source.of(self.head)
        })
    }

    /// Returns the address that limits are charged to: the client's, or else the peer's. A header
    /// that tells no address grants no access, and exempts from no limit.
    pub(super) fn charged_address(&self) -> Option<IpAddr> {
        *self.charged.get_or_init(|| {
            let peer = || ClientAddress::peer().of(self.head);
            let charged = self.client().or_else(peer);
            if charged.is_none() {
                trace::no_address_for_limits(&self.gate.shared.log_throttles.no_address_for_limits);
            }
            charged
        })
    }

    /// Returns the facts that the limits need about the request. `key` is the request's key.
    pub(super) fn request_limits(&self, key: Option<&KeyRecord>) -> RequestLimits {
        let rules = self.gate.rules();
        let mut request_limits = self.bind(rules);
        if !rules.exemptions().is_empty() && self.is_exempt(rules.exemptions()) {
            request_limits = request_limits.exempt();
        }
        if !rules.subjects().is_empty() {
            let subjects = rules.subjects().iter();
            let subjects = subjects.map(|name| self.gate.shared.subject(name, self.head, key));
            request_limits = request_limits.with_subjects(subjects.collect());
        }
        request_limits
    }

    fn bind(&self, rules: &CompiledRules) -> RequestLimits {
        let needed = rules.need_address();
        let address = needed.then(|| self.charged_address()).flatten();
        if !rules.need_route() {
            return rules.bind_without_route(address);
        }
        let path = self.head.uri.path();
        rules.bind(self.head.method.as_str(), self.route(), path, address)
    }

    fn is_exempt(&self, exemptions: &Exemptions) -> bool {
        let method = self.head.method.as_str();
        if exemptions.methods.iter().any(|exempt| exempt == method) {
            return true;
        }
        // An unknown address is never exempt, even if the peer would be.
        let networks = &exemptions.networks;
        let is_in = |client| networks.iter().any(|network| network.contains(client));
        !networks.is_empty() && self.client().is_some_and(is_in)
    }

    fn route(&self) -> &str {
        self.route
            .get_or_init(|| self.gate.config.route.of(self.head))
    }
}

impl RequestFacts for Context<'_> {
    fn head(&self) -> RequestHead<'_> {
        self.head
    }

    fn now(&self) -> Now {
        Context::now(self)
    }

    fn client(&self) -> Option<IpAddr> {
        Context::client(self)
    }

    fn route(&self) -> &str {
        Context::route(self)
    }

    fn lookup(&self) -> KeyLookup {
        self.lookup.get()
    }

    fn has_key_in(&self, path: &str) -> bool {
        let formats = &self.gate.shared.formats;
        path.split('/')
            .any(|segment| formats.is_claimed_in(segment.as_bytes()))
    }

    fn parameters(&self, carriers: Carriers) -> Vec<&str> {
        self.gate.config.sources.parameters_in(carriers).collect()
    }
}
