//! Client networks: the addresses that count as one client.

use std::net::{IpAddr, Ipv6Addr};

use crate::key::canonical::canonical_address;

/// The length of the IPv6 prefix that identifies one client, in bits. Default: 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ipv6Prefix(pub(super) u8);

impl Default for Ipv6Prefix {
    fn default() -> Self {
        Self(64)
    }
}

impl Ipv6Prefix {
    /// Returns the network of an address. IPv4 addresses are not masked.
    pub(super) fn mask(self, address: IpAddr) -> IpAddr {
        match canonical_address(address) {
            IpAddr::V6(address) => {
                let mask = u128::MAX << (128 - u32::from(self.0));
                Ipv6Addr::from_bits(address.to_bits() & mask).into()
            }
            v4 @ IpAddr::V4(_) => v4,
        }
    }
}

/// Returns the network that counts as one client: an IPv4 address, or the /64 of an IPv6 address.
pub(crate) fn client_network(address: IpAddr) -> IpAddr {
    Ipv6Prefix::default().mask(address)
}
