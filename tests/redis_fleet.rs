//! The store of a fleet: copies of records and news of changes in a real Redis.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

#[path = "support/redis.rs"]
mod server;

use std::time::{Duration, Instant};

use server::Redis;
use support::trouble::{Says, TroubledStore};
use support::{DAY, create_in, imported, revoke_in, stranger, today};
use tower_api_key::clock::ManualClock;
use tower_api_key::key::PepperRing;
use tower_api_key::store::{
    Action, Actor, BoxedFeed, Change, ChangeFeed, ChangedKey, Changes, Cursor, Floor, RedisFleet,
    StoreError,
};
use tower_api_key::{
    ApiKeys, Cache, IssuedKey, KeyId, KeyRecord, KeyStore, ManagedKeyStore, MemoryStore,
    conformance,
};

/// The store of a node, which is patient: the machine may be busy.
fn fleet<S>(redis: &Redis, store: S) -> RedisFleet<S> {
    RedisFleet::connect(redis.url(), store)
        .unwrap()
        .cache_time_limit(Duration::from_secs(10))
}

/// A node whose clock, and that of Redis for copies, is one that stands still.
fn node(redis: &Redis, store: &TroubledStore, clock: &ManualClock) -> ApiKeys {
    let store = fleet(redis, store.clone()).dangerous_on_clock(clock.clone());
    ApiKeys::builder(store)
        .clock(clock.clone())
        .cache(Cache::new().max_staleness(Duration::from_secs(10)))
        .build()
        .unwrap()
}

