//! Usage: first and last uses, and counts, in numbered batches.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::SystemTime;

use super::cell::Cell;
use super::session::{Driver, Query, Session, SqlError};
use super::store::{Access, SqlStore};
use crate::store::{KeyUsage, StoreError, UsageBatch, UsagePeriod};

/// The uses of a key in a batch.
struct Uses {
    first: SystemTime,
    last: SystemTime,
    address: Option<IpAddr>,
}

/// The columns of a use in a statement, and those of counts.
const USES_COLUMNS: usize = 4;
const COUNTS_COLUMNS: usize = 10;

/// The attempts at a batch, if the database asks to run it again.
const ATTEMPTS: u32 = 3;

impl<D: Driver> SqlStore<D> {
    pub(super) async fn record_usage(&self, batch: &UsageBatch) -> Result<(), StoreError> {
        let work = async {
            let mut attempt = 1;
            loop {
                match self.record(batch).await {
                    Err(SqlError::Again(_)) if attempt < ATTEMPTS => attempt += 1,
                    result => return result,
                }
            }
        };
        self.within(work).await
    }

    async fn record(&self, batch: &UsageBatch) -> Result<(), SqlError> {
        let mut session = self.session(Access::Write).await?;
        session.run(D::DIALECT.begin).await?;
        if self.take_number(&mut session, batch).await? {
            self.record_uses(&mut session, batch.usage()).await?;
            self.record_counts(&mut session, batch.usage()).await?;
            session.run("COMMIT").await?;
        } else {
            session.run("ROLLBACK").await?;
        }
        session.finish();
        Ok(())
    }

    /// Returns whether the batch is new. Its number is taken in the same transaction as the rest.
    async fn take_number(
        &self,
        session: &mut D::Session,
        batch: &UsageBatch,
    ) -> Result<bool, SqlError> {
        let statement = self.sql(
            "INSERT INTO {flushes} AS f (node, number, at) VALUES ($1, $2, $3) \
             ON CONFLICT (node) DO UPDATE SET number = excluded.number, at = excluded.at \
             WHERE f.number = excluded.number - 1",
        );
        let at = batch.usage().iter().map(|it| it.last_used_at).max();
        let cells = [
            Cell::bytes(*batch.node()),
            Cell::count(batch.number()),
            Cell::instant(at.unwrap_or(SystemTime::UNIX_EPOCH)),
        ];
        if session.execute(Query::new(statement, cells)).await? == 1 {
            return Ok(true);
        }
        let last = self.sql("SELECT number FROM {flushes} WHERE node = $1");
        let rows = session
            .fetch(Query::new(last, [Cell::bytes(*batch.node())]))
            .await?;
        let last = rows.into_iter().next().map(|mut row| row.count("number"));
        if last.transpose()?.is_some_and(|last| last >= batch.number()) {
            return Ok(false); // it was recorded before
        }
        Err(StoreError::conflict().into())
    }

