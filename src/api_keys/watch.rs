//! Looks at what keys were used for, and raises alerts: a task of the worker.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rand::TryRng;
use rand::rngs::SysRng;

use crate::anomaly::{NoProfile, Observation, Profile, Watch, WatchTable};
use crate::key::digest::KeyId;
use crate::manage::Manager;
use crate::manage::alert::may_be_over;
use crate::manage::policy::IssuePolicy;
use crate::shared::Shared;
use crate::store::{DynManagedKeyStore, KeptProfile, StoreError, StoreErrorKind, in_time};
use crate::util::trace;

/// The time between two looks.
const EVERY: Duration = Duration::from_secs(30);

/// The longest pause after failures.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// The pause after which a store that keeps no profiles is asked again.
const REFUSED_PAUSE: Duration = Duration::from_secs(3_600);

/// The time limit of a call.
const TIME_LIMIT: Duration = Duration::from_secs(10);

/// The observations that are told at a time.
const AT_ONCE: usize = 200;

/// The attempts to save profiles that other processes save, too.
const ATTEMPTS: usize = 8;

/// The attempts at the last look, when the worker is stopped.
const LAST_ATTEMPTS: usize = 2;

/// The task that looks. It keeps what it took until it is told.
pub(super) struct Lookout<'s> {
    shared: &'s Arc<Shared>,
    store: &'s Arc<dyn DynManagedKeyStore>,
    table: &'s Arc<WatchTable>,
    manager: Manager,
    /// What was taken, and may have been told before its answer was lost.
    unconfirmed: Option<Batch>,
    is_on: bool,
    is_refused: bool,
}

/// Observations that are told together, under the number of the write.
struct Batch {
    write: u32,
    seen: Vec<(Arc<Watch>, Observation)>,
}

impl<'s> Lookout<'s> {
    /// Creates the task, if anomalies are detected.
    pub(super) fn new(shared: &'s Arc<Shared>) -> Option<Self> {
        let (store, table) = (shared.usage_store.as_ref()?, shared.watch.as_ref()?);
        let policy = Arc::<IssuePolicy>::default();
        Some(Self {
            shared,
            store,
            table,
            manager: Manager::new(Arc::clone(shared), Arc::clone(store), policy),
            unconfirmed: None,
            is_on: false,
            is_refused: false,
        })
    }

    /// Lets requests be seen, or no longer.
    fn turn(&mut self, is_on: bool) {
        if is_on && !self.is_on {
            self.table.add_lookout();
        }
        if !is_on && self.is_on {
            self.table.remove_lookout();
        }
        self.is_on = is_on;
    }

    /// Looks forever.
    async fn run(&mut self) -> Infallible {
        self.turn(true);
        let mut pause = EVERY;
        loop {
            self.shared.clock.sleep(pause).await;
            pause = match self.look(false).await {
                Ok(()) => EVERY,
                Err(error) if error.kind() == StoreErrorKind::Refused => {
                    trace::profiles_refused(&error, std::mem::replace(&mut self.is_refused, true));
                    self.turn(false);
                    self.shared.clock.sleep(REFUSED_PAUSE).await;
                    self.turn(true);
                    EVERY
                }
                Err(error) => {
                    trace::not_looked(&error);
                    (pause * 2).min(LONGEST_PAUSE)
                }
            };
        }
    }

    /// Tells what is left, and lets no further requests be seen.
    pub(super) async fn finish(&mut self) {
        self.turn(false);
        for _ in 0..LAST_ATTEMPTS {
            match self.look(true).await {
                Ok(()) => return,
                Err(error) if error.kind() == StoreErrorKind::Refused => return,
                Err(error) => trace::not_looked(&error),
            }
        }
    }

    /// Looks at what is due, or at all.
    async fn look(&mut self, all: bool) -> Result<(), StoreError> {
        loop {
            let batch = if let Some(batch) = self.unconfirmed.take() {
                batch
            } else {
                let second = self.shared.clock.monotonic().as_secs();
                let seen = self.table.take(AT_ONCE, second, all);
                Batch {
                    write: random(),
                    seen,
                }
            };
            if batch.seen.is_empty() {
                return Ok(());
            }
            // Kept from here on: a call may be dropped, or late.
            let batch = self.unconfirmed.insert(batch);
            let work = Work {
                shared: self.shared,
                store: &**self.store,
                table: self.table,
                manager: &self.manager,
            };
            work.tell(batch).await?;
            self.unconfirmed = None;
        }
    }
}

