//! Good requests in the midst of junk: 19 of 20 requests bear a well-formed key that does not
//! exist, each another one; only the good ones are timed.
//!
//! `cargo bench --bench junk`; `JUNK_REQUESTS` sets how many requests, 4,000,000 unless set. It
//! fails if a good key is looked up in the store more than once in a thousand requests, or resident
//! memory grows by more than 64 MiB.
//!
//! The time of a good request is compared with that of the same ones without junk, `quiet`: one
//! after the other, and `paced`: with a pause for as long as the junk between two of them takes.
//! Ratios are medians over rounds of all three, for a neighbour on the machine may double any of
//! them.
//!
//! Where good requests are rare, more of them are the first after the processor has done something
//! else, such as a tick of the clock, and find its caches cold. That makes most of
//! `junk_p99/quiet_p99`, and it is as true of a pause as of junk: what junk itself does is
//! `junk_p99/paced_p99`.

mod support;

use std::hint;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::StatusCode;
use tower::Layer;
use tower_api_key::store::StoreError;
use tower_api_key::{ApiKeys, Cache, KeyId, KeyRecord, KeyStore, Limits, MemoryStore, Quota};

use support::random::Random;
use support::requests::{Bare, request};
use support::serve::{RUNTIME, Stack, stack};
use support::{keys, median, median_of_pairs, setting};

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

    let [mut random, mut junk] = [3, 2].map(Random::new);
    let each = (requests / MIX / ROUNDS).max(1);
    let (mut quiet, mut in_junk, mut paced) = (Vec::new(), Vec::new(), Vec::new());
    let (loaded, before) = (found.load(Ordering::Relaxed), resident());
    for _ in 0..ROUNDS {
        let mut good_ones = |count, between: &mut dyn FnMut(&mut dyn Stack)| {
            good_ones(&mut *stack, &good, count, &mut random, between)
        };
        // The round before was not quiet, and the processor remembers that for a while.
        good_ones(GOOD, &mut |_| {});
        quiet.push(good_ones(each, &mut |_| {}));
        let started = Instant::now();
        in_junk.push(good_ones(each, &mut |stack| {
            for _ in 1..MIX {
                // Made when it is sent: as in a server, it lies where the last one lay.
                let key = keys::key(&mut junk);
                assert_eq!(serve(stack, &key).0, StatusCode::UNAUTHORIZED);
            }
        }));
        let pause = started.elapsed() / u32::try_from(each).expect("fewer than 2³² requests");
        paced.push(good_ones(each, &mut |_| {
            let started = Instant::now();
            while started.elapsed() < pause {
                hint::spin_loop();
            }
        }));
    }
    let again = found.load(Ordering::Relaxed) - loaded;
    let grown = resident().saturating_sub(before);

    println!(
        "good requests in junk: {}, looked up again {again}",
        each * ROUNDS
    );
    println!("resident memory: {} MiB more", grown >> 20);
    for (name, rounds) in [("quiet", &quiet), ("in_junk", &in_junk), ("paced", &paced)] {
        let [half, most] = [50, 99].map(|percent| median(at_rank(rounds, percent)));
        println!("{name:<10} median {half:>6.0} ns, p99 {most:>6.0} ns");
    }
    assert!(
        again * 1000 <= (each * ROUNDS) as u64,
        "junk evicts good keys"
    );
    assert!(grown <= ALLOWED, "junk takes memory");
    let in_junk = at_rank(&in_junk, 99);
    for (name, rounds) in [("paced", &paced), ("quiet", &quiet)] {
        let ratio = median_of_pairs(&in_junk, &at_rank(rounds, 99), |junk, other| junk / other);
        println!("ratio junk_p99/{name}_p99 {ratio:.3}");
    }
}

/// The times of good requests, in order of their length, with something else before each.
fn good_ones(
    stack: &mut dyn Stack,
    good: &[Box<str>],
    count: usize,
    random: &mut Random,
    before_each: &mut dyn FnMut(&mut dyn Stack),
) -> Vec<u64> {
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        before_each(stack);
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

/// What so many percent of the times of each round are within.
#[expect(clippy::cast_precision_loss, reason = "nanoseconds of a request")]
fn at_rank(rounds: &[Vec<u64>], percent: usize) -> Vec<f64> {
    let at_rank = |times: &Vec<u64>| times[times.len() * percent / 100] as f64;
    rounds.iter().map(at_rank).collect()
}

/// Resident memory, in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kilobytes.expect("resident memory") << 10
}
