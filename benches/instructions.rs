//! One case of `benches/overhead.rs`, for `benches/instructions.sh` to count its instructions.
//!
//! `instructions CASE COUNT` serves so many requests of a case; what is counted happens in
//! [`counted_requests`]. `instructions list` names the cases, each with that of the bare service.

mod support;

use support::cases::{Case, NAMES, Sets};
use support::random::Random;
use support::requests::Request;
use support::serve::RUNTIME;

/// Requests that are made at a time.
const BATCH: usize = 100;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["list"] => list(),
        [case, count] => run(case, count.parse().expect("a number of requests")),
        _ => println!("instructions: run `bash benches/instructions.sh`"),
    }
}

fn list() {
    let sets = Sets::new(1);
    for case in cases().map(|name| sets.case(name)) {
        println!("{} {}", case.name, case.bare);
    }
}

/// A million keys take too long here, and what they cost is not instructions.
fn cases() -> impl Iterator<Item = &'static str> {
    NAMES.into_iter().filter(|name| !name.ends_with("_1m"))
}

fn run(name: &str, count: usize) {
    let _entered = RUNTIME.enter();
    let name = cases().find(|case| *case == name);
    let mut case = Sets::new(1).case(name.expect("one of `instructions list`"));
    case.check();
    case.warm();
    let mut random = Random::new(5);
    let mut requests = Vec::new();
    for _ in 0..count.div_ceil(BATCH) {
        case.draw(BATCH, &mut random, &mut requests);
        let unexpected = counted_requests(&mut case, &mut requests);
        assert_eq!(unexpected, 0, "{} answers something else", case.name);
    }
}

/// The script counts in here only: neither what is set up, nor how requests are made.
#[inline(never)]
fn counted_requests(case: &mut Case, requests: &mut Vec<Request>) -> usize {
    case.serve(requests)
}
