//! The limiter over Redis: conformance, and what bit others.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[allow(dead_code, reason = "each suite uses its part")]
#[path = "../benches/support/random.rs"]
mod random;
#[path = "support/redis.rs"]
mod server;

use std::collections::VecDeque;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use random::Random;
use server::Redis;
use tower_api_key::clock::{Clock, ManualClock, Now, SystemClock};
use tower_api_key::limit::redis::aio::ConnectionLike;
use tower_api_key::limit::redis::{self, Cmd, RedisFuture, Value};
use tower_api_key::limit::{
    BudgetStatus, Charge, LimitName, MemoryLimiter, RateLimiter, RedisLimiter, Refund, Subject,
};
use tower_api_key::{Quota, conformance};

/// A limiter that is patient: the machine may be busy.
fn limiter(redis: &Redis) -> RedisLimiter {
    in_a_hurry(redis).time_limit(Duration::from_secs(10))
}

/// A limiter with the default time limit.
fn in_a_hurry(redis: &Redis) -> RedisLimiter {
    RedisLimiter::connect(redis.url()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_limiter_passes_the_conformance_suite() {
    let redis = Redis::start();
    let limiter = limiter(&redis).remember_denials(Duration::ZERO);
    conformance::rate_limiter::on_its_own_clock(&limiter).await;
}

/// Random steps of both limiters on one clock: the script's arithmetic is that of the memory.
#[tokio::test]
async fn the_script_agrees_with_the_arithmetic_in_memory() {
    let steps: u64 = std::env::var("REDIS_STEPS").map_or(20_000, |text| text.parse().unwrap());
    let redis = Redis::start();
    let shared = limiter(&redis).dangerous_on_the_clock_of_the_caller();
    let mut done = 0;
    let mut seed = 0;
    while done < steps {
        let part = 2_000.min(steps - done);
        agree(&shared, seed, part).await;
        done += part;
        seed += 1;
        redis.command(&["FLUSHALL"]);
    }
    println!("{steps} steps agree");
}

/// The ends of all months and of some days from 1971 to 2239, with all leap years: around each, both
/// limiters tell the same.
#[tokio::test]
async fn days_and_months_end_as_they_do_in_memory() {
    let redis = Redis::start();
    let shared = limiter(&redis).dangerous_on_the_clock_of_the_caller();
    let memory = MemoryLimiter::new();
    let (day, month) = (Quota::per_utc_day(5), Quota::per_utc_month(5));
    let year_2240 = SystemTime::UNIX_EPOCH + Duration::from_secs(8_520_336_000);
    let mut at = SystemTime::UNIX_EPOCH + Duration::from_secs(31_536_000);
    let mut number = 0;
    while at < year_2240 {
        let mut next = at;
        for time in [
            at,
            at + Duration::from_secs(86_399),
            at + Duration::from_secs(86_400),
        ] {
            let name = LimitName::new(format!("l{number}"));
            number += 1;
            let charges = [charge(&name, day, 1), charge(&name, month, 1)];
            let clock = ManualClock::at(time);
            let expected = memory.check(&charges, &clock).await.unwrap();
            let told = shared.check(&charges, &clock).await.unwrap();
            assert_eq!(told.statuses(), expected.statuses(), "{time:?}");
            next = time + expected.statuses()[1].full_in();
            // A microsecond before the end of the month.
            let last = ManualClock::at(next - Duration::from_micros(1));
            let expected = memory.check(&charges, &last).await.unwrap();
            let told = shared.check(&charges, &last).await.unwrap();
            assert_eq!(told.statuses(), expected.statuses(), "before {next:?}");
        }
        at = next;
    }
    assert!(number > 9_000, "{number}");
}

/// The quotas under one name: raised and lowered, but of one kind.
fn quotas(random: &mut Random) -> Vec<Quota> {
    let limits = [1, 2, 5, 20, 300];
    let limit = |random: &mut Random| limits[random.below(limits.len())];
    let (first, second) = (limit(random), limit(random));
    let quota = |limit: u64, kind: usize| match kind {
        0 => Quota::per_second(limit),
        1 => Quota::per_minute(limit),
        2 => Quota::per_hour(limit),
        3 => Quota::per_day(limit),
        4 => Quota::per_second(limit).smooth(),
        5 => Quota::per_minute(limit).smooth(),
        6 => Quota::per_minute(7).smooth().burst(limit),
        // Under an interval that is far longer, what was used would take years to be refilled: the
        // script counts 52 days of that.
        7 => Quota::per_day(limit.max(20)).smooth(),
        8 => Quota::per_utc_day(limit),
        _ => Quota::per_utc_month(limit),
    };
    let kind = random.below(10);
    if random.below(3) == 0 {
        return vec![quota(first, kind), quota(second, kind)];
    }
    vec![quota(first, kind)]
}

struct Taken {
    name: usize,
    quota: Quota,
    cost: u64,
    at: (SystemTime, Duration),
    in_memory: BudgetStatus,
    in_redis: BudgetStatus,
}

async fn agree(shared: &RedisLimiter, seed: u64, steps: u64) {
    let memory = MemoryLimiter::new();
    let clock = ManualClock::at(SystemTime::UNIX_EPOCH + Duration::from_secs(1_769_903_000));
    let mut random = Random::new(seed + 1);
    let names: Vec<LimitName> = (0..6).map(|at| LimitName::new(format!("l{at}"))).collect();
    let kinds: Vec<Vec<Quota>> = (0..6).map(|_| quotas(&mut random)).collect();
    let mut taken: VecDeque<Taken> = VecDeque::new();
    for step in 0..steps {
        let time = match random.below(20) {
            0..12 => random.below(400_000),
            12..18 => random.below(20_000_000),
            18 => random.below(3_600_000_000),
            _ => random.below(2 * 86_400_000_000),
        };
        clock.advance(Duration::from_micros(time as u64));
        if random.below(5) == 0 && !taken.is_empty() {
            // One, or two in one call, perhaps of one budget.
            let chosen: Vec<Taken> = (0..=random.below(2))
                .filter_map(|_| {
                    let at = random.below(taken.len().max(1));
                    taken.remove(at)
                })
                .collect();
            let units: Vec<u64> = chosen
                .iter()
                .map(|it| 1 + random.below(usize::try_from(it.cost).unwrap()) as u64)
                .collect();
            let refunds = |status: fn(&Taken) -> BudgetStatus| -> Vec<Refund<'_>> {
                let refunds = chosen.iter().zip(&units).map(|(it, units)| {
                    let charge = charge(&names[it.name], it.quota, it.cost);
                    Refund::new(charge, *units, Now::new(it.at.0, it.at.1), &status(it))
                });
                refunds.collect()
            };
            let in_memory = refunds(|it| it.in_memory);
            memory.refund(&in_memory, &clock).await.unwrap();
            let in_redis = refunds(|it| it.in_redis);
            shared.refund(&in_redis, &clock).await.unwrap();
        }
        let count = 1 + random.below(3);
        let asked: Vec<(usize, Quota, u64)> = (0..count)
            .map(|_| {
                let name = random.below(names.len());
                let quota = kinds[name][random.below(kinds[name].len())];
                let costs = [0, 1, 1, 1, 2, 3, quota.limit(), quota.limit() + 1];
                (name, quota, costs[random.below(costs.len())])
            })
            .collect();
        // Of one budget, one charge: with different quotas, the limiters may differ.
        let mut asked = asked;
        asked.sort_by_key(|it| it.0);
        asked.dedup_by_key(|it| it.0);
        let charges: Vec<Charge<'_>> = asked
            .iter()
            .map(|(name, quota, cost)| {
                let charge = charge(&names[*name], *quota, *cost);
                match random.below(8) {
                    0 => charge.report_only(),
                    1 => charge.needing(*cost + 1),
                    _ => charge,
                }
            })
            .collect();
        let now = clock.readings();
        let at = (now.wall(), now.monotonic());
        let expected = memory.check(&charges, &clock).await.unwrap();
        let told = shared.check(&charges, &clock).await.unwrap();
        let round = |time: Duration| time.as_nanos().div_ceil(1_000);
        let told_of = |status: &BudgetStatus| {
            (
                status.remaining(),
                round(status.full_in()),
                status.wait().map(round),
            )
        };
        let (expected_statuses, told_statuses) = (expected.statuses(), told.statuses());
        let all = |it: &[BudgetStatus]| it.iter().map(told_of).collect::<Vec<_>>();
        assert_eq!(
            (told.is_allowed(), all(told_statuses)),
            (expected.is_allowed(), all(expected_statuses)),
            "seed {seed}, step {step}: {charges:?}"
        );
        for (at_charge, (name, quota, cost)) in asked.iter().enumerate() {
            if told.is_allowed() && *cost > 0 && *cost <= quota.limit() {
                taken.push_back(Taken {
                    name: *name,
                    quota: *quota,
                    cost: *cost,
                    at,
                    in_memory: expected_statuses[at_charge],
                    in_redis: told_statuses[at_charge],
                });
            }
        }
        taken.truncate(20);
    }
}

fn charge(name: &LimitName, quota: Quota, cost: u64) -> Charge<'_> {
    Charge::new(name, Subject::Account("acme"), quota, cost)
}

