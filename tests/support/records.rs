//! Records and keys, and how they get into a store behind the back of those who ask it.

use tower_api_key::key::{KeyDigest, KeyFormat, Revocation};
use tower_api_key::store::{Action, Actor, Change, StoreError};
use tower_api_key::{Environment, KeyId, KeyRecord, KeyStore, ManagedKeyStore, MemoryStore};

use super::{at_once, today};

/// A change that creates a record.
pub fn creates(record: KeyRecord) -> Change {
    let change = Change::new(Actor::default(), today());
    change.create(Action::IMPORTED, record).unwrap()
}

/// A change that updates the version before that of a record.
pub fn updates(record: KeyRecord) -> Change {
    let seen = record.clone().with_version(record.version() - 1);
    let change = Change::new(Actor::default(), today());
    change.update(Action::UPDATED, &seen, record).unwrap()
}

/// Creates a record in a store.
pub fn create_in(store: &MemoryStore, record: KeyRecord) {
    at_once(store.commit(&creates(record))).unwrap();
}

/// Changes a record in a store, and raises its version.
pub fn change_in(store: &MemoryStore, id: KeyId, change: impl FnOnce(KeyRecord) -> KeyRecord) {
    let record = at_once(store.find(&id)).unwrap().unwrap();
    let version = record.version() + 1;
    let change = updates(change(record).with_version(version));
    at_once(store.commit(&change)).unwrap();
}

pub fn revoke_in(store: &MemoryStore, id: KeyId) {
    change_in(store, id, |record| {
        record.with_revoked(Revocation::new(today()))
    });
}

/// The record of a key of the account `acme`.
pub fn imported(key: &str) -> KeyRecord {
    KeyRecord::imported(KeyDigest::of(key), "acme")
}

/// Keys that are well-formed and not issued.
pub fn strangers() -> impl Iterator<Item = String> {
    let format = KeyFormat::new("sk_live", Environment::LIVE).unwrap();
    std::iter::repeat_with(move || format.generate().unwrap().expose_secret().to_owned())
}

pub fn stranger() -> String {
    strangers().next().unwrap()
}

/// A store that is down.
pub struct Down;

impl KeyStore for Down {
    async fn find(&self, _: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        Err(StoreError::unavailable("connection refused"))
    }
}
