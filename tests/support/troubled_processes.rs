//! Processes on one store whose calls fail, lose their answers, hang or come late, with notes of what
//! each did.
#![allow(clippy::unwrap_used, unreachable_pub, reason = "a test may panic")]

use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use tower_api_key::clock::{Clock, ManualClock};
use tower_api_key::store::{
    BoxedOutbox, Change, Claim, Delivery, DeliveryQuery, DeliveryRecord, Endpoint, KeyQuery,
    ListedKey, Outbox, Page, Paging, Replay, Settlement, StoreError,
};
use tower_api_key::{KeyId, KeyRecord, KeyStore, ManagedKeyStore};

use crate::support::random::Random;

/// The time after which a late call is carried out: its caller has given up.
const LATE: Duration = Duration::from_secs(30);

/// What happens to a call of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Good,
    /// The call fails, and nothing is done.
    Fails,
    /// It is done, and the answer is lost.
    LosesAnswer,
    /// There is no answer.
    Hangs,
    /// It is done half a minute later, when its caller has given up.
    IsLate,
}

/// What the oracle knows, in the order in which it happened.
#[derive(Default)]
pub struct Notes {
    /// The number of what happened last.
    last: u64,
    pub looks: Vec<LookAt>,
}

/// A look of a process.
pub struct LookAt {
    process: usize,
    pub at: SystemTime,
    pub began: u64,
    /// When the end of the look was stored.
    pub ended: Option<u64>,
}

impl Notes {
    pub fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }
}

/// What all processes share.
pub struct Shared {
    pub clock: ManualClock,
    pub notes: Mutex<Notes>,
    pub random: Mutex<Random>,
    /// Of a hundred calls, so many go wrong.
    pub trouble: AtomicUsize,
    /// The calls that are being carried out.
    pub busy: AtomicUsize,
}

/// A call that is being carried out.
struct Busy(Arc<Shared>);

impl Busy {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.busy.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(shared))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A store as one process sees it.
#[derive(Clone)]
pub struct Troubled<S> {
    pub store: S,
    pub process: usize,
    pub shared: Arc<Shared>,
}

impl<S: ManagedKeyStore + Outbox + Clone> Troubled<S> {
    fn fate(&self) -> Fate {
        let mut random = self.shared.random.lock().unwrap();
        if random.below(100) >= self.shared.trouble.load(Ordering::SeqCst) {
            return Fate::Good;
        }
        *random.pick(&[
            Fate::Fails,
            Fate::LosesAnswer,
            Fate::LosesAnswer,
            Fate::Hangs,
            Fate::IsLate,
        ])
    }

    /// Carries a call out on a task, so that it comes to its end although its caller is gone.
    async fn call<T: Send + 'static>(
        &self,
        call: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        let fate = self.fate();
        let lost = || StoreError::unavailable("as the test wants it");
        match fate {
            Fate::Fails => return Err(lost()),
            Fate::Hangs => return pending().await,
            Fate::IsLate => {
                let shared = Arc::clone(&self.shared);
                tokio::spawn(async move {
                    shared.clock.sleep(LATE).await;
                    let _busy = Busy::new(&shared);
                    call.await
                });
                return pending().await;
            }
            Fate::Good | Fate::LosesAnswer => {}
        }
        let _busy = Busy::new(&self.shared);
        let on_task = Busy::new(&self.shared);
        let answer = tokio::spawn(async move {
            let answer = call.await;
            drop(on_task);
            answer
        });
        let answer = answer.await.unwrap();
        if fate == Fate::LosesAnswer {
            return Err(lost());
        }
        answer
    }
}

impl<S: ManagedKeyStore + Outbox + Clone> KeyStore for Troubled<S> {
    async fn find(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.store.find(id).await
    }
}

impl<S: ManagedKeyStore + Outbox + Clone> ManagedKeyStore for Troubled<S> {
    async fn find_committed(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.store.find_committed(id).await
    }

    async fn commit(&self, change: &Change) -> Result<(), StoreError> {
        let (store, change) = (self.store.clone(), change.clone());
        self.call(async move { store.commit(&change).await }).await
    }

    async fn list(&self, query: &KeyQuery, paging: &Paging) -> Result<Page<ListedKey>, StoreError> {
        let (store, query, paging) = (self.store.clone(), query.clone(), paging.clone());
        self.call(async move { store.list(&query, &paging).await })
            .await
    }

    fn outbox(&self) -> Option<BoxedOutbox> {
        Some(BoxedOutbox::new(self.clone()))
    }
}

impl<S: ManagedKeyStore + Outbox + Clone> Outbox for Troubled<S> {
    fn namespace(&self) -> String {
        self.store.namespace()
    }

    async fn put_endpoint(&self, endpoint: &Endpoint) -> Result<(), StoreError> {
        self.store.put_endpoint(endpoint).await
    }

    async fn create_endpoint(
        &self,
        endpoint: &Endpoint,
        most_of_account: u32,
    ) -> Result<(), StoreError> {
        self.store.create_endpoint(endpoint, most_of_account).await
    }

    async fn delete_endpoint(&self, id: &str) -> Result<bool, StoreError> {
        self.store.delete_endpoint(id).await
    }

    async fn find_endpoint(&self, id: &str) -> Result<Option<Endpoint>, StoreError> {
        self.store.find_endpoint(id).await
    }

    async fn endpoints(
        &self,
        account: Option<&str>,
        paging: &Paging,
    ) -> Result<Page<Endpoint>, StoreError> {
        self.store.endpoints(account, paging).await
    }

    async fn claim(&self, claim: &Claim) -> Result<Vec<Delivery>, StoreError> {
        self.store.claim(claim).await
    }

    async fn settle(&self, settlement: &Settlement) -> Result<bool, StoreError> {
        self.store.settle(settlement).await
    }

    async fn deliveries(
        &self,
        query: &DeliveryQuery,
        paging: &Paging,
    ) -> Result<Page<DeliveryRecord>, StoreError> {
        self.store.deliveries(query, paging).await
    }

    async fn replay(
        &self,
        endpoint: &str,
        what: Replay<'_>,
        at: SystemTime,
    ) -> Result<u64, StoreError> {
        self.store.replay(endpoint, what, at).await
    }

    async fn announced_until(&self) -> Result<Option<SystemTime>, StoreError> {
        {
            let mut notes = self.shared.notes.lock().unwrap();
            let began = notes.next();
            notes.looks.push(LookAt {
                process: self.process,
                at: self.shared.clock.now(),
                began,
                ended: None,
            });
        }
        let store = self.store.clone();
        self.call(async move { store.announced_until().await })
            .await
    }

    async fn set_announced_until(&self, until: SystemTime) -> Result<(), StoreError> {
        let this = self.clone();
        self.call(async move {
            this.store.set_announced_until(until).await?;
            let mut notes = this.shared.notes.lock().unwrap();
            let ended = notes.next();
            let mut looks = notes.looks.iter_mut().rev();
            let look = looks.find(|look| look.process == this.process && look.at == until);
            look.unwrap().ended = Some(ended);
            Ok(())
        })
        .await
    }
}
