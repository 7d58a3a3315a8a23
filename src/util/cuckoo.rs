//! A bucketized cuckoo hash table, bounded in size, that can evict in place.
//!
//! An entry is in one of four buckets: the one that its key names, the neighbour of that, or a
//! second such pair. A bucket is a cache line, and nearly all entries are in their first bucket. So
//! a lookup in a table that is larger than the processor's caches waits for memory once.
//!
//! Keys are hashes, spread evenly over all bits. If somebody can choose keys that collide, those
//! find no slot, and nothing else comes of it.
//!
//! `hashbrown`, the plain alternative, looks up in 0.85 of the time (`benches/tables`), where its
//! first of two cache lines stays in the processor's caches. In requests over a million keys it
//! does not: with `hashbrown` for the index of cached keys, `full_1m` is slower by 6 to 28 %. It
//! also cannot stay within a bound without a list beside it that says what to evict. Here a budget
//! of 24 bytes takes 32.

use std::mem;

use arrayvec::ArrayVec;

/// After this many failed inserts in a row, only every such insert tries to displace entries: a
/// failed try takes time in the square of the slots of a key.
const RETRY_EVERY: u8 = 16;

/// The size of a bucket, in bytes: a cache line.
const BUCKET: usize = 64;

/// A table with `N` slots to a bucket: 4 for values of 8 bytes, 2 for those of 24.
pub(crate) struct CuckooTable<V, const N: usize> {
    /// None yet, or pairs.
    buckets: Box<[Bucket<V, N>]>,
    used: usize,
    /// The inserts in a row that found no slot.
    failed_inserts: u8,
    /// The number of buckets at first, and how often they may be doubled.
    first: usize,
    doublings: u32,
}

#[repr(align(64))]
struct Bucket<V, const N: usize>([Entry<V>; N]);

/// The slots of one key, in four buckets of at most four slots.
type Slots = ArrayVec<usize, 16>;

/// An entry. The key of a free slot is 0.
#[derive(Default)]
struct Entry<V> {
    key: u64,
    value: V,
}

/// The result of an insert.
#[derive(Debug)]
pub(crate) struct Inserted<V> {
    pub(crate) slot: usize,
    /// The value that was evicted for the new one.
    pub(crate) evicted: Option<V>,
    /// Entries were moved: slots that were found before are invalid.
    pub(crate) has_moved: bool,
}

impl<V: Default, const N: usize> CuckooTable<V, N> {
    /// The size of a slot, in bytes.
    pub(crate) const SLOT: usize = BUCKET / N;

    /// The most entries that are displaced for a new one. With one, a table of two slots to a bucket
    /// is full at nine tenths.
    const DISPLACED: usize = if N < 4 { 2 } else { 1 };

    const FITS: () = assert!(size_of::<Bucket<V, N>>() == BUCKET && N <= 4);

    /// Creates a table of at most this number of slots, or up to an eighth less. Its buckets are
    /// doubled until then.
    pub(crate) fn new(slots: usize) -> Self {
        let () = Self::FITS;
        let pairs = slots / (2 * N);
        let mut doublings = 0;
        while pairs >> doublings >= 16 {
            doublings += 1;
        }
        let first = 2 * (pairs >> doublings);
        Self {
            buckets: Box::default(),
            used: 0,
            failed_inserts: 0,
            first: if first == 0 { 2 } else { first },
            doublings,
        }
    }

    /// Returns the most slots that there may be.
    pub(crate) const fn capacity(&self) -> usize {
        self.max_buckets() * N
    }

    /// Returns the number of entries.
    pub(crate) const fn len(&self) -> usize {
        self.used
    }

    const fn max_buckets(&self) -> usize {
        self.first << self.doublings
    }

    /// Finds the slot of a key. It is valid until entries are [moved](Inserted::has_moved).
    #[inline]
    pub(crate) fn find(&self, key: u64) -> Option<usize> {
        let key = not_free(key);
        for bucket in buckets_of(key, self.buckets.len()) {
            if let Some(at) = self.buckets.get(bucket)?.find(key) {
                return Some(bucket * N + at);
            }
        }
        None
    }

