//! A hash table whose look-ups wait for memory as seldom as can be.
//!
//! Where there are more entries than the processor's caches hold, what a look-up takes is the wait
//! for the memory that it reads. So a key and its value stand side by side in lines of those
//! caches, and an entry is in one of four lines: the one that its key names, that one's neighbour,
//! or a second such pair. Nearly all are in the first.
//!
//! Keys are hashes already, spread evenly over all bits. Should anybody be able to choose some that
//! meet, those find no place, and nothing else comes of it.

use std::mem;

use arrayvec::ArrayVec;

/// After so many keys without a place in a row, a way is made for one in so many.
const PATIENCE: u8 = 16;

/// What the processor's caches hold and fetch, in bytes.
const LINE: usize = 64;

/// A table with `N` places in a line.
pub(crate) struct Table<V, const N: usize> {
    /// None yet, or pairs.
    lines: Box<[Line<V, N>]>,
    used: usize,
    /// For how many keys in a row there was no place.
    in_vain: u8,
    /// How many lines there are at first, and how often they may be doubled.
    first: usize,
    doublings: u32,
}

#[repr(align(64))]
struct Line<V, const N: usize>([Entry<V>; N]);

/// Those of one key, in four lines.
type Places = ArrayVec<usize, 16>;

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

    /// How many entries may be moved for one. Where few are in a line, it takes more of them.
    const MOVES: usize = if N < 4 { 2 } else { 1 };

    const FITS: () = assert!(size_of::<Line<V, N>>() == LINE && N <= 4);

    /// A table of at most so many places, or up to an eighth less: its lines are doubled until
    /// then.
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
            in_vain: 0,
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

    /// How many lines there are.
    pub(crate) const fn lines(&self) -> usize {
        self.lines.len()
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
        mut may_forget: impl FnMut(usize, &V) -> bool,
    ) -> Result<usize, NoPlace> {
        if self.is_crowded() && self.grow() {
            return Err(NoPlace::Moved);
        }
        let key = not_free(key);
        let places = self.places_of(key);
        let Some(place) = self.place_in(&places, &mut may_forget) else {
            let moved = self.has_made_way(&places, &mut may_forget);
            let moved = moved || (self.is_peopled() && self.grow());
            return Err(if moved { NoPlace::Moved } else { NoPlace::Full });
        };
        self.used += usize::from(self.is_free(place));
        *self.entry_mut(place) = Entry { key, value };
        self.in_vain = 0;
        Ok(place)
    }

    /// The place of a key, with a default in it if the key is new, whatever must be moved for it.
    /// `None` if the table is full.
    pub(crate) fn find_or_put(
        &mut self,
        key: u64,
        mut may_forget: impl FnMut(usize, &V) -> bool,
    ) -> Option<usize> {
        loop {
            if let Some(place) = self.find(key) {
                return Some(place);
            }
            match self.put(key, V::default(), &mut may_forget) {
                Ok(place) => return Some(place),
                Err(NoPlace::Moved) => {}
                Err(NoPlace::Full) => return None,
            }
        }
    }

    /// [Makes way](Self::make_way), which takes long where there is none: after many keys in a row
    /// for which there was none, it is tried for a few of those to come.
    #[cold]
    fn has_made_way(
        &mut self,
        places: &Places,
        may_forget: &mut impl FnMut(usize, &V) -> bool,
    ) -> bool {
        let is_tried = self.in_vain < PATIENCE || self.in_vain.is_multiple_of(PATIENCE);
        let has_made_way = is_tried && self.make_way(places, Self::MOVES, may_forget).is_some();
        if !has_made_way {
            self.in_vain = self.in_vain.checked_add(1).unwrap_or(PATIENCE);
        }
        has_made_way
    }

    /// Finds one of these places that will do, or makes it so: what is there goes elsewhere, if
    /// need be after what is there, in so many moves.
    fn make_way(
        &mut self,
        places: &Places,
        moves: usize,
        may_forget: &mut impl FnMut(usize, &V) -> bool,
    ) -> Option<usize> {
        let found = self.place_in(places, may_forget);
        if found.is_some() || moves == 0 {
            return found;
        }
        places.iter().copied().find(|&from| {
            let mut elsewhere = self.places_of(self.entry(from).key);
            elsewhere.retain(|to| pair_of::<N>(*to) != pair_of::<N>(from));
            let to = self.make_way(&elsewhere, moves - 1, may_forget);
            to.is_some_and(|to| {
                self.used -= usize::from(!self.is_free(to));
                *self.entry_mut(to) = mem::take(self.entry_mut(from));
                true
            })
        })
    }

    /// A free place, or else that of what may be forgotten: to forget what may be wanted again is
    /// to make it anew then.
    fn place_in(
        &self,
        places: &Places,
        may_forget: &mut impl FnMut(usize, &V) -> bool,
    ) -> Option<usize> {
        let mut places = places.iter().copied();
        let free = places.clone().find(|&place| self.is_free(place));
        free.or_else(|| places.find(|&place| may_forget(place, &self.entry(place).value)))
    }

    /// The places that a key may have, the best first.
    fn places_of(&self, key: u64) -> Places {
        if self.lines.is_empty() {
            return Places::new();
        }
        let lines = lines_of(key, self.lines.len());
        lines.flat_map(|line| line * N..line * N + N).collect()
    }

    fn is_free(&self, place: usize) -> bool {
        self.entry(place).key == 0
    }

    fn entry(&self, place: usize) -> &Entry<V> {
        &self.lines[place / N].0[place % N]
    }

    fn entry_mut(&mut self, place: usize) -> &mut Entry<V> {
        &mut self.lines[place / N].0[place % N]
    }

    /// The values of the `index`-th line, modulo the number of lines: for a hand that goes around
    /// the table.
    pub(crate) fn line(&self, index: usize) -> impl Iterator<Item = &V> {
        let lines = self.lines.len().max(1);
        let line = self.lines.get(index % lines);
        let entries = line.into_iter().flat_map(|line| &line.0);
        entries
            .filter(|entry| entry.key != 0)
            .map(|entry| &entry.value)
    }

    /// The values of the `index`-th line, as [`line`](Self::line), to be changed.
    pub(crate) fn line_mut(&mut self, index: usize) -> impl Iterator<Item = &mut V> {
        let lines = self.lines.len().max(1);
        let line = self.lines.get_mut(index % lines);
        let entries = line.into_iter().flat_map(|line| &mut line.0);
        entries
            .filter(|entry| entry.key != 0)
            .map(|entry| &mut entry.value)
    }

    /// Takes out what is at a place in use.
    pub(crate) fn remove(&mut self, place: usize) -> V {
        self.used -= 1;
        mem::take(self.entry_mut(place)).value
    }

    /// Whether many entries are not in their first line.
    const fn is_crowded(&self) -> bool {
        self.used * 4 >= self.lines.len() * N * 3
    }

    /// Whether there are so many entries that it is no wonder if some find no place. If some do not
    /// where there are fewer, somebody has chosen their keys, and more lines would be of no use.
    const fn is_peopled(&self) -> bool {
        self.used * 8 >= self.lines.len() * N
    }

    /// Doubles the lines, if there may be so many.
    #[cold]
    fn grow(&mut self) -> bool {
        if self.lines.len() >= self.most_lines() {
            return false;
        }
        self.in_vain = 0;
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
        let mut places = self.places_of(entry.key).into_iter();
        let place = places.find(|&place| pair_of::<N>(place) / 2 == pair && self.is_free(place));
        let place = place.expect("one of the two pairs is that of the key");
        *self.entry_mut(place) = entry;
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
/// Twice as many lines make two of each, so that what a key names stays in the same part of the
/// table.
#[inline]
fn lines_of(key: u64, lines: usize) -> impl Iterator<Item = usize> {
    let homes = [key >> 32, key & u64::from(u32::MAX)].map(|half| (half * lines as u64) >> 32);
    let homes = homes.map(|line| usize::try_from(line).unwrap_or_default());
    (0..4).map(move |nth| homes[nth / 2] ^ (nth % 2))
}

/// Which pair of lines a place is in.
const fn pair_of<const N: usize>(place: usize) -> usize {
    place / (2 * N)
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
        assert!(filled * 10 >= narrow.places() * 9, "{filled}");
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

    #[test]
    fn keys_that_were_chosen_to_meet_do_not_make_it_grow() {
        let mut table = Table::<u64, 4>::default();
        let chosen = |at: u64| 0x8000_0000_8000_0000 + at;
        let found_place = (0..1000).filter(|at| put(&mut table, chosen(*at), 0).is_some());
        assert_eq!(found_place.count(), 8);
        assert!(table.lines.len() * 4 <= 8 * 8 * 2, "{}", table.lines.len());
        // There is room for others.
        assert!(
            keys()
                .take(10_000)
                .all(|key| put(&mut table, key, 0).is_some())
        );
    }
}
