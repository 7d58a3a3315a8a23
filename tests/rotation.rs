//! Rotation, updates and containment: what is inherited, what ends, and what a lost answer leaves.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/histories.rs"]
mod histories;
mod support;

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use support::{DAY, READ, WRITE, random, today};
use tower_api_key::clock::ManualClock;
use tower_api_key::key::{AllowedNetworks, KeyStatus, Suspension, Throttling};
use tower_api_key::manage::{
    ChangeError, ContainError, FieldError, RotateError, UpdateError, Worker,
};
use tower_api_key::store::{
    Action, Actor, Change, KeptEvent, KeyQuery, ListedKey, Page, Paging, Start, StoreError,
    StoreErrorKind, TrailQuery,
};
use tower_api_key::{
    ApiKeys, Environment, KeyId, KeyRecord, KeyStore, Limits, ManagedKeyStore, MemoryStore, Quota,
};

struct Owner {
    keys: ApiKeys,
    store: MemoryStore,
    clock: ManualClock,
    worker: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Owner {
    fn new() -> Self {
        let (store, clock) = (MemoryStore::new(), ManualClock::at(today()));
        let keys = ApiKeys::builder(store.clone())
            .clock(clock.clone())
            .build()
            .unwrap();
        let worker: Worker = keys.worker();
        let mut owner = Self {
            worker: Box::pin(worker.into_future()),
            keys,
            store,
            clock,
        };
        owner.pass(Duration::ZERO);
        owner
    }

    fn pass(&mut self, time: Duration) {
        self.clock.advance(time);
        assert!(support::is_waiting(&mut self.worker));
    }

    async fn record(&self, id: KeyId) -> KeyRecord {
        self.store.find(&id).await.unwrap().unwrap()
    }

    async fn works(&self, plaintext: &str) -> bool {
        self.keys.verify(plaintext).await.is_ok()
    }
}

/// The events of a kind.
async fn told(store: &impl ManagedKeyStore, kind: &str) -> Vec<KeptEvent> {
    let all = store.events(&Start::Beginning, 10_000).await.unwrap().items;
    all.into_iter()
        .filter(|kept| kept.event.kind == kind)
        .collect()
}

#[tokio::test]
async fn a_rotated_key_inherits_all_and_the_old_one_works_until_its_grace_is_over() {
    let mut owner = Owner::new();
    let networks = AllowedNetworks::only(["192.0.2.0/24"]).unwrap();
    let old = owner
        .keys
        .issue("acme")
        .organization("Acme Inc.")
        .name("nightly export")
        .environment(Environment::TEST)
        .scopes([READ])
        .networks(networks.clone())
        .add_metadata("team", "data")
        .expires_in(90 * DAY)
        .await
        .unwrap();
    owner.pass(30 * DAY);
    let rotate = owner
        .keys
        .rotate(old.id())
        .owned_by("acme")
        .by(Actor::user("ops"));
    let rotated = rotate.grace(7 * DAY).await.unwrap();
    let now = owner.clock_now();
    let (new, ended) = (rotated.record(), rotated.old());
    assert_eq!(new.prefix(), Some("sk_test"));
    assert_eq!(new.environment(), Some(&Environment::TEST));
    assert_eq!(
        (new.name(), new.organization()),
        (Some("nightly export"), Some("Acme Inc."))
    );
    assert_eq!(
        (new.networks(), new.metadata()["team"].as_str()),
        (&networks, "data")
    );
    assert!(new.scopes().contains(&READ));
    assert_eq!(
        new.expires_at(),
        Some(now + 90 * DAY),
        "its lifetime begins anew"
    );
    assert_eq!((new.budget(), new.lineage()), (old.id(), old.id()));
    assert_eq!(new.rotated_from(), Some(old.id()));
    assert_eq!(ended.expires_at(), Some(now + 7 * DAY));
    assert_eq!(ended.rotated_to().unwrap().successor, new.id());
    let lifecycle = owner.keys.lifecycle(ended);
    assert_eq!(lifecycle.status(), KeyStatus::Deprecated);
    assert_eq!(
        lifecycle.deprecated_at(),
        Some(now),
        "from the moment of rotation on"
    );
    assert_eq!(
        (owner.record(new.id()).await, owner.record(old.id()).await),
        (new.clone(), ended.clone())
    );
    assert!(owner.works(old.expose_secret()).await && owner.works(rotated.expose_secret()).await);
    owner.pass(7 * DAY);
    assert!(!owner.works(old.expose_secret()).await && owner.works(rotated.expose_secret()).await);
    // The trail and the event tell it.
    let trail = owner
        .keys
        .trail(&TrailQuery::new(), &Paging::first(10))
        .await
        .unwrap()
        .items;
    let actions: Vec<_> = trail.iter().map(|it| &it.action).collect();
    assert_eq!(
        actions,
        [&Action::ISSUED, &Action::ISSUED, &Action::ROTATED]
    );
    let events = told(&owner.store, "api_key.rotated").await;
    assert_eq!(events.len(), 1);
    assert!(events[0].event.data.contains(&new.id().to_string()));
}

impl Owner {
    fn clock_now(&self) -> SystemTime {
        self.keys.now()
    }
}

/// Invariant 9: a grace period never lengthens the life of a key.
#[tokio::test]
async fn invariant_9_a_grace_period_never_lengthens_a_life() {
    let second = Duration::from_secs(1);
    for grace in [Duration::ZERO, second, DAY, 400 * DAY, Duration::MAX] {
        for left in [Duration::from_micros(1), second, DAY, 365 * DAY] {
            let mut owner = Owner::new();
            let old = owner
                .keys
                .issue("acme")
                .expires_in(365 * DAY)
                .await
                .unwrap();
            owner.pass((365 * DAY).saturating_sub(left));
            let end = old.record().expires_at().unwrap();
            let rotated = owner.keys.rotate(old.id()).grace(grace).await.unwrap();
            let now = owner.clock_now();
            let expected = now.checked_add(grace).map_or(end, |grace| grace.min(end));
            assert_eq!(
                rotated.old().expires_at(),
                Some(expected),
                "{grace:?} {left:?}"
            );
            assert_eq!(owner.works(old.expose_secret()).await, !grace.is_zero());
            assert_eq!(rotated.record().expires_at(), Some(now + 365 * DAY));
        }
    }
    // A key without an end gets one, and its successor has none.
    let owner = Owner::new();
    let old = owner.keys.issue("acme").await.unwrap();
    let rotated = owner.keys.rotate(old.id()).await.unwrap();
    assert_eq!(
        rotated.old().expires_at(),
        Some(owner.clock_now() + 30 * DAY)
    );
    assert_eq!(rotated.record().expires_at(), None);
}

#[tokio::test]
async fn a_key_that_does_not_work_is_not_rotated() {
    let mut owner = Owner::new();
    let key = owner.keys.issue("acme").expires_in(10 * DAY).await.unwrap();
    let refused = owner
        .keys
        .rotate(key.id())
        .owned_by("globex")
        .await
        .unwrap_err();
    assert!(matches!(refused, RotateError::NotFound(id) if id == key.id()));
    let unknown = KeyId::from_bytes([1; 16]);
    let refused = owner.keys.rotate(unknown).await.unwrap_err();
    assert!(matches!(refused, RotateError::NotFound(_)));
    owner.keys.suspend(key.id()).await.unwrap();
    let refused = owner.keys.rotate(key.id()).await.unwrap_err();
    assert!(matches!(
        refused,
        RotateError::NotRotatable(_, KeyStatus::Suspended)
    ));
    owner.keys.resume(key.id()).await.unwrap();
    owner.pass(10 * DAY);
    let refused = owner.keys.rotate(key.id()).await.unwrap_err();
    assert!(matches!(
        refused,
        RotateError::NotRotatable(_, KeyStatus::Expired)
    ));
    let key = owner.keys.issue("acme").await.unwrap();
    owner.keys.revoke(key.id()).await.unwrap();
    let refused = owner.keys.rotate(key.id()).await.unwrap_err();
    assert!(matches!(
        refused,
        RotateError::NotRotatable(_, KeyStatus::Revoked)
    ));
}

#[tokio::test]
async fn a_compromised_key_is_revoked_at_once() {
    let owner = Owner::new();
    let old = owner.keys.issue("acme").await.unwrap();
    let rotated = owner
        .keys
        .rotate(old.id())
        .compromised("in a public repository")
        .await
        .unwrap();
    assert!(!owner.works(old.expose_secret()).await && owner.works(rotated.expose_secret()).await);
    let revoked = owner.record(old.id()).await;
    assert_eq!(
        revoked.revoked().unwrap().reason.as_deref(),
        Some("in a public repository")
    );
}

/// The answer of a rotation is lost: the old key works, and there is a way on.
#[tokio::test]
async fn a_lost_answer_is_healed_after_a_minute_unless_the_key_is_used() {
    let mut owner = Owner::new();
    let old = owner.keys.issue("acme").expires_in(90 * DAY).await.unwrap();
    let lost = owner.keys.rotate(old.id()).await.unwrap();
    assert!(owner.works(old.expose_secret()).await);
    let refused = owner.keys.rotate(old.id()).await.unwrap_err();
    assert!(matches!(refused, RotateError::AlreadyRotated { successor } if successor == lost.id()));
    let refused = owner
        .keys
        .rotate(old.id())
        .replacing_unused()
        .await
        .unwrap_err();
    let RotateError::TooEarly { retry_after, .. } = refused else {
        panic!("{refused}")
    };
    owner.pass(retry_after);
    let healed = owner
        .keys
        .rotate(old.id())
        .replacing_unused()
        .await
        .unwrap();
    assert!(!owner.works(lost.expose_secret()).await && owner.works(healed.expose_secret()).await);
    assert_eq!(
        owner.record(old.id()).await.rotated_to().unwrap().successor,
        healed.id()
    );
    assert_eq!(
        (healed.record().budget(), healed.record().lineage()),
        (old.id(), old.id())
    );
    let end = lost.old().expires_at();
    assert_eq!(healed.old().expires_at(), end, "the first grace goes on");
    assert_eq!(
        healed.record().expires_at(),
        Some(owner.clock_now() + 90 * DAY)
    );
    // This one is used, so somebody has it.
    owner.pass(Duration::from_secs(100));
    let refused = owner
        .keys
        .rotate(old.id())
        .replacing_unused()
        .await
        .unwrap_err();
    assert!(
        matches!(refused, RotateError::SuccessorUsed { successor } if successor == healed.id())
    );
    // A successor that has ended may be replaced at any time.
    owner.keys.revoke(healed.id()).await.unwrap();
    let again = owner.keys.rotate(old.id()).await.unwrap();
    assert!(owner.works(again.expose_secret()).await);
}

/// Also if the old key was revoked or ended at once.
#[tokio::test]
async fn a_lost_answer_is_healed_if_the_old_key_has_ended() {
    for is_compromised in [true, false] {
        let mut owner = Owner::new();
        let old = owner.keys.issue("acme").expires_in(90 * DAY).await.unwrap();
        let rotate = owner.keys.rotate(old.id()).grace(Duration::ZERO);
        let lost = if is_compromised {
            rotate.compromised("leaked").await.unwrap()
        } else {
            rotate.await.unwrap()
        };
        let before = owner.record(old.id()).await;
        let refused = owner.keys.rotate(old.id()).await.unwrap_err();
        let successor = lost.id();
        assert!(
            matches!(refused, RotateError::AlreadyRotated { successor: it } if it == successor)
        );
        owner.pass(Duration::from_secs(60));
        let heal = owner.keys.rotate(old.id()).replacing_unused();
        let healed = heal.grace(30 * DAY).await.unwrap();
        assert!(owner.works(healed.expose_secret()).await);
        assert!(!owner.works(lost.expose_secret()).await);
        assert!(!owner.works(old.expose_secret()).await);
        let after = owner.record(old.id()).await;
        assert_eq!(after.revoked(), before.revoked());
        assert_eq!(after.expires_at(), before.expires_at());
        // Without a successor that lives, it stays ended.
        owner.keys.revoke(healed.id()).await.unwrap();
        let refused = owner.keys.rotate(old.id()).replacing_unused().await;
        assert!(matches!(refused, Err(RotateError::NotRotatable(..))));
    }
}

#[tokio::test]
async fn at_most_three_predecessors_work_and_each_keeps_its_own_end() {
    let mut owner = Owner::new();
    let mut ids = vec![owner.keys.issue("acme").await.unwrap().id()];
    let mut ends = Vec::new();
    for _ in 0..3 {
        let rotated = owner
            .keys
            .rotate(*ids.last().unwrap())
            .grace(30 * DAY)
            .await
            .unwrap();
        ends.push(rotated.old().expires_at());
        ids.push(rotated.id());
        owner.pass(DAY);
    }
    let refused = owner.keys.rotate(ids[3]).await.unwrap_err();
    let RotateError::TooManyPredecessors(working) = refused else {
        panic!("{refused}")
    };
    assert_eq!(working, [ids[3], ids[2], ids[1], ids[0]]);
    owner.keys.end_grace(ids[1]).await.unwrap();
    let last = owner.keys.rotate(ids[3]).await.unwrap();
    assert_eq!(owner.record(ids[0]).await.expires_at(), ends[0]);
    assert_eq!(owner.record(ids[2]).await.expires_at(), ends[2]);
    assert_eq!(
        (last.record().budget(), last.record().lineage()),
        (ids[0], ids[0])
    );
    // The end of a grace is not repeated, and only keys that were rotated have one.
    let version = owner.record(ids[1]).await.version();
    owner.keys.end_grace(ids[1]).await.unwrap();
    owner.keys.end_grace(last.id()).await.unwrap();
    assert_eq!(owner.record(ids[1]).await.version(), version);
    assert_eq!(owner.record(last.id()).await.expires_at(), None);
    // All of them at once.
    let revoked = owner
        .keys
        .revoke_family(ids[2])
        .reason("leaked")
        .await
        .unwrap();
    assert_eq!(revoked.len(), 5);
    assert_eq!(revoked[0].id(), ids[0]);
    for id in ids.into_iter().chain([last.id()]) {
        assert!(owner.record(id).await.revoked().is_some());
    }
    assert!(
        owner
            .keys
            .revoke_family(last.id())
            .await
            .unwrap()
            .is_empty()
    );
    let unknown = owner.keys.revoke_family(KeyId::from_bytes([1; 16])).await;
    assert!(matches!(unknown, Err(ChangeError::NotFound(_))));
}

#[tokio::test]
async fn rivals_rotate_a_key_once() {
    let owner = Owner::new();
    let key = owner.keys.issue("acme").await.unwrap();
    let rivals = (0..10).map(|_| owner.keys.rotate(key.id()).into_future());
    let results = futures_util::future::join_all(rivals).await;
    let winners: Vec<_> = results.iter().flatten().collect();
    assert_eq!(winners.len(), 1);
    for result in &results {
        let Err(error) = result else { continue };
        let successor = winners[0].id();
        assert!(matches!(error, RotateError::AlreadyRotated { successor: it } if *it == successor));
    }
}

/// Fields are overridden, and what contains a key stays.
#[tokio::test]
async fn a_rotation_overrides_fields_and_keeps_a_throttle() {
    let limits = Limits::new().per_key(Quota::per_minute(60));
    let (store, clock) = (MemoryStore::new(), ManualClock::at(today()));
    let builder = ApiKeys::builder(store.clone()).clock(clock).limits(limits);
    let keys = builder.build().unwrap();
    let old = keys
        .issue("acme")
        .scopes([READ])
        .add_metadata("a", "1")
        .await
        .unwrap();
    let throttling = Throttling::new(Quota::per_second(1), today() + DAY);
    let throttled = old.record().clone().with_throttled(throttling.clone());
    let change = Change::new(Actor::default(), today());
    let change = change
        .update(Action::THROTTLED, old.record(), throttled)
        .unwrap();
    store.commit(&change).await.unwrap();
    let rotated = keys
        .rotate(old.id())
        .scopes([READ, WRITE])
        .name("new")
        .add_limit("key_per_minute", Quota::per_minute(6))
        .add_metadata("a", None::<&str>)
        .add_metadata("b", "2")
        .expires_at(today() + 5 * DAY)
        .notify(false)
        .await
        .unwrap();
    let new = rotated.record();
    assert!(new.scopes().contains(&WRITE));
    assert_eq!(new.name(), Some("new"));
    assert_eq!(new.limits()["key_per_minute"], Quota::per_minute(6));
    assert_eq!(
        new.metadata().clone().into_iter().collect::<Vec<_>>(),
        [("b".into(), "2".into())]
    );
    assert_eq!(new.expires_at(), Some(today() + 5 * DAY));
    assert_eq!(new.throttled(), Some(&throttling));
    assert!(told(&store, "api_key.rotated").await.is_empty());
    let refused = keys
        .rotate(new.id())
        .add_limit("no_such", Quota::per_minute(1))
        .await;
    assert!(matches!(
        refused,
        Err(RotateError::Field(FieldError::UnknownLimit(_)))
    ));
    let refused = keys.rotate(new.id()).expires_at(today()).await;
    assert!(matches!(refused, Err(RotateError::Expiry)));
    let kept = keys.rotate(new.id()).keep_expiry().await.unwrap();
    assert_eq!(kept.record().expires_at(), Some(today() + 5 * DAY));
}

#[tokio::test]
async fn an_update_changes_what_is_named_and_overwrites_nobody() {
    let owner = Owner::new();
    let key = owner
        .keys
        .issue("acme")
        .name("export")
        .scopes([READ])
        .await
        .unwrap();
    let seen = owner.record(key.id()).await;
    let end = owner.clock_now() + 9 * DAY;
    let update = owner.keys.update(&seen).scopes([WRITE]).expires_at(end);
    let updated = update.by(Actor::user("ops")).await.unwrap();
    assert_eq!((updated.version(), updated.name()), (2, Some("export")));
    assert_eq!(updated.expires_at(), Some(end));
    assert!(updated.scopes().contains(&WRITE) && !updated.scopes().contains(&READ));
    assert_eq!(owner.record(key.id()).await, updated);
    // What was seen before is not the current record.
    let refused = owner.keys.update(&seen).name("other").await.unwrap_err();
    let UpdateError::Changed(current) = refused else {
        panic!("{refused}")
    };
    assert_eq!(*current, updated);
    // Nothing to do is done without a new version.
    let same = owner.keys.update(&updated).name("export").await.unwrap();
    assert_eq!(same.version(), 2);
    let cleared = owner
        .keys
        .update(&updated)
        .name(None::<&str>)
        .expires_at(None)
        .await
        .unwrap();
    assert_eq!((cleared.name(), cleared.expires_at()), (None, None));
    // An update does not bring a revoked key back, and the cache knows it at once.
    owner.keys.revoke(key.id()).await.unwrap();
    let revoked = owner.record(key.id()).await;
    let updated = owner
        .keys
        .update(&revoked)
        .name("still revoked")
        .await
        .unwrap();
    assert!(updated.revoked().is_some() && !owner.works(key.expose_secret()).await);
    let long = owner.keys.update(&updated).name("a".repeat(20_000)).await;
    assert!(matches!(long, Err(UpdateError::Invalid(_))));
}

#[tokio::test]
async fn containment_revokes_what_is_meant_and_can_be_repeated() {
    let mut owner = Owner::new();
    for number in 0..1_200 {
        let account = if number % 2 == 0 { "acme" } else { "globex" };
        let environment = if number % 3 == 0 {
            Environment::TEST
        } else {
            Environment::LIVE
        };
        owner
            .keys
            .issue(account)
            .environment(environment)
            .await
            .unwrap();
    }
    owner.pass(DAY);
    let later = owner.keys.issue("acme").await.unwrap();
    let refused = owner.keys.revoke_all().await;
    assert!(matches!(refused, Err(ContainError::NoFilter)));
    let early = owner
        .keys
        .revoke_all()
        .of_account("acme")
        .issued_before(owner.clock_now());
    let contained = early
        .by(Actor::user("ops"))
        .reason("taken over")
        .await
        .unwrap();
    assert_eq!(contained.revoked, 600);
    assert!(owner.works(later.expose_secret()).await);
    let again = owner.keys.revoke_all().of_account("acme").await.unwrap();
    assert_eq!(again.revoked, 1);
    let prefix = owner
        .keys
        .revoke_all()
        .with_prefix("sk_test")
        .await
        .unwrap();
    assert_eq!(prefix.revoked, 200);
    let nothing = owner
        .keys
        .revoke_all()
        .with_prefix("sk_test")
        .await
        .unwrap();
    assert_eq!(nothing.revoked, 0);
    let events = told(&owner.store, "api_key.revoked_all").await;
    assert_eq!(events.len(), 4, "one for each that was completed");
    assert!(events[0].event.data.contains("\"revoked\":600"));
    let mut left = 0;
    let mut paging = Paging::first(1_000);
    loop {
        let page = owner.keys.list(&KeyQuery::new(), &paging).await.unwrap();
        left += page
            .items
            .iter()
            .filter(|key| key.record.revoked().is_none())
            .count();
        let Some(next) = page.next else { break };
        paging = paging.after(next);
    }
    assert_eq!(left, 400);
}

/// A suspended key is contained, too, and stays revoked when it is resumed.
#[tokio::test]
async fn a_suspended_key_is_revoked_with_the_others() {
    let owner = Owner::new();
    let key = owner.keys.issue("acme").await.unwrap();
    let suspended = key
        .record()
        .clone()
        .with_suspended(Suspension::new(today()));
    let change = Change::new(Actor::default(), today());
    let change = change
        .update(Action::SUSPENDED, key.record(), suspended)
        .unwrap();
    owner.store.commit(&change).await.unwrap();
    assert_eq!(
        owner
            .keys
            .revoke_all()
            .of_account("acme")
            .await
            .unwrap()
            .revoked,
        1
    );
    owner.keys.resume(key.id()).await.unwrap();
    assert!(!owner.works(key.expose_secret()).await);
    let stale = owner.store.commit(&change).await.unwrap_err();
    assert_eq!(stale.kind(), StoreErrorKind::Conflict);
}

/// Invariant 9, in random histories.
#[tokio::test]
async fn invariant_9_holds_in_random_histories() {
    let histories = std::env::var("HISTORIES").map_or(30, |text| text.parse().unwrap());
    for number in 0..histories {
        histories::live(MemoryStore::new(), number, 300).await;
    }
}

#[tokio::test]
async fn who_has_a_key_may_revoke_it() {
    let mut owner = Owner::new();
    let key = owner.keys.issue("acme").expires_in(DAY).await.unwrap();
    owner.keys.suspend(key.id()).await.unwrap();
    owner.pass(2 * DAY);
    let unknown = owner.keys.revoke_own(&support::stranger()).await;
    assert!(matches!(unknown, Err(ChangeError::NotFound(_))));
    let wrong = format!("{}x", key.expose_secret());
    assert!(owner.keys.revoke_own(&wrong).await.is_err());
    let revoked = owner
        .keys
        .revoke_own(key.expose_secret())
        .reason("found")
        .await
        .unwrap();
    assert_eq!(revoked.revoked().unwrap().reason.as_deref(), Some("found"));
    let trail = TrailQuery::new().with_key(key.id()).newest_first();
    let trail = owner
        .keys
        .trail(&trail, &Paging::first(1))
        .await
        .unwrap()
        .items;
    assert_eq!(trail[0].origin.actor, Actor::key(key.id()));
    let debug = format!("{:?}", owner.keys.revoke_own(key.expose_secret()));
    assert!(!debug.contains("sk_live"), "{debug}");
}

/// Nobody gets a second line of keys: not by ending the key in between, not by bringing ended ones
/// back.
#[tokio::test]
async fn a_chain_has_one_head_and_ended_keys_stay_ended() {
    let mut owner = Owner::new();
    let first = owner.keys.issue("acme").await.unwrap();
    let second = owner.keys.rotate(first.id()).await.unwrap();
    let third = owner.keys.rotate(second.id()).await.unwrap();
    owner.keys.revoke(second.id()).await.unwrap();
    for _ in 0..3 {
        let refused = owner.keys.rotate(first.id()).await.unwrap_err();
        assert!(
            matches!(refused, RotateError::AlreadyRotated { successor } if successor == third.id())
        );
    }
    // Also if the keys in between are gone.
    owner.pass(2 * DAY);
    assert_eq!(owner.keys.purge(DAY).await.unwrap(), 1);
    for id in [first.id(), second.id()] {
        let refused = owner.keys.rotate(id).replacing_unused().await.unwrap_err();
        let is_third = |id| id == third.id();
        assert!(
            matches!(refused, RotateError::AlreadyRotated { successor } if is_third(successor))
                || matches!(refused, RotateError::NotFound(_)),
            "{refused:?}"
        );
    }
    let revoked = owner.keys.revoke_family(first.id()).await.unwrap();
    assert_eq!(revoked.len(), 2, "the first and the third one");

    // A key whose grace is over does not come back; one in its grace may be given a longer one.
    let old = owner.keys.issue("acme").await.unwrap();
    owner.keys.rotate(old.id()).grace(DAY).await.unwrap();
    let later = owner.clock_now() + 20 * DAY;
    let seen = owner.record(old.id()).await;
    let seen = owner.keys.update(&seen).expires_at(later).await.unwrap();
    owner.keys.end_grace(old.id()).await.unwrap();
    let ended = owner.record(old.id()).await;
    let refused = owner.keys.update(&ended).expires_at(later).await;
    assert!(matches!(refused, Err(UpdateError::Rotated { .. })));
    owner.keys.update(&ended).name("named").await.unwrap();
    assert!(seen.version() < ended.version());
}

/// However many have ended before it, three predecessors work at most.
#[tokio::test]
async fn predecessors_are_counted_however_far_back_they_are() {
    let owner = Owner::new();
    let mut id = owner.keys.issue("acme").await.unwrap().id();
    for _ in 0..3 {
        id = owner.keys.rotate(id).grace(300 * DAY).await.unwrap().id();
    }
    for _ in 0..40 {
        id = owner
            .keys
            .rotate(id)
            .grace(Duration::ZERO)
            .await
            .unwrap()
            .id();
    }
    let refused = owner.keys.rotate(id).grace(300 * DAY).await.unwrap_err();
    assert!(matches!(refused, RotateError::TooManyPredecessors(alive) if alive.len() == 4));
}

/// A whole chain is revoked, also one that is longer than a commit.
#[tokio::test]
async fn a_long_family_is_revoked_to_its_head() {
    let owner = Owner::new();
    let first = owner.keys.issue("acme").await.unwrap().id();
    let mut last = owner
        .keys
        .rotate(first)
        .grace(Duration::ZERO)
        .await
        .unwrap();
    for _ in 0..1_100 {
        let rotate = owner.keys.rotate(last.id()).grace(Duration::ZERO);
        last = rotate.await.unwrap();
    }
    let revoked = owner.keys.revoke_family(first).await.unwrap();
    assert_eq!(revoked.len(), 1_102);
    assert!(!owner.works(last.expose_secret()).await);
}

/// A lost successor is replaced as it is now: what its operator took away stays away.
#[tokio::test]
async fn a_healed_rotation_keeps_what_was_done_to_the_lost_key() {
    let mut owner = Owner::new();
    let old = owner
        .keys
        .issue("acme")
        .scopes([READ, WRITE])
        .await
        .unwrap();
    let lost = owner.keys.rotate(old.id()).await.unwrap();
    let update = owner.keys.update(lost.record()).scopes([READ]);
    update.await.unwrap();
    owner.pass(Duration::from_secs(60));
    owner.keys.suspend(lost.id()).await.unwrap();
    let refused = owner.keys.rotate(old.id()).replacing_unused().await;
    assert!(matches!(
        refused,
        Err(RotateError::NotRotatable(id, KeyStatus::Suspended)) if id == lost.id()
    ));
    owner.keys.resume(lost.id()).await.unwrap();
    let healed = owner
        .keys
        .rotate(old.id())
        .replacing_unused()
        .await
        .unwrap();
    assert!(healed.record().scopes().contains(&READ));
    assert!(!healed.record().scopes().contains(&WRITE));
    assert_eq!(healed.record().rotated_from(), Some(old.id()));
}

/// A store in which somebody rotates a key before the first batch of a containment is committed.
#[derive(Clone)]
struct Racing {
    store: MemoryStore,
    rotates: Arc<Mutex<Option<KeyId>>>,
}

impl KeyStore for Racing {
    async fn find(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.store.find(id).await
    }
}

impl ManagedKeyStore for Racing {
    async fn find_committed(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.store.find(id).await
    }

