//! The list of the watches that saw something.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::anomaly::settings::AnomalyDetection;
use crate::anomaly::watch::{List, Watch};
use crate::key::record::KeyRecord;

/// The watches on the list. Those of more keys are listed when there is room.
pub(super) const MOST: usize = 100_000;

/// The seconds after which a watch is looked at, even if nothing was notable.
const EVERY: u64 = 600;

/// The watches with something to tell, and the settings.
pub(crate) struct WatchTable {
    pub(crate) settings: AnomalyDetection,
    /// The workers that look. Without one, nothing is seen.
    lookouts: AtomicUsize,
    list: Mutex<Vec<Arc<Watch>>>,
}

impl WatchTable {
    pub(crate) fn new(settings: AnomalyDetection) -> Arc<Self> {
        Arc::new(Self {
            settings,
            lookouts: AtomicUsize::new(0),
            list: Mutex::default(),
        })
    }

    /// Counts a worker that looks.
    pub(crate) fn add_lookout(&self) {
        self.lookouts.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn remove_lookout(&self) {
        self.lookouts.fetch_sub(1, Ordering::Relaxed);
    }

    /// Returns whether requests are seen.
    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        self.lookouts.load(Ordering::Relaxed) > 0
    }

    /// Creates the watch of a key.
    pub(crate) fn watch(self: &Arc<Self>, record: &KeyRecord) -> Arc<Watch> {
        let give = self.settings.baseline.as_ref();
        let baseline = give.and_then(|give| give(record)).map(Arc::new);
        let list: Weak<Self> = Arc::downgrade(self);
        Arc::new(Watch::new(list, record, baseline))
    }

    /// Takes the watches off the list that are due at a second of the monotonic clock: with something
    /// notable, or after a long wait. With `all`, everything is due.
    pub(crate) fn take_due(&self, second: u64, all: bool) -> Vec<Arc<Watch>> {
        let is_due = |watch: &mut Arc<Watch>| all || watch.is_due(second, EVERY);
        self.listed().extract_if(.., is_due).collect()
    }

    /// Returns whether a watch is on the list.
    pub(crate) fn has_due(&self) -> bool {
        !self.listed().is_empty()
    }

    fn listed(&self) -> MutexGuard<'_, Vec<Arc<Watch>>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl List for WatchTable {
    fn list(&self, watch: &Arc<Watch>) -> bool {
        let mut list = self.listed();
        if list.len() >= MOST {
            return false;
        }
        list.push(Arc::clone(watch));
        true
    }
}

impl fmt::Debug for WatchTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchTable")
            .field("settings", &self.settings)
            .field("listed", &self.listed().len())
            .finish_non_exhaustive()
    }
}
