//! The limiter over Redis.

use std::sync::Arc;
use std::time::Duration;

use redis::IntoConnectionInfo;

use super::budget_key::Placement;
use super::call_error::CallError;
use super::denials::Denials;
use super::dialing::Source;
use super::parts;
use super::refunds::Refunds;
use super::request::{Budgets, PackedRefund};
use super::script::{self, Script};
use super::servers::Servers;
use super::take::{self, Take, TakenBudget};
use super::url::{Named, RedisUrlError};
use crate::limit::charge::{Charge, MAX_CHARGES};
use crate::limit::limiter::{LimiterError, RateLimiter};
use crate::limit::refund::Refund;
use crate::limit::verdict::Verdict;
use crate::util::clock::Clock;

const TAKE: &str = include_str!("take.lua");
const REFUND: &str = include_str!("refund.lua");

/// The time limit of a call, unless another one is set.
const TIME_LIMIT: Duration = Duration::from_millis(250);

/// A limiter whose budgets are in Redis, so that all processes of a fleet share them.
///
/// However many limits a request has, they are one call, which takes all charges or none. Quotas
/// are exact: all processes together are admitted no more than each quota. The clock is that of
/// Redis, so the clocks of the processes do not matter. Redis 6.2 or later, or Valkey, as a single
/// server, with replicas, or as a [cluster](#on-a-cluster).
///
/// # If Redis does not answer
///
/// A call fails after the [time limit](Self::time_limit), and
/// [`LimiterOutage`](crate::limit::LimiterOutage) decides. After five calls without an answer,
/// Redis is not asked any more, so an outage costs requests no time; it is probed about ten times a
/// second, and asked again when it answers. A call that reaches Redis after its time limit charges
/// nothing.
///
/// A call whose answer is lost may have been carried out: its request is refused or decided by that
/// policy, and charged.
///
/// # On a cluster
///
/// [`connect_cluster`](Self::connect_cluster) follows the slots of a Redis Cluster. Each budget has
/// a home: an account, with all budgets of the account and of its keys; an address; a subject of the
/// application's own; or that of all global limits. Homes are spread over the servers.
///
/// A request whose budgets have one home is one call. Otherwise it is a call for each home, all at
/// the same time. Each of them takes all its charges or none. If one of them denies or fails, what
/// the others took is refunded at once. It follows:
///
/// - Quotas are exact, as on a single server: what is admitted was charged before, everywhere.
/// - A denied request costs nothing, after about one trip more. The refund is sent once. If a server
///   is lost in that moment, or has not answered in time, a charge may stay, until it expires.
/// - Until the refund, other requests may be denied that would have fit, and be told to wait for
///   longer than they must: up to the period of a window.
/// - A request fails if one of its servers does not answer. If that is known, nothing is charged
///   elsewhere. Requests with other homes do not notice.
/// - A caller who goes away while Redis is asked stays charged, as on a single server.
///
/// While a slot moves from one server to another, calls follow it. A request with several budgets
/// in that slot may fail until the slot has moved.
///
/// All global limits are on one server, which every request asks. On a small cluster, or if most
/// requests have several homes, [`together`](Self::together) may be better.
///
/// By default, Redis answers no call at all while a master without a replica is away. Set
/// `cluster-require-full-coverage no`, so that the other homes can be used.
///
/// # Size
///
/// A budget takes about 200 bytes, and a window that is used all the time about 500, until it is
/// full again: for as long as the period of its quota. Danger: where clients choose the subject of
/// a limit, such as an address, each one makes a budget. Keep the periods of such limits short, so
/// that the memory of Redis is not filled; when it is, no request is charged, and the policy for an
/// outage decides. Rates that take more than 26 days to be full are counted in steps of 8 ns.
///
/// # If Redis forgets
///
/// A server that restarts empty, or evicts keys, grants each quota once more. Use an own Redis with
/// the policy `noeviction`, with `appendfsync everysec` or `always`: a crash then forgets what was
/// charged in the last second, or nothing. A failover forgets what was not replicated yet.
///
/// ```no_run
/// use tower_api_key::limit::RedisLimiter;
/// use tower_api_key::{ApiKeys, Limits, MemoryStore, Quota};
///
/// let limiter = RedisLimiter::connect("redis://127.0.0.1/")?;
/// let keys = ApiKeys::builder(MemoryStore::new())
///     .limits(Limits::new().per_account(Quota::per_minute(1_000)))
///     .limiter(limiter)
///     .build()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct RedisLimiter {
    servers: Servers,
    denials: Arc<Denials>,
    placement: Placement,
    take: Script,
    refund: Arc<Script>,
    /// For tests: the time is the caller's, not that of the server.
    takes_time: bool,
}

