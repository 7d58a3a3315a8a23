//! Events, and the feed of changes.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::cell::{Cell, Row};
use super::follow::Position;
use super::session::{Driver, Query, Session, SqlError};
use super::store::{Access, SqlStore};
use crate::store::{
    ChangedKey, Changes, Cursor, Event, FeedError, Followed, KeptEvent, Start, StoreError,
};

/// The changes that the feed returns at a time.
const MOST_CHANGES: usize = 2_000;

/// The events, or the marks, that are deleted in one transaction.
const PURGED_AT_ONCE: usize = 5_000;

/// The time for which a mark is kept longer than its event: two months.
const MARKS_KEPT: Duration = Duration::from_secs(62 * 86_400);

/// The columns of an event, in the order in which [`event`] reads them.
pub(super) const COLUMNS: [&str; 6] = ["id", "kind", "at", "key_id", "account", "data"];

impl<D: Driver> SqlStore<D> {
    pub(super) async fn events(
        &self,
        start: &Start,
        limit: u32,
    ) -> Result<Followed<KeptEvent>, StoreError> {
        let server = self.within(self.server()).await?;
        let after = match start {
            Start::Beginning => Self::beginning(),
            Start::Now => self.within(self.end("events")).await?,
            Start::After(cursor) => Position::decode(cursor, server, D::DIALECT.has_snapshots())?,
        };
        // A position that was never reached is of a database before it was restored.
        let gap =
            matches!(start, Start::After(_)) && self.within(self.is_lost("events", &after)).await?;
        let after = if gap { Self::beginning() } else { after };
        let limit = limit.max(1) as usize;
        let columns = COLUMNS.join(", ");
        let found = self
            .within(self.follow("events", &columns, &after, limit))
            .await?;
        let events = found.rows.into_iter().map(|mut row| event(&mut row));
        let events = events.collect::<Result<_, _>>()?;
        Ok(Followed::new(events, found.next.encode(server))
            .end(found.is_end)
            .gap(gap))
    }

    /// Deletes the events from before a time with their deliveries, and returns their number. A
    /// reader that has not read them is told of the gap. Their marks are kept for longer.
    pub(super) async fn purge_events(&self, before: SystemTime) -> Result<u64, StoreError> {
        let mut purged = 0;
        loop {
            let deleted = self.within(self.purge_some_events(before)).await?;
            if deleted == 0 {
                break;
            }
            purged += deleted;
        }
        if let Some(before) = before.checked_sub(MARKS_KEPT) {
            while self.within(self.purge_some_marks(before)).await? > 0 {}
        }
        Ok(purged)
    }

    async fn purge_some_marks(&self, before: SystemTime) -> Result<u64, SqlError> {
        let delete = self.sql(&format!(
            "DELETE FROM {{told}} WHERE id IN \
             (SELECT id FROM {{told}} WHERE at < $1 ORDER BY at LIMIT {PURGED_AT_ONCE})"
        ));
        let query = Query::new(delete, [Cell::instant(before)]);
        self.write_one(query).await
    }

    async fn purge_some_events(&self, before: SystemTime) -> Result<u64, SqlError> {
        let mut session = self.session(Access::Write).await?;
        session.run(D::DIALECT.begin).await?;
        let number = if D::DIALECT.has_snapshots() {
            "CAST(CAST(xid AS text) AS bigint)"
        } else {
            "seq"
        };
        // They are fixed first: others may commit old ones meanwhile, whose deliveries would stay.
        let old = self.sql(&format!(
            "SELECT seq, {number} FROM {{events}} WHERE at < $1 \
             ORDER BY at, seq LIMIT {PURGED_AT_ONCE}"
        ));
        let old = Query::new(old, [Cell::instant(before)]);
        let (mut seqs, mut last) = (Vec::new(), 0);
        for mut row in session.fetch(old).await? {
            seqs.push(row.integer("seq")?.to_string());
            last = row.integer("number")?.max(last);
        }
        if seqs.is_empty() {
            session.run("ROLLBACK").await?;
            session.finish();
            return Ok(0);
        }
        let mark = self.sql(
            "INSERT INTO {marks} AS m (name, number) VALUES ('events', $1) \
             ON CONFLICT (name) DO UPDATE SET number = CASE \
             WHEN m.number > excluded.number THEN m.number ELSE excluded.number END",
        );
        let last = Cell::integer(last);
        session.execute(Query::new(mark, [last])).await?;
        let mut deleted = 0;
        for (table, column) in [("deliveries", "event_seq"), ("events", "seq")] {
            let seqs = seqs.join(", "); // more than a statement may have parameters
            let delete = format!("DELETE FROM {{{table}}} WHERE {column} IN ({seqs})");
            let delete = Query {
                sql: self.sql(&delete),
                cells: Vec::new(),
                is_kept: false,
            };
            deleted = session.execute(delete).await?;
        }
        session.run("COMMIT").await?;
        session.finish();
        Ok(deleted)
    }

