//! The result of a check of the audit trail.

use std::fmt;

use crate::key::digest::KeyId;

/// The result of a check of the whole audit trail, by `verify_trail` of a store.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct TrailReport {
    /// The keys that were checked.
    pub keys: u64,
    /// The records that were checked.
    pub records: u64,
    /// The faults that were found, at most [`MOST_BROKEN`](Self::MOST_BROKEN).
    pub broken: Vec<BrokenTrail>,
}

impl TrailReport {
    /// The maximum number of faults in a report.
    pub const MOST_BROKEN: usize = 1_000;

    /// Returns whether nothing is wrong.
    pub fn is_ok(&self) -> bool {
        self.broken.is_empty()
    }

    /// Adds faults, for stores that check their trail.
    pub fn add(&mut self, broken: impl IntoIterator<Item = BrokenTrail>) {
        let room = Self::MOST_BROKEN - self.broken.len();
        self.broken.extend(broken.into_iter().take(room));
    }
}

/// A fault in the trail of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct BrokenTrail {
    /// The key.
    pub key: KeyId,
    /// The version of the key at which the fault was found.
    pub version: u64,
    /// The fault.
    pub fault: TrailFault,
}

impl BrokenTrail {
    /// Creates a fault at a version of a key.
    pub const fn new(key: KeyId, version: u64, fault: TrailFault) -> Self {
        Self {
            key,
            version,
            fault,
        }
    }
}

/// A kind of fault in a trail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TrailFault {
    /// A record was edited, or the audit key is another one.
    Edited,
    /// Records before this version are missing or were exchanged, or later ones are: the trail does
    /// not reach the version of the key.
    Missing,
    /// The key was edited behind the trail.
    KeyEdited,
    /// The key was deleted behind the trail.
    KeyDeleted,
}

impl TrailFault {
    /// Returns the name of the fault: `edited`, `missing`, `key_edited` or `key_deleted`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Edited => "edited",
            Self::Missing => "missing",
            Self::KeyEdited => "key_edited",
            Self::KeyDeleted => "key_deleted",
        }
    }
}

/// Prints the key, the version and the fault.
impl fmt::Display for BrokenTrail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fault = match self.fault {
            TrailFault::Edited => "the record was edited, or the audit key is another one",
            TrailFault::Missing => "records are missing or were exchanged",
            TrailFault::KeyEdited => "the key was edited behind the trail",
            TrailFault::KeyDeleted => "the key was deleted behind the trail",
        };
        write!(f, "{} version {}: {fault}", self.key, self.version)
    }
}
