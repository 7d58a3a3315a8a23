//! The limiter over Redis.

use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, IntoConnectionInfo, RedisError, Value};

use super::denials::Denials;
use super::link::{self, CallError, Link, Source};
use super::request::{self, Budgets};
use super::script::{Answer, Script, add_time};
use crate::limit::charge::{Charge, MAX_CHARGES};
use crate::limit::limiter::{LimiterError, RateLimiter};
use crate::limit::refund::Refund;
use crate::limit::refund_note::RefundNote;
use crate::limit::verdict::{BudgetStatus, Verdict};
use crate::util::clock::Clock;
use crate::util::on_drop::OnDrop;

const TAKE: &str = include_str!("take.lua");
const REFUND: &str = include_str!("refund.lua");

/// The life of the note that a refund was done, in milliseconds. A refund is carried out in the
/// first quarter of a second, or never.
const NOTE_LIFE: u32 = 60_000;

/// A limiter whose budgets are in Redis, so that all processes of a fleet share them.
///
/// However many limits a request has, they are one call, which takes all charges or none. Quotas
/// are exact: all processes together are admitted no more than each quota. The clock is that of
/// Redis, so the clocks of the processes do not matter. Redis 6.2 or later, or Valkey, as a single
/// server or with replicas.
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
    link: Link,
    denials: Denials,
    prefix: String,
    take: Script,
    refund: Script,
    /// For tests: the time is the caller's, not that of the server.
    takes_time: bool,
}

