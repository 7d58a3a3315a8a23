//! What is tried out: a source of keys, requests that look one up, and what happens meanwhile.

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::task::{Context, Poll, Waker};

use shuttle::future::{block_on, yield_now};
use shuttle::rand::Rng;
use shuttle::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use shuttle::sync::{Arc, Mutex};
use shuttle::thread;

use super::coherent::{Answer, CoherentCache, EntryMeta, Map};
use super::epochs::{Epoch, StripeHash};
use super::single_flight::Room;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key(usize);

const KEY: Key = Key(7);

impl StripeHash for Key {
    fn stripe_hash(&self) -> usize {
        self.0
    }
}

/// What the source said of the key: whether it is good, or that there is none.
#[derive(Debug, Clone)]
struct Said {
    epoch: Epoch,
    good: Option<bool>,
}

impl Answer for Said {
    fn was_found(&self) -> bool {
        self.good.is_some()
    }
}

/// The map of the model: it forgets nothing.
#[derive(Default)]
struct Plain(Mutex<HashMap<Key, (Said, EntryMeta)>>);

impl Map<Key, Said> for Plain {
    fn get(&self, key: &Key, wants: impl Fn(EntryMeta) -> bool) -> Option<Said> {
        let map = self.0.lock().unwrap();
        let kept = map.get(key).filter(|(_, meta)| wants(*meta));
        kept.map(|(said, _)| said.clone())
    }

    fn put(&self, key: Key, said: Said, meta: EntryMeta, _: impl Fn(&Key, EntryMeta) -> bool) {
        self.0.lock().unwrap().insert(key, (said, meta));
    }
}

type Cache = CoherentCache<Key, Said, (), Plain>;

struct World {
    cache: Cache,
    source: Arc<Mutex<Option<bool>>>,
    loads: Arc<AtomicUsize>,
    /// The change of the scenario has returned.
    returned: AtomicBool,
}

impl World {
    fn new(source: Option<bool>) -> Arc<Self> {
        Arc::new(Self {
            cache: CoherentCache::new(Plain::default()),
            source: Arc::new(Mutex::new(source)),
            loads: Arc::default(),
            returned: AtomicBool::new(false),
        })
    }

    /// As the path does it: what is kept, or else a load.
    async fn look_up(&self) -> Said {
        let kept = self.cache.find(&KEY, |_| true);
        match kept {
            Some(said) => said,
            None => self.load().await,
        }
    }

    async fn load(&self) -> Said {
        let begin = |epoch| {
            let (source, loads) = (Arc::clone(&self.source), Arc::clone(&self.loads));
            async move {
                loads.fetch_add(1, Ordering::SeqCst);
                // Somebody else brings the answer, whenever that may be.
                let good = ask_elsewhere(source).await;
                yield_now().await;
                Ok(Said { epoch, good })
            }
        };
        let room = Room {
            most: 16,
            restricted: None,
        };
        let loaded = self.cache.load(KEY, room, u64::MAX, 0, |_| true, begin);
        loaded.await.unwrap()
    }

    fn write(&self, said: Option<bool>) {
        *self.source.lock().unwrap() = said;
    }

    fn has_returned(&self) -> bool {
        self.returned.load(Ordering::SeqCst)
    }

    fn return_from(&self) {
        self.returned.store(true, Ordering::SeqCst);
    }
}

/// What was brought, and who waits for it.
type Brought = (Option<Option<bool>>, Option<Waker>);

/// What the source says, brought by a thread of its own.
async fn ask_elsewhere(source: Arc<Mutex<Option<bool>>>) -> Option<bool> {
    let brought: Arc<Mutex<Brought>> = Arc::default();
    let bring = Arc::clone(&brought);
    thread::spawn(move || {
        let said = *source.lock().unwrap();
        let waiting = {
            let mut brought = bring.lock().unwrap();
            brought.0 = Some(said);
            brought.1.take()
        };
        if let Some(waker) = waiting {
            waker.wake();
        }
    });
    poll_fn(|cx| {
        let mut brought = brought.lock().unwrap();
        brought.1 = Some(cx.waker().clone());
        brought.0.map_or(Poll::Pending, Poll::Ready)
    })
    .await
}