const PER_MINUTE: Quota = Quota::per_minute(1_000);

async fn take(limiter: &RedisLimiter, name: &LimitName, quota: Quota) -> Option<bool> {
    let charge = [charge(name, quota, 1)];
    let verdict = limiter.check(&charge, &SystemClock).await;
    verdict.ok().map(|verdict| verdict.is_allowed())
}

async fn left(limiter: &RedisLimiter, name: &LimitName, quota: Quota) -> u64 {
    let charge = [charge(name, quota, 0)];
    let verdict = limiter.check(&charge, &SystemClock).await.unwrap();
    verdict.statuses()[0].remaining()
}

/// Waits until a call succeeds again, and returns the time that it took.
async fn recovers(limiter: &RedisLimiter, name: &LimitName) -> Duration {
    let begun = Instant::now();
    while take(limiter, name, PER_MINUTE).await.is_none() {
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "it does not recover"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    begun.elapsed()
}

/// However many limits, a request is one call.
#[tokio::test]
async fn a_request_is_one_call() {
    let redis = Redis::start();
    let limiter = limiter(&redis);
    let names: Vec<LimitName> = (0..16).map(|at| LimitName::new(format!("l{at}"))).collect();
    take(&limiter, &names[0], PER_MINUTE).await.unwrap();
    redis.command(&["CONFIG", "RESETSTAT"]);
    for count in 1..=16_usize {
        let charges: Vec<_> = names
            .iter()
            .take(count)
            .map(|it| charge(it, PER_MINUTE, 1))
            .collect();
        let verdict = limiter.check(&charges, &SystemClock).await.unwrap();
        assert!(verdict.is_allowed());
    }
    let stats = redis.command(&["INFO", "commandstats"]);
    let calls = |command: &str| {
        let (_, rest) = stats.split_once(&format!("cmdstat_{command}:calls="))?;
        rest.split_once(',')?.0.parse::<u64>().ok()
    };
    assert_eq!(
        (calls("evalsha"), calls("eval")),
        (Some(16), None),
        "{stats}"
    );
}

/// Redis may be away at first, and forget the scripts at any time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_starts_without_redis_and_survives_a_flush_of_the_scripts() {
    let mut redis = Redis::start();
    let limiter = in_a_hurry(&redis);
    let name = LimitName::new("l");
    redis.kill();
    for _ in 0..20 {
        assert_eq!(take(&limiter, &name, PER_MINUTE).await, None);
    }
    redis.restart();
    let after = recovers(&limiter, &name).await;
    println!("it is used {after:?} after its start");
    assert!(after < Duration::from_secs(5));
    let port = redis.port();
    let flushing = std::thread::spawn(move || {
        for _ in 0..50 {
            server::command(port, &["SCRIPT", "FLUSH"]);
        }
    });
    let before = left(&limiter, &name, PER_MINUTE).await;
    for _ in 0..500 {
        assert_eq!(take(&limiter, &name, PER_MINUTE).await, Some(true));
    }
    flushing.join().unwrap();
    assert_eq!(left(&limiter, &name, PER_MINUTE).await, before - 500);
}

