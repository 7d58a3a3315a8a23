//! Tells the fleet about changes: fences their copies off, and announces them.
//!
//! While Redis does not answer, the changes are kept, and told when it does. Until then, other
//! processes learn of them when what they have cached is too old.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::call_error::CallError;
use super::dialing::jittered;
use super::servers::Servers;
use super::shared_cache::{Fence, SharedCache};
use super::stream::{Announcer, KEYS_OF_ENTRY, News};
use crate::key::digest::KeyId;
use crate::store::ChangedKey;
use crate::util::trace;

/// The most changes that are kept while Redis does not answer: about 2 MB. Beyond it, all processes
/// are told later that any key may have been changed.
const MOST_KEPT: usize = 10_000;

/// The pause between two attempts.
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct Teller {
    cache: Option<Arc<SharedCache>>,
    announcer: Option<Arc<Announcer>>,
    /// For fences: more patient than those of the cache.
    servers: Servers,
    kept: Mutex<Kept>,
}

/// What is to be told. A key has an entry for a change with a version, and one for a change without.
#[derive(Debug, Default)]
pub(super) struct Untold {
    fences: HashMap<(KeyId, bool), Fence>,
    news: HashMap<(KeyId, bool), ChangedKey>,
    /// Some changes are missing here.
    is_incomplete: bool,
}

/// What was not told yet.
#[derive(Debug, Default)]
struct Kept {
    untold: Untold,
    /// Tells it.
    task: Option<JoinHandle<()>>,
}

impl Untold {
    /// Adds a change.
    pub(super) fn add(&mut self, key: ChangedKey) {
        if let Some(fence) = Fence::of(&key) {
            self.add_fence(fence);
        }
        self.add_news(key);
    }

    /// Adds a change to a version that may not have been carried out, but may yet be. The fence may
    /// be too high then: the key is loaded without a copy for a while. A process that was told of
    /// the version would refuse the key until it is reached.
    pub(super) fn add_uncertain(&mut self, key: ChangedKey) {
        if let Some(fence) = Fence::of(&key) {
            self.add_fence(fence);
        }
        self.add_news(ChangedKey::new(key.id, 0));
    }

    fn add_fence(&mut self, fence: Fence) {
        let place = (fence.id, fence.version == 0);
        if !self.fences.contains_key(&place) && self.fences.len() >= MOST_KEPT {
            self.is_incomplete = true;
            return;
        }
        let known = self.fences.entry(place).or_insert(fence);
        known.version = known.version.max(fence.version);
    }

    fn add_news(&mut self, key: ChangedKey) {
        let place = (key.id, key.version == 0);
        if !self.news.contains_key(&place) && self.news.len() >= MOST_KEPT {
            self.is_incomplete = true;
            return;
        }
        let known = self.news.entry(place).or_insert(key);
        if known.version <= key.version {
            *known = key;
        }
    }

    fn add_all(&mut self, other: Self) {
        other.fences.into_values().for_each(|it| self.add_fence(it));
        other.news.into_values().for_each(|it| self.add_news(it));
        self.is_incomplete |= other.is_incomplete;
    }

    fn is_empty(&self) -> bool {
        self.fences.is_empty() && self.news.is_empty() && !self.is_incomplete
    }
}

impl Teller {
    pub(super) fn new(
        cache: Option<Arc<SharedCache>>,
        announcer: Option<Arc<Announcer>>,
        servers: Servers,
    ) -> Self {
        Self {
            cache,
            announcer,
            servers,
            kept: Mutex::default(),
        }
    }

    /// Tells of changes. What fails is tried again by a task, until Redis answers or the process
    /// ends.
    pub(super) async fn tell(self: &Arc<Self>, untold: Untold) {
        let (left, error) = self.try_to_tell(untold).await;
        let Some(error) = error else { return };
        let mut kept = self.kept();
        if kept.untold.is_empty() {
            trace::changes_not_told(&error);
        }
        kept.untold.add_all(left);
        self.tell_later(&mut kept);
    }

    /// Tells of changes once. Returns what is left, and an error if there is any.
    async fn try_to_tell(&self, untold: Untold) -> (Untold, Option<CallError>) {
        let mut left = Untold::default();
        let mut failure = None;
        // First the fences: whoever hears of a change should not read an older copy. If one fails,
        // the others are told all the same: they know the version.
        if let Some(cache) = &self.cache {
            let fences: Vec<Fence> = untold.fences.into_values().collect();
            let (failed, error) = cache.fence(&fences, &self.servers).await;
            for fence in failed {
                left.add_fence(fence);
            }
            failure = error;
        }
        let Some(announcer) = &self.announcer else {
            return (left, failure);
        };
        let news: Vec<ChangedKey> = untold.news.into_values().collect();
        let mut entries = news.chunks(KEYS_OF_ENTRY);
        while let Some(keys) = entries.next() {
            if let Err(error) = announcer.announce(News::Changed(keys)).await {
                let rest = keys.iter().chain(entries.flatten());
                rest.for_each(|key| left.add_news(*key));
                left.is_incomplete = untold.is_incomplete;
                return (left, Some(error));
            }
        }
        if untold.is_incomplete
            && let Err(error) = announcer.announce(News::Unknown).await
        {
            left.is_incomplete = true;
            failure = Some(error);
        }
        (left, failure)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a task that tells what was kept, if none is running.
    fn tell_later(self: &Arc<Self>, kept: &mut Kept) {
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let task = kept.task.as_ref();
        if task.is_some_and(|task| !task.is_finished()) {
            return;
        }
        let teller = Arc::downgrade(self);
        kept.task = Some(runtime.spawn(async move {
            loop {
                tokio::time::sleep(jittered(PAUSE)).await;
                let Some(teller) = teller.upgrade() else {
                    return;
                };
                let untold = std::mem::take(&mut teller.kept().untold);
                let (left, _) = teller.try_to_tell(untold).await;
                let mut kept = teller.kept();
                kept.untold.add_all(left);
                if kept.untold.is_empty() {
                    // Whoever keeps something from now on starts another task.
                    kept.task = None;
                    return;
                }
            }
        }));
    }
}
