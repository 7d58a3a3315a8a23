//! A hash table whose look-ups wait for memory as seldom as can be.
//!
//! Where there are more entries than the processor's caches hold, what a look-up takes is the wait for
//! the memory that it reads. So a key and its value stand side by side in lines of those caches, and
//! an entry is in one of four lines: the one that its key names, that one's neighbour, or a second such
//! pair. Nearly all are in the first.
//!
//! Keys are hashes already, spread evenly over all bits, and nobody can choose those that meet.

use std::mem;

/// What the processor's caches hold and fetch, in bytes.
const LINE: usize = 64;

/// A table with `N` places in a line.
pub(crate) struct Table<V, const N: usize> {
    /// None yet, or pairs.
    lines: Box<[Line<V, N>]>,
    used: usize,
    /// How many lines there are at first, and how often they may be doubled.
    first: usize,
    doublings: u32,
}

#[repr(align(64))]
struct Line<V, const N: usize>([Entry<V>; N]);

/// Why nothing was put into a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoPlace {
    /// Room was made instead, and entries may be in other places now. The next try may do.
    Moved,
    /// It has as many places as it may have, and those that would do are taken.
    Full,
}

/// The key of a free place is 0.
#[derive(Default)]
struct Entry<V> {
    key: u64,
    value: V,
}

impl<V: Default, const N: usize> Table<V, N> {
    /// What a place takes, in bytes.
    pub(crate) const PLACE: usize = LINE / N;

    const FITS: () = assert!(size_of::<Line<V, N>>() == LINE);

    /// A table of at most so many places, or up to an eighth less: its lines are doubled until then.
    pub(crate) fn new(places: usize) -> Self {
        let () = Self::FITS;
        let pairs = places / (2 * N);
        let mut doublings = 0;
        while pairs >> doublings >= 16 {
            doublings += 1;
        }
        let first = 2 * (pairs >> doublings);
        Self {
            lines: Box::default(),
            used: 0,
            first: if first == 0 { 2 } else { first },
            doublings,
        }
    }

    /// How many places there may be.
    pub(crate) const fn places(&self) -> usize {
        self.most_lines() * N
    }

    /// How many places are in use.
    pub(crate) const fn len(&self) -> usize {
        self.used
    }

    const fn most_lines(&self) -> usize {
        self.first << self.doublings
    }

    /// The place of a key, until entries are [moved](NoPlace::Moved).
    #[inline]
    pub(crate) fn find(&self, key: u64) -> Option<usize> {
        let key = not_free(key);
        for line in lines_of(key, self.lines.len()) {
            if let Some(at) = self.lines.get(line)?.find(key) {
                return Some(line * N + at);
            }
        }
        None
    }

    #[inline]
    pub(crate) fn get(&self, place: usize) -> Option<&V> {
        let line = self.lines.get(place / N)?;
        Some(&line.0[place % N].value)
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, place: usize) -> Option<&mut V> {
        let line = self.lines.get_mut(place / N)?;
        Some(&mut line.0[place % N].value)
    }

    /// Puts in what is not there, if need be in the place of another that may be forgotten.
    pub(crate) fn put(
        &mut self,
        key: u64,
        value: V,
        may_forget: impl FnMut(usize, &V) -> bool,
    ) -> Result<usize, NoPlace> {
        if self.is_crowded() && self.grow() {
            return Err(NoPlace::Moved);
        }
        let Some(place) = self.place_for(key, may_forget) else {
            let moved = self.grow() || (self.has_room() && self.displace(key));
            return Err(if moved { NoPlace::Moved } else { NoPlace::Full });
        };
        let entry = &mut self.lines[place / N].0[place % N];
        self.used += usize::from(entry.key == 0);
        let key = not_free(key);
        *entry = Entry { key, value };
        Ok(place)
    }

