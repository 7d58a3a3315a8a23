//! Deliveries in memory, of which the oldest are dropped.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use crate::store::{DeliveryRecord, DeliveryState, KeptEvent};

/// The maximum number of deliveries.
pub(super) const MOST: usize = 10_000;

/// The maximum size in bytes, since the data of an event can be long.
pub(super) const MOST_BYTES: usize = 16 << 20;

/// A place in the list of deliveries: the number of the event, and the endpoint.
pub(super) type Place = (u64, String);

/// Deliveries that are evicted together.
#[derive(Default)]
pub(super) struct Shelf {
    pub(super) kept: BTreeMap<Place, Kept>,
    pub(super) bytes: usize,
}

pub(super) struct Kept {
    pub(super) event: Arc<KeptEvent>,
    pub(super) attempt: u64,
    /// The attempts that were settled with a retry since it was added or replayed.
    pub(super) retries: u32,
    /// The attempts that were claimed and not settled since it was added or replayed.
    pub(super) unfinished: u32,
    pub(super) state: DeliveryState,
    /// Set if it is pending.
    pub(super) next_at: Option<SystemTime>,
    pub(super) settled_at: Option<SystemTime>,
    pub(super) cause: Option<String>,
}

impl Shelf {
    pub(super) fn insert(&mut self, place: Place, kept: Kept) {
        self.bytes += kept.size();
        self.kept.insert(place, kept);
    }

    /// Returns the delivery of the oldest event, if there are too many.
    pub(super) fn surplus(&self) -> Option<Place> {
        let is_full = self.kept.len() > MOST || self.bytes > MOST_BYTES;
        if !is_full || self.kept.len() == 1 {
            return None;
        }
        self.kept.keys().next().cloned()
    }

    pub(super) fn remove(&mut self, place: &Place) -> Option<Kept> {
        let kept = self.kept.remove(place)?;
        self.bytes -= kept.size();
        Some(kept)
    }
}

impl Kept {
    /// Returns the approximate size in bytes.
    fn size(&self) -> usize {
        let cause = self.cause.as_ref().map_or(0, String::len);
        size_of::<Self>() + self.event.id.len() + self.event.event.size() + cause
    }

    pub(super) fn record(&self, endpoint: &str) -> DeliveryRecord {
        DeliveryRecord {
            event: (*self.event).clone(),
            endpoint: endpoint.to_owned(),
            state: self.state,
            attempts: self.attempt,
            next_at: self.next_at,
            settled_at: self.settled_at,
            cause: self.cause.clone(),
        }
    }
}
