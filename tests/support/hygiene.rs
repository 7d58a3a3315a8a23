//! What holds over any store for keys that nobody uses, and for those that are dead.
#![allow(clippy::unwrap_used, unreachable_pub, reason = "a test may panic")]

use std::time::{Duration, SystemTime};

use tower_api_key::clock::ManualClock;
use tower_api_key::key::KeyDigest;
use tower_api_key::manage::{PurgeError, RetireError, WorkerHealth};
use tower_api_key::store::{
    Action, Actor, ChangeFeed, KeyOrder, KeyQuery, KeyUsage, Paging, Start, TrailQuery, UsageBatch,
    UsagePeriod,
};
use tower_api_key::{ApiKeys, KeyId, KeyRecord, ManagedKeyStore};

const DAY: Duration = Duration::from_secs(86_400);

fn begin() -> SystemTime {
    SystemTime::UNIX_EPOCH + DAY * 20_000
}

fn build<S: ManagedKeyStore>(store: S) -> (ApiKeys, ManualClock) {
    let clock = ManualClock::at(begin());
    let keys = ApiKeys::builder(store).clock(clock.clone());
    (keys.build().unwrap(), clock)
}

async fn record_use(store: &impl ManagedKeyStore, id: KeyId, at: SystemTime) {
    let mut usage = KeyUsage::new(id, "acme", UsagePeriod::Day(1)).used_at(at);
    usage.used.as_mut().unwrap().last_address = Some("192.0.2.7".parse().unwrap());
    let node = *KeyDigest::of(&format!("{id} {at:?}")).id().as_bytes();
    let batch = UsageBatch::new(node, 1, [usage]).unwrap();
    store.record_usage(&batch).await.unwrap();
}

/// The names of the keys in a list.
async fn names(keys: &ApiKeys, query: KeyQuery) -> Vec<String> {
    let mut pages = keys.pages(query);
    let mut names = Vec::new();
    while let Some(page) = pages.next().await.unwrap() {
        let of_page = page.iter().filter_map(|key| key.record.name());
        names.extend(of_page.map(str::to_owned));
    }
    names
}

