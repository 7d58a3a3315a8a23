//! What a key is: pure values and pure decisions, without time, stores or HTTP.
//!
//! [`format`] makes and recognizes the text, [`digest`] turns it into an id and a verifier,
//! [`record`] is what is kept of it, [`lifecycle`] decides its status at an instant, and
//! [`scope`], [`environment`] and [`network`] say what it may do and where.

pub(crate) mod base62;
pub(crate) mod digest;
pub(crate) mod environment;
pub(crate) mod format;
pub(crate) mod lifecycle;
pub(crate) mod network;
pub(crate) mod record;
pub(crate) mod scope;
