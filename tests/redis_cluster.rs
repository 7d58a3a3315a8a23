//! The limiter on a Redis Cluster: budgets with several homes, slots that move, servers that go.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/redis_cluster.rs"]
mod cluster;
#[allow(dead_code, reason = "each suite uses its part")]
#[path = "../benches/support/random.rs"]
mod random;
#[path = "support/redis.rs"]
mod server;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use cluster::{RedisCluster, slot_of};
use futures_util::future::join_all;
use random::Random;
use tower_api_key::clock::{Clock, ManualClock, SystemClock};
use tower_api_key::limit::{
    BudgetStatus, Charge, LimitName, MemoryLimiter, RateLimiter, RedisLimiter, Refund, Subject,
    Verdict,
};
use tower_api_key::{Quota, conformance};

const PER_DAY: Quota = Quota::per_day(1_000_000);
const PATIENCE: Duration = Duration::from_secs(10);

/// Returns a cluster that the tests share which leave its servers alone. Each has its own prefix.
fn shared() -> Arc<RedisCluster> {
    static SHARED: Mutex<Weak<RedisCluster>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    let cluster = shared
        .upgrade()
        .unwrap_or_else(|| Arc::new(RedisCluster::start()));
    *shared = Arc::downgrade(&cluster);
    cluster
}

/// A limiter with the default time limit.
fn in_a_hurry(cluster: &RedisCluster) -> RedisLimiter {
    RedisLimiter::connect_cluster(cluster.urls()).unwrap()
}

/// A limiter that is patient, since the machine may be busy, and that asks each time.
fn limiter(cluster: &RedisCluster, prefix: &str) -> RedisLimiter {
    let limiter = in_a_hurry(cluster).time_limit(PATIENCE);
    limiter.prefix(prefix).remember_denials(Duration::ZERO)
}

fn address(last: u8) -> Subject<'static> {
    Subject::Address(IpAddr::V4(Ipv4Addr::new(192, 0, 2, last)))
}

