//! The master secrets, from which the secrets of endpoints are derived.

use std::fmt;
use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

use super::secret::WebhookSecret;

/// Separates these secrets from all else that a master may be used for, and from later versions.
const LABEL: &[u8] = b"tower-api-key webhook v1";

/// The ring of named master secrets, from which the secrets of endpoints are derived.
///
/// The secret of an endpoint is an HMAC of its facts under a master, so a database has none to
/// leak. Keep masters outside of it, such as in the environment or a secret manager: whoever has a
/// master can sign for every endpoint that names it.
///
/// New endpoints use the current master. A retired one is kept for the endpoints that name it: if
/// it is taken out, their secrets cannot be derived any more.
///
/// ```
/// use tower_api_key::webhook::WebhookMasters;
///
/// # fn secret(_: &str) -> [u8; 32] { [7; 32] }
/// let masters = WebhookMasters::new("2026-11", &secret("WEBHOOK_MASTER_2026_11"))?
///     .with_retired("2025-11", &secret("WEBHOOK_MASTER_2025_11"))?;
/// assert_eq!(masters.current(), "2026-11");
/// assert!(masters.names().eq(["2026-11", "2025-11"]));
/// # Ok::<(), tower_api_key::webhook::MasterError>(())
/// ```
#[derive(Clone)]
pub struct WebhookMasters {
    current: Master,
    retired: Vec<Master>,
}

impl WebhookMasters {
    /// Creates a ring with its current master: at least 32 random bytes from a secret store.
    ///
    /// Endpoints are stored with the name: 1 to 64 characters of `a-z`, `0-9`, `.`, `_` and `-`.
    pub fn new(name: &str, master: &[u8]) -> Result<Self, MasterError> {
        Ok(Self {
            current: Master::new(name, master)?,
            retired: Vec::new(),
        })
    }

    /// Adds a retired master, for the endpoints that still name it.
    pub fn with_retired(mut self, name: &str, master: &[u8]) -> Result<Self, MasterError> {
        if self.find(name).is_some() {
            return Err(MasterError::SameName(name.to_owned()));
        }
        self.retired.push(Master::new(name, master)?);
        Ok(self)
    }

    /// Returns the name of the master for new endpoints and secrets.
    pub fn current(&self) -> &str {
        &self.current.name
    }

    /// Returns the names of all masters, the current one first.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.masters().map(|master| &*master.name)
    }

    /// Derives a secret of an endpoint: 32 bytes. Returns `None` if the ring has no such master.
    ///
    /// The namespace tells tables apart that use the same masters, such as by schema and prefix.
    /// The generation is raised to rotate the secret. Each difference gives an unrelated secret.
    pub(super) fn secret(
        &self,
        master: &str,
        namespace: &str,
        endpoint: &str,
        generation: u32,
    ) -> Option<WebhookSecret> {
        Some(self.find(master)?.derive(namespace, endpoint, generation))
    }

    fn find(&self, name: &str) -> Option<&Master> {
        self.masters().find(|master| &*master.name == name)
    }

    fn masters(&self) -> impl Iterator<Item = &Master> {
        std::iter::once(&self.current).chain(&self.retired)
    }
}

/// Shows the names only.
impl fmt::Debug for WebhookMasters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.names().collect();
        f.debug_tuple("WebhookMasters").field(&names).finish()
    }
}

/// An error for a master secret that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MasterError {
    /// The secret can be guessed.
    #[error("the master secret {0:?} can be guessed: use at least 32 random bytes")]
    TooShort(String),
    /// The name has another length, or other characters.
    #[error("{0:?} is no name of a master secret: use 1 to 64 of a-z, 0-9, '.', '_' and '-'")]
    Name(String),
    /// The ring has a master of this name.
    #[error("two master secrets are named {0:?}: give each a name of its own")]
    SameName(String),
}

#[derive(Clone)]
struct Master {
    name: Box<str>,
    secret: Arc<Zeroizing<Vec<u8>>>,
}

impl Master {
    const SHORTEST: usize = 32;
    const LONGEST_NAME: usize = 64;

    fn new(name: &str, secret: &[u8]) -> Result<Self, MasterError> {
        let is_plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
        let is_name = (1..=Self::LONGEST_NAME).contains(&name.len()) && name.bytes().all(is_plain);
        if !is_name {
            return Err(MasterError::Name(name.to_owned()));
        }
        if secret.len() < Self::SHORTEST {
            return Err(MasterError::TooShort(name.to_owned()));
        }
        Ok(Self {
            name: name.into(),
            secret: Arc::new(Zeroizing::new(secret.to_vec())),
        })
    }