async fn lets_in(keys: &ApiKeys, key: &IssuedKey) -> bool {
    keys.verify(key.expose_secret()).await.is_ok()
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_of_a_fleet_keeps_the_promises_of_a_store_and_of_a_feed() {
    let redis = Redis::start();
    let fleet = fleet(&redis, MemoryStore::new());
    conformance::managed_key_store(&fleet).await;
    let feed = KeyStore::feed(&fleet).unwrap();
    conformance::change_feed(&feed, &fleet).await;
}

#[tokio::test]
async fn a_record_that_one_node_has_loaded_is_read_from_redis_by_the_others() {
    let redis = Redis::start();
    let clock = ManualClock::at(today());
    let store = TroubledStore::new(&clock);
    let nodes = [(); 3].map(|()| node(&redis, &store, &clock));
    let key = nodes[0].issue("acme").await.unwrap();
    store.asked();
    for keys in &nodes {
        assert!(lets_in(keys, &key).await);
    }
    assert_eq!(store.asked(), 1);
    // Also while the store is down.
    store.fails();
    assert!(lets_in(&node(&redis, &store, &clock), &key).await);
    // What does not exist is not kept in Redis.
    store.gets_well();
    for keys in &nodes {
        assert!(keys.verify(&stranger()).await.is_err());
    }
    assert_eq!(store.asked(), 3);
    assert!(
        redis.command(&["DBSIZE"]).starts_with(":2"),
        "a copy, and the stream"
    );
}

#[tokio::test]
async fn the_ages_in_redis_and_in_a_process_add_up() {
    let redis = Redis::start();
    let clock = ManualClock::at(today());
    let store = TroubledStore::new(&clock);
    let [first, second] = [(); 2].map(|()| node(&redis, &store, &clock));
    let key = first.issue("acme").await.unwrap();
    assert!(lets_in(&first, &key).await);
    // Made past the fleet: nobody is told.
    revoke_in(&store.kept, key.id());
    clock.advance(seconds(9));
    assert!(lets_in(&second, &key).await, "a copy that is 9 s old");
    clock.advance(Duration::from_millis(900));
    assert!(lets_in(&second, &key).await);
    clock.advance(Duration::from_millis(100));
    assert!(!lets_in(&second, &key).await && !lets_in(&first, &key).await);
}

/// A load that took 4 s brings a record that is 4 s old.
#[tokio::test]
async fn a_copy_is_as_old_as_the_miss_after_which_it_was_loaded() {
    let redis = Redis::start();
    let clock = ManualClock::at(today());
    let store = TroubledStore::new(&clock);
    let slow = fleet(&redis, store.clone()).dangerous_on_clock(clock.clone());
    let fast = fleet(&redis, store.clone()).dangerous_on_clock(clock.clone());
    let record = imported(&stranger());
    create_in(&store.kept, record.clone());
    let floor = Floor::new(0, seconds(60));
    for (took, is_kept) in [(4, true), (5, true), (6, false)] {
        redis.command(&["FLUSHALL"]);
        let gate = store.hangs();
        let id = record.id();
        let load = async {
            let found = slow.find_at_least(&id, &floor).await;
            found.unwrap().unwrap()
        };
        let pass = async {
            while store.asked() == 0 {
                tokio::task::yield_now().await;
            }
            clock.advance(seconds(took));
            gate.open();
        };
        tokio::join!(load, pass);
        store.gets_well();
        store.asked();
        let copy = fast.find_at_least(&id, &floor).await.unwrap().unwrap();
        assert_eq!(store.asked() == 0, is_kept, "{took}");
        let age = if is_kept {
            seconds(took)
        } else {
            Duration::ZERO
        };
        assert!(
            copy.age >= age && copy.age < age + seconds(1),
            "{:?}",
            copy.age
        );
        assert_eq!(copy.record, record);
    }
}

#[tokio::test]
async fn a_change_fences_off_older_copies_before_it_returns() {
    let redis = Redis::start();
    let clock = ManualClock::at(today());
    let store = TroubledStore::new(&clock);
    let [first, second] = [(); 2].map(|()| node(&redis, &store, &clock));
    let key = first.issue("acme").await.unwrap();
    assert!(lets_in(&first, &key).await);
    first.revoke(key.id()).await.unwrap();
    assert!(!lets_in(&second, &key).await, "the copy is fenced off");
    // A deleted key, too.
    let record = imported(&stranger());
    create_in(&store.kept, record.clone());
    let (id, floor) = (record.id(), Floor::new(0, DAY));
    let third = fleet(&redis, store.clone());
    let found = third.find_at_least(&id, &floor).await.unwrap();
    assert!(found.is_some() && third.find_at_least(&id, &floor).await.unwrap().is_some());
    let change = Change::new(Actor::default(), today());
    let change = change.delete(Action::PURGED, &record).unwrap();
    third.commit(&change).await.unwrap();
    assert!(third.find_at_least(&id, &floor).await.unwrap().is_none());
}

/// A load that began before a revocation brings an old record, whenever it ends.
#[tokio::test]
async fn a_late_load_does_not_bring_a_revoked_key_back() {
    for late in [0, 3, 6, 599, 601, 4_000] {
        let redis = Redis::start();
        let clock = ManualClock::at(today());
        let store = TroubledStore::new(&clock);
        let [slow, other] =
            [(); 2].map(|()| fleet(&redis, store.clone()).dangerous_on_clock(clock.clone()));
        let manager = node(&redis, &store, &clock);
        let key = manager.issue("acme").await.unwrap();
        let floor = Floor::new(0, DAY);
        let gate = store.hangs();
        let id = key.id();
        let load = async { slow.find_at_least(&id, &floor).await.unwrap() };
        let change = async {
            while store.asked() == 0 {
                tokio::task::yield_now().await;
            }
            store.gets_well();
            manager.revoke(id).await.unwrap();
            clock.advance(seconds(late));
            // As it would be with the time of Redis.
            if late >= 600 {
                redis.command(&["FLUSHALL"]);
            }
            gate.open();
        };
        let (loaded, ()) = tokio::join!(load, change);
        assert!(
            loaded.unwrap().record.revoked().is_none(),
            "it was loaded before"
        );
        let found = other.find_at_least(&id, &floor).await.unwrap().unwrap();
        assert!(found.record.revoked().is_some(), "{late}");
    }
}

/// A replica that lags behind is loaded from, and its record not kept.
#[tokio::test]
async fn a_lagging_replica_does_not_bring_a_revoked_key_back() {
    let redis = Redis::start();
    let clock = ManualClock::at(today());
    let store = TroubledStore::new(&clock);
    let [first, second] = [(); 2].map(|()| node(&redis, &store, &clock));
    let key = first.issue("acme").await.unwrap();
    first.revoke(key.id()).await.unwrap();
    store.says(key.record().clone());
    let replica = fleet(&redis, store.clone()).dangerous_on_clock(clock.clone());
    let floor = Floor::new(0, DAY);
    replica.find_at_least(&key.id(), &floor).await.unwrap();
    store.gets_well();
    assert!(!lets_in(&second, &key).await);
    // A node that knows the version reads no older copy, whatever is in Redis.
    let known = Floor::new(2, DAY);
    redis.command(&["FLUSHALL"]);
    store.says(key.record().clone());
    replica.find_at_least(&key.id(), &floor).await.unwrap();
    store.gets_well();
    let found = replica
        .find_at_least(&key.id(), &known)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(found.record.version(), 2);
}

#[tokio::test]
async fn a_refill_does_not_shorten_the_life_of_a_fence() {
    let redis = Redis::start();
    let clock = ManualClock::at(today());
    let store = TroubledStore::new(&clock);
    let keys = node(&redis, &store, &clock);
    let key = keys.issue("acme").await.unwrap();
    keys.suspend(key.id()).await.unwrap();
    let name = format!("tak:c1:{}", key.id());
    let life = || {
        let reply = redis.command(&["PTTL", &name]);
        reply.trim().trim_start_matches(':').parse::<i64>().unwrap()
    };
    assert!(life() > 590_000);
    assert!(keys.verify(key.expose_secret()).await.is_err());
    let length = redis.command(&["STRLEN", &name]);
    let length: u64 = length.trim().trim_start_matches(':').parse().unwrap();
    assert!(length > 100, "it is filled");
    assert!(life() > 590_000);
}

#[tokio::test]
async fn planted_copies_are_not_read_under_a_seal() {
    let redis = Redis::start();
    let clock = ManualClock::at(today());
    let store = TroubledStore::new(&clock);
    let ring = || PepperRing::new("2026", &[7; 32]).unwrap();
    let attacker = fleet(&redis, store.clone());
    let sealed = fleet(&redis, store.clone()).seal(ring());
    let floor = Floor::new(0, DAY);
    let record = imported(&stranger());
    create_in(&store.kept, record.clone());
    // What the attacker's node loads is another record, and it fills in that one.
    let forged: KeyRecord = record.clone().with_plan("unlimited".to_owned());
    store.gets(
        Says::This(Box::new(Some(forged.clone()))),
        support::trouble::Delay::None,
    );
    attacker.find_at_least(&record.id(), &floor).await.unwrap();
    store.gets_well();
    let read = attacker.find_at_least(&record.id(), &floor).await.unwrap();
    assert_eq!(read.unwrap().record, forged, "without a seal");
    let read = sealed.find_at_least(&record.id(), &floor).await.unwrap();
    assert_eq!(read.unwrap().record, record);
    // The copy with a seal has taken its place.
    store.fails();
    let read = sealed.find_at_least(&record.id(), &floor).await.unwrap();
    assert_eq!(read.unwrap().record, record);
}

/// The store is asked at once, changes are made, and the fleet is told of them later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_all_goes_on_and_changes_are_told_later() {
    let mut redis = Redis::start();
    let store = MemoryStore::new();
    let first = ApiKeys::builder(RedisFleet::connect(redis.url(), store.clone()).unwrap());
    let first = first.build().unwrap();
    let watcher = RedisFleet::connect(redis.url(), store.clone()).unwrap();
    let feed = KeyStore::feed(&watcher).unwrap();
    let key = first.issue("acme").await.unwrap();
    redis.kill();
    let begun = Instant::now();
    for _ in 0..20 {
        let other = first.issue("acme").await.unwrap();
        assert!(lets_in(&first, &other).await);
    }
    first.revoke(key.id()).await.unwrap();
    assert!(!lets_in(&first, &key).await);
    assert!(begun.elapsed() < seconds(20), "{:?}", begun.elapsed());
    redis.restart();
    let begun = Instant::now();
    let mut heard = Vec::new();
    let mut cursor: Option<Cursor> = None;
    while !heard.contains(&key.id()) {
        assert!(begun.elapsed() < seconds(30), "nobody is told");
        let Ok(changes) = feed.changes_since(cursor.as_ref(), seconds(0)).await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        // All from the first entry on: the stream began anew.
        heard.extend(changes.keys.iter().map(|key| key.id));
        if cursor.is_none() {
            let text = changes.next.as_str();
            let (stream, _) = text.rsplit_once('-').unwrap();
            cursor = Some(Cursor::new(format!("{stream}-0")));
        } else {
            cursor = Some(changes.next);
        }
    }
    // The copy is fenced off, too.
    let name = format!("tak:c1:{}", key.id());
    assert!(redis.command(&["EXISTS", &name]).starts_with(":1"));
}

