//! The cache over its real map, under threads that ask for keys, change them, and make it forget.
//!
//! The model checker tries the guard out over a map of its own; here is the one that moka bounds,
//! so small that it evicts all the time, with memory that goes from one key to the next.
//! `STRESS_REQUESTS` says how many each thread sends, 20,000 unless set.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use futures_util::FutureExt;
use http::{Request, Response};
use http_body_util::Empty;
use support::random::Random;
use support::{at_once, with_key};
use tower::{Layer, Service, service_fn};
use tower_api_key::{ApiKeys, Cache, Caller, KeyId, MemoryStore};

const KEYS: usize = 300;
/// For about a quarter of them.
const MEMORY: u64 = 75 * 1100;
/// Threads that ask, and those that change.
const ASKING: u64 = 3;
const CHANGING: usize = 2;

struct Key {
    id: KeyId,
    plaintext: String,
    account: String,
    /// Even: active if a multiple of 4, and suspended if not. Odd: being changed.
    turn: AtomicU32,
}

impl Key {
    /// The status that a request must get, if no change was on its way meanwhile.
    fn expected(turn: u32) -> Option<u16> {
        match turn % 4 {
            0 => Some(200),
            2 => Some(403),
            _ => None,
        }
    }
}

fn keys(from: &ApiKeys) -> Vec<Key> {
    let key = |at| {
        let account = format!("account-{at}");
        let issued = at_once(from.issue(account.as_str())).unwrap();
        Key {
            id: issued.id(),
            plaintext: issued.expose_secret().to_owned(),
            account,
            turn: AtomicU32::new(0),
        }
    };
    (0..KEYS).map(key).collect()
}

#[test]
fn invariant_4_under_threads_each_key_is_itself_and_as_it_was_last_changed() {
    let requests = std::env::var("STRESS_REQUESTS").map_or(Ok(20_000), |text| text.parse());
    let requests: u64 = requests.expect("STRESS_REQUESTS is a number");
    let from = ApiKeys::builder(MemoryStore::new())
        .cache(Cache::new().memory(MEMORY))
        .build()
        .unwrap();
    let keys = keys(&from);
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let asking: Vec<_> = (0..ASKING)
            .map(|seed| {
                let (from, keys) = (&from, &keys);
                scope.spawn(move || ask(from, keys, seed, requests))
            })
            .collect();
        for part in 0..CHANGING {
            let (from, keys, is_over) = (&from, &keys, &is_over);
            scope.spawn(move || change(from, keys, part, is_over));
        }
        let certain: Vec<_> = asking
            .into_iter()
            .map(thread::ScopedJoinHandle::join)
            .collect();
        is_over.store(true, Ordering::SeqCst);
        for certain in certain {
            let certain = certain.unwrap();
            // Or this would have shown nothing.
            assert!(certain * 2 > requests, "{certain} of {requests}");
        }
    });
}

/// Returns how many answers had to be what they were.
fn ask(from: &ApiKeys, keys: &[Key], seed: u64, requests: u64) -> u64 {
    let mut service = from
        .layer()
        .layer(service_fn(|request: Request<()>| async move {
            let mut response = Response::new(Empty::<bytes::Bytes>::new());
            let caller = Caller::of(request.extensions()).unwrap().clone();
            response.extensions_mut().insert(caller);
            Ok::<_, Infallible>(response)
        }));
    let mut random = Random::new(seed);
    let mut certain = 0;
    // Some stay for a while, when their keys are long gone from the cache.
    let mut held: Vec<Option<(usize, Caller)>> = vec![None; 50];
    for at in 0..requests {
        let which = random.below(KEYS);
        let key = &keys[which];
        let request = with_key(&key.plaintext);
        let before = key.turn.load(Ordering::SeqCst);
        let answer = service.call(request).now_or_never();
        let after = key.turn.load(Ordering::SeqCst);
        // A load that another thread is at is not waited for here.
        let Some(answer) = answer else { continue };
        let answer = answer.unwrap();
        let status = answer.status().as_u16();
        if before == after
            && let Some(expected) = Key::expected(before)
        {
            assert_eq!(status, expected, "{} in turn {before}", key.account);
            certain += 1;
        }
        assert!([200, 403].contains(&status), "{status}");
        if let Some(caller) = answer.extensions().get::<Caller>() {
            assert_eq!(caller.account(), key.account);
            let place = usize::try_from(at).unwrap() % held.len();
            if let Some((which, caller)) = held[place].replace((which, caller.clone())) {
                assert_eq!(caller.account(), keys[which].account);
                assert_eq!(caller.key_id(), keys[which].id);
            }
        }
    }
    certain
}

fn change(from: &ApiKeys, keys: &[Key], part: usize, is_over: &AtomicBool) {
    let mine = || keys.iter().skip(part).step_by(CHANGING);
    for (at, key) in mine().cycle().enumerate() {
        if is_over.load(Ordering::SeqCst) {
            return;
        }
        let turn = key.turn.fetch_add(1, Ordering::SeqCst);
        if turn % 4 == 0 {
            at_once(from.suspend(key.id)).unwrap();
        } else {
            at_once(from.resume(key.id)).unwrap();
        }
        key.turn.fetch_add(1, Ordering::SeqCst);
        if at % 500 == 0 {
            from.invalidate_all();
        }
        thread::yield_now();
    }
}
