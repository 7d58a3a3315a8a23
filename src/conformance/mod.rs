//! What the ports promise, as suites that an implementor runs against itself. Feature
//! `conformance`.
//!
//! | suite | for | needs |
//! |---|---|---|
//! | [`key_store`] | a [`KeyStore`](crate::KeyStore) | the records that it holds |
//! | [`managed_key_store`] | a [`ManagedKeyStore`](crate::ManagedKeyStore) | a store to write into |
//! | [`managed_key_store_keeping`] | one that does not keep everything | and what it keeps |
//! | [`change_feed`] | a [`ChangeFeed`](crate::store::ChangeFeed) | a store whose changes it tells |
//! | [`rate_limiter::on_its_own_clock`] | any [`RateLimiter`](crate::limit::RateLimiter) | nothing more |
//! | [`rate_limiter::on_a_given_clock`] | one that goes by the `now` it is given | nothing more |
//!
//! Each is an async function that runs on any runtime, spawns nothing, and never sleeps. It returns
//! if the implementor keeps its promises, and panics like a test where it does not, with a message
//! that begins with `broken promise:` and names it. A pass is no proof: what only goes wrong on
//! several machines, or when the backend fails, must be tested where it can be made to happen.
//!
//! All names, accounts and ids are new in each run, so a backend may be shared with other runs.
//! What a run wrote stays behind: use a scratch database.
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
//!
//! conformance::rate_limiter::on_its_own_clock(&my::Limiter::default()).await;
//! // Only if it goes by the clock of its callers; the number says how many random decisions.
//! conformance::rate_limiter::on_a_given_clock(my::Limiter::default, 1_000).await;
//! # }
//! ```

mod change_feed;
mod events;
mod keeps;
mod key_store;
mod lists;
mod managed_key_store;
mod promise;
mod random;
pub mod rate_limiter;
mod records;
mod together;
mod trails;
mod usage;

pub use change_feed::change_feed;
pub use keeps::{Field, Keeps};
pub use key_store::key_store;
pub use managed_key_store::{managed_key_store, managed_key_store_keeping};
