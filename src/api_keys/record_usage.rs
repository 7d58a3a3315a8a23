//! Records usage: a task of the worker.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use rand::TryRng;
use rand::rngs::SysRng;

use crate::shared::Shared;
use crate::store::{DynManagedKeyStore, KeyUsage, StoreError, StoreErrorKind, in_time};
use crate::usage::Batches;
use crate::util::trace;

/// The time between two looks: the first use of a key is recorded at the next one.
const EVERY: Duration = Duration::from_secs(1);

/// The longest pause after batches that could not be recorded. The pause is doubled for each.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The pause after a store has refused a batch. Nothing is counted meanwhile.
const REFUSED_PAUSE: Duration = Duration::from_secs(60);

/// The time limit of a call.
const TIME_LIMIT: Duration = Duration::from_secs(5);

/// The most keys in a batch.
const MOST_KEYS: usize = 2_000;

/// The attempts at the end at batches that fail, a second apart.
const LAST_ATTEMPTS: u32 = 3;

/// The shares of the time between two records, in percent, of which each process draws one, so
/// that the processes of a fleet do not record all at once.
const JITTER: std::ops::Range<u32> = 80..121;

/// Sends batches of usage to the store, one at a time.
pub(super) struct UsageRecorder<'s> {
    shared: &'s Shared,
    store: &'s Arc<dyn DynManagedKeyStore>,
    batches: Batches,
    /// Requests count for this recorder.
    is_on: bool,
    /// The store has refused a batch, which was logged.
    is_refused: bool,
    /// Counts found no room on the list, which was logged.
    is_overflowing: bool,
    /// The time, by the monotonic clock, at which all counts are recorded.
    due: Duration,
}

impl<'s> UsageRecorder<'s> {
    pub(super) fn new(shared: &'s Shared, store: &'s Arc<dyn DynManagedKeyStore>) -> Self {
        Self {
            shared,
            store,
            batches: shared.usage.take_batches(),
            is_on: false,
            is_refused: false,
            is_overflowing: false,
            due: Duration::ZERO,
        }
    }

    /// Lets requests count, or no longer.
    fn turn(&mut self, is_on: bool) {
        if is_on && !self.is_on {
            self.shared.usage.add_recorder();
        }
        if !is_on && self.is_on {
            self.shared.usage.remove_recorder();
        }
        self.is_on = is_on;
    }

    /// Records forever.
    pub(super) async fn run(&mut self) -> Infallible {
        self.turn(true);
        self.draw_due();
        let mut pause = EVERY;
        loop {
            self.shared.clock.sleep(pause).await;
            pause = match self.record_due().await {
                Ok(()) => EVERY,
                // The store records no usage, or its tables are not there yet. One that has recorded
                // some is treated as if it were down: nothing is lost while a right is missing.
                Err(error) if self.never_records(&error) => {
                    // The batch is kept: it may have been recorded before its answer was lost, and
                    // its number must not be given to other counts.
                    trace::usage_refused(&error, std::mem::replace(&mut self.is_refused, true));
                    self.turn(false);
                    self.shared.clock.sleep(REFUSED_PAUSE).await;
                    self.turn(true);
                    EVERY
                }
                Err(error) => {
                    trace::usage_not_recorded(&error);
                    (pause * 2).min(LONGEST_PAUSE)
                }
            };
        }
    }

    /// Returns whether the error is that of a store which has recorded no usage, and refuses to.
    fn never_records(&self, error: &StoreError) -> bool {
        error.kind() == StoreErrorKind::Refused && !self.batches.has_recorded()
    }

    /// Records what is left, and counts nothing any more.
    pub(super) async fn finish(&mut self) {
        self.turn(false);
        let mut attempts = LAST_ATTEMPTS;
        loop {
            // Lists meters that found no room before: in turns, since the list may be full again.
            self.shared.cache.list_meters();
            match self.record(true).await {
                // Another worker goes on with what overflows.
                Ok(()) if self.shared.usage.is_on() => return,
                Ok(()) if self.shared.usage.take_overflow() => {}
                Ok(()) => return,
                Err(error) if self.never_records(&error) => return,
                Err(error) => {
                    attempts -= 1;
                    if attempts == 0 {
                        return trace::usage_given_up(&error, self.waiting_keys());
                    }
                    trace::usage_not_recorded(&error);
                    self.shared.clock.sleep(EVERY).await;
                }
            }
        }
    }

