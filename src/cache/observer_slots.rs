//! Values that observers keep in the cached entry of a key.

use std::any::Any;
use std::fmt;
use std::sync::OnceLock;

/// A place for each observer, none of which is filled before it is asked for.
#[derive(Default)]
pub(crate) struct ObserverSlots(Box<[OnceLock<Box<dyn Any + Send + Sync>>]>);

impl ObserverSlots {
    /// Places for so many observers; none takes no memory.
    pub(crate) fn new(observers: usize) -> Self {
        Self((0..observers).map(|_| OnceLock::new()).collect())
    }

    /// Returns whether any observer keeps a value.
    pub(crate) fn are_used(&self) -> bool {
        self.0.iter().any(|slot| slot.get().is_some())
    }

    /// Returns the memory of the places, in bytes. The values themselves are the application's.
    pub(super) fn heap(&self) -> usize {
        size_of_val(&*self.0)
    }

    /// Returns the value of an observer, made if it is not there yet.
    pub(crate) fn get<T: Any + Send + Sync>(
        &self,
        observer: usize,
        make: impl FnOnce() -> T,
    ) -> &T {
        let slot = self.0[observer].get_or_init(|| Box::new(make()));
        slot.downcast_ref()
            .expect("an observer keeps values of one type in its slots")
    }
}

impl fmt::Debug for ObserverSlots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ObserverSlots").field(&self.0.len()).finish()
    }
}
