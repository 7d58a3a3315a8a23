//! What holds for issuing over any store: a cap, and requests that are repeated.
#![allow(clippy::unwrap_used, unreachable_pub, reason = "a test may panic")]

use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use tower_api_key::clock::ManualClock;
use tower_api_key::key::KeyDigest;
use tower_api_key::manage::{
    ImportError, IssueError, IssuePolicy, PolicyError, RotateError, UpdateError,
};
use tower_api_key::store::{Actor, KeyQuery, KeyUsage, UsageBatch, UsagePeriod};
use tower_api_key::{ApiKeys, KeyId, KeyRecord, ManagedKeyStore};

const DAY: Duration = Duration::from_secs(86_400);

fn clock() -> ManualClock {
    ManualClock::at(SystemTime::UNIX_EPOCH + DAY * 20_000)
}

fn build<S: ManagedKeyStore>(store: S, clock: &ManualClock, policy: IssuePolicy) -> ApiKeys {
    let builder = ApiKeys::builder(store).clock(clock.clone());
    builder.issue_policy(policy).build().unwrap()
}

async fn count(keys: &ApiKeys, account: &str) -> usize {
    let mut pages = keys.pages(KeyQuery::new().with_account(account.to_owned()));
    let mut count = 0;
    while let Some(page) = pages.next().await.unwrap() {
        count += page.len();
    }
    count
}

/// Fifty issues at once in two processes: as many keys as the cap allows.
pub async fn a_cap_is_exact<S: ManagedKeyStore + Clone>(store: S) {
    const MOST: u32 = 7;
    let clock = clock();
    let policy = || IssuePolicy::new().max_keys_per_account(MOST);
    let processes = [(); 2].map(|()| build(store.clone(), &clock, policy()));
    let at_once = (0..50).map(|number| {
        let issue = processes[number % 2].issue("capped").expires_in(9 * DAY);
        tokio::spawn(issue.into_future())
    });
    let mut issued = Vec::new();
    for result in join_all(at_once).await {
        match result.unwrap() {
            Ok(key) => issued.push(key.id()),
            Err(IssueError::Policy(error)) => assert_eq!(error, too_many("capped", MOST)),
            Err(error) => panic!("{error:?}"),
        }
    }
    let keys = &processes[0];
    assert_eq!((issued.len(), count(keys, "capped").await), (7, 7));
    // At its cap, the account can rotate, also twice.
    let rotated = keys.rotate(issued[0]).await.unwrap();
    let again = keys.rotate(rotated.id()).await.unwrap();
    let full = keys.issue("capped").await.unwrap_err();
    assert!(matches!(full, IssueError::Policy(error) if error == too_many("capped", MOST)));
    // Nobody gets more keys by revoking the successor of one that still works.
    keys.revoke(again.id()).await.unwrap();
    keys.revoke(rotated.id()).await.unwrap();
    keys.issue("capped").await.unwrap_err();
    // One chain less is one key more.
    keys.revoke(issued[0]).await.unwrap();
    keys.issue("capped").await.unwrap();
    keys.issue("capped").await.unwrap_err();
    // An expired key makes room, and is not brought back without any.
    let expired = store.find_committed(&issued[1]).await.unwrap().unwrap();
    clock.advance(10 * DAY);
    for _ in 0..6 {
        keys.issue("capped").await.unwrap();
    }
    keys.issue("capped").await.unwrap_err();
    let later = keys.now() + DAY;
    let error = keys.update(&expired).expires_at(later).await.unwrap_err();
    assert!(matches!(error, UpdateError::Policy(error) if error == too_many("capped", MOST)));
    keys.update(&expired).name("still expired").await.unwrap();
    // One that expires just now counts for another minute: clocks differ.
    let mut pages = keys.pages(KeyQuery::new().with_account("capped".to_owned()));
    let mut ending = None;
    while let Some(page) = pages.next().await.unwrap() {
        let alive = page.into_iter().find(|key| {
            let key = &key.record;
            key.revoked().is_none() && key.expires_at().is_none_or(|end| end > keys.now())
        });
        ending = ending.or(alive);
    }
    let ending = keys.update(&ending.unwrap().record);
    let ending = ending.expires_at(keys.now() + Duration::from_secs(5));
    let ending = ending.await.unwrap();
    clock.advance(Duration::from_secs(10));
    keys.issue("capped").await.unwrap_err();
    let back = keys.update(&ending).expires_at(later).await.unwrap();
    keys.issue("capped").await.unwrap_err();
    // An account that has more, since the cap was lowered, can go on with them.
    let lower = build(
        store.clone(),
        &clock,
        IssuePolicy::new().max_keys_per_account(2),
    );
    let longer = later + DAY;
    let longer = lower.update(&back).expires_at(longer).await.unwrap();
    lower.rotate(longer.id()).await.unwrap();
    lower.issue("capped").await.unwrap_err();
    // Imports obey, account by account, and those that are there already do not count twice.
    let record = |name: String, account: &str| KeyRecord::imported(KeyDigest::of(&name), account);
    let fits: Vec<_> = (0..7).map(|n| record(format!("a{n}"), "a")).collect();
    keys.import(fits.clone()).await.unwrap();
    assert_eq!(keys.import(fits.clone()).await.unwrap().existing, 7);
    let both = [record("b".into(), "b"), record("a7".into(), "a")];
    let error = keys.import(both).await.unwrap_err();
    let ImportError::Policy { source, .. } = error else {
        panic!("{error:?}")
    };
    assert_eq!(source, too_many("a", MOST));
    assert_eq!(count(keys, "a").await, 7);
}

