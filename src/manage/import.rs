//! Import of keys that were issued elsewhere.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::future::IntoFuture;

use crate::key::digest::{KeyDigest, KeyId};
use crate::key::record::KeyRecord;
use crate::key::text::KeyRecordError;
use crate::manage::policy::PolicyError;
use crate::manage::{BoxFuture, Manager};
use crate::store::{Action, Change, Origin, Paging, StoreError, StoreErrorKind, TrailQuery};

/// The keys of one commit.
const AT_ONCE: usize = 500;

/// The number of attempts at a commit, in case somebody else imports the same keys meanwhile.
const ATTEMPTS: usize = 4;

/// An import of keys, carried out when awaited: [`ApiKeys::import`](crate::ApiKeys::import).
///
/// Returns the number of keys that were imported, and of those that existed already. Existing keys
/// are left as they are, so an import can be repeated: after an error, or while keys are still
/// issued elsewhere.
///
/// Keys are committed 500 at a time, each batch as a whole or not at all. If a
/// [`PepperRing`](crate::key::PepperRing) is set, a verifier without a pepper gets the current one.
///
/// ```
/// # use tower_api_key::key::KeyDigest;
/// # use tower_api_key::store::Actor;
/// # use tower_api_key::{ApiKeys, KeyRecord};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let keys = ApiKeys::in_memory();
/// # let rows = vec![("ab".repeat(32), "acme")];
/// let records = rows.into_iter().map(|(sha256, account)| {
///     let digest = KeyDigest::from_hex(&sha256).expect("64 hex digits");
///     KeyRecord::imported(digest, account)
/// });
/// let imported = keys.import(records).by(Actor::user("ops@example.com")).await?;
/// println!("{} imported, {} were there", imported.created, imported.existing);
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing is imported until this is awaited"]
pub struct ImportKeys {
    manager: Manager,
    origin: Origin,
    records: Box<dyn Iterator<Item = KeyRecord> + Send>,
}

/// The result of an import.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Imported {
    /// The keys that were imported.
    pub created: u64,
    /// The keys that existed already, or came twice.
    pub existing: u64,
}

/// An error for an import that was not completed. The keys before the faulty one, or before the
/// outage, may have been imported.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// A record has a value that not every store can keep.
    #[error("the key {id} cannot be imported")]
    Invalid {
        /// The key.
        id: KeyId,
        /// The reason.
        #[source]
        source: KeyRecordError,
    },
    /// The verifier has no pepper, and is not the digest of the key with this id: no request would
    /// ever match.
    #[error("the verifier of the key {0} is not its digest: see KeyRecord::imported")]
    NotItsDigest(KeyId),
    /// The policy of issuing does not allow the key.
    #[error("the key {id} cannot be imported")]
    Policy {
        /// The key.
        id: KeyId,
        /// The violation.
        #[source]
        source: PolicyError,
    },
    /// The store failed. Repeat the import.
    #[error("the keys could not be imported")]
    Store(#[from] StoreError),
}

impl ImportKeys {
    pub(crate) fn new(
        manager: Manager,
        records: impl Iterator<Item = KeyRecord> + Send + 'static,
    ) -> Self {
        Self {
            manager,
            origin: Origin::default(),
            records: Box::new(records),
        }
    }

    /// Sets the origin of the change, for the audit trail. Default: unknown.
    pub fn by(mut self, origin: impl Into<Origin>) -> Self {
        self.origin = origin.into();
        self
    }

    async fn import(mut self) -> Result<Imported, ImportError> {
        let mut imported = Imported::default();
        loop {
            let mut batch = Vec::new();
            let mut ids = HashSet::new();
            for record in self.records.by_ref().take(AT_ONCE) {
                if ids.insert(record.id()) {
                    batch.push(self.manager.prepare(record, &self.origin)?);
                } else {
                    imported.existing += 1;
                }
            }
            if batch.is_empty() {
                return Ok(imported);
            }
            let created = self.manager.import_batch(&self.origin, &batch).await?;
            imported.created += created;
            imported.existing += batch.len() as u64 - created;
        }
    }
}

