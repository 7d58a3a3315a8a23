//! Records the uses of keys: a task of the worker.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use rand::TryRng;
use rand::rngs::SysRng;

use crate::shared::Shared;
use crate::store::{DynManagedKeyStore, StoreError, StoreErrorKind, UsageBatch};
use crate::util::clock::within;
use crate::util::trace;

/// The time between two batches.
const EVERY: Duration = Duration::from_secs(1);

/// The longest pause after batches that could not be recorded. The pause is doubled for each.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The pause after a store has refused a batch. Nothing is noted meanwhile.
const REFUSED_PAUSE: Duration = Duration::from_secs(60);

/// The time limit of a call.
const TIME_LIMIT: Duration = Duration::from_secs(5);

/// The most keys in a batch.
const MOST_KEYS: usize = 2_000;

/// The most batches that are recorded at the end.
const LAST_BATCHES: usize = 25;

/// Sends batches of uses to the store, one at a time.
pub(super) struct UseRecorder<'s> {
    shared: &'s Shared,
    store: &'s Arc<dyn DynManagedKeyStore>,
    node: [u8; 16],
    /// The number of the next batch.
    number: u64,
    /// A batch that may or may not have been recorded. It is sent again as it is.
    unconfirmed: Option<UsageBatch>,
    /// Requests note uses for this recorder.
    is_on: bool,
}

impl<'s> UseRecorder<'s> {
    pub(super) fn new(shared: &'s Shared, store: &'s Arc<dyn DynManagedKeyStore>) -> Self {
        Self {
            shared,
            store,
            node: random(),
            number: 1,
            unconfirmed: None,
            is_on: false,
        }
    }

    /// Lets requests note uses, or no longer.
    fn turn(&mut self, is_on: bool) {
        if is_on && !self.is_on {
            self.shared.last_uses.add_recorder();
        }
        if !is_on && self.is_on {
            self.shared.last_uses.remove_recorder();
        }
        self.is_on = is_on;
    }

    /// Records forever.
    pub(super) async fn run(&mut self) -> Infallible {
        self.turn(true);
        let mut pause = EVERY;
        loop {
            self.shared.clock.sleep(pause).await;
            pause = match self.record().await {
                Ok(()) => EVERY,
                Err(error) if error.kind() == StoreErrorKind::Refused => {
                    // The store records no usage; or its tables are not there yet.
                    trace::uses_refused(&error);
                    self.unconfirmed = None;
                    self.turn(false);
                    self.shared.clock.sleep(REFUSED_PAUSE).await;
                    self.turn(true);
                    EVERY
                }
                Err(error) => {
                    trace::uses_not_recorded(&error);
                    (pause * 2).min(LONGEST_PAUSE)
                }
            };
        }
    }

    /// Records what is left, and notes nothing any more.
    pub(super) async fn finish(&mut self) {
        self.turn(false);
        for _ in 0..LAST_BATCHES {
            match self.record_batch().await {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    if error.kind() != StoreErrorKind::Refused {
                        trace::uses_not_recorded(&error);
                    }
                    return;
                }
            }
        }
    }

    /// Records all that is noted.
    async fn record(&mut self) -> Result<(), StoreError> {
        while self.record_batch().await? {}
        Ok(())
    }

    /// Records one batch. Returns whether there was one.
    async fn record_batch(&mut self) -> Result<bool, StoreError> {
        let batch = if let Some(batch) = self.unconfirmed.take() {
            batch
        } else {
            let uses = self.shared.last_uses.take(MOST_KEYS);
            if uses.is_empty() {
                return Ok(false);
            }
            // An error if the clock stands before 1970 or after 9999.
            let batch = UsageBatch::new(self.node, self.number, uses);
            batch.map_err(StoreError::unavailable)?
        };
        // Kept from here on: the call may be dropped, or late.
        let batch = self.unconfirmed.insert(batch);
        let call = self.store.record_usage(batch);
        let answer = within(&*self.shared.clock, TIME_LIMIT, call).await;
        let late = || StoreError::unavailable(format!("no answer in {TIME_LIMIT:?}"));
        match answer.unwrap_or_else(|| Err(late())) {
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
                let uses = batch.usage().to_vec();
                self.unconfirmed = UsageBatch::new(self.node, self.number, uses).ok();
                Err(error)
            }
            Err(error) => Err(error),
        }
    }
}

/// Requests note nothing if the worker is dropped.
impl Drop for UseRecorder<'_> {
    fn drop(&mut self) {
        self.turn(false);
    }
}

/// Returns 16 random bytes, for the id of a node.
fn random() -> [u8; 16] {
    let mut bytes = [0; 16];
    if SysRng.try_fill_bytes(&mut bytes).is_err() {
        // Unique, too, as long as the process ids of a fleet are.
        bytes = *crate::store::ChangeId::unique().as_bytes();
    }
    bytes
}
