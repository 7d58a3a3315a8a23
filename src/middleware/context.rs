//! Facts of a request that are derived once, when somebody asks.

use std::borrow::Cow;
use std::cell::{Cell, OnceCell};
use std::net::IpAddr;

use crate::http::carriers::Carriers;
use crate::http::client_address::ClientAddress;
use crate::http::request_head::RequestHead;
use crate::key::record::KeyRecord;
use crate::limit::rulebook::{Bound, Rulebook};
use crate::limit::rules::Exemptions;
use crate::middleware::gate::Gate;
use crate::observe::{KeyLookup, RequestFacts};
use crate::util::clock::Now;
use crate::util::trace;

/// A request as the path sees it: its head, the instant that it is judged by, and its client's
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
    #[inline]
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

    /// Notes how the key was looked up.
    #[inline]
    pub(super) fn looked_up(&self, how: KeyLookup) {
        self.lookup.set(how);
    }

    /// Returns both clock readings: the wall clock's and the monotonic one's.
    #[inline]
    pub(super) fn now(&self) -> Now {
        *self.now.get_or_init(|| self.gate.keyring.readings())
    }

    /// Returns the client's address, as far as it can be trusted.
    pub(super) fn client(&self) -> Option<IpAddr> {
        *self.client.get_or_init(|| {
            let source = &self.gate.config.client_address;
            if source.ignores_forwarding(self.head) {
                let peer = ClientAddress::peer().of(self.head);
                trace::untrusted_forwarding(&self.gate.keyring.notices.untrusted_forwarding, peer);
            }
            source.of(self.head)
        })
    }

    /// Returns the address that limits go by: the client's, or else the peer's. A header that tells
    /// no address grants no access, and exempts from no limit.
    pub(super) fn charged_address(&self) -> Option<IpAddr> {
        *self.charged.get_or_init(|| {
            let peer = || ClientAddress::peer().of(self.head);
            let charged = self.client().or_else(peer);
            if charged.is_none() {
                trace::no_address_for_limits(&self.gate.keyring.notices.no_address_for_limits);
            }
            charged
        })
    }

    /// Returns what the limits must know of the request, which has this key.
    #[inline]
    pub(super) fn bound(&self, key: Option<&KeyRecord>) -> Bound {
        let rules = self.gate.rules();
        let mut bound = self.place(rules);
        if !rules.exemptions().is_empty() && self.is_exempt(rules.exemptions()) {
            bound = bound.exempt();
        }
        if !rules.subjects().is_empty() {
            let subjects = rules.subjects().iter();
            let subjects = subjects.map(|name| self.gate.keyring.subject(name, self.head, key));
            bound = bound.with_subjects(subjects.collect());
        }
        bound
    }

    #[inline]
    fn place(&self, rules: &Rulebook) -> Bound {
        let needed = rules.need_address();
        let address = needed.then(|| self.charged_address()).flatten();
        if !rules.need_route() {
            return rules.bind_nowhere(address);
        }
        let path = self.head.uri.path();
        rules.bind(self.head.method.as_str(), self.route(), path, address)
    }

    fn is_exempt(&self, exemptions: &Exemptions) -> bool {
        let method = self.head.method.as_str();
        if exemptions.methods.iter().any(|exempt| exempt == method) {
            return true;
        }
        // An address that is not known is exempt from nothing, whoever the peer is.
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
        let formats = &self.gate.keyring.formats;
        path.split('/')
            .any(|segment| formats.is_claimed_in(segment.as_bytes()))
    }

    fn parameters(&self, carriers: Carriers) -> Vec<&str> {
        self.gate.config.sources.parameters_in(carriers).collect()
    }
}
