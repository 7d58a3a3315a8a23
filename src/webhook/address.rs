//! Public addresses, as an allow-list.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

/// The IPv4 addresses that are not global: IANA's registry of special purposes, multicast, and one
/// more.
const SPECIAL_V4: [Ipv4Net; 16] = [
    v4([0, 0, 0, 0], 8),        // this host
    v4([10, 0, 0, 0], 8),       // private
    v4([100, 64, 0, 0], 10),    // behind a carrier's NAT
    v4([127, 0, 0, 0], 8),      // loopback
    v4([168, 63, 129, 16], 32), // global, but in Azure it is the machine's own host
    v4([169, 254, 0, 0], 16),   // link-local, and the metadata of clouds
    v4([172, 16, 0, 0], 12),    // private
    v4([192, 0, 0, 0], 24),     // protocol assignments
    v4([192, 0, 2, 0], 24),     // documentation
    v4([192, 88, 99, 0], 24),   // relays of 6to4
    v4([192, 168, 0, 0], 16),   // private
    v4([198, 18, 0, 0], 15),    // benchmarks
    v4([198, 51, 100, 0], 24),  // documentation
    v4([203, 0, 113, 0], 24),   // documentation
    v4([224, 0, 0, 0], 4),      // multicast
    v4([240, 0, 0, 0], 4),      // reserved, and broadcast
];

/// The only IPv6 addresses that are global unicast.
const GLOBAL_V6: Ipv6Net = v6([0x2000, 0, 0], 3);

/// The exceptions in it.
const SPECIAL_V6: [Ipv6Net; 4] = [
    v6([0x2001, 0, 0], 23), // protocol assignments, such as Teredo, which embeds IPv4
    v6([0x2001, 0xdb8, 0], 32), // documentation
    v6([0x2002, 0, 0], 16), // 6to4, which embeds IPv4
    v6([0x3fff, 0, 0], 20), // documentation
];

/// Returns whether an address is a public one, of the internet.
///
/// This is an allow-list: an IPv6 address is public only in `2000::/3`, so no address that embeds
/// a private IPv4 address in a way of its own is (NAT64, IPv4-mapped, 6to4, Teredo).
///
/// ```
/// use std::net::{IpAddr, Ipv4Addr};
/// use tower_api_key::webhook::is_public;
///
/// assert!(is_public(IpAddr::from([9, 9, 9, 9])));
/// assert!(!is_public(IpAddr::from([169, 254, 169, 254])));
/// assert!(!is_public(Ipv4Addr::LOCALHOST.to_ipv6_mapped().into()));
/// ```
pub fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => !SPECIAL_V4.iter().any(|net| net.contains(&address)),
        IpAddr::V6(address) => {
            GLOBAL_V6.contains(&address) && !SPECIAL_V6.iter().any(|net| net.contains(&address))
        }
    }
}

const fn v4(address: [u8; 4], prefix: u8) -> Ipv4Net {
    let [a, b, c, d] = address;
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(beginning: [u16; 3], prefix: u8) -> Ipv6Net {
    let [a, b, c] = beginning;
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0), prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(addresses: &[&str], are_public: bool) {
        for address in addresses {
            assert_eq!(is_public(address.parse().unwrap()), are_public, "{address}");
        }
    }

    #[test]
    fn addresses_of_the_internet_are_public() {
        all(
            &[
                "1.1.1.1",
                "8.8.8.8",
                "9.255.255.255",
                "11.0.0.0",
                "100.63.255.255",
                "100.128.0.0",
                "126.255.255.255",
                "128.0.0.0",
                "168.63.129.15",
                "169.253.255.255",
                "169.255.0.0",
                "172.15.255.255",
                "172.32.0.0",
                "192.0.1.0",
                "192.0.3.0",
                "192.88.98.255",
                "192.88.100.0",
                "192.167.255.255",
                "192.169.0.0",
                "198.17.255.255",
                "198.20.0.0",
                "198.51.99.255",
                "198.51.101.0",
                "203.0.112.255",
                "203.0.114.0",
                "223.255.255.255",
                "2000::1",
                "2001:200::",
                "2001:4860:4860::8888",
                "2001:db7:ffff::",
                "2001:db9::",
                "2003::1",
                "2606:4700:4700::1111",
                "3ffe:ffff::1",
                "3fff:1000::",
                "::ffff:9.9.9.9",
            ],
            true,
        );
    }

    #[test]
    fn private_networks_are_not_public() {
        all(
            &[
                "10.0.0.0",
                "10.255.255.255",
                "172.16.0.0",
                "172.31.255.255",
                "192.168.0.0",
                "192.168.255.255",
                "100.64.0.0",
                "100.100.100.200",
                "100.127.255.255",
                "fc00::",
                "fd00:ec2::254",
                "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            ],
            false,
        );
    }

    #[test]
    fn the_machine_and_its_link_are_not_public() {
        all(
            &[
                "0.0.0.0",
                "0.255.255.255",
                "127.0.0.0",
                "127.0.0.1",
                "127.255.255.255",
                "168.63.129.16",
                "169.254.0.0",
                "169.254.169.254",
                "169.254.255.255",
                "::",
                "::1",
                "fe80::",
                "fe80::1",
                "febf:ffff::",
                "fec0::1",
            ],
            false,
        );
    }

    #[test]
    fn reserved_addresses_are_not_public() {
        all(
            &[
                "192.0.0.0",
                "192.0.0.192",
                "192.0.0.255",
                "192.0.2.0",
                "192.0.2.255",
                "198.51.100.0",
                "198.51.100.255",
                "203.0.113.0",
                "203.0.113.255",
                "192.88.99.0",
                "192.88.99.255",
                "198.18.0.0",
                "198.19.255.255",
                "224.0.0.0",
                "239.255.255.255",
                "240.0.0.0",
                "255.255.255.254",
                "255.255.255.255",
                "100::",
                "100::1",
                "1fff:ffff::",
                "2001::1",
                "2001:1ff:ffff::",
                "2001:db8::",
                "2001:db8:ffff::1",
                "3fff::",
                "3fff:fff:ffff::",
                "4000::",
                "5f00::",
                "5f00::1",
                "ff02::1",
                "ff0e::1",
            ],
            false,
        );
    }

    #[test]
    fn an_address_that_embeds_another_is_not_public() {
        all(
            &[
                "::127.0.0.1",
                "::ffff:7f00:1",
                "::ffff:127.0.0.1",
                "::ffff:10.0.0.1",
                "::ffff:169.254.169.254",
                "::ffff:0:127.0.0.1",
                "64:ff9b::",
                "64:ff9b::7f00:1",
                "64:ff9b::1.1.1.1",
                "64:ff9b:1::",
                "64:ff9b:1::a00:1",
                "2001:0:7f00:1::",
                "2002::",
                "2002:7f00:1::",
                "2002:a00:1::1",
                "2002:ffff:ffff::",
            ],
            false,
        );
    }
}
