//! The address of the client, found through trusted proxies.

mod forwarded;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU8;
use std::sync::Arc;

use http::header::FORWARDED;
use http::{Extensions, HeaderMap};

use crate::http::client_address::forwarded::{Forwarding, X_FORWARDED_FOR};
use crate::http::framework;
use crate::http::request_head::RequestHead;
use crate::key::canonical::canonical_address;
use crate::key::network::{Network, NetworkError};

/// The address at the other end of the connection, in a request's extensions.
///
/// The address that tonic (`TcpConnectInfo`, feature `tonic`) or axum (`ConnectInfo<SocketAddr>`,
/// feature `axum`) notes is found automatically. axum notes the address only if it is served with
/// `app.into_make_service_with_connect_info::<SocketAddr>()`. With any other server, insert
/// `PeerAddr`. Without an address, keys with an allow-list are refused, and a warning is logged
/// once.
///
/// ```
/// use tower_api_key::http::PeerAddr;
///
/// # let mut request = http::Request::new(());
/// # let remote = std::net::SocketAddr::from(([127, 0, 0, 1], 4711));
/// request.extensions_mut().insert(PeerAddr(remote));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerAddr(pub SocketAddr);

/// The way in which the client's address is found. The default is the address of the peer.
///
/// The address decides whether a key with an allow-list may be used, and which client is charged by
/// limits by address ([`Limits::per_ip`]) and for [failed attempts].
///
/// Behind a proxy, the peer is the proxy, and the client's address is in a header to which the
/// proxy appended it. Only the application knows which entries its proxies wrote: configure them
/// with [`TrustedProxies`]. With none or too few trusted proxies, a proxy is taken for the client,
/// and all clients share its limits. With too many, clients can choose their address.
///
/// If a header tells no address, keys with an allow-list are refused, and the peer is charged.
/// Clients that send such a header share the limits of the peer.
///
/// # Canonical form
///
/// Each address has one canonical form, so that no other notation gets a client into or out of a
/// list or a limit. [`Network`] and limits by address use the same form.
///
/// - IPv4 that is mapped into IPv6 (`::ffff:192.0.2.1`) is IPv4.
/// - An address of the NAT64 prefix (`64:ff9b::/96`, RFC 6052) is the IPv4 client behind it, if
///   that client is globally reachable. Other addresses of the prefix (private, loopback,
///   link-local, shared, documentation, benchmarking, multicast, reserved) stay IPv6: no translator
///   writes them, and they are in no list of private networks.
/// - Decimal numbers have no leading zeros, and an address has no zone: a hop `010.0.0.1` or
///   `fe80::1%1` tells no address.
///
/// Empty elements of a list in a header (`203.0.113.7,`) are no hops.
///
/// [`Network`]: crate::key::Network
/// [`Limits::per_ip`]: crate::Limits::per_ip
/// [failed attempts]: crate::ApiKeysBuilder::failed_attempts
///
/// ```
/// use tower_api_key::http::{ClientAddress, TrustedProxies};
/// use tower_api_key::ApiKeys;
///
/// let keys = ApiKeys::in_memory();
/// let layer = keys.layer().client_address(ClientAddress::x_forwarded_for(
///     TrustedProxies::networks(["10.0.0.0/8"])?,
/// ));
/// # Ok::<(), tower_api_key::key::NetworkError>(())
/// ```
#[derive(Clone)]
pub struct ClientAddress(AddressSource);