/// Looks forever, if anomalies are detected.
pub(super) async fn run(lookout: &mut Option<Lookout<'_>>) -> Infallible {
    match lookout {
        Some(lookout) => lookout.run().await,
        None => pending().await,
    }
}

/// Requests are not seen any more if the worker is dropped.
impl Drop for Lookout<'_> {
    fn drop(&mut self) {
        self.turn(false);
    }
}

/// What is needed to tell a batch.
struct Work<'w> {
    shared: &'w Shared,
    store: &'w dyn DynManagedKeyStore,
    table: &'w WatchTable,
    manager: &'w Manager,
}

impl Work<'_> {
    /// Adds observations to the profiles in the store, and raises alerts before: an alert that was
    /// raised twice is told once, and one that is not raised would be lost with its finding.
    async fn tell(&self, batch: &mut Batch) -> Result<(), StoreError> {
        for _ in 0..ATTEMPTS {
            let kept = self.profiles(&batch.seen).await?;
            let now = self.shared.now();
            let mut profiles = Vec::new();
            let mut done = Vec::new();
            for (lineage, kept) in kept {
                match self.add(batch, lineage, kept, now).await? {
                    Some(profile) => profiles.push(profile),
                    None => done.push(lineage),
                }
            }
            let save = self.store.save_profiles(&profiles);
            done.extend(in_time(&*self.shared.clock, TIME_LIMIT, save).await?);
            batch.seen.retain(|(_, seen)| !done.contains(&seen.lineage));
            if batch.seen.is_empty() {
                return Ok(());
            }
        }
        // Other processes were always faster.
        for (watch, seen) in batch.seen.drain(..) {
            watch.put_back(seen);
        }
        Ok(())
    }

    /// Reads the profiles of what was seen, in the order of lineages.
    async fn profiles(
        &self,
        seen: &[(Arc<Watch>, Observation)],
    ) -> Result<BTreeMap<KeyId, Option<KeptProfile>>, StoreError> {
        let lineages = seen.iter().map(|(_, seen)| (seen.lineage, None));
        let mut profiles: BTreeMap<KeyId, Option<KeptProfile>> = lineages.collect();
        let lineages: Vec<KeyId> = profiles.keys().copied().collect();
        let read = self.store.profiles(&lineages);
        for kept in in_time(&*self.shared.clock, TIME_LIMIT, read).await? {
            if let Some(place) = profiles.get_mut(&kept.lineage) {
                *place = Some(kept);
            }
        }
        Ok(profiles)
    }

    /// Adds what was seen of a lineage to its profile. Returns the profile to save; `None` if there
    /// is nothing to save.
    async fn add(
        &self,
        batch: &Batch,
        lineage: KeyId,
        kept: Option<KeptProfile>,
        now: SystemTime,
    ) -> Result<Option<KeptProfile>, StoreError> {
        let version = kept.as_ref().map_or(0, |kept| kept.version);
        let seen = || {
            batch
                .seen
                .iter()
                .filter(|(_, seen)| seen.lineage == lineage)
        };
        let first = || seen().map(|(_, seen)| seen.first_hour()).min();
        let new = || Profile::new(first().unwrap_or_default());
        let profile = kept.map(|kept| Profile::from_bytes(&kept.data));
        let mut profile = match profile {
            None => new(),
            Some(Ok(profile)) if profile.has_write(batch.write) => return Ok(None), // told before
            Some(Ok(profile)) => profile,
            // A process with a later version of the library looks at the key.
            Some(Err(NoProfile::Later)) => return Ok(None),
            Some(Err(NoProfile::Damaged)) => {
                trace::profile_damaged(&lineage);
                new()
            }
        };
        let settings = &self.table.settings;
        for (watch, seen) in seen() {
            let (alert, notable) = settings.assess(&mut profile, seen, now);
            if let Some(alert) = alert {
                let raise = self.manager.raise(&alert, settings, seen.last_hour());
                raise.await.or_else(may_be_over)?;
            }
            watch.set(notable);
        }
        profile.written(batch.write);
        let version = version.saturating_add(1);
        Ok(Some(KeptProfile::new(lineage, version, profile.to_bytes())))
    }
}

/// Returns a random number, for the number of a write.
fn random() -> u32 {
    let mut bytes = [0; 4];
    if SysRng.try_fill_bytes(&mut bytes).is_err() {
        let id = crate::store::ChangeId::unique();
        let (first, _) = id.as_bytes().split_at(4);
        bytes.copy_from_slice(first);
    }
    u32::from_le_bytes(bytes)
}
