//! Keys of a table that exists already: one method, and nothing is migrated.
//!
//! The table is a sorted map here; in yours, `range` is a `BETWEEN` over a unique index on the
//! SHA-256 of the keys. `cargo run --example custom_store`, then
//! `curl -i http://127.0.0.1:3000/ -H 'X-API-Key: 0af6b3a8-1f0e-4a63-9b9e-6f1d4c1e2a77'`.

use std::collections::BTreeMap;
use std::time::SystemTime;

use axum::{Router, routing::get};
use tower_api_key::{
    Alphabet, ApiKeys, Environment, KeyDigest, KeyFormat, KeyId, KeyRecord, KeyStore, Revocation,
    StoreError,
};

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

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let sha256 = KeyDigest::of("0af6b3a8-1f0e-4a63-9b9e-6f1d4c1e2a77").to_hex();
    let acme = Row {
        account: "acme".to_owned(),
        revoked_at: None,
    };
    let table = MyTable {
        rows: [(sha256, acme)].into(),
    };
    // Nothing tells a UUID from a user's token: such keys are looked for in X-API-Key, and under
    // `Authorization: ApiKey`, but not as Bearer tokens.
    let uuids = KeyFormat::imported("", Alphabet::UUID, 36..=36, Environment::LIVE)?;
    let keys = ApiKeys::read_only(table).formats([uuids]).build()?;

    let app = Router::new()
        .route("/", get(|| async { "hello\n" }))
        .layer(keys.layer());
    let port: u16 = std::env::var("PORT").map_or(Ok(3000), |port| port.parse())?;
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app).await?;
    Ok(())
}
