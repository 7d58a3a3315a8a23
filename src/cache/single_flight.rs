//! Single flight: concurrent loads of one key become one.
//!
//! A load belongs to all its waiters. Each of them polls it when it is woken, so cancelling one
//! waiter leaves the load to the others, and cancelling the last one drops the load.
//!
//! `futures_util::future::Shared` is the plain alternative, and would save 80 lines. It loses a
//! wake-up: when a load is woken while one waiter polls it, the others find it busy, and if that
//! waiter is then cancelled nobody polls the load again. `tests/model` found that within 300
//! schedules (`cancelling_one_waiter_does_not_cancel_the_load`).

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::num::NonZeroU32;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::PoisonError;
use std::task::{Context, Poll, Wake, Waker};

use crate::util::sync::{Arc, Mutex, MutexGuard};

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The loads that are running, by key.
pub(crate) struct SingleFlight<K, T> {
    running: Mutex<Running<K, T>>,
}

struct Running<K, T> {
    loads: HashMap<K, Flight<T>>,
    /// The number of loads that were begun under [`Room::restricted`].
    restricted: u32,
}

struct Flight<T> {
    load: Arc<Load<T>>,
    waiters: u32,
    is_restricted: bool,
}

/// The bounds under which a load may begin.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    /// The most loads that may run.
    pub(crate) most: u32,
    /// The most loads with such a bound that may run, if this is one of them.
    pub(crate) restricted: Option<NonZeroU32>,
}

/// The result of [`SingleFlight::join`].
pub(crate) enum Joined<'f, K: Copy + Eq + Hash, T> {
    Wait(Waiter<'f, K, T>),
    /// A load that ended since the caller looked last has left its answer.
    Done(T),
    /// Too many loads are running.
    Full,
}

impl<K: Copy + Eq + Hash, T> SingleFlight<K, T> {
    pub(crate) fn new() -> Self {
        Self {
            running: Mutex::new(Running {
                loads: HashMap::new(),
                restricted: 0,
            }),
        }
    }

    /// Joins the load of a key, or begins it if there is room.
    ///
    /// `finished` looks for the answer of a load that has just ended.
    pub(crate) fn join<F>(
        &self,
        key: K,
        room: Room,
        finished: impl FnOnce() -> Option<T>,
        begin: impl FnOnce() -> F,
    ) -> Joined<'_, K, T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut running = lock(&self.running);
        let load = if let Some(entry) = running.loads.get_mut(&key) {
            entry.waiters += 1;
            Arc::clone(&entry.load)
        } else {
            // A load is taken off the list after its answer is where `finished` looks.
            if let Some(answer) = finished() {
                return Joined::Done(answer);
            }
            if !running.has_room(room) {
                return Joined::Full;
            }
            let load = Arc::new(Load::new(Box::pin(begin())));
            running.insert(key, &load, room.restricted.is_some());
            load
        };
        Joined::Wait(Waiter {
            loads: self,
            key,
            load,
            id: None,
            is_done: false,
        })
    }

    /// Takes a load off the list once it has ended.
    fn finish(&self, key: &K, load: &Arc<Load<T>>) {
        let mut running = lock(&self.running);
        if running.entry(key, load).is_some() {
            running.remove(key);
        }
    }

    /// Counts one waiter less. The last one takes the load with it.
    fn leave(&self, key: &K, load: &Arc<Load<T>>) {
        let mut running = lock(&self.running);
        let Some(entry) = running.entry(key, load) else {
            return;
        };
        entry.waiters -= 1;
        if entry.waiters == 0 {
            running.remove(key);
            // Outside of the lock, since dropping a load runs code of the store.
            drop(running);
            load.cancel();
        }
    }
}

impl<K: Copy + Eq + Hash, T> Running<K, T> {
    fn has_room(&self, room: Room) -> bool {
        self.loads.len() < room.most as usize
            && room
                .restricted
                .is_none_or(|most| self.restricted < most.get())
    }

    /// Returns the entry of a load, unless another load has taken its place.
    fn entry(&mut self, key: &K, load: &Arc<Load<T>>) -> Option<&mut Flight<T>> {
        let entry = self.loads.get_mut(key)?;
        Arc::ptr_eq(&entry.load, load).then_some(entry)
    }