/// A commit that has begun is told, also if its caller is gone.
#[tokio::test]
async fn a_change_whose_caller_is_gone_is_told() {
    let redis = Redis::start();
    let store = MemoryStore::new();
    let fleet = std::sync::Arc::new(fleet(&redis, store.clone()));
    let feed = KeyStore::feed(&fleet).unwrap();
    let first = feed.changes_since(None, seconds(0)).await.unwrap();
    let keys = ApiKeys::builder(fleet).build().unwrap();
    let key = keys.issue("acme").await.unwrap();
    let mut revoking = Box::pin(keys.revoke(key.id()).into_future());
    // Until the store has it.
    while store
        .find(&key.id())
        .await
        .unwrap()
        .unwrap()
        .revoked()
        .is_none()
    {
        let _ = futures_util::poll!(&mut revoking);
        tokio::task::yield_now().await;
    }
    drop(revoking);
    let mut versions = Vec::new();
    let mut cursor = first.next;
    let begun = Instant::now();
    while !versions.contains(&ChangedKey::new(key.id(), 2)) {
        assert!(begun.elapsed() < seconds(30), "nobody is told");
        let changes = feed.changes_since(Some(&cursor), seconds(1)).await.unwrap();
        assert!(!changes.gap);
        versions.extend(changes.keys);
        cursor = changes.next;
    }
}

