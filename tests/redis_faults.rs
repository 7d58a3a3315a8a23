//! The limiter over real Redis servers under faults: the model of `tests/redis_model` is true.
//!
//! Three nodes hammer a server, each through a proxy of its own, and a fault happens.
//! `REAL_SCHEDULES` says how many schedules are tried, 14 unless set: each kind of fault once. Each
//! is drawn from its number, which a failure tells; `REAL_SEED` repeats that one alone, but the
//! moments differ.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/proxy.rs"]
mod proxy;
#[allow(dead_code, reason = "each suite uses its part")]
#[path = "../benches/support/random.rs"]
mod random;
#[path = "support/redis.rs"]
mod server;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use proxy::{Proxy, Way};
use random::Random;
use server::Redis;
use tokio::task::{JoinSet, block_in_place};
use tokio::time::sleep;
use tower_api_key::Quota;
use tower_api_key::clock::{Clock, Now, SystemClock};
use tower_api_key::limit::{Charge, LimitName, RateLimiter, RedisLimiter, Refund, Subject};

const NODES: usize = 3;

/// The calls at once of a node.
const TASKS: usize = 4;

/// The schedules at once.
const AT_ONCE: u64 = 3;

/// The time limit of a call, as it is by default.
const LIMIT: Duration = Duration::from_millis(250);

/// What the machine may add to a time, as long as it is busy: what is promised is in the figures.
const BUSY: Duration = Duration::from_secs(9);

/// The least trip to a server, on a busy machine.
const TRIP: Duration = Duration::from_millis(50);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// SIGSTOP, for 1.5 s.
    Stop,
    /// SIGKILL, with all that was written on disk.
    KillKept,
    /// SIGKILL, with nothing on disk.
    KillEmpty,
    /// A replica becomes the master, while the old one is stopped.
    Promote,
    /// Connections are reset, several times.
    Reset,
    /// Connections are reset in the midst of a reply.
    CutInReply,
    /// Connections are dead, and nobody is told.
    HalfOpen,
    /// Nothing gets through in one direction, or in both.
    Block,
    /// No connection can be made.
    Refuse,
    /// The way is long.
    Far,
    /// The scripts are forgotten each few milliseconds.
    Flush,
    /// The clients are paused by the server.
    Pause,
    /// The master is a replica for a while.
    Demote,
    /// The memory is full.
    Full,
}

const KINDS: [Kind; 14] = [
    Kind::Stop,
    Kind::KillKept,
    Kind::KillEmpty,
    Kind::Promote,
    Kind::Reset,
    Kind::CutInReply,
    Kind::HalfOpen,
    Kind::Block,
    Kind::Refuse,
    Kind::Far,
    Kind::Flush,
    Kind::Pause,
    Kind::Demote,
    Kind::Full,
];

impl Kind {
    /// Returns whether calls are kept, and carried out later.
    fn keeps_calls(self) -> bool {
        matches!(self, Self::Stop | Self::Pause | Self::Block)
    }
}

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

/// A limit, and the requests for it.
struct Budget {
    name: LimitName,
    quota: Quota,
    /// Whether units that are taken stay taken during a schedule.
    is_lasting: bool,
}

fn budgets() -> Vec<Budget> {
    let budget = |name: &str, quota: Quota, is_lasting: bool| Budget {
        name: LimitName::new(name),
        quota,
        is_lasting,
    };
    vec![
        budget("endless", Quota::per_hour(1_000_000_000), true),
        budget("early", Quota::per_hour(100), true),
        budget("late", Quota::per_hour(1_500), true),
        budget("rate", Quota::per_day(800).smooth(), true),
        budget("day", Quota::per_utc_day(800), true),
        budget("second", Quota::per_second(100), false),
    ]
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    Allowed,
    Denied,
    Failed(String),
}

#[derive(Debug, Clone)]
struct Call {
    node: usize,
    budget: usize,
    units: u64,
    /// The units of it that a refund was asked for, and those of a refund that failed, which may not
    /// have been carried out.
    refunded: u64,
    not_refunded: u64,
    begun: Instant,
    ended: Instant,
    end: End,
}

/// Nodes that hammer a server.
struct Fleet {
    budgets: Vec<Budget>,
    nodes: Vec<RedisLimiter>,
    calls: Mutex<Vec<Call>>,
    is_over: AtomicBool,
}

