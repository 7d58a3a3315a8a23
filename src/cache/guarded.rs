//! A map in front of a slow source: answered from memory if it may be, loaded once if not.

use std::future::Future;
use std::hash::Hash;

use super::flight::{Boarding, Flights, Load, Room};
use super::guard::{Epochs, Spread, Stamp};
use crate::util::sync::Arc;

/// The loads of a key for one call, if each answer is outdated before it comes.
const ATTEMPTS: usize = 2;

/// What a load brought.
pub(crate) trait Answer: Clone + Send + 'static {
    /// Whether it is something, or that there is nothing.
    fn found(&self) -> bool;

    /// Chooses between what was loaded and what is kept of the key already: the former, unless it
    /// is older.
    fn or_newer(self, _kept: Self) -> Self {
        self
    }
}

/// What an answer's use depends on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin {
    /// Where the counters stood before the load began.
    pub(crate) stamp: Stamp,
    /// When it began, or earlier, in nanoseconds of a clock that is never set.
    pub(crate) since: u64,
    /// Whether it found something.
    pub(crate) found: bool,
}

/// Where answers are kept. It may forget any of them at any time.
pub(crate) trait Map<K, A>: Send + Sync + 'static {
    /// What is kept of a key, if its origin is asked for; else nothing, even if something older is
    /// kept.
    fn get(&self, key: &K, asked_for: impl Fn(Origin) -> bool) -> Option<A>;
    /// Keeps an answer with its origin, in the place of any other of the key. What may not serve
    /// any more, as `may_serve` says, is the first to go.
    fn put(&self, key: K, answer: A, origin: Origin, may_serve: impl Fn(&K, Origin) -> bool);
}

/// The map, the guard over it, and the loads on their way to it.
pub(crate) struct Guarded<K, A, E, M> {
    shared: Arc<Shared<M>>,
    flights: Flights<(K, Stamp), Result<A, E>>,
}

struct Shared<M> {
    map: M,
    epochs: Epochs,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LoadError<E> {
    /// The source failed.
    Source(E),
    /// There are too many loads on their way.
    TooMany,
    /// The load panicked.
    Lost,
}

impl<K, A, E, M> Guarded<K, A, E, M>
where
    K: Copy + Eq + Hash + Spread + Send + Sync + Unpin + 'static,
    A: Answer,
    E: Clone + Send + 'static,
    M: Map<K, A>,
{
    pub(crate) fn new(map: M) -> Self {
        let epochs = Epochs::new();
        Self {
            shared: Arc::new(Shared { map, epochs }),
            flights: Flights::new(),
        }
    }

    /// The map itself, for what concerns neither loads nor changes.
    pub(crate) fn map(&self) -> &M {
        &self.shared.map
    }

    /// What is kept of a key, if it may still serve and is fresh.
    #[inline]
    pub(crate) fn find(&self, key: &K, is_fresh: impl Fn(Origin) -> bool) -> Option<A> {
        let epochs = &self.shared.epochs;
        let may_serve =
            |origin: Origin| epochs.is_current(key, origin.stamp, origin.found) && is_fresh(origin);
        self.shared.map.get(key, may_serve)
    }

    /// Whether something is kept of a key, however old.
    pub(crate) fn holds(&self, key: &K) -> bool {
        self.shared.map.get(key, |origin| origin.found).is_some()
    }

    /// Returns what is kept of a key, however old, if nothing changed since.
    pub(crate) fn unchanged(&self, key: &K) -> Option<A> {
        let epochs = &self.shared.epochs;
        let is_current = |origin: Origin| epochs.is_current(key, origin.stamp, origin.found);
        self.shared.map.get(key, is_current)
    }

    /// Whether something that was found may still be used. To be asked again after each wait.
    pub(crate) fn is_current(&self, key: &K, stamp: Stamp) -> bool {
        self.shared.epochs.is_current(key, stamp, true)
    }

    /// Loads a key, once for all who ask for it at the same time, and keeps the answer.
    ///
    /// The answer serves for a time of `longest`. No load is begun unless there is `room` for it.
    /// `now` is the time, and `is_fresh` is whether what is kept needs no load then. `begin` begins
    /// one, whose answer may serve as long as the counters stand at the stamp that it is given.
    pub(crate) async fn load<F>(
        &self,
        key: K,
        room: Room,
        longest: u64,
        now: u64,
        is_fresh: impl Fn(Origin) -> bool,
        begin: impl Fn(Stamp) -> F,
    ) -> Result<A, LoadError<E>>
    where
        F: Future<Output = Result<A, E>> + Send + 'static,
    {
        let mut attempt = 1;
        loop {
            let stamp = self.shared.epochs.stamp(&key);
            let landed = || self.find(&key, &is_fresh).map(Ok);
            let begin = || self.begin(key, stamp, now, longest, begin(stamp));
            let answer = match self.flights.join((key, stamp), room, landed, begin) {
                Boarding::Joined(flight) => flight.await.ok_or(LoadError::Lost)?,
                Boarding::Landed(answer) => answer,
                Boarding::Full => return Err(LoadError::TooMany),
            };
            let answer = answer.map_err(LoadError::Source)?;
            let is_current = self.shared.epochs.is_current(&key, stamp, answer.found());
            // The last load serves in any case: it began after this call, or with the same
            // counters, so it has every change that had returned before. To go on until nothing
            // changes meanwhile would let whoever changes one key all the time keep out the others
            // that share its counter.
            if is_current || attempt == ATTEMPTS {
                return Ok(answer);
            }
            attempt += 1;
        }
    }

    /// A load that keeps its answer before anybody sees it.
    fn begin<F>(
        &self,
        key: K,
        stamp: Stamp,
        since: u64,
        longest: u64,
        load: F,
    ) -> Load<Result<A, E>>
    where
        F: Future<Output = Result<A, E>> + Send + 'static,
    {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            let mut answer = load.await?;
            if let Some(kept) = shared.map.get(&key, |_| true) {
                answer = answer.or_newer(kept);
            }
            let found = answer.found();
            // What is outdated by now could only take the place of what is not.
            if shared.epochs.is_current(&key, stamp, found) {
                let origin = Origin {
                    stamp,
                    since,
                    found,
                };
                let may_serve = |key: &K, of: Origin| {
                    shared.epochs.is_current(key, of.stamp, of.found)
                        && since.saturating_sub(of.since) < longest
                };
                shared.map.put(key, answer.clone(), origin, may_serve);
            }
            Ok(answer)
        })
    }

    /// After a key was changed at the source, and before that is told to anybody.
    pub(crate) fn changed(&self, key: &K) {
        self.shared.epochs.changed(key);
    }

    /// After a key was created at the source, and before that is told to anybody.
    pub(crate) fn created(&self, key: &K) {
        self.shared.epochs.created(key);
    }

    /// After any key may have been changed or created.
    pub(crate) fn all_changed(&self) {
        self.shared.epochs.all_changed();
    }
}
