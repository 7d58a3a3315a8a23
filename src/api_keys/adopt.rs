//! The setting by which the application verifies keys that are not in the store yet.

use std::future::Future;
use std::sync::Arc;

use super::ApiKeysBuilder;
use crate::cache::adoption::{Adopter, KeyToAdopt};
use crate::key::format::KeyFormat;
use crate::key::record::KeyRecord;
use crate::store::StoreError;

impl ApiKeysBuilder {
    /// Lets the application verify keys of a format that the store does not know: keys of which
    /// only a slow hash (Argon2, bcrypt) was kept, for example. The format is added to the
    /// [formats](Self::formats). Default: none.
    ///
    /// `adopt` gets the presented key. It finds the old row, by a public part of the key, verifies
    /// the key, and returns the record of
    /// [`KeyRecord::imported`]`(KeyDigest::of(key.expose_secret()), account)`, or `None` if there
    /// is no such key. The record is committed, and from then on the key is verified by its
    /// SHA-256, like any other. The old row is not needed any more.
    ///
    /// As many keys as there are processors are verified at once; others wait for their turn, at
    /// most five seconds, and are answered with 503 after that. An error of `adopt` is answered
    /// with 503, too. Unknown keys count as [failed attempts](Self::failed_attempts) before `adopt`
    /// is called: set a limit of those.
    ///
    /// Danger: `adopt` sees plaintext keys, and anybody can make it compute. Hash in
    /// `tokio::task::spawn_blocking`, since a slow hash would keep other requests of the same
    /// thread waiting, and move the [`KeyToAdopt`] there: its turn ends when it is dropped. A key
    /// must have at least 112 bits of entropy, since its SHA-256 is in the table from then on:
    /// never adopt passwords.
    ///
    /// ```
    /// use tower_api_key::key::{Alphabet, KeyDigest, KeyFormat};
    /// use tower_api_key::manage::KeyToAdopt;
    /// use tower_api_key::{ApiKeys, Environment, KeyRecord, MemoryStore};
    /// # use tower_api_key::Quota;
    /// # async fn verified(_: KeyToAdopt) -> Option<String> { None }
    ///
    /// let old = KeyFormat::imported("acme-", Alphabet::HEX, 40..=40, Environment::LIVE)?;
    /// let keys = ApiKeys::builder(MemoryStore::new())
    ///     .failed_attempts(Quota::per_minute(30))
    ///     .dangerous_adopt(old, |key: KeyToAdopt| async move {
    ///         let digest = KeyDigest::of(key.expose_secret());
    ///         let account = verified(key).await; // by the old table
    ///         Ok(account.map(|account| KeyRecord::imported(digest, account)))
    ///     })
    ///     .build()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn dangerous_adopt<F, Fut>(mut self, format: KeyFormat, adopt: F) -> Self
    where
        F: Fn(KeyToAdopt) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Option<KeyRecord>, StoreError>> + Send + 'static,
    {
        let adopter: Arc<Adopter> = Arc::new(move |key| Box::pin(adopt(key)));
        self.adopted.push((format, adopter));
        self
    }
}
