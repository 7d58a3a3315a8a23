//! Where a key may be used from: networks in CIDR notation.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net};

/// A network in CIDR notation, or one address: `10.0.0.0/8`, `2001:db8::/32`, `192.0.2.7`.
///
/// An IPv4 network that is written as mapped IPv6 (`::ffff:10.0.0.0/104`) is the IPv4 network.
///
/// ```
/// use tower_api_key::Network;
///
/// let office: Network = "192.0.2.0/24".parse()?;
/// assert!(office.contains("192.0.2.200".parse().unwrap()));
/// assert!(office.contains("::ffff:192.0.2.200".parse().unwrap()));
/// # Ok::<(), tower_api_key::InvalidNetwork>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Network(IpNet);

impl Network {
    /// Whether the address lies in the network. A mapped IPv4 address counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }
}

impl FromStr for Network {
    type Err = InvalidNetwork;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let network = text
            .parse::<IpNet>()
            .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
            .map_err(|_| InvalidNetwork(text.to_owned()))?;
        Ok(Self(canonical(network).trunc()))
    }
}

impl From<IpAddr> for Network {
    fn from(address: IpAddr) -> Self {
        Self(address.to_canonical().into())
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Text that is neither a network in CIDR notation nor an IP address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a network: write it as 192.0.2.0/24, 2001:db8::/32 or one IP address")]
pub struct InvalidNetwork(String);

/// Mapped IPv6 (`::ffff:0:0/96` and narrower) as the IPv4 network that it stands for.
fn canonical(network: IpNet) -> IpNet {
    let IpNet::V6(v6) = network else {
        return network;
    };
    match (v6.addr().to_ipv4_mapped(), v6.prefix_len().checked_sub(96)) {
        (Some(address), Some(length)) => v4(address, length),
        _ => network,
    }
}

fn v4(address: Ipv4Addr, length: u8) -> IpNet {
    // A length within 96..=128 less 96 is within 0..=32; the bare address is the strict answer.
    Ipv4Net::new(address, length)
        .unwrap_or_else(|_| Ipv4Net::from(address))
        .into()
}

/// The networks that a key may be used from: any, or only those of a list.
///
/// ```
/// use tower_api_key::AllowedNetworks;
///
/// let office = AllowedNetworks::only(["192.0.2.0/24", "2001:db8::/32"])?;
/// assert!(office.allow(Some("192.0.2.7".parse().unwrap())));
/// assert!(!office.allow(Some("198.51.100.1".parse().unwrap())));
/// assert!(!office.allow(None)); // an address that is not known is not on a list
/// assert!(AllowedNetworks::any().allow(None));
/// # Ok::<(), tower_api_key::InvalidNetwork>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AllowedNetworks(Option<Box<[Network]>>);

impl AllowedNetworks {
    /// From anywhere: the default.
    pub const fn any() -> Self {
        Self(None)
    }

    /// Only from these networks. An empty list allows no address at all.
    pub fn only<N: AsRef<str>>(
        networks: impl IntoIterator<Item = N>,
    ) -> Result<Self, InvalidNetwork> {
        networks.into_iter().map(|n| n.as_ref().parse()).collect()
    }

    /// The list, or `None` if any address will do.
    pub fn list(&self) -> Option<&[Network]> {
        self.0.as_deref()
    }

    /// Whether a client of this address may use the key. `None` is an address that is not known.
    pub fn allow(&self, address: Option<IpAddr>) -> bool {
        match (&self.0, address) {
            (None, _) => true,
            (Some(list), Some(address)) => list.iter().any(|network| network.contains(address)),
            (Some(_), None) => false,
        }
    }
}

/// A list, which restricts also when it is empty.
impl FromIterator<Network> for AllowedNetworks {
    fn from_iter<I: IntoIterator<Item = Network>>(networks: I) -> Self {
        Self(Some(networks.into_iter().collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn mapped_addresses_are_ipv4_on_both_sides() {
        for network in ["10.0.0.0/8", "::ffff:10.0.0.0/104"] {
            let network: Network = network.parse().unwrap();
            assert_eq!(network.to_string(), "10.0.0.0/8");
            assert!(network.contains(ip("10.1.2.3")));
            assert!(network.contains(ip("::ffff:10.1.2.3")));
            assert!(!network.contains(ip("::ffff:11.1.2.3")));
            assert!(!network.contains(ip("::10.1.2.3"))); // compatible, not mapped
        }
        let loopback: Network = "0.0.0.0/8".parse().unwrap();
        assert!(!loopback.contains(ip("::1")));
    }

    #[test]
    fn all_of_ipv6_is_not_all_of_ipv4() {
        let v6: Network = "::/0".parse().unwrap();
        assert!(v6.contains(ip("2001:db8::1")));
        assert!(!v6.contains(ip("10.1.2.3")));
        assert!(!v6.contains(ip("::ffff:10.1.2.3")));
    }

    #[test]
    fn an_empty_list_allows_nobody() {
        let nobody = AllowedNetworks::only::<&str>([]).unwrap();
        assert!(!nobody.allow(Some(ip("10.0.0.1"))));
        assert!(!nobody.allow(None));
    }

    #[test]
    fn what_is_not_a_network_is_named() {
        for bad in [
            "",
            "10.0.0.0/33",
            "10.0.0",
            "example.com",
            "10.0.0.1-10.0.0.9",
        ] {
            let error = AllowedNetworks::only([bad]).unwrap_err();
            assert!(error.to_string().contains(&format!("{bad:?}")));
        }
    }
}
