//! Nodes that hammer a server, and what they are told.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::sleep;
use tower_api_key::Quota;
use tower_api_key::clock::{Clock, Now, SystemClock};
use tower_api_key::limit::{
    Charge, LimitName, RateLimiter, RedisLimiter, Refund, Subject, Verdict,
};

use super::proxy::Proxy;
use super::random::Random;

pub const NODES: usize = 3;

/// The calls at once of a node.
const TASKS: usize = 4;

/// What a call says that was not sent.
const NOT_SENT: &str = "is asked again when it does";

/// A limit, of which each request takes one unit or two.
#[derive(Debug, Clone)]
pub struct Budget {
    pub name: LimitName,
    pub quota: Quota,
}

/// Returns the budgets whose units stay taken during a schedule. The first is never used up.
pub fn lasting() -> Vec<Budget> {
    let budgets = [
        ("endless", Quota::per_hour(1_000_000_000)),
        ("early", Quota::per_hour(100)),
        ("late", Quota::per_hour(1_500)),
        ("rate", Quota::per_day(800).smooth()),
        ("day", Quota::per_utc_day(800)),
    ];
    let budgets = budgets.into_iter().map(|(name, quota)| Budget {
        name: LimitName::new(name),
        quota,
    });
    budgets.collect()
}

/// Returns the budget whose units come back. Its number follows those that last.
pub fn sliding() -> Budget {
    Budget {
        name: LimitName::new("second"),
        quota: Quota::per_second(100),
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    Allowed,
    Denied,
    Failed(String),
}

#[derive(Debug, Clone)]
pub struct Call {
    pub node: usize,
    pub budget: usize,
    pub units: u64,
    /// The units of it that a refund was asked for, and those of a refund that failed, which may not
    /// have been carried out.
    pub refunded: u64,
    pub not_refunded: u64,
    pub begun: Instant,
    pub ended: Instant,
    pub end: End,
}

impl Call {
    pub fn took(&self) -> Duration {
        self.ended - self.begun
    }

    pub fn failed(&self) -> bool {
        matches!(self.end, End::Failed(_))
    }

    /// Returns whether the server may have got it.
    pub fn was_sent(&self) -> bool {
        !matches!(&self.end, End::Failed(why) if why.contains(NOT_SENT))
    }
}

pub struct Fleet {
    budgets: Vec<Budget>,
    nodes: Vec<RedisLimiter>,
    calls: Mutex<Vec<Call>>,
    is_over: AtomicBool,
}

impl Fleet {
    /// Creates a node for each proxy.
    pub fn new(proxies: &[Proxy]) -> Self {
        let nodes = proxies.iter();
        let nodes = nodes.map(|it| RedisLimiter::connect(it.url()).unwrap());
        let mut budgets = lasting();
        budgets.push(sliding());
        Self {
            budgets,
            nodes: nodes.collect(),
            calls: Mutex::default(),
            is_over: AtomicBool::new(false),
        }
    }

    /// Returns the calls so far.
    pub fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }

    /// Begins to call, with several tasks for each node.
    pub fn hammer(self: &Arc<Self>, random: &mut Random) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        for task in 0..NODES * TASKS {
            let (fleet, random) = (Arc::clone(self), Random::new(random.next()));
            tasks.spawn(async move { fleet.work(task % NODES, random).await });
        }
        tasks
    }

    /// Ends all tasks. An error if one panicked.
    pub async fn stop(&self, mut tasks: JoinSet<()>) -> Result<(), String> {
        self.is_over.store(true, Ordering::Relaxed);
        while let Some(task) = tasks.join_next().await {
            task.map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    async fn work(&self, node: usize, mut random: Random) {
        while !self.is_over.load(Ordering::Relaxed) {
            let budget = match random.below(2) {
                0 => 0,
                _ => random.below(self.budgets.len()),
            };
            let units = 1 + random.below(2) as u64;
            let refunds = random.below(8) == 0;
            let call = self.call(node, budget, units, refunds).await;
            self.calls.lock().unwrap().push(call);
            let pause = 1 + random.below(6) as u64;
            sleep(Duration::from_millis(pause)).await;
        }
    }

    async fn call(&self, node: usize, budget: usize, units: u64, refunds: bool) -> Call {
        let its = &self.budgets[budget];
        let charge = Charge::new(&its.name, Subject::Account("acme"), its.quota, units);
        let at = {
            let now = SystemClock.readings();
            (now.wall(), now.monotonic())
        };
        let begun = Instant::now();
        let answer = self.nodes[node].check(&[charge], &SystemClock).await;
        let ended = Instant::now();
        let end = match &answer {
            Ok(verdict) if verdict.is_allowed() => End::Allowed,
            Ok(_) => End::Denied,
            Err(error) => {
                let source = std::error::Error::source(error);
                End::Failed(source.map(ToString::to_string).unwrap_or_default())
            }
        };
        let taken = answer.ok().filter(|_| refunds && end == End::Allowed);
        let (refunded, not_refunded) = match taken {
            None => (0, 0),
            Some(taken) => {
                let refund = |taken: &Verdict| {
                    let at = Now::new(at.0, at.1);
                    [Refund::new(charge, 1, at, &taken.statuses()[0])]
                };
                let refund = refund(&taken);
                let refunding = self.nodes[node].refund(&refund, &SystemClock);
                (1, u64::from(refunding.await.is_err()))
            }
        };
        Call {
            node,
            budget,
            units,
            refunded,
            not_refunded,
            begun,
            ended,
            end,
        }
    }
}

/// Returns the used units of each budget that lasts, by a server.
pub async fn used(url: &str) -> Vec<u64> {
    let limiter = RedisLimiter::connect(url).unwrap();
    let limiter = limiter.time_limit(Duration::from_secs(10));
    let mut used = Vec::new();
    for budget in lasting() {
        let look = Charge::new(&budget.name, Subject::Account("acme"), budget.quota, 0);
        let verdict = limiter.check(&[look], &SystemClock).await.unwrap();
        used.push(budget.quota.limit() - verdict.statuses()[0].remaining());
    }
    used
}
