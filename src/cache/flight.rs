//! Single flight: whoever needs the same load at the same time waits for one.
//!
//! The load belongs to all who wait. Whichever of them is polled, polls it; if one goes away the
//! others carry it on, and only when all are gone is it dropped.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::future::Future;
use std::hash::Hash;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::PoisonError;
use std::task::{Context, Poll, Wake, Waker};

use crate::util::sync::{Arc, Mutex, MutexGuard};

/// A load on its way.
pub(crate) type Load<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// All loads that are on their way.
pub(crate) struct Flights<K, T> {
    listed: Mutex<Listed<K, T>>,
}

struct Listed<K, T> {
    flights: HashMap<K, Listing<T>>,
    /// The number of flights that count against [`Room::few`].
    few: u32,
}

struct Listing<T> {
    flight: Arc<Flight<T>>,
    /// The number of callers that wait for it.
    waiting: u32,
    is_of_few: bool,
}

/// Bounds the loads in flight for another one to begin.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    /// The bound of all loads.
    pub(crate) most: u32,
    /// The bound of the loads that are begun with such a bound, if this is one of them.
    pub(crate) few: Option<NonZeroU32>,
}

impl<K: Copy + Eq + Hash, T> Listed<K, T> {
    fn has(&self, room: Room) -> bool {
        self.flights.len() < room.most as usize && room.few.is_none_or(|few| self.few < few.get())
    }

    fn remove(&mut self, key: &K) {
        if let Some(listing) = self.flights.remove(key) {
            self.few -= u32::from(listing.is_of_few);
        }
    }
}

/// What came of the wish to join a flight.
pub(crate) enum Boarding<'f, K: Copy + Eq + Hash, T> {
    Joined(Join<'f, K, T>),
    /// It has landed already.
    Landed(T),
    /// There are too many loads on their way.
    Full,
}

impl<K: Copy + Eq + Hash, T> Flights<K, T> {
    pub(crate) fn new() -> Self {
        Self {
            listed: Mutex::new(Listed {
                flights: HashMap::new(),
                few: 0,
            }),
        }
    }

    /// Joins the flight for a key, or begins it if there is room, unless `landed` finds what an
    /// earlier one brought.
    pub(crate) fn join(
        &self,
        key: K,
        room: Room,
        landed: impl FnOnce() -> Option<T>,
        begin: impl FnOnce() -> Load<T>,
    ) -> Boarding<'_, K, T> {
        let mut listed = self.listed();
        let has_room = listed.has(room);
        let flight = match listed.flights.entry(key) {
            Entry::Occupied(mut entry) => {
                let listing = entry.get_mut();
                listing.waiting += 1;
                Arc::clone(&listing.flight)
            }
            // A flight is taken off this list after its answer is where `landed` looks for it.
            Entry::Vacant(entry) => match landed() {
                Some(answer) => return Boarding::Landed(answer),
                None if !has_room => return Boarding::Full,
                None => {
                    let flight = Arc::new(Flight::new(begin()));
                    entry.insert(Listing {
                        flight: Arc::clone(&flight),
                        waiting: 1,
                        is_of_few: room.few.is_some(),
                    });
                    listed.few += u32::from(room.few.is_some());
                    flight
                }
            },
        };
        Boarding::Joined(Join {
            flights: self,
            key,
            flight,
            seat: None,
            over: false,
        })
    }

    /// One who waited goes away. The last takes the load with it.
    fn leave(&self, key: &K, flight: &Arc<Flight<T>>) {
        let mut listed = self.listed();
        let Some(listing) = listed.flights.get_mut(key) else {
            return;
        };
        if !Arc::ptr_eq(&listing.flight, flight) {
            return;
        }
        listing.waiting -= 1;
        if listing.waiting == 0 {
            listed.remove(key);
            drop(listed);
            flight.drop_load();
        }
    }

    fn land(&self, key: &K, flight: &Arc<Flight<T>>) {
        let mut listed = self.listed();
        let listing = listed.flights.get(key);
        if listing.is_some_and(|listing| Arc::ptr_eq(&listing.flight, flight)) {
            listed.remove(key);
        }
    }

    fn listed(&self) -> MutexGuard<'_, Listed<K, T>> {
        self.listed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One who waits for a flight. Its answer is `None` if the load panicked, for whoever polled it.
pub(crate) struct Join<'f, K: Copy + Eq + Hash, T> {
    flights: &'f Flights<K, T>,
    key: K,
    flight: Arc<Flight<T>>,
    seat: Option<usize>,
    /// It has landed, and is listed no more.
    over: bool,
}

