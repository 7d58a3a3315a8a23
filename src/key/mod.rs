//! Keys as values: how they are written, hashed, and what is kept of them.
//!
//! - [`KeyFormat`] writes and recognizes keys, over an [`Alphabet`]; [`KeyDigest`] is the SHA-256 of
//!   one, and [`PepperRing`] makes peppered [`Verifier`]s.
//! - [`KeyRecord`](crate::KeyRecord) is what a store keeps of a key. [`ScopeSet`],
//!   [`AllowedNetworks`] and [`AllowedOrigins`] restrict it, and [`Lifecycle`] is its status at an
//!   instant.
//!
//! Everything here is a pure value or a pure decision, without time, stores or HTTP.

pub(crate) mod alphabet;
pub(crate) mod base62;
pub(crate) mod canonical;
mod claim;
pub(crate) mod containment;
pub(crate) mod diff;
pub(crate) mod digest;
mod encoded;
pub(crate) mod environment;
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
pub(crate) mod scope;
pub(crate) mod text;
mod token;
pub(crate) mod verifier;
pub(crate) mod web_origin;

pub use alphabet::Alphabet;
pub use containment::{Revocation, Suspension, Throttling};
pub use diff::{FieldChange, FieldValue};
pub use digest::{KeyDigest, KeyIdError};
pub use environment::EnvironmentError;
pub use format::{GenerateError, KeyFormat, KeyFormatError};
pub use kind::KeyKind;
pub use lifecycle::{KeyStatus, KeyStatusError, Lifecycle, WarningWindow};
pub use network::{AllowedNetworks, Network, NetworkError};
pub use record::Rotation;
pub use scope::{RequiredScopes, ScopeError, ScopeSet};
pub use text::{KeyRecordError, OptionalText};
pub use verifier::{PepperError, PepperId, PepperRing, Verifier};
pub use web_origin::{AllowedOrigins, WebOrigin, WebOriginError};

#[cfg(feature = "serde")]
pub use crate::document::{ExposedVerifier, RecordParts, RecordPartsError};
