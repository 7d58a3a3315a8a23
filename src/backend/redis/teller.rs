//! Tells the fleet about changes: fences their copies off, and announces them.
//!
//! While Redis does not answer, the changes are kept, and told when it does. Until then, other
//! processes learn of them when what they have cached is too old.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;

use super::link::{CallError, jittered};
use super::servers::Servers;
use super::shared_cache::SharedCache;
use super::stream::{Announcer, KEYS_OF_ENTRY, News};
use crate::key::digest::KeyId;
use crate::store::ChangedKey;
use crate::util::trace;

/// The most keys that are kept while Redis does not answer: about 1 MB. Beyond it, all processes
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
    untold: Mutex<Untold>,
}

/// The changes that were not told yet.
#[derive(Debug, Default)]
struct Untold {
    /// By key, the latest one.
    keys: HashMap<KeyId, ChangedKey>,
    /// Some were not kept.
    is_incomplete: bool,
    /// A task tells them.
    is_running: bool,
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
            untold: Mutex::default(),
        }
    }

    /// Tells of changes. If that fails, a task tries again until Redis answers, or the process ends.
    pub(super) async fn tell(self: &Arc<Self>, changed: &[ChangedKey]) {
        let mut chunks = changed.chunks(KEYS_OF_ENTRY);
        while let Some(chunk) = chunks.next() {
            if let Err(error) = self.tell_once(chunk).await {
                if self.keep(chunk.iter().chain(chunks.flatten())) {
                    trace::changes_not_told(&error);
                }
                self.tell_later();
                return;
            }
        }
    }

    async fn tell_once(&self, changed: &[ChangedKey]) -> Result<(), CallError> {
        // First the fences: whoever hears of a change must not read an older copy.
        if let Some(cache) = &self.cache {
            let is_old = |key: &&ChangedKey| key.version > 1 || key.is_deleted;
            let fenced: Vec<ChangedKey> = changed.iter().filter(is_old).copied().collect();
            if !fenced.is_empty() {
                cache.fence(&fenced, &self.servers).await?;
            }
        }
        if let Some(announcer) = &self.announcer {
            announcer.announce(News::Changed(changed)).await?;
        }
        Ok(())
    }

    fn untold(&self) -> MutexGuard<'_, Untold> {
        self.untold.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps changes for later. Returns whether there were none before.
    fn keep<'k>(&self, changed: impl Iterator<Item = &'k ChangedKey>) -> bool {
        let mut untold = self.untold();
        let is_first = untold.keys.is_empty();
        for key in changed {
            let is_known = untold.keys.contains_key(&key.id);
            if !is_known && untold.keys.len() >= MOST_KEPT {
                untold.is_incomplete = true;
                continue;
            }
            let known = untold.keys.entry(key.id).or_insert(*key);
            if known.version <= key.version {
                *known = *key;
            }
        }
        is_first
    }

    /// Starts a task that tells what was kept, if none is running.
    fn tell_later(self: &Arc<Self>) {
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let mut untold = self.untold();
        if std::mem::replace(&mut untold.is_running, true) {
            return;
        }
        let teller = Arc::downgrade(self);
        runtime.spawn(async move {
            loop {
                tokio::time::sleep(jittered(PAUSE)).await;
                let Some(teller) = teller.upgrade() else {
                    return;
                };
                if teller.tell_kept().await {
                    return;
                }
            }
        });
    }

    /// Tells what was kept. Returns whether nothing is left.
    async fn tell_kept(&self) -> bool {
        let (chunk, is_incomplete) = {
            let untold = self.untold();
            let chunk = untold.keys.values().take(KEYS_OF_ENTRY).copied();
            (chunk.collect::<Vec<_>>(), untold.is_incomplete)
        };
        if !chunk.is_empty() && self.tell_once(&chunk).await.is_err() {
            return false;
        }
        let is_last = chunk.len() < KEYS_OF_ENTRY;
        if is_last && is_incomplete {
            let told = match &self.announcer {
                Some(announcer) => announcer.announce(News::Unknown).await,
                None => Ok(()),
            };
            if told.is_err() {
                return false;
            }
        }
        let mut untold = self.untold();
        for key in chunk {
            // A later change of the key was kept meanwhile.
            if untold.keys.get(&key.id) == Some(&key) {
                untold.keys.remove(&key.id);
            }
        }
        if is_last {
            untold.is_incomplete = false;
        }
        untold.is_running = !untold.keys.is_empty() || untold.is_incomplete;
        !untold.is_running
    }
}