impl<K: Copy + Eq + Hash + Unpin, T: Clone + Send + 'static> Future for Join<'_, K, T> {
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let this = &mut *self;
        let polled = this.flight.poll(&mut this.seat, cx);
        if polled.is_ready() {
            this.over = true;
            this.flights.land(&this.key, &this.flight);
        }
        polled
    }
}

impl<K: Copy + Eq + Hash, T> Drop for Join<'_, K, T> {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        if let Some(seat) = self.seat {
            let mut state = self.flight.state();
            state.seats[seat] = Seat::Free;
            state.free += 1;
        }
        self.flights.leave(&self.key, &self.flight);
    }
}

struct Flight<T> {
    state: Mutex<State<T>>,
}

struct State<T> {
    /// Not here while somebody polls it, and when it is over.
    load: Option<Load<T>>,
    /// It wants to be polled again.
    woken: bool,
    answer: Answer<T>,
    /// Those who wait.
    seats: Vec<Seat>,
    /// The number of free seats.
    free: u32,
}

enum Seat {
    Free,
    /// Nobody is to be woken while the load is polled.
    Taken(Option<Waker>),
}

impl<T> State<T> {
    /// Takes a seat of somebody who went away, or a new one.
    fn take_seat(&mut self) -> usize {
        if self.free > 0 {
            let is_free = |seat: &Seat| matches!(seat, Seat::Free);
            if let Some(at) = self.seats.iter().position(is_free) {
                self.free -= 1;
                return at;
            }
        }
        self.seats.push(Seat::Taken(None));
        self.seats.len() - 1
    }
}

enum Answer<T> {
    Awaited,
    Here(T),
    /// The load panicked.
    Lost,
}

impl<T> Flight<T> {
    fn new(load: Load<T>) -> Self {
        Self {
            state: Mutex::new(State {
                load: Some(load),
                woken: false,
                answer: Answer::Awaited,
                seats: Vec::new(),
                free: 0,
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn drop_load(&self) {
        let load = self.state().load.take();
        drop(load);
    }

    fn answer(&self, answer: Answer<T>) {
        let mut state = self.state();
        state.answer = answer;
        wake_all(state);
    }
}

impl<T: Clone + Send + 'static> Flight<T> {
    fn poll(self: &Arc<Self>, seat: &mut Option<usize>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let mut state = self.state();
        match &state.answer {
            Answer::Awaited => {}
            Answer::Here(answer) => return Poll::Ready(Some(answer.clone())),
            Answer::Lost => return Poll::Ready(None),
        }
        // Unless somebody else polls it at this moment.
        if let Some(load) = state.load.take() {
            state.woken = false;
            drop(state);
            let mut polling = Polling {
                flight: self,
                load: Some(load),
            };
            if let Poll::Ready(answer) = polling.poll() {
                return Poll::Ready(Some(answer));
            }
            state = self.state();
            state.load = polling.load.take();
        }
        let seat = *seat.get_or_insert_with(|| state.take_seat());
        state.seats[seat] = Seat::Taken(Some(cx.waker().clone()));
        // It wants to go on already. Not here: it may mean to let others of this thread go first.
        if state.woken && state.load.is_some() {
            wake_all(state);
        }
        Poll::Pending
    }
}

/// Whoever polls the load. If that panics, those who wait are told.
struct Polling<'f, T> {
    flight: &'f Arc<Flight<T>>,
    load: Option<Load<T>>,
}

impl<T: Clone + Send + 'static> Polling<'_, T> {
    fn poll(&mut self) -> Poll<T> {
        let waker = Waker::from(Arc::clone(self.flight));
        let load = self.load.as_mut().expect("it is given back only once");
        let Poll::Ready(answer) = load.as_mut().poll(&mut Context::from_waker(&waker)) else {
            return Poll::Pending;
        };
        self.load = None;
        self.flight.answer(Answer::Here(answer.clone()));
        Poll::Ready(answer)
    }
}

impl<T> Drop for Polling<'_, T> {
    fn drop(&mut self) {
        if self.load.is_some() {
            self.flight.answer(Answer::Lost);
        }
    }
}

/// The load can go on: whoever waits may poll it.
impl<T: Send + 'static> Wake for Flight<T> {
    fn wake(self: Arc<Self>) {
        let mut state = self.state();
        state.woken = true;
        // While somebody polls the load, that one looks again afterwards.
        if state.load.is_some() {
            wake_all(state);
        }
    }
}

/// Wakes those who wait, once the lock is let go of: who is woken may want it at once.
fn wake_all<T>(mut state: MutexGuard<'_, State<T>>) {
    let waker = |seat: &mut Seat| match seat {
        Seat::Taken(waker) => waker.take(),
        Seat::Free => None,
    };
    let waiting: Vec<Waker> = state.seats.iter_mut().filter_map(waker).collect();
    drop(state);
    waiting.into_iter().for_each(Waker::wake);
}