/// A reader of the stream.
struct Reader {
    feed: BoxedFeed,
    cursor: Cursor,
}

impl Reader {
    async fn new(redis: &Redis) -> Self {
        let fleet = fleet(redis, MemoryStore::new()).without_cache();
        let feed = KeyStore::feed(&fleet).unwrap();
        let begin = feed.changes_since(None, seconds(0)).await.unwrap();
        Self {
            feed,
            cursor: begin.next,
        }
    }

    async fn read(&mut self) -> Changes {
        let changes = self.feed.changes_since(Some(&self.cursor), seconds(0));
        let changes = changes.await.unwrap();
        self.cursor = changes.next.clone();
        changes
    }
}

#[tokio::test]
async fn each_loss_of_the_stream_is_a_gap() {
    let mut redis = Redis::start();
    let store = MemoryStore::new();
    let writer = fleet(&redis, store.clone()).without_cache();
    let key = |number: u8| ChangedKey::new(KeyId::from_bytes([number; 16]), u64::from(number));
    let mut reader = Reader::new(&redis).await;
    for number in 1..5 {
        writer.announce(&[key(number)]).await;
        let changes = reader.read().await;
        assert!(!changes.gap);
        assert_eq!(changes.keys, [key(number)]);
    }
    // Many keys at once.
    let many: Vec<ChangedKey> = (0..250).map(key).collect();
    writer.announce(&many).await;
    let mut read = reader.read().await.keys;
    read.sort_by_key(|key| key.version);
    assert!(read == many);

    // The entries are trimmed, deleted, or in a form that is not known.
    writer.announce(&[key(1)]).await;
    writer.announce(&[key(2)]).await;
    redis.command(&["XTRIM", "tak:f1", "MAXLEN", "1"]);
    assert!(reader.read().await.gap);
    writer.announce(&[key(3)]).await;
    assert_eq!(reader.read().await.keys, [key(3)]);
    for loss in [
        &["DEL", "tak:f1"][..],
        &["FLUSHALL"],
        &["XTRIM", "tak:f1", "MAXLEN", "0"],
    ] {
        redis.command(loss);
        writer.announce(&[key(4)]).await;
        assert!(reader.read().await.gap, "{loss:?}");
        writer.announce(&[key(5)]).await;
        assert_eq!(reader.read().await.keys, [key(5)], "{loss:?}");
    }
    // Nothing was written since.
    redis.command(&["DEL", "tak:f1"]);
    assert!(reader.read().await.gap);
    let last = redis.command(&["XREVRANGE", "tak:f1", "+", "-", "COUNT", "1"]);
    let id = last.lines().find(|line| line.contains('-')).unwrap();
    let (era, number) = id.trim().split_once('-').unwrap();
    let next = format!("{era}-{}", number.parse::<u64>().unwrap() + 1);
    for fields in [["c", "k???"], ["c", "g"], ["d", ""]] {
        let before = reader.cursor.clone();
        redis.command(&["XADD", "tak:f1", &next, fields[0], fields[1]]);
        assert!(reader.read().await.gap, "{fields:?}");
        redis.command(&["XDEL", "tak:f1", &next]);
        redis.command(&["DEL", "tak:f1"]);
        redis.command(&["XADD", "tak:f1", id.trim(), "c", ""]);
        reader.cursor = before;
    }
    // Another process has the name.
    let foreign = Cursor::new("f1-7");
    let changes = reader.feed.changes_since(Some(&foreign), seconds(0)).await;
    assert!(changes.unwrap().gap);

    // A server that starts again is another one.
    redis.kill();
    redis.restart();
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < seconds(30));
        let cursor = reader.cursor.clone();
        if let Ok(changes) = reader.feed.changes_since(Some(&cursor), seconds(0)).await {
            assert!(changes.gap);
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Its entries may be numbered like others that a failover has lost.
#[tokio::test]
async fn a_server_that_was_demoted_is_not_believed() {
    let redis = Redis::start();
    let other = Redis::start();
    let store = MemoryStore::new();
    let writer = fleet(&redis, store.clone()).without_cache();
    let mut reader = Reader::new(&redis).await;
    writer.announce(&[]).await;
    let port = other.port().to_string();
    redis.command(&["REPLICAOF", "127.0.0.1", &port]);
    let cursor = reader.cursor.clone();
    let demoted = reader.feed.changes_since(Some(&cursor), seconds(0)).await;
    assert!(demoted.is_err(), "{demoted:?}");
    let demoted = reader.feed.changes_since(Some(&cursor), seconds(0)).await;
    assert!(demoted.is_err(), "{demoted:?}");
    // Promoted again, with the data of the other one.
    redis.command(&["REPLICAOF", "NO", "ONE"]);
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < seconds(30));
        if let Ok(changes) = reader.feed.changes_since(Some(&cursor), seconds(0)).await {
            assert!(changes.gap);
            reader.cursor = changes.next;
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!reader.read().await.gap);
}