/// A stopped server: five calls wait, the others do not, none charges after its time limit, and it
/// is used again within a second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_11_late_calls_charge_nothing_and_an_outage_costs_no_time() {
    let redis = Redis::start();
    let limiter = Arc::new(in_a_hurry(&redis));
    let (name, other) = (LimitName::new("l"), LimitName::new("other"));
    recovers(&limiter, &name).await;
    let before = left(&limiter, &name, PER_MINUTE).await;
    redis.pause();
    let begun = Instant::now();
    let calls = (0..500).map(|_| {
        let (limiter, name) = (Arc::clone(&limiter), name.clone());
        tokio::spawn(async move { take(&limiter, &name, PER_MINUTE).await })
    });
    let outcomes = futures_util::future::join_all(calls).await;
    assert!(outcomes.into_iter().all(|it| it.unwrap().is_none()));
    let waited = begun.elapsed();
    let begun = Instant::now();
    for _ in 0..1_000 {
        assert_eq!(take(&limiter, &other, PER_MINUTE).await, None);
    }
    let refused = begun.elapsed();
    println!("500 calls failed in {waited:?}, the next 1,000 in {refused:?}");
    assert!(waited < Duration::from_millis(2_500) && refused < Duration::from_millis(250));
    tokio::time::sleep(Duration::from_millis(1_500).saturating_sub(waited)).await;
    redis.resume();
    let after = recovers(&limiter, &other).await;
    println!("it is used again after {after:?}");
    assert!(after < Duration::from_secs(10));
    let after = left(&limiter, &name, PER_MINUTE).await;
    assert_eq!(after, before, "the calls were late, and are not charged");
}

