//! What a request costs more with a layer in front of the service than without: this library, what
//! people use instead, and the floor, in one run, without sockets.
//!
//! `cargo bench --bench overhead`. Settings, as environment variables:
//!
//! - `OVERHEAD_ROUNDS`: how often each case is measured, 21 times unless set;
//! - `OVERHEAD_ONLY=case,case`: only these, and the bare service;
//! - `OVERHEAD_SMALL=1`: a few seconds, with 50,000 keys in place of the million.
//!
//! | case | keys are drawn from | layers |
//! |---|---|---|
//! | `full_hot`, `full_10k`, `full_1m` | 1; 10,000; 1,000,000 | this library, one limit, default headers |
//! | `no_limits_10k`, `window_10k` | 10,000 | the same without a limit; with one of another kind |
//! | `observed_10k` | 10,000 | as `full_10k`, with an observer that counts decisions and answers by key |
//! | `keyed_10k` | 10,000 | as `full_10k`, with a keyed checksum |
//! | `bad_keyed`, `bad_keyed_by_two` | 1 that is forged | the same, with 1 or 2 secrets: 401 without a look into the store |
//! | `bad_checksum` | 1 with a typo | as `full_10k`: 401 without a look into the store |
//! | `unknown_remembered` | 1 that no store has | as `full_10k`: 401 |
//! | `missing` | none | as `full_10k`: 401 |
//! | `floor_…` | as `full_…` | the least that must be done; see `support/floor.rs` |
//! | `hand_written_10k` | 10,000 | what people write by hand: SHA-256 and a `DashMap` |
//! | `tower_governor` | 10,000 | rate limiting with headers, by key, and nothing else |
//! | `assembled_hot`, `assembled_10k` | 1; 10,000 | written by hand, and `tower_governor` under it |
//! | `tower_http_bearer` | 1 | tower-http's check for one token |
//! | `bare_…` | as the others | none |
//!
//! Requests are made in batches beforehand; what is timed is to make the service ready, call it,
//! poll the answer, and drop it. Rounds of all cases are interleaved. In each, a case first serves
//! requests that are not timed, to have its own tables in the caches of the processor.
//!
//! `ratio NAME VALUE` compares in each round what two cases cost more than the bare service, and
//! gives the median over the rounds. A refusal does not call the inner service: for those, all that
//! was timed is compared, with nothing taken off.

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use support::cases::{Case, NAMES, Sets};
use support::random::Random;
use support::serve::RUNTIME;
use support::{median, median_of_pairs, setting};

/// Requests that are made at a time.
const BATCH: usize = 256;
/// Rounds that are not counted.
const WARM_UP: usize = 2;

/// What is compared, in what is added to the bare service: a name, ours, theirs.
const ADDED: [(&str, &str, &str); 15] = [
    ("full_hot/assembled", "full_hot", "assembled_hot"),
    ("full_hot/floor_hot", "full_hot", "floor_hot"),
    ("full_10k/assembled", "full_10k", "assembled_10k"),
    ("full_10k/tower_governor", "full_10k", "tower_governor"),
    ("full_10k/floor", "full_10k", "floor_10k"),
    ("full_1m/floor_1m", "full_1m", "floor_1m"),
    ("no_limits_10k/floor", "no_limits_10k", "floor_10k"),
    (
        "no_limits_10k/hand_written",
        "no_limits_10k",
        "hand_written_10k",
    ),
    ("window_10k/floor", "window_10k", "floor_10k"),
    ("keyed_10k/full_10k", "keyed_10k", "full_10k"),
    ("observed_10k/full_10k", "observed_10k", "full_10k"),
    ("assembled_hot/floor_hot", "assembled_hot", "floor_hot"),
    ("assembled_10k/floor", "assembled_10k", "floor_10k"),
    (
        "tower_http_bearer/floor_hot",
        "tower_http_bearer",
        "floor_hot",
    ),
    ("hand_written_10k/floor", "hand_written_10k", "floor_10k"),
];

/// What is compared with nothing taken off.
const WHOLE: [(&str, &str, &str); 5] = [
    ("bad_checksum/floor", "bad_checksum", "floor_10k"),
    ("bad_keyed/floor", "bad_keyed", "floor_10k"),
    ("bad_keyed_by_two/floor", "bad_keyed_by_two", "floor_10k"),
    (
        "unknown_remembered/floor",
        "unknown_remembered",
        "floor_10k",
    ),
    ("missing/floor", "missing", "floor_10k"),
];

