//! A store of keys from an environment variable or a file.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use zeroize::Zeroizing;

use super::lines::{self, KeyLine, LineError};
use crate::key::alphabet::Alphabet;
use crate::key::digest::KeyId;
use crate::key::environment::Environment;
use crate::key::format::{KeyFormat, KeyFormatError};
use crate::key::formats::KeyFormats;
use crate::key::record::KeyRecord;
use crate::store::{KeyStore, StoreError};

/// A read-only store of keys from an environment variable or a file, for a first start and for
/// small services.
///
/// Each key is a line `NAME ACCOUNT [SCOPE…] = KEY`, or has `sha256:HEX` in place of the key.
/// Several keys in one line are separated by `;`. Lines that begin with `#` are comments. The keys
/// are in one of the [`formats`](Self::formats): 64 hexadecimal digits, as `openssl rand -hex 32`
/// prints them, or keys issued by [`ApiKeys`](crate::ApiKeys). All keys have the default plan.
///
/// Danger: anybody who can read the variable or the file has the keys, unless it contains only
/// digests.
///
/// ```
/// use tower_api_key::store::StaticStore;
/// use tower_api_key::ApiKeys;
///
/// # let key = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
/// let text = format!("admin acme admin reports:read = {key}"); // openssl rand -hex 32
/// let store = StaticStore::from_text(&text)?; // or from_env("API_KEYS"), from_file(…)
/// let keys = ApiKeys::read_only(store).formats(StaticStore::formats()).build()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// To combine static keys with those of a database, use a [`StoreChain`](crate::store::StoreChain).
/// The `ApiKeys` must know the formats of both, or the static keys are not found:
///
/// ```
/// use tower_api_key::key::KeyFormat;
/// use tower_api_key::store::{StaticStore, StoreChain};
/// use tower_api_key::{ApiKeys, Environment, MemoryStore};
///
/// # let key = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
/// let admin = StaticStore::from_text(&format!("admin acme admin = {key}"))?;
/// let acme = KeyFormat::new("acme_live", Environment::LIVE)?;
/// let store = StoreChain::new(MemoryStore::new(), admin.clone(), admin.to_string());
/// let keys = ApiKeys::builder(store)
///     .formats([acme].into_iter().chain(StaticStore::formats()))
///     .build()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// With these formats, `keys.issue(…)` uses the first: `acme_live`.
#[derive(Clone)]
pub struct StaticStore(Arc<StaticStoreState>);

struct StaticStoreState {
    source: KeysSource,
    formats: KeyFormats,
    lines: RwLock<HashMap<KeyId, KeyLine>>,
}

/// The source of the keys.
#[derive(Debug, Clone)]
enum KeysSource {
    Text,
    Env(String),
    File(PathBuf),
}

impl StaticStore {
    /// Reads keys from an environment variable, such as `API_KEYS`.
    pub fn from_env(variable: &str) -> Result<Self, StaticKeysError> {
        Self::with_formats(Self::formats())?.from_env(variable)
    }

    /// Reads keys from a file, which can be [read again](Self::reload).
    pub fn from_file(path: impl Into<PathBuf>) -> Result<Self, StaticKeysError> {
        Self::with_formats(Self::formats())?.from_file(path)
    }

    /// Reads keys from a text.
    pub fn from_text(text: &str) -> Result<Self, StaticKeysError> {
        Self::with_formats(Self::formats())?.from_text(text)
    }

    /// Returns the default formats: `sk_live`, `sk_test`, and 64 hexadecimal digits. Set the same
    /// formats in [`ApiKeysBuilder::formats`](crate::ApiKeysBuilder::formats).
    ///
    /// Keys without a prefix are not read from `Authorization: Bearer`, where they cannot be told
    /// from users' tokens: send them as `X-API-Key` or `Authorization: ApiKey`.
    #[expect(
        clippy::missing_panics_doc,
        reason = "64 hexadecimal digits are 256 bits"
    )]
    pub fn formats() -> [KeyFormat; 3] {
        let issued = |lead, environment| KeyFormat::issued(lead, environment);
        let hex = KeyFormat::imported("", Alphabet::HEX, 64..=64, Environment::LIVE);
        [
            issued("sk_live_", Environment::LIVE),
            issued("sk_test_", Environment::TEST),
            hex.expect("64 hexadecimal digits are 256 bits"),
        ]
    }

    /// Creates a reader of keys in other formats. Keys of less than 112 bits need
    /// [`KeyFormat::dangerous_guessable`].
    ///
    /// ```
    /// use tower_api_key::key::{Alphabet, KeyFormat};
    /// use tower_api_key::store::StaticStore;
    /// use tower_api_key::Environment;
    ///
    /// let acme = KeyFormat::imported("acme-", Alphabet::HEX, 40..=40, Environment::LIVE)?;
    /// let text = "admin acme = acme-0123456789abcdef0123456789abcdef01234567";
    /// let store = StaticStore::with_formats([acme])?.from_text(text)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn with_formats(
        formats: impl IntoIterator<Item = KeyFormat>,
    ) -> Result<StaticStoreReader, StaticKeysError> {
        Ok(StaticStoreReader(KeyFormats::new(formats)?))
    }

    /// Reads the file again, and returns the ids of the keys that were added, changed or removed.
    /// Keys from a text or a variable do not change. After an error, the keys are unchanged.
    ///
    /// Invalidate the cache entries of the returned keys:
    ///
    /// ```no_run
    /// # use tower_api_key::manage::ReadOnly;
    /// # use tower_api_key::store::{StaticKeysError, StaticStore};
    /// # use tower_api_key::ApiKeys;
    /// # fn on_hangup(store: &StaticStore, keys: &ApiKeys<ReadOnly>) -> Result<(), StaticKeysError> {
    /// for id in store.reload()? {
    ///     keys.invalidate(&id);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn reload(&self) -> Result<Vec<KeyId>, StaticKeysError> {
        let KeysSource::File(_) = &self.0.source else {
            return Ok(Vec::new());
        };
        let after = self.0.source.read(None, &self.0.formats)?;
        if after.is_empty() {
            return Err(StaticKeysError::NoKeys(self.0.source.to_string()));
        }
        let mut before = self.0.lines.write().unwrap_or_else(PoisonError::into_inner);
        let same = |id: &KeyId| {
            let record =
                |lines: &HashMap<KeyId, KeyLine>| lines.get(id).map(|it| it.record.clone());
            record(&before) == record(&after)
        };
        let mut changed: Vec<_> = before.keys().chain(after.keys()).copied().collect();
        changed.sort_unstable_by_key(|id| *id.as_bytes());
        changed.dedup();
        changed.retain(|id| !same(id));
        *before = after;
        Ok(changed)
    }

    /// Returns the place of a key, such as `line 3 of the environment variable API_KEYS`; `None` if
    /// the key is not in this store.
    pub fn place_of(&self, id: &KeyId) -> Option<String> {
        let lines = self.0.lines.read().unwrap_or_else(PoisonError::into_inner);
        let number = lines.get(id)?.number;
        Some(format!("line {number} of {}", self.0.source))
    }
}

