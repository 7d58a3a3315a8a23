//! The store of a fleet on a Redis Cluster: copies in many slots, and a stream that moves.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/redis_cluster.rs"]
mod cluster;
#[path = "support/redis.rs"]
mod server;

use std::time::{Duration, Instant};

use cluster::RedisCluster;
use tower_api_key::store::RedisFleet;
use tower_api_key::{ApiKeys, Cache, IssuedKey, KeyStore, MemoryStore, conformance};

const SECOND: Duration = Duration::from_secs(1);

fn fleet(cluster: &RedisCluster, store: &MemoryStore) -> RedisFleet<MemoryStore> {
    RedisFleet::connect_cluster(cluster.urls(), store.clone())
        .unwrap()
        .cache_time_limit(10 * SECOND)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_of_a_fleet_keeps_its_promises_on_a_cluster() {
    let cluster = RedisCluster::start();
    let fleet = fleet(&cluster, &MemoryStore::new());
    conformance::managed_key_store(&fleet).await;
    let feed = KeyStore::feed(&fleet).unwrap();
    conformance::change_feed(&feed, &fleet).await;
    // Fences are on all masters.
    for node in &cluster.nodes {
        assert!(node.tell(&["DBSIZE"]).parse::<u64>().unwrap() > 0);
    }
}

/// First the master of the stream hands over to its replica, then it is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revocations_arrive_again_after_a_failover_of_the_stream() {
    let mut cluster = RedisCluster::start_with_timeout(SECOND);
    let master = RedisCluster::master_of("tak:f1");
    cluster.add_replica(master, SECOND);
    let store = MemoryStore::new();
    let nodes: Vec<ApiKeys> = (0..2)
        .map(|_| {
            let cache = Cache::new().max_staleness(3_600 * SECOND);
            let keys = ApiKeys::builder(fleet(&cluster, &store)).cache(cache);
            keys.build().unwrap()
        })
        .collect();
    let workers: Vec<_> = nodes
        .iter()
        .map(|keys| tokio::spawn(keys.worker().into_future()))
        .collect();
    arrives(&nodes).await;
    cluster.nodes[3].run::<()>(&["CLUSTER", "FAILOVER", "TAKEOVER"]);
    let begun = Instant::now();
    arrives(&nodes).await;
    println!(
        "after a failover, a revocation arrives in {:?}",
        begun.elapsed()
    );
    let demoted = &cluster.nodes[master];
    demoted.wait_until(|it| it.tell(&["INFO", "replication"]).contains("link_status:up"));
    cluster.nodes[3].kill();
    let begun = Instant::now();
    arrives(&nodes).await;
    println!(
        "after a kill, a revocation arrives in {:?}",
        begun.elapsed()
    );
    for worker in workers {
        worker.abort();
    }
}

/// A key that is revoked on one node is refused by the other one, which has cached it.
async fn arrives(nodes: &[ApiKeys]) {
    let key = nodes[0].issue("acme").await.unwrap();
    assert!(lets_in(&nodes[1], &key).await);
    nodes[0].revoke(key.id()).await.unwrap();
    let begun = Instant::now();
    while lets_in(&nodes[1], &key).await {
        assert!(begun.elapsed() < 60 * SECOND, "it does not arrive");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn lets_in(keys: &ApiKeys, key: &IssuedKey) -> bool {
    keys.verify(key.expose_secret()).await.is_ok()
}
