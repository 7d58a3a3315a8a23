//! Something that many threads use at once, in parts, each under a lock of its own.

use std::array;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Values of one kind, of which each use is about one.
pub(crate) struct Parts<T>(Box<[Part<T>; COUNT]>);

/// It shares no line of the processor's cache with its neighbours, nor two that are fetched together.
#[repr(align(128))]
struct Part<T>(Mutex<T>);

const COUNT: usize = 64;

impl<T> Parts<T> {
    /// How many there are.
    pub(crate) const COUNT: usize = COUNT;

    pub(crate) fn new(mut part: impl FnMut() -> T) -> Self {
        Self(Box::new(array::from_fn(|_| Part(Mutex::new(part())))))
    }

    /// Which part what has these bits is in.
    #[inline]
    pub(crate) const fn place_of(bits: usize) -> usize {
        bits % COUNT
    }

    /// The part that what has these bits is in.
    #[inline]
    pub(crate) fn of(&self, bits: usize) -> MutexGuard<'_, T> {
        self.0[Self::place_of(bits)].lock()
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
