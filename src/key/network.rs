//! Networks in CIDR notation that a key may be used from.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use crate::key::canonical::{canonical_address, canonical_network};

/// A network in CIDR notation, or one address: `10.0.0.0/8`, `2001:db8::/32`, `192.0.2.7`.
///
/// Decimal numbers have no leading zeros: `010.0.0.0/8` and `10.0.0.0/08` are refused, since some
/// parsers read `010` as eight.
///
/// Networks and addresses are compared in their canonical form, see
/// [`ClientAddress`](crate::http::ClientAddress#canonical-form). An IPv4 network that is written as
/// mapped IPv6 (`::ffff:10.0.0.0/104`) or behind the NAT64 prefix (`64:ff9b::808:800/120`) is the
/// IPv4 network. For NAT64, every address of the network must be globally reachable. Other networks
/// stay IPv6, and contain only addresses that stay IPv6 themselves: `64:ff9b::/96` does not contain
/// the clients behind a NAT64 gateway.
///
/// ```
/// use tower_api_key::key::Network;
///
/// let office: Network = "192.0.2.0/24".parse()?;
/// assert!(office.contains("192.0.2.200".parse().unwrap()));
/// assert!(office.contains("::ffff:192.0.2.200".parse().unwrap()));
/// # Ok::<(), tower_api_key::key::NetworkError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Network(IpNet);

impl Network {
    /// Returns whether the network contains the address. Mapped IPv4 addresses count as IPv4, and
    /// so do globally reachable ones behind NAT64.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&canonical_address(address))
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let network = parse(text).ok_or_else(|| NetworkError(text.to_owned()))?;
        Ok(Self(canonical_network(network)))
    }
}

impl From<IpAddr> for Network {
    fn from(address: IpAddr) -> Self {
        Self(canonical_address(address).into())
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// An error for a text that is neither a network in CIDR notation nor an IP address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a network: write it as 192.0.2.0/24, 2001:db8::/32 or one IP address, without \
     leading zeros in decimal numbers"
)]
pub struct NetworkError(String);

/// Parses an address, or an address and a prefix length after a slash.
///
/// `IpNet` accepts `010.0.0.0/8`. The address is therefore parsed by `IpAddr`, which accepts no
/// leading zeros in decimal numbers, no zone and no blanks.
fn parse(text: &str) -> Option<IpNet> {
    let Some((address, length)) = text.split_once('/') else {
        return text.parse::<IpAddr>().ok().map(IpNet::from);
    };
    let is_plain = length == "0" || !length.starts_with(['0', '+']);
    let length = is_plain.then(|| length.parse().ok())??;
    IpNet::new(address.parse().ok()?, length).ok()
}

/// The networks that a key may be used from: any, or those of a list.
///
/// ```
/// use tower_api_key::key::AllowedNetworks;
///
/// let office = AllowedNetworks::only(["192.0.2.0/24", "2001:db8::/32"])?;
/// assert!(office.allow(Some("192.0.2.7".parse().unwrap())));
/// assert!(!office.allow(Some("198.51.100.1".parse().unwrap())));
/// assert!(!office.allow(None)); // an address that is not known is not on a list
/// assert!(AllowedNetworks::any().allow(None));
/// # Ok::<(), tower_api_key::key::NetworkError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AllowedNetworks(Option<Box<[Network]>>);

impl AllowedNetworks {
    /// Allows any address. This is the default.
    pub const fn any() -> Self {
        Self(None)
    }

    /// Allows only these networks. An empty list allows no address.
    pub fn only<N: AsRef<str>>(
        networks: impl IntoIterator<Item = N>,
    ) -> Result<Self, NetworkError> {
        networks.into_iter().map(|n| n.as_ref().parse()).collect()
    }

    /// Returns the list, or `None` if any address is allowed.
    pub fn list(&self) -> Option<&[Network]> {
        self.0.as_deref()
    }

    /// Returns whether a client with this address may use the key. `None` is an unknown address.
    pub fn allow(&self, address: Option<IpAddr>) -> bool {
        match (&self.0, address) {
            (None, _) => true,
            (Some(list), Some(address)) => list.iter().any(|network| network.contains(address)),
            (Some(_), None) => false,
        }
    }
}

/// Collects a list. An empty list allows no address.
impl FromIterator<Network> for AllowedNetworks {
    fn from_iter<I: IntoIterator<Item = Network>>(networks: I) -> Self {
        Self(Some(networks.into_iter().collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn a_network_with_a_leading_zero_is_refused(
            octets: [u8; 4],
            at in 0..4usize,
            zeros in 1..4usize,
            length in 0..=32u8,
            form in 0..4usize,
        ) {
            let written = |padded: Option<usize>, zeros: &str, length: &str| {
                let decimal = |at: usize| match padded {
                    Some(padded) if padded == at => format!("{zeros}{}", octets[at]),
                    _ => octets[at].to_string(),
                };
                let v4 = [0, 1, 2, 3].map(decimal).join(".");
                match form {
                    0 => format!("{v4}/{length}"),
                    1 => v4,
                    2 => format!("::ffff:{v4}"),
                    _ => format!("64:ff9b::{v4}/{length}"),
                }
            };
            let (zeros, plain) = ("0".repeat(zeros), length.to_string());
            prop_assert!(written(None, "", &plain).parse::<Network>().is_ok());
            let padded = written(Some(at), &zeros, &plain);
            prop_assert!(padded.parse::<Network>().is_err(), "{padded}");
            if matches!(form, 0 | 3) {
                let padded = written(None, "", &format!("{zeros}{plain}"));
                prop_assert!(padded.parse::<Network>().is_err(), "{padded}");
            }
        }

        #[test]
        fn a_network_round_trips_through_text(bits: u128, v4: bool, length in 0..=128u8) {
            let bytes = bits.to_be_bytes();
            let short = bytes.first_chunk::<4>().copied().unwrap();
            let address = if v4 { IpAddr::from(short) } else { IpAddr::from(bytes) };
            let length = if v4 { length % 33 } else { length };
            let network: Network = format!("{address}/{length}").parse().unwrap();
            prop_assert!(network.contains(address));
            prop_assert_eq!(network.to_string().parse::<Network>(), Ok(network));
            let long = format!("{address}/{}", if v4 { 33 } else { 129 });
            prop_assert!(long.parse::<Network>().is_err(), "{long}");
        }
    }

    #[test]
    fn ipv4_mapped_addresses_and_networks_are_ipv4() {
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
    fn the_whole_of_ipv6_does_not_contain_ipv4() {
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
    fn an_invalid_network_is_named_in_the_error() {
        for bad in [
            "",
            "10.0.0.0/33",
            "10.0.0",
            "example.com",
            "10.0.0.1-10.0.0.9",
            "10.0.0.0/08",
            "10.0.0.0/00",
            "10.0.0.0/+8",
            "10.0.0.0/-8",
            "10.0.0.0/",
            "10.0.0.0/8/8",
            "10.0.0.0 /8",
            "10.0.0.0/ 8",
            " 10.0.0.0/8",
            "::1/064",
            "::ffff:010.0.0.1",
            "fe80::1%1",
            "fe80::1%eth0/64",
            "[::1]",
            "10/8",
            "0x0a.0.0.0/8",
        ] {
            let error = AllowedNetworks::only([bad]).unwrap_err();
            assert!(error.to_string().contains(&format!("{bad:?}")));
        }
    }
}
