//! Processes that count usage and deliver events, and are killed with `kill -9` in the middle.
//!
//! `DEATHS` sets the processes that each test kills, 8 unless set; the full proof kills 200.
//! `DEATHS_SEED` draws their moments, as far as these do not depend on the machine.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[allow(dead_code, unreachable_pub, reason = "each suite uses its part")]
#[path = "../support/postgres.rs"]
mod postgres;
#[path = "../support/processes.rs"]
mod processes;
#[allow(dead_code, reason = "each suite uses its part")]
#[path = "../../benches/support/random.rs"]
mod random;

mod clock;
mod database;
mod usage;
mod webhooks;

use std::env;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use random::Random;

/// Returns the number of processes that each test kills.
fn deaths() -> u32 {
    env::var("DEATHS").map_or(8, |text| text.parse().expect("DEATHS is a number"))
}

/// Returns a generator, and prints its seed.
fn random() -> Random {
    let seed = env::var("DEATHS_SEED").map_or_else(
        |_| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            since.as_micros().try_into().unwrap()
        },
        |text| text.parse().expect("DEATHS_SEED is a number"),
    );
    println!("DEATHS_SEED={seed}");
    Random::new(seed)
}

/// Returns a time below so many microseconds.
fn some_micros(random: &mut Random, below: usize) -> Duration {
    Duration::from_micros(random.below(below) as u64)
}