async fn check(limiter: &RedisLimiter, charges: &[Charge<'_>]) -> Verdict {
    limiter.check(charges, &SystemClock).await.unwrap()
}

/// Returns what is left of the budget of a charge.
async fn left(limiter: &RedisLimiter, charge: Charge<'_>) -> u64 {
    let verdict = limiter.peek(&[charge], &SystemClock).await.unwrap();
    verdict.statuses()[0].remaining()
}

/// Returns what is told of each budget.
fn remaining(verdict: &Verdict) -> Vec<u64> {
    let statuses = verdict.statuses().iter();
    statuses.map(BudgetStatus::remaining).collect()
}

/// Waits until a request is answered, and returns the time that it took.
async fn recovers(limiter: &RedisLimiter, charges: &[Charge<'_>]) -> Duration {
    let begun = Instant::now();
    while limiter.check(charges, &SystemClock).await.is_err() {
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "it does not recover"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_limiter_passes_the_conformance_suite_by_home_and_together() {
    let cluster = shared();
    let by_home = limiter(&cluster, "suite");
    conformance::rate_limiter::on_its_own_clock(&by_home).await;
    let together = limiter(&cluster, "suite").together();
    conformance::rate_limiter::on_its_own_clock(&together).await;
}

/// Whatever clients call themselves: also what braces in a key would send elsewhere.
#[tokio::test]
async fn subjects_with_braces_and_empty_ones_have_a_home() {
    let cluster = shared();
    for limiter in [
        limiter(&cluster, "braces"),
        limiter(&cluster, "braces").together(),
        limiter(&cluster, "{}"),
        limiter(&cluster, "{").together(),
    ] {
        let names = ["", "{", "}", "{a}"].map(LimitName::new);
        for text in ["{a}", "a{b}", "", "{}", "}{", "a"] {
            let subjects = [Subject::Account(text), Subject::Custom(text)];
            let charges = names.iter().flat_map(|name| {
                subjects.map(|subject| Charge::new(name, subject, Quota::per_day(3), 1))
            });
            let charges: Vec<Charge<'_>> = charges.collect();
            let now = SystemClock.readings();
            let verdict = check(&limiter, &charges).await;
            for left in [1, 0] {
                let verdict = check(&limiter, &charges).await;
                assert!(verdict.is_allowed(), "{text}");
                assert!(remaining(&verdict).iter().all(|it| *it == left));
            }
            let denied = check(&limiter, &charges).await;
            assert!(!denied.is_allowed(), "{text}");
            let refunds = charges.iter().zip(verdict.statuses());
            let refunds = refunds.map(|(charge, status)| Refund::new(*charge, 1, now, status));
            let refunds: Vec<Refund<'_>> = refunds.collect();
            limiter.refund(&refunds, &SystemClock).await.unwrap();
            assert!(check(&limiter, &charges).await.is_allowed(), "{text}");
        }
    }
}

/// The calls of a request, as the servers count them.
#[tokio::test]
async fn a_request_is_one_call_for_each_home() {
    let cluster = RedisCluster::start();
    let limiter = limiter(&cluster, "tak");
    let names: Vec<LimitName> = (0..4).map(|at| LimitName::new(format!("l{at}"))).collect();
    let subjects = [
        Subject::Account("acme"),
        Subject::Global,
        address(1),
        address(2),
    ];
    let homes = ["a=acme", "g", "i=192.0.2.1", "i=192.0.2.2"];
    let slots: std::collections::BTreeSet<u16> = homes.map(slot_of).into();
    assert_eq!(slots.len(), homes.len());
    let charges = |homes: usize, quota: Quota| -> Vec<Charge<'_>> {
        let subjects = subjects.iter().take(homes);
        let all = subjects.flat_map(|subject| names.iter().map(move |name| (name, subject)));
        all.map(|(name, subject)| Charge::new(name, *subject, quota, 1))
            .collect()
    };
    // All servers know the scripts then.
    for quota in [PER_DAY, Quota::per_hour(1)] {
        check(&limiter, &charges(4, quota)).await;
        check(&limiter, &charges(4, quota)).await;
    }
    limiter.until_refunded().await;
    let calls = || {
        let count =
            |command: &str| cluster.count("commandstats", &format!("cmdstat_{command}:calls"));
        (count("evalsha"), count("eval"))
    };
    let (before, in_full) = calls();
    let mut sent = 0;
    for homes in 1..=4 {
        for _ in 0..10 {
            assert!(check(&limiter, &charges(homes, PER_DAY)).await.is_allowed());
        }
        sent += 10 * homes as u64;
        assert_eq!(calls(), (before + sent, in_full), "{homes} homes");
    }
    // Nothing is taken of the account, so nothing is refunded there.
    let mut denied = charges(1, Quota::per_hour(1));
    denied.truncate(1);
    denied.push(Charge::new(&names[0], Subject::Global, PER_DAY, 1));
    assert!(!check(&limiter, &denied).await.is_allowed());
    limiter.until_refunded().await;
    assert_eq!(calls().0, before + sent + 3);
}

/// A denial is told as if nothing had been taken anywhere, and soon nothing is.
#[tokio::test]
async fn a_denial_by_one_home_leaves_the_others_as_they_were() {
    let cluster = shared();
    let limiter = limiter(&cluster, "denial");
    let name = LimitName::new("l");
    let quotas = [
        Quota::per_day(10),
        Quota::per_day(10).smooth().burst(10),
        Quota::per_utc_month(10),
    ];
    for (at, quota) in quotas.into_iter().enumerate() {
        let account = format!("acme{at}");
        let name = LimitName::new(format!("{name}{at}"));
        let denying = Charge::new(&name, Subject::Account(&account), quota, 1);
        let reporting = Charge::new(&name, Subject::Custom(&account), quota, 4).report_only();
        let others = [
            Charge::new(&name, Subject::Global, quota, 2),
            Charge::new(&name, address(1), quota, 1),
            Charge::new(&name, address(2), quota, 0),
            reporting,
        ];
        let used = Charge::new(&name, Subject::Account(&account), quota, 10);
        assert!(check(&limiter, &[used]).await.is_allowed());
        assert!(check(&limiter, &others).await.is_allowed());
        assert!(check(&limiter, &others).await.is_allowed());
        let before = limiter.peek(&others, &SystemClock).await.unwrap();
        let mut charges = others.to_vec();
        charges.insert(1, denying);
        for _ in 0..3 {
            let denied = check(&limiter, &charges).await;
            assert!(!denied.is_allowed() && denied.retry_after().is_some());
            assert_eq!(denied.tightest(), Some(1));
            let statuses = denied.statuses();
            assert_eq!(remaining(&denied), [6, 0, 8, 10, 2], "{quota:?}");
            for at in [0, 2, 3] {
                assert!(statuses[at].is_admissible(), "{quota:?}");
            }
            assert!(statuses[3].full_in().is_zero());
            assert!(statuses[4].is_report_only() && !statuses[4].is_admissible());
            let begun = Instant::now();
            loop {
                let now = limiter.peek(&others, &SystemClock).await.unwrap();
                if remaining(&now) == remaining(&before) {
                    break;
                }
                assert!(
                    begun.elapsed() < Duration::from_secs(1),
                    "{now:?}, {before:?}"
                );
            }
        }
        // Only the report-only charge is beyond its quota: admitted, and charged.
        let others: Vec<Charge<'_>> = others.into();
        assert!(check(&limiter, &others).await.is_allowed());
        assert_eq!(left(&limiter, others[0]).await, 4);
    }
}

/// Random requests over several homes, on the clock of the caller: as in memory.
#[tokio::test]
async fn requests_over_several_homes_are_decided_as_in_memory() {
    let steps: u64 = std::env::var("REDIS_STEPS").map_or(20_000, |text| text.parse().unwrap());
    let steps = steps / 10;
    let cluster = shared();
    let shared = limiter(&cluster, "random").dangerous_on_the_clock_of_the_caller();
    let memory = MemoryLimiter::new();
    // Nothing comes back within the test.
    let clock = ManualClock::at(SystemTime::UNIX_EPOCH + Duration::from_secs(1_769_903_000));
    let mut random = Random::new(7);
    let quotas = [
        Quota::per_day(12),
        Quota::per_day(12).smooth(),
        Quota::per_utc_month(12),
    ];
    let accounts: Vec<String> = (0..3).map(|at| format!("a{at}")).collect();
    let mut names = Vec::new();
    let mut denied = 0;
    for step in 0..steps {
        if step % 200 == 0 {
            let name = |at: usize| LimitName::new(format!("l{step}_{at}"));
            names = (0..quotas.len()).map(name).collect();
        }
        clock.advance(Duration::from_micros(random.below(1_000) as u64));
        let count = 1 + random.below(5);
        let charges = (0..count).map(|_| {
            let at = random.below(quotas.len());
            let account = &accounts[random.below(accounts.len())];
            let subject = match random.below(4) {
                0 => Subject::Global,
                1 => address(u8::try_from(random.below(3)).unwrap()),
                2 => Subject::Custom(account),
                _ => Subject::Account(account),
            };
            let cost = [0, 1, 1, 2, 3, 13][random.below(6)];
            let charge = Charge::new(&names[at], subject, quotas[at], cost);
            match random.below(8) {
                0 => charge.report_only(),
                1 => charge.needing(cost + 1),
                _ => charge,
            }
        });
        let mut charges: Vec<Charge<'_>> = charges.collect();
        // Of one budget, one charge.
        charges.sort_by_key(|it| format!("{:?} {:?}", it.name(), it.subject()));
        charges.dedup_by_key(|it| format!("{:?} {:?}", it.name(), it.subject()));
        let expected = memory.check(&charges, &clock).await.unwrap();
        let told = shared.check(&charges, &clock).await.unwrap();
        assert_eq!(
            told.is_allowed(),
            expected.is_allowed(),
            "step {step}: {charges:?}"
        );
        let all = |verdict: &Verdict| -> Vec<(u64, bool, bool)> {
            let statuses = verdict.statuses().iter();
            statuses
                .map(|it| (it.remaining(), it.is_admissible(), it.full_in().is_zero()))
                .collect()
        };
        assert_eq!(all(&told), all(&expected), "step {step}: {charges:?}");
        denied += u64::from(!told.is_allowed());
        shared.until_refunded().await;
    }
    println!("{denied} of {steps} were denied");
    assert!(denied > steps / 10);
}

/// Callers at once, of whom many are denied by one home or another: no budget ever admits more than
/// its quota, and in the end each has admitted exactly that, or what the others left of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_at_once_are_admitted_exactly_the_quota_of_all_homes() {
    let cluster = shared();
    let name = LimitName::new("l");
    // Three processes.
    let limiters = [0, 1, 2].map(|_| Arc::new(limiter(&cluster, "hammer")));
    let (all, each) = (Quota::per_day(300), Quota::per_day(90));
    // Four accounts have more than all may have; one address has less than its account.
    let by_account: Arc<[AtomicU64; 4]> = Arc::default();
    let by_address: Arc<[AtomicU64; 3]> = Arc::default();
    let tasks = (0..12).map(|task: usize| {
        let limiter = Arc::clone(&limiters[task % 3]);
        let (by_account, by_address) = (Arc::clone(&by_account), Arc::clone(&by_address));
        let name = name.clone();
        tokio::spawn(async move {
            let mut random = Random::new(task as u64 + 1);
            for _ in 0..150 {
                let (account, from) = (random.below(4), random.below(3));
                let of_account = format!("account{account}");
                let mut charges = [
                    Charge::new(&name, Subject::Account(&of_account), each, 1),
                    Charge::new(&name, Subject::Global, all, 1),
                    Charge::new(
                        &name,
                        address(u8::try_from(from).unwrap()),
                        Quota::per_day(110),
                        1,
                    ),
                ];
                charges.rotate_left(random.below(3));
                if check(&limiter, &charges).await.is_allowed() {
                    let before = by_account[account].fetch_add(1, Ordering::Relaxed);
                    assert!(before < 90);
                    let before = by_address[from].fetch_add(1, Ordering::Relaxed);
                    assert!(before < 110);
                }
            }
        })
    });
    for task in join_all(tasks).await {
        task.unwrap();
    }
    for limiter in &limiters {
        limiter.until_refunded().await;
    }
    // What was denied for a moment only is had now.
    let limiter = &limiters[0];
    let global = Charge::new(&name, Subject::Global, all, 1);
    let mut admitted: u64 = by_account.iter().map(|it| it.load(Ordering::Relaxed)).sum();
    assert_eq!(
        left(limiter, global).await,
        300 - admitted,
        "the denied are not charged"
    );
    for (account, from) in (0..4).flat_map(|account| (0..3).map(move |from| (account, from))) {
        let of_account = format!("account{account}");
        let charges = [
            Charge::new(&name, Subject::Account(&of_account), each, 1),
            Charge::new(&name, address(from), Quota::per_day(110), 1),
            global,
        ];
        while check(limiter, &charges).await.is_allowed() {
            admitted += 1;
            by_account[account].fetch_add(1, Ordering::Relaxed);
            by_address[usize::from(from)].fetch_add(1, Ordering::Relaxed);
        }
        limiter.until_refunded().await;
    }
    assert_eq!((admitted, left(limiter, global).await), (300, 0));
    for (at, admitted) in by_account.iter().enumerate() {
        let of_account = format!("account{at}");
        let charge = Charge::new(&name, Subject::Account(&of_account), each, 1);
        assert_eq!(
            left(limiter, charge).await,
            90 - admitted.load(Ordering::Relaxed)
        );
    }
    for (at, admitted) in by_address.iter().enumerate() {
        let charge = Charge::new(
            &name,
            address(u8::try_from(at).unwrap()),
            Quota::per_day(110),
            1,
        );
        assert_eq!(
            left(limiter, charge).await,
            110 - admitted.load(Ordering::Relaxed)
        );
    }
}

/// A flood of requests that one home denies asks once, and takes from the other homes once.
#[tokio::test]
async fn a_flood_of_denied_requests_leaves_the_other_homes_alone() {
    let cluster = RedisCluster::start();
    let limiter = in_a_hurry(&cluster).time_limit(PATIENCE);
    let limiter = limiter.remember_denials(Duration::from_secs(600));
    let name = LimitName::new("l");
    let quota = Quota::per_day(5);
    let of_account = |cost| Charge::new(&name, Subject::Account("acme"), quota, cost);
    let used = [of_account(5)];
    let now = SystemClock.readings();
    let taken = check(&limiter, &used).await;
    let charges = [of_account(1), Charge::new(&name, Subject::Global, quota, 1)];
    let calls = || cluster.count("commandstats", "cmdstat_evalsha:calls");
    assert!(!check(&limiter, &charges).await.is_allowed());
    limiter.until_refunded().await;
    let before = calls();
    for _ in 0..100 {
        let denied = check(&limiter, &charges).await;
        assert!(!denied.is_allowed());
        assert_eq!(denied.statuses()[1].remaining(), 5);
    }
    assert_eq!(calls(), before, "its own refund does not make it ask again");
    // A refund of another home does not either; one of the home that denies does.
    let global = [charges[1]];
    let of_global = check(&limiter, &global).await;
    let refund = Refund::new(global[0], 1, now, &of_global.statuses()[0]);
    limiter.refund(&[refund], &SystemClock).await.unwrap();
    let before = calls();
    assert!(!check(&limiter, &charges).await.is_allowed());
    assert_eq!(calls(), before);
    let refund = Refund::new(used[0], 1, now, &taken.statuses()[0]);
    limiter.refund(&[refund], &SystemClock).await.unwrap();
    assert!(check(&limiter, &charges).await.is_allowed());
}

/// Refunds of the application reach all homes of a request.
#[tokio::test]
async fn refunds_reach_all_homes_of_a_request() {
    let cluster = shared();
    let limiter = limiter(&cluster, "refunds");
    let name = LimitName::new("l");
    let subjects = [
        Subject::Account("acme"),
        Subject::Global,
        address(1),
        Subject::Custom(""),
    ];
    let charges = subjects.map(|subject| Charge::new(&name, subject, Quota::per_day(10), 5));
    let now = SystemClock.readings();
    let taken = check(&limiter, &charges).await;
    let refunds = charges.iter().zip(taken.statuses());
    let refunds: Vec<_> = refunds
        .map(|(charge, status)| Refund::new(*charge, 3, now, status))
        .collect();
    limiter.refund(&refunds, &SystemClock).await.unwrap();
    for charge in charges {
        assert_eq!(left(&limiter, charge).await, 8);
    }
}

/// A slot moves to and fro while it is used: each call is carried out once, and errors do not last.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_11_a_slot_that_moves_under_load_loses_no_charge_and_charges_none_twice() {
    let cluster = RedisCluster::start();
    let account = RedisCluster::account_on(0, 0);
    let slot = slot_of(&format!("a={account}"));
    let limiter = Arc::new(limiter(&cluster, "tak"));
    let names: Vec<LimitName> = (0..3).map(|at| LimitName::new(format!("l{at}"))).collect();
    let is_over = Arc::new(AtomicBool::new(false));
    // The first task uses one budget, the others several of the account, and that of all.
    let tasks = (1..=3_usize).map(|count| {
        let (limiter, is_over) = (Arc::clone(&limiter), Arc::clone(&is_over));
        let (names, account) = (names.clone(), account.clone());
        tokio::spawn(async move {
            let (mut admitted, mut failed) = (0_u64, 0_u64);
            let charges = names.iter().take(count);
            let mut charges: Vec<Charge<'_>> = charges
                .map(|name| Charge::new(name, Subject::Account(&account), PER_DAY, 1))
                .collect();
            if count > 1 {
                charges.push(Charge::new(&names[0], Subject::Global, PER_DAY, 1));
            }
            while !is_over.load(Ordering::Relaxed) {
                match limiter.check(&charges, &SystemClock).await {
                    Ok(verdict) => {
                        assert!(verdict.is_allowed());
                        admitted += 1;
                    }
                    Err(_) => failed += 1,
                }
                tokio::time::sleep(Duration::from_micros(300)).await;
            }
            (admitted, failed)
        })
    });
    let tasks: Vec<_> = tasks.collect();
    let begun = Instant::now();
    let rounds = std::env::var("CLUSTER_MOVES").map_or(6, |text| text.parse().unwrap());
    let owners = [0, 1, 2].iter().cycle();
    for (from, to) in owners.clone().zip(owners.skip(1)).take(rounds) {
        let pause = async || tokio::time::sleep(Duration::from_millis(15)).await;
        cluster.nodes[*to].run::<()>(&["SCRIPT", "FLUSH"]);
        cluster.begin_move(slot, *from, *to);
        pause().await;
        while cluster.move_keys(slot, *from, *to, 1) > 0 {
            pause().await;
        }
        cluster.end_move(slot, *from, *to);
        pause().await;
    }
    is_over.store(true, Ordering::Relaxed);
    let counts = join_all(tasks).await.into_iter().map(Result::unwrap);
    let (admitted, failed): (Vec<u64>, Vec<u64>) = counts.unzip();
    limiter.until_refunded().await;
    println!(
        "{rounds} moves in {:?}: {admitted:?} admitted, {failed:?} failed",
        begun.elapsed()
    );
    let errors = |code: &str| cluster.count("errorstats", &format!("errorstat_{code}:count"));
    let seen = ["MOVED", "ASK", "TRYAGAIN"].map(errors);
    println!("MOVED, ASK, TRYAGAIN: {seen:?}");
    assert!(seen.iter().all(|count| *count > 0));
    assert_eq!(failed[0], 0, "one budget is always somewhere");
    // The slot has come to rest: no more errors.
    let account = Subject::Account(&account);
    let all: Vec<Charge<'_>> = names
        .iter()
        .map(|it| Charge::new(it, account, PER_DAY, 1))
        .collect();
    for _ in 0..10 {
        check(&limiter, &all).await;
    }
    for (at, charge) in all.iter().enumerate() {
        let expected: u64 = admitted[at..].iter().sum::<u64>() + 10;
        assert_eq!(
            PER_DAY.limit() - left(&limiter, *charge).await,
            expected,
            "budget {at}"
        );
    }
    // What was taken for a request that failed elsewhere was refunded.
    let global = Charge::new(&names[0], Subject::Global, PER_DAY, 1);
    let expected: u64 = admitted[1..].iter().sum();
    assert_eq!(PER_DAY.limit() - left(&limiter, global).await, expected);
}

/// A master that hangs: five requests wait for it, the next ones fail at once and charge nothing
/// elsewhere, and those with other homes work.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_hangs_costs_the_other_homes_nothing() {
    let cluster = RedisCluster::start();
    let limiter = in_a_hurry(&cluster);
    let name = LimitName::new("l");
    let accounts: Vec<String> = (0..3)
        .map(|master| RedisCluster::account_on(master, 0))
        .collect();
    let charge =
        |master: usize| Charge::new(&name, Subject::Account(&accounts[master]), PER_DAY, 1);
    let both = [charge(0), charge(1)];
    for master in 0..3 {
        recovers(&limiter, &[charge(master)]).await;
    }
    recovers(&limiter, &both).await;
    let hung_before = left(&limiter, charge(0)).await;
    cluster.nodes[0].pause();
    let mut waited = 0;
    for _ in 0..1_000 {
        let begun = Instant::now();
        assert!(limiter.check(&both, &SystemClock).await.is_err());
        waited += u32::from(begun.elapsed() > Duration::from_millis(100));
    }
    println!("{waited} calls waited");
    assert!((1..=6).contains(&waited), "{waited}");
    limiter.until_refunded().await;
    let calls = || cluster.nodes[1].count("commandstats", "cmdstat_evalsha:calls");
    let before = calls();
    for _ in 0..50 {
        assert!(limiter.check(&both, &SystemClock).await.is_err());
    }
    assert_eq!(calls(), before, "nothing is sent anywhere");
    for at in [1, 2] {
        cluster.nodes[at].run::<()>(&["SCRIPT", "FLUSH"]);
    }
    for _ in 0..20 {
        let others = [charge(1), charge(2)];
        let begun = Instant::now();
        assert!(
            limiter
                .check(&others, &SystemClock)
                .await
                .unwrap()
                .is_allowed()
        );
        assert!(begun.elapsed() < Duration::from_millis(250));
    }
    // 1 + 1 + 20: what was taken beside the master that hung was refunded.
    assert_eq!(PER_DAY.limit() - left(&limiter, charge(1)).await, 22);
    cluster.nodes[0].resume();
    let after = recovers(&limiter, &[charge(0).needing(1)]).await;
    println!("it is used again after {after:?}");
    assert!(after < Duration::from_secs(5));
    assert_eq!(
        left(&limiter, charge(0)).await,
        hung_before - 1,
        "late calls charge nothing"
    );
}

