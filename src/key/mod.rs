//! What a key is: pure values and pure decisions, without time, stores or HTTP.
//!
//! [`format`] makes the text and [`formats`] recognizes it, [`claim`] finds it with a slip around
//! it, [`digest`] turns it into an id, [`verifier`] proves it, [`record`] is what is kept of it,
//! [`lifecycle`] decides its status at an instant, and [`scope`], [`environment`] and [`network`]
//! say what it may do and where, by addresses in one form ([`canonical`]).

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
