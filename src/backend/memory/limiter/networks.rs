//! Budgets of networks, for addresses that have no budget of their own because memory is full.
//!
//! Whoever has many addresses can use up the memory for them. Everybody else is then counted with
//! the neighbours in their own network, and with those of a wider one where memory for those is
//! used up, too; never with everybody. Each width has memory of its own, so that many narrow
//! networks take none from the wide ones.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use arrayvec::ArrayVec;

use super::budget::Budget;
use super::hasher::Hasher;
use super::room::Room;
use crate::key::quota::Quota;
use crate::limit::charge::{Charge, Subject};
use crate::limit::instant::Nanos;
use crate::limit::ledger::Counted;
use crate::util::table::NoPlace;

/// How many widths of networks there are.
pub(super) const WIDTHS: usize = 4;

/// The widths in bits, narrowest first. There are hardly more than 2,000 of the last ones on the
/// Internet, so they find room also in the smallest memory.
const V4: [Option<u8>; WIDTHS] = [Some(24), None, Some(16), Some(8)];
const V6: [Option<u8>; WIDTHS] = [Some(56), Some(48), Some(32), Some(20)];

pub(super) struct Networks {
    widths: [Room; WIDTHS],
}

/// Where the budget of a network is, until room is made for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NetworkPlace {
    width: usize,
    at: usize,
}

impl Networks {
    /// Networks that use at most so many bytes.
    pub(super) fn new(bytes: usize) -> Self {
        Self {
            widths: std::array::from_fn(|_| Room::new(bytes / WIDTHS)),
        }
    }

    /// Returns how many budgets are remembered.
    pub(super) fn len(&self) -> usize {
        self.widths.iter().map(Room::len).sum()
    }

    /// Finds the budget of the network of this width around an address, if there is any.
    pub(super) fn find(
        &self,
        hasher: &Hasher,
        charge: &Charge<'_>,
        address: IpAddr,
        counted: u8,
    ) -> Option<NetworkPlace> {
        let is_it = |(width, _): &(usize, IpAddr)| *width == usize::from(counted);
        let (width, network) = wider(address).into_iter().find(is_it)?;
        let key = hasher.key(&charge.about(Subject::Address(network)));
        let at = self.widths[width].find(key)?;
        Some(NetworkPlace { width, at })
    }

    /// Finds or makes the budget of the narrowest network that there is room for, or says that
    /// there is none. A place that is found is as good as any that is made, unless
    /// [`NoPlace::Moved`].
    pub(super) fn find_or_make(
        &mut self,
        hasher: &Hasher,
        charge: &Charge<'_>,
        address: IpAddr,
        now: Nanos,
        taken: impl Fn(NetworkPlace) -> bool,
    ) -> Result<NetworkPlace, NoPlace> {
        for (width, network) in wider(address) {
            let key = hasher.key(&charge.about(Subject::Address(network)));
            let room = &mut self.widths[width];
            room.tidy(&charge.quota(), now);
            let is_taken = |at| taken(NetworkPlace { width, at });
            let found = room.find(key).map(Ok);
            match found.unwrap_or_else(|| room.make(key, &charge.quota(), now, is_taken)) {
                Ok(at) => return Ok(NetworkPlace { width, at }),
                Err(NoPlace::Moved) => return Err(NoPlace::Moved),
                Err(NoPlace::Full) => {}
            }
        }
        Err(NoPlace::Full)
    }

    /// Returns the budget at a place.
    pub(super) fn at(&mut self, place: NetworkPlace, quota: &Quota) -> Budget<'_> {
        let width = u8::try_from(place.width).unwrap_or_default();
        let budget = self.widths[place.width].at(place.at, quota);
        budget.counted_in(Counted::Network(width))
    }
}

/// Lists the networks around an address, narrowest first. The first address of a network is in it
/// as all others are: most sites use that first.
fn wider(address: IpAddr) -> ArrayVec<(usize, IpAddr), WIDTHS> {
    let network = |(width, bits): (usize, Option<u8>)| Some((width, masked(address, bits?)));
    let widths = match address {
        IpAddr::V4(_) => V4,
        IpAddr::V6(_) => V6,
    };
    widths.into_iter().enumerate().filter_map(network).collect()
}

fn masked(address: IpAddr, bits: u8) -> IpAddr {
    let bits = u32::from(bits);
    match address {
        IpAddr::V4(address) => {
            Ipv4Addr::from_bits(address.to_bits() & (u32::MAX << (32 - bits))).into()
        }
        IpAddr::V6(address) => {
            Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << (128 - bits))).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_falls_back_on_its_own_networks_only() {
        let networks = |address: &str| -> Vec<String> {
            let networks = wider(address.parse().unwrap()).into_iter();
            networks.map(|(_, network)| network.to_string()).collect()
        };
        let v4 = ["198.51.100.0", "198.51.0.0", "198.0.0.0"];
        assert_eq!(networks("198.51.100.7"), v4);
        let v6 = ["2001:db8:1:200::", "2001:db8:1::", "2001:db8::", "2001::"];
        assert_eq!(networks("2001:db8:1:203::"), v6);
        for first in ["2001:db8:1::", "2000::", "198.0.0.0"] {
            assert_eq!(
                networks(first).len(),
                if first.contains(':') { 4 } else { 3 }
            );
        }
    }
}