    fn derive(&self, namespace: &str, endpoint: &str, generation: u32) -> WebhookSecret {
        let mut mac: Hmac<Sha256> =
            Hmac::new_from_slice(&self.secret).expect("HMAC takes keys of any length");
        // Each field comes after its length, so that no two lists of fields are the same bytes.
        let generation = generation.to_be_bytes();
        for field in [
            LABEL,
            namespace.as_bytes(),
            endpoint.as_bytes(),
            &generation,
        ] {
            mac.update(&(field.len() as u64).to_be_bytes());
            mac.update(field);
        }
        let mut derived = mac.finalize().into_bytes();
        let secret = WebhookSecret::derived(derived.as_ref());
        derived.as_mut_slice().zeroize();
        secret
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASTER: &[u8] = b"32 random bytes from a safe place";

    fn masters() -> WebhookMasters {
        WebhookMasters::new("2026-11", MASTER).unwrap()
    }

    fn secret(namespace: &str, endpoint: &str, generation: u32) -> String {
        let secret = masters().secret("2026-11", namespace, endpoint, generation);
        secret.unwrap().expose_secret()
    }

    /// Computed once with Python's `hmac`. A release that derives others breaks every receiver.
    #[test]
    fn the_secrets_of_endpoints_never_change() {
        let expected = "whsec_KNj6cCc/0BMZt1OcB0dP4cyhq3cGgBlPvKKgEIzR12M=";
        assert_eq!(secret("public.keys", "endpoint_7", 0), expected);
    }

    #[test]
    fn each_difference_gives_another_secret() {
        let mut secrets = vec![
            secret("public.keys", "endpoint_7", 0),
            secret("public.keys", "endpoint_7", 1),
            secret("public.keys", "endpoint_7", 1 << 24),
            secret("public.keys", "endpoint_", 7),
            secret("public.keys", "endpoint_70", 0),
            secret("public.key", "sendpoint_7", 0),
            secret("public.keysendpoint_7", "", 0),
            secret("", "public.keysendpoint_7", 0),
        ];
        let other = WebhookMasters::new("2026-11", &[7; 32]).unwrap();
        let other = other.secret("2026-11", "public.keys", "endpoint_7", 0);
        secrets.push(other.unwrap().expose_secret());
        let count = secrets.len();
        secrets.sort_unstable();
        secrets.dedup();
        assert_eq!(secrets.len(), count);
    }

    #[test]
    fn a_retired_master_still_derives_its_secrets() {
        let rotated = WebhookMasters::new("2027-11", &[7; 32]).unwrap();
        let rotated = rotated.with_retired("2026-11", MASTER).unwrap();
        assert_eq!(rotated.current(), "2027-11");
        assert_eq!(rotated.names().collect::<Vec<_>>(), ["2027-11", "2026-11"]);
        let kept = rotated.secret("2026-11", "public.keys", "endpoint_7", 0);
        let kept = kept.unwrap().expose_secret();
        assert_eq!(kept, secret("public.keys", "endpoint_7", 0));
    }

    #[test]
    fn an_unknown_master_derives_nothing() {
        let secret = masters().secret("2025-11", "public.keys", "endpoint_7", 0);
        assert!(secret.is_none());
    }

    #[test]
    fn a_master_that_can_be_guessed_is_refused() {
        let short = WebhookMasters::new("a", &[7; 31]).unwrap_err();
        assert_eq!(short, MasterError::TooShort("a".to_owned()));
        assert!(WebhookMasters::new("a", &[7; 32]).is_ok());
        assert!(masters().with_retired("a", &[7; 31]).is_err());
    }

    #[test]
    fn a_name_is_short_and_plain() {
        let (longest, longer) = ("a".repeat(64), "a".repeat(65));
        for name in ["a", "2026-11", "a.b_c-9", &longest] {
            assert!(WebhookMasters::new(name, MASTER).is_ok(), "{name}");
        }
        for name in ["", "A", "a b", "ä", "a/b", "a\n", &longer] {
            let error = WebhookMasters::new(name, MASTER).unwrap_err();
            assert_eq!(error, MasterError::Name(name.to_owned()));
        }
    }

    #[test]
    fn two_masters_have_two_names() {
        let error = masters().with_retired("2026-11", &[7; 32]).unwrap_err();
        assert_eq!(error, MasterError::SameName("2026-11".to_owned()));
        let one = masters().with_retired("a", &[7; 32]).unwrap();
        assert!(one.with_retired("a", &[8; 32]).is_err());
    }

    #[test]
    fn masters_are_not_printed() {
        let ring = masters().with_retired("old", &[0xAB; 32]).unwrap();
        assert_eq!(format!("{ring:?}"), r#"WebhookMasters(["2026-11", "old"])"#);
    }
}