/// All nodes together write about one sign of life a second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_writes_few_signs_of_life() {
    let redis = Redis::start();
    let mut readers = Vec::new();
    for _ in 0..8 {
        readers.push(Reader::new(&redis).await);
    }
    let begun = Instant::now();
    let reading = readers.into_iter().map(|mut reader| {
        tokio::spawn(async move {
            while begun.elapsed() < seconds(4) {
                let cursor = reader.cursor.clone();
                let changes = reader.feed.changes_since(Some(&cursor), seconds(1) / 2);
                let changes = changes.await.unwrap();
                assert!(!changes.gap && changes.keys.is_empty());
                reader.cursor = changes.next;
            }
        })
    });
    for reading in reading.collect::<Vec<_>>() {
        reading.await.unwrap();
    }
    let entries = redis.command(&["XLEN", "tak:f1"]);
    let entries: u32 = entries.trim().trim_start_matches(':').parse().unwrap();
    assert!((2..=20).contains(&entries), "{entries} in 4 s");
}

/// The worker of every node follows the stream.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_reaches_all_nodes() {
    let redis = Redis::start();
    let store = MemoryStore::new();
    let nodes: Vec<ApiKeys> = (0..3)
        .map(|_| {
            let cache = Cache::new().max_staleness(DAY);
            let fleet = fleet(&redis, store.clone());
            ApiKeys::builder(fleet).cache(cache).build().unwrap()
        })
        .collect();
    let workers: Vec<_> = nodes
        .iter()
        .map(|keys| tokio::spawn(keys.worker().into_future()))
        .collect();
    let key = nodes[0].issue("acme").await.unwrap();
    // Until all of them follow: the first answer empties the cache.
    tokio::time::sleep(Duration::from_millis(300)).await;
    for revoked in 0..20 {
        let key = nodes[revoked % 3].issue("acme").await.unwrap();
        for keys in &nodes {
            assert!(lets_in(keys, &key).await);
        }
        nodes[revoked % 3].revoke(key.id()).await.unwrap();
        let begun = Instant::now();
        for keys in &nodes {
            while lets_in(keys, &key).await {
                assert!(begun.elapsed() < seconds(10), "it does not arrive");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }
    assert!(lets_in(&nodes[1], &key).await);
    for worker in workers {
        worker.abort();
    }
}

/// A store with a feed of its own: a change past the fleet is told by it.
#[tokio::test]
async fn the_feed_of_the_store_is_followed_as_well() {
    let redis = Redis::start();
    let store = WithFeed(MemoryStore::new());
    let reading = fleet(&redis, store.clone());
    let feed = KeyStore::feed(&reading).unwrap();
    let begin = feed.changes_since(None, seconds(0)).await.unwrap();
    let mut cursor = begin.next;
    let record = imported(&stranger());
    create_in(&store.0, record.clone());
    let past = feed.changes_since(Some(&cursor), seconds(1)).await.unwrap();
    assert_eq!(past.keys, [ChangedKey::new(record.id(), 1)]);
    cursor = past.next;
    // One that is announced, and is not in the store: only the stream tells of it.
    let told = ChangedKey::new(KeyId::from_bytes([9; 16]), 9);
    let waiting = feed.changes_since(Some(&cursor), seconds(5));
    let announcing = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        reading.announce(&[told]).await;
    };
    let (changes, ()) = tokio::join!(waiting, announcing);
    let changes = changes.unwrap();
    assert_eq!((changes.keys, changes.next), (vec![told], cursor.clone()));
    // Both go on.
    create_in(&store.0, imported(&stranger()));
    reading.announce(&[told]).await;
    let mut heard = Vec::new();
    while heard.len() < 2 {
        let changes = feed.changes_since(Some(&cursor), seconds(1)).await.unwrap();
        heard.extend(changes.keys);
        cursor = changes.next;
    }
    assert!(heard.contains(&told));
    drop(redis);
    create_in(&store.0, imported(&stranger()));
    let past = feed.changes_since(Some(&cursor), seconds(1)).await.unwrap();
    assert_eq!(past.keys.len(), 1, "without Redis");
}

