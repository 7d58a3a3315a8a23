//! Keys of which only an Argon2 hash was kept, taken over without asking anybody for a new key.
//!
//! `cargo run --release --example adopt` verifies an old key twice: by Argon2 the first time, and by
//! its SHA-256 from then on.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use argon2::Argon2;
use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use tower_api_key::key::{Alphabet, KeyDigest, KeyFormat};
use tower_api_key::manage::KeyToAdopt;
use tower_api_key::store::StoreError;
use tower_api_key::{ApiKeys, Environment, KeyRecord, MemoryStore, Quota};

type Error = Box<dyn std::error::Error>;

/// A row of the old table. It is found by the first eight digits of the key.
#[derive(Clone)]
struct OldKey {
    account: String,
    argon2: String,
}

#[derive(Clone)]
struct OldTable(Arc<HashMap<String, OldKey>>);

impl OldTable {
    /// Returns the account of a key, after what takes long.
    async fn verify(&self, key: KeyToAdopt) -> Result<Option<String>, StoreError> {
        let public = key.expose_secret().get(5..13).unwrap_or_default();
        let Some(row) = self.0.get(public).cloned() else {
            return Ok(None); // no hash for a key that cannot exist
        };
        // With the key, whose turn ends with the hash.
        let work = tokio::task::spawn_blocking(move || {
            let hash = PasswordHash::new(&row.argon2).ok()?;
            let secret = key.expose_secret().as_bytes();
            let is_right = Argon2::default().verify_password(secret, &hash).is_ok();
            is_right.then_some(row.account)
        });
        work.await.map_err(StoreError::unavailable)
    }
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let key = "acme-0123456789abcdef0123456789abcdef01234567";
    let old = OldTable(Arc::new(HashMap::from([old_row(key, "acme")?])));

    let format = KeyFormat::imported("acme-", Alphabet::HEX, 40..=40, Environment::LIVE)?;
    let keys = ApiKeys::builder(MemoryStore::new())
        .failed_attempts(Quota::per_minute(30)) // before anything is computed for a stranger
        .dangerous_adopt(format, move |key| {
            let old = old.clone();
            async move {
                let digest = KeyDigest::of(key.expose_secret());
                let account = old.verify(key).await?;
                Ok(account.map(|account| KeyRecord::imported(digest, account)))
            }
        })
        .build()?;

    for time in ["the first time", "from then on"] {
        let begun = Instant::now();
        let caller = keys.verify(key).await?;
        println!("{time}: {} in {:?}", caller.account(), begun.elapsed());
    }
    let stranger = keys
        .verify("acme-0123456700000000000000000000000000000000")
        .await;
    println!(
        "a stranger: {}",
        stranger.err().map_or("admitted", |it| it.code())
    );
    Ok(())
}

fn old_row(key: &str, account: &str) -> Result<(String, OldKey), Error> {
    let salt = SaltString::from_b64("c29tZXNhbHRzb21lc2FsdA")?;
    let argon2 = Argon2::default().hash_password(key.as_bytes(), &salt)?;
    let row = OldKey {
        account: account.to_owned(),
        argon2: argon2.to_string(),
    };
    Ok((key[5..13].to_owned(), row))
}