    /// Returns the number of keys whose counts are not recorded.
    fn waiting_keys(&self) -> usize {
        let unconfirmed = self.batches.unconfirmed();
        let unconfirmed = unconfirmed.map_or(0, |batch| batch.usage().len());
        unconfirmed + self.shared.usage.listed(true)
    }

    /// Records the counts of keys that count for the first time, and all counts if they are due.
    async fn record_due(&mut self) -> Result<(), StoreError> {
        let now = self.shared.clock.monotonic();
        let usage = &self.shared.usage;
        let is_due = now >= self.due || usage.is_half_full();
        let result = self.record(is_due).await;
        let has_overflowed = is_due && usage.take_overflow();
        // Also while the store is down, which is when it happens. Once, until all are recorded.
        if has_overflowed && !std::mem::replace(&mut self.is_overflowing, true) {
            trace::usage_folded();
        }
        result?;
        if is_due {
            self.draw_due();
        }
        if is_due && self.is_overflowing {
            // Also those of an outage, which the flag told of at a record that failed.
            self.shared.cache.list_meters();
            self.is_overflowing = has_overflowed;
        }
        Ok(())
    }

    fn draw_due(&mut self) {
        let mut byte = [0];
        let _ = SysRng.try_fill_bytes(&mut byte);
        let percent = JITTER.start + u32::from(byte[0]) % (JITTER.end - JITTER.start);
        let every = self.shared.usage.settings().record_every;
        self.due = self.shared.clock.monotonic() + every * percent / 100;
    }

    /// Records the counts of keys that count for the first time; or, if `all` is set, all counts.
    async fn record(&mut self, all: bool) -> Result<(), StoreError> {
        self.send().await?; // the last batch, if it is not known whether it was recorded
        // Those of workers that were dropped.
        while let Some(left) = self.shared.usage.take_unconfirmed() {
            let own = std::mem::replace(&mut self.batches, left);
            self.shared.usage.keep_batches(own);
            self.send().await?;
        }
        // The meters that are listed now. Requests list further ones meanwhile.
        let mut left = self.shared.usage.listed(all);
        while left > 0 {
            let (usage, meters) = self.shared.usage.take(left.min(MOST_KEYS), all);
            if meters == 0 {
                break;
            }
            left = left.saturating_sub(meters);
            self.record_batch(usage).await?;
        }
        let mut left = if all {
            self.shared.usage.sum_count()
        } else {
            0
        };
        while left > 0 {
            let sums = self.shared.usage.take_sums();
            if sums.is_empty() {
                break;
            }
            left = left.saturating_sub(sums.len());
            self.record_batch(sums).await?;
        }
        Ok(())
    }

    async fn record_batch(&mut self, usage: Vec<KeyUsage>) -> Result<(), StoreError> {
        if usage.is_empty() {
            return Ok(());
        }
        if let Err(error) = self.batches.make(usage.iter().cloned()) {
            // A store of the application's own may have a record with an account that others
            // refuse, and the clock may stand before 1970.
            trace::usage_left_out(&error);
            let good: Vec<_> = usage
                .into_iter()
                .filter(|usage| self.batches.can_have(usage))
                .collect();
            let made = self.batches.make(good);
            made.map_err(StoreError::unavailable)?;
        }
        self.send().await
    }

    /// Sends the batch that is not known to be recorded, if there is one.
    async fn send(&mut self) -> Result<(), StoreError> {
        let Some(batch) = self.batches.unconfirmed() else {
            return Ok(());
        };
        let call = self.store.record_usage(batch);
        let result = in_time(&*self.shared.clock, TIME_LIMIT, call).await;
        match &result {
            Ok(()) => self.batches.confirm(),
            Err(error) if error.kind() == StoreErrorKind::Conflict => self.batches.begin_anew(),
            Err(_) => {}
        }
        result
    }
}

/// Requests count nothing if the worker is dropped. The next worker goes on with its batches.
impl Drop for UsageRecorder<'_> {
    fn drop(&mut self) {
        self.turn(false);
        let batches = std::mem::take(&mut self.batches);
        self.shared.usage.keep_batches(batches);
    }
}