/// A store whose feed is found.
#[derive(Clone)]
struct WithFeed(MemoryStore);

impl KeyStore for WithFeed {
    async fn find(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.0.find(id).await
    }

    fn feed(&self) -> Option<BoxedFeed> {
        Some(BoxedFeed::new(self.0.clone()))
    }
}

/// A commit that failed, and was not carried out, leaves the key as it was, on all nodes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_uncertain_change_makes_no_key_refused_for_a_version_that_never_comes() {
    let redis = Redis::start();
    let store = Uncertain::default();
    let nodes: Vec<ApiKeys> = (0..2)
        .map(|_| {
            let cache = Cache::new().max_staleness(DAY);
            let keys = ApiKeys::builder(fleet(&redis, store.clone())).cache(cache);
            keys.build().unwrap()
        })
        .collect();
    let workers: Vec<_> = nodes
        .iter()
        .map(|keys| tokio::spawn(keys.worker().into_future()))
        .collect();
    let key = nodes[0].issue("acme").await.unwrap();
    for outcome in [Outcome::NotWritten, Outcome::Panics] {
        store.will(outcome);
        assert!(nodes[0].suspend(key.id()).await.is_err());
        tokio::time::sleep(Duration::from_millis(300)).await;
        for keys in &nodes {
            assert!(lets_in(keys, &key).await, "it is as before");
        }
    }
    // The answer is lost, but the change is made: the others know of it.
    for outcome in [Outcome::Written, Outcome::PanicsThen] {
        store.will(outcome);
        let _ = nodes[0].suspend(key.id()).await;
        let begun = Instant::now();
        while lets_in(&nodes[1], &key).await {
            assert!(begun.elapsed() < seconds(10), "it does not arrive");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        store.will(Outcome::Known);
        nodes[1].resume(key.id()).await.unwrap();
    }
    for worker in workers {
        worker.abort();
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Outcome {
    #[default]
    Known,
    /// The answer is lost: the change was made, or not.
    Written,
    NotWritten,
    Panics,
    PanicsThen,
}

/// A store whose commits end as they are told to.
#[derive(Clone, Default)]
struct Uncertain {
    kept: MemoryStore,
    next: std::sync::Arc<std::sync::Mutex<Outcome>>,
}

impl Uncertain {
    fn will(&self, outcome: Outcome) {
        *self.next.lock().unwrap() = outcome;
    }
}

impl KeyStore for Uncertain {
    async fn find(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.kept.find(id).await
    }
}

impl ManagedKeyStore for Uncertain {
    async fn find_committed(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.kept.find(id).await
    }

    async fn commit(&self, change: &Change) -> Result<(), StoreError> {
        let next = *self.next.lock().unwrap();
        let lost = || Err(StoreError::unavailable("the answer is lost"));
        match next {
            Outcome::Known => self.kept.commit(change).await,
            Outcome::NotWritten => lost(),
            Outcome::Panics => panic!("it panics, as it was told to"),
            Outcome::Written => {
                self.kept.commit(change).await?;
                lost()
            }
            Outcome::PanicsThen => {
                self.kept.commit(change).await?;
                panic!("it panics, as it was told to");
            }
        }
    }
}

/// A table without versions: every record is version 1.
#[tokio::test]
async fn a_change_without_a_version_is_told_as_0() {
    let redis = Redis::start();
    let clock = ManualClock::at(today());
    let store = TroubledStore::new(&clock);
    let [here, there] =
        [(); 2].map(|()| fleet(&redis, store.clone()).dangerous_on_clock(clock.clone()));
    let floor = Floor::new(0, DAY);
    let record = imported(&stranger());
    let changed = record.clone().with_plan("pro".to_owned());
    let id = record.id();
    let says = |record: &KeyRecord| store.says(record.clone());
    says(&record);
    assert_eq!(
        here.find_at_least(&id, &floor)
            .await
            .unwrap()
            .unwrap()
            .record,
        record
    );
    // A load that is late, from before the change.
    let says_late = support::trouble::Gate::default();
    let late = support::trouble::Delay::Until(says_late.clone());
    store.gets(Says::This(Box::new(Some(record.clone()))), late);
    store.asked();
    let no_copy = Floor::new(0, Duration::from_nanos(1));
    let loading = there.find_at_least(&id, &no_copy);
    let changing = async {
        while store.asked() == 0 {
            tokio::task::yield_now().await;
        }
        clock.advance(seconds(1));
        says(&changed);
        here.announce(&[ChangedKey::new(id, 0)]).await;
        let found = here.find_at_least(&id, &floor).await.unwrap().unwrap();
        assert_eq!(found.record, changed, "the copy is fenced off");
        clock.advance(seconds(1));
        says_late.open();
    };
    let (_, ()) = tokio::join!(loading, changing);
    store.fails();
    // The fence, or the newer copy, has refused the late one.
    let found = there.find_at_least(&id, &floor).await;
    assert!(found.is_err() || found.unwrap().unwrap().record == changed);
    // A deletion that is told with the last version of the key.
    store.gets_well();
    says(&changed);
    clock.advance(seconds(1));
    here.find_at_least(&id, &floor).await.unwrap();
    here.announce(&[ChangedKey::new(id, 1).deleted(true)]).await;
    store.says(None);
    assert!(there.find_at_least(&id, &floor).await.unwrap().is_none());
}

/// Whose health would say that all is well while no news can pass.
#[tokio::test]
async fn a_feed_whose_redis_refuses_writes_is_an_error() {
    let redis = Redis::start();
    let mut reader = Reader::new(&redis).await;
    reader.read().await;
    redis.command(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    let begun = Instant::now();
    let mut errors = 0;
    while errors < 5 {
        assert!(begun.elapsed() < seconds(30), "{errors} errors");
        let cursor = reader.cursor.clone();
        let read = reader
            .feed
            .changes_since(Some(&cursor), seconds(1) / 2)
            .await;
        errors = if read.is_err() { errors + 1 } else { 0 };
        if let Err(error) = read {
            let source = std::error::Error::source(&error).unwrap();
            assert!(
                source.source().unwrap().to_string().contains("Redis"),
                "{source}"
            );
        }
    }
    redis.command(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < seconds(30));
        let cursor = reader.cursor.clone();
        if let Ok(changes) = reader.feed.changes_since(Some(&cursor), seconds(0)).await {
            assert!(!changes.gap);
            break;
        }
    }
}

#[tokio::test]
async fn a_stream_whose_last_entries_were_deleted_begins_anew() {
    let redis = Redis::start();
    let writer = fleet(&redis, MemoryStore::new()).without_cache();
    let mut reader = Reader::new(&redis).await;
    let key = ChangedKey::new(KeyId::from_bytes([1; 16]), 2);
    writer.announce(&[key]).await;
    assert_eq!(reader.read().await.keys, [key]);
    writer.announce(&[key]).await;
    let last = redis.command(&["XREVRANGE", "tak:f1", "+", "-", "COUNT", "1"]);
    let id = last.lines().find(|line| line.contains('-')).unwrap();
    redis.command(&["XDEL", "tak:f1", id.trim()]);
    writer.announce(&[key]).await;
    assert!(reader.read().await.gap);
    writer.announce(&[key]).await;
    assert_eq!(reader.read().await.keys, [key]);
}

#[tokio::test]
async fn the_fleet_works_over_resp3() {
    let redis = Redis::start();
    let store = MemoryStore::new();
    let url = format!("{}?protocol=resp3", redis.url());
    let resp3 = || {
        let fleet = RedisFleet::connect(url.as_str(), store.clone()).unwrap();
        fleet.cache_time_limit(seconds(10))
    };
    let here = resp3();
    conformance::managed_key_store(&here).await;
    conformance::change_feed(&KeyStore::feed(&here).unwrap(), &here).await;
    let record = imported(&stranger());
    create_in(&store, record.clone());
    let floor = Floor::new(0, DAY);
    here.find_at_least(&record.id(), &floor).await.unwrap();
    let copy = resp3()
        .find_at_least(&record.id(), &floor)
        .await
        .unwrap()
        .unwrap();
    assert!(copy.age > Duration::ZERO, "it is a copy");
}