/// Also the first call: it waits until the connection has told the time of the server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_11_a_first_call_that_is_late_charges_nothing() {
    let redis = Redis::start();
    let first = in_a_hurry(&redis).time_limit(Duration::from_secs(1));
    let limiter = limiter(&redis);
    let name = LimitName::new("l");
    // Redis knows the script.
    let before = left(&limiter, &name, PER_MINUTE).await;
    redis.command(&["CONFIG", "RESETSTAT"]);
    let charges = [charge(&name, PER_MINUTE, 1)];
    let mut call = std::pin::pin!(first.check(&charges, &SystemClock));
    assert!(futures_util::poll!(&mut call).is_pending());
    let is_connected = || {
        redis
            .command(&["INFO", "commandstats"])
            .contains("cmdstat_time")
    };
    while !is_connected() {}
    redis.pause();
    assert!(call.await.is_err());
    redis.resume();
    recovers(&first, &LimitName::new("other")).await;
    assert_eq!(left(&limiter, &name, PER_MINUTE).await, before);
}

/// Also after a stop in which the connection was given up, and over a connection of the
/// application's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_recovers_from_a_long_stop_by_itself() {
    let redis = Redis::start();
    let client = redis::Client::open(redis.url()).unwrap();
    let connection = client.get_multiplexed_async_connection().await.unwrap();
    let limiters = [in_a_hurry(&redis), RedisLimiter::over(connection)];
    let name = LimitName::new("l");
    for limiter in &limiters {
        recovers(limiter, &name).await;
    }
    redis.pause();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(3_500) {
        for limiter in &limiters {
            assert_eq!(take(limiter, &name, PER_MINUTE).await, None);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    redis.resume();
    for limiter in &limiters {
        let after = recovers(limiter, &name).await;
        println!("it is used again after {after:?}");
    }
}

#[test]
fn without_a_runtime_a_call_is_an_error() {
    let limiter = RedisLimiter::connect("redis://127.0.0.1:1/").unwrap();
    let name = LimitName::new("l");
    let charge = [charge(&name, PER_MINUTE, 1)];
    let error = poll_once(limiter.check(&charge, &SystemClock)).unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("runtime"), "{source}");
}

/// Polls a future once.
fn poll_once<F: Future>(future: F) -> F::Output {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).poll(&mut context) {
        std::task::Poll::Ready(output) => output,
        std::task::Poll::Pending => panic!("it waits"),
    }
}

/// A server that is killed and comes back empty grants a quota once more, and no more than that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_without_data_grants_a_quota_once_more() {
    let mut redis = Redis::start();
    let limiter = in_a_hurry(&redis).remember_denials(Duration::ZERO);
    let name = LimitName::new("l");
    let quota = Quota::per_hour(20);
    let mut admitted = 0;
    for restart in 1..=3 {
        for _ in 0..40 {
            admitted += u64::from(take(&limiter, &name, quota).await == Some(true));
        }
        assert_eq!(admitted, 20 * restart);
        redis.kill();
        assert_eq!(take(&limiter, &LimitName::new("other"), quota).await, None);
        redis.restart();
        recovers(&limiter, &LimitName::new("third")).await;
    }
}