/// A master that is killed and comes back, empty; all may be away at first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_starts_without_servers_and_outlives_a_master() {
    let mut cluster = RedisCluster::start();
    let name = LimitName::new("l");
    let accounts: Vec<String> = (0..3)
        .map(|master| RedisCluster::account_on(master, 0))
        .collect();
    let charge =
        |master: usize| Charge::new(&name, Subject::Account(&accounts[master]), PER_DAY, 1);
    // The first server that is named is not there, and the second one hangs.
    cluster.nodes[2].pause();
    let urls = [
        "redis://127.0.0.1:1/".to_owned(),
        cluster.nodes[2].url(),
        cluster.nodes[0].url(),
    ];
    let limiter = RedisLimiter::connect_cluster(urls).unwrap();
    let after = recovers(&limiter, &[charge(0), charge(1)]).await;
    println!("two of three are found after {after:?}");
    assert!(after < Duration::from_secs(5));
    cluster.nodes[2].resume();
    recovers(&limiter, &[charge(2)]).await;

    cluster.nodes[0].kill();
    let begun = Instant::now();
    for _ in 0..1_000 {
        assert!(limiter.check(&[charge(0)], &SystemClock).await.is_err());
        assert!(
            limiter
                .check(&[charge(1), charge(2)], &SystemClock)
                .await
                .is_ok()
        );
    }
    println!(
        "1,000 calls without and with an answer in {:?}",
        begun.elapsed()
    );
    cluster.nodes[0].restart();
    let after = recovers(&limiter, &[charge(0), charge(1), charge(2)]).await;
    println!("it is used {after:?} after its start");
    assert!(after < Duration::from_secs(10));

    let nobody = RedisLimiter::connect_cluster(["redis://127.0.0.1:1/"]).unwrap();
    for call in 0..100 {
        let begun = Instant::now();
        let error = nobody.check(&[charge(0)], &SystemClock).await.unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(
            call == 0 || source.contains("no server of the cluster"),
            "{source}"
        );
        assert!(call == 0 || begun.elapsed() < Duration::from_millis(100));
    }
}

