//! A table of records, with an index for each order of lists.

use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;
use std::time::SystemTime;

use crate::key::digest::KeyId;
use crate::key::record::KeyRecord;
use crate::store::{KeyOrder, ListedKey};

/// The orders of lists.
const ORDERS: [KeyOrder; 4] = [
    KeyOrder::Newest,
    KeyOrder::EndingSoon,
    KeyOrder::LeastRecentlyUsed,
    KeyOrder::RecentlyRevoked,
];

/// A position in an order: the value that the order sorts by, and the unique number of the key.
pub(super) type SortKey = (u64, u64);

/// Records by id, with a sorted index for each order, so that the cost of a page does not depend on
/// its depth.
#[derive(Default)]
pub(super) struct RecordTable {
    keys: HashMap<KeyId, StoredKey>,
    ids: HashMap<u64, KeyId>,
    indexes: [BTreeSet<SortKey>; ORDERS.len()],
    last: u64,
}

/// A record with the data that its sort keys depend on.
struct StoredKey {
    listed: ListedKey,
    /// The number that the key got when it was first stored.
    number: u64,
    /// The microsecond of issue for [`KeyOrder::Newest`], fixed when the key was first stored.
    listed_at: u64,
}

impl RecordTable {
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    pub(super) fn get(&self, id: &KeyId) -> Option<&KeyRecord> {
        self.keys.get(id).map(|stored| &stored.listed.record)
    }

    pub(super) fn get_listed(&self, id: &KeyId) -> Option<&ListedKey> {
        self.keys.get(id).map(|stored| &stored.listed)
    }

    /// Stores a record at a time. It replaces an older record of the same key.
    pub(super) fn put(&mut self, record: KeyRecord, at: SystemTime) {
        let id = record.id();
        let stored = if let Some(mut stored) = self.keys.remove(&id) {
            self.remove_from_indexes(&stored);
            stored.listed.record = record;
            stored
        } else {
            self.last += 1;
            self.ids.insert(self.last, id);
            StoredKey {
                listed_at: microseconds(record.created_at().unwrap_or(at)),
                listed: ListedKey::new(record),
                number: self.last,
            }
        };
        self.add_to_indexes(&stored);
        self.keys.insert(id, stored);
    }

    /// Records uses of a key, if the key exists. Its sort key changes only in `LeastRecentlyUsed`.
    pub(super) fn record_use(&mut self, key: &KeyId, first: SystemTime, last: SystemTime) {
        const ORDER: KeyOrder = KeyOrder::LeastRecentlyUsed;
        let Some(stored) = self.keys.get_mut(key) else {
            return;
        };
        let before = stored.sort_key(ORDER);
        let listed = &mut stored.listed;
        listed.first_used_at = Some(listed.first_used_at.map_or(first, |at| at.min(first)));
        listed.last_used_at = listed.last_used_at.max(Some(last));
        let after = stored.sort_key(ORDER);
        if before != after {
            let index = &mut self.indexes[index_of(ORDER)];
            before.map(|sort_key| index.remove(&sort_key));
            index.extend(after);
        }
    }

    /// Returns the keys after a position, in an order.
    pub(super) fn list(
        &self,
        order: KeyOrder,
        after: Option<SortKey>,
    ) -> impl Iterator<Item = (SortKey, &ListedKey)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let index = self.indexes[index_of(order)].range((from, Bound::Unbounded));
        index.filter_map(|sort_key| {
            let id = self.ids.get(&sort_key.1)?;
            Some((*sort_key, &self.keys.get(id)?.listed))
        })
    }

    fn remove_from_indexes(&mut self, stored: &StoredKey) {
        for (order, index) in ORDERS.iter().zip(&mut self.indexes) {
            if let Some(sort_key) = stored.sort_key(*order) {
                index.remove(&sort_key);
            }
        }
    }

    fn add_to_indexes(&mut self, stored: &StoredKey) {
        for (order, index) in ORDERS.iter().zip(&mut self.indexes) {
            index.extend(stored.sort_key(*order));
        }
    }
}

impl StoredKey {
    /// Returns the sort key in an order; `None` if the order leaves the key out.
    fn sort_key(&self, order: KeyOrder) -> Option<SortKey> {
        let record = &self.listed.record;
        let value = match order {
            KeyOrder::Newest => u64::MAX - self.listed_at,
            KeyOrder::EndingSoon => microseconds(record.expires_at()?),
            KeyOrder::LeastRecentlyUsed => self.listed.last_used_at.map_or(0, microseconds),
            KeyOrder::RecentlyRevoked => u64::MAX - microseconds(record.revoked()?.at),
        };
        Some((value, self.number))
    }
}

fn index_of(order: KeyOrder) -> usize {
    match order {
        KeyOrder::Newest => 0,
        KeyOrder::EndingSoon => 1,
        KeyOrder::LeastRecentlyUsed => 2,
        KeyOrder::RecentlyRevoked => 3,
    }
}

/// Returns the microseconds since 1970.
fn microseconds(at: SystemTime) -> u64 {
    let since = at
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