/// A connection that sends each command twice, as a client that tries again after a lost reply.
#[derive(Clone)]
struct Doubling(redis::aio::MultiplexedConnection);

impl ConnectionLike for Doubling {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            self.0.req_packed_command(command).await?;
            self.0.req_packed_command(command).await
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a redis::Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        self.0.req_packed_commands(pipeline, offset, count)
    }

    fn get_db(&self) -> i64 {
        self.0.get_db()
    }
}

#[tokio::test]
async fn invariant_11_a_refund_that_is_sent_twice_is_carried_out_once() {
    let redis = Redis::start();
    let client = redis::Client::open(redis.url()).unwrap();
    let connection = client.get_multiplexed_async_connection().await.unwrap();
    let (once, twice) = (limiter(&redis), RedisLimiter::over(Doubling(connection)));
    for quota in [
        Quota::per_day(100),
        Quota::per_day(100).smooth(),
        Quota::per_utc_month(100),
    ] {
        let name = LimitName::new("l");
        let charge = [charge(&name, quota, 10)];
        let now = SystemClock.readings();
        let at = (now.wall(), now.monotonic());
        let verdict = once.check(&charge, &SystemClock).await.unwrap();
        once.check(&charge, &SystemClock).await.unwrap(); // of somebody else
        let refund = Refund::new(charge[0], 4, Now::new(at.0, at.1), &verdict.statuses()[0]);
        twice.refund(&[refund], &SystemClock).await.unwrap();
        assert_eq!(left(&once, &name, quota).await, 84, "{quota:?}");
        redis.command(&["FLUSHALL"]);
    }
}

/// A process is killed while a refund is under way. The next one neither charges nor refunds again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_11_a_restarted_process_charges_and_refunds_nothing_again() {
    let redis = Redis::start();
    let name = LimitName::new("l");
    let quota = Quota::per_day(100);
    let charge = [charge(&name, quota, 10)];
    let first = in_a_hurry(&redis);
    recovers(&first, &LimitName::new("other")).await;
    let now = SystemClock.readings();
    let at = (now.wall(), now.monotonic());
    let verdict = first.check(&charge, &SystemClock).await.unwrap();
    let refund = |units| {
        Refund::new(
            charge[0],
            units,
            Now::new(at.0, at.1),
            &verdict.statuses()[0],
        )
    };
    first.refund(&[refund(3)], &SystemClock).await.unwrap();
    redis.pause();
    {
        let refunds = [refund(4)];
        let mut under_way = std::pin::pin!(first.refund(&refunds, &SystemClock));
        assert!(futures_util::poll!(&mut under_way).is_pending());
    }
    drop(first);
    redis.resume();
    // The refund was carried out or not, and is not again.
    let seen = left(&in_a_hurry(&redis), &name, quota).await;
    assert!(seen == 93 || seen == 97, "{seen}");
    for _ in 0..3 {
        let next = in_a_hurry(&redis);
        recovers(&next, &LimitName::new("other")).await;
        let left = left(&next, &name, quota).await;
        assert!(left == seen || left == 97, "{left} after {seen}");
    }
}

/// Charges from before an early refund were told a later end than the budget has then. Until that end,
/// the refund must not be forgotten, or their units would be refunded twice.
#[tokio::test]
async fn an_early_refund_is_remembered_until_all_charges_before_it_are_over() {
    let redis = Redis::start();
    let limiter = limiter(&redis);
    let name = LimitName::new("l");
    let quota = Quota::per_second(1).smooth().burst(10);
    let charge = [charge(&name, quota, 5)];
    let now = SystemClock.readings();
    let at = (now.wall(), now.monotonic());
    let first = limiter.check(&charge, &SystemClock).await.unwrap();
    limiter.check(&charge, &SystemClock).await.unwrap(); // told ten seconds
    let refund = Refund::new(charge[0], 5, Now::new(at.0, at.1), &first.statuses()[0]);
    limiter.refund(&[refund], &SystemClock).await.unwrap();
    let life = |pattern: &str| {
        let keys = redis.command(&["KEYS", pattern]);
        let key = keys.lines().last().unwrap().to_owned();
        let life = redis.command(&["PTTL", &key]);
        life.trim().trim_start_matches(':').parse::<i64>().unwrap()
    };
    assert!(life("*:r:*") > 15_000, "{}", life("*:r:*"));
    // Also after another charge.
    let one = [Charge::new(&name, Subject::Account("acme"), quota, 1)];
    limiter.check(&one, &SystemClock).await.unwrap();
    assert!(life("*:r:*") > 15_000, "{}", life("*:r:*"));
}

