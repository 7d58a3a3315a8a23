//! A node: a process with a limiter of its own, and its calls.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};
use tower_api_key::clock::{Clock, Now};
use tower_api_key::limit::redis::aio::ConnectionLike;
use tower_api_key::limit::redis::{Cmd, Pipeline, RedisFuture, RedisResult, Value};
use tower_api_key::limit::{Charge, RateLimiter, RedisLimiter, Refund, Subject, Verdict};

use super::ledger::{End, What};
use super::network::{CALL, Network, Wire};
use super::plan::{Plan, Source};
use super::random::Random;

/// The pause between two calls that are never denied.
const PULSE: Duration = Duration::from_millis(25);

/// The clock of a machine. Its time of day does not matter.
#[derive(Debug, Clone, Copy)]
struct Skewed {
    ahead: Duration,
    begun: Instant,
}

impl Clock for Skewed {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.monotonic()
    }

    fn monotonic(&self) -> Duration {
        self.ahead + self.begun.elapsed()
    }
}

/// The time after which the last refund is over.
pub const LAST_REFUNDS: Duration = Duration::from_secs(9);

#[derive(Clone)]
pub struct Node {
    number: usize,
    plan: Arc<Plan>,
    network: Network,
    limiter: Arc<RedisLimiter>,
    clock: Skewed,
}

impl Node {
    pub fn new(number: usize, network: &Network) -> Self {
        let plan = Arc::clone(&network.world().ledger.plan);
        let its = &plan.nodes[number];
        let limiter = match its.source {
            Source::Dialed => {
                let network = network.clone();
                RedisLimiter::dangerous_dialed(move || {
                    let network = network.clone();
                    async move { network.dial(number).await }
                })
            }
            source => RedisLimiter::over(Given {
                network: network.clone(),
                node: number,
                wire: Arc::default(),
                sends_again: source == Source::Again,
            }),
        };
        let limiter = limiter
            .time_limit(plan.limit)
            .remember_denials(its.remembers)
            .dangerous_pauses(plan.seed ^ number as u64);
        let hours = Duration::from_secs(3_600 * number as u64);
        Self {
            number,
            network: network.clone(),
            limiter: Arc::new(limiter),
            clock: Skewed {
                ahead: hours,
                begun: Instant::now(),
            },
            plan,
        }
    }

    /// Calls until the end of the schedule.
    pub async fn run(self) {
        let seed = self.plan.seed.wrapping_mul(31) + self.number as u64;
        let mut random = Random::new(seed);
        let pulse = async {
            while !self.is_over() {
                self.check(0, None).await;
                sleep(PULSE).await;
            }
        };
        let load = async {
            let pause = 2 * self.plan.nodes[self.number].pause.as_millis();
            let pause = usize::try_from(pause).unwrap();
            while !self.is_over() {
                let request = 1 + random.below(self.plan.requests.len() - 1);
                let drops = self.drops(&mut random);
                let taken = self.check(request, drops).await;
                if let Some(taken) = taken
                    && random.below(self.plan.refunded) == 0
                {
                    let seed = random.next();
                    self.spawn(|node| async move { node.refund(taken, Random::new(seed)).await });
                }
                sleep(Duration::from_millis(random.below(pause + 1) as u64)).await;
            }
        };
        tokio::join!(pulse, load);
    }

    /// Makes many calls at once.
    pub async fn burst(&self, calls: usize) {
        let mut random = Random::new(self.plan.seed);
        let calls = (0..calls).map(|at| {
            let request = at % self.plan.requests.len();
            let drops = self.drops(&mut random);
            self.spawn(move |node| async move {
                node.check(request, drops).await;
            })
        });
        for call in join_all(calls.collect::<Vec<_>>()).await {
            call.unwrap();
        }
    }

    /// Returns after which time a call is dropped, if it is.
    fn drops(&self, random: &mut Random) -> Option<Duration> {
        (random.below(self.plan.dropped) == 0).then(|| {
            let limit = usize::try_from(self.plan.limit.as_millis()).unwrap();
            Duration::from_millis(random.below(limit) as u64)
        })
    }

