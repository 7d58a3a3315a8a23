//! The suite for read-only stores.

use crate::conformance::promise::Promise;
use crate::conformance::records::{Digests, same};
use crate::key::digest::KeyId;
use crate::key::record::KeyRecord;
use crate::store::KeyStore;
use crate::util::join_all::join_all;

const ANSWERS: Promise = Promise("a live store answers");
const FOUND: Promise = Promise("a record is found as it is kept");
const NONE: Promise = Promise("an id that is not kept is not found");

/// Tests a [`KeyStore`] with records that it holds.
///
/// - Each record is found by its id, with all fields as given, and times to the microsecond.
///   Repeated and concurrent lookups return the same.
/// - An id that the store does not hold is `None`, even if it differs from another id in one bit.
///
/// ```
/// use tower_api_key::key::KeyDigest;
/// use tower_api_key::{conformance, KeyRecord, MemoryStore};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let known = KeyRecord::imported(KeyDigest::of("a key of the test database"), "acme");
/// let store: MemoryStore = [known.clone()].into_iter().collect();
/// conformance::key_store(&store, &[known]).await;
/// # }
/// ```
///
/// # Panics
/// If a promise is broken, or the store fails.
pub async fn key_store<S: KeyStore>(store: &S, records: &[KeyRecord]) {
    let find = async |id: &KeyId| ANSWERS.answer(store.find(id).await, "find");
    for record in records {
        same(FOUND, find(&record.id()).await.as_ref(), record);
        for near in near(record.id()) {
            if records.iter().any(|record| record.id() == near) {
                continue;
            }
            let found = find(&near).await;
            NONE.holds(
                found.is_none(),
                format_args!("{near} brings {:?}", found.map(|record| record.id())),
            );
        }
    }
    let unknown = Digests::new().id();
    let found = find(&unknown).await;
    NONE.holds(found.is_none(), format_args!("{unknown} is found"));

    let all = records
        .iter()
        .map(|record| async { store.find(&record.id()).await });
    for (record, found) in records.iter().zip(join_all(all).await) {
        same(FOUND, ANSWERS.answer(found, "find").as_ref(), record);
    }
}

/// Returns ids that differ from an id in one bit, at the ends and next to the middle.
fn near(id: KeyId) -> impl Iterator<Item = KeyId> {
    [0, 7, 8, 15].into_iter().map(move |at| {
        let mut bytes = *id.as_bytes();
        bytes[at] ^= 1;
        KeyId::from_bytes(bytes)
    })
}
