//! Budgets of networks, for addresses without a budget of their own while memory is full.
//!
//! A client with many addresses can use up the memory for addresses. Other clients are then counted
//! with their neighbours in the same network, or in a wider network if the memory for the narrow
//! ones is used up, too. There is no budget for all addresses together. Each width has memory of
//! its own, so that many narrow networks take none from the wide ones.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use arrayvec::ArrayVec;

use super::budget::Budget;
use super::budget_table::BudgetTable;
use super::hasher::{BudgetKey, Hasher};
use super::shard::HasMoved;
use crate::key::quota::Quota;
use crate::limit::charge::{Charge, MAX_CHARGES, Subject};
use crate::limit::instant::Nanos;
use crate::limit::refund_note::BudgetOwner;

/// The number of widths of networks.
pub(super) const WIDTHS: usize = 4;

/// The prefix lengths in bits, narrowest network first. The Internet has hardly more than 2,000 of
/// the widest networks, so they fit into the smallest memory.
const V4: [Option<u8>; WIDTHS] = [Some(24), None, Some(16), Some(8)];
const V6: [Option<u8>; WIDTHS] = [Some(56), Some(48), Some(32), Some(20)];

/// The budgets of networks, by width.
pub(super) struct Networks {
    widths: [BudgetTable; WIDTHS],
}

/// The slot of a network's budget. It is valid until an insert moves budgets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NetworkSlot {
    width: usize,
    at: usize,
}

impl Networks {
    /// Creates memory of at most this number of bytes.
    pub(super) fn new(bytes: usize) -> Self {
        Self {
            widths: std::array::from_fn(|_| BudgetTable::new(bytes / WIDTHS)),
        }
    }

    /// Returns the number of budgets.
    pub(super) fn len(&self) -> usize {
        self.widths.iter().map(BudgetTable::len).sum()
    }

    /// Finds the budget of the network of this width around an address.
    pub(super) fn find(
        &self,
        hasher: &Hasher,
        charge: &Charge<'_>,
        address: IpAddr,
        wanted: u8,
    ) -> Option<NetworkSlot> {
        let is_it = |(width, _): &(usize, IpAddr)| *width == usize::from(wanted);
        let (width, network) = wider(address).into_iter().find(is_it)?;
        let key = hasher.key(&charge.about(Subject::Address(network)));
        let at = self.widths[width].find(key)?;
        Some(NetworkSlot { width, at })
    }

    /// Finds or inserts the budget of the narrowest network for which there is memory. Returns
    /// `None` if there is none. `keys` are the keys of the request's other budgets here, and the
    /// key of this one is added.
    pub(super) fn find_or_insert(
        &mut self,
        hasher: &Hasher,
        charge: &Charge<'_>,
        address: IpAddr,
        now: Nanos,
        keys: &mut ArrayVec<BudgetKey, MAX_CHARGES>,
    ) -> Option<(NetworkSlot, HasMoved)> {
        for (width, network) in wider(address) {
            let key = hasher.key(&charge.about(Subject::Address(network)));
            let budget_table = &mut self.widths[width];
            budget_table.tidy(&charge.quota(), now);
            let found = budget_table.find(key).map(|slot| (slot, false));
            let inserted = || {
                let inserted = budget_table.insert(key, &charge.quota(), now, keys)?;
                Some((inserted.slot, inserted.has_moved))
            };
            if let Some((at, has_moved)) = found.or_else(inserted) {
                keys.push(key);
                return Some((NetworkSlot { width, at }, HasMoved(has_moved)));
            }
        }
        None
    }

    /// Returns the budget in a slot.
    pub(super) fn at(&mut self, slot: NetworkSlot, quota: &Quota) -> Budget<'_> {
        let width = u8::try_from(slot.width).unwrap_or_default();
        let budget = self.widths[slot.width].at(slot.at, quota);
        budget.with_counted_in(BudgetOwner::Network(width))
    }
}

/// Returns the networks around an address, narrowest first. The first address of a network is not
/// special, since most sites use it first.
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