    #[inline]
    pub(crate) fn get(&self, slot: usize) -> Option<&V> {
        let bucket = self.buckets.get(slot / N)?;
        Some(&bucket.0[slot % N].value)
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, slot: usize) -> Option<&mut V> {
        let bucket = self.buckets.get_mut(slot / N)?;
        Some(&mut bucket.0[slot % N].value)
    }

    /// Inserts a key that is not in the table, if need be in the place of an entry that may be
    /// evicted. `None` if the table is full, or if keys that collide have taken its slots.
    pub(crate) fn insert(
        &mut self,
        key: u64,
        value: V,
        mut may_evict: impl FnMut(u64, &V) -> bool,
    ) -> Option<Inserted<V>> {
        let key = not_free(key);
        let mut has_moved = self.is_crowded() && self.grow();
        let mut evicted = None;
        let slot = loop {
            let slots = self.slots_of(key);
            if let Some(slot) = self.slot_in(&slots, &mut may_evict) {
                break slot;
            }
            if let Some(slot) = self.try_to_displace(&slots, &mut may_evict, &mut evicted) {
                has_moved = true;
                break slot;
            }
            if !self.is_loaded() || !self.grow() {
                return None;
            }
            has_moved = true;
        };
        self.failed_inserts = 0;
        self.used += 1;
        let old = mem::replace(self.entry_mut(slot), Entry { key, value });
        if old.key != 0 {
            self.used -= 1;
            evicted = Some(old.value);
        }
        Some(Inserted {
            slot,
            evicted,
            has_moved,
        })
    }

    /// Finds the slot of a key, or inserts a default.
    pub(crate) fn find_or_insert(
        &mut self,
        key: u64,
        may_evict: impl FnMut(u64, &V) -> bool,
    ) -> Option<usize> {
        if let Some(slot) = self.find(key) {
            return Some(slot);
        }
        let inserted = self.insert(key, V::default(), may_evict)?;
        Some(inserted.slot)
    }

    /// [Displaces](Self::displace) entries, unless that has failed often.
    #[cold]
    fn try_to_displace(
        &mut self,
        slots: &Slots,
        may_evict: &mut impl FnMut(u64, &V) -> bool,
        evicted: &mut Option<V>,
    ) -> Option<usize> {
        let failed = self.failed_inserts;
        let slot = if failed < RETRY_EVERY || failed.is_multiple_of(RETRY_EVERY) {
            self.displace(slots, Self::DISPLACED, may_evict, evicted)
        } else {
            None
        };
        if slot.is_none() {
            self.failed_inserts = failed.checked_add(1).unwrap_or(RETRY_EVERY);
        }
        slot
    }

    /// Frees one of these slots: its entry moves to the other pair of its buckets, to a free slot
    /// or in the place of an evictable entry, if need be after another entry there has moved.
    fn displace(
        &mut self,
        slots: &Slots,
        moves: usize,
        may_evict: &mut impl FnMut(u64, &V) -> bool,
        evicted: &mut Option<V>,
    ) -> Option<usize> {
        slots.iter().copied().find(|&from| {
            let mut elsewhere = self.slots_of(self.entry(from).key);
            elsewhere.retain(|to| pair_of::<N>(*to) != pair_of::<N>(from));
            let mut to = self.slot_in(&elsewhere, may_evict);
            if to.is_none() && moves > 1 {
                to = self.displace(&elsewhere, moves - 1, may_evict, evicted);
            }
            let Some(to) = to else {
                return false;
            };
            let entry = mem::take(self.entry_mut(from));
            let old = mem::replace(self.entry_mut(to), entry);
            if old.key != 0 {
                self.used -= 1;
                *evicted = Some(old.value);
            }
            true
        })
    }