/// A replica takes over, first while the master is there, and then since it is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_is_followed() {
    let timeout = Duration::from_secs(1);
    let mut cluster = RedisCluster::start_with_timeout(timeout);
    cluster.add_replica(0, timeout);
    let limiter = in_a_hurry(&cluster);
    let name = LimitName::new("l");
    let account = RedisCluster::account_on(0, 0);
    let other = RedisCluster::account_on(1, 0);
    let charges = [&account, &other].map(|it| Charge::new(&name, Subject::Account(it), PER_DAY, 1));
    for _ in 0..10 {
        recovers(&limiter, &charges).await;
    }
    cluster.nodes[3].wait_until(|it| it.tell(&["DBSIZE"]) == "1");
    let calls = |node: usize| cluster.nodes[node].count("commandstats", "cmdstat_evalsha:calls");
    cluster.nodes[3].run::<()>(&["CLUSTER", "FAILOVER", "TAKEOVER"]);
    let begun = Instant::now();
    while calls(3) == 0 {
        recovers(&limiter, &charges).await;
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "it is not followed"
        );
    }
    println!("it is followed after {:?}", begun.elapsed());
    for _ in 0..100 {
        check(&limiter, &charges).await;
    }
    assert!(
        PER_DAY.limit() - left(&limiter, charges[0]).await >= 110,
        "it knows what was used"
    );

    // The old master is its replica now.
    cluster.nodes[0].wait_until(|it| it.tell(&["INFO", "replication"]).contains("link_status:up"));
    cluster.nodes[3].kill();
    let after = recovers(&limiter, &charges).await;
    println!("a killed master is replaced after {after:?}");
    assert!(check(&limiter, &charges).await.is_allowed());
    assert!(
        PER_DAY.limit() - left(&limiter, charges[0]).await >= 110,
        "it knows what was used"
    );
}

