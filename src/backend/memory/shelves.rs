//! Records in memory, with the orders that they are listed in.

use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;
use std::time::SystemTime;

use crate::key::digest::KeyId;
use crate::key::record::KeyRecord;
use crate::store::{KeyOrder, ListedKey};

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
    /// The microsecond that the key is listed by as long as it is kept.
    listed_at: u64,
}

impl Shelves {
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    pub(super) fn get(&self, id: &KeyId) -> Option<&KeyRecord> {
        self.keys.get(id).map(|kept| &kept.listed.record)
    }

    /// Keeps a record at an instant, in the place of an older one of its key.
    pub(super) fn put(&mut self, record: KeyRecord, at: SystemTime) {
        let id = record.id();
        let kept = if let Some(mut kept) = self.keys.remove(&id) {
            self.leave_orders(&kept);
            kept.listed.record = record;
            kept
        } else {
            self.last += 1;
            self.ids.insert(self.last, id);
            Kept {
                listed_at: instant(record.created_at().unwrap_or(at)),
                listed: ListedKey::new(record),
                number: self.last,
            }
        };
        self.enter_orders(&kept);
        self.keys.insert(id, kept);
    }

    /// Notes uses of a key, if there is such a key. They move it in one order only.
    pub(super) fn note(&mut self, key: &KeyId, first: SystemTime, last: SystemTime) {
        const ORDER: KeyOrder = KeyOrder::LeastRecentlyUsed;
        let Some(kept) = self.keys.get_mut(key) else {
            return;
        };
        let before = kept.place(ORDER);
        let listed = &mut kept.listed;
        listed.first_used_at = Some(listed.first_used_at.map_or(first, |at| at.min(first)));
        listed.last_used_at = listed.last_used_at.max(Some(last));
        let after = kept.place(ORDER);
        if before != after {
            let places = &mut self.orders[index(ORDER)];
            before.map(|place| places.remove(&place));
            places.extend(after);
        }
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
            KeyOrder::Newest => u64::MAX - self.listed_at,
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
