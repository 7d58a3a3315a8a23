//! How long a revocation takes from one process to another one.
//!
//! `cargo bench --bench revocation --features sqlite,postgres,redis`; `REVOCATIONS` sets the
//! revocations of a case, 300 unless set. It needs the programs of `PostgreSQL` and of Redis, and
//! starts servers of its own.
//!
//! A line is `CASE FROM P50 P99 MAX` in milliseconds. Two sets of keys, each with its own store and
//! its worker, stand for two processes. A key is in the cache of one, the other one revokes it, and
//! the first is asked for it each 0.1 ms, on a thread of its own, until it refuses. The time is
//! `from the answer` that the key is revoked, and `from the call`, which has the commit in it. The
//! pauses between revocations are random, up to 50 ms, so a feed that polls has just looked: for that,
//! it is the longest case. Nothing fails on a time.
//!
//! Goals at p99 from the answer: 20 ms for `redis`, the store of a fleet over keys in memory, and
//! 50 ms for `postgres`. `postgres_polling` is without notifications.

#[allow(dead_code, unreachable_pub, reason = "tests use the rest")]
#[path = "../tests/support/postgres.rs"]
mod postgres;
#[allow(dead_code, reason = "each bench uses its part")]
#[path = "support/random.rs"]
mod random;
#[path = "../tests/support/redis.rs"]
mod redis;

use std::error::Error;
use std::time::{Duration, Instant};

use postgres::Postgres;
use random::Random;
use redis::Redis;
use tokio::runtime::Handle;
use tokio::task::{JoinHandle, spawn_blocking};
use tower_api_key::store::sqlx::postgres::PgPool;
use tower_api_key::store::{PostgresStore, RedisFleet, SqliteStore};
use tower_api_key::{ApiKeys, ApiKeysBuilder, Cache, MemoryStore};

type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

/// The revocations before those that are measured.
const WARM_UP: usize = 10;

/// The time between two questions.
const INTERVAL: Duration = Duration::from_micros(100);

/// The time after which a revocation has not arrived at all.
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<()> {
    let title = "in milliseconds";
    println!("{title:<36}{:>9}{:>9}{:>9}", "p50", "p99", "max");
    redis().await?;
    postgres().await?;
    sqlite().await
}

async fn redis() -> Result<()> {
    let server = Redis::start();
    let store = MemoryStore::new();
    let open = async || {
        let fleet = RedisFleet::connect(server.url(), store.clone())?;
        Ok(ApiKeys::builder(fleet))
    };
    measure("redis", Some(20.0), open).await
}

async fn postgres() -> Result<()> {
    let server = Postgres::start();
    let url = server.create_database();
    let open = async || PgPool::connect(&url).await.map(PostgresStore::new);
    open().await?.migrate().await?;
    let telling = async || Ok(ApiKeys::builder(open().await?));
    measure("postgres", Some(50.0), telling).await?;
    let polling = async || Ok(ApiKeys::builder(open().await?.without_notify()));
    measure("postgres_polling", None, polling).await
}

async fn sqlite() -> Result<()> {
    let name = format!("tower-api-key-revocation-{}", std::process::id());
    let folder = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&folder)?;
    let open = async || SqliteStore::open(folder.join("keys.db")).await;
    open().await?.migrate().await?;
    let polling = async || Ok(ApiKeys::builder(open().await?));
    let measured = measure("sqlite", None, polling).await;
    std::fs::remove_dir_all(&folder)?;
    measured
}

/// A process of several.
struct Node {
    keys: ApiKeys,
    worker: JoinHandle<()>,
}

impl Node {
    fn start(builder: ApiKeysBuilder) -> Result<Self> {
        // Without the feed, a revocation would be known after an hour.
        let cache = Cache::new().max_staleness(Duration::from_secs(3_600));
        let keys = builder.cache(cache).build()?;
        let worker = tokio::spawn(keys.worker().into_future());
        Ok(Self { keys, worker })
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.worker.abort();
    }
}

/// Measures revocations by one process of two. `open` opens the stores of one, and sets its feed.
async fn measure(
    name: &str,
    goal: Option<f64>,
    open: impl AsyncFn() -> Result<ApiKeysBuilder>,
) -> Result<()> {
    let revocations = match std::env::var("REVOCATIONS") {
        Err(_) => 300,
        Ok(text) => text.parse()?,
    };
    let (here, there) = (Node::start(open().await?)?, Node::start(open().await?)?);
    let mut random = Random::new(1);
    let (mut from_answer, mut from_call) = (Vec::new(), Vec::new());
    for number in 0..WARM_UP + revocations {
        let key = here.keys.issue("acme").await?;
        there.keys.verify(key.expose_secret()).await?;
        tokio::time::sleep(Duration::from_millis(random.below(50) as u64)).await;
        let refusal = refusal(&there.keys, key.expose_secret());
        let called = Instant::now();
        here.keys.revoke(key.id()).await?;
        let answered = Instant::now();
        let refused = refusal.await??;
        if number >= WARM_UP {
            from_answer.push(refused.saturating_duration_since(answered));
            from_call.push(refused.saturating_duration_since(called));
        }
    }
    report(name, "from the answer", from_answer, goal);
    report(name, "from the call", from_call, None);
    Ok(())
}

/// Returns when a key is refused, as a task that is begun.
fn refusal(keys: &ApiKeys, key: &str) -> JoinHandle<Result<Instant>> {
    let (keys, key) = (keys.clone(), key.to_owned());
    let (runtime, begun) = (Handle::current(), Instant::now());
    spawn_blocking(move || {
        while begun.elapsed() < PATIENCE {
            let Err(refusal) = runtime.block_on(keys.verify(&key)) else {
                std::thread::sleep(INTERVAL);
                continue;
            };
            let at = Instant::now();
            return match refusal.code() {
                "api_key_revoked" => Ok(at),
                code => Err(format!("the key is refused with {code}").into()),
            };
        }
        Err("the revocation does not arrive".into())
    })
}

fn report(name: &str, from: &str, mut times: Vec<Duration>, goal: Option<f64>) {
    times.sort_unstable();
    let percentile = |percent: usize| {
        let at = (times.len() * percent / 100).min(times.len().saturating_sub(1));
        times.get(at).map_or(0.0, |time| time.as_secs_f64() * 1e3)
    };
    let (p50, p99, max) = (percentile(50), percentile(99), percentile(100));
    let verdict = match goal {
        None => String::new(),
        Some(goal) if p99 <= goal => format!("  p99 is within {goal} ms"),
        Some(goal) => format!("  MISSED: p99 {goal} ms"),
    };
    println!("{name:<18}{from:<18}{p50:>9.2}{p99:>9.2}{max:>9.2}{verdict}");
}
