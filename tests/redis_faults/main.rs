//! The limiter over real Redis servers under faults: the model of `tests/redis_model` is true.
//!
//! Three nodes hammer a server, each through a proxy of its own, and a fault happens.
//! `REAL_SCHEDULES` says how many schedules are tried, 14 unless set: each kind of fault once. Each
//! is drawn from its number, which a failure tells; `REAL_SEED` repeats that one alone, but the
//! moments differ. What must hold is in `proof`.
#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![allow(unreachable_pub, reason = "this is a program")]

mod faults;
mod fleet;
mod proof;
#[path = "../support/proxy.rs"]
mod proxy;
#[allow(dead_code, reason = "each suite uses its part")]
#[path = "../../benches/support/random.rs"]
mod random;
#[path = "../support/redis.rs"]
mod server;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use faults::{KINDS, Kind, Scene};
use fleet::Fleet;
use proof::{Figures, Proof};
use random::Random;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// The schedules at once.
const AT_ONCE: u64 = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_servers_keep_what_the_model_promises() {
    let number = |name: &str| {
        let text = std::env::var(name).ok()?;
        Some(text.parse::<u64>().expect("a number"))
    };
    if let Some(seed) = number("REAL_SEED") {
        println!("{}", attempt(seed).await.unwrap());
        return;
    }
    let schedules = number("REAL_SCHEDULES").unwrap_or(KINDS.len() as u64);
    let next = Arc::new(AtomicU64::new(0));
    let mut workers = JoinSet::new();
    for _ in 0..AT_ONCE {
        let next = Arc::clone(&next);
        workers.spawn(async move {
            let mut wrong = Vec::new();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= schedules {
                    return wrong;
                }
                match attempt(seed).await {
                    Ok(figures) => println!("{seed}: {figures}"),
                    Err(error) => wrong.push(format!("REAL_SEED={seed}: {error}")),
                }
            }
        });
    }
    let wrong: Vec<_> = workers.join_all().await.concat();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Lets a fault happen to nodes at work, and checks what they saw.
async fn attempt(seed: u64) -> Result<Figures, String> {
    not_at_midnight().await;
    let mut random = Random::new(seed);
    let kind = KINDS[usize::try_from(seed).unwrap() % KINDS.len()];
    let mut scene = Scene::new(kind).await;
    let fleet = Arc::new(Fleet::new(scene.proxies()));
    let tasks = fleet.hammer(&mut random);
    sleep(millis(300 + random.below(200))).await;
    let happened = scene.happen(&mut random).await;
    sleep(millis(1_000)).await;
    fleet.stop(tasks).await?;
    let used = fleet::used(&scene.url()).await;
    let lost = match kind {
        Kind::Promote => {
            let by_the_old_one = fleet::used(&scene.url_of_the_old_one()).await;
            let each = by_the_old_one.iter().zip(&happened.kept);
            each.map(|(old, kept)| old.saturating_sub(*kept)).collect()
        }
        Kind::KillEmpty => fleet::lasting().iter().map(|it| it.quota.limit()).collect(),
        _ => vec![0; used.len()],
    };
    Proof {
        kind,
        calls: &fleet.calls(),
        happened: &happened,
        used: &used,
        lost: &lost,
    }
    .check()
}

/// Waits until no day begins in a schedule.
async fn not_at_midnight() {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let left = 86_400 - since.unwrap().as_secs() % 86_400;
    if left < 30 {
        sleep(Duration::from_secs(left)).await;
    }
}

fn millis(number: impl TryInto<u64, Error: fmt::Debug>) -> Duration {
    Duration::from_millis(number.try_into().unwrap())
}
