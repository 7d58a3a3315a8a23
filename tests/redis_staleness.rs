//! Random schedules of a fleet over a real Redis: whatever the feed, the copies, late loads and
//! lagging replicas do, a revoked key is refused everywhere when it is too old to serve.
//!
//! `STALENESS_SCHEDULES` sets the schedules, 60 unless set. The full proof is 1,000. One is drawn
//! again with `STALENESS_SEED`.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

#[path = "support/redis.rs"]
mod server;

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use server::Redis;
use support::random::Random;
use support::trouble::{Gate, TroubledStore};
use support::{DAY, is_waiting, revoke_in, today};
use tokio::task::JoinHandle;
use tower_api_key::clock::{Clock, ManualClock};
use tower_api_key::store::{ChangeFeed, Changes, Cursor, FeedError, Floor, RedisFleet};
use tower_api_key::{ApiKeys, Cache, IssuedKey, KeyId, KeyStore, MemoryStore};

const MAX_STALENESS: Duration = Duration::from_secs(10);

/// The longest lag of the replica.
const LAG: Duration = Duration::from_secs(3);

const NODES: usize = 3;

/// What a feed does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Feed {
    Lives,
    /// Its connection is cut.
    Fails,
    /// Its connection is half open: nothing comes.
    Hangs,
}

/// The feed of a node, which does as it is told.
#[derive(Clone)]
struct SomeFeed {
    of_store: MemoryStore,
    does: Arc<Mutex<Feed>>,
    clock: ManualClock,
}

impl ChangeFeed for SomeFeed {
    async fn changes_since(
        &self,
        after: Option<&Cursor>,
        wait: Duration,
    ) -> Result<Changes, FeedError> {
        let does = *self.does.lock().unwrap();
        match does {
            Feed::Lives => self.of_store.changes_since(after, wait).await,
            Feed::Fails => Err(FeedError::new("cut")),
            Feed::Hangs => {
                self.clock.sleep(DAY).await;
                Err(FeedError::new("it was half open"))
            }
        }
    }
}

struct Node {
    keys: ApiKeys,
    feed: Arc<Mutex<Feed>>,
    worker: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// A key, and when it was revoked on which node.
struct Key {
    issued: IssuedKey,
    revoked: Option<(Duration, usize)>,
    /// The nodes that have refused it.
    refused: [bool; NODES],
    /// Redis was told of its revocation, and has not lost that.
    is_fenced: bool,
}

struct World {
    seed: u64,
    clock: ManualClock,
    store: TroubledStore,
    nodes: Vec<Node>,
    /// For loads that end when they like.
    raw: Arc<RedisFleet<TroubledStore>>,
    late: Vec<(Gate, JoinHandle<()>)>,
    keys: Vec<Key>,
    /// Until when the replica lags.
    lags_until: Option<Duration>,
    admitted: u64,
    refused: u64,
}

impl World {
    fn new(redis: &Redis, seed: u64) -> Self {
        let clock = ManualClock::at(today());
        let store = TroubledStore::new(&clock);
        let fleet = || {
            RedisFleet::connect(redis.url(), store.clone())
                .unwrap()
                .cache_time_limit(Duration::from_secs(10))
                .without_feed()
                .dangerous_on_clock(clock.clone())
        };
        let node = |_| {
            let does = Arc::new(Mutex::new(Feed::Lives));
            let feed = SomeFeed {
                of_store: store.kept.clone(),
                does: Arc::clone(&does),
                clock: clock.clone(),
            };
            let keys = ApiKeys::builder(fleet())
                .feed(feed)
                .clock(clock.clone())
                .cache(Cache::new().max_staleness(MAX_STALENESS))
                .build()
                .unwrap();
            Node {
                worker: Box::pin(keys.worker().into_future()),
                keys,
                feed: does,
            }
        };
        Self {
            seed,
            nodes: (0..NODES).map(node).collect(),
            raw: Arc::new(fleet()),
            clock,
            store,
            late: Vec::new(),
            keys: Vec::new(),
            lags_until: None,
            admitted: 0,
            refused: 0,
        }
    }

    fn now(&self) -> Duration {
        self.clock.monotonic()
    }

    async fn step(&mut self, redis: &Redis, random: &mut Random) {
        if self.lags_until.is_some_and(|until| self.now() >= until) {
            self.store.gets_well();
            self.lags_until = None;
        }
        let node = random.below(NODES);
        let key = random.below(self.keys.len().max(1));
        match random.below(24) {
            0 => self.issue(node).await,
            1..12 if !self.keys.is_empty() => self.ask(key, node).await,
            12..14 if !self.keys.is_empty() => {
                self.revoke(key, node, random.below(2) == 0).await;
            }
            14..17 => {
                let most = [20, 600, 4_000, 11_000][random.below(4)];
                self.clock
                    .advance(Duration::from_millis(random.below(most) as u64));
            }
            17 => *self.nodes[node].feed.lock().unwrap() = Feed::Fails,
            18 => *self.nodes[node].feed.lock().unwrap() = Feed::Hangs,
            19 => *self.nodes[node].feed.lock().unwrap() = Feed::Lives,
            20 if random.below(4) == 0 => {
                redis.command(&["FLUSHALL"]);
                self.keys.iter_mut().for_each(|key| key.is_fenced = false);
            }
            21 if !self.keys.is_empty() && self.lags_until.is_none() => self.load_late(key).await,
            22 if !self.late.is_empty() => {
                let (gate, load) = self.late.swap_remove(random.below(self.late.len()));
                gate.open();
                load.await.unwrap();
                self.look_at_copies().await;
            }
            23 if self.can_lag(key) => {
                // It says what this key is now, whatever it is asked for.
                self.store.says(self.keys[key].issued.record().clone());
                let lag = Duration::from_millis(random.below(3_000) as u64);
                self.lags_until = Some(self.now() + lag);
            }
            _ => self.nodes[node].work(),
        }
    }

