//! Memory for keys, side by side.
//!
//! A record and what else there is of a key takes a thousand bytes, of which a request looks at a
//! hundred. Where those of ten thousand keys are strewn over ten megabytes, a request waits longer
//! for the processor to find out where a page of memory is than for the memory itself. So they are
//! taken from the allocator by the dozen, and used again.

use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::known::{Details, KnownKey};
use crate::limit::metering::Metering;

/// How many are taken from the allocator at a time: a few pages.
const BATCH: usize = 128;

/// How many are kept that no key needs.
const MOST: usize = 4096;

pub(super) struct Pool {
    blanks: Mutex<Vec<Arc<KnownKey>>>,
    none: Arc<Details>,
}

impl Pool {
    pub(super) fn new(metering: Arc<Metering>) -> Self {
        Self {
            blanks: Mutex::default(),
            none: Details::of_none(metering),
        }
    }

    /// A key in the place of a blank.
    pub(super) fn fill(&self, known: KnownKey) -> Arc<KnownKey> {
        let mut place = self.blank();
        match Arc::get_mut(&mut place) {
            Some(blank) => *blank = known,
            None => place = Arc::new(known), // somebody else's after all
        }
        place
    }

    /// A key that leaves the cache. If no request uses it, its place is free.
    pub(super) fn empty(&self, mut known: Arc<KnownKey>) {
        let Some(place) = Arc::get_mut(&mut known) else {
            return;
        };
        let emptied = mem::replace(place, KnownKey::blank(&self.none));
        let mut blanks = self.blanks();
        if blanks.len() < MOST {
            blanks.push(known);
        }
        drop(blanks);
        drop(emptied);
    }

    fn blank(&self) -> Arc<KnownKey> {
        let mut blanks = self.blanks();
        if let Some(blank) = blanks.pop() {
            return blank;
        }
        let blank = || Arc::new(KnownKey::blank(&self.none));
        blanks.extend((1..BATCH).map(|_| blank()));
        blank()
    }

    fn blanks(&self) -> MutexGuard<'_, Vec<Arc<KnownKey>>> {
        self.blanks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
