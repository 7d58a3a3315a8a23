//! The facts that are read from a request: the credential, and the client's address.

pub(crate) mod basic;
pub(crate) mod client_address;
pub(crate) mod credential;
pub(crate) mod forwarded;
pub(crate) mod head;
pub(crate) mod query;
