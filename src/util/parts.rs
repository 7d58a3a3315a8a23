//! Something that many threads use at once, in parts, each under a lock of its own.

use std::array;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Values of one kind, each for those of its users whom it falls to.
pub(crate) struct Parts<T>(Box<[Part<T>; COUNT]>);

/// Aligned, so that no two parts are in one line of the processor's caches, or in two neighbouring
/// ones, which are fetched together.
#[repr(align(128))]
struct Part<T>(Mutex<T>);

const COUNT: usize = 64;

impl<T> Parts<T> {
    /// How many there are.
    pub(crate) const COUNT: usize = COUNT;

    pub(crate) fn new(mut part: impl FnMut() -> T) -> Self {
        Self(Box::new(array::from_fn(|_| Part(Mutex::new(part())))))
    }

    /// The place of the part that a hash falls to, by its last bits.
    #[inline]
    pub(crate) const fn place_of(hash: usize) -> usize {
        hash % COUNT
    }

    /// The part that a hash falls to.
    #[inline]
    pub(crate) fn of(&self, hash: usize) -> MutexGuard<'_, T> {
        self.at(Self::place_of(hash))
    }

    /// The part at a place, for whoever locks several: each once, and in one order.
    #[inline]
    pub(crate) fn at(&self, place: usize) -> MutexGuard<'_, T> {
        self.0[place].lock()
    }

    /// One part after the other.
    pub(crate) fn each(&self) -> impl Iterator<Item = MutexGuard<'_, T>> {
        self.0.iter().map(Part::lock)
    }
}

impl<T> Part<T> {
    /// Nothing that is kept so is left half-changed by a panic.
    #[inline]
    fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
