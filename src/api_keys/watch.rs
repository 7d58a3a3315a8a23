//! Looks at what keys were used for, and raises alerts: a task of the worker.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use crate::anomaly::{
    Alert, NoProfile, Notable, Observation, Profile, Severity, Watch, WatchTable,
};
use crate::key::digest::KeyId;
use crate::manage::ChangeError;
use crate::manage::Manager;
use crate::manage::policy::IssuePolicy;
use crate::shared::Shared;
use crate::store::{DynManagedKeyStore, KeptProfile, StoreError, StoreErrorKind, in_time};
use crate::usage::random_id;
use crate::util::trace;

/// The time between two looks.
const EVERY: Duration = Duration::from_secs(30);

/// The pause after a failure, which doubles with each further one: an answer that was lost is best
/// found again soon.
const FIRST_RETRY: Duration = Duration::from_secs(5);

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
    /// The watches that are due, of the look that has begun.
    due: Vec<Arc<Watch>>,
    /// The batch that was taken, and may have been told before its answer was lost.
    unconfirmed: Option<Batch>,
    is_on: bool,
    is_refused: bool,
}

/// Observations that are told together, under the number of the write.
struct Batch {
    write: u32,
    seen: Vec<(Arc<Watch>, Observation)>,
    raised: Raised,
}

/// The findings that were told, each by its key and what tells it from others, with the severity of
/// the alert.
#[derive(Default)]
struct Raised(HashMap<(KeyId, String), Severity>);

impl Raised {
    /// Returns whether all findings of an alert were told, in one that is as severe.
    fn have(&self, alert: &Alert) -> bool {
        let is_raised = |finding| {
            let raised = self.0.get(&(alert.key, finding));
            raised.is_some_and(|severity| *severity >= alert.severity)
        };
        alert.identities().all(is_raised)
    }

    fn add(&mut self, alert: &Alert) {
        for finding in alert.identities() {
            self.0.insert((alert.key, finding), alert.severity);
        }
    }
}