fn main() {
    let small = std::env::var("OVERHEAD_SMALL").is_ok_and(|small| small == "1");
    let rounds = setting("OVERHEAD_ROUNDS", if small { 5 } else { 21 });
    let batches = if small { 8 } else { 80 };
    let _entered = RUNTIME.enter();

    let sets = Sets::new(if small { 50_000 } else { 1_000_000 });
    let mut measured: Vec<_> = wanted().map(|name| Measured::new(&sets, name)).collect();
    let mut random = Random::new(4);
    for round in 0..WARM_UP + rounds {
        for one in &mut measured {
            let nanoseconds = one.run(batches, &mut random);
            if round >= WARM_UP {
                one.nanoseconds.push(nanoseconds);
            }
        }
    }
    report(&measured);
}

/// The names of the cases to measure.
fn wanted() -> impl Iterator<Item = &'static str> {
    let only = std::env::var("OVERHEAD_ONLY").ok();
    let only: Option<Vec<_>> = only.map(|only| only.split(',').map(str::to_owned).collect());
    for name in only.iter().flatten() {
        assert!(
            NAMES.contains(&name.as_str()),
            "{name:?} is none of {NAMES:?}"
        );
    }
    let many = only
        .as_ref()
        .is_none_or(|only| only.iter().any(|name| name.ends_with("_1m")));
    NAMES.into_iter().filter(move |name| match &only {
        Some(only) if name.starts_with("bare_") => many || !name.ends_with("_1m"),
        Some(only) => only.iter().any(|one| one == name),
        None => true,
    })
}

/// A case, and the nanoseconds of a request in each round.
struct Measured {
    case: Case,
    nanoseconds: Vec<f64>,
}

impl Measured {
    fn new(sets: &Sets, name: &'static str) -> Self {
        let mut case = sets.case(name);
        case.check();
        case.warm();
        Self {
            case,
            nanoseconds: Vec::new(),
        }
    }

    /// A round: the first third of it is not timed.
    fn run(&mut self, batches: usize, random: &mut Random) -> f64 {
        let mut requests = Vec::with_capacity(BATCH);
        let mut elapsed = Duration::ZERO;
        for batch in 0..batches + batches / 2 {
            self.case.draw(BATCH, random, &mut requests);
            let started = Instant::now();
            let unexpected = self.case.serve(&mut requests);
            if batch >= batches / 2 {
                elapsed += started.elapsed();
            }
            assert_eq!(unexpected, 0, "{} answers something else", self.case.name);
        }
        #[expect(clippy::cast_precision_loss, reason = "a few thousand requests")]
        let requests = (BATCH * batches) as f64;
        elapsed.as_secs_f64() * 1e9 / requests
    }
}

fn report(measured: &[Measured]) {
    let figures: BTreeMap<&str, &Measured> = measured.iter().map(|m| (m.case.name, m)).collect();
    let whole = |name: &str| figures.get(name).map(|m| m.nanoseconds.clone());
    let added = |name: &str| {
        let case = figures.get(name)?;
        let bare = figures.get(case.case.bare)?;
        let pairs = case.nanoseconds.iter().zip(&bare.nanoseconds);
        Some(pairs.map(|(case, bare)| case - bare).collect::<Vec<_>>())
    };
    println!("{:<24}{:>12}{:>12}", "ns a request", "whole", "added");
    for name in NAMES {
        if let (Some(whole), Some(added)) = (whole(name), added(name)) {
            println!("{name:<24}{:>12.1}{:>12.1}", median(whole), median(added));
        }
    }
    let ratio = |name: &str, ours: Option<Vec<f64>>, theirs: Option<Vec<f64>>| {
        if let (Some(ours), Some(theirs)) = (ours, theirs) {
            let value = median_of_pairs(&ours, &theirs, |ours, theirs| ours / theirs);
            println!("ratio {name} {value:.3}");
        }
    };
    for (name, ours, theirs) in ADDED {
        ratio(name, added(ours), added(theirs));
    }
    for (name, ours, theirs) in WHOLE {
        ratio(name, whole(ours), whole(theirs));
    }
}
