//! A coherent cache: a map in front of a slow source, which serves nothing that raced a change.
//!
//! [`Epochs`] tell which entries are current, and [`SingleFlight`] makes one load of many. The type
//! knows nothing of keys and stores, so that `tests/model` can compile it over a plain map and try
//! the interleavings of threads.

use std::future::Future;
use std::hash::Hash;

use super::epochs::{Epoch, Epochs, StripeHash};
use super::single_flight::{Joined, Room, SingleFlight};
use crate::util::sync::Arc;

/// The most loads of one call, if each answer is out of date when it comes.
const ATTEMPTS: usize = 2;

/// A loaded answer.
pub(crate) trait Answer: Clone + Send + Sync + 'static {
    /// Returns whether the key exists.
    fn was_found(&self) -> bool;

    /// Chooses between this answer, just loaded, and the entry that is cached: this one unless it
    /// is older.
    fn or_newer(self, _cached: Self) -> Self {
        self
    }
}

/// The facts that decide whether an entry may serve.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EntryMeta {
    /// The epoch of the key before the load began.
    pub(crate) epoch: Epoch,
    /// When the load began, in nanoseconds of the monotonic clock. Earlier if the store answered
    /// with an older copy.
    pub(crate) since: u64,
    pub(crate) was_found: bool,
}

/// The map that entries are kept in. It may evict any of them at any time.
pub(crate) trait Map<K, A>: Send + Sync + 'static {
    /// Returns the entry of a key if `wants` it by its facts.
    fn get(&self, key: &K, wants: impl Fn(EntryMeta) -> bool) -> Option<A>;

    /// Replaces the entry of a key. Entries that may not serve are the first to be evicted.
    fn put(&self, key: K, answer: A, meta: EntryMeta, may_serve: impl Fn(&K, EntryMeta) -> bool);
}

/// A map, the epochs of its entries, and the loads that are running.
pub(crate) struct CoherentCache<K: Eq + Hash, A, E, M> {
    entries: Arc<Entries<M>>,
    loads: SingleFlight<(K, Epoch), Result<A, E>>,
}

/// The part that running loads share.
struct Entries<M> {
    map: M,
    epochs: Epochs,
}

/// An error of a load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LoadError<E> {
    /// The source failed.
    Source(E),
    /// Too many loads are running.
    TooMany,
    /// The load panicked.
    Panicked,
}

impl<K, A, E, M> CoherentCache<K, A, E, M>
where
    K: Copy + Eq + Hash + StripeHash + Send + Sync + Unpin + 'static,
    A: Answer,
    E: Clone + Send + Sync + 'static,
    M: Map<K, A>,
{
    pub(crate) fn new(map: M) -> Self {
        let epochs = Epochs::new();
        Self {
            entries: Arc::new(Entries { map, epochs }),
            loads: SingleFlight::new(),
        }
    }

    /// Returns the map, for what concerns neither loads nor changes.
    pub(crate) fn map(&self) -> &M {
        &self.entries.map
    }

    /// Returns the entry of a key if it is current and fresh.
    #[inline]
    pub(crate) fn find(&self, key: &K, is_fresh: impl Fn(EntryMeta) -> bool) -> Option<A> {
        let epochs = &self.entries.epochs;
        self.entries.map.get(key, |meta| {
            epochs.is_current(key, meta.epoch, meta.was_found) && is_fresh(meta)
        })
    }

    /// Returns whether the key was found by its last load, however long ago.
    pub(crate) fn was_found(&self, key: &K) -> bool {
        self.entries.map.get(key, |meta| meta.was_found).is_some()
    }

    /// Returns the entry of a key if it is current, however old.
    pub(crate) fn current(&self, key: &K) -> Option<A> {
        self.find(key, |_| true)
    }

    /// Returns whether the answer of a load that found a key is current. To be asked again after
    /// each wait.
    pub(crate) fn is_current(&self, key: &K, epoch: Epoch) -> bool {
        self.entries.epochs.is_current(key, epoch, true)
    }

    /// Loads a key, once for all concurrent callers, and caches the answer.
    ///
    /// `begin` starts a load in an epoch, if there is `room` for one. `now` is the time; an entry
    /// that `is_fresh` needs no load, and none may serve for longer than `max_age`.
    pub(crate) async fn load<F>(
        &self,
        key: K,
        room: Room,
        max_age: u64,
        now: u64,
        is_fresh: impl Fn(EntryMeta) -> bool,
        begin: impl Fn(Epoch) -> F,
    ) -> Result<A, LoadError<E>>
    where
        F: Future<Output = Result<A, E>> + Send + 'static,
    {
        let mut attempt = 1;
        loop {
            // The epoch is read before the load begins, and is part of the load's name: a caller
            // that comes after a change never joins a load from before it.
            let epoch = self.entries.epochs.epoch(&key);
            let finished = || self.find(&key, &is_fresh).map(Ok);
            let begin = || self.begin(key, epoch, now, max_age, begin(epoch));
            let answer = match self.loads.join((key, epoch), room, finished, begin) {
                Joined::Wait(load) => load.await.ok_or(LoadError::Panicked)?,
                Joined::Done(answer) => answer,
                Joined::Full => return Err(LoadError::TooMany),
            };
            let answer = answer.map_err(LoadError::Source)?;
            let epochs = &self.entries.epochs;
            let is_current = epochs.is_current(&key, epoch, answer.was_found());
            // The last attempt serves in any case: it began after this call, or in the same epoch,
            // so it has every change that had returned before. To go on until nothing changes
            // meanwhile would let a client that changes one key all the time keep out the other
            // keys of its stripe.
            if is_current || attempt == ATTEMPTS {
                return Ok(answer);
            }
            attempt += 1;
        }
    }

    /// Wraps a load, so that it caches its answer before any caller sees it.
    fn begin<F>(
        &self,
        key: K,
        epoch: Epoch,
        since: u64,
        max_age: u64,
        load: F,
    ) -> impl Future<Output = Result<A, E>> + Send + 'static
    where
        F: Future<Output = Result<A, E>> + Send + 'static,
    {
        let entries = Arc::clone(&self.entries);
        async move {
            let mut answer = load.await?;
            if let Some(cached) = entries.map.get(&key, |_| true) {
                answer = answer.or_newer(cached);
            }
            let was_found = answer.was_found();
            // An answer that is out of date by now could only replace one that is not.
            if entries.epochs.is_current(&key, epoch, was_found) {
                let meta = EntryMeta {
                    epoch,
                    since,
                    was_found,
                };
                let may_serve = |key: &K, of: EntryMeta| {
                    entries.epochs.is_current(key, of.epoch, of.was_found)
                        && since.saturating_sub(of.since) < max_age
                };
                entries.map.put(key, answer.clone(), meta, may_serve);
            }
            Ok(answer)
        }
    }

    /// Outdates a key after the source has changed it, and before anybody is told.
    pub(crate) fn outdate(&self, key: &K) {
        self.entries.epochs.outdate(key);
    }

    /// Outdates the absence of a key after the source has created it, and before anybody is told.
    pub(crate) fn outdate_absence(&self, key: &K) {
        self.entries.epochs.outdate_absence(key);
    }

    /// Outdates every entry after any key may have been changed or created.
    pub(crate) fn outdate_all(&self) {
        self.entries.epochs.outdate_all();
    }
}
