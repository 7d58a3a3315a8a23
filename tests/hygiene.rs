//! Keys that nobody uses, and those that are dead, in memory; and what the worker does by itself.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/hygiene.rs"]
mod hygiene;
mod support;

use std::time::Duration;

use support::{DAY, today};
use tower_api_key::clock::ManualClock;
use tower_api_key::manage::IssuePolicy;
use tower_api_key::store::{Action, ActorKind, Paging, TrailQuery};
use tower_api_key::{ApiKeys, MemoryStore};

#[tokio::test]
async fn idle_keys_are_ended() {
    hygiene::idle_keys_are_ended(MemoryStore::new()).await;
}

#[tokio::test]
async fn dead_keys_are_purged() {
    hygiene::dead_keys_are_purged(MemoryStore::new()).await;
}

#[tokio::test]
async fn what_ends_soon_or_never_is_listed() {
    hygiene::what_ends_soon_or_never_is_listed(MemoryStore::new()).await;
}

/// The worker looks every hour, and ends what the policy says, by itself.
#[tokio::test]
async fn the_worker_ends_idle_keys_as_the_policy_says() {
    let clock = ManualClock::at(today());
    let policy = IssuePolicy::new()
        .end_when_idle(30 * DAY)
        .end_grace_when_idle(3 * DAY);
    let builder = ApiKeys::builder(MemoryStore::new()).clock(clock.clone());
    let keys = builder.issue_policy(policy).build().unwrap();
    let mut worker = Box::pin(keys.worker().into_future());
    let mut pass = |days: u32| {
        for _ in 0..days * 24 {
            clock.advance(Duration::from_secs(3_600));
            assert!(support::is_waiting(&mut worker));
        }
    };
    pass(0);
    let idle = keys.issue("acme").await.unwrap();
    let old = keys.issue("acme").await.unwrap();
    let used = keys.issue("acme").await.unwrap();
    let new = keys.rotate(old.id()).grace(20 * DAY).await.unwrap();
    let works = async |plaintext: &str| keys.verify(plaintext).await.is_ok();
    pass(2);
    assert!(works(used.expose_secret()).await, "a use that counts");
    pass(2);
    assert!(
        !works(old.expose_secret()).await,
        "its grace ended after three days"
    );
    assert!(works(used.expose_secret()).await && works(new.expose_secret()).await);
    pass(25);
    assert!(works(new.expose_secret()).await);
    pass(2);
    assert!(
        !works(idle.expose_secret()).await,
        "it was not used for 30 days"
    );
    assert!(works(used.expose_secret()).await, "it was used 27 days ago");
    assert!(works(new.expose_secret()).await);
    let trail = TrailQuery::new().with_key(idle.id()).newest_first();
    let last = keys.trail(&trail, &Paging::first(1)).await.unwrap().items;
    assert_eq!(last[0].action, Action::RETIRED);
    assert_eq!(last[0].origin.actor.kind, ActorKind::System);
}
