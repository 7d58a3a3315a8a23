//! A feed of changes: what other processes change is known at once, and nothing depends on it.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::VecDeque;
use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use support::trouble::TroubledStore;
use support::{DAY, create_in, imported, is_waiting, revoke_in, stranger, today};
use tower_api_key::clock::ManualClock;
use tower_api_key::manage::{Worker, WorkerHealth};
use tower_api_key::store::{ChangeFeed, ChangedKey, Changes, Cursor, FeedError};
use tower_api_key::{ApiKeys, Cache, IssuedKey, KeyId, ManagedKeyStore, MemoryStore};

/// One process of several, with its worker. What is cached would serve for a day.
struct Node {
    keys: ApiKeys,
    worker: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Node {
    fn new(store: impl ManagedKeyStore, feed: impl ChangeFeed, clock: &ManualClock) -> Self {
        let keys = ApiKeys::builder(store)
            .feed(feed)
            .cache(Cache::new().max_staleness(DAY).dangerous_serve_stale(DAY))
            .clock(clock.clone())
            .build()
            .unwrap();
        let worker: Worker = keys.worker();
        let mut node = Self {
            keys,
            worker: Box::pin(worker.into_future()),
        };
        node.work();
        node
    }

    fn work(&mut self) {
        assert!(is_waiting(&mut self.worker));
    }

    async fn lets_in(&self, key: &IssuedKey) -> bool {
        self.keys.verify(key.expose_secret()).await.is_ok()
    }

    fn feed(&self) -> WorkerHealth {
        self.keys.health().feed.unwrap()
    }
}

#[tokio::test]
async fn a_revocation_elsewhere_applies_after_the_next_poll_of_the_feed() {
    let clock = ManualClock::at(today());
    let store = MemoryStore::new();
    let mut here = Node::new(store.clone(), store.clone(), &clock);
    let elsewhere = Node::new(store.clone(), store.clone(), &clock);
    let key = elsewhere.keys.issue("acme").await.unwrap();
    let other = elsewhere.keys.issue("globex").await.unwrap();
    assert!(here.lets_in(&key).await && here.lets_in(&other).await);
    elsewhere.keys.revoke(key.id()).await.unwrap();
    assert!(here.lets_in(&key).await, "without the feed it is not known");
    clock.advance(Duration::from_millis(500));
    here.work();
    assert!(!here.lets_in(&key).await);
    assert!(here.lets_in(&other).await);
}

/// The first call of the feed only tells the place from which on changes are told.
#[tokio::test]
async fn a_revocation_after_the_start_applies_at_once() {
    let clock = ManualClock::at(today());
    let store = MemoryStore::new();
    let mut here = Node::new(store.clone(), store.clone(), &clock);
    let elsewhere = Node::new(store.clone(), store.clone(), &clock);
    let key = elsewhere.keys.issue("acme").await.unwrap();
    assert!(here.lets_in(&key).await);
    elsewhere.keys.revoke(key.id()).await.unwrap();
    clock.advance(Duration::from_millis(10));
    here.work();
    assert!(!here.lets_in(&key).await);
}

/// A key that was not found is forgotten, too.
#[tokio::test]
async fn a_key_issued_elsewhere_is_accepted_after_the_next_poll_of_the_feed() {
    let clock = ManualClock::at(today());
    let store = MemoryStore::new();
    let keys = ApiKeys::builder(store.clone())
        .feed(store.clone())
        .cache(Cache::new().negative_ttl(DAY))
        .clock(clock.clone())
        .build()
        .unwrap();
    let mut worker = Box::pin(keys.worker().into_future());
    assert!(is_waiting(&mut worker));
    let key = stranger();
    assert!(keys.verify(&key).await.is_err());
    create_in(&store, imported(&key));
    assert!(keys.verify(&key).await.is_err());
    clock.advance(Duration::from_millis(500));
    assert!(is_waiting(&mut worker));
    assert!(keys.verify(&key).await.is_ok());
}

#[tokio::test]
async fn an_outdated_record_from_a_lagging_replica_is_not_accepted() {
    let clock = ManualClock::at(today());
    let store = TroubledStore::new(&clock);
    let mut here = Node::new(store.clone(), store.kept.clone(), &clock);
    let key = here.keys.issue("acme").await.unwrap();
    assert!(here.lets_in(&key).await);
    store.says(key.record().clone()); // a replica that lags behind
    revoke_in(&store.kept, key.id());
    clock.advance(Duration::from_millis(500));
    here.work();
    // It is not known what the key may do now, and it is known that it was changed.
    let refused = here.keys.verify(key.expose_secret()).await.unwrap_err();
    assert_eq!(refused.code(), "service_unavailable");
    store.gets_well();
    let refused = here.keys.verify(key.expose_secret()).await.unwrap_err();
    assert_eq!(refused.code(), "api_key_revoked");
}

/// The feed reports them like any others.
#[tokio::test]
async fn changes_by_this_process_do_not_cause_a_reload() {
    let clock = ManualClock::at(today());
    let store = TroubledStore::new(&clock);
    let mut here = Node::new(store.clone(), store.kept.clone(), &clock);
    let key = here.keys.issue("acme").await.unwrap();
    here.keys.suspend(key.id()).await.unwrap();
    here.keys.resume(key.id()).await.unwrap();
    assert!(here.lets_in(&key).await);
    store.asked();
    for _ in 0..4 {
        clock.advance(Duration::from_millis(500));
        here.work();
        assert!(here.lets_in(&key).await);
    }
    assert_eq!(store.asked(), 0);
}

/// A feed that answers as it is told to.
#[derive(Clone, Default)]
struct Scripted(Arc<Mutex<Script>>);

#[derive(Default)]
struct Script {
    answers: VecDeque<Answer>,
    asked: Vec<Option<String>>,
}

enum Answer {
    Tells(Changes),
    Fails,
    Hangs,
}

impl Scripted {
    fn will(&self, answer: Answer) {
        self.0.lock().unwrap().answers.push_back(answer);
    }