/// An error for a URL that names no Redis server.
#[derive(Debug, Clone, thiserror::Error)]
#[error("this is no URL of a Redis server, such as redis://:password@host:6379/0")]
pub struct RedisUrlError(#[source] pub(super) RedisError);

impl RedisLimiter {
    /// Creates a limiter with a connection of its own, which is made when it is first needed: Redis
    /// may be down now. `server` is a URL, such as `redis://:password@host:6379/0`.
    ///
    /// # Errors
    /// If the URL is malformed.
    pub fn connect(server: impl IntoConnectionInfo) -> Result<Self, RedisUrlError> {
        let info = server.into_connection_info().map_err(RedisUrlError)?;
        let client = link::client(info).map_err(RedisUrlError)?;
        Ok(Self::new(Source::Client(client)))
    }

    /// Creates a limiter over a connection of the application's, such as a
    /// `ConnectionManager` of the crate `redis`, that reconnects by itself. Prefer
    /// [`connect`](Self::connect), which notices a dead connection in two seconds.
    ///
    /// Danger: a connection that does not reconnect, as a `MultiplexedConnection`, is an outage
    /// that does not end. One that sends a command again after a time limit may charge twice.
    pub fn over<C>(connection: C) -> Self
    where
        C: redis::aio::ConnectionLike + Clone + Send + Sync + 'static,
    {
        Self::new(Source::Given(Arc::new(connection)))
    }

    fn new(source: Source) -> Self {
        Self {
            link: Link::new(source, Duration::from_millis(250)),
            denials: Denials::new(Duration::from_secs(1)),
            prefix: "tak".to_owned(),
            take: Script::new(TAKE),
            refund: Script::new(REFUND),
            takes_time: false,
        }
    }

    /// Sets the time limit of a call. Default: 250 ms. A call that takes longer fails, and charges
    /// nothing. In an [`ApiKeys`](crate::ApiKeys), the limit is that of
    /// [`LimiterOutage::time_limit`](crate::limit::LimiterOutage::time_limit).
    #[must_use]
    pub fn time_limit(self, limit: Duration) -> Self {
        self.link.set_limit(limit);
        self
    }

    /// Sets the prefix of all keys. Default: `tak`. Services with different limits under the same
    /// names need different prefixes.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Sets the longest time for which a denial is remembered. Default: 1 s.
    ///
    /// Until the wait of a denied request is over, the same request is denied without asking Redis.
    /// Units that another process refunds meanwhile are noticed when the time is over; set zero to
    /// ask each time.
    #[must_use]
    pub fn remember_denials(mut self, longest: Duration) -> Self {
        self.denials = Denials::new(longest);
        self
    }

    /// Reads the time from the clock of the caller instead of the server's, for tests of the
    /// arithmetic.
    #[cfg(feature = "testing")]
    #[doc(hidden)]
    #[must_use]
    pub fn dangerous_on_the_clock_of_the_caller(mut self) -> Self {
        self.take = self.take.on_given_time();
        self.refund = self.refund.on_given_time();
        self.takes_time = true;
        self.remember_denials(Duration::ZERO)
    }

    async fn take(&self, budgets: &Budgets, clock: &dyn Clock) -> Result<Taken, LimiterError> {
        let call = |name: &str, script: &str, not_after: i64| {
            let mut command = redis::cmd(name);
            command.arg(script).arg(budgets.budgets.len());
            for budget in &budgets.budgets {
                command.arg(&budget.key);
            }
            command.arg(self.not_after(not_after));
            for budget in &budgets.budgets {
                command.arg(&budget.pack()[..]);
            }
            self.add_time(&mut command, clock);
            command
        };
        let answer = self.run(&self.take, call).await?;
        Taken::read(&answer, budgets.budgets.len())
    }

    /// Runs a script until the time limit. It is not carried out later.
    async fn run(
        &self,
        script: &Script,
        call: impl Fn(&str, &str, i64) -> Cmd,
    ) -> Result<Answer, LimiterError> {
        let until = self.link.now() + self.link.limit();
        let answer = script.run_in_time(&self.link, until, call).await;
        answer.map_err(LimiterError::unavailable)
    }

    /// Returns the time after which a call is refused, or 0.
    fn not_after(&self, time: i64) -> i64 {
        if self.takes_time { 0 } else { time }
    }

    fn add_time(&self, command: &mut Cmd, clock: &dyn Clock) {
        if self.takes_time {
            add_time(command, clock);
        }
    }

    async fn refund_all(
        &self,
        refunds: &[Refund<'_>],
        clock: &dyn Clock,
    ) -> Result<(), LimiterError> {
        let packed = refunds
            .iter()
            .map(|refund| request::pack_refund(&self.prefix, refund));
        let packed: Vec<_> = packed.collect();
        // In the slot of the first budget.
        let nonce = crate::store::ChangeId::unique();
        let first = packed.first().map_or("", |(key, _)| key.as_str());
        let home = first.split_inclusive('}').next().unwrap_or_default();
        let note = format!("{home}:n:{nonce}");
        let call = |name: &str, script: &str, not_after: i64| {
            let mut command = redis::cmd(name);
            command.arg(script).arg(packed.len() + 1).arg(&note);
            for (key, _) in &packed {
                command.arg(key);
            }
            command.arg(self.not_after(not_after));
            command.arg(NOTE_LIFE);
            for (_, budget) in &packed {
                command.arg(budget.as_slice());
            }
            self.add_time(&mut command, clock);
            command
        };
        // Also if the answer is lost, or nobody waits for it: the refund may be carried out.
        let _forget = OnDrop(|| self.denials.forget());
        self.run(&self.refund, call).await?;
        Ok(())
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
        let budgets = Budgets::new(&self.prefix, charges);
        let sent = self.link.now();
        if let Some(denied) = self.denials.find(&budgets, sent) {
            return Ok(denied);
        }
        let refunds = self.denials.refunds();
        let answer = self.take(&budgets, clock).await?;
        let verdict = answer.verdict(&budgets);
        if !verdict.is_allowed() {
            self.denials.add(&budgets, &verdict, sent, refunds);
        }
        Ok(verdict)
    }

    fn keep_time_limit(&self, limit: Duration) -> bool {
        self.link.set_limit(limit);
        true
    }

    async fn refund(&self, refunds: &[Refund<'_>], clock: &dyn Clock) -> Result<(), LimiterError> {
        check_count(refunds.len())?;
        if refunds.is_empty() {
            return Ok(());
        }
        self.refund_all(refunds, clock).await
    }
}

fn check_count(count: usize) -> Result<(), LimiterError> {
    if count > MAX_CHARGES {
        return Err(LimiterError::unavailable("more than 16 charges"));
    }
    Ok(())
}

/// The answer of `take.lua`.
struct Taken {
    /// The time of Redis, in microseconds.
    time: i64,
    /// For each budget: the remaining units, the time until it is full, the time to wait, and the
    /// early refunds.
    budgets: Vec<[i64; 4]>,
}

impl Taken {
    fn read(answer: &Answer, budgets: usize) -> Result<Self, LimiterError> {
        let number = |value: &Value| match value {
            Value::Int(number) => Ok(*number),
            _ => Err(LimiterError::unavailable(CallError::Malformed)),
        };
        let (statuses, rest) = answer.rest().as_chunks::<4>();
        if statuses.len() != budgets || !rest.is_empty() {
            return Err(LimiterError::unavailable(CallError::Malformed));
        }
        let read = |status: &[Value; 4]| {
            let [left, full_in, wait, early] = status;
            Ok([
                number(left)?,
                number(full_in)?,
                number(wait)?,
                number(early)?,
            ])
        };
        Ok(Self {
            time: answer.time,
            budgets: statuses.iter().map(read).collect::<Result<_, _>>()?,
        })
    }

    fn verdict(&self, budgets: &Budgets) -> Verdict {
        let status = |(at, is_report_only): &(usize, bool)| {
            let [remaining, full_in, wait, early] = self.budgets[*at];
            let unsigned = |number: i64| u64::try_from(number).unwrap_or_default();
            let full_in = budgets.budgets[*at].nanoseconds(unsigned(full_in));
            let wait = (wait >= 0).then(|| Duration::from_micros(unsigned(wait)));
            let status =
                BudgetStatus::new(unsigned(remaining), Duration::from_nanos(full_in), wait);
            let note = RefundNote {
                early_refunds: u32::try_from(early).unwrap_or_default(),
                limiter_time: unsigned(self.time),
                ..Default::default()
            };
            let status = status.with_refund_note(note);
            if *is_report_only {
                return status.of_report_only();
            }
            status
        };
        budgets.of_charges.iter().map(status).collect()
    }
}
