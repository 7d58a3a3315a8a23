//! The limiter over Redis under faults, on a model: the limiter, its link, breaker, clock and denial
//! memory are the real ones; the network and the servers are in memory, on a clock that waits for
//! nobody.
//!
//! `FAULT_SCHEDULES` says how many schedules are tried, 300 unless set. Each is drawn from its
//! number, which a failure tells; `FAULT_SEED` repeats that one alone. What must hold is in
//! `checks`.
#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![allow(unreachable_pub, reason = "this is a program")]

mod budgets;
mod checks;
mod denials;
mod faults;
mod figures;
mod ledger;
mod network;
mod node;
mod outages;
mod plan;
mod quotas;
#[allow(dead_code, reason = "each suite uses its part")]
#[path = "../../benches/support/random.rs"]
mod random;
mod scenarios;
mod server;
mod world;

use std::cell::Cell;
use std::ops::Range;
use std::panic;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once};
use std::thread;

use figures::Figures;
use futures_util::future::join_all;
use ledger::Ledger;
use network::Network;
use node::{LAST_REFUNDS, Node};
use plan::{Fault, Plan};
use tokio::time::sleep;
use world::World;

thread_local! {
    /// The panics of this thread. Those in tasks would be seen by nobody.
    static PANICS: Cell<u32> = const { Cell::new(0) };
}

#[test]
fn under_faults_no_quota_is_exceeded_and_no_call_waits() {
    let number = |name: &str| {
        let text = std::env::var(name).ok()?;
        Some(text.parse::<u64>().expect("a number"))
    };
    if let Some(seed) = number("FAULT_SEED") {
        count_panics();
        let plan = Plan::draw(seed);
        println!("{plan:#?}");
        println!("{:#?}", attempt(plan, true).unwrap());
        return;
    }
    let schedules = number("FAULT_SCHEDULES").unwrap_or(300);
    println!("{:#?}", attempt_all(0..schedules, Plan::draw));
}

/// Tries the plan of each seed.
fn attempt_all(seeds: Range<u64>, plan: impl Fn(u64) -> Plan + Sync) -> Figures {
    count_panics();
    let next = AtomicU64::new(seeds.start);
    let all = Mutex::new((Figures::default(), Vec::new()));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return;
            }
            match attempt(plan(seed), false) {
                Ok(figures) => all.lock().unwrap().0.add(&figures),
                Err(wrong) => {
                    println!("seed {seed}: {wrong}");
                    all.lock().unwrap().1.push(seed);
                }
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(2, Into::into) {
            scope.spawn(work);
        }
    });
    let (figures, wrong) = all.into_inner().unwrap();
    let count = wrong.len();
    assert!(wrong.is_empty(), "{count} schedules went wrong: {wrong:?}");
    figures
}

/// Counts the panics of each thread.
fn count_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let known = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            PANICS.set(PANICS.get() + 1);
            known(info);
        }));
    });
}

/// Runs a schedule, and checks what happened.
fn attempt(plan: Plan, tells: bool) -> Result<Figures, String> {
    let before = PANICS.get();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let outcome = runtime.block_on(run(plan, tells));
    drop(runtime);
    if PANICS.get() > before {
        return Err("a task panicked".to_owned());
    }
    outcome
}

async fn run(plan: Plan, tells: bool) -> Result<Figures, String> {
    let plan = Arc::new(plan);
    let network = Network::new(World::new(Ledger::new(Arc::clone(&plan))));
    let delivering = tokio::spawn(network.clone().run());
    let nodes = (0..plan.nodes.len()).map(|number| Node::new(number, &network));
    let nodes: Vec<Node> = nodes.collect();
    let mut tasks: Vec<_> = nodes.iter().map(|node| node.spawn(Node::run)).collect();
    for (at, fault) in plan.faults.clone() {
        let (network, nodes) = (network.clone(), nodes.clone());
        tasks.push(tokio::spawn(async move {
            sleep(at).await;
            if let Fault::Burst { node, calls } = fault {
                nodes[node].burst(calls).await;
            } else {
                faults::happen(&network, &fault).await;
            }
        }));
    }
    for task in join_all(tasks).await {
        task.map_err(|error| error.to_string())?;
    }
    sleep(LAST_REFUNDS).await;
    delivering.abort();
    if tells {
        network.world().ledger.tell();
    }
    for (number, node) in nodes.iter().enumerate() {
        let state = node.state();
        if !state.contains("in_flight: 0") {
            return Err(format!("node {number}: calls are still counted: {state}"));
        }
    }
    network.world().ledger.check()
}