type FindAddress = dyn Fn(RequestHead<'_>) -> Option<IpAddr> + Send + Sync;

#[derive(Clone)]
enum AddressSource {
    Peer,
    Header(Forwarding, TrustedProxies),
    Function(Arc<FindAddress>),
}

impl ClientAddress {
    /// Uses the address at the other end of the connection, and ignores headers.
    pub const fn peer() -> Self {
        Self(AddressSource::Peer)
    }

    /// Uses the address that the outermost trusted proxy wrote into `X-Forwarded-For`.
    pub const fn x_forwarded_for(trusted: TrustedProxies) -> Self {
        Self(AddressSource::Header(Forwarding::XForwardedFor, trusted))
    }

    /// Uses the address that the outermost trusted proxy wrote into `Forwarded` (RFC 7239).
    pub const fn forwarded(trusted: TrustedProxies) -> Self {
        Self(AddressSource::Header(Forwarding::Forwarded, trusted))
    }

    /// Uses a function of the application, for example for a header that its platform sets and
    /// clients cannot.
    ///
    /// If the function returns `None`, the address is not known: keys with an allow-list are
    /// refused, and limits by address charge the peer. The function may be called several times for
    /// one request, and must return the same address each time.
    pub fn from_fn(
        find: impl Fn(RequestHead<'_>) -> Option<IpAddr> + Send + Sync + 'static,
    ) -> Self {
        Self(AddressSource::Function(Arc::new(find)))
    }

    /// Returns the client's address in [canonical form](Self#canonical-form), or `None` if no
    /// trusted source tells it.
    pub fn of<'r>(&self, request: impl Into<RequestHead<'r>>) -> Option<IpAddr> {
        let head = request.into();
        let peer = || peer(head.extensions);
        match &self.0 {
            AddressSource::Peer => peer(),
            AddressSource::Header(header, trusted) => trusted.client(*header, head.headers, peer()),
            AddressSource::Function(find) => find(head).map(canonical_address),
        }
    }

    /// Returns whether the request has a forwarding header that is ignored: all are, or the peer is
    /// not a trusted proxy.
    pub(crate) fn ignores_forwarding(&self, head: RequestHead<'_>) -> bool {
        let headers = head.headers;
        let is_there = headers.contains_key(X_FORWARDED_FOR) || headers.contains_key(FORWARDED);
        is_there
            && match &self.0 {
                AddressSource::Peer => true,
                AddressSource::Header(_, TrustedProxies(Trust::Networks(networks))) => {
                    let peer = Self::peer().of(head);
                    peer.is_some_and(|peer| !networks.iter().any(|it| it.contains(peer)))
                }
                AddressSource::Header(..) | AddressSource::Function(_) => false,
            }
    }
}

impl Default for ClientAddress {
    fn default() -> Self {
        Self::peer()
    }
}

impl fmt::Debug for ClientAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            AddressSource::Peer => f.write_str("Peer"),
            AddressSource::Header(header, trusted) => f
                .debug_tuple("Header")
                .field(header)
                .field(trusted)
                .finish(),
            AddressSource::Function(_) => f.write_str("Function"),
        }
    }
}

/// The proxies whose forwarding headers are believed.
#[derive(Debug, Clone)]
pub struct TrustedProxies(Trust);

#[derive(Debug, Clone)]
enum Trust {
    Count(NonZeroU8),
    Networks(Box<[Network]>),
}

impl TrustedProxies {
    /// Trusts a fixed number of proxies, each of which appends to the header the address that it
    /// was connected from. The client is the entry with this number, counted from the right: with
    /// one proxy the last entry, with two the second to last.
    ///
    /// | header | `count(1)` | `count(2)` |
    /// |---|---|---|
    /// | `203.0.113.9, 198.51.100.2` | `198.51.100.2` | `203.0.113.9` |
    /// | `203.0.113.9` | `203.0.113.9` | not known |
    ///
    /// The peer's address is ignored, so `count` also works behind a Unix socket.
    ///
    /// Danger: if the number is too high, clients can choose their address, since they can write
    /// the entries before those of the proxies. They can do so as well if the service can be
    /// reached without passing the proxies.
    pub const fn count(proxies: NonZeroU8) -> Self {
        Self(Trust::Count(proxies))
    }

    /// Trusts all proxies in these networks, or at these addresses.
    ///
    /// A peer outside of the networks is itself the client, and a warning that its header is
    /// ignored is logged once. If a trusted proxy sends no header, or does not tell an address, the
    /// client's address is unknown.
    ///
    /// With nginx: `proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;`.
    pub fn networks<N: AsRef<str>>(
        networks: impl IntoIterator<Item = N>,
    ) -> Result<Self, NetworkError> {
        let networks = networks.into_iter().map(|network| network.as_ref().parse());
        networks.collect::<Result<Self, _>>()
    }

