//! Rows in the order of their commits: the feed of changes, and events.
//!
//! In SQLite one transaction writes at a time, so the numbers of rows are in the order of commits.
//! In `PostgreSQL` they are not: a reader that has seen number 7 would never see number 6, which
//! was committed later. There, a position is a snapshot: the rows that come next are those that the
//! snapshot does not see. Snapshots of one server only grow, so each row is read once.

use super::cell::{Cell, Row};
use super::session::{Driver, Query, SqlError};
use super::store::SqlStore;
use crate::store::{Cursor, StoreError};

/// A position among the rows of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Position {
    /// After the row with this number.
    Number(i64),
    /// After the rows that a snapshot sees.
    Snapshot(String),
    /// Within a part: among the rows that the second snapshot sees and the first does not, after
    /// the row with this number.
    Part(String, String, i64),
}

/// Rows after a position.
pub(super) struct FollowedRows {
    pub(super) rows: Vec<Row>,
    pub(super) next: Position,
    /// There are no more rows at present.
    pub(super) is_end: bool,
}

impl Position {
    /// Encodes a cursor. A snapshot means nothing in another server, so the cursor has the
    /// identifier of its own.
    pub(super) fn encode(&self, server: i64) -> Cursor {
        Cursor::new(match self {
            Self::Number(number) => format!("f1-{number}"),
            Self::Snapshot(seen) => format!("s1-{server:x}-{seen}"),
            Self::Part(seen, until, number) => {
                format!("p1-{server:x}-{seen}-{until}-{number}")
            }
        })
    }

    /// Decodes a cursor of a server, with or without snapshots.
    pub(super) fn decode(
        cursor: &Cursor,
        server: i64,
        has_snapshots: bool,
    ) -> Result<Self, StoreError> {
        let decoded = Self::parse(cursor.as_str(), server);
        let fits = |it: &Self| matches!(it, Self::Number(_)) != has_snapshots;
        decoded.filter(fits).ok_or_else(StoreError::invalid_cursor)
    }

    fn parse(text: &str, server: i64) -> Option<Self> {
        let mut parts = text.split('-');
        let kind = parts.next()?;
        if kind == "f1" {
            let number = parts.next()?.parse().ok().filter(|number| *number >= 0)?;
            return parts.next().is_none().then_some(Self::Number(number));
        }
        if parts.next()? != format!("{server:x}") {
            return None;
        }
        let seen = parts.next().filter(|seen| is_snapshot(seen))?.to_owned();
        let position = match kind {
            "s1" => Self::Snapshot(seen),
            "p1" => {
                let until = parts.next().filter(|until| is_snapshot(until))?.to_owned();
                Self::Part(seen, until, parts.next()?.parse().ok()?)
            }
            _ => return None,
        };
        parts.next().is_none().then_some(position)
    }
}

/// Returns whether a text has the form of a snapshot: `10:20:10,14,15`. Another text would be an
/// error of the database, not of the cursor.
fn is_snapshot(text: &str) -> bool {
    let mut parts = text.split(':');
    // A transaction is never numbered 0 in its lower half.
    let is_valid = |number: &u64| number & u64::from(u32::MAX) != 0;
    let number = |text: &str| text.parse::<u64>().ok().filter(is_valid);
    let (Some(least), Some(next)) = (parts.next().and_then(number), parts.next().and_then(number))
    else {
        return false;
    };
    let mut open = parts
        .next()
        .unwrap_or_default()
        .split(',')
        .filter(|it| !it.is_empty());
    let mut before = 0;
    let is_sorted = open.all(|it| {
        number(it).is_some_and(|it| {
            let is_next = it >= least && it < next && it > before;
            before = it;
            is_next
        })
    });
    least <= next && is_sorted && parts.next().is_none()
}

impl<D: Driver> SqlStore<D> {
    /// Returns the position before all rows.
    pub(super) fn beginning() -> Position {
        if D::DIALECT.has_snapshots() {
            return Position::Snapshot("1:1:".to_owned());
        }
        Position::Number(0)
    }

    /// Returns the position after all rows of a table.
    pub(super) async fn end(&self, table: &str) -> Result<Position, SqlError> {
        if D::DIALECT.has_snapshots() {
            let now = "SELECT CAST(pg_current_snapshot() AS text)";
            let rows = self.fetch(Query::new(now, [])).await?;
            let row = rows.into_iter().next();
            let seen = row.map(|mut row| row.text("pg_current_snapshot"));
            return Ok(Position::Snapshot(seen.transpose()?.unwrap_or_default()));
        }
        let last = format!("SELECT COALESCE(max(seq), 0) FROM {{{table}}}");
        let rows = self.fetch(Query::new(self.sql(&last), [])).await?;
        let row = rows.into_iter().next();
        let last = row.map(|mut row| row.integer("seq")).transpose()?;
        Ok(Position::Number(last.unwrap_or(0)))
    }

