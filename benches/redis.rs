//! The limiter over Redis against the script that people write by hand: GCRA over one key, sent by
//! a tower layer of theirs.
//!
//! `cargo bench --bench redis --features redis`; `REDIS_CALLS` sets the calls of a case, 40,000
//! unless set, and `REDIS_ROUNDS` the rounds of the throughput, 11 unless set. It starts a
//! redis-server of its own.
//!
//! - `server NAME MICROSECONDS RATIO`: the time of a call in the server, as its `commandstats` tell
//!   it, and the ratio to the plain script in the same run. Goals: 1.2 for one limit, 4 for five.
//! - `memory NAME BYTES`: the bytes of a budget in the server.
//! - `node NAME REQUESTS/S` and `ratio node VALUE`: 64 requests at a time through our layer with one
//!   limit, and through the layer by hand, in turn; the median of the ratios of the rounds. Goal:
//!   0.9.

#[path = "../tests/support/redis.rs"]
mod server;

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use http::{Request, Response, StatusCode};
use server::Redis;
use sha2::{Digest, Sha256};
use tower_api_key::clock::SystemClock;
use tower_api_key::limit::redis::aio::MultiplexedConnection;
use tower_api_key::limit::redis::{self, Client, Script};
use tower_api_key::limit::{Charge, LimitName, RateLimiter, RedisLimiter, Subject};
use tower_api_key::{ApiKeys, Limits, MemoryStore, Quota};
use tower_layer::Layer;
use tower_service::Service;

const PLAIN: &str = include_str!("support/plain.lua");
const KEYS: usize = 1_000;
const AT_ONCE: usize = 64;
const PER_MINUTE: Quota = Quota::per_minute(100_000_000);

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(async {
        let redis = Redis::start();
        let client = Client::open(redis.url()).expect("a URL");
        let connection = client.get_multiplexed_async_connection().await;
        let connection = connection.expect("a connection");
        costs(&redis, &connection).await;
        throughput(&redis, &connection).await;
    });
}

/// The microseconds of a call in the server since the statistics were reset.
fn microseconds(redis: &Redis) -> f64 {
    let stats = redis.command(&["INFO", "commandstats"]);
    let (_, line) = stats.split_once("cmdstat_evalsha:").expect("it was called");
    let (_, value) = line.split_once("usec_per_call=").expect("it is told");
    let value = value.split(',').next().expect("a number");
    value.parse().expect("a number")
}

fn memory(redis: &Redis) -> u64 {
    let info = redis.command(&["INFO", "memory"]);
    let (_, value) = info.split_once("used_memory:").expect("it is told");
    let value = value.split('\r').next().expect("a number");
    value.parse().expect("a number")
}

async fn costs(redis: &Redis, connection: &MultiplexedConnection) {
    let calls = setting("REDIS_CALLS", 40_000);
    let limiter = RedisLimiter::connect(redis.url()).expect("a URL");
    let names: Vec<LimitName> = (0..5)
        .map(|at| LimitName::new(format!("limit_{at}")))
        .collect();
    let script = Script::new(PLAIN);
    for accounts in [1, 10_000] {
        let accounts: Vec<String> = (0..accounts).map(|at| format!("account{at:06}")).collect();
        let plain = async |at: usize| {
            let key = format!("limit:{}", accounts[at % accounts.len()]);
            let mut connection = connection.clone();
            let mut call = script.key(key);
            let call = call.arg(100_000_000).arg(0.000_000_6).arg(1);
            let answer: redis::Value = call.invoke_async(&mut connection).await.expect("it runs");
            assert!(matches!(answer, redis::Value::Array(_)));
        };
        let ours = async |at: usize, count: usize, quota: Quota| {
            let subject = Subject::Account(&accounts[at % accounts.len()]);
            let charges = names.iter().take(count);
            let charges = charges.map(|name| Charge::new(name, subject, quota, 1));
            let charges: Vec<Charge<'_>> = charges.collect();
            let verdict = limiter
                .check(&charges, &SystemClock)
                .await
                .expect("it runs");
            assert!(verdict.is_allowed());
        };
        let keys = accounts.len();
        let base = cost(redis, calls, &plain).await;
        println!("server plain_{keys} {base:.2} 1.00");
        let per_minute = Quota::per_minute(100_000_000);
        for (name, count, quota) in [
            ("window_1", 1, per_minute),
            ("window_3", 3, per_minute),
            ("window_5", 5, per_minute),
            ("rate_1", 1, Quota::per_second(1_000_000).smooth()),
            ("day_1", 1, Quota::per_utc_day(100_000_000)),
            ("month_1", 1, Quota::per_utc_month(100_000_000)),
        ] {
            let case = async |at: usize| ours(at, count, quota).await;
            let cost = cost(redis, calls, &case).await;
            println!("server {name}_{keys} {cost:.2} {:.2}", cost / base);
        }
        if keys > 1 {
            for (name, quota) in [
                ("window", per_minute),
                ("rate", Quota::per_hour(1_000).smooth()),
            ] {
                redis.command(&["FLUSHALL"]);
                let before = memory(redis);
                for at in 0..keys {
                    ours(at, 1, quota).await;
                }
                println!("memory {name} {}", (memory(redis) - before) / keys as u64);
            }
        }
    }
}