/// Lets the others go on for a while: a change would else be over before any load is on its way.
fn dawdle() {
    for _ in 0..shuttle::rand::thread_rng().gen_range(0..40) {
        thread::yield_now();
    }
}

/// Runs requests in threads of their own while something happens in this one.
fn while_requested(
    world: &Arc<World>,
    threads: usize,
    request: fn(&World),
    meanwhile: impl FnOnce(&World),
) {
    let request = |_| {
        let world = Arc::clone(world);
        thread::spawn(move || {
            request(&world);
            request(&world);
        })
    };
    let requests: Vec<_> = (0..threads).map(request).collect();
    meanwhile(world);
    for request in requests {
        request.join().unwrap();
    }
}

/// A change as the library makes it: at the source, then in the cache, and then it returns.
fn change(said: Option<bool>, tell: fn(&Cache)) -> impl FnOnce(&World) {
    move |world| {
        dawdle();
        world.write(said);
        dawdle();
        tell(&world.cache);
        world.return_from();
    }
}

fn request_that_must_be_refused_after_the_revocation(world: &World) {
    let after = world.has_returned();
    let said = block_on(world.look_up());
    assert!(
        !(after && said.good == Some(true)),
        "accepted after its revocation had returned"
    );
}

pub(crate) fn revoke_against_late_load() {
    let request = request_that_must_be_refused_after_the_revocation;
    while_requested(
        &World::new(Some(true)),
        2,
        request,
        change(Some(false), |cache| cache.outdate(&KEY)),
    );
}

pub(crate) fn revoke_in_the_wrong_order() {
    let request = request_that_must_be_refused_after_the_revocation;
    while_requested(&World::new(Some(true)), 2, request, |world| {
        dawdle();
        world.cache.outdate(&KEY);
        dawdle();
        world.write(Some(false));
        world.return_from();
    });
}

pub(crate) fn revoke_against_a_waiting_request() {
    let request = |world: &World| {
        block_on(async {
            let mut said = world.look_up().await;
            if said.good != Some(true) {
                return;
            }
            yield_now().await; // for its limits
            let after = world.has_returned();
            if !world.cache.is_current(&KEY, said.epoch) {
                said = world.load().await;
            }
            assert!(
                !(after && said.good == Some(true)),
                "accepted after its revocation had returned"
            );
        });
    };
    while_requested(
        &World::new(Some(true)),
        2,
        request,
        change(Some(false), |cache| cache.outdate(&KEY)),
    );
}

pub(crate) fn invalidate_all_against_load() {
    let request = |world: &World| {
        let after = world.has_returned();
        let said = block_on(world.look_up());
        assert!(!after || said.good == Some(false), "saw the past");
    };
    while_requested(
        &World::new(Some(true)),
        2,
        request,
        change(Some(false), Cache::outdate_all),
    );
}

pub(crate) fn create_against_a_remembered_miss() {
    let request = |world: &World| {
        let after = world.has_returned();
        let said = block_on(world.look_up());
        assert!(!after || said.good == Some(true), "hidden by a miss");
    };
    while_requested(
        &World::new(None),
        2,
        request,
        change(Some(true), |cache| cache.outdate_absence(&KEY)),
    );
}

pub(crate) fn concurrent_misses() {
    let world = World::new(Some(true));
    let request = |world: &World| {
        assert_eq!(block_on(world.look_up()).good, Some(true));
    };
    while_requested(&world, 3, request, |_| {});
    assert_eq!(world.loads.load(Ordering::SeqCst), 1);
}

pub(crate) fn cancelled_leader() {
    let world = World::new(Some(true));
    let request = |world: &World| {
        assert_eq!(block_on(world.look_up()).good, Some(true));
    };
    while_requested(&world, 2, request, |world| {
        for polls in 1..3 {
            let mut leader = Box::pin(world.look_up());
            for _ in 0..polls {
                let mut cx = Context::from_waker(Waker::noop());
                if leader.as_mut().poll(&mut cx).is_ready() {
                    break;
                }
            }
        }
    });
    // Each time it was the only one left, whoever came next began anew.
    assert!(world.loads.load(Ordering::SeqCst) <= 3);
}
