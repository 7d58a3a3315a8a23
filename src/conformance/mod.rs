//! Conformance suites for implementations of the ports. Feature `conformance`.
//!
//! | suite | tests | needs |
//! |---|---|---|
//! | [`key_store`] | a [`KeyStore`](crate::KeyStore) | the records that it holds |
//! | [`managed_key_store`] | a [`ManagedKeyStore`](crate::ManagedKeyStore) | a store to write to |
//! | [`managed_key_store_keeping`] | one that keeps less | declarations of what it keeps |
//! | [`outbox`] | the [`Outbox`](crate::store::Outbox) of a store | a store with one |
//! | [`change_feed`] | a [`ChangeFeed`](crate::store::ChangeFeed) | a store with these changes |
//! | [`rate_limiter::on_its_own_clock`] | a [`RateLimiter`](crate::limit::RateLimiter) | nothing |
//! | [`rate_limiter::on_a_given_clock`] | a limiter on its caller's clock | nothing |
//!
//! Each suite is an async function that runs on any runtime, spawns nothing, and never sleeps. It
//! returns if all promises are kept. Otherwise it panics like a test, with a message that begins
//! with `broken promise:` and names the promise. Passing is no proof: failures that need several
//! machines, or a failing backend, must be tested where they can be produced.
//!
//! All names, accounts and ids are new in each run, so several runs can share a backend. Written
//! data stays behind: use a scratch database.
//!
//! ```
//! # mod my {
//! #     pub use tower_api_key::MemoryStore as Store;
//! #     pub use tower_api_key::limit::MemoryLimiter as Limiter;
//! # }
//! use tower_api_key::conformance;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! // In a test of yours, against a live backend:
//! conformance::managed_key_store(&my::Store::default()).await;
//! // Only for a store that delivers events.
//! conformance::outbox(&my::Store::default()).await;
//!
//! conformance::rate_limiter::on_its_own_clock(&my::Limiter::default()).await;
//! // Only for a limiter on the clock of its caller. 1,000 is the number of random decisions.
//! conformance::rate_limiter::on_a_given_clock(my::Limiter::default, 1_000).await;
//! # }
//! ```

mod change_feed;
mod events;
mod first_use;
mod guards;
mod keeps;
mod key_store;
mod lists;
mod managed_key_store;
mod outbox;
mod profiles;
mod promise;
mod random;
pub mod rate_limiter;
mod records;
mod trails;
mod usage;
mod usage_reports;

pub use change_feed::change_feed;
pub use keeps::{Field, Keeps};
pub use key_store::key_store;
pub use managed_key_store::{managed_key_store, managed_key_store_keeping};
pub use outbox::outbox;