    /// Updates the first and the last use of keys. A key that does not exist has no row.
    async fn record_uses(
        &self,
        session: &mut D::Session,
        usage: &[KeyUsage],
    ) -> Result<(), SqlError> {
        let mut uses: BTreeMap<[u8; 16], Uses> = BTreeMap::new();
        for counts in usage {
            let Some(key) = &counts.key else { continue };
            let seen = uses.entry(*key.as_bytes()).or_insert(Uses {
                first: counts.first_used_at,
                last: counts.last_used_at,
                address: counts.last_address,
            });
            seen.first = seen.first.min(counts.first_used_at);
            if counts.last_used_at >= seen.last {
                seen.last = counts.last_used_at;
                seen.address = counts.last_address.or(seen.address);
            }
        }
        let uses: Vec<_> = uses.into_iter().collect();
        // In the order of ids, so that nodes that flush the same keys do not wait for each other in
        // a circle. The batch comes first in the join, and each key is looked up. SQLite would read
        // the whole table of uses for an UPDATE: 1.9 s of a million for 500 keys, not 20 ms.
        let update = self.sql(
            "WITH batch(key_id, first_used, last_used, last_address) AS (VALUES {values}) \
             INSERT INTO {uses} AS u (key_id, account, first_used, last_used, last_address) \
             SELECT k.id, k.account, b.first_used, b.last_used, b.last_address \
             FROM batch AS b CROSS JOIN {keys} AS k WHERE k.id = b.key_id \
             ORDER BY k.id \
             ON CONFLICT (key_id) DO UPDATE SET \
             first_used = CASE WHEN u.first_used < excluded.first_used \
               THEN u.first_used ELSE excluded.first_used END, \
             last_used = CASE WHEN u.last_used > excluded.last_used \
               THEN u.last_used ELSE excluded.last_used END, \
             last_address = CASE WHEN u.last_used > excluded.last_used \
               THEN u.last_address ELSE COALESCE(excluded.last_address, u.last_address) END",
        );
        for uses in uses.chunks(D::DIALECT.most_parameters / USES_COLUMNS) {
            let rows = uses.iter().map(|(key, used)| {
                vec![
                    Cell::bytes(*key),
                    Cell::instant(used.first),
                    Cell::instant(used.last),
                    Cell::Text(used.address.map(|address| address.to_string())),
                ]
            });
            session.execute(Query::of_rows(&update, rows)).await?;
        }
        Ok(())
    }

    /// Adds counts, in the order of the batch: the same in all nodes.
    async fn record_counts(
        &self,
        session: &mut D::Session,
        usage: &[KeyUsage],
    ) -> Result<(), SqlError> {
        let insert = self.sql(
            "INSERT INTO {usage} AS u (account, hours, begins, key_id, environment, unit, \
             allowed, limited, refused, units) VALUES {values} \
             ON CONFLICT (account, hours, begins, key_id, environment, unit) DO UPDATE SET \
             allowed = u.allowed + excluded.allowed, limited = u.limited + excluded.limited, \
             refused = u.refused + excluded.refused, units = u.units + excluded.units",
        );
        let rows: Vec<Vec<Cell>> = usage.iter().flat_map(count_rows).collect();
        for rows in rows.chunks(D::DIALECT.most_parameters / COUNTS_COLUMNS) {
            session
                .execute(Query::of_rows(&insert, rows.iter().cloned()))
                .await?;
        }
        Ok(())
    }
}

/// Returns the rows of the counts of a key in a period: one for requests, with an empty unit, and
/// one for each unit.
fn count_rows(usage: &KeyUsage) -> Vec<Vec<Cell>> {
    let (hours, begins) = match usage.period {
        UsagePeriod::Day(day) => (24, i64::from(day) * 24),
        UsagePeriod::Hour(hour) => (1, i64::from(hour)),
    };
    // What is not itemized by key has no id; what is not itemized by account either, one zero byte.
    let key = match (&usage.key, &usage.account) {
        (Some(key), _) => key.as_bytes().to_vec(),
        (None, Some(_)) => Vec::new(),
        (None, None) => vec![0],
    };
    let row = |unit: &str, counts: [u64; 4]| {
        let environment = usage.environment.as_ref().map_or("", |it| it.as_str());
        let mut row = vec![
            Cell::text(usage.account.as_deref().unwrap_or_default()),
            Cell::integer(hours),
            Cell::integer(begins),
            Cell::bytes(key.clone()),
            Cell::text(environment),
            Cell::text(unit),
        ];
        row.extend(counts.map(Cell::count));
        row
    };
    let requests = [usage.allowed, usage.limited, usage.refused, 0];
    let mut rows = Vec::new();
    if requests != [0; 4] {
        rows.push(row("", requests));
    }
    for (unit, units) in usage.units.iter().filter(|(_, units)| **units > 0) {
        rows.push(row(unit, [0, 0, 0, *units]));
    }
    rows
}
