//! A read-your-writes buffer: the latest changes that this process knows of, for stores whose
//! replicas lag behind.
//!
//! moka bounds it: only loads and changes ask it, so its cost is beside that of the store.

use std::sync::Arc;

use moka::Entry;
use moka::ops::compute::Op;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use crate::key::digest::KeyId;
use crate::key::record::KeyRecord;
use crate::store::StoreError;

/// The most changes that are remembered.
const MAX_WRITES: u32 = 4096;

/// The most bytes that their records may take: records are as large as their owners make them.
const MAX_BYTES: u32 = 4 << 20;

/// The latest changes of keys, least recently used first to be forgotten.
///
/// A load that brings an older version of a key that was changed here gets the record from here, so
/// that a replica that lags behind does not let in a revoked key. If another process changed the
/// key, the load fails.
pub(super) struct RecentWrites(Cache<KeyId, Write>);

/// The latest change of a key.
#[derive(Clone)]
enum Write {
    /// This process wrote the record.
    Here(Arc<KeyRecord>),
    /// Another process wrote this version, or a later one.
    Elsewhere(u64),
}

impl Write {
    fn version(&self) -> u64 {
        match self {
            Self::Here(record) => record.version(),
            Self::Elsewhere(version) => *version,
        }
    }

    /// Returns the weight in bytes. It is such that no more than [`MAX_WRITES`] fit in, and that
    /// one record fits in however large it is.
    fn weight(&self) -> u32 {
        let bytes = match self {
            Self::Here(record) => size_of::<KeyRecord>() + record.heap(),
            Self::Elsewhere(_) => 0,
        };
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        bytes.clamp(MAX_BYTES / MAX_WRITES, MAX_BYTES)
    }
}

impl RecentWrites {
    pub(super) fn new() -> Self {
        let cache = Cache::builder()
            .max_capacity(MAX_BYTES.into())
            .weigher(|_, write: &Write| write.weight())
            .eviction_policy(EvictionPolicy::lru())
            .build();
        Self(cache)
    }

    /// Remembers a record that this process wrote.
    pub(super) fn remember(&self, record: KeyRecord) {
        let id = record.id();
        self.put_unless(
            id,
            Write::Here(Arc::new(record)),
            |known, new| match known {
                Write::Here(known) => known.version() >= new.version(),
                // A record tells more than a version alone.
                Write::Elsewhere(version) => *version > new.version(),
            },
        );
    }

    /// Remembers a version that another process wrote.
    pub(super) fn remember_version(&self, id: KeyId, version: u64) {
        self.put_unless(id, Write::Elsewhere(version), |known, new| {
            known.version() >= new.version()
        });
    }

    /// Forgets a key that was deleted: a load that does not find it is right.
    pub(super) fn forget(&self, id: &KeyId) {
        self.0.invalidate(id);
    }

    fn put_unless(&self, id: KeyId, new: Write, is_known: impl Fn(&Write, &Write) -> bool) {
        self.0
            .entry(id)
            .and_compute_with(|entry: Option<Entry<_, Write>>| {
                match entry.map(Entry::into_value) {
                    Some(known) if is_known(&known, &new) => Op::Nop,
                    _ => Op::Put(new),
                }
            });
    }

    /// Returns the version that a key is known to have reached, or 0.
    pub(super) fn version_of(&self, id: &KeyId) -> u64 {
        self.0.get(id).map_or(0, |write| write.version())
    }

    /// Judges a load that found no key. That is an error if another process is known to have
    /// written the key.
    pub(super) fn nothing(&self, id: &KeyId) -> Result<(), StoreError> {
        match self.0.get(id) {
            Some(Write::Elsewhere(version)) => Err(StoreError::unavailable(format!(
                "the store lags behind: it found no key that has reached version {version}"
            ))),
            // A key that was changed here and is gone now was deleted from the store.
            Some(Write::Here(_)) | None => Ok(()),
        }
    }

    /// Returns the newer one of a loaded record and the one that was written here.
    pub(super) fn newest(&self, loaded: KeyRecord) -> Result<KeyRecord, StoreError> {
        Ok(self.newer_than(&loaded)?.unwrap_or(loaded))
    }

    /// Returns the record that was written here, if it is newer than a loaded one.
    pub(super) fn newer_than(&self, loaded: &KeyRecord) -> Result<Option<KeyRecord>, StoreError> {
        match self.0.get(&loaded.id()) {
            Some(known) if known.version() > loaded.version() => match known {
                Write::Here(record) => Ok(Some((*record).clone())),
                Write::Elsewhere(version) => Err(StoreError::unavailable(format!(
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
    fn newest(recent: &RecentWrites, key: &str, version: u64) -> Option<u64> {
        let newest = recent.newest(record(key, version));
        newest.ok().map(|newest| newest.version())
    }

    fn record(key: &str, version: u64) -> KeyRecord {
        KeyRecord::imported(KeyDigest::of(key), "acme").with_version(version)
    }

    #[test]
    fn a_lagging_replica_does_not_undo_a_change() {
        let recent = RecentWrites::new();
        recent.remember(record("a", 3));
        recent.remember(record("a", 2)); // told late
        assert_eq!(newest(&recent, "a", 2), Some(3));
        assert_eq!(newest(&recent, "a", 3), Some(3));
        assert_eq!(newest(&recent, "a", 4), Some(4));
        assert_eq!(newest(&recent, "b", 1), Some(1));
    }

    #[test]
    fn a_load_fails_if_it_lags_behind_a_change_of_another_process() {
        let recent = RecentWrites::new();
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
    fn the_latest_changes_are_remembered() {
        const MOST: usize = MAX_WRITES as usize;
        let recent = RecentWrites::new();
        for at in 0..2 * MOST {
            recent.remember(record(&at.to_string(), 2));
            recent.remember(record(&at.to_string(), 3));
        }
        recent.0.run_pending_tasks();
        assert_eq!(recent.0.entry_count(), u64::from(MAX_WRITES));
        assert_eq!(newest(&recent, "0", 1), Some(1));
        for at in MOST..2 * MOST {
            assert_eq!(newest(&recent, &at.to_string(), 1), Some(3));
        }
    }

    /// However large each is, and also as keys are changed again.
    #[test]
    fn the_bytes_of_remembered_changes_are_bounded() {
        let recent = RecentWrites::new();
        for at in 0..3_000_usize {
            let note = "n".repeat(at % 7 * 2_000);
            let newer = record(&(at % 900).to_string(), at as u64 + 1);
            recent.remember(newer.with_metadata([("note".to_owned(), note)].into()));
            recent.0.run_pending_tasks();
            assert!(recent.0.weighted_size() <= u64::from(MAX_BYTES));
        }
        let huge = record("huge", 9).with_metadata([("n".to_owned(), "n".repeat(5 << 20))].into());
        recent.remember(huge);
        recent.0.run_pending_tasks();
        assert_eq!(newest(&recent, "huge", 1), Some(9));
        assert_eq!(recent.0.entry_count(), 1);
    }
}
