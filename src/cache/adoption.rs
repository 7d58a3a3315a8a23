//! Adoption: keys that the application verifies by itself, once, before they are in the store.

use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::thread::available_parallelism;
use std::time::Duration;

use crate::key::digest::{KeyDigest, KeyId};
use crate::key::plaintext::PlaintextKey;
use crate::key::record::KeyRecord;
use crate::key::verifier::PepperRing;
use crate::store::{
    Action, Actor, ActorKind, Change, DynManagedKeyStore, StoreError, StoreErrorKind, in_time,
};
use crate::util::clock::Clock;

/// The time limit of an adoption, with the wait for its turn.
const TIME_LIMIT: Duration = Duration::from_secs(5);

/// The most requests that wait for their turn.
const MOST_WAITING: usize = 256;

/// A function of the application that verifies a key, and returns its record.
pub(crate) type Adopter = dyn Fn(KeyToAdopt) -> AdoptFuture + Send + Sync;

/// A presented key that the application may verify:
/// [`dangerous_adopt`](crate::ApiKeysBuilder::dangerous_adopt).
///
/// There are as many at once as processors. Move it into the task that computes the slow hash, and
/// drop it when that is done: the next key waits for it.
pub struct KeyToAdopt {
    plaintext: PlaintextKey,
    _turn: Turn,
}

impl KeyToAdopt {
    /// Returns the presented key. Do not log it, and do not store it.
    pub fn expose_secret(&self) -> &str {
        self.plaintext.expose_secret()
    }
}

/// Redacts the key.
impl fmt::Debug for KeyToAdopt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyToAdopt([REDACTED])")
    }
}

pub(crate) type AdoptFuture =
    Pin<Box<dyn Future<Output = Result<Option<KeyRecord>, StoreError>> + Send>>;

/// The functions that verify keys of a format, and the store that their records are committed to.
#[derive(Default)]
pub(crate) struct Adoption {
    /// By the index of the format.
    adopters: Vec<(usize, Arc<Adopter>)>,
    store: Option<Arc<dyn DynManagedKeyStore>>,
    peppers: PepperRing,
    turns: Arc<Turns>,
}

/// A key that may be adopted.
pub(crate) struct AdoptableKey {
    format_index: usize,
    plaintext: PlaintextKey,
}

impl Adoption {
    pub(crate) fn new(
        adopters: Vec<(usize, Arc<Adopter>)>,
        store: Option<Arc<dyn DynManagedKeyStore>>,
        peppers: PepperRing,
    ) -> Self {
        Self {
            adopters,
            store,
            peppers,
            turns: Arc::default(),
        }
    }

    /// Returns a key with its format, if keys of that are adopted.
    pub(crate) fn adoptable(&self, format_index: usize, key: &[u8]) -> Option<Arc<AdoptableKey>> {
        let is_adopted = self
            .adopters
            .iter()
            .any(|(index, _)| *index == format_index);
        let plaintext = str::from_utf8(key).ok().filter(|_| is_adopted)?;
        Some(Arc::new(AdoptableKey {
            format_index,
            plaintext: plaintext.to_owned().into(),
        }))
    }

    /// Asks the application for a key that the store does not know, and commits its record.
    pub(crate) async fn adopt(
        &self,
        key: Arc<AdoptableKey>,
        clock: &dyn Clock,
    ) -> Result<Option<KeyRecord>, StoreError> {
        in_time(clock, TIME_LIMIT, self.take_turn(key, clock)).await
    }

    async fn take_turn(
        &self,
        key: Arc<AdoptableKey>,
        clock: &dyn Clock,
    ) -> Result<Option<KeyRecord>, StoreError> {
        let AdoptableKey {
            format_index,
            plaintext,
        } = &*key;
        let adopter = self
            .adopters
            .iter()
            .find(|(index, _)| index == format_index);
        let (Some((_, adopter)), Some(store)) = (adopter, &self.store) else {
            return Ok(None);
        };
        let digest = KeyDigest::of(plaintext.expose_secret());
        let key = KeyToAdopt {
            _turn: self.turns.take().await?,
            plaintext: plaintext.expose_secret().to_owned().into(),
        };
        let Some(record) = adopter(key).await? else {
            return Ok(None);
        };
        if record.id() != digest.id() {
            return Err(StoreError::corrupt(NotItsRecord(record.id())));
        }
        let record = record
            .with_verifier(self.peppers.verifier(&digest))
            .rounded();
        let change = Change::new(Actor::new(ActorKind::System, "adoption"), clock.now());
        let change = change.create(Action::IMPORTED, record.clone());
        match store.commit(&change.map_err(StoreError::refused)?).await {
            Ok(()) => Ok(Some(record)),
            // Another process has adopted it meanwhile.
            Err(error) if error.kind() == StoreErrorKind::AlreadyExists => {
                store.find_committed(&digest.id()).await
            }
            Err(error) => Err(error),
        }
    }
}

/// A record that the application returned for another key.
#[derive(Debug, thiserror::Error)]
#[error(
    "the record {0} is of another key: build it with KeyRecord::imported(KeyDigest::of(key), …)"
)]
struct NotItsRecord(KeyId);

/// Turns to verify a key: as many at once as there are processors.
#[derive(Default)]
struct Turns(Mutex<Queue>);

#[derive(Default)]
struct Queue {
    taken: usize,
    waiting: VecDeque<Waker>,
}

impl Turns {
    /// Waits for a turn. An error if too many wait.
    async fn take(self: &Arc<Self>) -> Result<Turn, StoreError> {
        let most = available_parallelism().map_or(1, usize::from);
        poll_fn(|cx| {
            let mut queue = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if queue.taken < most {
                queue.taken += 1;
                return Poll::Ready(Ok(Turn(Arc::clone(self))));
            }
            if queue.waiting.len() >= MOST_WAITING {
                let error = StoreError::unavailable("too many keys wait to be adopted");
                return Poll::Ready(Err(error));
            }
            queue.waiting.push_back(cx.waker().clone());
            Poll::Pending
        })
        .await
    }
}

/// A turn, which ends when it is dropped.
struct Turn(Arc<Turns>);

impl Drop for Turn {
    fn drop(&mut self) {
        let mut queue = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        queue.taken -= 1;
        // All of them, since the first one may be gone.
        let waiting = std::mem::take(&mut queue.waiting);
        drop(queue);
        waiting.into_iter().for_each(Waker::wake);
    }
}

impl fmt::Debug for Adoption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Adoption")
            .field(&self.adopters.len())
            .finish()
    }
}
