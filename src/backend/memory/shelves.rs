//! Records in memory, with the orders that they are listed in.

use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;
use std::time::SystemTime;

use crate::key::digest::KeyId;
use crate::key::record::KeyRecord;
use crate::store::{KeyOrder, KeyUsage, ListedKey};

/// The orders that keys are listed in.
const ORDERS: [KeyOrder; 4] = [
    KeyOrder::Newest,
    KeyOrder::EndingSoon,
    KeyOrder::LeastRecentlyUsed,
    KeyOrder::RecentlyRevoked,
];

/// A place in an order: what it goes by, and the number of the key, which no other key has.
pub(super) type Place = (u64, u64);

/// Records by their ids and in each order, so that a page of a list costs the same at any depth.
#[derive(Default)]
pub(super) struct Shelves {
    keys: HashMap<KeyId, Kept>,
    ids: HashMap<u64, KeyId>,
    orders: [BTreeSet<Place>; ORDERS.len()],
    last: u64,
}

/// A record, and what is known beside it.
struct Kept {
    listed: ListedKey,
    /// The number that the key got when it was kept first.
    number: u64,
}

impl Shelves {
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    pub(super) fn get(&self, id: &KeyId) -> Option<&KeyRecord> {
        self.keys.get(id).map(|kept| &kept.listed.record)
    }

    /// Keeps a record, in the place of an older one of its key.
    pub(super) fn put(&mut self, record: KeyRecord) {
        let id = record.id();
        let kept = if let Some(mut kept) = self.keys.remove(&id) {
            self.leave_orders(&kept);
            kept.listed.record = record;
            kept
        } else {
            self.last += 1;
            self.ids.insert(self.last, id);
            Kept {
                listed: ListedKey::new(record),
                number: self.last,
            }
        };
        self.enter_orders(&kept);
        self.keys.insert(id, kept);
    }

    /// Notes uses of a key, if there is such a key.
    pub(super) fn note(&mut self, usage: &KeyUsage) {
        let Some(mut kept) = self.keys.remove(&usage.key) else {
            return;
        };
        self.leave_orders(&kept);
        let listed = &mut kept.listed;
        let first = listed.first_used_at;
        listed.first_used_at = first
            .min(Some(usage.first_used_at))
            .or(Some(usage.first_used_at));
        listed.last_used_at = listed.last_used_at.max(Some(usage.last_used_at));
        self.enter_orders(&kept);
        self.keys.insert(usage.key, kept);
    }

    /// Returns keys in an order, from after a place on.
    pub(super) fn list(
        &self,
        order: KeyOrder,
        after: Option<Place>,
    ) -> impl Iterator<Item = (Place, &ListedKey)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let places = self.orders[index(order)].range((from, Bound::Unbounded));
        places.filter_map(|place| {
            let id = self.ids.get(&place.1)?;
            Some((*place, &self.keys.get(id)?.listed))
        })
    }

    fn leave_orders(&mut self, kept: &Kept) {
        for (order, places) in ORDERS.iter().zip(&mut self.orders) {
            if let Some(place) = kept.place(*order) {
                places.remove(&place);
            }
        }
    }

    fn enter_orders(&mut self, kept: &Kept) {
        for (order, places) in ORDERS.iter().zip(&mut self.orders) {
            places.extend(kept.place(*order));
        }
    }
}

impl Kept {
    /// Returns the place of a key in an order that it belongs to.
    fn place(&self, order: KeyOrder) -> Option<Place> {
        let record = &self.listed.record;
        let by = match order {
            KeyOrder::Newest => u64::MAX - self.number,
            KeyOrder::EndingSoon => instant(record.expires_at()?),
            KeyOrder::LeastRecentlyUsed => self.listed.last_used_at.map_or(0, instant),
            KeyOrder::RecentlyRevoked => u64::MAX - instant(record.revoked()?.at),
        };
        Some((by, self.number))
    }
}

fn index(order: KeyOrder) -> usize {
    match order {
        KeyOrder::Newest => 0,
        KeyOrder::EndingSoon => 1,
        KeyOrder::LeastRecentlyUsed => 2,
        KeyOrder::RecentlyRevoked => 3,
    }
}

/// Returns the microseconds since 1970.
fn instant(at: SystemTime) -> u64 {
    let since = at
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