pub async fn idle_keys_are_ended<S: ManagedKeyStore + Clone>(store: S) {
    let (keys, clock) = build(store.clone());
    let issue = async |name: &str| keys.issue("acme").name(name).await.unwrap();
    let (idle, used, unused) = (
        issue("idle").await,
        issue("used").await,
        issue("unused").await,
    );
    let touched = issue("touched").await;
    let suspended = issue("suspended").await;
    keys.suspend(suspended.id()).await.unwrap();
    let later = keys
        .issue("acme")
        .name("later")
        .not_before(begin() + 40 * DAY);
    later.await.unwrap();
    let other = keys.issue("globex").name("other").await.unwrap();
    record_use(&store, idle.id(), begin() + DAY).await;
    clock.advance(50 * DAY);
    record_use(&store, used.id(), keys.now() - 29 * DAY).await;
    keys.update(touched.record()).plan("pro").await.unwrap();
    // An old key that has just been imported is not idle.
    let old = KeyRecord::imported(KeyDigest::of("old"), "acme").with_name("imported");
    keys.import([old.with_created_at(begin())]).await.unwrap();
    let rotated = keys.rotate(unused.id()).name("successor").grace(400 * DAY);
    let rotated = rotated.await.unwrap();
    clock.advance(31 * DAY);
    record_use(&store, rotated.id(), keys.now()).await;

    let month = 30 * DAY;
    let too_short = keys.retire_idle(DAY / 2).await;
    assert!(matches!(too_short, Err(RetireError::TooShort)));
    let safe = KeyQuery::new().safe_to_remove(month, keys.now());
    assert_eq!(names(&keys, safe.clone()).await, ["unused"]);
    let mut listed = names(&keys, KeyQuery::new().idle_since(keys.now() - month)).await;
    listed.sort_unstable();
    assert_eq!(
        listed,
        [
            "idle",
            "imported",
            "later",
            "other",
            "suspended",
            "touched",
            "unused",
            "used"
        ]
    );
    let by = Actor::service("cron");
    let ended = keys.retire_idle(month).rotated_only().by(by.clone());
    assert_eq!(ended.await.unwrap(), 1);
    assert!(names(&keys, safe).await.is_empty());
    assert!(keys.verify(unused.expose_secret()).await.is_err());
    // The others of the account: not those that were changed within the time, or are suspended.
    let ended = keys.retire_idle(month).of_account("acme").by(by.clone());
    let ended = ended.await.unwrap();
    let end = |key: &KeyRecord| key.expires_at().is_some_and(|end| end <= keys.now());
    let mut left = Vec::new();
    let mut pages = keys.pages(KeyQuery::new());
    while let Some(page) = pages.next().await.unwrap() {
        let alive = page.iter().filter(|key| !end(&key.record));
        left.extend(alive.filter_map(|key| key.record.name().map(str::to_owned)));
    }
    left.sort_unstable();
    // "touched" and "imported" were changed 31 days ago, "used" was used 60 days ago.
    assert_eq!(
        (ended, left),
        (
            5,
            vec!["other".to_owned(), "successor".into(), "suspended".into()]
        )
    );
    assert_eq!(keys.retire_idle(month).of_account("acme").await.unwrap(), 0);
    // It is told in the trail and in an event.
    let trail = TrailQuery::new().with_key(idle.id()).newest_first();
    let last = keys.trail(&trail, &Paging::first(1)).await.unwrap().items;
    assert_eq!(
        (&last[0].action, &last[0].origin.actor),
        (&Action::RETIRED, &by)
    );
    let events = store.events(&Start::Beginning, 100).await.unwrap().items;
    let retired = events
        .iter()
        .filter(|it| it.event.kind.as_str() == "api_key.retired");
    assert_eq!(retired.count(), 6);
    // A key that is brought back is not ended in the next hour.
    let seen = keys.find(&idle.id()).await.unwrap().unwrap();
    keys.update(&seen).expires_at(None).await.unwrap();
    assert_eq!(keys.retire_idle(month).of_account("acme").await.unwrap(), 0);
    assert!(keys.verify(idle.expose_secret()).await.is_ok());
    clock.advance(month + DAY);
    assert_eq!(
        keys.retire_idle(month).await.unwrap(),
        3,
        "idle, other, successor"
    );
    assert!(keys.verify(other.expose_secret()).await.is_err());
    let listed = keys.find_listed(&used.id()).await.unwrap().unwrap();
    assert_eq!(listed.last_address, Some("192.0.2.7".parse().unwrap()));
}