    /// A free place, or else that of what may be forgotten: to forget what may be wanted again is to
    /// make it anew then.
    fn place_for(&self, key: u64, mut may_forget: impl FnMut(usize, &V) -> bool) -> Option<usize> {
        let mut places = self.places_of(not_free(key));
        let may_do = |&place: &usize| may_forget(place, &self.lines[place / N].0[place % N].value);
        let free = places.clone().find(|&place| self.is_free(place));
        free.or_else(|| places.find(may_do))
    }

    /// Moves an entry that is in the way of a key, if there is room for it elsewhere.
    #[cold]
    fn displace(&mut self, key: u64) -> bool {
        let moves = self.places_of(not_free(key)).find_map(|from| {
            let moved = self.lines[from / N].0[from % N].key;
            let to = self.places_of(moved).find(|&to| self.is_free(to))?;
            Some((from, to))
        });
        let Some((from, to)) = moves else {
            return false;
        };
        let entry = mem::take(&mut self.lines[from / N].0[from % N]);
        self.lines[to / N].0[to % N] = entry;
        true
    }

    /// The places that a key may have, the best first.
    fn places_of(&self, key: u64) -> impl Iterator<Item = usize> + Clone + use<V, N> {
        let lines = (!self.lines.is_empty()).then(|| lines_of(key, self.lines.len()));
        let lines = lines.into_iter().flatten();
        lines.flat_map(|line| line * N..line * N + N)
    }

    fn is_free(&self, place: usize) -> bool {
        self.lines[place / N].0[place % N].key == 0
    }

    /// Takes out what is at a place in use.
    pub(crate) fn remove(&mut self, place: usize) -> V {
        self.used -= 1;
        mem::take(&mut self.lines[place / N].0[place % N]).value
    }

    /// Whether many entries are not in their first line.
    const fn is_crowded(&self) -> bool {
        self.used * 4 >= self.lines.len() * N * 3
    }

    /// Whether there are so many free places that it is worth while to look for one further away.
    const fn has_room(&self) -> bool {
        self.used * 16 < self.lines.len() * N * 15
    }

    /// Doubles the lines, if there may be so many.
    #[cold]
    fn grow(&mut self) -> bool {
        if self.lines.len() >= self.most_lines() {
            return false;
        }
        let lines = (2 * self.lines.len()).max(self.first);
        let grown = (0..lines).map(|_| Line::default()).collect();
        let old: Box<[Line<V, N>]> = mem::replace(&mut self.lines, grown);
        for (pair, lines) in old.into_vec().chunks_exact_mut(2).enumerate() {
            let entries = lines.iter_mut().flat_map(|line| &mut line.0);
            for entry in entries.filter(|entry| entry.key != 0) {
                self.move_up(pair, mem::take(entry));
            }
        }
        true
    }

    /// A pair of lines has become two. Nothing else comes to those, so each has room for all of it.
    fn move_up(&mut self, pair: usize, entry: Entry<V>) {
        let mut places = self.places_of(entry.key);
        let place = places.find(|&place| place / N / 4 == pair && self.is_free(place));
        let place = place.expect("one of the two pairs is that of the key");
        self.lines[place / N].0[place % N] = entry;
    }
}

impl<V, const N: usize> Line<V, N> {
    /// Looks at all keys, since which of them it is cannot be foreseen.
    #[inline]
    fn find(&self, key: u64) -> Option<usize> {
        let mut found = 0;
        for (at, entry) in self.0.iter().enumerate() {
            found |= u32::from(entry.key == key) << at;
        }
        (found != 0).then(|| found.trailing_zeros() as usize)
    }
}

/// A table that is bounded by whoever fills it.
impl<V: Default, const N: usize> Default for Table<V, N> {
    fn default() -> Self {
        Self::new(usize::MAX)
    }
}

impl<V: Default, const N: usize> Default for Line<V, N> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Entry::default()))
    }
}

/// The lines that a key may be in, where there are so many.
///
/// Twice as many lines make two of each, so that what a key names stays in the same part of the table.
#[inline]
fn lines_of(key: u64, lines: usize) -> impl Iterator<Item = usize> + Clone {
    let homes = [key >> 32, key & u64::from(u32::MAX)].map(|half| (half * lines as u64) >> 32);
    let homes = homes.map(|line| usize::try_from(line).unwrap_or_default());
    (0..4).map(move |nth| homes[nth / 2] ^ (nth % 2))
}