    /// Returns the changes after a cursor. Without a change, it looks again when somebody rings, and
    /// at each interval, until the wait is over.
    pub(super) async fn changes_since(
        &self,
        after: Option<&Cursor>,
        wait: Duration,
    ) -> Result<Changes, FeedError> {
        let Some(after) = after else {
            let end = self
                .within(self.end("trail"))
                .await
                .map_err(FeedError::new)?;
            let server = self.within(self.server()).await.map_err(FeedError::new)?;
            return Ok(Changes::new(Vec::new(), end.encode(server)));
        };
        let begun = Instant::now();
        let mut is_silent = false;
        loop {
            // Who rings from now on rings for the next look.
            let looked_at = Instant::now();
            let changes = self
                .within(self.changes(after))
                .await
                .map_err(FeedError::new)?;
            if is_silent && !changes.keys.is_empty() {
                self.driver.missed_ring();
            }
            let waited = begun.elapsed();
            if !changes.keys.is_empty() || changes.gap || waited >= wait {
                return Ok(changes);
            }
            let limit = D::DIALECT.poll.min(wait.saturating_sub(waited));
            let ring = self.driver.wait_for_ring(&self.names, looked_at, limit);
            is_silent = ring.await;
        }
    }

    async fn changes(&self, after: &Cursor) -> Result<Changes, SqlError> {
        const COLUMNS: &str = "key_id, version, \
            CAST((SELECT 1 FROM {keys} AS k WHERE k.id = key_id) AS bigint)";
        let server = self.server().await?;
        let Ok(after) = Position::decode(after, server, D::DIALECT.has_snapshots()) else {
            return Ok(Changes::gap(self.end("trail").await?.encode(server)));
        };
        if self.is_lost("trail", &after).await? {
            return Ok(Changes::gap(self.end("trail").await?.encode(server)));
        }
        let found = self.follow("trail", COLUMNS, &after, MOST_CHANGES).await?;
        let keys = found.rows.into_iter().map(|mut row| {
            let (id, version) = (row.id("key_id")?, row.count("version")?);
            let exists = row.optional_integer("whether the key exists")?.is_some();
            Ok(ChangedKey::new(id, version).deleted(!exists))
        });
        let keys = keys.collect::<Result<_, StoreError>>()?;
        Ok(Changes::new(keys, found.next.encode(server)))
    }

    /// Returns whether rows of a table after a position may have been purged, or the position is
    /// of another database: of one that was restored from a backup, for example.
    async fn is_lost(&self, table: &str, after: &Position) -> Result<bool, SqlError> {
        let purged =
            format!("SELECT COALESCE((SELECT number FROM {{marks}} WHERE name = '{table}'), 0)");
        let max = format!("(SELECT COALESCE(max(seq), 0) FROM {{{table}}})");
        let (seen, last) = match after {
            Position::Number(number) => (*number, &*max),
            Position::Snapshot(seen) | Position::Part(seen, ..) => {
                // All transactions before the first number of a snapshot are complete in it.
                let least = seen.split(':').next().and_then(|it| it.parse::<i64>().ok());
                let now = "CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS text) AS bigint)";
                (least.map_or(0, |least| least - 1), now)
            }
        };
        let rows = self
            .fetch(Query::new(self.sql(&format!("{purged}, {last}")), []))
            .await?;
        let Some(mut row) = rows.into_iter().next() else {
            return Ok(true);
        };
        let (purged, last) = (row.integer("number")?, row.integer("seq")?);
        Ok(seen < purged || seen > last.max(purged))
    }
}

/// Reads an event from its [`COLUMNS`].
pub(super) fn event(row: &mut Row) -> Result<KeptEvent, StoreError> {
    let id = row.text("id")?;
    let kind = row.text("kind")?;
    let event = Event::new(kind, row.instant("at")?)
        .with_key(row.optional_id("key_id")?)
        .with_account(row.optional_text("account")?)
        .with_data(row.text("data")?);
    Ok(KeptEvent::new(id, event))
}
