//! The coherent cache, its epochs and its loads, in the orders that threads can come to them in.
//!
//! The files of the library are compiled here over shuttle's locks and atomics, in the place of
//! those of the operating system, and over a map that is a plain one under a lock. Shuttle then
//! runs each scenario in many interleavings: at random, and by its probabilistic algorithm of three
//! changes of priority. `MODEL_ITERATIONS` says in how many, 300 of each unless set. A mutant whose
//! guard guards nothing must fail.
#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![allow(dead_code, reason = "not all of the library's files is called here")]
#![allow(clippy::duplicate_mod, reason = "the mutant is made of the same files")]

mod util {
    pub(crate) mod sync {
        pub(crate) use shuttle::sync::atomic::{AtomicU32, Ordering};
        pub(crate) use shuttle::sync::{Arc, Mutex, MutexGuard};
    }
}

#[path = "../../src/cache/coherent.rs"]
mod coherent;
#[path = "../../src/cache/epochs.rs"]
mod epochs;
mod mutant;
mod scenarios;
#[path = "../../src/cache/single_flight.rs"]
mod single_flight;

fn explore(scenario: fn()) {
    let iterations = std::env::var("MODEL_ITERATIONS").map_or(Ok(300), |text| text.parse());
    let iterations = iterations.expect("MODEL_ITERATIONS is a number");
    shuttle::check_random(scenario, iterations);
    shuttle::check_pct(scenario, iterations, 3);
}

#[test]
fn no_request_that_began_after_a_revocation_is_accepted() {
    explore(scenarios::revoke_against_late_load);
}

#[test]
fn a_revocation_while_a_request_waits_for_its_limits_is_heeded() {
    explore(scenarios::revoke_against_a_waiting_request);
}

#[test]
fn no_request_that_began_after_an_invalidation_of_all_sees_the_past() {
    explore(scenarios::invalidate_all_against_load);
}

#[test]
fn a_created_key_is_not_hidden_by_a_miss_that_was_loaded_before() {
    explore(scenarios::create_against_a_remembered_miss);
}

#[test]
fn concurrent_misses_are_one_load() {
    explore(scenarios::concurrent_misses);
}

#[test]
fn cancelling_one_waiter_does_not_cancel_the_load() {
    explore(scenarios::cancelled_leader);
}

#[test]
#[should_panic(expected = "accepted after its revocation had returned")]
fn without_the_guard_a_late_load_is_accepted() {
    explore(mutant::scenarios::revoke_against_late_load);
}

#[test]
#[should_panic(expected = "saw the past")]
fn without_the_guard_an_invalidation_is_overtaken() {
    explore(mutant::scenarios::invalidate_all_against_load);
}

#[test]
#[should_panic(expected = "accepted after its revocation had returned")]
fn a_counter_that_moves_before_the_store_is_written_is_too_early() {
    explore(scenarios::revoke_in_the_wrong_order);
}