fn too_many(account: &str, most: u32) -> PolicyError {
    PolicyError::TooManyKeys {
        account: account.to_owned(),
        most,
    }
}

/// A request that is repeated issues no second key, and a lost answer is healed.
pub async fn a_repeated_request_issues_one_key<S: ManagedKeyStore + Clone>(store: S) {
    let clock = clock();
    let processes = [(); 2].map(|()| build(store.clone(), &clock, IssuePolicy::new()));
    let keys = &processes[0];
    let request = |keys: &ApiKeys| {
        let issue = keys.issue("acme").by(Actor::user("alice")).name("export");
        issue.expires_in(DAY).idempotency_key("order 7")
    };
    // Twenty at once in two processes.
    let at_once = (0..20).map(|number| {
        let issue = request(&processes[number % 2]);
        tokio::spawn(issue.into_future())
    });
    let mut first = None;
    let mut others = Vec::new();
    for result in join_all(at_once).await {
        match result.unwrap() {
            Ok(key) => assert!(first.replace(key).is_none(), "there is one key"),
            Err(IssueError::AlreadyIssued { key }) => others.push(key),
            Err(error) => panic!("{error:?}"),
        }
    }
    let first = first.unwrap();
    assert_eq!(others, [first.id(); 19]);
    assert_eq!(count(keys, "acme").await, 1);
    // The same text of another actor or for another account is another request; with other fields
    // it is a mistake.
    let issue = keys.issue("acme").by(Actor::user("bob"));
    issue.idempotency_key("order 7").await.unwrap();
    let issue = keys.issue("globex").by(Actor::user("alice"));
    issue.idempotency_key("order 7").await.unwrap();
    let other = request(keys).name("import").await.unwrap_err();
    assert!(matches!(other, IssueError::OtherRequest { key } if key == first.id()));
    let other = request(keys)
        .expires_in(2 * DAY)
        .reissue()
        .await
        .unwrap_err();
    assert!(matches!(other, IssueError::OtherRequest { key } if key == first.id()));
    let empty = keys.issue("acme").idempotency_key("").await.unwrap_err();
    assert!(matches!(empty, IssueError::NoIdempotencyKey));
    let missing = keys.issue("acme").reissue().await.unwrap_err();
    assert!(matches!(missing, IssueError::NoIdempotencyKey));

    // The answer was lost. Within the first minute, the key may be in use in another process.
    let early = request(keys).reissue().await.unwrap_err();
    let IssueError::TooEarly { key, retry_after } = early else {
        panic!("{early:?}")
    };
    assert_eq!(key, first.id());
    clock.advance(retry_after);
    let at_once = (0..10).map(|number| {
        let issue = request(&processes[number % 2]).reissue();
        tokio::spawn(issue.into_future())
    });
    let mut second = None;
    for result in join_all(at_once).await {
        match result.unwrap() {
            Ok(key) => assert!(second.replace(key).is_none(), "there is one key"),
            Err(IssueError::TooEarly { .. }) => {} // the rival's key is new
            Err(error) => panic!("{error:?}"),
        }
    }
    let second = second.unwrap();
    let lost = store.find_committed(&first.id()).await.unwrap().unwrap();
    assert!(lost.revoked().is_some());
    assert!(keys.verify(second.expose_secret()).await.is_ok());
    assert!(keys.verify(first.expose_secret()).await.is_err());
    let again = request(keys).await.unwrap_err();
    assert!(matches!(again, IssueError::AlreadyIssued { key } if key == second.id()));
    // Somebody has the key.
    clock.advance(Duration::from_secs(61));
    record_use(&store, second.id(), keys.now()).await;
    let used = request(keys).reissue().await.unwrap_err();
    assert!(matches!(used, IssueError::KeyUsed { key } if key == second.id()));
    // One that was revoked or rotated is not put in the place of by a repetition.
    keys.rotate(second.id()).await.unwrap();
    let rotated = request(keys).reissue().await.unwrap_err();
    assert!(matches!(rotated, IssueError::KeyChanged { key } if key == second.id()));
    // With the key, its request is forgotten.
    clock.advance(400 * DAY);
    keys.purge(DAY).await.unwrap();
    request(keys).await.unwrap();
}

pub async fn record_use(store: &impl ManagedKeyStore, id: KeyId, at: SystemTime) {
    let usage = KeyUsage::new(id, "acme", UsagePeriod::Day(1)).used_at(at);
    let node = *KeyDigest::of(&format!("{id} {at:?}")).id().as_bytes();
    let batch = UsageBatch::new(node, 1, [usage]).unwrap();
    store.record_usage(&batch).await.unwrap();
}

/// A reissue under a cap frees the place of the key that it revokes.
pub async fn a_reissue_fits_under_the_cap<S: ManagedKeyStore + Clone>(store: S) {
    let clock = clock();
    let keys = build(store, &clock, IssuePolicy::new().max_keys_per_account(1));
    let request = || keys.issue("acme").idempotency_key("1");
    request().await.unwrap();
    clock.advance(Duration::from_secs(60));
    let full = keys.issue("acme").await.unwrap_err();
    assert!(matches!(full, IssueError::Policy(_)));
    let key = request().reissue().await.unwrap();
    let rotated = keys.rotate(key.id()).await.unwrap();
    clock.advance(Duration::from_secs(60));
    let replaced = keys.rotate(key.id()).replacing_unused().await.unwrap();
    assert_ne!(rotated.id(), replaced.id());
    let refused = keys.rotate(key.id()).await.unwrap_err();
    assert!(matches!(refused, RotateError::AlreadyRotated { .. }));
}
