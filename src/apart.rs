//! One part of something that many threads use, under a lock of its own.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// A value under a lock that shares no line of the processor's cache with its neighbours, or two lines
/// that are fetched together.
#[derive(Default)]
#[repr(align(128))]
pub(crate) struct Apart<T>(Mutex<T>);

impl<T> Apart<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    /// Nothing that is kept so is left half-changed by a panic.
    #[inline]
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