    async fn commit(&self, change: &Change) -> Result<(), StoreError> {
        let raced = self.rotates.lock().unwrap().take();
        if let Some(id) = raced {
            let rival = ApiKeys::builder(self.store.clone()).build().unwrap();
            rival.rotate(id).await.unwrap();
        }
        self.store.commit(change).await
    }

    async fn list(&self, query: &KeyQuery, paging: &Paging) -> Result<Page<ListedKey>, StoreError> {
        self.store.list(query, paging).await
    }
}

#[tokio::test]
async fn a_containment_finds_a_key_that_is_rotated_meanwhile() {
    let store = Racing {
        store: MemoryStore::new(),
        rotates: Arc::default(),
    };
    let keys = ApiKeys::builder(store.clone()).build().unwrap();
    for _ in 0..10 {
        keys.issue("acme").await.unwrap();
    }
    let key = keys.issue("acme").await.unwrap();
    *store.rotates.lock().unwrap() = Some(key.id());
    let contained = keys.revoke_all().of_account("acme").await.unwrap();
    assert_eq!(contained.revoked, 12);
    let mut pages = keys.pages(KeyQuery::new());
    while let Some(page) = pages.next().await.unwrap() {
        assert!(page.iter().all(|key| key.record.revoked().is_some()));
    }
}