impl<'s> Lookout<'s> {
    /// Creates the task, if anomalies are detected.
    pub(super) fn new(shared: &'s Arc<Shared>) -> Option<Self> {
        let (store, table) = (shared.managed_store.as_ref()?, shared.watch.as_ref()?);
        let policy = Arc::<IssuePolicy>::default();
        Some(Self {
            shared,
            store,
            table,
            manager: Manager::new(Arc::clone(shared), Arc::clone(store), policy),
            due: Vec::new(),
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
        let mut after_failure = FIRST_RETRY;
        loop {
            self.shared.clock.sleep(pause).await;
            pause = match self.look(false).await {
                Ok(()) => {
                    after_failure = FIRST_RETRY;
                    EVERY
                }
                Err(error) if error.kind() == StoreErrorKind::Refused => {
                    trace::profiles_refused(&error, std::mem::replace(&mut self.is_refused, true));
                    self.turn(false);
                    self.shared.clock.sleep(REFUSED_PAUSE).await;
                    self.turn(true);
                    EVERY
                }
                Err(error) => {
                    trace::not_looked(&error);
                    let pause = after_failure;
                    after_failure = (pause * 2).min(LONGEST_PAUSE);
                    pause
                }
            };
        }
    }

    /// Tells what is left, and lets no further requests be seen.
    pub(super) async fn finish(&mut self) {
        self.turn(false);
        for _ in 0..LAST_ATTEMPTS {
            match self.look(true).await {
                Ok(()) if !self.table.has_due() => return,
                Ok(()) => {} // what other processes were always faster with
                Err(error) if error.kind() == StoreErrorKind::Refused => return,
                Err(error) => trace::not_looked(&error),
            }
        }
    }

    /// Looks at what is due, or at all, when the look begins: what is notable meanwhile waits for the
    /// next one, or clients could keep the worker at it.
    async fn look(&mut self, all: bool) -> Result<(), StoreError> {
        let second = self.shared.clock.monotonic().as_secs();
        if self.due.is_empty() || all {
            self.due.extend(self.table.take_due(second, all));
        }
        loop {
            let batch = if let Some(batch) = self.unconfirmed.take() {
                batch
            } else {
                let rest = self.due.len().saturating_sub(AT_ONCE);
                let due = self.due.split_off(rest).into_iter();
                let seen = due.filter_map(|watch| watch.take(second).map(|seen| (watch, seen)));
                let [a, b, c, d, ..] = random_id();
                Batch {
                    write: u32::from_le_bytes([a, b, c, d]),
                    seen: seen.collect(),
                    raised: Raised::default(),
                }
            };
            if batch.seen.is_empty() && self.due.is_empty() {
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

/// Requests are not seen any more if the worker is dropped. What is not told waits for another one, but
/// for the counts of a batch that may have been told.
impl Drop for Lookout<'_> {
    fn drop(&mut self) {
        self.turn(false);
        for watch in self.due.drain(..) {
            watch.list_again();
        }
        let unconfirmed = self.unconfirmed.take();
        for (watch, seen) in unconfirmed.into_iter().flat_map(|batch| batch.seen) {
            watch.put_back(seen.without_requests());
        }
    }
}

/// The dependencies of telling a batch.
struct Work<'w> {
    shared: &'w Shared,
    store: &'w dyn DynManagedKeyStore,
    table: &'w WatchTable,
    manager: &'w Manager,
}

/// The profile that an observation is added to.
enum Begun {
    /// In the version that is kept, 0 if none is.
    Profile(u64, Box<Profile>),
    /// The observation was added before, and the answer was lost.
    Told,
    /// A later version of the library wrote it.
    Later,
}

impl Work<'_> {
    /// Adds observations to the profiles in the store, and raises alerts before: an alert that was
    /// raised twice is told once, and one that is not raised would be lost with its finding.
    async fn tell(&self, batch: &mut Batch) -> Result<(), StoreError> {
        for _ in 0..ATTEMPTS {
            if batch.seen.is_empty() {
                return Ok(());
            }
            let done = self.try_to_tell(batch).await?;
            batch.seen.retain(|(_, seen)| !done.contains(&seen.key));
        }
        // Other processes were always faster.
        for (watch, seen) in batch.seen.drain(..) {
            watch.put_back(seen);
        }
        Ok(())
    }

    /// Tells observations. Returns the keys whose observations are told.
    async fn try_to_tell(&self, batch: &mut Batch) -> Result<HashSet<KeyId>, StoreError> {
        let kept = self.read(&batch.seen).await?;
        let now = self.shared.now();
        let mut profiles: BTreeMap<KeyId, (u64, Box<Profile>)> = BTreeMap::new();
        let (mut done, mut failed) = (HashSet::new(), HashSet::new());
        for (watch, seen) in &batch.seen {
            let (_, profile) = match profiles.entry(seen.key) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => match self.begin(batch.write, seen, &kept) {
                    Begun::Profile(version, profile) => entry.insert((version, profile)),
                    Begun::Told => {
                        done.insert(seen.key);
                        continue;
                    }
                    Begun::Later => {
                        watch.set(Notable::quiet());
                        done.insert(seen.key);
                        continue;
                    }
                },
            };
            let (alert, notable) = self.table.settings.assess(profile, seen, now);
            watch.set(notable);
            let Some(alert) = alert else {
                continue;
            };
            let raise = self.raise(&mut batch.raised, &alert, seen.last_hour());
            if let Err(error) = raise.await {
                // The others go on. If it is the store, the profiles cannot be saved, either.
                trace::not_looked(&error);
                failed.insert(seen.key);
            }
        }
        profiles.retain(|key, _| !failed.contains(key));
        let profiles = profiles.into_iter().map(|(key, (version, mut profile))| {
            profile.written(batch.write);
            KeptProfile::new(key, version.saturating_add(1), profile.to_bytes())
        });
        let profiles: Vec<KeptProfile> = profiles.collect();
        if !profiles.is_empty() {
            let save = self.store.save_profiles(&profiles);
            done.extend(in_time(&*self.shared.clock, TIME_LIMIT, save).await?);
        }
        Ok(done)
    }

    /// Reads the profiles of keys, and of those that they replaced.
    async fn read(
        &self,
        seen: &[(Arc<Watch>, Observation)],
    ) -> Result<BTreeMap<KeyId, KeptProfile>, StoreError> {
        let keys = seen
            .iter()
            .flat_map(|(_, seen)| [Some(seen.key), seen.predecessor]);
        let keys: BTreeSet<KeyId> = keys.flatten().collect();
        let keys: Vec<KeyId> = keys.into_iter().collect();
        let read = in_time(&*self.shared.clock, TIME_LIMIT, self.store.profiles(&keys)).await?;
        Ok(read.into_iter().map(|kept| (kept.key, kept)).collect())
    }

    /// Returns the profile that an observation is added to: that of its key; or that of the key which
    /// it replaced, if it is used for the first time.
    fn begin(&self, write: u32, seen: &Observation, kept: &BTreeMap<KeyId, KeptProfile>) -> Begun {
        let hour = seen.first_hour();
        let Some(own) = kept.get(&seen.key) else {
            let predecessor = seen.predecessor.and_then(|key| kept.get(&key));
            let predecessor = predecessor.map(|kept| Profile::from_bytes(&kept.data));
            return match predecessor {
                Some(Ok(profile)) => Begun::Profile(0, Box::new(profile.inherited(hour))),
                Some(Err(NoProfile::Later)) => self.later(),
                Some(Err(NoProfile::Damaged)) | None => {
                    Begun::Profile(0, Box::new(Profile::new(hour)))
                }
            };
        };
        match Profile::from_bytes(&own.data) {
            Ok(profile) if profile.has_write(write) => Begun::Told,
            Ok(profile) => Begun::Profile(own.version, Box::new(profile)),
            Err(NoProfile::Damaged) => {
                trace::profile_damaged(&seen.key);
                Begun::Profile(own.version, Box::new(Profile::new(hour)))
            }
            Err(NoProfile::Later) => self.later(),
        }
    }

    fn later(&self) -> Begun {
        trace::profile_of_later_version(&self.shared.log_throttles.later_profile);
        Begun::Later
    }

    /// Raises an alert, unless this batch has raised it. An alert that cannot be stored at all is
    /// logged, so that it does not keep those of other keys waiting.
    async fn raise(&self, raised: &mut Raised, alert: &Alert, hour: u32) -> Result<(), StoreError> {
        if raised.have(alert) {
            return Ok(());
        }
        let raise = async {
            match self.manager.raise(alert, &self.table.settings, hour).await {
                Err(ChangeError::Store(error)) if may_be_over(&error) => Err(error),
                Err(error) => {
                    let (severity, detectors) = (alert.severity.as_str(), alert.detectors());
                    trace::alert_not_stored(&error, &alert.key, severity, &detectors);
                    Ok(())
                }
                Ok(()) => Ok(()),
            }
        };
        in_time(&*self.shared.clock, TIME_LIMIT, raise).await?;
        raised.add(alert);
        Ok(())
    }
}

/// Returns whether an error of a store may be over later.
fn may_be_over(error: &StoreError) -> bool {
    matches!(
        error.kind(),
        StoreErrorKind::Unavailable | StoreErrorKind::Conflict
    )
}