/// Who connects to one server of a cluster is told what to do.
#[tokio::test]
async fn one_server_of_a_cluster_is_an_error_that_names_the_way() {
    let cluster = shared();
    let name = LimitName::new("l");
    let accounts: Vec<String> = (0..2)
        .map(|master| RedisCluster::account_on(master, 0))
        .collect();
    let charges = [0, 1].map(|at| Charge::new(&name, Subject::Account(&accounts[at]), PER_DAY, 1));
    let limiter = RedisLimiter::connect(cluster.nodes[0].url()).unwrap();
    let limiter = limiter.time_limit(PATIENCE);
    for charges in [&charges[1..], &charges[..]] {
        let error = limiter.check(charges, &SystemClock).await.unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains("connect_cluster"), "{source}");
    }
    assert!(check(&limiter, &charges[..1]).await.is_allowed());
    let none = RedisLimiter::connect_cluster(Vec::<String>::new());
    assert!(none.is_err());
}

/// Connections break when a call was carried out and is not yet answered: it is not sent again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_whose_answer_is_lost_is_not_sent_again() {
    let proxy = Proxy::listen();
    let cluster = RedisCluster::start_one_behind(proxy.port);
    proxy.forward_to(cluster.nodes[0].port());
    let url = format!("redis://127.0.0.1:{}/", proxy.port);
    let limiter = RedisLimiter::connect_cluster([url])
        .unwrap()
        .time_limit(PATIENCE);
    let name = LimitName::new("l");
    let charges = [Charge::new(&name, Subject::Global, PER_DAY, 1)];
    recovers(&limiter, &charges).await;
    let (mut admitted, mut lost) = (1, 0);
    while lost < 5 {
        proxy.loses_the_next.store(true, Ordering::Relaxed);
        assert!(limiter.check(&charges, &SystemClock).await.is_err());
        assert!(
            !proxy.loses_the_next.load(Ordering::Relaxed),
            "it was answered"
        );
        lost += 1;
        recovers(&limiter, &charges).await;
        admitted += 1;
    }
    let used = PER_DAY.limit() - left(&limiter, charges[0]).await;
    assert_eq!(used, admitted + lost);
}