    /// The cursors of the calls since the last look.
    fn asked(&self) -> Vec<Option<String>> {
        std::mem::take(&mut self.0.lock().unwrap().asked)
    }
}

impl ChangeFeed for Scripted {
    async fn changes_since(
        &self,
        after: Option<&Cursor>,
        _: Duration,
    ) -> Result<Changes, FeedError> {
        let answer = {
            let mut script = self.0.lock().unwrap();
            script
                .asked
                .push(after.map(|cursor| cursor.as_str().to_owned()));
            script.answers.pop_front()
        };
        match answer {
            Some(Answer::Tells(changes)) => Ok(changes),
            Some(Answer::Fails) => Err(FeedError::new("connection reset")),
            Some(Answer::Hangs) => pending().await,
            None => Ok(Changes::new(
                Vec::new(),
                after.cloned().unwrap_or_else(|| Cursor::new("0")),
            )),
        }
    }
}

fn told(keys: &[(KeyId, u64)], next: &str) -> Answer {
    let keys = keys
        .iter()
        .map(|(id, version)| ChangedKey::new(*id, *version));
    Answer::Tells(Changes::new(keys.collect(), Cursor::new(next)))
}

/// A key of a node, which another process then revokes.
async fn revoked_elsewhere(store: &MemoryStore, here: &Node) -> IssuedKey {
    let key = here.keys.issue("acme").await.unwrap();
    assert!(here.lets_in(&key).await);
    revoke_in(store, key.id());
    assert!(here.lets_in(&key).await);
    key
}

#[tokio::test]
async fn a_gap_in_the_feed_and_its_first_answer_clear_the_cache() {
    let clock = ManualClock::at(today());
    let (store, feed) = (MemoryStore::new(), Scripted::default());
    feed.will(Answer::Hangs);
    let mut here = Node::new(store.clone(), feed.clone(), &clock);
    assert_eq!(here.feed(), WorkerHealth::NotStarted);
    // It was filled before anybody knew from where to go on.
    let key = revoked_elsewhere(&store, &here).await;
    feed.will(told(&[], "5"));
    clock.advance(Duration::from_millis(1_500)); // the first call is given up
    here.work();
    clock.advance(Duration::from_millis(100));
    here.work();
    assert_eq!(feed.asked(), [None, None]);
    assert_eq!(here.feed(), WorkerHealth::Running);
    assert!(!here.lets_in(&key).await);

    let key = revoked_elsewhere(&store, &here).await;
    feed.will(Answer::Tells(Changes::gap(Cursor::new("9"))));
    clock.advance(Duration::from_millis(500));
    here.work();
    assert_eq!(feed.asked(), [Some("5".to_owned())]);
    assert!(!here.lets_in(&key).await);
    clock.advance(Duration::from_millis(500));
    here.work();
    assert_eq!(feed.asked(), [Some("9".to_owned())]);
}

/// However it fails, it is asked again from where it was, no later than after a second and a half.
#[tokio::test]
async fn a_failing_or_hanging_feed_is_retried_without_missing_changes() {
    let clock = ManualClock::at(today());
    let (store, feed) = (MemoryStore::new(), Scripted::default());
    feed.will(told(&[], "1"));
    let mut here = Node::new(store.clone(), feed.clone(), &clock);
    let key = revoked_elsewhere(&store, &here).await;
    feed.asked();
    for round in 0..8 {
        feed.will(if round % 3 == 0 {
            Answer::Hangs
        } else {
            Answer::Fails
        });
    }
    feed.will(told(&[(key.id(), 2)], "2"));
    let mut halves = 0;
    while here.lets_in(&key).await {
        clock.advance(Duration::from_millis(500));
        here.work();
        halves += 1;
        assert!(halves < 2 * 30, "it was given up");
        if halves == 8 {
            assert_eq!(here.feed(), WorkerHealth::Late);
        }
    }
    let asked = feed.asked();
    assert_eq!(asked.len(), 9);
    assert!(asked.iter().all(|cursor| cursor.as_deref() == Some("1")));
    assert_eq!(here.feed(), WorkerHealth::Running);
}

/// A feed that has something to tell each time does not keep the thread.
#[tokio::test]
async fn a_feed_that_never_waits_does_not_starve_other_tasks() {
    let clock = ManualClock::at(today());
    let (store, feed) = (MemoryStore::new(), Scripted::default());
    let id = KeyId::from_bytes([7; 16]);
    (0..1_000).for_each(|at| feed.will(told(&[(id, at)], "1")));
    let mut here = Node::new(store, feed.clone(), &clock);
    assert_eq!(feed.asked().len(), 1);
    for _ in 0..10 {
        clock.advance(Duration::from_millis(10));
        here.work();
        assert_eq!(feed.asked().len(), 1);
    }
}

#[tokio::test]
async fn feed_health_is_absent_without_a_feed_and_stopped_with_the_worker() {
    assert_eq!(ApiKeys::in_memory().health().feed, None);
    let store = MemoryStore::new();
    let keys = ApiKeys::builder(store.clone()).feed(store).build().unwrap();
    keys.worker().until(std::future::ready(())).await;
    assert_eq!(keys.health().feed, Some(WorkerHealth::Stopped));
    let (stop, stopped) = futures_util::future::abortable(pending::<()>());
    let mut worker = Box::pin(keys.worker().until(stop.map(|_| ())));
    assert!(is_waiting(&mut worker));
    assert_eq!(keys.health().feed, Some(WorkerHealth::Running));
    stopped.abort();
    worker.await;
    assert_eq!(keys.health().feed, Some(WorkerHealth::Stopped));
}
