//! Records usage: a task of the worker.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use rand::TryRng;
use rand::rngs::SysRng;

use crate::shared::Shared;
use crate::store::{DynManagedKeyStore, KeyUsage, StoreError, StoreErrorKind, UsageBatch, in_time};
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

/// The attempts at the end at batches that fail.
const LAST_ATTEMPTS: u32 = 3;

/// The most batches of counts without a key.
const SUMS: usize = 10;

/// The shares of the time between two records, in percent, of which each process draws one, so
/// that the processes of a fleet do not record all at once.
const JITTER: std::ops::Range<u32> = 80..121;

/// Sends batches of usage to the store, one at a time.
pub(super) struct UsageRecorder<'s> {
    shared: &'s Shared,
    store: &'s Arc<dyn DynManagedKeyStore>,
    node: [u8; 16],
    /// The number of the next batch.
    number: u64,
    /// A batch that may or may not have been recorded. It is sent again as it is.
    unconfirmed: Option<UsageBatch>,
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
            node: random(),
            number: 1,
            unconfirmed: None,
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
                Err(error) if error.kind() == StoreErrorKind::Refused => {
                    // The store records no usage; or its tables are not there yet.
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

    /// Records what is left, and counts nothing any more.
    pub(super) async fn finish(&mut self) {
        self.turn(false);
        let mut attempts = LAST_ATTEMPTS;
        loop {
            // Lists meters that found no room before: in turns, since the list may be full again.
            self.shared.cache.list_meters();
            match self.record_all().await {
                Ok(()) if self.shared.usage.take_overflow() => {}
                Ok(()) => return,
                Err(error) if error.kind() == StoreErrorKind::Refused => return,
                Err(error) => {
                    trace::usage_not_recorded(&error);
                    attempts -= 1;
                    if attempts == 0 {
                        return;
                    }
                }
            }
        }
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
        if has_overflowed {
            self.shared.cache.list_meters();
        } else if is_due {
            self.is_overflowing = false;
        }
        Ok(())
    }

    /// Creates a batch of the usage that every store can keep. A store of the application's own may
    /// have a record with an account that others refuse, and the clock may stand before 1970.
    fn batch_of_good(&self, usage: Vec<KeyUsage>) -> Result<UsageBatch, StoreError> {
        let (node, number) = (self.node, self.number);
        let is_good = |usage: &KeyUsage| UsageBatch::new(node, number, [usage.clone()]).is_ok();
        let good = usage.into_iter().filter(is_good);
        UsageBatch::new(node, number, good).map_err(StoreError::unavailable)
    }

    fn draw_due(&mut self) {
        let mut byte = [0];
        let _ = SysRng.try_fill_bytes(&mut byte);
        let percent = JITTER.start + u32::from(byte[0]) % (JITTER.end - JITTER.start);
        let every = self.shared.usage.settings().record_every;
        self.due = self.shared.clock.monotonic() + every * percent / 100;
    }

    /// Records all counts, until there are none.
    async fn record_all(&mut self) -> Result<(), StoreError> {
        if self.shared.usage.is_on() {
            return self.record(true).await; // another worker goes on
        }
        while self.record_batch(true).await? {}
        Ok(())
    }

    /// Records the counts of keys that count for the first time, or all counts.
    async fn record(&mut self, all: bool) -> Result<(), StoreError> {
        // Bounds the loop, since requests fill the list while it is recorded.
        let most = self.shared.usage.settings().most_keys.div_ceil(MOST_KEYS) + 1;
        for _ in 0..most + SUMS {
            if !self.record_batch(all).await? {
                break;
            }
        }
        Ok(())
    }

    /// Records one batch. Returns whether there was one.
    async fn record_batch(&mut self, all: bool) -> Result<bool, StoreError> {
        let batch = if let Some(batch) = self.unconfirmed.take() {
            batch
        } else {
            let usage = self.shared.usage.take(MOST_KEYS, all);
            if usage.is_empty() {
                return Ok(false);
            }
            match UsageBatch::new(self.node, self.number, usage.iter().cloned()) {
                Ok(batch) => batch,
                Err(error) => {
                    trace::usage_left_out(&error);
                    self.batch_of_good(usage)?
                }
            }
        };
        // Kept from here on: the call may be dropped, or late.
        let batch = self.unconfirmed.insert(batch);
        let call = self.store.record_usage(batch);
        match in_time(&*self.shared.clock, TIME_LIMIT, call).await {
            Ok(()) => {
                self.number += 1;
                self.unconfirmed = None;
                Ok(true)
            }
            Err(error) if error.kind() == StoreErrorKind::Conflict => {
                // The store does not know the batches before this one: it was restored from a
                // backup, for example. Go on as a new node.
                self.node = random();
                self.number = 1;
                let usage = batch.usage().to_vec();
                self.unconfirmed = UsageBatch::new(self.node, self.number, usage).ok();
                Err(error)
            }
            Err(error) => Err(error),
        }
    }
}

/// Requests count nothing if the worker is dropped.
impl Drop for UsageRecorder<'_> {
    fn drop(&mut self) {
        self.turn(false);
    }
}

/// Returns 16 random bytes, for the id of a node or the number of a write.
pub(super) fn random() -> [u8; 16] {
    let mut bytes = [0; 16];
    if SysRng.try_fill_bytes(&mut bytes).is_err() {
        // Unique, too, as long as the process ids of a fleet are.
        bytes = *crate::store::ChangeId::unique().as_bytes();
    }
    bytes
}