    /// Spawns a task of this process.
    pub fn spawn<F>(&self, task: impl FnOnce(Self) -> F) -> tokio::task::JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let running = Running {
            network: self.network.clone(),
            node: self.number,
            task: Box::pin(task(self.clone())),
        };
        tokio::spawn(running)
    }

    /// Returns what the limiter tells about itself.
    pub fn state(&self) -> String {
        format!("{:?}", self.limiter)
    }

    fn is_over(&self) -> bool {
        self.network.now() >= self.plan.length()
    }

    fn charges(&self, request: usize) -> Vec<Charge<'_>> {
        let charges = self.plan.requests[request].iter();
        let charges = charges.map(|(budget, cost)| {
            let budget = &self.plan.budgets[*budget];
            Charge::new(&budget.name, Subject::Account("acme"), budget.quota, *cost)
        });
        charges.collect()
    }

    /// Checks a request. Returns what was taken.
    async fn check(&self, request: usize, drops: Option<Duration>) -> Option<Taken> {
        let call = self.network.change(|world, now| {
            let what = What::Check { request };
            world.ledger.begin(self.number, what, now)
        });
        let at = {
            let now = self.clock.readings();
            (now.wall(), now.monotonic())
        };
        let charges = self.charges(request);
        let checking = self.limiter.check(&charges, &self.clock);
        let checking = CALL.scope(call, checking);
        let answer = match drops {
            Some(time) => timeout(time, checking).await.ok(),
            None => Some(checking.await),
        };
        let end = match &answer {
            None => End::Cancelled,
            Some(Err(error)) => {
                let source = std::error::Error::source(error).map(ToString::to_string);
                End::Failed(source.unwrap_or_default())
            }
            Some(Ok(verdict)) if verdict.is_allowed() => End::Allowed,
            Some(Ok(verdict)) => End::Denied(verdict.retry_after()),
        };
        let is_taken = end == End::Allowed;
        self.network.change(|world, now| {
            world.ledger.end(call, end, now);
            world.look_at_denial(call, now);
        });
        let verdict = answer?.ok().filter(|_| is_taken)?;
        Some(Taken {
            call,
            request,
            at,
            verdict,
        })
    }

    /// Refunds a part of what was taken, and perhaps another part.
    async fn refund(&self, taken: Taken, mut random: Random) {
        let charges = self.charges(taken.request);
        let mut before: Vec<u64> = vec![0; charges.len()];
        for _ in 0..=random.below(2) {
            let longest = *random.pick(&[100, 1_500, 1_500, 4_000]);
            sleep(Duration::from_millis(random.below(longest) as u64)).await;
            let (mut refunds, mut units) = (Vec::new(), Vec::new());
            let at = Now::new(taken.at.0, taken.at.1);
            for (number, charge) in charges.iter().enumerate() {
                let most = charge.cost() - before[number];
                if most == 0 {
                    continue;
                }
                let back = 1 + random.below(usize::try_from(most).unwrap()) as u64;
                let refund = Refund::new(*charge, back, at, &taken.verdict.statuses()[number]);
                refunds.push(refund.after(before[number]));
                units.push((self.plan.requests[taken.request][number].0, back));
                before[number] += back;
            }
            if refunds.is_empty() {
                return;
            }
            let call = self.network.change(|world, now| {
                let what = What::Refund {
                    of: taken.call,
                    units,
                };
                world.ledger.begin(self.number, what, now)
            });
            let refunding = self.limiter.refund(&refunds, &self.clock);
            let end = match CALL.scope(call, refunding).await {
                Ok(()) => End::Allowed,
                Err(error) => End::Failed(error.to_string()),
            };
            self.network
                .change(|world, now| world.ledger.end(call, end, now));
        }
    }
}

/// What was taken by a call.
struct Taken {
    call: usize,
    request: usize,
    at: (SystemTime, Duration),
    verdict: Verdict,
}

/// A task of a process that may be stopped.
struct Running {
    network: Network,
    node: usize,
    task: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Future for Running {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        {
            let node = self.node;
            let process = &mut self.network.world().processes[node];
            if process.is_paused {
                process.wakers.push(context.waker().clone());
                return Poll::Pending;
            }
        }
        self.task.as_mut().poll(context)
    }
}

/// A connection of the application's, that reconnects when it was cut.
#[derive(Clone)]
struct Given {
    network: Network,
    node: usize,
    wire: Arc<Mutex<Option<Wire>>>,
    sends_again: bool,
}

impl Given {
    async fn send(&self, command: &Cmd) -> RedisResult<Value> {
        let asked = self.network.now();
        let answer = self.send_once(command, asked).await;
        match &answer {
            Err(error) if self.sends_again && error.is_io_error() => {
                self.send_once(command, asked).await
            }
            _ => answer,
        }
    }

    async fn send_once(&self, command: &Cmd, asked: Duration) -> RedisResult<Value> {
        let wire = {
            let mut known = self.wire.lock().await;
            if known.as_ref().is_none_or(Wire::is_cut) {
                *known = Some(self.network.dial(self.node).await?);
            }
            known.clone().unwrap()
        };
        wire.send(command, asked).await
    }
}

impl ConnectionLike for Given {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(self.send(command))
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        _pipeline: &'a Pipeline,
        _offset: usize,
        _count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        panic!("the limiter sends no pipelines")
    }

    fn get_db(&self) -> i64 {
        0
    }
}
