//! Keys that an application is given at its start, alone and beside those of a store.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::error::Error;
use std::process::Command;

use http::Request;
use support::trouble::TroubledStore;
use support::{call, echoing, today};
use tower_api_key::clock::ManualClock;
use tower_api_key::key::KeyDigest;
use tower_api_key::manage::ChangeError;
use tower_api_key::store::{StaticKeysError, StaticStore, StoreChain, StoreError, StoreErrorKind};
use tower_api_key::{ApiKeyLayer, ApiKeys, KeyRecord, ManagedKeyStore, Scope};

const KEY: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const OTHER: &str = "1123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

async fn status(layer: &ApiKeyLayer, name: &str, value: &str) -> u16 {
    let request = Request::builder().header(name, value).body(()).unwrap();
    call(echoing(layer), request).await.status().as_u16()
}

#[tokio::test]
async fn a_key_from_a_text_is_accepted() {
    let text = format!(
        "admin acme admin = {KEY}; old acme = sha256:{}",
        "01234567".repeat(8)
    );
    let refused = StaticStore::from_text(&text).err();
    assert!(refused.is_none(), "{refused:?}");
    let store = StaticStore::from_text(&format!("admin acme admin = {KEY}")).unwrap();
    let keys = ApiKeys::read_only(store.clone()).formats(StaticStore::formats());
    let layer = keys
        .build()
        .unwrap()
        .layer()
        .require(Scope::from_static("admin"));
    assert_eq!(status(&layer, "x-api-key", KEY).await, 200);
    assert_eq!(
        status(&layer, "authorization", &format!("ApiKey {KEY}")).await,
        200
    );
    assert_eq!(status(&layer, "x-api-key", OTHER).await, 401);
    // It could be a user's token.
    assert_eq!(
        status(&layer, "authorization", &format!("Bearer {KEY}")).await,
        401
    );
    let id = KeyDigest::of(KEY).id();
    assert_eq!(
        store.place_of(&id).unwrap(),
        "line 1 of the text of the store"
    );
    assert_eq!(store.place_of(&KeyDigest::of(OTHER).id()), None);
    let shown = format!("{store:?} {store}");
    assert!(!shown.contains(&KEY[..16]), "{shown}");
}

/// In a process of its own, since a test cannot set a variable of its process safely.
#[test]
fn a_key_from_the_environment_is_read() {
    if std::env::var("STATIC_KEYS_CHILD").is_ok() {
        let store = StaticStore::from_env("STATIC_KEYS_CHILD").unwrap();
        let place = store.place_of(&KeyDigest::of(KEY).id()).unwrap();
        assert_eq!(
            place,
            "line 2 of the environment variable STATIC_KEYS_CHILD"
        );
        return;
    }
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_key_from_the_environment_is_read"])
        .env("STATIC_KEYS_CHILD", format!("# keys\nadmin acme = {KEY}"))
        .output()
        .unwrap();
    assert!(child.status.success(), "{child:?}");
    let missing = StaticStore::from_env("STATIC_KEYS_CHILD").unwrap_err();
    assert!(matches!(&missing, StaticKeysError::Variable(it) if it == "STATIC_KEYS_CHILD"));
    let empty = StaticStore::from_text("# none").unwrap_err();
    assert_eq!(
        empty.to_string(),
        "there is no key in the text of the store"
    );
}