/// A reader of keys in formats of the application's own: see [`StaticStore::with_formats`].
#[derive(Debug, Clone)]
pub struct StaticStoreReader(KeyFormats);

impl StaticStoreReader {
    /// Reads keys from an environment variable.
    pub fn from_env(self, variable: &str) -> Result<StaticStore, StaticKeysError> {
        self.from(KeysSource::Env(variable.to_owned()), None)
    }

    /// Reads keys from a file, which can be [read again](StaticStore::reload).
    pub fn from_file(self, path: impl Into<PathBuf>) -> Result<StaticStore, StaticKeysError> {
        self.from(KeysSource::File(path.into()), None)
    }

    /// Reads keys from a text.
    pub fn from_text(self, text: &str) -> Result<StaticStore, StaticKeysError> {
        self.from(KeysSource::Text, Some(text))
    }

    fn from(self, source: KeysSource, text: Option<&str>) -> Result<StaticStore, StaticKeysError> {
        let lines = source.read(text, &self.0)?;
        if lines.is_empty() {
            return Err(StaticKeysError::NoKeys(source.to_string()));
        }
        Ok(StaticStore(Arc::new(StaticStoreState {
            source,
            formats: self.0,
            lines: RwLock::new(lines),
        })))
    }
}

impl KeysSource {
    fn read(
        &self,
        text: Option<&str>,
        formats: &KeyFormats,
    ) -> Result<HashMap<KeyId, KeyLine>, StaticKeysError> {
        let text = Zeroizing::new(match self {
            Self::Text => text.unwrap_or_default().to_owned(),
            Self::Env(variable) => {
                std::env::var(variable).map_err(|_| StaticKeysError::Variable(variable.clone()))?
            }
            Self::File(path) => {
                std::fs::read_to_string(path).map_err(|error| StaticKeysError::File {
                    path: path.clone(),
                    source: Arc::new(error),
                })?
            }
        });
        let lines =
            lines::read(&text, formats).map_err(|(line, reason)| StaticKeysError::Line {
                line,
                place: self.to_string(),
                reason,
            })?;
        Ok(lines
            .into_iter()
            .map(|line| (line.record.id(), line))
            .collect())
    }
}

impl fmt::Display for KeysSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text => f.write_str("the text of the store"),
            Self::Env(variable) => write!(f, "the environment variable {variable}"),
            Self::File(path) => write!(f, "the file {}", path.display()),
        }
    }
}

impl KeyStore for StaticStore {
    async fn find(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        let lines = self.0.lines.read().unwrap_or_else(PoisonError::into_inner);
        Ok(lines.get(id).map(|line| line.record.clone()))
    }
}

/// Displays the source of the keys.
impl fmt::Display for StaticStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.source.fmt(f)
    }
}

impl fmt::Debug for StaticStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = self.0.lines.read().unwrap_or_else(PoisonError::into_inner);
        f.debug_struct("StaticStore")
            .field("source", &self.0.source)
            .field("keys", &lines.len())
            .finish()
    }
}

/// An error for static keys that could not be read.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StaticKeysError {
    /// The environment variable is not set, or is not UTF-8.
    #[error("the environment variable {0} is not set, or is not UTF-8")]
    Variable(String),
    /// The file could not be read, or is not UTF-8.
    #[error("the keys in {} could not be read", .path.display())]
    #[non_exhaustive]
    File {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: Arc<io::Error>,
    },
    /// A line is malformed.
    #[error("line {line} of {place}: {reason}")]
    #[non_exhaustive]
    Line {
        /// The number of the line, from 1.
        line: usize,
        /// The place of the line: a variable, a file or a text.
        place: String,
        /// The reason.
        reason: LineError,
    },
    /// There is no key: a service that nobody can call is a mistake.
    #[error("there is no key in {0}")]
    NoKeys(String),
    /// The formats conflict.
    #[error(transparent)]
    Formats(#[from] KeyFormatError),
}
