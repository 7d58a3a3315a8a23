//! Striped epochs: they tell which loaded answers are out of date.
//!
//! Each key belongs to a stripe, by a few bits of its id, and each stripe counts the changes of its
//! keys. A change is written to the store, then the epoch of its stripe is advanced, then the
//! change returns. A load notes the epoch before it begins, and its answer is current while the
//! stripe stays in that epoch. An answer that raced a change is therefore out of date wherever it
//! is kept.

use crate::util::sync::{AtomicU32, Ordering};

/// The number of stripes. A change of one key also outdates 0.1 % of the other cached keys, which
/// are then loaded once more. The counters take 8 KiB.
const STRIPES: usize = 1024;

/// A key's hash for choosing a stripe: evenly spread, and always the same for the same key.
pub(crate) trait StripeHash {
    fn stripe_hash(&self) -> usize;
}

/// The state of a stripe when a load began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Epoch {
    changes: u32,
    creations: u32,
}

/// The epochs of all stripes.
#[derive(Debug)]
pub(crate) struct Epochs {
    changes: Box<[AtomicU32]>,
    /// Counted apart from changes, since a new key outdates only answers that found none.
    creations: Box<[AtomicU32]>,
}

impl Epochs {
    pub(crate) fn new() -> Self {
        let counters = || (0..STRIPES).map(|_| AtomicU32::new(0)).collect();
        Self {
            changes: counters(),
            creations: counters(),
        }
    }

    /// Returns the epoch of a key. A load calls this before it begins.
    pub(crate) fn epoch(&self, key: &impl StripeHash) -> Epoch {
        let at = key.stripe_hash() % STRIPES;
        Epoch {
            changes: self.changes[at].load(Ordering::Acquire),
            creations: self.creations[at].load(Ordering::Acquire),
        }
    }

    /// Returns whether an answer is current that was loaded in an epoch, and found a key or none.
    pub(crate) fn is_current(&self, key: &impl StripeHash, epoch: Epoch, found: bool) -> bool {
        let at = key.stripe_hash() % STRIPES;
        self.changes[at].load(Ordering::Acquire) == epoch.changes
            && (found || self.creations[at].load(Ordering::Acquire) == epoch.creations)
    }

    /// Advances the epoch of a key after the store has changed it, and before anybody is told.
    pub(crate) fn outdate(&self, key: &impl StripeHash) {
        self.changes[key.stripe_hash() % STRIPES].fetch_add(1, Ordering::AcqRel);
    }

    /// Advances the epoch of a key after the store has created it, and before anybody is told.
    pub(crate) fn outdate_absence(&self, key: &impl StripeHash) {
        self.creations[key.stripe_hash() % STRIPES].fetch_add(1, Ordering::AcqRel);
    }

    /// Advances all epochs after any key may have been changed or created.
    pub(crate) fn outdate_all(&self) {
        for counter in &self.changes {
            counter.fetch_add(1, Ordering::AcqRel);
        }
    }
}
