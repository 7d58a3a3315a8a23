//! Which loaded answers may still serve: none whose load began before a change returned.
//!
//! Each key belongs to a counter, by a few bits of its id. A change is written to the store, then
//! the counter is moved, then the change returns. A load notes where the counters stood before it
//! began, and its answer serves for as long as they stand there: what raced a change is dead on
//! arrival, wherever it went.

use crate::util::sync::{AtomicU32, Ordering};

/// How many counters: a change of one key makes one key in so many be loaded anew.
const COUNTERS: usize = 1024;

/// Something that counters are told apart by: spread evenly, and the same for the same key.
pub(crate) trait Spread {
    fn spread(&self) -> usize;
}

/// Where the counters of a key stood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Stamp {
    changes: u32,
    creations: u32,
}

#[derive(Debug)]
pub(crate) struct Epochs {
    changes: Box<[AtomicU32]>,
    /// Apart, since a new key makes only the answer "there is none" wrong.
    creations: Box<[AtomicU32]>,
}

impl Epochs {
    pub(crate) fn new() -> Self {
        let counters = || (0..COUNTERS).map(|_| AtomicU32::new(0)).collect();
        Self {
            changes: counters(),
            creations: counters(),
        }
    }

    /// To be noted before a load begins.
    pub(crate) fn stamp(&self, key: &impl Spread) -> Stamp {
        let at = key.spread() % COUNTERS;
        Stamp {
            changes: self.changes[at].load(Ordering::Acquire),
            creations: self.creations[at].load(Ordering::Acquire),
        }
    }

    /// Whether an answer whose load began at this stamp may serve: one that found a key, or one
    /// that found none.
    pub(crate) fn is_current(&self, key: &impl Spread, stamp: Stamp, found: bool) -> bool {
        let at = key.spread() % COUNTERS;
        self.changes[at].load(Ordering::Acquire) == stamp.changes
            && (found || self.creations[at].load(Ordering::Acquire) == stamp.creations)
    }

    /// After a key was changed in the store, and before that is told to anybody.
    pub(crate) fn changed(&self, key: &impl Spread) {
        self.changes[key.spread() % COUNTERS].fetch_add(1, Ordering::AcqRel);
    }

    /// After a key was created in the store, and before that is told to anybody.
    pub(crate) fn created(&self, key: &impl Spread) {
        self.creations[key.spread() % COUNTERS].fetch_add(1, Ordering::AcqRel);
    }

    /// After any key may have been changed or created.
    pub(crate) fn all_changed(&self) {
        for counter in &self.changes {
            counter.fetch_add(1, Ordering::AcqRel);
        }
    }
}