impl Fleet {
    async fn hammer(&self, node: usize, mut random: Random) {
        while !self.is_over.load(Ordering::Relaxed) {
            let budget = if random.below(2) == 0 {
                0
            } else {
                random.below(self.budgets.len())
            };
            let units = 1 + random.below(2) as u64;
            let refunds = random.below(8) == 0;
            self.call(node, budget, units, refunds).await;
            let pause = 1 + random.below(6) as u64;
            sleep(Duration::from_millis(pause)).await;
        }
    }

    async fn call(&self, node: usize, budget: usize, units: u64, refunds: bool) {
        let its = &self.budgets[budget];
        let charge = Charge::new(&its.name, Subject::Account("acme"), its.quota, units);
        let at = {
            let now = SystemClock.readings();
            (now.wall(), now.monotonic())
        };
        let begun = Instant::now();
        let answer = self.nodes[node].check(&[charge], &SystemClock).await;
        let mut call = Call {
            node,
            budget,
            units,
            refunded: 0,
            not_refunded: 0,
            begun,
            ended: Instant::now(),
            end: match &answer {
                Ok(verdict) if verdict.is_allowed() => End::Allowed,
                Ok(_) => End::Denied,
                Err(error) => End::Failed(error.to_string()),
            },
        };
        if let (Ok(verdict), End::Allowed, true) = (&answer, &call.end, refunds) {
            call.refunded = 1;
            let refund = {
                let at = Now::new(at.0, at.1);
                [Refund::new(charge, 1, at, &verdict.statuses()[0])]
            };
            let refunding = self.nodes[node].refund(&refund, &SystemClock).await;
            call.not_refunded = u64::from(refunding.is_err());
        }
        self.calls.lock().unwrap().push(call);
    }
}

/// Returns the used units of each budget that lasts, by a server.
async fn used(url: &str, budgets: &[Budget]) -> Vec<u64> {
    let limiter = RedisLimiter::connect(url).unwrap().time_limit(BUSY);
    let mut used = Vec::new();
    for budget in budgets.iter().filter(|it| it.is_lasting) {
        let look = Charge::new(&budget.name, Subject::Account("acme"), budget.quota, 0);
        let verdict = limiter.check(&[look], &SystemClock).await.unwrap();
        used.push(budget.quota.limit() - verdict.statuses()[0].remaining());
    }
    used
}

/// A fault that happened.
struct Happened {
    /// When it had begun, and when it was about to end.
    from: Instant,
    until: Instant,
    /// For each lasting budget, what the server forgot at most.
    lost: Vec<u64>,
}

async fn attempt(seed: u64) -> Result<Figures, String> {
    let mut random = Random::new(seed);
    let kind = KINDS[usize::try_from(seed).unwrap() % KINDS.len()];
    let mut redis = match kind {
        Kind::KillKept => block_in_place(|| {
            Redis::start_with(&[
                "--save",
                "",
                "--appendonly",
                "yes",
                "--appendfsync",
                "always",
            ])
        }),
        Kind::Promote => {
            block_in_place(|| Redis::start_with(&["--save", "", "--repl-diskless-sync-delay", "0"]))
        }
        _ => block_in_place(Redis::start),
    };
    let replica = (kind == Kind::Promote).then(|| block_in_place(|| replica_of(&redis)));
    let mut proxies = Vec::new();
    for _ in 0..NODES {
        proxies.push(Proxy::start(redis.port()).await);
    }
    let nodes = proxies
        .iter()
        .map(|it| RedisLimiter::connect(it.url()).unwrap());
    let fleet = Arc::new(Fleet {
        budgets: budgets(),
        nodes: nodes.collect(),
        calls: Mutex::default(),
        is_over: AtomicBool::new(false),
    });
    let midnight = days();
    let mut tasks = JoinSet::new();
    for task in 0..NODES * TASKS {
        let (fleet, random) = (Arc::clone(&fleet), Random::new(random.next()));
        tasks.spawn(async move { fleet.hammer(task % NODES, random).await });
    }
    sleep(millis(300 + random.below(200))).await;
    let happened = happen(
        kind,
        &mut random,
        &mut redis,
        replica.as_ref(),
        &mut proxies,
    )
    .await;
    sleep(millis(1_000)).await;
    fleet.is_over.store(true, Ordering::Relaxed);
    while let Some(task) = tasks.join_next().await {
        task.map_err(|error| error.to_string())?;
    }
    let server = replica.as_ref().unwrap_or(&redis);
    let used = used(&server.url(), &fleet.budgets).await;
    let lost = match kind {
        Kind::Promote => {
            redis.resume();
            let old = self::used(&redis.url(), &fleet.budgets).await;
            let each = old.iter().zip(&happened.lost);
            each.map(|(old, kept)| old.saturating_sub(*kept)).collect()
        }
        _ => happened.lost.clone(),
    };
    if days() != midnight {
        return Err("a day began meanwhile: try again".to_owned());
    }
    let calls = fleet.calls.lock().unwrap().clone();
    Proof {
        kind,
        budgets: &fleet.budgets,
        calls: &calls,
        happened: &happened,
        used: &used,
        lost: &lost,
    }
    .check()
}