    /// Trusts a proxy on the same machine: peers in `127.0.0.0/8` and `::1`.
    ///
    /// ```
    /// use tower_api_key::http::{ClientAddress, TrustedProxies};
    /// use tower_api_key::ApiKeys;
    ///
    /// let nginx = ClientAddress::x_forwarded_for(TrustedProxies::loopback());
    /// let layer = ApiKeys::in_memory().layer().client_address(nginx);
    /// ```
    #[expect(clippy::missing_panics_doc, reason = "these are networks")]
    pub fn loopback() -> Self {
        Self::networks(["127.0.0.0/8", "::1"]).expect("these are networks")
    }

    fn client(
        &self,
        header: Forwarding,
        headers: &HeaderMap,
        peer: Option<IpAddr>,
    ) -> Option<IpAddr> {
        match &self.0 {
            Trust::Count(count) => {
                let hops = header.nearest_first(headers)?;
                hops.get(usize::from(count.get()) - 1).copied().flatten()
            }
            Trust::Networks(networks) => {
                let is_trusted = |address| networks.iter().any(|network| network.contains(address));
                let mut client = peer?;
                if !is_trusted(client) {
                    return Some(client);
                }
                let hops = header.nearest_first(headers)?;
                if hops.is_empty() {
                    return None; // a trusted proxy that names no client
                }
                for hop in hops {
                    client = hop?; // a trusted proxy that does not know its client
                    if !is_trusted(client) {
                        break;
                    }
                }
                Some(client)
            }
        }
    }
}

/// Collects networks, as for [`TrustedProxies::networks`].
impl FromIterator<Network> for TrustedProxies {
    fn from_iter<I: IntoIterator<Item = Network>>(networks: I) -> Self {
        Self(Trust::Networks(networks.into_iter().collect()))
    }
}

