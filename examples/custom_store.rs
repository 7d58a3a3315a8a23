//! Keys of a table that exists already: one method, and nothing is migrated.
//!
//! The table is a sorted map here; in yours, `range` is a `BETWEEN` over a unique index on the
//! SHA-256 of the keys. `cargo run --example custom_store --features conformance` runs the suite of
//! the port against it, and then verifies two keys.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use tower_api_key::key::{Alphabet, KeyDigest, KeyFormat, Revocation};
use tower_api_key::store::StoreError;
use tower_api_key::{ApiKeys, Environment, KeyId, KeyRecord, KeyStore, conformance};

struct MyTable {
    /// By the SHA-256 of the key, in lower-case hex.
    rows: BTreeMap<String, Row>,
}

struct Row {
    account: String,
    revoked_at: Option<SystemTime>,
}

impl KeyStore for MyTable {
    async fn find(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        let (first, last) = id.hex_range();
        let Some((sha256, row)) = self.rows.range(first..=last).next() else {
            return Ok(None);
        };
        let digest = KeyDigest::from_hex(sha256).ok_or(StoreError::corrupt("key_sha256"))?;
        let mut record = KeyRecord::imported(digest, &row.account);
        // What stopped the key is told, too. `None` would say that there never was one.
        if let Some(at) = row.revoked_at {
            record = record.with_revoked(Revocation::new(at));
        }
        Ok(Some(record))
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (key, stopped) = (
        "0af6b3a8-1f0e-4a63-9b9e-6f1d4c1e2a77",
        "5d0c6f0e-6f0b-4a57-8a53-0d3f5b7a9c11",
    );
    let yesterday = SystemTime::now() - Duration::from_secs(86_400);
    let row = |account: &str, revoked_at| Row {
        account: account.to_owned(),
        revoked_at,
    };
    let table = MyTable {
        rows: [
            (KeyDigest::of(key).to_hex(), row("acme", None)),
            (
                KeyDigest::of(stopped).to_hex(),
                row("globex", Some(yesterday)),
            ),
        ]
        .into(),
    };
    // In a test of yours, with records that the table of the test holds.
    let held = KeyRecord::imported(KeyDigest::of(key), "acme");
    conformance::key_store(&table, &[held]).await;

    // Nothing tells a UUID from a user's token: such keys are looked for in X-API-Key, and under
    // `Authorization: ApiKey`, but not as Bearer tokens.
    let uuids = KeyFormat::imported("", Alphabet::UUID, 36..=36, Environment::LIVE)?;
    let keys = ApiKeys::read_only(table).formats([uuids]).build()?;
    // `keys.layer()` goes around a service; this asks without one.
    println!("the key of {}", keys.verify(key).await?.account());
    if let Err(rejection) = keys.verify(stopped).await {
        println!("the other one: {rejection}");
    }
    Ok(())
}