/// Calls so often, 64 at a time, and returns the microseconds of a call in the server.
async fn cost<F: Future<Output = ()>>(
    redis: &Redis,
    calls: usize,
    call: impl Fn(usize) -> F,
) -> f64 {
    redis.command(&["FLUSHALL"]);
    for warm in [true, false] {
        if !warm {
            redis.command(&["CONFIG", "RESETSTAT"]);
        }
        let rounds = if warm { calls / 10 } else { calls } / AT_ONCE;
        for round in 0..rounds {
            join_all((0..AT_ONCE).map(|at| call(round * AT_ONCE + at))).await;
        }
    }
    microseconds(redis)
}

/// The service inside.
#[derive(Clone)]
struct Echo;

impl Service<Request<()>> for Echo {
    type Response = Response<String>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Response<String>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        std::future::ready(Ok(Response::new(String::new())))
    }
}

/// What people write by hand: a map of digests, and the plain script.
#[derive(Clone)]
struct ByHand<S> {
    inner: S,
    keys: Arc<HashMap<[u8; 32], String>>,
    script: Arc<Script>,
    connection: MultiplexedConnection,
}

impl<S> Service<Request<()>> for ByHand<S>
where
    S: Service<Request<()>, Response = Response<String>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
{
    type Response = Response<String>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<String>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<()>) -> Self::Future {
        let header = request.headers().get("authorization");
        let key = header.and_then(|it| it.to_str().ok()?.strip_prefix("Bearer "));
        let digest: [u8; 32] = Sha256::digest(key.unwrap_or_default().as_bytes()).into();
        let account = self
            .keys
            .get(&digest)
            .map(|account| format!("limit:{account}"));
        let ready = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, ready);
        let (script, mut connection) = (Arc::clone(&self.script), self.connection.clone());
        let refused = |status| {
            let mut response = Response::new(String::new());
            *response.status_mut() = status;
            Ok(response)
        };
        Box::pin(async move {
            let Some(account) = account else {
                return refused(StatusCode::UNAUTHORIZED);
            };
            let mut call = script.key(account);
            let call = call.arg(100_000_000).arg(0.000_000_6).arg(1);
            let answer: redis::RedisResult<(i64, i64, String, String)> =
                call.invoke_async(&mut connection).await;
            match answer {
                Ok((0, left, _, reset)) => {
                    let mut response = inner.call(request).await?;
                    let headers = response.headers_mut();
                    headers.insert("x-ratelimit-remaining", left.into());
                    headers.insert("x-ratelimit-reset", reset.parse().expect("a number"));
                    Ok(response)
                }
                Ok(_) => refused(StatusCode::TOO_MANY_REQUESTS),
                Err(_) => refused(StatusCode::SERVICE_UNAVAILABLE),
            }
        })
    }
}

async fn throughput(redis: &Redis, connection: &MultiplexedConnection) {
    let limiter = RedisLimiter::connect(redis.url()).expect("a URL");
    let builder = ApiKeys::builder(MemoryStore::new()).limiter(limiter);
    let keys = builder
        .limits(Limits::new().per_account(PER_MINUTE))
        .build();
    let keys = keys.expect("these settings work");
    let mut secrets = Vec::new();
    let mut digests = HashMap::new();
    for at in 0..KEYS {
        let key = keys
            .issue(format!("account{at}"))
            .await
            .expect("it is issued");
        let secret = key.expose_secret().to_owned();
        digests.insert(
            Sha256::digest(secret.as_bytes()).into(),
            format!("account{at}"),
        );
        secrets.push(secret);
    }
    let ours = keys.layer().layer(Echo);
    let by_hand = ByHand {
        inner: Echo,
        keys: Arc::new(digests),
        script: Arc::new(Script::new(PLAIN)),
        connection: connection.clone(),
    };
    let mut ratios = Vec::new();
    let mut speeds = [Vec::new(), Vec::new()];
    for round in 0..=setting("REDIS_ROUNDS", 11) {
        // In turn, so that what else goes on in the machine meets both.
        let [first, second] = if round % 2 == 0 {
            let first = speed(&ours, &secrets).await;
            [first, speed(&by_hand, &secrets).await]
        } else {
            let second = speed(&by_hand, &secrets).await;
            [speed(&ours, &secrets).await, second]
        };
        if round > 0 {
            ratios.push(first / second);
            speeds[0].push(first);
            speeds[1].push(second);
        }
    }
    let [ours, by_hand] = speeds.map(median);
    println!("node ours {ours:.0}\nnode by_hand {by_hand:.0}");
    println!("ratio node {:.3}", median(ratios));
}

/// Requests a second through a service, by 64 clients, each of which sends one after the other.
async fn speed<S, B>(service: &S, secrets: &[String]) -> f64
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible> + Clone,
{
    let begun = Instant::now();
    let clients = (0..AT_ONCE).map(|client| {
        let mut service = service.clone();
        async move {
            let mut served = 0_u32;
            while begun.elapsed() < Duration::from_millis(500) {
                let at = served as usize * AT_ONCE + client;
                let secret = &secrets[at % secrets.len()];
                let request = Request::builder();
                let request = request.header("authorization", format!("Bearer {secret}"));
                let request = request.body(()).expect("a request");
                let ready = poll_fn(|context| service.poll_ready(context)).await;
                ready.expect("it is infallible");
                let response = service.call(request).await.expect("it is infallible");
                assert_eq!(response.status(), StatusCode::OK);
                served += 1;
            }
            served
        }
    });
    let served: u32 = join_all(clients).await.iter().sum();
    f64::from(served) / begun.elapsed().as_secs_f64()
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}