    /// Finds a free slot, or else one whose entry may be evicted.
    fn slot_in(&self, slots: &Slots, may_evict: &mut impl FnMut(u64, &V) -> bool) -> Option<usize> {
        let mut slots = slots.iter().copied();
        let free = slots.clone().find(|&slot| self.is_free(slot));
        free.or_else(|| {
            slots.find(|&slot| {
                let entry = self.entry(slot);
                may_evict(entry.key, &entry.value)
            })
        })
    }

    /// Lists the slots that a key may have, the best first.
    fn slots_of(&self, key: u64) -> Slots {
        if self.buckets.is_empty() {
            return Slots::new();
        }
        let buckets = buckets_of(key, self.buckets.len());
        buckets
            .flat_map(|bucket| bucket * N..bucket * N + N)
            .collect()
    }

    fn is_free(&self, slot: usize) -> bool {
        self.entry(slot).key == 0
    }

    fn entry(&self, slot: usize) -> &Entry<V> {
        &self.buckets[slot / N].0[slot % N]
    }

    fn entry_mut(&mut self, slot: usize) -> &mut Entry<V> {
        &mut self.buckets[slot / N].0[slot % N]
    }

    /// Returns the number of buckets.
    pub(crate) const fn buckets(&self) -> usize {
        self.buckets.len()
    }

    /// Returns the values in a bucket, whose index is taken modulo the number of buckets: for a
    /// hand that goes around the table.
    pub(crate) fn bucket(&self, index: usize) -> impl Iterator<Item = &V> {
        let buckets = self.buckets.len().max(1);
        let bucket = self.buckets.get(index % buckets);
        let entries = bucket.into_iter().flat_map(|bucket| &bucket.0);
        entries
            .filter(|entry| entry.key != 0)
            .map(|entry| &entry.value)
    }

    /// Returns the values in a bucket, as [`bucket`](Self::bucket), to change them.
    pub(crate) fn bucket_mut(&mut self, index: usize) -> impl Iterator<Item = &mut V> {
        let buckets = self.buckets.len().max(1);
        let bucket = self.buckets.get_mut(index % buckets);
        let entries = bucket.into_iter().flat_map(|bucket| &mut bucket.0);
        entries
            .filter(|entry| entry.key != 0)
            .map(|entry| &mut entry.value)
    }

    /// Removes the entry in a slot in use.
    pub(crate) fn remove(&mut self, slot: usize) -> V {
        self.used -= 1;
        mem::take(self.entry_mut(slot)).value
    }

    /// Returns whether the load factor is at least 3/4: many entries are not in their first bucket.
    const fn is_crowded(&self) -> bool {
        self.used * 4 >= self.buckets.len() * N * 3
    }

    /// Returns whether the load factor is at least 1/8. Below it, a failed insert means that
    /// somebody has chosen keys that collide, and growing would not help.
    const fn is_loaded(&self) -> bool {
        self.used * 8 >= self.buckets.len() * N
    }

    /// Doubles the buckets, if there may be so many.
    #[cold]
    fn grow(&mut self) -> bool {
        if self.buckets.len() >= self.max_buckets() {
            return false;
        }
        self.failed_inserts = 0;
        let buckets = (2 * self.buckets.len()).max(self.first);
        let grown = (0..buckets).map(|_| Bucket::default()).collect();
        let old: Box<[Bucket<V, N>]> = mem::replace(&mut self.buckets, grown);
        for (pair, buckets) in old.into_vec().chunks_exact_mut(2).enumerate() {
            let entries = buckets.iter_mut().flat_map(|bucket| &mut bucket.0);
            for entry in entries.filter(|entry| entry.key != 0) {
                self.move_up(pair, mem::take(entry));
            }
        }
        true
    }

    /// Moves an entry of a pair of buckets that has become two pairs. No other entries come to
    /// those, so each has room for all of it.
    fn move_up(&mut self, pair: usize, entry: Entry<V>) {
        let mut slots = self.slots_of(entry.key).into_iter();
        let slot = slots.find(|&slot| pair_of::<N>(slot) / 2 == pair && self.is_free(slot));
        let slot = slot.expect("one of the two pairs is that of the key");
        *self.entry_mut(slot) = entry;
    }
}

