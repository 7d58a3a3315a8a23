//! Striped locks: a value in stripes, each under a mutex of its own.

use std::array;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The number of stripes: many more than a machine has cores, so that threads seldom meet.
const COUNT: usize = 64;

/// Stripes of a value.
pub(crate) struct Striped<T>(Box<[Stripe<T>; COUNT]>);

/// Aligned to two cache lines, since processors fetch pairs: locking one stripe must not take the
/// line of another from a different core.
#[repr(align(128))]
struct Stripe<T>(Mutex<T>);

impl<T> Striped<T> {
    pub(crate) const COUNT: usize = COUNT;

    pub(crate) fn new(mut stripe: impl FnMut() -> T) -> Self {
        Self(Box::new(array::from_fn(|_| Stripe(Mutex::new(stripe())))))
    }

    /// Returns the index of the stripe of a hash: its last bits.
    #[inline]
    pub(crate) const fn index_of(hash: usize) -> usize {
        hash % COUNT
    }

    /// Locks the stripe of a hash.
    #[inline]
    pub(crate) fn of(&self, hash: usize) -> MutexGuard<'_, T> {
        self.at(Self::index_of(hash))
    }

    /// Locks the stripe at an index. A caller that holds several locks takes each once, and all in
    /// one order.
    #[inline]
    pub(crate) fn at(&self, index: usize) -> MutexGuard<'_, T> {
        self.0[index].lock()
    }

    /// Locks one stripe after the other.
    pub(crate) fn each(&self) -> impl Iterator<Item = MutexGuard<'_, T>> {
        self.0.iter().map(Stripe::lock)
    }
}

impl<T> Stripe<T> {
    /// A panic leaves none of the values that are kept so half-changed: a poisoned lock is taken.
    #[inline]
    fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
