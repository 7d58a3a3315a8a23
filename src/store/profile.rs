//! Profiles of the use of keys, as a store keeps them.

use std::fmt;

use crate::key::digest::KeyId;

/// The profile of the use of a key: what [anomaly detection](crate::anomaly) has learned. A store
/// keeps its bytes as they are.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeptProfile {
    /// The key.
    pub key: KeyId,
    /// The version, from 1 on.
    pub version: u64,
    /// The profile, at most [`MOST_BYTES`](Self::MOST_BYTES).
    pub data: Vec<u8>,
}

impl KeptProfile {
    /// The most bytes of a profile. Most have less than 300.
    pub const MOST_BYTES: usize = 1_024;

    /// Creates a profile.
    pub fn new(key: KeyId, version: u64, data: impl Into<Vec<u8>>) -> Self {
        let data = data.into();
        Self { key, version, data }
    }
}

impl fmt::Debug for KeptProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeptProfile")
            .field("key", &self.key)
            .field("version", &self.version)
            .field("bytes", &self.data.len())
            .finish()
    }
}