/// Starts a replica, and waits until it has all.
fn replica_of(redis: &Redis) -> Redis {
    let port = redis.port().to_string();
    let replica = Redis::start_with(&["--save", "", "--replicaof", "127.0.0.1", &port]);
    let begun = Instant::now();
    while !replica
        .command(&["INFO", "replication"])
        .contains("master_link_status:up")
    {
        assert!(begun.elapsed() < BUSY, "it is no replica");
        std::thread::sleep(millis(10));
    }
    replica
}

async fn happen(
    kind: Kind,
    random: &mut Random,
    redis: &mut Redis,
    replica: Option<&Redis>,
    proxies: &mut [Proxy],
) -> Happened {
    let budgets = budgets();
    let lasting = || budgets.iter().filter(|it| it.is_lasting);
    let mut lost: Vec<u64> = lasting().map(|_| 0).collect();
    let lasts = millis(300 + random.below(1_200));
    let command = |parts: &[&str]| {
        let reply = block_in_place(|| redis.command(parts));
        assert!(reply.starts_with("+OK"), "{parts:?}: {reply}");
    };
    let mut from = Instant::now();
    let mut until = None;
    match kind {
        Kind::Stop => {
            redis.pause();
            from = Instant::now();
            sleep(millis(1_500)).await;
            until = Some(Instant::now());
            redis.resume();
        }
        Kind::KillKept | Kind::KillEmpty => {
            block_in_place(|| redis.kill());
            sleep(lasts / 3).await;
            block_in_place(|| redis.restart());
            if kind == Kind::KillEmpty {
                lost = lasting().map(|it| it.quota.limit()).collect();
            }
        }
        Kind::Promote => {
            let replica = replica.unwrap();
            redis.pause();
            sleep(lasts / 3).await;
            block_in_place(|| replica.command(&["REPLICAOF", "NO", "ONE"]));
            // What is kept; the rest is known when the old one goes on.
            lost = used(&replica.url(), &budgets).await;
            proxies.iter().for_each(|it| it.move_to(replica.port()));
        }
        Kind::Reset => {
            for _ in 0..=random.below(5) {
                proxies.iter().for_each(Proxy::reset);
                sleep(millis(random.below(300))).await;
            }
        }
        Kind::CutInReply => {
            for _ in 0..=random.below(5) {
                proxies
                    .iter()
                    .for_each(|it| it.cut_after(1 + random.below(200)));
                sleep(millis(random.below(300))).await;
            }
        }
        Kind::HalfOpen => {
            proxies.iter().for_each(Proxy::kill_silently);
            // It is noticed in this time.
            sleep(millis(2_000)).await;
        }
        Kind::Block => {
            let ways = [
                (Way::Blocked, Way::Passes),
                (Way::Passes, Way::Blocked),
                (Way::Blocked, Way::Blocked),
            ];
            let (up, down) = *random.pick(&ways);
            proxies.iter().for_each(|it| it.set(up, down));
            from = Instant::now();
            sleep(lasts).await;
            until = Some(Instant::now());
            proxies
                .iter()
                .for_each(|it| it.set(Way::Passes, Way::Passes));
        }
        Kind::Refuse => {
            proxies.iter().for_each(Proxy::refuse);
            sleep(lasts).await;
            for proxy in proxies.iter_mut() {
                proxy.accept().await;
            }
        }
        Kind::Far => {
            let mut takes = || Way::Takes(millis(20 + random.below(120)));
            let (up, down) = (takes(), takes());
            proxies.iter().for_each(|it| it.set(up, down));
            sleep(lasts).await;
            proxies
                .iter()
                .for_each(|it| it.set(Way::Passes, Way::Passes));
        }
        Kind::Flush => {
            let begun = Instant::now();
            while begun.elapsed() < lasts {
                command(&["SCRIPT", "FLUSH"]);
                sleep(millis(random.below(10))).await;
            }
        }
        Kind::Pause => {
            let time = lasts.as_millis().to_string();
            let before = Instant::now();
            command(&["CLIENT", "PAUSE", &time, "ALL"]);
            from = Instant::now();
            until = Some(before + lasts);
            sleep(lasts).await;
        }
        Kind::Demote => {
            command(&["REPLICAOF", "127.0.0.1", "1"]);
            sleep(lasts).await;
            command(&["REPLICAOF", "NO", "ONE"]);
        }
        Kind::Full => {
            command(&["CONFIG", "SET", "maxmemory", "1"]);
            sleep(lasts).await;
            command(&["CONFIG", "SET", "maxmemory", "0"]);
        }
    }
    Happened {
        from,
        until: until.unwrap_or_else(Instant::now),
        lost,
    }
}

