//! The latest changes of this process, for stores whose replicas lag behind them.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use crate::key::digest::KeyId;
use crate::key::record::KeyRecord;

/// How many changes are remembered.
const MOST: usize = 4096;

/// How many bytes their records may take: records are as large as their owners make them.
const MOST_BYTES: usize = 4 << 20;

/// Records as they were last changed here. A load that brings an older version gets these instead,
/// so that a revoked key is not let in by a replica that has not heard of it.
#[derive(Default)]
pub(super) struct Recent(Mutex<Changes>);

#[derive(Default)]
struct Changes {
    records: HashMap<KeyId, KeyRecord>,
    /// Oldest change first.
    order: VecDeque<KeyId>,
    bytes: usize,
}

impl Changes {
    fn is_full(&self) -> bool {
        self.order.len() > MOST || self.bytes > MOST_BYTES
    }

    fn forget_oldest(&mut self) {
        let oldest = self.order.pop_front();
        if let Some(record) = oldest.and_then(|id| self.records.remove(&id)) {
            self.bytes -= size(&record);
        }
    }
}

fn size(record: &KeyRecord) -> usize {
    size_of::<KeyRecord>() + record.heap()
}

impl Recent {
    pub(super) fn remember(&self, record: KeyRecord) {
        let mut changes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let id = record.id();
        let known = changes.records.get(&id).map(KeyRecord::version);
        if known.is_some_and(|version| version >= record.version()) {
            return;
        }
        changes.bytes += size(&record);
        if let Some(older) = changes.records.insert(id, record) {
            changes.bytes -= size(&older);
            changes.order.retain(|other| *other != id);
        }
        changes.order.push_back(id);
        // The latest change stays, however large it is.
        while changes.is_full() && changes.order.len() > 1 {
            changes.forget_oldest();
        }
    }

    /// The version that a key was last changed to here, or 0.
    pub(super) fn version_of(&self, id: &KeyId) -> u64 {
        let changes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        changes.records.get(id).map_or(0, KeyRecord::version)
    }

    /// The newer one of what was loaded and what was changed here.
    pub(super) fn newest(&self, loaded: KeyRecord) -> KeyRecord {
        self.newer_than(&loaded).unwrap_or(loaded)
    }

    /// What was changed here, if it is newer than what was loaded.
    pub(super) fn newer_than(&self, loaded: &KeyRecord) -> Option<KeyRecord> {
        let changes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let newer = changes.records.get(&loaded.id())?;
        (newer.version() > loaded.version()).then(|| newer.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::digest::KeyDigest;

    fn record(key: &str, version: u64) -> KeyRecord {
        KeyRecord::imported(KeyDigest::of(key), "acme").with_version(version)
    }

    #[test]
    fn what_lags_behind_a_change_is_replaced_by_it() {
        let recent = Recent::default();
        recent.remember(record("a", 3));
        recent.remember(record("a", 2)); // told late
        assert_eq!(recent.newest(record("a", 2)).version(), 3);
        assert_eq!(recent.newest(record("a", 3)).version(), 3);
        assert_eq!(recent.newest(record("a", 4)).version(), 4);
        assert_eq!(recent.newest(record("b", 1)).version(), 1);
    }

    #[test]
    fn only_so_many_changes_are_remembered() {
        let recent = Recent::default();
        for at in 0..=MOST {
            recent.remember(record(&at.to_string(), 2));
            recent.remember(record(&at.to_string(), 3));
        }
        let changes = recent.0.lock().unwrap();
        assert_eq!((changes.records.len(), changes.order.len()), (MOST, MOST));
        assert_eq!(
            changes.bytes,
            changes.records.values().map(size).sum::<usize>()
        );
        drop(changes);
        assert_eq!(recent.newest(record("0", 1)).version(), 1);
        assert_eq!(recent.newest(record("1", 1)).version(), 3);
    }

    /// However large each is, and also as keys are changed again.
    #[test]
    fn only_so_many_bytes_of_changes_are_remembered() {
        let recent = Recent::default();
        for at in 0..3_000_usize {
            let note = "n".repeat(at % 7 * 2_000);
            let newer = record(&(at % 900).to_string(), at as u64 + 1);
            recent.remember(newer.with_metadata([("note".to_owned(), note)].into()));
            let changes = recent.0.lock().unwrap();
            assert!(changes.bytes <= MOST_BYTES);
            assert_eq!(
                changes.bytes,
                changes.records.values().map(size).sum::<usize>()
            );
            assert_eq!(changes.records.len(), changes.order.len());
        }
        let huge = record("huge", 9).with_metadata([("n".to_owned(), "n".repeat(5 << 20))].into());
        recent.remember(huge);
        assert_eq!(recent.newest(record("huge", 1)).version(), 9);
        assert_eq!(recent.0.lock().unwrap().order.len(), 1);
    }
}