/// A denial is remembered for its request only.
#[tokio::test]
async fn a_denial_is_not_asked_for_again_unless_it_may_be_wrong() {
    let redis = Redis::start();
    let (limiter, fresh) = (
        limiter(&redis),
        limiter(&redis).remember_denials(Duration::ZERO),
    );
    let name = LimitName::new("l");
    let quota = Quota::per_day(10);
    let ask = async |limiter: &RedisLimiter, quota: Quota, cost: u64| {
        let charge = [charge(&name, quota, cost)];
        let verdict = limiter.check(&charge, &SystemClock).await.unwrap();
        verdict.is_allowed()
    };
    let calls = || {
        let stats = redis.command(&["INFO", "commandstats"]);
        let rest = stats
            .split_once("cmdstat_evalsha:calls=")
            .map_or("0,", |it| it.1);
        rest.split_once(',').unwrap().0.parse::<u64>().unwrap()
    };
    let now = SystemClock.readings();
    let at = (now.wall(), now.monotonic());
    let taken = [charge(&name, quota, 8)];
    let verdict = limiter.check(&taken, &SystemClock).await.unwrap();
    assert!(!ask(&limiter, quota, 5).await);
    let before = calls();
    for _ in 0..10 {
        assert!(!ask(&limiter, quota, 5).await);
    }
    assert_eq!(calls(), before, "it is remembered");
    assert!(ask(&limiter, quota, 2).await, "a lower cost fits");
    assert!(
        ask(&limiter, Quota::per_day(20), 5).await,
        "a higher quota fits"
    );
    assert!(!ask(&limiter, quota, 1).await);
    let refund = Refund::new(taken[0], 8, Now::new(at.0, at.1), &verdict.statuses()[0]);
    limiter.refund(&[refund], &SystemClock).await.unwrap();
    assert!(ask(&limiter, quota, 1).await, "a refund makes room");
    // A refund elsewhere is noticed in a second.
    assert!(!ask(&limiter, quota, 10).await);
    let before = calls();
    assert!(!ask(&fresh, quota, 10).await);
    assert!(!ask(&fresh, quota, 10).await);
    assert_eq!(calls(), before + 2, "this one asks each time");
}

/// The clock of Redis steps back: no budget is locked for longer than its period, and none is full
/// too early.
#[tokio::test]
async fn a_clock_that_steps_back_locks_no_budget() {
    let redis = Redis::start();
    let limiter = limiter(&redis).dangerous_on_the_clock_of_the_caller();
    let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000);
    let quotas = [
        Quota::per_minute(10),
        Quota::per_minute(10).smooth(),
        Quota::per_utc_day(10),
    ];
    for (quota, back) in quotas.into_iter().flat_map(|quota| {
        [10, 3_600, 30 * 86_400].map(|seconds| (quota, Duration::from_secs(seconds)))
    }) {
        let name = LimitName::new(format!("{quota:?} {back:?}"));
        let ask = async |at: SystemTime, cost: u64| {
            let charge = [charge(&name, quota, cost)];
            let verdict = limiter.check(&charge, &ManualClock::at(at)).await.unwrap();
            verdict.statuses()[0]
        };
        assert!(ask(start, 10).await.is_admissible());
        let now = start.checked_sub(back).unwrap();
        let denied = ask(now, 1).await;
        let wait = denied.wait().unwrap();
        let period = quota.window();
        assert!(
            !wait.is_zero() && wait <= period,
            "{quota:?} {back:?}: {wait:?}"
        );
        assert!(
            ask(now + wait, 1).await.is_admissible(),
            "{quota:?} {back:?}"
        );
    }
}