/// All that is known after a schedule.
struct Proof<'a> {
    kind: Kind,
    budgets: &'a [Budget],
    calls: &'a [Call],
    happened: &'a Happened,
    /// The used units of each lasting budget, and what was forgotten of it at most.
    used: &'a [u64],
    lost: &'a [u64],
}

/// What was seen in a schedule.
#[derive(Debug)]
struct Figures {
    kind: Kind,
    calls: usize,
    failed: usize,
    /// Units that were admitted beyond a quota, as the server forgot as many.
    beyond: u64,
    /// Units that were charged for calls that failed.
    in_doubt: u64,
    /// Calls that waited although the server had not answered for long.
    waited: usize,
    slowest_call: Duration,
    slowest_recovery: Duration,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?}: {} calls, {} failed, {} waited, {} units beyond a quota, {} in doubt, the slowest \
             call took {:?}, used again after {:?}",
            self.kind,
            self.calls,
            self.failed,
            self.waited,
            self.beyond,
            self.in_doubt,
            self.slowest_call,
            self.slowest_recovery
        )
    }
}

impl Proof<'_> {
    fn check(&self) -> Result<Figures, String> {
        let (beyond, in_doubt) = self.check_budgets()?;
        self.check_seconds()?;
        let took = self.calls.iter().map(|it| it.ended - it.begun);
        let slowest_call = took.max().unwrap();
        if slowest_call > LIMIT + BUSY {
            return Err(format!("a call took {slowest_call:?}"));
        }
        let figures = Figures {
            kind: self.kind,
            calls: self.calls.len(),
            failed: self.calls.iter().filter(|it| it.failed()).count(),
            beyond,
            in_doubt,
            waited: self.check_waits()?,
            slowest_call,
            slowest_recovery: self.check_recovery()?,
        };
        Ok(figures)
    }

    /// Checks the budgets whose units stay taken. Returns what was admitted beyond a quota, and what
    /// was charged without being admitted.
    fn check_budgets(&self) -> Result<(u64, u64), String> {
        let (mut beyond, mut all_in_doubt) = (0, 0);
        let lasting = self.budgets.iter().enumerate().filter(|it| it.1.is_lasting);
        let known = self.used.iter().zip(self.lost);
        for ((number, budget), (used, lost)) in lasting.zip(known) {
            let its = || self.calls.iter().filter(|it| it.budget == number);
            let allowed = its().filter(|it| it.end == End::Allowed);
            let admitted: u64 = allowed.clone().map(|it| it.units - it.refunded).sum();
            let not_refunded: u64 = allowed.map(|it| it.not_refunded).sum();
            let name = budget.name.as_str();
            if admitted > budget.quota.limit() + lost {
                return Err(format!("{name}: {admitted} were admitted, and {lost} lost"));
            }
            beyond += admitted.saturating_sub(budget.quota.limit());
            if *used + lost < admitted {
                return Err(format!(
                    "{name}: {admitted} were admitted, and {used} charged"
                ));
            }
            let may_be_charged = its().filter(|it| it.failed() && self.may_be_charged(it));
            let in_doubt: u64 = may_be_charged.map(|it| it.units).sum();
            println!(
                "{:?} {name}: used {used} admitted {admitted} not_refunded {not_refunded} in_doubt {in_doubt} failed {} kept {}",
                self.kind,
                its().filter(|it| it.failed()).count(),
                its()
                    .filter(|it| it.failed() && !self.may_be_charged(it))
                    .map(|it| it.units)
                    .sum::<u64>()
            );
            if let Some(c) = its().find(|it| it.failed()) {
                println!(
                    "first failed {:?} after from, took {:?} {:?}",
                    c.begun.saturating_duration_since(self.happened.from),
                    c.ended - c.begun,
                    c.end
                );
            }
            if *used > admitted + not_refunded + in_doubt {
                return Err(format!(
                    "{name}: {used} were charged, {admitted} admitted, {not_refunded} not refunded, \
                     and {in_doubt} may be charged"
                ));
            }
            all_in_doubt += used.saturating_sub(admitted);
        }
        Ok((beyond, all_in_doubt))
    }

    /// Returns whether a call that failed may be charged: it was carried out in time, and the answer
    /// was lost.
    fn may_be_charged(&self, call: &Call) -> bool {
        let is_kept =
            call.begun > self.happened.from && call.begun + LIMIT + TRIP < self.happened.until;
        !(self.kind.keeps_calls() && is_kept)
    }

    /// Checks the window that slides: of calls that were begun and ended within a second, no more
    /// than the quota was admitted.
    fn check_seconds(&self) -> Result<(), String> {
        let number = self.budgets.iter().position(|it| !it.is_lasting).unwrap();
        let limit = self.budgets[number].quota.limit();
        let forgets = matches!(self.kind, Kind::KillEmpty | Kind::Promote);
        let most = if forgets { 2 * limit } else { limit };
        let its = self.calls.iter().filter(|it| it.budget == number);
        let mut its: Vec<_> = its.filter(|it| it.end == End::Allowed).collect();
        its.sort_by_key(|it| it.begun);
        for (at, first) in its.iter().enumerate() {
            let end = first.begun + Duration::from_secs(1);
            let within = its[at..].iter().take_while(|it| it.begun < end);
            let within = within.filter(|it| it.ended <= end);
            let admitted: u64 = within.map(|it| it.units - it.refunded).sum();
            if admitted > most {
                return Err(format!("{admitted} were admitted in a second"));
            }
        }
        Ok(())
    }

    /// Returns how many calls waited while the server did not answer for long.
    fn check_waits(&self) -> Result<usize, String> {
        if !self.kind.keeps_calls() {
            return Ok(0);
        }
        let (from, until) = (self.happened.from + 2 * LIMIT + TRIP, self.happened.until);
        let outage = self
            .calls
            .iter()
            .filter(|it| it.begun > from && it.ended < until);
        let waited = outage.clone().filter(|it| it.ended - it.begun >= LIMIT / 2);
        let (waited, all) = (waited.count(), outage.count());
        // The machine may have stopped us.
        if waited > 3 && waited * 20 > all {
            return Err(format!("{waited} of {all} calls waited in the outage"));
        }
        Ok(waited)
    }

    /// Returns how long it took until the last node was admitted again.
    fn check_recovery(&self) -> Result<Duration, String> {
        let until = self.happened.until;
        let mut slowest = Duration::ZERO;
        for node in 0..NODES {
            // A denial may have been remembered.
            let its = self
                .calls
                .iter()
                .filter(|it| it.node == node && it.begun >= until);
            let admitted = its.filter(|it| it.end == End::Allowed);
            let Some(first) = admitted.map(|it| it.ended).min() else {
                return Err(format!("node {node} is not used again"));
            };
            slowest = slowest.max(first - until);
        }
        Ok(slowest)
    }
}

impl Call {
    fn failed(&self) -> bool {
        matches!(self.end, End::Failed(_))
    }
}

fn millis(number: impl TryInto<u64, Error: fmt::Debug>) -> Duration {
    Duration::from_millis(number.try_into().unwrap())
}

/// Returns the days since 1970.
fn days() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap().as_secs() / 86_400
}
