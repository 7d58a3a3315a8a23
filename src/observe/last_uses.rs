//! First and last uses of keys, noted by requests and recorded by the worker.
//!
//! A request notes the use of a key if that was not noted in the same minute yet. So a key in
//! steady use costs each request one comparison, and the store one row a minute. What is noted is
//! recorded within a second: the first use of a key at once, and the last use to the minute.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use crate::cache::CachedKey;
use crate::key::digest::KeyId;
use crate::store::{KeyUsage, UsagePeriod};
use crate::util::timestamp::unix_seconds;

/// The keys whose uses are remembered until they are recorded. While the store is down and more
/// keys are in use, the uses of the others are noted when there is room again.
const MOST_PENDING: usize = 50_000;

/// Uses that are not recorded yet.
#[derive(Debug)]
pub(crate) struct LastUses {
    /// The workers that record what is noted. Without one, nothing is.
    recorders: AtomicUsize,
    hides_addresses: bool,
    pending: Mutex<HashMap<KeyId, KeyUsage>>,
}

impl LastUses {
    pub(crate) fn new(hides_addresses: bool) -> Self {
        Self {
            recorders: AtomicUsize::new(0),
            hides_addresses,
            pending: Mutex::default(),
        }
    }

    /// Counts a worker that records what is noted.
    pub(crate) fn add_recorder(&self) {
        self.recorders.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn remove_recorder(&self) {
        self.recorders.fetch_sub(1, Ordering::Relaxed);
    }

    /// Notes the use of a key by a request that was admitted.
    #[inline]
    pub(crate) fn note(
        &self,
        key: &CachedKey,
        now: SystemTime,
        client: impl FnOnce() -> Option<IpAddr>,
    ) {
        if self.recorders.load(Ordering::Relaxed) == 0 {
            return;
        }
        let minute = minute(now);
        if !key.is_noted_in(minute) && self.insert(key, now, client()) {
            key.set_noted_in(minute);
        }
    }

    /// Returns whether there was room.
    #[cold]
    fn insert(&self, key: &CachedKey, now: SystemTime, client: Option<IpAddr>) -> bool {
        let record = key.record();
        let client = client.filter(|_| !self.hides_addresses);
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let is_full = pending.len() >= MOST_PENDING;
        match pending.entry(record.id()) {
            Entry::Occupied(mut entry) => {
                let usage = entry.get_mut();
                usage.first_used_at = usage.first_used_at.min(now);
                usage.last_used_at = usage.last_used_at.max(now);
                usage.last_address = client.or(usage.last_address);
            }
            Entry::Vacant(_) if is_full => return false,
            Entry::Vacant(entry) => {
                let day = u32::try_from(unix_seconds(now) / 86_400).unwrap_or(u32::MAX);
                let period = UsagePeriod::Day(day);
                let mut usage = KeyUsage::new(record.id(), record.account(), period, now);
                usage.environment = Some(key.environment().clone());
                usage.last_address = client;
                entry.insert(usage);
            }
        }
        true
    }

    /// Takes at most so many uses, to be recorded.
    pub(crate) fn take(&self, most: usize) -> Vec<KeyUsage> {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let keys: Vec<KeyId> = pending.keys().take(most).copied().collect();
        keys.iter().filter_map(|key| pending.remove(key)).collect()
    }
}

/// Returns the minute since 1970, as far as it fits.
fn minute(now: SystemTime) -> u16 {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "it comes around after 45 days"
    )]
    let minute = (unix_seconds(now) / 60) as u16;
    minute
}