/// One key in 2⁶⁴ takes the place of another.
#[inline]
fn not_free(key: u64) -> u64 {
    key.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn put(table: &mut Table<u64, 4>, key: u64, value: u64) -> Option<usize> {
        loop {
            match table.put(key, value, |_, _| false) {
                Ok(place) => return Some(place),
                Err(NoPlace::Moved) => {}
                Err(NoPlace::Full) => return None,
            }
        }
    }

    proptest! {
        /// As a map does, whatever its size and however it grows.
        #[test]
        fn what_is_put_in_is_found(
            steps in proptest::collection::vec((any::<u64>(), any::<bool>()), 0..2000),
            places in 0..4000usize,
        ) {
            let mut table = Table::<u64, 4>::new(places);
            let mut expected = HashMap::new();
            for (at, (key, remove)) in steps.into_iter().enumerate() {
                let value = at as u64;
                match table.find(key) {
                    Some(place) if remove => {
                        table.remove(place);
                        expected.remove(&key);
                    }
                    Some(place) => {
                        *table.get_mut(place).unwrap() = value;
                        expected.insert(key, value);
                    }
                    None => if put(&mut table, key, value).is_some() {
                        expected.insert(key, value);
                    }
                }
                prop_assert!(table.len() <= table.places());
            }
            prop_assert_eq!(table.len(), expected.len());
            for (key, value) in expected {
                let place = table.find(key).unwrap();
                prop_assert_eq!(table.get(place), Some(&value));
            }
        }
    }

    /// As pseudo-random keys as digests are.
    fn keys() -> impl Iterator<Item = u64> {
        let scramble = |number: u64| {
            let mixed = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ (mixed >> 31)
        };
        (1..).map(scramble)
    }

    /// Also with two places in a line, and whatever room it may have.
    #[test]
    fn nearly_all_places_are_of_use() {
        for places in [64, 1000, 5000] {
            let mut wide = Table::<u64, 4>::new(places);
            let filled = keys().take_while(|key| put(&mut wide, *key, 0).is_some());
            let (filled, room) = (filled.count(), wide.places());
            assert!(
                room <= places && room * 8 >= places * 7,
                "{room} of {places}"
            );
            assert!(filled * 10 >= room * 9, "{filled} of {room}");
            assert_eq!(wide.len(), filled);
            assert!(keys().take(filled).all(|key| wide.find(key).is_some()));
        }
        let mut narrow = Table::<[u64; 3], 2>::new(1000);
        let mut put = |key| loop {
            match narrow.put(key, [0; 3], |_, _| false) {
                Err(NoPlace::Moved) => {}
                put => break put.is_ok(),
            }
        };
        let filled = keys().take_while(|key| put(*key)).count();
        assert!(filled * 5 >= narrow.places() * 4, "{filled}");
        assert!(keys().take(filled).all(|key| narrow.find(key).is_some()));
    }

    /// So that what could be forgotten, but is in use, is not made anew again and again.
    #[test]
    fn what_may_be_forgotten_is_kept_where_there_is_room() {
        let mut table = Table::<u64, 4>::new(1000);
        for key in keys().take(500) {
            while let Err(NoPlace::Moved) = table.put(key, 1, |_, _| true) {}
        }
        let kept = keys().take(500).filter(|key| table.find(*key).is_some());
        assert!(kept.count() > 480);
        // Where there is none, only what may be is forgotten: the odd ones.
        for key in keys().take(5000) {
            if table.find(key).is_none() {
                while let Err(NoPlace::Moved) = table.put(key, key % 2, |_, odd| *odd == 1) {}
            }
        }
        assert!(table.len() <= table.places());
        let even = keys().take(5000).filter(|key| key % 2 == 0);
        let kept = even.filter(|key| table.find(*key).is_some()).count();
        assert!(kept * 10 >= table.places() * 9, "{kept}");
    }
}