/// What is between a server and its clients. It can lose an answer, with the connection.
struct Proxy {
    port: u16,
    listener: TcpListener,
    loses_the_next: Arc<AtomicBool>,
}

impl Proxy {
    fn listen() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Self {
            port: listener.local_addr().unwrap().port(),
            listener,
            loses_the_next: Arc::default(),
        }
    }

    /// Forwards connections from now on, until the process ends.
    fn forward_to(&self, port: u16) {
        let listener = self.listener.try_clone().unwrap();
        let loses_the_next = Arc::clone(&self.loses_the_next);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (client, server) = (
                    client.unwrap(),
                    TcpStream::connect(("127.0.0.1", port)).unwrap(),
                );
                let [mut from, mut to] = [&client, &server].map(|it| it.try_clone().unwrap());
                std::thread::spawn(move || std::io::copy(&mut from, &mut to));
                let loses_the_next = Arc::clone(&loses_the_next);
                std::thread::spawn(move || answer(client, server, &loses_the_next));
            }
        });
    }
}

/// Passes the answers of a server on, until one of a script is to be lost.
fn answer(mut client: TcpStream, mut server: TcpStream, loses_the_next: &AtomicBool) {
    let mut chunk = [0; 4_096];
    while let Ok(count @ 1..) = server.read(&mut chunk) {
        let is_of_script = chunk.starts_with(b"*6\r\n:1\r\n");
        if is_of_script && loses_the_next.swap(false, Ordering::Relaxed) {
            break;
        }
        if client.write_all(&chunk[..count]).is_err() {
            break;
        }
    }
    // One of them may be closed already.
    let _ = client.shutdown(Shutdown::Both);
    let _ = server.shutdown(Shutdown::Both);
}

#[test]
fn without_a_runtime_a_call_to_a_cluster_is_an_error() {
    let limiter = RedisLimiter::connect_cluster(["redis://127.0.0.1:1/"]).unwrap();
    let name = LimitName::new("l");
    let charges = [Subject::Global, address(1)].map(|it| Charge::new(&name, it, PER_DAY, 1));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let call = std::pin::pin!(limiter.check(&charges, &SystemClock));
    let std::task::Poll::Ready(Err(error)) = Future::poll(call, &mut context) else {
        panic!("it waits");
    };
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("runtime"), "{source}");
}
