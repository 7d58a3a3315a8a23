//! Numbered batches of usage.

use rand::TryRng;
use rand::rngs::SysRng;

use crate::key::text::KeyRecordError;
use crate::store::{ChangeId, KeyUsage, UsageBatch};

/// The batches that a process sends to the store, one at a time, each with the next number.
///
/// A batch of which it is not known whether it was recorded is kept as it is, and sent again. The
/// store takes each number once.
#[derive(Debug)]
pub(crate) struct Batches {
    node: [u8; 16],
    /// The number of the next batch.
    number: u64,
    unconfirmed: Option<UsageBatch>,
    has_recorded: bool,
}

impl Default for Batches {
    fn default() -> Self {
        Self {
            node: random_id(),
            number: 1,
            unconfirmed: None,
            has_recorded: false,
        }
    }
}

impl Batches {
    /// Returns the batch that may or may not have been recorded.
    pub(crate) fn unconfirmed(&self) -> Option<&UsageBatch> {
        self.unconfirmed.as_ref()
    }

    /// Returns whether the store has recorded a batch before.
    pub(crate) fn has_recorded(&self) -> bool {
        self.has_recorded
    }

    /// Makes the next batch. From here on it is unconfirmed: the call that sends it may be dropped,
    /// or late.
    ///
    /// # Errors
    /// If no store can keep some of the usage.
    pub(crate) fn make(
        &mut self,
        usage: impl IntoIterator<Item = KeyUsage>,
    ) -> Result<(), KeyRecordError> {
        self.unconfirmed = Some(UsageBatch::new(self.node, self.number, usage)?);
        Ok(())
    }

    /// Returns whether a store can keep usage.
    pub(crate) fn can_have(&self, usage: &KeyUsage) -> bool {
        UsageBatch::new(self.node, self.number, [usage.clone()]).is_ok()
    }

    /// The store has recorded the batch.
    pub(crate) fn confirm(&mut self) {
        self.unconfirmed = None;
        self.number += 1;
        self.has_recorded = true;
    }

    /// Goes on as a new node, since the store does not know the batches before this one: it was
    /// restored from a backup, for example.
    pub(crate) fn begin_anew(&mut self) {
        (self.node, self.number) = (random_id(), 1);
        let usage = self.unconfirmed.take();
        let usage = usage.map(|batch| batch.usage().to_vec());
        self.unconfirmed =
            usage.and_then(|usage| UsageBatch::new(self.node, self.number, usage).ok());
    }
}

/// Returns 16 random bytes, for the id of a node or the number of a write.
pub(crate) fn random_id() -> [u8; 16] {
    let mut bytes = [0; 16];
    if SysRng.try_fill_bytes(&mut bytes).is_err() {
        // Unique, too, as long as the process ids of a fleet are.
        bytes = *ChangeId::unique().as_bytes();
    }
    bytes
}
