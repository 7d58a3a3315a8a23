//! A lookup in the hash table of the library beside other tables, single-threaded, in nanoseconds.
//!
//! `cargo bench --bench tables`; `TABLES_ROUNDS` sets the rounds, 11 unless set. Rounds of all
//! cases are interleaved, and the figures are medians: `ratio NAME VALUE` is ours over the other
//! one.
//!
//! Each table maps 64-bit hashes to an `Arc`, as the index of cached keys does. Those without locks
//! of their own are in 64 stripes under mutexes, and hash with the identity, since keys are hashes.
//! A lookup clones the `Arc`. Keys are drawn at random from all that are in the table.

#[allow(
    dead_code,
    unused_imports,
    reason = "the bench looks up and inserts only"
)]
#[path = "../src/util/cuckoo.rs"]
mod cuckoo;
#[allow(
    dead_code,
    unused_imports,
    reason = "the bench looks up and inserts only"
)]
#[path = "../src/util/striped.rs"]
mod striped;
mod support;

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use cuckoo::CuckooTable;
use striped::Striped;
use support::random::Random;
use support::{median, setting};

const LOOKUPS: usize = 200_000;

type Value = Arc<u64>;

/// Hashes are hashed by themselves.
#[derive(Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are u64")
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

type Hash = BuildHasherDefault<Identity>;

/// A table, and a lookup in it.
struct Case {
    name: String,
    size: usize,
    look_up: Box<dyn Fn(u64) -> Option<Value>>,
    nanoseconds: Vec<f64>,
}

fn main() {
    let rounds = setting("TABLES_ROUNDS", 11);
    let mut random = Random::new(3);
    let mut cases = Vec::new();
    let mut sets = Vec::new();
    for size in [10_000, 1_000_000] {
        let keys: Vec<u64> = (0..size).map(|_| random.next()).collect();
        for (name, look_up) in tables(&keys) {
            cases.push(Case {
                name: name.to_owned(),
                size,
                look_up,
                nanoseconds: Vec::new(),
            });
        }
        let drawn: Vec<u64> = (0..LOOKUPS).map(|_| keys[random.below(size)]).collect();
        sets.push((size, drawn));
    }
    for _ in 0..=rounds {
        for case in &mut cases {
            let (_, drawn) = sets
                .iter()
                .find(|(size, _)| *size == case.size)
                .expect("both");
            let started = Instant::now();
            for key in drawn {
                black_box((case.look_up)(*key)).expect("every key is in the table");
            }
            let elapsed = started.elapsed();
            #[expect(clippy::cast_precision_loss, reason = "a few hundred thousand")]
            case.nanoseconds
                .push(elapsed.as_secs_f64() * 1e9 / LOOKUPS as f64);
        }
    }
    report(cases);
}

type Table = (&'static str, Box<dyn Fn(u64) -> Option<Value>>);

fn tables(keys: &[u64]) -> Vec<Table> {
    let value = |key: u64| Arc::new(key);
    let ours = Striped::new(CuckooTable::<Option<Value>, 4>::default);
    let std = Striped::new(HashMap::<u64, Value, Hash>::default);
    let papaya = papaya::HashMap::<u64, Value, Hash>::default();
    let dashmap = dashmap::DashMap::<u64, Value, Hash>::default();
    let moka = moka::sync::Cache::builder()
        .max_capacity(keys.len() as u64 * 2)
        .build_with_hasher(Hash::default());
    for key in keys {
        let inserted = ours
            .of(stripe(*key))
            .insert(*key, Some(value(*key)), |_, _| false);
        assert!(inserted.is_some());
        std.of(stripe(*key)).insert(*key, value(*key));
        papaya.pin().insert(*key, value(*key));
        dashmap.insert(*key, value(*key));
        moka.insert(*key, value(*key));
    }
    vec![
        (
            "cuckoo",
            Box::new(move |key| {
                let table = ours.of(stripe(key));
                table.get(table.find(key)?)?.clone()
            }),
        ),
        (
            "hashbrown",
            Box::new(move |key| std.of(stripe(key)).get(&key).cloned()),
        ),
        (
            "papaya",
            Box::new(move |key| papaya.pin().get(&key).cloned()),
        ),
        (
            "dashmap",
            Box::new(move |key| dashmap.get(&key).map(|value| Arc::clone(&value))),
        ),
        ("moka", Box::new(move |key| moka.get(&key))),
    ]
}

/// A stripe by bits that no table uses for its first choice.
fn stripe(key: u64) -> usize {
    (key >> 40) as usize
}

fn report(cases: Vec<Case>) {
    let mut medians = Vec::new();
    for mut case in cases {
        case.nanoseconds.remove(0);
        medians.push((case.name, case.size, median(case.nanoseconds)));
    }
    for (name, size, nanoseconds) in &medians {
        println!("{name:<12}{size:>10}{nanoseconds:8.1} ns");
    }
    for (name, size, nanoseconds) in &medians {
        let ours = medians.iter().find(|it| it.0 == "cuckoo" && it.1 == *size);
        if let Some((_, _, ours)) = ours.filter(|_| name != "cuckoo") {
            println!("ratio cuckoo/{name}_{size} {:.3}", ours / nanoseconds);
        }
    }
}