fn peer(extensions: &Extensions) -> Option<IpAddr> {
    let inserted = extensions.get::<PeerAddr>().map(|peer| peer.0);
    let address = inserted.or_else(|| framework::peer(extensions))?;
    Some(canonical_address(address.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    fn request(peer: Option<&str>, forwarded_for: &[&str]) -> Request<()> {
        let mut request = Request::new(());
        if let Some(peer) = peer {
            let address = SocketAddr::new(peer.parse().unwrap(), 4711);
            request.extensions_mut().insert(PeerAddr(address));
        }
        for line in forwarded_for {
            request
                .headers_mut()
                .append(X_FORWARDED_FOR, line.parse().unwrap());
        }
        request
    }

    #[expect(clippy::unnecessary_wraps, reason = "expected as it is found")]
    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn forwarding_headers_are_ignored_by_default() {
        let address = ClientAddress::default();
        assert_eq!(
            address.of(&request(Some("192.0.2.1"), &["10.0.0.1"])),
            ip("192.0.2.1")
        );
        assert_eq!(
            address.of(&request(Some("::ffff:192.0.2.1"), &[])),
            ip("192.0.2.1")
        );
        assert_eq!(address.of(&request(None, &["10.0.0.1"])), None);
        assert!(address.ignores_forwarding((&request(None, &["10.0.0.1"])).into()));
        assert!(!address.ignores_forwarding((&request(None, &[])).into()));
    }

    #[test]
    fn loopback_trusts_every_loopback_address_and_no_other() {
        let nginx = ClientAddress::x_forwarded_for(TrustedProxies::loopback());
        for peer in ["127.0.0.1", "127.0.0.53", "::1", "::ffff:127.0.0.1"] {
            let request = request(Some(peer), &["203.0.113.9"]);
            assert_eq!(nginx.of(&request), ip("203.0.113.9"), "{peer}");
            assert!(!nginx.ignores_forwarding((&request).into()));
        }
        let untrusted = request(Some("192.0.2.1"), &["203.0.113.9"]);
        assert_eq!(nginx.of(&untrusted), ip("192.0.2.1"));
        assert!(nginx.ignores_forwarding((&untrusted).into()));
        let silent = request(Some("192.0.2.1"), &[]);
        assert!(!nginx.ignores_forwarding((&silent).into()));
    }

    #[test]
    fn a_proxy_count_is_taken_from_the_right() {
        let behind = |count| {
            let count = NonZeroU8::new(count).unwrap();
            ClientAddress::x_forwarded_for(TrustedProxies::count(count))
        };
        let spoofed = request(Some("10.0.0.1"), &["6.6.6.6, 203.0.113.9", "10.0.0.2"]);
        assert_eq!(behind(1).of(&spoofed), ip("10.0.0.2"));
        assert_eq!(behind(2).of(&spoofed), ip("203.0.113.9"));
        assert_eq!(behind(4).of(&spoofed), None); // one proxy less than promised: came around them
        assert_eq!(behind(1).of(&request(Some("10.0.0.1"), &[])), None);
    }

    #[test]
    fn hops_in_trusted_networks_are_skipped_from_the_right() {
        let networks = TrustedProxies::networks(["10.0.0.0/8", "2001:db8::/32"]).unwrap();
        let address = ClientAddress::x_forwarded_for(networks);
        let of = |peer, lines: &[&str]| address.of(&request(peer, lines));
        assert_eq!(
            of(Some("10.0.0.1"), &["6.6.6.6, 203.0.113.9, 10.0.0.2"]),
            ip("203.0.113.9")
        );
        assert_eq!(
            of(Some("::ffff:10.0.0.1"), &["203.0.113.9"]),
            ip("203.0.113.9")
        );
        assert_eq!(
            of(Some("198.51.100.1"), &["203.0.113.9"]),
            ip("198.51.100.1")
        );
        assert_eq!(of(Some("10.0.0.1"), &[]), None); // a proxy that does not tell
        assert_eq!(
            of(Some("10.0.0.1"), &["10.0.0.3, 10.0.0.2"]),
            ip("10.0.0.3")
        );
        assert_eq!(
            of(Some("10.0.0.1"), &["203.0.113.9, unknown, 10.0.0.2"]),
            None
        );
        assert_eq!(of(None, &["203.0.113.9"]), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn an_address_is_canonical_from_every_source(v4: [u8; 4]) {
            let v4 = Ipv4Addr::from(v4);
            let hop = format!("64:ff9b::{v4}");
            let expected = Some(canonical_address(hop.parse().unwrap()));
            let count = || TrustedProxies::count(NonZeroU8::MIN);
            let mut request = request(Some(&hop), &[&hop]);
            let element = format!("for=\"[{hop}]\"").parse().unwrap();
            request.headers_mut().insert(FORWARDED, element);
            for address in [
                ClientAddress::peer(),
                ClientAddress::x_forwarded_for(count()),
                ClientAddress::forwarded(count()),
                ClientAddress::from_fn(move |_| hop.parse().ok()),
            ] {
                prop_assert_eq!(address.of(&request), expected);
            }
        }

        #[test]
        fn empty_elements_do_not_count_as_proxies(
            before in "[ ,\t]{0,6}", between in "[ \t]*,[ ,\t]{0,6}", after in "(,[ ,\t]{0,6})?",
            blank in "[ ,\t]{0,6}", is_one_line: bool,
        ) {
            let client = format!("{before}203.0.113.9{between}");
            let proxy = format!("10.0.0.2{after}");
            let line = format!("{client}{proxy}");
            let apart = [client.as_str(), &blank, &proxy];
            let lines = if is_one_line { &[line.as_str(), &blank][..] } else { &apart };
            let request = request(Some("10.0.0.1"), lines);
            let of = |trusted| ClientAddress::x_forwarded_for(trusted).of(&request);
            let count = |count| TrustedProxies::count(NonZeroU8::new(count).unwrap());
            prop_assert_eq!(of(count(1)), ip("10.0.0.2"));
            prop_assert_eq!(of(count(2)), ip("203.0.113.9"));
            prop_assert_eq!(of(count(3)), None);
            let networks = TrustedProxies::networks(["10.0.0.0/8"]).unwrap();
            prop_assert_eq!(of(networks), ip("203.0.113.9"));
        }
    }

    #[test]
    fn an_application_can_supply_the_client_address() {
        let address = ClientAddress::from_fn(|request| {
            request
                .headers
                .get("cf-connecting-ip")?
                .to_str()
                .ok()?
                .parse()
                .ok()
        });
        let mut request = request(Some("10.0.0.1"), &[]);
        assert_eq!(address.of(&request), None);
        request
            .headers_mut()
            .insert("cf-connecting-ip", "::ffff:192.0.2.1".parse().unwrap());
        assert_eq!(address.of(&request), ip("192.0.2.1"));
    }
}
