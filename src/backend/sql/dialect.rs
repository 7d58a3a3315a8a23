//! The differences between the SQL of the databases.

use std::time::Duration;

/// The words of one database, where it needs others than the rest.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dialect {
    /// The types of columns.
    pub(super) bytes: &'static str,
    pub(super) integer: &'static str,
    pub(super) text: &'static str,
    /// The type of a column that numbers its rows.
    pub(super) serial: &'static str,
    /// The begin and the end of a call that shows bytes or a time to people.
    pub(super) hex: [&'static str; 2],
    pub(super) time: [&'static str; 2],
    /// The time by the clock of the database, in microseconds since 1970.
    pub(super) now: &'static str,
    /// The options of a table, and of one whose rows are updated often.
    pub(super) strict: &'static str,
    pub(super) updated: &'static str,
    /// The column of the transaction that wrote a row, where numbers alone do not tell the order of
    /// commits.
    pub(super) transaction: &'static str,
    /// Begins a transaction that writes, and one that reads a single state.
    pub(super) begin: &'static str,
    pub(super) begin_snapshot: &'static str,
    /// Begins a transaction that reads a page from an index in its order. Empty if the planner
    /// needs no word about it.
    pub(super) begin_page: &'static str,
    /// Locks the rows of a query until the end of the transaction.
    pub(super) for_update: &'static str,
    /// Keeps the endpoints `n` of a query from being deleted until the end of the transaction.
    pub(super) for_key_share: &'static str,
    /// The function that finds a text in another one: 0 if it is not there.
    pub(super) position: &'static str,
    /// Joins the deliveries `d` of an endpoint `n` to claim. Between the two comes the query for
    /// their `event_seq`.
    pub(super) join_claimed: [&'static str; 2],
    /// Looks up the rows `u` of a table for each row to the left, in this order. Between the two
    /// comes the table, and the condition.
    pub(super) look_up: [&'static str; 2],
    /// Locks the accounts in `{values}` one after the other, until the end of the transaction.
    /// Empty if there is one writer at a time.
    pub(super) lock_account: &'static str,
    /// Takes the lock of the migrator, in its transaction.
    pub(super) lock_migrations: &'static str,
    /// Tables are in schemas, and roles need rights for them.
    pub(super) has_schemas: bool,
    /// The longest pause between two looks at the trail while the feed waits for a change.
    pub(super) poll: Duration,
    /// The number of parameters of a statement.
    pub(super) most_parameters: usize,
}

impl Dialect {
    /// Returns whether rows are followed by the snapshots of transactions, not by their numbers.
    pub(super) const fn has_snapshots(&self) -> bool {
        !self.transaction.is_empty()
    }
}