#[tokio::test]
async fn reloading_a_file_reports_the_changed_keys() {
    let directory = std::env::temp_dir().join(format!("static-keys-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join("keys");
    let write = |text: &str| std::fs::write(&path, text).unwrap();
    write(&format!("admin acme = {KEY}\nci acme = {OTHER}"));
    let store = StaticStore::from_file(&path).unwrap();
    let keys = ApiKeys::read_only(store.clone()).formats(StaticStore::formats());
    let keys = keys.build().unwrap();
    let layer = keys.layer();
    let both = async || {
        let at = "x-api-key";
        [
            status(&layer, at, KEY).await,
            status(&layer, at, OTHER).await,
        ]
    };
    let reload = || {
        let changed = store.reload().unwrap();
        for id in &changed {
            keys.invalidate(id);
        }
        changed
    };
    assert_eq!(both().await, [200, 200]);
    assert_eq!(reload(), []);
    write(&format!("# without ci\nadmin acme = {KEY}"));
    assert_eq!(both().await, [200, 200]);
    assert_eq!(reload(), [KeyDigest::of(OTHER).id()]);
    assert_eq!(both().await, [200, 401]);
    // What cannot be read changes nothing, and shows no key.
    write(&format!("admin acme = {KEY}\n{OTHER}"));
    let error = store.reload().unwrap_err().to_string();
    let place = format!("line 2 of the file {}", path.display());
    assert!(
        error.starts_with(&place) && !error.contains(&OTHER[..8]),
        "{error}"
    );
    assert_eq!(both().await, [200, 401]);
    write(&format!("admin acme admin = {KEY}\nci acme = {OTHER}"));
    assert_eq!(reload().len(), 2);
    assert_eq!(both().await, [200, 200]);
    std::fs::remove_dir_all(&directory).unwrap();
    assert!(matches!(
        store.reload().unwrap_err(),
        StaticKeysError::File { .. }
    ));
    assert_eq!(both().await, [200, 200]);
}

/// Its kind, and what it says with all that caused it.
fn told(error: &StoreError) -> (StoreErrorKind, String) {
    let source = error.source().map(ToString::to_string).unwrap_or_default();
    (error.kind(), format!("{error}: {source}"))
}

#[tokio::test]
async fn a_chain_finds_keys_of_every_store_and_an_outage_is_not_a_miss() {
    let clock = ManualClock::at(today());
    let managed = TroubledStore::new(&clock);
    let fixed = StaticStore::from_text(&format!("admin acme = {KEY}")).unwrap();
    let chain = StoreChain::new(managed.clone(), fixed.clone(), fixed.to_string());
    let builder = ApiKeys::builder(chain.clone()).clock(clock);
    let keys = builder.formats(StaticStore::formats()).build().unwrap();
    let issued = keys.issue("acme").await.unwrap();
    let layer = keys.layer();
    let secret = issued.expose_secret();
    assert_eq!(status(&layer, "x-api-key", secret).await, 200);
    assert_eq!(status(&layer, "x-api-key", KEY).await, 200);
    assert_eq!(status(&layer, "x-api-key", OTHER).await, 401);
    // An outage says of no key that it is none.
    keys.invalidate_all();
    managed.fails();
    for key in [secret, KEY, OTHER] {
        assert_eq!(status(&layer, "x-api-key", key).await, 503);
    }
    managed.gets_well();
    // A key that stands in a variable cannot be revoked.
    let id = KeyDigest::of(KEY).id();
    let ChangeError::Store(error) = keys.revoke(id).await.unwrap_err() else {
        panic!("it is an error of the store");
    };
    let expected = "the key stands where it cannot be changed: the key stands in the text of the store: change it there";
    assert_eq!(
        told(&error),
        (StoreErrorKind::ReadOnly, expected.to_owned())
    );
    assert_eq!(status(&layer, "x-api-key", KEY).await, 200);
    keys.revoke(issued.id()).await.unwrap();
    assert_eq!(status(&layer, "x-api-key", secret).await, 401);
    // Nor can one be created that stands there, or stand in both.
    let twice = KeyRecord::imported(KeyDigest::of(KEY), "evil");
    let error = chain
        .commit(&support::creates(twice.clone()))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::ReadOnly);
    managed.commit(&support::creates(twice)).await.unwrap();
    keys.invalidate_all();
    assert_eq!(status(&layer, "x-api-key", KEY).await, 503);
    let ChangeError::Store(error) = keys.revoke(id).await.unwrap_err() else {
        panic!("it is an error of the store");
    };
    let expected = "the key store holds a record that cannot be read: a key is in the store and in the text of the store";
    assert_eq!(told(&error), (StoreErrorKind::Corrupt, expected.to_owned()));
}

#[cfg(feature = "conformance")]
#[tokio::test]
async fn a_chain_passes_the_conformance_suite_of_its_first_store() {
    let fixed = StaticStore::from_text(&format!("admin acme = {KEY}")).unwrap();
    let chain = StoreChain::new(tower_api_key::MemoryStore::new(), fixed, "the environment");
    tower_api_key::conformance::managed_key_store(&chain).await;
}