/// The clock of Redis steps back, and then a charge from before is refunded, when it does not count
/// any more, or only in part. It is not taken for a later one, whose units are in use.
#[tokio::test]
async fn a_refund_after_a_step_back_gives_back_no_units_of_others() {
    let redis = Redis::start();
    let limiter = limiter(&redis).dangerous_on_the_clock_of_the_caller();
    let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000);
    let second = Duration::from_secs(1);
    // Others use all but one unit, so long after. The window has forgotten the charge then. The rate
    // has refilled four units of it.
    for (quota, later) in [
        (Quota::per_minute(10), 65 * second),
        (Quota::per_minute(10).smooth(), 25 * second),
    ] {
        let name = LimitName::new(format!("{quota:?}"));
        let clock = ManualClock::at(start);
        let own = [charge(&name, quota, 5)];
        let at = (start, clock.readings().monotonic());
        let verdict = limiter.check(&own, &clock).await.unwrap();
        clock.set(start - 10 * second);
        limiter
            .check(&[charge(&name, quota, 0)], &clock)
            .await
            .unwrap();
        clock.advance(later);
        let others = [charge(&name, quota, 9)];
        assert!(limiter.check(&others, &clock).await.unwrap().is_allowed());
        let refund = Refund::new(own[0], 5, Now::new(at.0, at.1), &verdict.statuses()[0]);
        limiter.refund(&[refund], &clock).await.unwrap();
        let left = limiter.check(&[charge(&name, quota, 0)], &clock).await;
        assert_eq!(left.unwrap().statuses()[0].remaining(), 1, "{quota:?}");
    }
}

/// The environment variables of a process that hammers: the server, and the time.
const HAMMERED: &str = "HAMMERED_REDIS";
const HAMMER_SECONDS: &str = "HAMMER_SECONDS";

/// The seconds of hammering, 2 unless set. At most 59: then the first uses expire.
fn hammer_time() -> Duration {
    let seconds = std::env::var(HAMMER_SECONDS).map_or(2, |text| text.parse().unwrap());
    Duration::from_secs(seconds)
}

/// Eight processes, whose clocks differ by up to ten seconds, hammer one limit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_processes_together_are_admitted_exactly_the_quota() {
    let redis = Redis::start();
    let children = (0..8).map(|number| {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["hammer", "--exact", "--nocapture", "--include-ignored"]);
        child.env(HAMMERED, format!("{} {number}", redis.url()));
        child.stdout(Stdio::piped()).spawn().unwrap()
    });
    let children: Vec<_> = children.collect();
    let mut admitted = 0;
    let mut asked = 0;
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        let line = text.lines().find_map(|line| line.split_once("hammered "));
        let counts = line.unwrap().1.split_once(' ').unwrap();
        let counts: (u64, u64) = (counts.0.parse().unwrap(), counts.1.parse().unwrap());
        assert!(counts.0 > 0, "each process gets some");
        (admitted, asked) = (admitted + counts.0, asked + counts.1);
    }
    println!("{admitted} of {asked} requests in {:?}", hammer_time());
    assert_eq!(admitted, 1_000);
}

/// A process of the test above; without its variable, nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hammer() {
    let Ok(hammered) = std::env::var(HAMMERED) else {
        return;
    };
    let (url, number) = hammered.split_once(' ').unwrap();
    let limiter = RedisLimiter::connect(url).unwrap();
    let limiter = limiter.time_limit(Duration::from_secs(30));
    let limiter = Arc::new(limiter.remember_denials(Duration::ZERO));
    let skew = Duration::from_secs(20) * number.parse().unwrap() / 7;
    let clock = ManualClock::at(SystemTime::now() - Duration::from_secs(10) + skew);
    let ends = Instant::now() + hammer_time();
    let tasks = (0..4).map(|_| {
        let (limiter, clock) = (Arc::clone(&limiter), clock.clone());
        tokio::spawn(async move {
            let name = LimitName::new("hammered");
            let charge = [charge(&name, PER_MINUTE, 1)];
            let (mut admitted, mut asked) = (0_u64, 0_u64);
            while Instant::now() < ends {
                let verdict = limiter.check(&charge, &clock).await.unwrap();
                admitted += u64::from(verdict.is_allowed());
                asked += 1;
                // A busy machine: all processes get their turn.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            (admitted, asked)
        })
    });
    let (mut admitted, mut asked) = (0, 0);
    for counts in futures_util::future::join_all(tasks).await {
        let counts = counts.unwrap();
        (admitted, asked) = (admitted + counts.0, asked + counts.1);
    }
    println!("hammered {admitted} {asked}");
}
