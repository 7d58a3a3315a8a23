//! Rotations and requests for keys that are lost at every point between the call and its answer:
//! the owner has a working key, and a way on.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use support::{DAY, today};
use tower_api_key::clock::ManualClock;
use tower_api_key::manage::{IssueError, IssueKey, RotateError, RotateKey};
use tower_api_key::store::{
    Actor, Change, IssueRequest, KeyQuery, ListedKey, Page, Paging, StoreError,
};
use tower_api_key::{ApiKeys, KeyId, KeyRecord, KeyStore, ManagedKeyStore, MemoryStore};

/// How a call is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loss {
    /// The store fails without having done what it was asked for.
    Before,
    /// The store does what it was asked for, and fails to say so.
    After,
    /// The future is dropped at a point where it waits.
    Dropped,
}

/// A store that waits before and after each call, and loses one of them.
#[derive(Clone)]
struct Lossy {
    store: MemoryStore,
    loss: Loss,
    /// The calls until one is lost; 0 is none.
    left: Arc<AtomicUsize>,
}

impl Lossy {
    async fn call<T>(
        &self,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let left = self.left.load(Ordering::Relaxed);
        self.left.store(left.saturating_sub(1), Ordering::Relaxed);
        let lost = (left == 1).then_some(self.loss);
        wait().await;
        if lost == Some(Loss::Before) {
            return Err(StoreError::unavailable("it is lost on its way"));
        }
        let answer = call.await;
        wait().await;
        if lost == Some(Loss::After) {
            return Err(StoreError::unavailable("its answer is lost"));
        }
        answer
    }
}

/// Waits for one turn.
async fn wait() {
    let mut waited = false;
    poll_fn(|_| {
        if std::mem::replace(&mut waited, true) {
            return Poll::Ready(());
        }
        Poll::Pending
    })
    .await;
}

impl KeyStore for Lossy {
    async fn find(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.store.find(id).await
    }
}

impl ManagedKeyStore for Lossy {
    async fn find_committed(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.call(self.store.find_committed(id)).await
    }

    async fn commit(&self, change: &Change) -> Result<(), StoreError> {
        self.call(self.store.commit(change)).await
    }

    async fn list(&self, query: &KeyQuery, paging: &Paging) -> Result<Page<ListedKey>, StoreError> {
        self.store.list(query, paging).await
    }

    async fn find_listed(&self, id: &KeyId) -> Result<Option<ListedKey>, StoreError> {
        self.call(self.store.find_listed(id)).await
    }

    async fn find_lineage(&self, first: &KeyId) -> Result<Vec<KeyRecord>, StoreError> {
        self.call(self.store.find_lineage(first)).await
    }

    async fn find_request(&self, id: &[u8; 32]) -> Result<Option<IssueRequest>, StoreError> {
        self.call(self.store.find_request(id)).await
    }
}

struct Owner {
    keys: ApiKeys,
    store: Lossy,
    clock: ManualClock,
}

impl Owner {
    fn new(loss: Loss) -> Self {
        let store = Lossy {
            store: MemoryStore::new(),
            loss,
            left: Arc::default(),
        };
        let clock = ManualClock::at(today());
        let builder = ApiKeys::builder(store.clone()).clock(clock.clone());
        let keys = builder.build().unwrap();
        Self { keys, store, clock }
    }

    async fn works(&self, plaintext: &str) -> bool {
        self.keys.verify(plaintext).await.is_ok()
    }

    /// Loses a call at a point. Returns whether there was one so far on.
    fn lose<T, E: std::fmt::Debug>(
        &self,
        point: usize,
        call: impl IntoFuture<Output = Result<T, E>>,
    ) -> bool {
        let mut call = pin!(call.into_future());
        if self.store.loss == Loss::Dropped {
            return (0..=point).all(|_| support::is_waiting(&mut call));
        }
        self.store.left.store(point + 1, Ordering::Relaxed);
        let lost = drive(&mut call).is_err();
        self.store.left.store(0, Ordering::Relaxed);
        lost
    }