impl RedisLimiter {
    /// Creates a limiter with a connection of its own, which is made when it is first needed: Redis
    /// may be down now. `server` is a URL, such as `redis://:password@host:6379/0`.
    ///
    /// # Errors
    /// If the URL is malformed.
    pub fn connect(server: impl IntoConnectionInfo) -> Result<Self, RedisUrlError> {
        Ok(Self::new(Named::one(server)?.servers(TIME_LIMIT)))
    }

    /// Creates a limiter on a Redis Cluster. `servers` are URLs of some of its servers: the others
    /// are found by them, so name at least two. Connections are made when they are first needed, and
    /// all servers may be down now. User, password and TLS of the first URL are used for all servers
    /// that are found.
    ///
    /// ```no_run
    /// use tower_api_key::limit::RedisLimiter;
    ///
    /// let limiter = RedisLimiter::connect_cluster(["redis://10.0.0.1/", "redis://10.0.0.2/"])?;
    /// # Ok::<(), tower_api_key::limit::RedisUrlError>(())
    /// ```
    ///
    /// # Errors
    /// If a URL is malformed, or there is none.
    pub fn connect_cluster(
        servers: impl IntoIterator<Item = impl IntoConnectionInfo>,
    ) -> Result<Self, RedisUrlError> {
        Ok(Self::new(Named::cluster(servers)?.servers(TIME_LIMIT)))
    }

    /// Creates a limiter over a connection of the application's, such as a
    /// `ConnectionManager` of the crate `redis`, that reconnects by itself. Prefer
    /// [`connect`](Self::connect), which notices a dead connection in two seconds.
    ///
    /// The connection may be a client of a cluster, if the budgets are
    /// [`together`](Self::together). Prefer [`connect_cluster`](Self::connect_cluster).
    ///
    /// Danger: a connection that does not reconnect, as a `MultiplexedConnection`, is an outage
    /// that does not end. One that sends a command again after a time limit or a lost connection may
    /// charge twice, as a `ClusterConnection` does by default.
    pub fn over<C>(connection: C) -> Self
    where
        C: redis::aio::ConnectionLike + Clone + Send + Sync + 'static,
    {
        let source = Source::Given(Arc::new(connection));
        Self::new(Servers::one(source, TIME_LIMIT))
    }

    fn new(servers: Servers) -> Self {
        Self {
            servers,
            denials: Arc::new(Denials::new(Duration::from_secs(1))),
            placement: Placement::new("tak"),
            take: Script::new(TAKE),
            refund: Arc::new(Script::new(REFUND)),
            takes_time: false,
        }
    }

    /// Sets the time limit of a call. Default: 250 ms. A call that takes longer fails, and charges
    /// nothing. In an [`ApiKeys`](crate::ApiKeys), the limit is that of
    /// [`LimiterOutage::time_limit`](crate::limit::LimiterOutage::time_limit).
    #[must_use]
    pub fn time_limit(self, limit: Duration) -> Self {
        self.servers.set_limit(limit);
        self
    }

    /// Keeps all budgets in one slot of a cluster: that of the prefix.
    ///
    /// Every request is then one call, with all that holds on a single server, and all load is on
    /// one server of the cluster. Services with different [prefixes](Self::prefix) are spread.
    ///
    /// All processes need the same setting. With another setting, all budgets begin anew.
    #[must_use]
    pub fn together(mut self) -> Self {
        self.placement = self.placement.together();
        self
    }

