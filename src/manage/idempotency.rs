//! Idempotent issuing: a repeated request for a key issues no second one.

use std::time::SystemTime;

use sha2::{Digest, Sha256};

use crate::key::record::KeyRecord;
use crate::manage::Manager;
use crate::manage::issue_error::IssueError;
use crate::manage::unused::Possession;
use crate::store::{Actor, IssueRequest};

/// The hashes that stand for a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct RequestHashes {
    /// The hash of the idempotency key, the actor and the account.
    pub(super) id: [u8; 32],
    /// The hash of the fields that were asked for.
    pub(super) fingerprint: [u8; 32],
}

impl RequestHashes {
    /// Hashes a request. `fields` are those that were asked for, in writing.
    pub(super) fn new(idempotency_key: &str, actor: &Actor, account: &str, fields: &str) -> Self {
        Self {
            id: hash(&[actor.kind.as_str(), &actor.id, account, idempotency_key]),
            fingerprint: hash(&[fields]),
        }
    }
}

/// Hashes texts, each with its length, which separates it from the next one.
fn hash(texts: &[&str]) -> [u8; 32] {
    let mut sha256 = Sha256::new();
    for text in texts {
        sha256.update((text.len() as u64).to_be_bytes());
        sha256.update(text.as_bytes());
    }
    sha256.finalize().into()
}

impl Manager {
    /// Looks whether a key was issued for a request before. Returns the key to replace, if
    /// `reissues` is set and nobody has that key.
    pub(super) async fn issued_before(
        &self,
        request: &RequestHashes,
        reissues: bool,
        now: SystemTime,
    ) -> Result<Option<KeyRecord>, IssueError> {
        let Some(mut known) = self.store.find_request(&request.id).await? else {
            return Ok(None);
        };
        let issued = loop {
            let issued = self.find_newest(&known.key).await?;
            // One that was changed since is somebody's business already.
            let issued = issued.filter(|issued| {
                issued.version() == 1 && issued.expires_at().is_none_or(|end| end > now)
            });
            if issued.is_some() {
                break issued;
            }
            // A rival may have put another key in its place between the two calls.
            let newest = self.store.find_request(&request.id).await?;
            match newest.filter(|newest| newest.key != known.key) {
                Some(newest) => known = newest,
                None => break None,
            }
        };
        let IssueRequest {
            fingerprint,
            key,
            at,
            ..
        } = known;
        if fingerprint != request.fingerprint {
            return Err(IssueError::OtherRequest { key });
        }
        if !reissues {
            return Err(IssueError::AlreadyIssued { key });
        }
        let Some(issued) = issued else {
            return Err(IssueError::KeyChanged { key });
        };
        match self.possession(&key, at, now).await? {
            Possession::Nobody => Ok(Some(issued)),
            Possession::Somebody => Err(IssueError::KeyUsed { key }),
            Possession::Unknown(retry_after) => Err(IssueError::TooEarly { key, retry_after }),
        }
    }
}
