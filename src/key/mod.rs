//! Keys as values: formats, digests and records.
//!
//! - [`KeyFormat`] generates and recognizes keys, over an [`Alphabet`]. [`KeyDigest`] is the
//!   SHA-256 of a key, and [`PepperRing`] creates peppered [`Verifier`]s. A [`ChecksumRing`] keeps
//!   forged keys from the store.
//! - [`KeyRecord`](crate::KeyRecord) is the stored data of a key. [`ScopeSet`], [`AllowedNetworks`]
//!   and [`AllowedOrigins`] restrict a key, and [`Lifecycle`] is its status at a time.
//! - [`ScannerRules`] are rules by which secret scanners find keys.
//!
//! All values and decisions here are pure, without clocks, stores or HTTP.

pub(crate) mod alphabet;
pub(crate) mod base62;
pub(crate) mod canonical;
mod checksum;
mod claim;
pub(crate) mod containment;
pub(crate) mod diff;
pub(crate) mod digest;
mod encoded;
pub(crate) mod environment;
pub(crate) mod footprint;
pub(crate) mod format;
pub(crate) mod formats;
pub(crate) mod kind;
pub(crate) mod lifecycle;
pub(crate) mod network;
mod overlap;
pub(crate) mod plaintext;
pub(crate) mod quota;
mod quota_text;
pub(crate) mod record;
pub(crate) mod scanner;
pub(crate) mod scope;
pub(crate) mod text;
mod token;
pub(crate) mod verifier;
pub(crate) mod web_origin;

pub use alphabet::Alphabet;
pub use checksum::{ChecksumRing, ChecksumRingError};
pub use containment::{Revocation, Suspension, Throttling};
pub use diff::{FieldChange, FieldValue};
pub use digest::{KeyDigest, KeyIdError};
pub use environment::EnvironmentError;
pub use format::{GenerateError, KeyFormat, KeyFormatError};
pub use kind::KeyKind;
pub use lifecycle::{KeyStatus, KeyStatusError, Lifecycle, WarningWindow};
pub use network::{AllowedNetworks, Network, NetworkError};
pub use record::Rotation;
pub use scanner::ScannerRules;
pub use scope::{RequiredScopes, ScopeError, ScopeSet};
pub use text::{KeyRecordError, OptionalText};
pub use verifier::{PepperError, PepperId, PepperRing, Verifier};
pub use web_origin::{AllowedOrigins, WebOrigin, WebOriginError};

#[cfg(feature = "serde")]
pub use crate::document::{ExposedVerifier, RecordParts, RecordPartsError};
