//! A map in front of a slow source: answered from memory if it may be, loaded once if not.

use std::future::Future;
use std::hash::Hash;
use std::time::Duration;

use super::flight::{Boarding, Flights, Load};
use super::guard::{Epochs, Spread, Stamp};
use crate::sync::Arc;

/// How often a load is begun anew when its answer was outdated before it came.
const ATTEMPTS: usize = 8;

/// A value that was loaded, or that there is none.
#[derive(Debug, Clone)]
pub(crate) struct Loaded<V> {
    pub(crate) value: Option<V>,
    /// Where the counters stood before the load began.
    pub(crate) stamp: Stamp,
    /// When the load began, by the monotonic clock.
    pub(crate) since: Duration,
}

/// Where loaded values are kept. It may forget any of them at any time.
pub(crate) trait Map<K, V>: Send + Sync + 'static {
    /// Shows what is kept of a key, where it is.
    fn view<R>(&self, key: &K, look: impl FnOnce(&Loaded<V>) -> R) -> Option<R>;
    fn put(&self, key: K, loaded: Loaded<V>);
}

/// The map, the guard over it, and the loads on their way to it.
pub(crate) struct Guarded<K, V, E, M> {
    shared: Arc<Shared<M>>,
    flights: Flights<(K, Stamp), Result<Loaded<V>, E>>,
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
    /// Each answer was outdated before it came.
    Outdated,
}

impl<K, V, E, M> Guarded<K, V, E, M>
where
    K: Copy + Eq + Hash + Spread + Send + Sync + Unpin + 'static,
    V: Clone + Send + 'static,
    E: Clone + Send + 'static,
    M: Map<K, V>,
{
    pub(crate) fn new(map: M, most_loads: usize) -> Self {
        let epochs = Epochs::new();
        Self {
            shared: Arc::new(Shared { map, epochs }),
            flights: Flights::new(most_loads),
        }
    }

    /// Shows what is kept of a key, if it may still serve.
    #[inline]
    pub(crate) fn view<R>(&self, key: &K, look: impl FnOnce(&Loaded<V>) -> Option<R>) -> Option<R> {
        let look = |loaded: &Loaded<V>| {
            let current = self.is_current(key, loaded.stamp, loaded.value.is_some());
            current.then(|| look(loaded)).flatten()
        };
        self.shared.map.view(key, look).flatten()
    }

    /// A copy of what is kept of a key, if it may still serve.
    pub(crate) fn recall(&self, key: &K) -> Option<Loaded<V>> {
        self.view(key, |loaded| Some(loaded.clone()))
    }

    /// Whether an answer may still serve. To be asked again after each wait.
    pub(crate) fn is_current(&self, key: &K, stamp: Stamp, found: bool) -> bool {
        self.shared.epochs.is_current(key, stamp, found)
    }

    /// Loads a key, once for all who ask for it at the same time, and keeps the answer.
    ///
    /// `now` is when this was asked for; `is_fresh` is whether what is kept needs no load; `begin`
    /// begins one.
    pub(crate) async fn load<F>(
        &self,
        key: K,
        now: Duration,
        is_fresh: impl Fn(&Loaded<V>) -> bool,
        begin: impl Fn() -> F,
    ) -> Result<Loaded<V>, LoadError<E>>
    where
        F: Future<Output = Result<Option<V>, E>> + Send + 'static,
    {
        for _ in 0..ATTEMPTS {
            let stamp = self.shared.epochs.stamp(&key);
            let landed = || self.recall(&key).filter(&is_fresh).map(Ok);
            let begin = || self.begin(key, stamp, now, begin());
            let answer = match self.flights.join((key, stamp), landed, begin) {
                Boarding::Joined(flight) => flight.await.ok_or(LoadError::Lost)?,
                Boarding::Landed(answer) => answer,
                Boarding::Full => return Err(LoadError::TooMany),
            };
            let loaded = answer.map_err(LoadError::Source)?;
            if self.is_current(&key, loaded.stamp, loaded.value.is_some()) {
                return Ok(loaded);
            }
        }
        Err(LoadError::Outdated)
    }

    /// A load that keeps its answer before anybody sees it.
    fn begin<F>(&self, key: K, stamp: Stamp, since: Duration, load: F) -> Load<Result<Loaded<V>, E>>
    where
        F: Future<Output = Result<Option<V>, E>> + Send + 'static,
    {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            let value = load.await?;
            let loaded = Loaded {
                value,
                stamp,
                since,
            };
            // What is outdated by now could only take the place of what is not.
            if shared
                .epochs
                .is_current(&key, stamp, loaded.value.is_some())
            {
                shared.map.put(key, loaded.clone());
            }
            Ok(loaded)
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
