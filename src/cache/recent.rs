//! The latest changes that this process knows of, for stores whose replicas lag behind them.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use crate::key::digest::KeyId;
use crate::key::record::KeyRecord;
use crate::store::StoreError;

/// How many changes are remembered.
const MOST: usize = 4096;

/// How many bytes their records may take: records are as large as their owners make them.
const MOST_BYTES: usize = 4 << 20;

/// Records as they were last changed here, and versions that others are known to have written.
///
/// A load that brings an older version of a key that was changed here gets the record from here, so
/// that a revoked key is not let in by a replica that has not heard of it. If another process
/// changed the key, the load fails.
#[derive(Default)]
pub(super) struct Recent(Mutex<Changes>);

#[derive(Default)]
struct Changes {
    keys: HashMap<KeyId, Known>,
    /// Oldest change first.
    order: VecDeque<KeyId>,
    bytes: usize,
}

/// What is known of a key.
enum Known {
    /// It was changed here.
    Record(Box<KeyRecord>),
    /// It was changed elsewhere, to this version at least.
    Version(u64),
}

impl Known {
    fn version(&self) -> u64 {
        match self {
            Self::Record(record) => record.version(),
            Self::Version(version) => *version,
        }
    }

    fn size(&self) -> usize {
        let heap = match self {
            Self::Record(record) => size_of::<KeyRecord>() + record.heap(),
            Self::Version(_) => 0,
        };
        size_of::<Self>() + heap
    }
}

impl Changes {
    fn is_full(&self) -> bool {
        self.order.len() > MOST || self.bytes > MOST_BYTES
    }

    fn remember(&mut self, id: KeyId, known: Known) {
        self.bytes += known.size();
        if let Some(older) = self.keys.insert(id, known) {
            self.bytes -= older.size();
            self.order.retain(|other| *other != id);
        }
        self.order.push_back(id);
        // The latest change stays, however large it is.
        while self.is_full() && self.order.len() > 1 {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let oldest = self.order.pop_front();
        if let Some(known) = oldest.and_then(|id| self.keys.remove(&id)) {
            self.bytes -= known.size();
        }
    }
}

impl Recent {
    /// Remembers a record that was written here.
    pub(super) fn remember(&self, record: KeyRecord) {
        let mut changes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let id = record.id();
        let is_known = match changes.keys.get(&id) {
            None => false,
            Some(Known::Record(known)) => known.version() >= record.version(),
            // The record says more than its version alone.
            Some(Known::Version(version)) => *version > record.version(),
        };
        if !is_known {
            changes.remember(id, Known::Record(Box::new(record)));
        }
    }

    /// Remembers a version that was written elsewhere.
    pub(super) fn remember_version(&self, id: KeyId, version: u64) {
        let mut changes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = changes.keys.get(&id).map_or(0, Known::version);
        if known < version {
            changes.remember(id, Known::Version(version));
        }
    }

    /// The version that a key is known to have reached, or 0.
    pub(super) fn version_of(&self, id: &KeyId) -> u64 {
        let changes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        changes.keys.get(id).map_or(0, Known::version)
    }

    /// Judges that nothing was found, which is an error if another process has changed the key.
    pub(super) fn nothing(&self, id: &KeyId) -> Result<(), StoreError> {
        let changes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match changes.keys.get(id) {
            Some(Known::Version(version)) => Err(StoreError::unavailable(format!(
                "the store lags behind: it found no key that has reached version {version}"
            ))),
            // What was changed here and is gone now was deleted from the store.
            Some(Known::Record(_)) | None => Ok(()),
        }
    }

    /// The newer one of what was loaded and what was changed here.
    pub(super) fn newest(&self, loaded: KeyRecord) -> Result<KeyRecord, StoreError> {
        Ok(self.newer_than(&loaded)?.unwrap_or(loaded))
    }

    /// What was changed here, if it is newer than what was loaded.
    pub(super) fn newer_than(&self, loaded: &KeyRecord) -> Result<Option<KeyRecord>, StoreError> {
        let changes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match changes.keys.get(&loaded.id()) {
            Some(known) if known.version() > loaded.version() => match known {
                Known::Record(record) => Ok(Some((**record).clone())),
                Known::Version(version) => Err(StoreError::unavailable(format!(
                    "the store lags behind: it answered with version {} of a key that has \
                     reached version {version}",
                    loaded.version()
                ))),
            },
            _ => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::digest::KeyDigest;

    /// The version of what serves, if anything does, where a load brings this one.
    fn newest(recent: &Recent, key: &str, version: u64) -> Option<u64> {
        let newest = recent.newest(record(key, version));
        newest.ok().map(|newest| newest.version())
    }

    fn record(key: &str, version: u64) -> KeyRecord {
        KeyRecord::imported(KeyDigest::of(key), "acme").with_version(version)
    }

    #[test]
    fn what_lags_behind_a_change_is_replaced_by_it() {
        let recent = Recent::default();
        recent.remember(record("a", 3));
        recent.remember(record("a", 2)); // told late
        assert_eq!(newest(&recent, "a", 2), Some(3));
        assert_eq!(newest(&recent, "a", 3), Some(3));
        assert_eq!(newest(&recent, "a", 4), Some(4));
        assert_eq!(newest(&recent, "b", 1), Some(1));
    }

    #[test]
    fn what_lags_behind_a_change_of_another_process_is_refused() {
        let recent = Recent::default();
        let id = record("a", 1).id();
        recent.remember_version(id, 3);
        recent.remember_version(id, 2); // told late
        assert_eq!(newest(&recent, "a", 2), None);
        assert_eq!(newest(&recent, "a", 3), Some(3));
        recent.remember(record("a", 2)); // written before, told late
        assert_eq!(newest(&recent, "a", 2), None);
        recent.remember(record("a", 3));
        assert_eq!(newest(&recent, "a", 2), Some(3));
        recent.remember_version(id, 3); // our own change, told by the feed
        assert_eq!(newest(&recent, "a", 2), Some(3));
        recent.remember_version(id, 4);
        assert_eq!(newest(&recent, "a", 3), None);
        assert_eq!(recent.version_of(&id), 4);
    }

    #[test]
    fn only_so_many_changes_are_remembered() {
        let recent = Recent::default();
        for at in 0..=MOST {
            recent.remember(record(&at.to_string(), 2));
            recent.remember(record(&at.to_string(), 3));
        }
        let changes = recent.0.lock().unwrap();
        assert_eq!((changes.keys.len(), changes.order.len()), (MOST, MOST));
        assert_eq!(
            changes.bytes,
            changes.keys.values().map(Known::size).sum::<usize>()
        );
        drop(changes);
        assert_eq!(newest(&recent, "0", 1), Some(1));
        assert_eq!(newest(&recent, "1", 1), Some(3));
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
                changes.keys.values().map(Known::size).sum::<usize>()
            );
            assert_eq!(changes.keys.len(), changes.order.len());
        }
        let huge = record("huge", 9).with_metadata([("n".to_owned(), "n".repeat(5 << 20))].into());
        recent.remember(huge);
        assert_eq!(newest(&recent, "huge", 1), Some(9));
        assert_eq!(recent.0.lock().unwrap().order.len(), 1);
    }
}