impl<V, const N: usize> Bucket<V, N> {
    /// Compares all keys, since no branch predictor can foresee which of them it is.
    #[inline]
    fn find(&self, key: u64) -> Option<usize> {
        let mut found = 0;
        for (at, entry) in self.0.iter().enumerate() {
            found |= u32::from(entry.key == key) << at;
        }
        (found != 0).then(|| found.trailing_zeros() as usize)
    }
}

/// A table without a bound.
impl<V: Default, const N: usize> Default for CuckooTable<V, N> {
    fn default() -> Self {
        Self::new(usize::MAX)
    }
}

impl<V: Default, const N: usize> Default for Bucket<V, N> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Entry::default()))
    }
}

/// Returns the buckets that a key may be in, in a table of so many.
///
/// When the buckets are doubled, each becomes two, so an entry stays in the same part of the table.
#[inline]
fn buckets_of(key: u64, buckets: usize) -> impl Iterator<Item = usize> {
    let homes = [key >> 32, key & u64::from(u32::MAX)].map(|half| (half * buckets as u64) >> 32);
    let homes = homes.map(|bucket| usize::try_from(bucket).unwrap_or_default());
    (0..4).map(move |nth| homes[nth / 2] ^ (nth % 2))
}

/// Returns the pair of buckets that a slot is in.
const fn pair_of<const N: usize>(slot: usize) -> usize {
    slot / (2 * N)
}

