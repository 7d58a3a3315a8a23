//! The policy of issuing, and requests that are repeated, in memory.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/issuing.rs"]
mod issuing;
mod support;

use std::time::Duration;

use support::{DAY, READ, WRITE, today};
use tower_api_key::clock::ManualClock;
use tower_api_key::key::KeyDigest;
use tower_api_key::manage::{
    ImportError, IssueError, IssuePolicy, PolicyError, RotateError, ScopeCeiling, UpdateError,
};
use tower_api_key::store::{Actor, ActorKind};
use tower_api_key::{ApiKeys, BuildError, KeyRecord, MemoryStore};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cap_is_exact() {
    issuing::a_cap_is_exact(MemoryStore::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_request_issues_one_key() {
    issuing::a_repeated_request_issues_one_key(MemoryStore::new()).await;
}

#[tokio::test]
async fn a_reissue_fits_under_the_cap() {
    issuing::a_reissue_fits_under_the_cap(MemoryStore::new()).await;
}

fn with(policy: IssuePolicy) -> (ApiKeys, MemoryStore, ManualClock) {
    let (store, clock) = (MemoryStore::new(), ManualClock::at(today()));
    let builder = ApiKeys::builder(store.clone()).clock(clock.clone());
    let keys = builder.issue_policy(policy).build().unwrap();
    (keys, store, clock)
}

/// Keys of the time before the policy.
fn without_policy(store: &MemoryStore) -> ApiKeys {
    let builder = ApiKeys::builder(store.clone()).clock(ManualClock::at(today()));
    builder.build().unwrap()
}

#[tokio::test]
async fn a_life_is_at_most_as_long_as_the_policy_allows() {
    let (longest, default) = (100 * DAY, 30 * DAY);
    let policy = IssuePolicy::new()
        .max_lifetime(longest)
        .default_lifetime(default);
    let (keys, store, clock) = with(policy);
    let too_long = PolicyError::LivesTooLong { longest };
    let key = keys.issue("acme").await.unwrap();
    assert_eq!(key.record().expires_at(), Some(today() + default));
    let key = keys.issue("acme").expires_in(longest).await.unwrap();
    assert_eq!(key.record().expires_at(), Some(today() + longest));
    // The life counts from the time that the key works from.
    let begins = today() + 10 * DAY;
    let later = keys.issue("acme").not_before(begins).expires_in(longest);
    assert_eq!(
        later.await.unwrap().record().expires_at(),
        Some(begins + longest)
    );
    for asked in [
        keys.issue("acme")
            .expires_in(longest + Duration::from_secs(1)),
        keys.issue("acme").expires_in(None),
        keys.issue("acme").expires_at(None),
        keys.issue("acme").expires_at(today() + longest + DAY),
    ] {
        let error = asked.await.unwrap_err();
        assert!(matches!(error, IssueError::Policy(error) if error == too_long));
    }
    // A rotation begins anew, and an older life is cut down.
    let before = without_policy(&store);
    for life in [None, Some(400 * DAY)] {
        let old = before.issue("acme").expires_in(life).await.unwrap();
        let rotated = keys.rotate(old.id()).await.unwrap();
        assert_eq!(rotated.record().expires_at(), Some(today() + longest));
        let old = before.issue("acme").expires_in(life).await.unwrap();
        for refused in [
            keys.rotate(old.id()).keep_expiry(),
            keys.rotate(old.id()).expires_at(None),
            keys.rotate(old.id()).expires_at(today() + 101 * DAY),
        ] {
            let error = refused.await.unwrap_err();
            assert!(matches!(error, RotateError::Policy(error) if error == too_long));
        }
        // What is shorter than before is allowed, and what stays.
        let named = keys.update(old.record()).name("named").await.unwrap();
        let shorter = keys.update(&named).expires_at(today() + 390 * DAY).await;
        let shorter = shorter.unwrap();
        for end in [None, Some(today() + 391 * DAY)] {
            let error = keys.update(&shorter).expires_at(end).await.unwrap_err();
            assert!(matches!(error, UpdateError::Policy(error) if error == too_long));
        }
    }
    // A life counts from its begin, whenever it is lengthened.
    clock.advance(90 * DAY);
    let seen = keys.find(&key.id()).await.unwrap().unwrap();
    let error = keys.update(&seen).expires_at(today() + 101 * DAY).await;
    assert!(matches!(error, Err(UpdateError::Policy(error)) if error == too_long));
    let record = |name: &str| KeyRecord::imported(KeyDigest::of(name), "acme");
    let error = keys.import([record("endless")]).await.unwrap_err();
    assert!(matches!(error, ImportError::Policy { source, .. } if source == too_long));
    let now = keys.now();
    let fits = record("fits")
        .with_created_at(today())
        .with_expires_at(now + DAY);
    let dead = record("dead").with_expires_at(now);
    assert_eq!(keys.import([fits, dead]).await.unwrap().created, 2);
    // A default alone is no limit.
    let (keys, ..) = with(IssuePolicy::new().default_lifetime(default));
    let endless = keys.issue("acme").expires_in(None).await.unwrap();
    assert_eq!(endless.record().expires_at(), None);
    let (keys, ..) = with(IssuePolicy::new().max_lifetime(Duration::MAX));
    let endless = keys.issue("acme").expires_at(today() + DAY).await.unwrap();
    assert_eq!(endless.record().expires_at(), Some(today() + DAY));
}

#[tokio::test]
async fn a_name_is_required_where_it_is_written() {
    let (keys, store, _) = with(IssuePolicy::new().require_name());
    let no_name = |error: PolicyError| assert_eq!(error, PolicyError::NoName);
    for name in [None, Some(""), Some(" \t")] {
        let issue = keys.issue("acme").name(name);
        let Err(IssueError::Policy(error)) = issue.await else {
            panic!("it was issued with the name {name:?}")
        };
        no_name(error);
    }
    let key = keys.issue("acme").name("export").await.unwrap();
    let cleared = keys.update(key.record()).name(None::<&str>).await;
    assert!(matches!(
        cleared,
        Err(UpdateError::Policy(PolicyError::NoName))
    ));
    let cleared = keys.rotate(key.id()).name(" ").await;
    assert!(matches!(
        cleared,
        Err(RotateError::Policy(PolicyError::NoName))
    ));
    let unnamed = KeyRecord::imported(KeyDigest::of("unnamed"), "acme");
    let refused = keys.import([unnamed]).await.unwrap_err();
    assert!(matches!(
        refused,
        ImportError::Policy {
            source: PolicyError::NoName,
            ..
        }
    ));
    // A key from before is rotated, and updated in other fields.
    let old = without_policy(&store).issue("acme").await.unwrap();
    let updated = keys.update(old.record()).plan("pro").await.unwrap();
    keys.rotate(updated.id()).await.unwrap();
}

#[tokio::test]
async fn nobody_gives_scopes_above_the_ceiling() {
    let policy = IssuePolicy::new().scope_ceiling(|issuer| match issuer.kind {
        ActorKind::Service => ScopeCeiling::Unlimited,
        ActorKind::User => ScopeCeiling::only([READ]),
        _ => ScopeCeiling::only([]),
    });
    let (keys, ..) = with(policy);
    let (user, service) = (Actor::user("alice"), Actor::service("billing"));
    let above = PolicyError::ScopeAboveCeiling(WRITE);
    keys.issue("acme")
        .by(user.clone())
        .scopes([READ])
        .await
        .unwrap();
    let issue = keys.issue("acme").by(user.clone()).scopes([READ, WRITE]);
    let error = issue.await.unwrap_err();
    assert!(matches!(error, IssueError::Policy(error) if error == above));
    let unnamed = keys.issue("acme").scopes([READ]).await.unwrap_err();
    assert!(matches!(unnamed, IssueError::Policy(_)));
    let issue = keys.issue("acme").by(service.clone()).scopes([READ, WRITE]);
    let key = issue.await.unwrap();
    // An update keeps what is there and adds nothing above; a rotation hands all of it out.
    let update = keys.update(key.record()).by(user.clone());
    let kept = update.scopes([WRITE]).name("kept").await.unwrap();
    let rotate = keys.rotate(key.id()).by(user.clone()).await.unwrap_err();
    assert!(matches!(rotate, RotateError::Policy(error) if error == above));
    let rotate = keys.rotate(key.id()).by(user.clone()).scopes([READ]);
    let rotated = rotate.await.unwrap();
    let update = keys.update(rotated.record()).by(user.clone());
    let error = update.scopes([READ, WRITE]).await.unwrap_err();
    assert!(matches!(error, UpdateError::Policy(error) if error == above));
    assert!(kept.scopes().contains(&WRITE));
    let scoped = KeyRecord::imported(KeyDigest::of("scoped"), "acme");
    let scoped = scoped.with_scopes([WRITE].into_iter().collect());
    let error = keys.import([scoped.clone()]).by(user).await.unwrap_err();
    assert!(matches!(error, ImportError::Policy { source, .. } if source == above));
    keys.import([scoped]).by(service).await.unwrap();
}

#[test]
fn a_policy_that_ends_keys_too_soon_is_refused() {
    let almost = DAY.saturating_sub(Duration::from_secs(1));
    for policy in [
        IssuePolicy::new().end_when_idle(almost),
        IssuePolicy::new().end_grace_when_idle(almost),
    ] {
        let builder = ApiKeys::builder(MemoryStore::new()).issue_policy(policy);
        assert_eq!(builder.build().unwrap_err(), BuildError::IdleTooShort);
    }
}
