//! Canonical forms of addresses and networks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};

/// The well-known NAT64 prefix, `64:ff9b::/96` (RFC 6052).
const NAT64: u128 = 0x64_ff9b << 96;
/// The bits of an IPv6 address that hold an embedded IPv4 address.
const EMBEDDED: u128 = u32::MAX as u128;

/// IPv4 networks without globally reachable addresses (the IANA registry of special purposes).
const NOT_GLOBAL: [Ipv4Net; 15] = [
    net([0, 0, 0, 0], 8),       // this network
    net([10, 0, 0, 0], 8),      // private
    net([100, 64, 0, 0], 10),   // shared by the customers of a carrier
    net([127, 0, 0, 0], 8),     // loopback
    net([169, 254, 0, 0], 16),  // link-local
    net([172, 16, 0, 0], 12),   // private
    net([192, 0, 0, 0], 24),    // protocol assignments
    net([192, 0, 2, 0], 24),    // documentation
    net([192, 88, 99, 0], 24),  // 6to4 relays, deprecated
    net([192, 168, 0, 0], 16),  // private
    net([198, 18, 0, 0], 15),   // benchmarking
    net([198, 51, 100, 0], 24), // documentation
    net([203, 0, 113, 0], 24),  // documentation
    net([224, 0, 0, 0], 4),     // multicast
    net([240, 0, 0, 0], 4),     // reserved, and broadcast
];

const fn net([a, b, c, d]: [u8; 4], length: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length)
}

/// Returns the canonical form of an address, which lists and limits compare: mapped IPv4 and a
/// globally reachable client behind NAT64 become IPv4; every other address is unchanged.
///
/// A private address behind the NAT64 prefix stays IPv6: no translator may write one (RFC 6052
/// §3.1), and a client that does must not match a list of private networks.
pub(crate) fn canonical_address(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => behind_nat64(v6)
            .filter(|v4| is_global(Ipv4Net::from(*v4)))
            .map_or(IpAddr::V6(v6), IpAddr::V4),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// Returns the IPv4 form of a network if the canonical forms of all its addresses are IPv4. Any
/// other network is unchanged.
pub(super) fn canonical_network(network: IpNet) -> IpNet {
    let network = network.trunc();
    let IpNet::V6(v6) = network else {
        return network;
    };
    let Some(length) = v6.prefix_len().checked_sub(96) else {
        return network;
    };
    let v4 = |address| Ipv4Net::new(address, length).ok();
    let mapped = v6.addr().to_ipv4_mapped().and_then(v4);
    let translated = || {
        behind_nat64(v6.addr())
            .and_then(v4)
            .filter(|net| is_global(*net))
    };
    mapped.or_else(translated).map_or(network, IpNet::V4)
}

fn behind_nat64(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let bits = address.to_bits();
    let embedded = u32::try_from(bits & EMBEDDED).ok()?;
    (bits & !EMBEDDED == NAT64).then(|| Ipv4Addr::from_bits(embedded))
}

/// Returns whether every address of a network is globally reachable.
fn is_global(network: Ipv4Net) -> bool {
    !NOT_GLOBAL
        .iter()
        .any(|special| special.contains(&network) || network.contains(special))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::network::Network;
    use proptest::prelude::*;

    fn nat64(v4: Ipv4Addr) -> IpAddr {
        Ipv6Addr::from_bits(NAT64 | u128::from(v4.to_bits())).into()
    }

    /// IPv4 addresses, and many of those at the edges of special networks.
    fn any_v4() -> impl Strategy<Value = Ipv4Addr> {
        let edge = (0..NOT_GLOBAL.len(), any::<bool>(), -1..=1i32).prop_map(|(at, last, step)| {
            let net = NOT_GLOBAL[at];
            let edge = if last { net.broadcast() } else { net.network() };
            Ipv4Addr::from_bits(edge.to_bits().wrapping_add_signed(step))
        });
        prop_oneof![any::<Ipv4Addr>(), edge]
    }

    /// Global by the ranges of the registry, written another way than above.
    fn is_global_by_octets(address: Ipv4Addr) -> bool {
        !matches!(
            address.octets(),
            [0 | 10 | 127 | 224..=255, ..]
                | [100, 64..=127, ..]
                | [169, 254, ..]
                | [172, 16..=31, ..]
                | [192, 0, 0 | 2, _]
                | [192, 88, 99, _]
                | [192, 168, ..]
                | [198, 18..=19, ..]
                | [198, 51, 100, _]
                | [203, 0, 113, _]
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn a_nat64_address_becomes_ipv4_if_it_is_global(v4 in any_v4()) {
            let expected = if is_global_by_octets(v4) { IpAddr::V4(v4) } else { nat64(v4) };
            prop_assert_eq!(canonical_address(nat64(v4)), expected);
            prop_assert_eq!(canonical_address(v4.to_ipv6_mapped().into()), IpAddr::V4(v4));
            prop_assert_eq!(canonical_address(v4.into()), IpAddr::V4(v4));
        }

        #[test]
        fn an_address_outside_the_nat64_prefix_is_unchanged(bits: u128, near: u8, v4: u32) {
            let beside = NAT64 ^ (1 << (32 + near % 96)) | u128::from(v4);
            for bits in [bits, beside] {
                let address = Ipv6Addr::from_bits(bits);
                prop_assume!(address.to_ipv4_mapped().is_none() && behind_nat64(address).is_none());
                prop_assert_eq!(canonical_address(address.into()), IpAddr::V6(address));
            }
        }

        #[test]
        fn list_membership_does_not_depend_on_the_form_of_an_address(
            v4 in any_v4(), entry in any_v4(), length in 0..=32u8, notation in 0..3usize,
        ) {
            let entry = [
                format!("{entry}/{length}"),
                format!("::ffff:{entry}/{}", 96 + length),
                format!("{}/{}", nat64(entry), 96 + length),
            ][notation].parse::<Network>().unwrap();
            for address in [v4.into(), v4.to_ipv6_mapped().into(), nat64(v4)] {
                let canonical = canonical_address(address);
                prop_assert_eq!(entry.contains(address), entry.contains(canonical));
                prop_assert_eq!(canonical_address(canonical), canonical);
                prop_assert!(Network::from(address).contains(address));
            }
            if !is_global_by_octets(v4) {
                // Nobody gets from IPv6 into a list of private IPv4 networks.
                prop_assert!(!entry.contains(nat64(v4)) || notation == 2);
            } else if notation < 2 {
                prop_assert_eq!(entry.contains(v4.into()), entry.contains(nat64(v4)));
            }
        }

        #[test]
        fn a_nat64_list_entry_becomes_ipv4_if_the_whole_network_is_global(
            entry in any_v4(), length in 8..=32u8,
        ) {
            let network: Network = format!("{}/{}", nat64(entry), 96 + length).parse().unwrap();
            let v4 = Ipv4Net::new(entry, length).unwrap().trunc();
            let samples = [v4.network(), entry, v4.broadcast()];
            let edges = NOT_GLOBAL.iter().flat_map(|net| [net.network(), net.broadcast()]);
            let inside = edges.filter(|edge| v4.contains(edge));
            let all_global = samples.into_iter().chain(inside).all(is_global_by_octets);
            let as_written = format!("{}/{}", nat64(v4.network()), 96 + length);
            let expected = if all_global { v4.to_string() } else { as_written };
            prop_assert_eq!(network.to_string(), expected.parse::<IpNet>().unwrap().to_string());
        }
    }
}