/// Maps the key 0, which marks free slots, to 1: one key in 2⁶⁴ shares the slot of another.
#[inline]
fn not_free(key: u64) -> u64 {
    key.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    /// A value of the size that fits.
    type Value = [u64; 3];

    fn value(number: u64) -> Value {
        [number, 1, 2]
    }

    fn insert(table: &mut CuckooTable<Value, 2>, key: u64, number: u64) -> Option<usize> {
        let inserted = table.insert(key, value(number), |_, _| false)?;
        assert_eq!(inserted.evicted, None);
        Some(inserted.slot)
    }

    proptest! {
        /// The table agrees with a map, at any size and however it grows and evicts.
        #[test]
        fn an_inserted_entry_is_found_until_it_is_evicted(
            steps in proptest::collection::vec((any::<u64>(), any::<bool>()), 0..2000),
            slots in 0..4000usize,
        ) {
            let mut table = CuckooTable::<Value, 2>::new(slots);
            let mut expected = HashMap::new();
            for (number, (key, may_evict)) in (0..).zip(steps) {
                if let Some(slot) = table.find(key) {
                    *table.get_mut(slot).unwrap() = value(number);
                    expected.insert(key, number);
                    continue;
                }
                let is_odd = |_, old: &Value| may_evict && old[0] % 2 == 1;
                if let Some(inserted) = table.insert(key, value(number), is_odd) {
                    if let Some([evicted, ..]) = inserted.evicted {
                        prop_assert!(may_evict && evicted % 2 == 1);
                        expected.retain(|_, number| *number != evicted);
                    }
                    prop_assert_eq!(table.find(key), Some(inserted.slot));
                    expected.insert(key, number);
                }
                prop_assert!(table.len() <= table.capacity());
                prop_assert_eq!(table.len(), expected.len());
            }
            for (key, number) in expected {
                let slot = table.find(key).unwrap();
                prop_assert_eq!(table.get(slot), Some(&value(number)));
            }
        }

        /// As above with four slots to a bucket, with entries that are removed.
        #[test]
        fn a_removed_entry_is_not_found(
            steps in proptest::collection::vec((0..3000u64, any::<bool>()), 0..3000),
            slots in 0..4000usize,
        ) {
            let mut table = CuckooTable::<u64, 4>::new(slots);
            let mut expected = HashMap::new();
            for (number, (nth, is_removal)) in (0..).zip(steps) {
                let key = keys().nth(usize::try_from(nth).unwrap()).unwrap();
                match table.find(key) {
                    Some(slot) if is_removal => {
                        prop_assert_eq!(Some(table.remove(slot)), expected.remove(&key));
                    }
                    Some(slot) => {
                        *table.get_mut(slot).unwrap() = number;
                        expected.insert(key, number);
                    }
                    None => if table.insert(key, number, |_, _| false).is_some() {
                        expected.insert(key, number);
                    },
                }
                prop_assert_eq!(table.len(), expected.len());
            }
            let mut values: Vec<_> = (0..table.buckets()).flat_map(|nth| table.bucket(nth)).collect();
            values.sort_unstable();
            let mut others: Vec<_> = expected.values().collect();
            others.sort_unstable();
            prop_assert_eq!(values, others);
            for (key, number) in &expected {
                prop_assert_eq!(table.get(table.find(*key).unwrap()), Some(number));
            }
        }

        /// Slots that were found before an insert are valid unless it says that entries moved.
        #[test]
        fn an_insert_tells_whether_entries_were_moved(
            keys in proptest::collection::hash_set(1..u64::MAX, 0..600),
        ) {
            let mut table = CuckooTable::<Value, 2>::new(600);
            let mut slots = HashMap::new();
            for key in keys {
                let Some(inserted) = table.insert(key, value(key), |_, _| false) else {
                    continue;
                };
                slots.insert(key, inserted.slot);
                for (key, slot) in &mut slots {
                    let now = table.find(*key).unwrap();
                    prop_assert!(now == *slot || inserted.has_moved);
                    *slot = now;
                }
            }
        }
    }

    /// Keys that look random, and are the same in each run.
    fn keys() -> impl Iterator<Item = u64> {
        let scramble = |number: u64| {
            let mixed = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ (mixed >> 31)
        };
        (1..).map(scramble)
    }

    #[test]
    fn nearly_all_slots_can_be_filled() {
        for slots in [64, 1000, 5000] {
            let mut table = CuckooTable::<Value, 2>::new(slots);
            let filled = keys().take_while(|key| insert(&mut table, *key, 0).is_some());
            let (filled, capacity) = (filled.count(), table.capacity());
            assert!(
                capacity <= slots && capacity * 8 >= slots * 7,
                "{capacity} of {slots}"
            );
            assert!(filled * 20 >= capacity * 17, "{filled} of {capacity}");
            assert_eq!(table.len(), filled);
            assert!(keys().take(filled).all(|key| table.find(key).is_some()));
        }
    }

    /// An entry that may be evicted but is in use would be made again and again.
    #[test]
    fn an_evictable_entry_is_kept_while_there_is_room() {
        let mut table = CuckooTable::<Value, 2>::new(1000);
        for key in keys().take(500) {
            table.insert(key, value(1), |_, _| true);
        }
        let kept = keys().take(500).filter(|key| table.find(*key).is_some());
        let kept = kept.count();
        assert!(kept > 450, "{kept}");
        // In a full table, only entries that may be evicted are: the odd ones.
        for key in keys().take(5000) {
            if table.find(key).is_none() {
                table.insert(key, value(key % 2), |_, old| old[0] == 1);
            }
        }
        assert!(table.len() <= table.capacity());
        let even = keys().take(5000).filter(|key| key % 2 == 0);
        let kept = even.filter(|key| table.find(*key).is_some()).count();
        assert!(kept * 10 >= table.capacity() * 9, "{kept}");
    }

    #[test]
    fn colliding_keys_do_not_make_the_table_grow() {
        let mut table = CuckooTable::<Value, 2>::default();
        let chosen = |at: u64| 0x8000_0000_8000_0000 + at;
        let inserted = (0..1000).filter(|at| insert(&mut table, chosen(*at), 0).is_some());
        assert_eq!(inserted.count(), 4);
        let slots = table.buckets.len() * 2;
        assert!(slots <= 4 * 8 * 2, "{slots}");
        // Other keys find room.
        assert!(
            keys()
                .take(10_000)
                .all(|key| insert(&mut table, key, 0).is_some())
        );
    }
}