    /// Sets the prefix of all keys. Default: `tak`. Services with different limits under the same
    /// names need different prefixes.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.placement = self.placement.with_prefix(&prefix.into());
        self
    }

    /// Sets the longest time for which a denial is remembered. Default: 1 s.
    ///
    /// Until the wait of a denied request is over, the same request is denied without asking Redis.
    /// Units that another process refunds meanwhile, or takes for a moment in a
    /// [cluster](Self#on-a-cluster), are noticed when the time is over; set zero to ask each time.
    #[must_use]
    pub fn remember_denials(mut self, longest: Duration) -> Self {
        self.denials = Arc::new(Denials::new(longest));
        self
    }

    /// Reads the time from the clock of the caller instead of the server's, for tests of the
    /// arithmetic.
    #[cfg(feature = "testing")]
    #[doc(hidden)]
    #[must_use]
    pub fn dangerous_on_the_clock_of_the_caller(mut self) -> Self {
        self.take = self.take.on_given_time();
        self.refund = Arc::new(self.refund.on_given_time());
        self.takes_time = true;
        self.remember_denials(Duration::ZERO)
    }

    /// For tests: returns when all refunds of this process were carried out or have failed.
    #[cfg(feature = "testing")]
    #[doc(hidden)]
    pub async fn until_refunded(&self) {
        // Each of them holds the denials.
        while Arc::strong_count(&self.denials) > 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Creates a limiter that dials with a function, for tests of faults.
    #[cfg(feature = "testing")]
    #[doc(hidden)]
    pub fn dangerous_dialed<C, F>(dial: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        C: redis::aio::ConnectionLike + Clone + Send + Sync + 'static,
        F: Future<Output = redis::RedisResult<C>> + Send + 'static,
    {
        let source = Source::Dialed(super::connection::boxed(dial));
        Self::new(Servers::one(source, TIME_LIMIT))
    }

    /// Makes the pauses between attempts follow from a number, for tests that can be repeated.
    #[cfg(feature = "testing")]
    #[doc(hidden)]
    #[must_use]
    pub fn dangerous_pauses(self, number: u64) -> Self {
        if let Servers::One(link) = &self.servers {
            link.set_pauses(number);
        }
        self
    }

    /// Takes from all budgets of a request, or from none.
    async fn take(
        &self,
        budgets: &Budgets,
        clock: &dyn Clock,
    ) -> Result<Vec<TakenBudget>, CallError> {
        let call = Take {
            servers: &self.servers,
            script: &self.take,
            until: self.servers.now() + self.servers.limit(),
            time: self.time_of(clock),
        };
        if let Servers::Cluster(_) = self.servers {
            let parts = budgets.by_slot();
            if parts.len() > 1 {
                let taking = parts::take(call, budgets, &parts, self.refunds(clock));
                // It is large, and requests elsewhere do not need it.
                return Box::pin(taking).await;
            }
        }
        Ok(call.run(budgets.budgets.iter()).await?.budgets)
    }

    fn refunds(&self, clock: &dyn Clock) -> Refunds {
        Refunds {
            servers: self.servers.clone(),
            script: Arc::clone(&self.refund),
            denials: Arc::clone(&self.denials),
            time: self.time_of(clock),
        }
    }

    /// Returns the time of the caller in microseconds, if that counts.
    fn time_of(&self, clock: &dyn Clock) -> Option<u64> {
        self.takes_time.then(|| script::given_time(clock))
    }
}

impl RateLimiter for RedisLimiter {
    async fn check(
        &self,
        charges: &[Charge<'_>],
        clock: &dyn Clock,
    ) -> Result<Verdict, LimiterError> {
        check_count(charges.len())?;
        if charges.is_empty() {
            return Ok(Verdict::new(&[]));
        }
        let budgets = Budgets::new(&self.placement, charges);
        let sent = self.servers.now();
        if let Some(denied) = self.denials.find(&budgets, sent) {
            return Ok(denied);
        }
        let refunds = self.denials.refunds();
        let taken = self.take(&budgets, clock).await;
        let taken = taken.map_err(LimiterError::unavailable)?;
        let verdict = take::verdict(&taken, &budgets);
        if !verdict.is_allowed() {
            self.denials.add(&budgets, &verdict, sent, refunds);
        }
        Ok(verdict)
    }

    fn keep_time_limit(&self, limit: Duration) -> bool {
        self.servers.set_limit(limit);
        true
    }

    async fn refund(&self, refunds: &[Refund<'_>], clock: &dyn Clock) -> Result<(), LimiterError> {
        check_count(refunds.len())?;
        let packed = refunds
            .iter()
            .map(|it| PackedRefund::new(&self.placement, it, it.age(clock.readings())));
        let packed: Vec<PackedRefund> = packed.collect();
        let refunds = self.refunds(clock);
        let refunded = match self.servers {
            Servers::One(_) => refunds.run(&packed).await,
            Servers::Cluster(_) => refunds.run_apart(packed).await,
        };
        refunded.map_err(LimiterError::unavailable)
    }
}

fn check_count(count: usize) -> Result<(), LimiterError> {
    if count > MAX_CHARGES {
        return Err(LimiterError::unavailable("more than 16 charges"));
    }
    Ok(())
}