impl Manager {
    /// Imports a batch in one commit, or, if an account has reached its cap, account by account.
    async fn import_batch(&self, origin: &Origin, batch: &[KeyRecord]) -> Result<u64, ImportError> {
        match self.import(origin, batch).await {
            Err(ImportError::Store(error)) if error.kind() == StoreErrorKind::CapReached => {}
            result => return result,
        }
        let mut by_account: BTreeMap<&str, Vec<KeyRecord>> = BTreeMap::new();
        for record in batch {
            let of_account = by_account.entry(record.account()).or_default();
            of_account.push(record.clone());
        }
        let mut created = 0;
        for (account, records) in by_account {
            created += match self.import(origin, &records).await {
                Err(ImportError::Store(error)) if error.kind() == StoreErrorKind::CapReached => {
                    return Err(ImportError::Policy {
                        id: records[0].id(),
                        source: self.policy.too_many_keys(account),
                    });
                }
                result => result?,
            };
        }
        Ok(created)
    }

    /// Checks a record against the policy, and gives it the current pepper. A record that is dead
    /// may break the policy.
    fn prepare(&self, record: KeyRecord, origin: &Origin) -> Result<KeyRecord, ImportError> {
        let now = self.shared.now();
        let is_dead =
            record.revoked().is_some() || record.expires_at().is_some_and(|end| end <= now);
        if !is_dead {
            let checked = self.policy.check_record(&origin.actor, &record, now);
            let id = record.id();
            checked.map_err(|source| ImportError::Policy { id, source })?;
        }
        let verifier = record.verifier();
        if verifier.pepper().is_some() {
            return Ok(record);
        }
        let digest = KeyDigest::from_bytes(*verifier.as_bytes());
        if digest.id() != record.id() {
            return Err(ImportError::NotItsDigest(record.id()));
        }
        Ok(record.with_verifier(self.shared.peppers.verifier(&digest)))
    }

    /// Commits those records that do not exist, and returns their number.
    async fn import(&self, origin: &Origin, records: &[KeyRecord]) -> Result<u64, ImportError> {
        let mut missing = records.to_vec();
        let mut attempt = 1;
        loop {
            if missing.is_empty() {
                return Ok(0);
            }
            let change = self.import_change(origin, &missing)?;
            match self.commit(change).await {
                Ok(()) => return Ok(missing.len() as u64),
                Err(error) if error.kind() != StoreErrorKind::AlreadyExists => {
                    return Err(error.into());
                }
                Err(error) if attempt == ATTEMPTS => return Err(error.into()),
                Err(_) => attempt += 1,
            }
            let mut others = Vec::new();
            for record in &missing {
                if !self.exists(&record.id()).await? {
                    others.push(record.clone());
                }
            }
            missing = others;
        }
    }

    /// Returns whether a key exists, or did: one that was purged is not imported again for as long
    /// as its trail is kept.
    async fn exists(&self, id: &KeyId) -> Result<bool, ImportError> {
        if self.store.find_committed(id).await?.is_some() {
            return Ok(true);
        }
        let trail = TrailQuery::new().with_key(*id);
        match self.store.trail(&trail, &Paging::first(1)).await {
            Ok(page) => Ok(!page.items.is_empty()),
            // It keeps no trail.
            Err(error) if error.kind() == StoreErrorKind::Refused => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn import_change(&self, origin: &Origin, records: &[KeyRecord]) -> Result<Change, ImportError> {
        let now = self.shared.now();
        let mut change = Change::new(origin.clone(), now);
        let mut accounts = BTreeMap::new();
        for record in records {
            let id = record.id();
            accounts.entry(record.account()).or_insert(id);
            let created = change.create(Action::IMPORTED, record.clone());
            change = created.map_err(|source| ImportError::Invalid { id, source })?;
        }
        for (account, id) in accounts {
            if let Some(cap) = self.policy.cap(account, now) {
                let capped = change.add_cap(cap);
                change = capped.map_err(|source| ImportError::Invalid { id, source })?;
            }
        }
        Ok(change)
    }
}

impl IntoFuture for ImportKeys {
    type Output = Result<Imported, ImportError>;
    type IntoFuture = BoxFuture<Result<Imported, ImportError>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.import())
    }
}

impl fmt::Debug for ImportKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImportKeys")
            .field("manager", &self.manager)
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}