    /// The keys that work, or may work again.
    async fn alive(&self) -> Vec<KeyId> {
        let page = self.keys.list(&KeyQuery::new(), &Paging::first(100)).await;
        let keys = page.unwrap().items.into_iter().map(|key| key.record);
        let now = self.keys.now();
        keys.filter(|key| key.revoked().is_none() && key.expires_at().is_none_or(|end| end > now))
            .map(|key| key.id())
            .collect()
    }
}

/// Polls a future to its end.
fn drive<F: Future + Unpin>(future: &mut F) -> F::Output {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    loop {
        if let Poll::Ready(output) = std::pin::Pin::new(&mut *future).poll(&mut context) {
            return output;
        }
    }
}

fn run<F: IntoFuture>(call: F) -> F::Output {
    drive(&mut pin!(call.into_future()))
}

const LOSSES: [Loss; 3] = [Loss::Before, Loss::After, Loss::Dropped];

#[test]
fn a_rotation_that_is_lost_at_any_point_leaves_a_working_key_and_a_way_on() {
    let kinds: [fn(RotateKey) -> RotateKey; 3] = [
        |rotate| rotate,
        |rotate| rotate.grace(Duration::ZERO),
        |rotate| rotate.compromised("leaked"),
    ];
    for (loss, kind) in LOSSES
        .into_iter()
        .flat_map(|loss| kinds.map(|kind| (loss, kind)))
    {
        // The first rotation, and one that heals a lost answer, which takes more calls.
        for heals in [false, true] {
            let mut points = 0;
            loop {
                let owner = Owner::new(loss);
                let old = run(owner.keys.issue("acme").expires_in(90 * DAY)).unwrap();
                if heals {
                    run(owner.keys.rotate(old.id())).unwrap(); // its answer was lost before
                    owner.clock.advance(Duration::from_secs(60));
                }
                let rotate = || kind(owner.keys.rotate(old.id())).replacing_unused();
                let was_lost = owner.lose(points, rotate());
                if !was_lost {
                    break;
                }
                points += 1;
                let old_works = run(owner.works(old.expose_secret()));
                let has_grace = old_works || run(owner.alive()).len() == 1;
                assert!(
                    has_grace,
                    "{loss:?} {points}: the old key works, or one replaces it"
                );
                // The way on: to ask again, after a minute if it must be.
                let new = match run(rotate()) {
                    Err(RotateError::TooEarly { retry_after, .. }) => {
                        owner.clock.advance(retry_after);
                        run(rotate()).unwrap()
                    }
                    rotated => rotated.unwrap(),
                };
                assert!(run(owner.works(new.expose_secret())), "{loss:?} {points}");
                let alive = run(owner.alive());
                let others = alive.iter().filter(|id| **id != old.id());
                assert_eq!(others.collect::<Vec<_>>(), [&new.id()], "{loss:?} {points}");
                assert_eq!(new.record().budget(), old.id());
            }
            assert!(points >= 2, "{loss:?}: {points}");
        }
    }
}

#[test]
fn a_request_that_is_lost_at_any_point_brings_one_key() {
    for loss in LOSSES {
        for heals in [false, true] {
            let mut points = 0;
            loop {
                let owner = Owner::new(loss);
                let request = || -> IssueKey {
                    let issue = owner.keys.issue("acme").by(Actor::user("alice"));
                    issue.idempotency_key("1").reissue()
                };
                if heals {
                    run(request()).unwrap(); // its answer was lost before
                    owner.clock.advance(Duration::from_secs(60));
                }
                if !owner.lose(points, request()) {
                    break;
                }
                points += 1;
                let key = match run(request()) {
                    Err(IssueError::TooEarly { retry_after, .. }) => {
                        owner.clock.advance(retry_after);
                        run(request()).unwrap()
                    }
                    issued => issued.unwrap(),
                };
                assert!(run(owner.works(key.expose_secret())), "{loss:?} {points}");
                assert_eq!(run(owner.alive()), [key.id()], "{loss:?} {points}");
            }
            assert!(points >= 2, "{loss:?}: {points}");
        }
    }
}
