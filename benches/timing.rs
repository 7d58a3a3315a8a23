//! Does the time of a verification tell anything about the secret? A dudect run (Reparaz, Balasch
//! and Verbauwhede, "Dude, is my code constant time?", 2017) over the comparison that users call.
//!
//! Two classes of inputs are timed in random order, and Welch's t-test asks whether their times
//! differ:
//!
//! - `first_last`: a mismatch in the first byte against one in the last byte;
//! - `equal_unequal`: the right digest against random ones;
//! - `control`: the inputs of `first_last` under a loop that stops at the first mismatch. If this
//!   leak is not seen, nothing that is said of the others means anything.
//!
//! `TIMING_SAMPLES` (1,000,000) samples are taken in each of `TIMING_RUNS` (5) runs, and the median
//! of |t| is judged. A small run is judged in the same way: fewer samples bring a leak nearer to
//! the noise, and the control tells whether it can still be seen.

#[path = "support/random.rs"]
#[allow(dead_code, reason = "each bench uses its part")]
mod random;

use std::env;
use std::hint::black_box;
use std::process::ExitCode;
use std::time::Instant;

use rand::TryRng;
use rand::rngs::SysRng;
use random::Random;
use tower_api_key::key::{KeyDigest, PepperRing, Verifier};

/// From this |t| on, dudect speaks of a leak.
const LEAK: f64 = 4.5;
/// Up to this |t|, the control's leak may as well be noise.
const UNSEEN: f64 = 10.0;
/// Calls in one sample, so that it takes far longer than a tick of the clock.
const BATCH: usize = 64;
/// Inputs that are made in advance at a time: few enough to stay in the cache.
const CHUNK: usize = 512;
/// Samples that are thrown away, while caches, branch predictors and the clock rate settle.
const WARM_UP: usize = 20_000;
/// Samples slower than this percentile of both classes together are cropped: they were interrupted.
const PERCENTILE: usize = 95;

type Bytes = [u8; 32];

fn main() -> ExitCode {
    if cfg!(debug_assertions) {
        println!("timing: only an optimized build is measured; run `cargo bench --bench timing`");
        return ExitCode::SUCCESS;
    }
    let samples = setting("TIMING_SAMPLES", 1_000_000);
    let runs = setting("TIMING_RUNS", 5);

    let seed = SysRng.try_next_u64();
    let mut random = Random::new(seed.expect("the system has randomness"));
    let expected = random.bytes();
    let ring = PepperRing::default();
    let verifier = Verifier::sha256(KeyDigest::from_bytes(expected));
    let verify = |presented: &Bytes| {
        let presented = KeyDigest::from_bytes(*presented);
        ring.verify(black_box(&verifier), black_box(&presented)) == Ok(true)
    };
    let stop_early = |presented: &Bytes| equal_until_mismatch(black_box(&expected), presented);

    let mut first_last = Vec::new();
    let mut equal_unequal = Vec::new();
    let mut control = Vec::new();
    for run in 1..=runs {
        let t = [
            welch_t(samples, &mut random, &expected, first_or_last, verify),
            welch_t(samples, &mut random, &expected, equal_or_random, verify),
            welch_t(samples, &mut random, &expected, first_or_last, stop_early),
        ];
        println!(
            "run {run} of {runs}: first_last t = {:.2}, equal_unequal t = {:.2}, control t = {:.2}",
            t[0], t[1], t[2]
        );
        first_last.push(t[0].abs());
        equal_unequal.push(t[1].abs());
        control.push(t[2].abs());
    }

    let first_last = median(first_last);
    let equal_unequal = median(equal_unequal);
    let control = median(control);
    println!("timing first_last |t| = {first_last:.2}");
    println!("timing equal_unequal |t| = {equal_unequal:.2}");
    println!("timing control |t| = {control:.2}");
    // Written so that a t that is not a number fails, too.
    if first_last < LEAK && equal_unequal < LEAK && control > UNSEEN {
        ExitCode::SUCCESS
    } else {
        println!("timing: the first two must be below {LEAK}, and the control above {UNSEEN}");
        ExitCode::FAILURE
    }
}

/// Times a comparison on inputs of two classes, drawn at random; the t of the difference.
fn welch_t(
    samples: usize,
    random: &mut Random,
    expected: &Bytes,
    input_of: impl Fn(bool, &Bytes, &mut Random) -> Bytes,
    compare: impl Fn(&Bytes) -> bool,
) -> f64 {
    let mut times = Vec::with_capacity(WARM_UP + samples + CHUNK);
    let mut chunk = Vec::with_capacity(CHUNK);
    while times.len() < WARM_UP + samples {
        chunk.clear();
        for _ in 0..CHUNK {
            let class = random.next() >> 63 == 1;
            chunk.push((class, input_of(class, expected, random)));
        }
        for (class, input) in &chunk {
            // A copy: every input is compared at the same place in memory.
            let presented = black_box(*input);
            times.push((*class, time(|| compare(black_box(&presented)))));
        }
    }
    t_of(&mut times[WARM_UP..])
}

/// The nanoseconds that a batch of calls takes.
fn time(call: impl Fn() -> bool) -> f64 {
    let start = Instant::now();
    for _ in 0..BATCH {
        black_box(call());
    }
    start.elapsed().as_secs_f64() * 1e9
}

/// Welch's t of two classes of times, without the slowest.
fn t_of(times: &mut [(bool, f64)]) -> f64 {
    let cut = times.len() * PERCENTILE / 100;
    let (_, slowest, _) = times.select_nth_unstable_by(cut, |a, b| a.1.total_cmp(&b.1));
    let slowest = slowest.1;
    let mut classes = [Moments::default(), Moments::default()];
    for (class, time) in times.iter().filter(|(_, time)| *time <= slowest) {
        classes[usize::from(*class)].add(*time);
    }
    let [left, right] = &classes;
    (left.mean - right.mean) / (left.error() + right.error()).sqrt()
}

/// The mean and the variance of a stream of numbers (Welford's algorithm).
#[derive(Default)]
struct Moments {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Moments {
    fn add(&mut self, value: f64) {
        self.count += 1.0;
        let before = value - self.mean;
        self.mean += before / self.count;
        self.squares += before * (value - self.mean);
    }

    /// The squared standard error of the mean.
    fn error(&self) -> f64 {
        self.squares / (self.count - 1.0) / self.count
    }
}

/// One byte is wrong: the first, or the last.
fn first_or_last(class: bool, expected: &Bytes, random: &mut Random) -> Bytes {
    let [difference] = random.bytes();
    let at = if class { 31 } else { 0 };
    let mut bytes = *expected;
    bytes[at] ^= difference | 1; // never zero
    bytes
}

/// All bytes are right, or all are random.
fn equal_or_random(class: bool, expected: &Bytes, random: &mut Random) -> Bytes {
    let drawn = random.bytes(); // for both classes, so that both take the same way here
    if class { drawn } else { *expected }
}

/// What a verifier must not do. The black box keeps this from becoming a `memcmp`.
fn equal_until_mismatch(left: &Bytes, right: &Bytes) -> bool {
    for (left, right) in left.iter().zip(right) {
        if black_box(left) != black_box(right) {
            return false;
        }
    }
    true
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn setting(name: &str, default: usize) -> usize {
    match env::var(name) {
        Err(_) => default,
        Ok(text) => match text.parse() {
            Ok(number) if number > 0 => number,
            _ => panic!("{name} is a number of at least 1, not {text:?}"),
        },
    }
}
