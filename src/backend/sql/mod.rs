//! Stores in SQL databases: what SQLite and `PostgreSQL` have in common, and their drivers.
//!
//! The statements are written once, for both. A [`Dialect`](dialect::Dialect) has the few words in
//! which the databases differ, and a [`Driver`](session::Driver) hands out connections.

mod cell;
mod chain;
mod claims;
mod commit;
mod dialect;
#[cfg(feature = "postgres")]
mod doorbell;
mod endpoints;
mod events;
mod follow;
mod guards;
#[cfg(feature = "postgres")]
mod listener;
mod lists;
mod migrations;
mod names;
mod outbox;
mod ports;
#[cfg(feature = "postgres")]
mod postgres;
mod profiles;
mod record_row;
mod session;
#[cfg(feature = "sqlite")]
mod sqlite;
mod store;
mod tell;
mod trail;
mod trail_row;
mod usage;
mod usage_report;
mod verify;

pub use migrations::Migration;
pub use names::TableNameError;
#[cfg(feature = "postgres")]
pub use postgres::PostgresStore;
#[cfg(feature = "sqlite")]
pub use sqlite::{OpenError, SqliteStore};
