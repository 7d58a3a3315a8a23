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
    /// It has grown instead, and each entry may have another place. The next try may do.
    HasGrown,
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

    /// The place of a key, until the table [grows](NoPlace::HasGrown).
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
        if self.is_crowded() {
            return Err(self.grow());
        }
        let place = self.place_for(key, may_forget);
        let place = place.ok_or_else(|| self.grow())?;
        let entry = &mut self.lines[place / N].0[place % N];
        self.used += usize::from(entry.key == 0);
        *entry = Entry {
            key: not_free(key),
            value,
        };
        Ok(place)
    }

    /// A free place, or else that of what may be forgotten: to forget what may be wanted again is to
    /// make it anew then.
    fn place_for(&self, key: u64, mut may_forget: impl FnMut(usize, &V) -> bool) -> Option<usize> {
        let lines = lines_of(not_free(key), self.lines.len());
        let mut places = lines.flat_map(|line| line * N..line * N + N);
        let entry = |place: usize| Some(&self.lines.get(place / N)?.0[place % N]);
        let is_free = |place: &usize| entry(*place).is_some_and(|entry| entry.key == 0);
        let may_do = |place: &usize| {
            let entry = entry(*place);
            entry.is_some_and(|entry| may_forget(*place, &entry.value))
        };
        places.clone().find(is_free).or_else(|| places.find(may_do))
    }

    /// Takes out what is at a place in use.
    pub(crate) fn remove(&mut self, place: usize) -> V {
        self.used -= 1;
        mem::take(&mut self.lines[place / N].0[place % N]).value
    }

    /// Whether many find no room in their first line, and there may be more lines.
    const fn is_crowded(&self) -> bool {
        self.used * 4 >= self.lines.len() * N * 3 && self.lines.len() < self.most_lines()
    }

    /// Doubles the lines, if there may be so many.
    #[cold]
    fn grow(&mut self) -> NoPlace {
        if self.lines.len() >= self.most_lines() {
            return NoPlace::Full;
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
        NoPlace::HasGrown
    }

    /// A pair of lines has become two. Nothing else comes to those, so each has room for all of it.
    fn move_up(&mut self, pair: usize, entry: Entry<V>) {
        let lines = lines_of(entry.key, self.lines.len());
        let place = lines
            .filter(|line| line / 4 == pair)
            .flat_map(|line| (0..N).map(move |at| (line, at)))
            .find(|&(line, at)| self.lines[line].0[at].key == 0);
        let (line, at) = place.expect("one of the two pairs is that of the key");
        self.lines[line].0[at] = entry;
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
                Err(NoPlace::HasGrown) => {}
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
}
