//! Good requests in the midst of junk: 19 of 20 requests bear a well-formed key that does not exist,
//! each another one; only the good ones are timed, beside the same good ones without junk.
//!
//! `cargo bench --bench junk`; `JUNK_REQUESTS` sets how many requests, 4,000,000 unless set. It fails if
//! a good key is looked up in the store more than once in a thousand requests, or resident memory grows
//! by more than 64 MiB. `ratio junk_p99/quiet_p99` is of the time of a good request.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::StatusCode;
use tower::Layer;
use tower_api_key::{
    ApiKeys, Cache, KeyId, KeyRecord, KeyStore, Limits, MemoryStore, Quota, StoreError,
};

use support::random::Random;
use support::requests::{Bare, request};
use support::serve::{RUNTIME, Stack, stack};
use support::{keys, setting};

const GOOD: usize = 10_000;
const ROUNDS: usize = 20;
/// One request in so many is good.
const MIX: usize = 20;
const ALLOWED: u64 = 64 << 20;

/// Counts what is found.
struct Counting {
    keys: MemoryStore,
    found: Arc<AtomicU64>,
}

impl KeyStore for Counting {
    async fn find(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        let record = self.keys.find(id).await?;
        if record.is_some() {
            self.found.fetch_add(1, Ordering::Relaxed);
        }
        Ok(record)
    }
}

fn main() {
    let requests = setting("JUNK_REQUESTS", 4_000_000);
    let _runtime = RUNTIME.enter();
    let good = keys::keys(1, GOOD);
    let mut junk = keys::keys(2, requests.min(1_000_000));
    match std::env::var("JUNK_KIND").as_deref() {
        Ok("checksum") => junk = junk.iter().map(|k| keys::bad_checksum(k)).collect(),
        Ok("few") => junk.truncate(1000),
        Ok("some") => junk.truncate(12000),
        _ => {}
    }
    let found = Arc::new(AtomicU64::new(0));
    let store = Counting {
        keys: keys::store(&good),
        found: Arc::clone(&found),
    };
    let built = ApiKeys::read_only(store)
        .limits(Limits::new().per_key(Quota::per_second(1_000_000).smooth()))
        // What is loaded stays: only what junk evicts is looked up again.
        .cache(Cache::new().max_staleness(Duration::from_secs(3600)))
        .build();
    let mut stack = stack(built.expect("limits that can be kept").layer().layer(Bare));
    for key in &good {
        assert_eq!(serve(&mut *stack, key).0, StatusCode::OK);
    }

    let mut random = Random::new(3);
    let mut at = 0;
    let each = requests / MIX / ROUNDS;
    let mut quiet = Vec::new();
    let mut in_junk = Vec::new();
    let (loaded, before) = (found.load(Ordering::Relaxed), resident());
    for _ in 0..ROUNDS {
        good_ones(&mut *stack, &good, GOOD, &mut random, |_, _| {});
        quiet.push(good_ones(&mut *stack, &good, each, &mut random, |_, _| {}));
        in_junk.push(good_ones(
            &mut *stack,
            &good,
            each,
            &mut random,
            |stack, _| {
                for _ in 1..MIX {
                    at = (at + 1) % junk.len();
                    assert_eq!(serve(stack, &junk[at]).0, StatusCode::UNAUTHORIZED);
                }
            },
        ));
    }
    let again = found.load(Ordering::Relaxed) - loaded;
    let grown = resident().saturating_sub(before);

    println!(
        "good requests in junk: {}, looked up again {again}",
        requests / MIX
    );
    println!("resident memory: {} MiB more", grown >> 20);
    for (name, times) in [("quiet", &quiet), ("in_junk", &in_junk)] {
        let m = |p| support::median(times.iter().map(|t| at_rank(t, p) as f64).collect());
        println!("{name:<10} 50 {} 75 {} 90 {} 95 {} 98 {} 99 {} ns", m(50), m(75), m(90), m(95), m(98), m(99));
    }
    let f = |p| {
        let of = |ts: &[Vec<u64>]| -> Vec<f64> { ts.iter().map(|t| at_rank(t, p) as f64).collect() };
        support::median_of_pairs(&of(&in_junk), &of(&quiet), |l, r| l / r)
    };
    println!("ratio junk_p50/quiet_p50 {:.3}", f(50));
    println!("ratio junk_p99/quiet_p99 {:.3}", f(99));
}

/// The times of good requests, in order of their length.
fn good_ones(
    stack: &mut dyn Stack,
    good: &[Box<str>],
    count: usize,
    random: &mut Random,
    mut before_each: impl FnMut(&mut dyn Stack, usize),
) -> Vec<u64> {
    let mut times = Vec::with_capacity(count);
    for at in 0..count {
        before_each(stack, at);
        let key = &good[random.below(good.len())];
        let (status, time) = serve(stack, key);
        assert_eq!(status, StatusCode::OK);
        times.push(time);
    }
    times.sort_unstable();
    times
}

fn serve(stack: &mut dyn Stack, key: &str) -> (StatusCode, u64) {
    let request = request(Some(key));
    let started = Instant::now();
    let status = stack.answer(request).status;
    let time = started.elapsed().as_nanos();
    (status, u64::try_from(time).unwrap_or(u64::MAX))
}

fn at_rank(sorted: &[u64], percent: usize) -> u64 {
    sorted[sorted.len() * percent / 100]
}

/// Resident memory, in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kilobytes.expect("resident memory") << 10
}
