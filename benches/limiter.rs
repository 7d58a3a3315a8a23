//! The limiter in memory beside governor's keyed limiter, in one run: a `rate` charge against its
//! check, each with a look at its clock; `window`, `calendar` and several charges are reported
//! beside.
//!
//! `cargo bench --bench limiter`; `LIMITER_ROUNDS` sets the rounds, 15 unless set. Rounds of all
//! cases are interleaved, and the figures are medians: `ratio NAME VALUE` is ours over governor's.

#[path = "support/random.rs"]
#[allow(dead_code, reason = "each bench uses its part")]
mod random;

use std::hint::black_box;
use std::num::NonZeroU32;
use std::time::Instant;

use governor::{DefaultKeyedRateLimiter, RateLimiter as Governor};
use random::Random;
use tower_api_key::clock::{Clock, SystemClock};
use tower_api_key::limit::{Charge, LimitName, MemoryLimiter, RateLimiter, Subject};
use tower_api_key::{KeyId, Quota};

/// Checks in a round of a case.
const CHECKS: usize = 200_000;
const RATE: Quota = Quota::per_second(1_000_000).smooth();
const MANY: NonZeroU32 = NonZeroU32::new(1_000_000).unwrap();

type Key = [u8; 16];

/// Checks once for each of these keys.
type Round<'c> = Box<dyn Fn(&[Key]) + Sync + 'c>;

/// What is measured: nanoseconds of a check, over the keys of a round.
struct Case<'c> {
    name: String,
    round: Round<'c>,
    keys: &'c [Key],
    threads: usize,
    nanoseconds: Vec<f64>,
}

impl Case<'_> {
    fn run(&mut self) {
        let started = Instant::now();
        std::thread::scope(|scope| {
            for _ in 1..self.threads {
                scope.spawn(|| (self.round)(self.keys));
            }
            (self.round)(self.keys);
        });
        let checks = CHECKS * self.threads;
        #[expect(clippy::cast_precision_loss, reason = "a few hundred thousand")]
        self.nanoseconds
            .push(started.elapsed().as_nanos() as f64 / checks as f64);
    }

    fn median(&mut self) -> f64 {
        self.nanoseconds.sort_by(f64::total_cmp);
        self.nanoseconds[self.nanoseconds.len() / 2]
    }
}

/// Keys in an order that no cache foresees.
fn keys(count: usize) -> Vec<Key> {
    let mut random = Random::new(1);
    let distinct: Vec<Key> = (0..count).map(|_| random.bytes()).collect();
    (0..CHECKS).map(|_| *random.pick(&distinct)).collect()
}

fn ours<'l>(limiter: &'l MemoryLimiter, names: &'l [LimitName], quota: Quota) -> Round<'l> {
    Box::new(move |keys| {
        for key in keys {
            let subject = Subject::Key(KeyId::from_bytes(*key));
            let charge = |name| Charge::new(name, subject, quota, 1);
            let now = SystemClock.readings();
            let verdict = match names {
                [one] => limiter.check_now(&[charge(one)], now),
                [a, b, c] => limiter.check_now(&[charge(a), charge(b), charge(c)], now),
                _ => unreachable!("one or three"),
            };
            black_box(matches!(&verdict, Some(Ok(verdict)) if verdict.is_allowed()));
        }
    })
}

fn main() {
    let rounds = std::env::var("LIMITER_ROUNDS").map_or(Ok(15), |text| text.parse());
    let rounds: usize = rounds.expect("LIMITER_ROUNDS is a number");
    let sizes = [
        ("hot", keys(1)),
        ("10k", keys(10_000)),
        ("1m", keys(1_000_000)),
    ];
    let names: Vec<_> = ["a", "b", "c"].map(LimitName::new).into();
    // Room for all keys: what happens beyond it is measured elsewhere.
    let limiter = || MemoryLimiter::with_memory(1 << 30);
    let mine: Vec<_> = (0..12).map(|_| limiter()).collect();
    let theirs: Vec<DefaultKeyedRateLimiter<Key>> = (0..4)
        .map(|_| Governor::keyed(governor::Quota::per_second(MANY)))
        .collect();

    let mut cases = Vec::new();
    let mut limiters = mine.iter();
    let mut governors = theirs.iter();
    let mut add = |name: &str, keys, threads, round| {
        cases.push(Case {
            name: name.to_owned(),
            round,
            keys,
            threads,
            nanoseconds: Vec::new(),
        });
    };
    for (at, (size, keys)) in sizes
        .iter()
        .map(|(size, keys)| (*size, keys.as_slice()))
        .enumerate()
    {
        for threads in if at == 1 { vec![1, 2] } else { vec![1] } {
            let suffix = if threads == 1 { "" } else { "_two_threads" };
            let governor = governors.next().expect("one for each case");
            let check = move |keys: &[Key]| {
                for key in keys {
                    black_box(governor.check_key(key).is_ok());
                }
            };
            add(
                &format!("governor_{size}{suffix}"),
                keys,
                threads,
                Box::new(check),
            );
            let limiter = limiters.next().expect("one for each case");
            add(
                &format!("rate_{size}{suffix}"),
                keys,
                threads,
                ours(limiter, &names[..1], RATE),
            );
        }
        for (shape, quota) in [
            ("window", Quota::per_minute(1_000_000_000)),
            ("calendar", Quota::per_utc_day(1_000_000_000)),
        ] {
            if at == 1 {
                let limiter = limiters.next().expect("one for each case");
                add(
                    &format!("{shape}_{size}"),
                    keys,
                    1,
                    ours(limiter, &names[..1], quota),
                );
            }
        }
        if at == 1 {
            let limiter = limiters.next().expect("one for each case");
            add(
                &format!("three_rates_{size}"),
                keys,
                1,
                ours(limiter, &names, RATE),
            );
        }
    }
    for _ in 0..=rounds {
        for case in &mut cases {
            case.run();
        }
    }
    report(&mut cases);
}

fn report(cases: &mut [Case<'_>]) {
    let mut medians = Vec::new();
    for case in cases {
        case.nanoseconds.remove(0); // the round that filled the tables
        medians.push((case.name.clone(), case.median()));
    }
    for (name, median) in &medians {
        println!("{name:<24}{median:8.1} ns");
    }
    let of = |wanted: &str| {
        medians
            .iter()
            .find(|(name, _)| name == wanted)
            .map(|(_, ns)| *ns)
    };
    for case in ["hot", "10k", "10k_two_threads", "1m"] {
        if let (Some(ours), Some(governor)) =
            (of(&format!("rate_{case}")), of(&format!("governor_{case}")))
        {
            println!("ratio rate_{case}/governor_{case} {:.3}", ours / governor);
        }
    }
}
