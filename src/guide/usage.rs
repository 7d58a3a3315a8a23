//! Usage: who used the API, when, and how much.
//!
//! # What is counted
//!
//! Each decision of the layer about a key whose secret was right is counted, by key, environment
//! and UTC day:
//!
//! - `allowed`: requests that were admitted, whatever the service answers then, and successful
//!   calls of [`ApiKeys::verify`](crate::ApiKeys::verify). Calls of `verify` that fail are not
//!   counted;
//! - `limited`: requests that a limit denied, and those whose cost is above the whole quota;
//! - `refused`: requests that were denied for another reason, such as an expired key. After a
//!   rotation, the refusals of the old key name those who still use it;
//! - `units`, by name: `requests` is the sum of the [costs](crate::Limits::add_cost) of admitted
//!   requests, 1 each unless an endpoint has another cost. An endpoint's
//!   [cost in another unit](crate::limit::Endpoint::cost_in) is counted with the admission.
//!   [`Caller::charge`] adds units of a limit, [`Caller::refund`] takes units back, and
//!   [`Caller::count`] adds units that no limit counts.
//!
//! If a layer stands inside another one of the same keys, a request that the outer layer admits and
//! the inner one denies is `allowed` once and `refused` once.
//!
//! Requests without a key, with an unknown key or with a malformed one are nobody's usage: see the
//! metrics in the chapter [`operating`](super::operating).
//!
//! The first and the last use of a key, and the address of a late use, are part of the same record:
//! [`ApiKeys::find_listed`](crate::ApiKeys::find_listed) and lists tell them.
//!
//! # Set up
//!
//! Usage is counted if a [worker](crate::ApiKeys::worker) runs, and the store records usage, as
//! `MemoryStore`, `SqliteStore` and `PostgresStore` do. There is nothing else to set up.
//! [`Metering`] has the settings: counts by hour, the time between two records, and the memory.
//!
//! ```
//! use std::time::Duration;
//! use tower_api_key::usage::Metering;
//! use tower_api_key::{ApiKeys, MemoryStore};
//!
//! let keys = ApiKeys::builder(MemoryStore::new())
//!     .metering(Metering::new().by_hour().record_every(Duration::from_secs(10)))
//!     .build()?;
//! # Ok::<(), tower_api_key::BuildError>(())
//! ```
//!
//! # Units
//!
//! A unit is a name that you choose, such as `tokens` or `bytes`. Name few, since each is a row of
//! its own for each key and day. Between two records, 16 names of a key are counted by themselves,
//! and further ones as `other`.
//!
//! ```
//! use tower_api_key::Caller;
//!
//! async fn export(caller: Caller) -> Vec<u8> {
//!     let file = vec![0; 4_096];
//!     caller.count("bytes", file.len() as u64);
//!     file
//! }
//! ```
//!
//! # Reports
//!
//! [`ApiKeys::usage`](crate::ApiKeys::usage) reads what was recorded. Rows differ by account,
//! period and environment, and by key or chain of rotations where that is asked for.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let keys = tower_api_key::ApiKeys::in_memory();
//! # let key = keys.issue("acme").await?;
//! use tower_api_key::Environment;
//!
//! // For a bill: without the requests of test keys.
//! let bill = keys.usage().of_account("acme").of_environment(Environment::LIVE);
//! let month = bill.last_days(31).await?;
//! println!("{} requests", month.total().allowed);
//!
//! // For a dashboard: a curve that a rotation does not cut in two.
//! let record = keys.find(&key.id()).await?.ok_or("no such key")?;
//! let curve = keys.usage().of_lineage(record.lineage()).last_days(31).by_lineage().await?;
//! for (day, counts) in curve.by_period() {
//!     println!("{:?}: {}", day.begins_at(), counts.allowed);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! The program `examples/keys` prints the same for people: `keys usage --account acme --days 31`.
//!
//! Usage stays when its key is deleted, and moves to no other account when a key does. Delete old
//! usage with `purge_usage` of the stores in SQLite and PostgreSQL. `MemoryStore` keeps the latest
//! 100,000 counts of a key and a period.
//!
//! # How exact it is
//!
//! - **Never too high.** Each process numbers its batches, and the store takes a number once, in
//!   the transaction of the counts. A batch whose answer was lost is sent again as it is.
//! - **Too low by at most the last interval.** A process that is killed loses what it counted since
//!   its last record: at most 1.2 times [`record_every`] and one second, which are 37 seconds by
//!   default; and while the store does not answer, all since it last did. A worker that is
//!   [stopped](crate::manage::Worker::until) records what is left first, if the store answers. A
//!   refund that is lost this way leaves the units too high by as much.
//! - **A count stops** at 999,999,999,999,999 for each key, day and unit.
//! - **The day is that of the decision**, by the clock of the process. By default, a day is
//!   complete 37 seconds after its end, unless a process could not reach the store. Bill a day
//!   later.
//! - **Memory is bounded.** While the store is down, the counts of 100,000 keys wait. Counts
//!   of further keys stay in the cache; if such a key leaves the cache, its counts are added to its
//!   account. Counts beyond 10,000 such sums of account, environment and period are
//!   *unattributed*. Reports have rows without a key, or without an account, for them; the log says
//!   so, and [`Health::usage`] counts them. Nothing blocks and no request fails.
//!
//! [`Caller::charge`]: crate::Caller::charge
//! [`Caller::count`]: crate::Caller::count
//! [`Caller::refund`]: crate::Caller::refund
//! [`Health::usage`]: crate::manage::Health::usage
//! [`Metering`]: crate::usage::Metering
//! [`record_every`]: crate::usage::Metering::record_every
