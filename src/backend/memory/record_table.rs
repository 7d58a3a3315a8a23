//! A table of records, with an index for each order of lists.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::Bound;
use std::time::SystemTime;

use crate::key::digest::KeyId;
use crate::key::record::KeyRecord;
use crate::store::{AccountCap, ExpiryFilter, KeyOrder, KeyQuery, KeyUsage, ListedKey};

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
    accounts: HashMap<String, HashSet<KeyId>>,
    lineages: HashMap<KeyId, HashSet<KeyId>>,
    /// The keys that were deleted, which do not come back.
    deleted: HashSet<KeyId>,
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
        let stored = if let Some(mut stored) = self.take(&id) {
            stored.listed.record = record;
            stored
        } else {
            self.last += 1;
            StoredKey {
                listed_at: microseconds(record.created_at().unwrap_or(at)),
                listed: ListedKey::new(record),
                number: self.last,
            }
        };
        for (order, index) in ORDERS.iter().zip(&mut self.indexes) {
            index.extend(stored.sort_key(*order));
        }
        let account = stored.listed.record.account().to_owned();
        self.accounts.entry(account).or_default().insert(id);
        let lineage = stored.listed.record.lineage();
        self.lineages.entry(lineage).or_default().insert(id);
        self.ids.insert(stored.number, id);
        self.keys.insert(id, stored);
    }

    /// Deletes a record.
    pub(super) fn delete(&mut self, id: &KeyId) {
        self.take(id);
        self.deleted.insert(*id);
    }

    /// Returns whether a key with this id exists, or did.
    pub(super) fn is_known(&self, id: &KeyId) -> bool {
        self.keys.contains_key(id) || self.deleted.contains(id)
    }

    /// Returns the keys of a chain of rotations, by its first key.
    pub(super) fn lineage(&self, first: &KeyId) -> impl Iterator<Item = &KeyRecord> {
        let ids = self.lineages.get(first).into_iter().flatten();
        ids.filter_map(|id| self.get(id))
    }

    /// Removes a key from the table and all its indexes.
    fn take(&mut self, id: &KeyId) -> Option<StoredKey> {
        let stored = self.keys.remove(id)?;
        for (order, index) in ORDERS.iter().zip(&mut self.indexes) {
            if let Some(sort_key) = stored.sort_key(*order) {
                index.remove(&sort_key);
            }
        }
        let record = &stored.listed.record;
        remove(&mut self.accounts, record.account(), id);
        remove(&mut self.lineages, &record.lineage(), id);
        self.ids.remove(&stored.number);
        Some(stored)
    }

    /// Returns whether an account would have more keys than before, and than a cap allows, after
    /// some records were created, updated or deleted.
    pub(super) fn exceeds(
        &self,
        cap: &AccountCap,
        written: &HashMap<KeyId, Option<&KeyRecord>>,
    ) -> bool {
        let of_account = self.accounts.get(&cap.account).into_iter().flatten();
        let before = of_account.filter_map(|id| self.get(id));
        let unchanged = before
            .clone()
            .filter(|key| !written.contains_key(&key.id()));
        let changed = written.values().copied().flatten();
        let after = unchanged.chain(changed.filter(|key| key.account() == cap.account));
        let after = chains(after, cap);
        after > cap.most as usize && after > chains(before, cap)
    }

    /// Records uses of a key, if the key exists. Its sort key changes only in `LeastRecentlyUsed`.
    /// Returns whether it is the first use of the key.
    pub(super) fn record_use(&mut self, usage: &KeyUsage) -> bool {
        const ORDER: KeyOrder = KeyOrder::LeastRecentlyUsed;
        let stored = usage.key.as_ref().and_then(|key| self.keys.get_mut(key));
        let (Some(stored), Some(used)) = (stored, &usage.used) else {
            return false;
        };
        let (first, last) = (used.first, used.last);
        let is_first = stored.listed.first_used_at.is_none();
        let before = stored.sort_key(ORDER);
        let listed = &mut stored.listed;
        listed.first_used_at = Some(listed.first_used_at.map_or(first, |at| at.min(first)));
        if listed.last_used_at <= Some(last) {
            listed.last_used_at = Some(last);
            listed.last_address = used.last_address.or(listed.last_address);
        }
        let after = stored.sort_key(ORDER);
        if before != after {
            let index = &mut self.indexes[index_of(ORDER)];
            before.map(|sort_key| index.remove(&sort_key));
            index.extend(after);
        }
        is_first
    }

    /// Returns the position before the first key that a list may have; `None` for its beginning.
    pub(super) fn before_first(query: &KeyQuery) -> Option<SortKey> {
        match (query.expiry, query.order) {
            (Some(ExpiryFilter::Between(from, _)), KeyOrder::EndingSoon) => {
                Some((microseconds(from).checked_sub(1)?, u64::MAX))
            }
            _ => None,
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

/// Returns the number of chains of rotations with a key that is alive.
fn chains<'k>(keys: impl Iterator<Item = &'k KeyRecord>, cap: &AccountCap) -> usize {
    let is_alive = |key: &&KeyRecord| {
        key.revoked().is_none() && key.expires_at().is_none_or(|end| end > cap.at)
    };
    let chains: HashSet<KeyId> = keys.filter(is_alive).map(KeyRecord::lineage).collect();
    chains.len()
}

/// Removes an id from the set under a name, and the set if it is empty then.
fn remove<N, Q>(sets: &mut HashMap<N, HashSet<KeyId>>, name: &Q, id: &KeyId)
where
    N: std::borrow::Borrow<Q> + std::hash::Hash + Eq,
    Q: std::hash::Hash + Eq + ?Sized,
{
    if let Some(set) = sets.get_mut(name) {
        set.remove(id);
        if set.is_empty() {
            sets.remove(name);
        }
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