    fn insert(&mut self, key: K, load: &Arc<Load<T>>, is_restricted: bool) {
        self.restricted += u32::from(is_restricted);
        let entry = Flight {
            load: Arc::clone(load),
            waiters: 1,
            is_restricted,
        };
        self.loads.insert(key, entry);
    }

    fn remove(&mut self, key: &K) {
        if let Some(entry) = self.loads.remove(key) {
            self.restricted -= u32::from(entry.is_restricted);
        }
    }
}

/// A caller that waits for a load. Its output is `None` if the load panicked.
pub(crate) struct Waiter<'f, K: Copy + Eq + Hash, T> {
    loads: &'f SingleFlight<K, T>,
    key: K,
    load: Arc<Load<T>>,
    /// The id of its waker, once it has one.
    id: Option<u64>,
    is_done: bool,
}

impl<K: Copy + Eq + Hash + Unpin, T: Clone + Send + 'static> Future for Waiter<'_, K, T> {
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let this = &mut *self;
        let polled = this.load.poll(&mut this.id, cx);
        if polled.is_ready() {
            this.is_done = true;
            this.loads.finish(&this.key, &this.load);
        }
        polled
    }
}

impl<K: Copy + Eq + Hash, T> Drop for Waiter<'_, K, T> {
    fn drop(&mut self) {
        if self.is_done {
            return;
        }
        if let Some(id) = self.id {
            lock(&self.load.state).wakers.remove(&id);
        }
        self.loads.leave(&self.key, &self.load);
    }
}

struct Load<T> {
    state: Mutex<State<T>>,
}

struct State<T> {
    /// `None` while a waiter polls it, and when it has ended.
    future: Option<BoxFuture<T>>,
    /// The future was woken since it was last polled.
    is_woken: bool,
    /// The output for all waiters: `None` if the load panicked.
    output: Poll<Option<T>>,
    wakers: HashMap<u64, Waker>,
    next_id: u64,
}

impl<T> Load<T> {
    fn new(future: BoxFuture<T>) -> Self {
        Self {
            state: Mutex::new(State {
                future: Some(future),
                is_woken: false,
                output: Poll::Pending,
                wakers: HashMap::new(),
                next_id: 0,
            }),
        }
    }

    fn cancel(&self) {
        let future = lock(&self.state).future.take();
        drop(future);
    }
}

impl<T: Clone + Send + 'static> Load<T> {
    fn poll(self: &Arc<Self>, id: &mut Option<u64>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let mut state = lock(&self.state);
        if state.output.is_ready() {
            return state.output.clone();
        }
        // If the future is not here, another waiter polls it at this moment.
        if let Some(mut future) = state.future.take() {
            state.is_woken = false;
            drop(state);
            let waker = Waker::from(Arc::clone(self));
            let polled = catch_unwind(AssertUnwindSafe(|| {
                future.as_mut().poll(&mut Context::from_waker(&waker))
            }));
            state = lock(&self.state);
            match polled {
                Ok(Poll::Pending) => state.future = Some(future),
                Ok(Poll::Ready(output)) => state.output = Poll::Ready(Some(output)),
                Err(_) => state.output = Poll::Ready(None), // the panic hook has reported it
            }
            if state.output.is_ready() {
                let output = state.output.clone();
                wake_all(state);
                return output;
            }
        }
        let id = *id.get_or_insert_with(|| {
            state.next_id += 1;
            state.next_id
        });
        state.wakers.insert(id, cx.waker().clone());
        // The future was woken while it was polled. It is not polled again here, since it may have
        // yielded to other tasks; and not only this waiter is woken, since it may be cancelled.
        if state.is_woken && state.future.is_some() {
            wake_all(state);
        }
        Poll::Pending
    }
}

/// Wakes the waiters when the load can go on.
impl<T: Send + 'static> Wake for Load<T> {
    fn wake(self: Arc<Self>) {
        let mut state = lock(&self.state);
        state.is_woken = true;
        // A waiter that polls the load at this moment looks at `is_woken` afterwards.
        if state.future.is_some() {
            wake_all(state);
        }
    }
}

/// Wakes all waiters, outside of the lock: a woken task may want it at once.
fn wake_all<T>(mut state: MutexGuard<'_, State<T>>) {
    let wakers = std::mem::take(&mut state.wakers);
    drop(state);
    wakers.into_values().for_each(Waker::wake);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
