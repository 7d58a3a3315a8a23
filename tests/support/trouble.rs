//! A store and a limiter that get into trouble when they are told to, and out of it again.

use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::Duration;

use tower_api_key::clock::{Clock, ManualClock};
use tower_api_key::limit::{
    BudgetStatus, Charge, LimiterError, MemoryLimiter, RateLimiter, Refund, Verdict,
};
use tower_api_key::store::{Change, StoreError};
use tower_api_key::{KeyId, KeyRecord, KeyStore, ManagedKeyStore, MemoryStore};

/// Nobody passes until it is opened.
#[derive(Clone, Default)]
pub struct Gate(Arc<Mutex<(bool, Vec<Waker>)>>);

impl Gate {
    pub fn open(&self) {
        let mut gate = self.0.lock().unwrap();
        gate.0 = true;
        let waiting = std::mem::take(&mut gate.1);
        drop(gate);
        waiting.into_iter().for_each(Waker::wake);
    }

    pub async fn pass(&self) {
        poll_fn(|cx| {
            let mut gate = self.0.lock().unwrap();
            if gate.0 {
                return Poll::Ready(());
            }
            if !gate.1.iter().any(|waiting| waiting.will_wake(cx.waker())) {
                gate.1.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }
}

/// How long an answer takes. What it says is looked up before.
#[derive(Clone)]
pub enum Delay {
    None,
    Until(Gate),
    For(Duration),
}

impl Delay {
    async fn pass(&self, clock: &ManualClock) {
        match self {
            Self::None => {}
            Self::Until(gate) => gate.pass().await,
            Self::For(time) => clock.sleep(*time).await,
        }
    }
}

/// What a store answers with.
#[derive(Clone)]
pub enum Says {
    WhatItKeeps,
    This(Box<Option<KeyRecord>>),
    Down,
    Corrupt,
    Panic,
}

/// Keys in memory, behind trouble. Clones share everything.
#[derive(Clone)]
pub struct TroubledStore {
    /// What is kept, for changes that are made elsewhere.
    pub kept: MemoryStore,
    clock: ManualClock,
    trouble: Arc<Mutex<(Says, Delay)>>,
    asked: Arc<AtomicUsize>,
}

impl TroubledStore {
    pub fn new(clock: &ManualClock) -> Self {
        Self {
            kept: MemoryStore::new(),
            clock: clock.clone(),
            trouble: Arc::new(Mutex::new((Says::WhatItKeeps, Delay::None))),
            asked: Arc::default(),
        }
    }

    pub fn gets_well(&self) {
        self.gets(Says::WhatItKeeps, Delay::None);
    }

    pub fn fails(&self) {
        self.gets(Says::Down, Delay::None);
    }

    /// Answers with what it keeps at the time of the question, once the gate is open.
    pub fn hangs(&self) -> Gate {
        let gate = Gate::default();
        self.gets(Says::WhatItKeeps, Delay::Until(gate.clone()));
        gate
    }

    /// Answers with a record, whatever it is asked for, as a replica that lags behind.
    pub fn says(&self, record: impl Into<Option<KeyRecord>>) {
        self.gets(Says::This(Box::new(record.into())), Delay::None);
    }

    pub fn gets(&self, says: Says, delay: Delay) {
        *self.trouble.lock().unwrap() = (says, delay);
    }

    /// How often it was asked since this was last called.
    pub fn asked(&self) -> usize {
        self.asked.swap(0, Ordering::SeqCst)
    }
}

impl KeyStore for TroubledStore {
    async fn find(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let (says, delay) = self.trouble.lock().unwrap().clone();
        let kept = self.kept.find(id).await;
        delay.pass(&self.clock).await;
        match says {
            Says::WhatItKeeps => kept,
            Says::This(record) => Ok(*record),
            Says::Down => Err(StoreError::unavailable("down")),
            Says::Corrupt => Err(StoreError::corrupt("row")),
            Says::Panic => panic!("the store panics, as it was told to"),
        }
    }
}

impl ManagedKeyStore for TroubledStore {
    /// From the primary, where the rest is answered by a replica.
    async fn find_committed(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        let lags = matches!(self.trouble.lock().unwrap().0, Says::This(_));
        if lags {
            return self.kept.find(id).await;
        }
        self.find(id).await
    }

    async fn commit(&self, change: &Change) -> Result<(), StoreError> {
        self.kept.commit(change).await
    }

    async fn find_lineage(&self, first: &KeyId) -> Result<Vec<KeyRecord>, StoreError> {
        self.kept.find_lineage(first).await
    }
}

/// What a limiter answers with.
#[derive(Debug, Clone, Copy)]
pub enum Judges {
    Rightly,
    Fails,
    /// It is done, and the answer is lost.
    LosesAnswer,
    /// Allows so many charges, which are not those that it was asked about.
    Others(usize),
}

/// Budgets that are always waited for, behind trouble. Clones share everything.
#[derive(Clone)]
pub struct TroubledLimiter {
    budgets: Arc<MemoryLimiter>,
    clock: ManualClock,
    trouble: Arc<Mutex<(Judges, Delay)>>,
}

impl TroubledLimiter {
    pub fn new(clock: &ManualClock) -> Self {
        Self {
            budgets: Arc::default(),
            clock: clock.clone(),
            trouble: Arc::new(Mutex::new((Judges::Rightly, Delay::None))),
        }
    }

    pub fn gets_well(&self) {
        self.gets(Judges::Rightly, Delay::None);
    }

    pub fn fails(&self) {
        self.gets(Judges::Fails, Delay::None);
    }

    /// Decides at the time of the question, and tells once the gate is open.
    pub fn hangs(&self) -> Gate {
        let gate = Gate::default();
        self.gets(Judges::Rightly, Delay::Until(gate.clone()));
        gate
    }

    pub fn gets(&self, judges: Judges, delay: Delay) {
        *self.trouble.lock().unwrap() = (judges, delay);
    }

    async fn in_trouble<T>(
        &self,
        decide: impl FnOnce(Judges) -> Result<T, LimiterError>,
    ) -> Result<T, LimiterError> {
        let (judges, delay) = self.trouble.lock().unwrap().clone();
        let answer = match judges {
            Judges::Fails => Err(LimiterError::unavailable("down")),
            Judges::LosesAnswer => {
                decide(judges).and(Err(LimiterError::unavailable("the answer was lost")))
            }
            judges => decide(judges),
        };
        tokio::task::yield_now().await;
        delay.pass(&self.clock).await;
        answer
    }
}

impl RateLimiter for TroubledLimiter {
    async fn check(
        &self,
        charges: &[Charge<'_>],
        clock: &dyn Clock,
    ) -> Result<Verdict, LimiterError> {
        let decide = |judges| match judges {
            Judges::Others(count) => {
                let admissible = BudgetStatus::new(1, Duration::ZERO, Some(Duration::ZERO));
                Ok(Verdict::new(&vec![admissible; count]))
            }
            _ => self.budgets.check_now(charges, clock.readings()).unwrap(),
        };
        self.in_trouble(decide).await
    }

    async fn refund(&self, refunds: &[Refund<'_>], clock: &dyn Clock) -> Result<(), LimiterError> {
        let give_back = |_| self.budgets.refund_now(refunds, clock.readings()).unwrap();
        self.in_trouble(give_back).await
    }
}