    /// Reads at most `limit` rows of a table after a position, in the order of the database.
    pub(super) async fn follow(
        &self,
        table: &str,
        columns: &str,
        after: &Position,
        limit: usize,
    ) -> Result<FollowedRows, SqlError> {
        let most = limit + 1;
        let query = match after {
            Position::Number(number) => Query::new(
                self.sql(&format!(
                    "SELECT '', seq, {columns} FROM {{{table}}} WHERE seq > $1 \
                     ORDER BY seq LIMIT {most}"
                )),
                [Cell::integer(*number)],
            ),
            Position::Snapshot(seen) => Query::new(
                self.sql(&format!(
                    "SELECT CAST(pg_current_snapshot() AS text), t.seq, {columns} \
                     FROM (SELECT CAST($1 AS pg_snapshot) AS seen) AS o \
                     LEFT JOIN {{{table}}} AS t ON t.xid >= pg_snapshot_xmin(o.seen) \
                     AND NOT pg_visible_in_snapshot(t.xid, o.seen) \
                     ORDER BY t.seq LIMIT {most}"
                )),
                [Cell::text(seen.as_str())],
            ),
            Position::Part(seen, until, number) => Query::new(
                self.sql(&format!(
                    "SELECT CAST(o.until AS text), t.seq, {columns} \
                     FROM (SELECT CAST($1 AS pg_snapshot) AS seen, \
                     CAST($2 AS pg_snapshot) AS until) AS o \
                     LEFT JOIN {{{table}}} AS t ON t.xid >= pg_snapshot_xmin(o.seen) \
                     AND NOT pg_visible_in_snapshot(t.xid, o.seen) \
                     AND pg_visible_in_snapshot(t.xid, o.until) AND t.seq > $3 \
                     ORDER BY t.seq LIMIT {most}"
                )),
                [
                    Cell::text(seen.as_str()),
                    Cell::text(until.as_str()),
                    Cell::integer(*number),
                ],
            ),
        };
        let mut rows = self.fetch(query).await?;
        let is_end = rows.len() < most;
        rows.truncate(limit);
        let mut until = String::new();
        let mut last = None;
        let mut found = Vec::new();
        for mut row in rows {
            until = row.text("pg_current_snapshot")?;
            if let Some(number) = row.optional_integer("seq")? {
                last = Some(number);
                found.push(row);
            }
        }
        let next = match (after, last) {
            (Position::Number(number), last) => Position::Number(last.unwrap_or(*number)),
            (_, Some(last)) if !is_end => match after {
                Position::Part(seen, ..) | Position::Snapshot(seen) => {
                    Position::Part(seen.clone(), until, last)
                }
                Position::Number(_) => Position::Number(last),
            },
            // Nothing is left of the part.
            _ => Position::Snapshot(until),
        };
        // After a part there may be rows that the second snapshot does not see.
        let is_end = is_end && !matches!(after, Position::Part(..));
        Ok(FollowedRows {
            rows: found,
            next,
            is_end,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn snapshot() -> impl Strategy<Value = String> {
        (
            1..1_000u64,
            0..50u64,
            prop::collection::btree_set(0..50u64, 0..4),
        )
            .prop_map(|(least, more, open)| {
                let open = open.into_iter().filter(|it| *it < more);
                let open: Vec<String> = open.map(|it| (least + it).to_string()).collect();
                format!("{least}:{}:{}", least + more, open.join(","))
            })
    }

    proptest! {
        #[test]
        fn a_cursor_is_read_back_by_its_own_server_only(
            seen in snapshot(),
            until in snapshot(),
            number in 0..i64::MAX,
            server: i64,
            other: i64,
        ) {
            let part = Position::Part(seen.clone(), until, number);
            for position in [Position::Snapshot(seen), part] {
                let cursor = position.encode(server);
                let decoded = Position::decode(&cursor, server, true).unwrap();
                prop_assert_eq!(&decoded, &position);
                prop_assert!(Position::decode(&cursor, server, false).is_err());
                let foreign = Position::decode(&cursor, other, true);
                prop_assert_eq!(foreign.is_ok(), server == other);
            }
            let cursor = Position::Number(number).encode(0);
            prop_assert_eq!(Position::decode(&cursor, 0, false).unwrap(), Position::Number(number));
            prop_assert!(Position::decode(&cursor, 0, true).is_err());
        }

        /// Any text is a cursor or an error, and what is sent to the database has its form.
        #[test]
        fn any_text_is_decoded_or_refused(text in "[fsp]?1?-?[0-9a-f:,-]{0,40}") {
            for has_snapshots in [false, true] {
                let decoded = Position::decode(&Cursor::new(text.as_str()), 7, has_snapshots);
                if let Ok(Position::Snapshot(seen)) = decoded {
                    prop_assert!(is_snapshot(&seen));
                }
            }
        }
    }

    #[test]
    fn the_form_of_a_snapshot_is_checked() {
        for yes in [
            "1:1:",
            "10:20:",
            "10:20:10,14,19",
            "18446744073709551615:18446744073709551615:",
        ] {
            assert!(is_snapshot(yes), "{yes}");
        }
        for no in [
            "",
            "1",
            "0:1:",
            "2:1:",
            "1:5:5",
            "1:9:3,3",
            "1:9:4,3",
            "1:1::",
            "a:b:",
            "-1:1:",
            "1:1:x",
            "4294967296:4294967297:",
        ] {
            assert!(!is_snapshot(no), "{no}");
        }
    }
}