    /// The replica does not lag, and the key is not revoked yet.
    fn can_lag(&self, key: usize) -> bool {
        let is_live = |key: &Key| key.revoked.is_none();
        self.lags_until.is_none() && self.keys.get(key).is_some_and(is_live)
    }

    async fn issue(&mut self, node: usize) {
        self.keys.push(Key {
            issued: self.nodes[node].keys.issue("acme").await.unwrap(),
            revoked: None,
            refused: [false; NODES],
            is_fenced: false,
        });
    }

    async fn ask(&mut self, key: usize, node: usize) {
        let key = &mut self.keys[key];
        let verified = self.nodes[node]
            .keys
            .verify(key.issued.expose_secret())
            .await;
        let now = self.clock.monotonic();
        if let Err(refused) = verified {
            self.refused += 1;
            key.refused[node] |= refused.code() == "api_key_revoked";
            return;
        }
        self.admitted += 1;
        let Some((at, by)) = key.revoked else { return };
        let (seed, age) = (self.seed, now.saturating_sub(at));
        assert!(
            node != by,
            "seed {seed}: admitted by the node that has revoked it"
        );
        assert!(
            !key.refused[node],
            "seed {seed}: it came back on node {node}"
        );
        assert!(
            age < MAX_STALENESS + LAG,
            "seed {seed}: admitted {age:?} after its revocation"
        );
    }

    /// On a node, which tells Redis, or past all of them, as if Redis had lost what it was told.
    async fn revoke(&mut self, key: usize, node: usize, is_past: bool) {
        let now = self.now();
        let key = &mut self.keys[key];
        if key.revoked.is_some() {
            return;
        }
        if is_past {
            revoke_in(&self.store.kept, key.issued.id());
            key.revoked = Some((now, NODES));
        } else {
            self.nodes[node].keys.revoke(key.issued.id()).await.unwrap();
            key.revoked = Some((now, node));
            key.is_fenced = true;
        }
    }

    /// A load outside of any node's time limit, which fills Redis when it ends.
    async fn load_late(&mut self, key: usize) {
        if self.late.len() == 4 {
            return;
        }
        let id: KeyId = self.keys[key].issued.id();
        let gate = self.store.hangs();
        self.store.asked();
        let raw = Arc::clone(&self.raw);
        let load = tokio::spawn(async move {
            // As a loader that knows nothing, or finds no copy young enough.
            let _ = raw
                .find_at_least(&id, &Floor::new(0, Duration::from_nanos(1)))
                .await;
        });
        while self.store.asked() == 0 {
            tokio::time::sleep(Duration::from_micros(50)).await;
        }
        self.store.gets_well();
        self.late.push((gate, load));
    }

    /// No copy of a key is from before a revocation that Redis was told of.
    async fn look_at_copies(&self) {
        for key in &self.keys {
            let id = key.issued.id();
            // The replica may lag behind, but then it is not a copy.
            if !key.is_fenced || self.lags_until.is_some() {
                continue;
            }
            let found = self.raw.find_at_least(&id, &Floor::new(0, DAY)).await;
            let record = found.unwrap().unwrap().record;
            assert!(
                record.revoked().is_some(),
                "seed {}: an old copy",
                self.seed
            );
        }
    }

    /// Everything is well again: each node refuses what was revoked, and admits the rest.
    async fn end(&mut self) {
        self.store.gets_well();
        for (gate, load) in self.late.drain(..) {
            gate.open();
            load.await.unwrap();
        }
        for node in &mut self.nodes {
            *node.feed.lock().unwrap() = Feed::Lives;
        }
        self.clock.advance(MAX_STALENESS);
        for key in &self.keys {
            for node in &self.nodes {
                let verified = node.keys.verify(key.issued.expose_secret()).await;
                let seed = self.seed;
                assert_eq!(
                    verified.is_ok(),
                    key.revoked.is_none(),
                    "seed {seed}: {verified:?}"
                );
            }
        }
    }
}

impl Node {
    fn work(&mut self) {
        assert!(is_waiting(&mut self.worker));
    }
}

#[tokio::test]
async fn no_schedule_keeps_a_revoked_key_alive_for_longer_than_max_staleness() {
    let variable = |name: &str| {
        std::env::var(name)
            .ok()
            .map(|it| it.parse::<u64>().unwrap())
    };
    let schedules = variable("STALENESS_SCHEDULES").unwrap_or(60);
    let seeds = match variable("STALENESS_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..schedules,
    };
    let redis = Redis::start();
    let mut sum = HashMap::<&str, u64>::new();
    for seed in seeds {
        redis.command(&["FLUSHALL"]);
        let mut world = World::new(&redis, seed);
        let mut random = Random::new(seed + 1);
        world.issue(0).await;
        for _ in 0..120 {
            world.step(&redis, &mut random).await;
        }
        world.end().await;
        *sum.entry("admitted").or_default() += world.admitted;
        *sum.entry("refused").or_default() += world.refused;
    }
    println!("{sum:?}");
}