pub async fn dead_keys_are_purged<S: ManagedKeyStore + ChangeFeed + Clone>(store: S) {
    let (keys, clock) = build(store.clone());
    let issue = async |name: &str, days: Option<u32>| {
        let life = days.map(|days| DAY * days);
        let issue = keys.issue("acme").name(name).expires_in(life);
        issue.await.unwrap()
    };
    let revoked = issue("revoked", None).await;
    let expired = issue("expired", Some(5)).await;
    let both = issue("expired, revoked later", Some(5)).await;
    let alive = issue("alive", None).await;
    let recent = issue("recently expired", Some(100)).await;
    let rotated = keys.rotate(alive.id()).name("successor").await.unwrap();
    keys.revoke(revoked.id()).await.unwrap();
    clock.advance(95 * DAY);
    keys.revoke(both.id()).await.unwrap();
    clock.advance(10 * DAY);
    // Another process has the key in its cache.
    let time = ManualClock::at(keys.now());
    let elsewhere = ApiKeys::builder(store.clone()).clock(time.clone());
    let elsewhere = elsewhere.feed(store.clone()).build().unwrap();
    let mut worker = std::pin::pin!(elsewhere.worker().into_future());
    let mut follow = async || {
        time.advance(Duration::from_secs(1));
        let turn = Duration::from_millis(20);
        tokio::time::timeout(turn, &mut worker).await.unwrap_err();
    };
    while elsewhere.health().feed != Some(WorkerHealth::Running) {
        follow().await;
    }
    let status = async |keys: &ApiKeys| {
        let refused = keys.verify(expired.expose_secret()).await;
        refused.unwrap_err().code().to_owned()
    };
    assert_eq!(status(&elsewhere).await, "api_key_expired");
    // It knows that the key was changed, and in which version.
    let seen = keys.find(&expired.id()).await.unwrap().unwrap();
    keys.update(&seen).plan("pro").await.unwrap();
    for _ in 0..10 {
        follow().await;
    }
    assert_eq!(status(&elsewhere).await, "api_key_expired");

    assert_eq!(keys.purge(106 * DAY).await.unwrap(), 0);
    assert_eq!(keys.purge(DAY * 1_000_000).await.unwrap(), 0);
    let by = Actor::service("cron");
    assert_eq!(
        keys.purge(50 * DAY).by(by.clone()).await.unwrap(),
        3,
        "with the rotated one"
    );
    let mut left = names(&keys, KeyQuery::new()).await;
    left.sort_unstable();
    assert_eq!(
        left,
        ["expired, revoked later", "recently expired", "successor"]
    );
    for gone in [revoked.id(), expired.id(), alive.id()] {
        assert!(store.find_committed(&gone).await.unwrap().is_none());
        assert!(store.find_listed(&gone).await.unwrap().is_none());
    }
    // It is unknown from now on, here and elsewhere.
    assert_eq!(status(&keys).await, "api_key_not_found");
    let begun = std::time::Instant::now();
    while status(&elsewhere).await != "api_key_not_found" {
        assert!(begun.elapsed() < Duration::from_secs(20));
        follow().await;
    }
    let trail = TrailQuery::new().with_key(revoked.id());
    let trail = keys.trail(&trail, &Paging::first(9)).await.unwrap().items;
    let actions: Vec<_> = trail.iter().map(|it| (it.version, &it.action)).collect();
    let expected = [
        (1, &Action::ISSUED),
        (2, &Action::REVOKED),
        (3, &Action::PURGED),
    ];
    assert_eq!(actions, expected);
    assert_eq!(trail[2].origin.actor, by);
    // The chain of a purged key can still be rotated and revoked.
    let next = keys.rotate(rotated.id()).await.unwrap();
    assert_eq!(keys.revoke_family(next.id()).await.unwrap().len(), 2);
    assert!(keys.find(&recent.id()).await.unwrap().is_some());
    let too_short = keys.purge(DAY / 2).await;
    assert!(matches!(too_short, Err(PurgeError::TooShort)));
    assert_eq!(keys.purge(DAY).await.unwrap(), 2);
}

pub async fn what_ends_soon_or_never_is_listed<S: ManagedKeyStore + Clone>(store: S) {
    let (keys, clock) = build(store);
    for days in [20, 5, 14, 13, 400] {
        let issue = keys.issue("acme").name(format!("{days} days"));
        issue.expires_in(DAY * days).await.unwrap();
    }
    keys.issue("acme").name("endless").await.unwrap();
    let revoked = keys.issue("acme").name("revoked").expires_in(DAY).await;
    keys.revoke(revoked.unwrap().id()).await.unwrap();
    let soon = |days: u32| KeyQuery::new().expiring_within(DAY * days, keys.now());
    assert_eq!(names(&keys, soon(14)).await, ["5 days", "13 days"]);
    clock.advance(DAY * 6);
    assert_eq!(names(&keys, soon(14)).await, ["13 days", "14 days"]);
    let all = KeyQuery::new().expiring_within(Duration::MAX, keys.now());
    assert_eq!(names(&keys, all).await.len(), 4);
    let endless = KeyQuery::new().never_expires();
    assert_eq!(names(&keys, endless.clone()).await, ["endless"]);
    let endless = endless.with_order(KeyOrder::LeastRecentlyUsed);
    assert_eq!(names(&keys, endless).await, ["endless"]);
}
