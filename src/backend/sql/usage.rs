//! Recording usage: first and last uses, and counts, in numbered batches.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::cell::Cell;
use super::commit::Steps;
use super::session::{Attempts, Driver, Query, Session, SqlError};
use super::store::{Access, SqlStore};
use crate::limit::charge::REQUESTS;
use crate::store::{
    Actor, ActorKind, Change, KeyUsage, StoreError, UsageBatch, UsageCounts, UsagePeriod,
};

/// The usage of each key in a batch with all its uses, in the order of ids.
type Uses = BTreeMap<[u8; 16], KeyUsage>;

/// The columns of a use in a statement, and those of counts.
const USES_COLUMNS: usize = 4;
const COUNTS_COLUMNS: usize = 11;

/// The time for which the number of a node is kept after its last use, and the numbers that are
/// deleted at once.
const NUMBERS_KEPT: Duration = Duration::from_secs(30 * 86_400);
const DELETED_AT_ONCE: u32 = 1_000;

impl<D: Driver> SqlStore<D> {
    pub(super) async fn record_usage(&self, batch: &UsageBatch) -> Result<(), StoreError> {
        let work = async {
            let mut attempts = Attempts::default();
            loop {
                let result = self.record(batch).await;
                if !attempts.allow_another(&result) {
                    return result;
                }
            }
        };
        self.within(work).await
    }

    async fn record(&self, batch: &UsageBatch) -> Result<(), SqlError> {
        let mut session = self.session(Access::Write).await?;
        session.run(D::DIALECT.begin).await?;
        if self.take_number(&mut session, batch).await? {
            let uses = uses(batch.usage());
            let new = self.lock_uses(&mut session, &uses).await?;
            self.record_uses(&mut session, &uses).await?;
            self.record_counts(&mut session, batch.usage()).await?;
            self.tell_first_uses(&mut session, &new).await?;
            if batch.number() == 1 {
                self.delete_old_numbers(&mut session).await?;
            }
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
        let statement = self.sql(&format!(
            "INSERT INTO {{flushes}} AS f (node, number, at) VALUES ($1, $2, {}) \
             ON CONFLICT (node) DO UPDATE SET number = excluded.number, at = excluded.at \
             WHERE f.number = excluded.number - 1",
            D::DIALECT.now
        ));
        let cells = [Cell::bytes(*batch.node()), Cell::count(batch.number())];
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

    /// Deletes the usage of periods that were over at a time, and returns the number of rows.
    pub(super) async fn purge_usage(&self, before: SystemTime) -> Result<u64, StoreError> {
        let before = before.duration_since(UNIX_EPOCH).unwrap_or_default();
        let before = i64::try_from(before.as_secs() / 3_600).unwrap_or(i64::MAX);
        let mut purged = 0;
        for hours in [1, 24] {
            loop {
                let deleted = self.within(self.purge_some_usage(hours, before - hours));
                let deleted = deleted.await?;
                if deleted == 0 {
                    break;
                }
                purged += deleted;
            }
        }
        Ok(purged)
    }

    /// Deletes usage of periods of so many hours that begin at an hour or before.
    async fn purge_some_usage(&self, hours: i64, last: i64) -> Result<u64, SqlError> {
        let place = "account, hours, begins, key_id, environment, unit";
        let delete = self.sql(&format!(
            "DELETE FROM {{usage}} WHERE ({place}) IN (SELECT {place} FROM {{usage}} \
             WHERE hours = $1 AND begins <= $2 ORDER BY hours, begins LIMIT {DELETED_AT_ONCE})"
        ));
        let mut attempts = Attempts::default();
        loop {
            let cells = [Cell::integer(hours), Cell::integer(last)];
            let result = self.write_one(Query::new(delete.as_str(), cells)).await;
            if !attempts.allow_another(&result) {
                return result;
            }
        }
    }

    /// Deletes numbers of nodes that have not recorded for long. Each start of a process leaves one,
    /// so that a few at each start are enough.
    ///
    /// By the clock of the database: a process whose clock is ahead would delete the numbers of
    /// others, whose batches would then count twice.
    async fn delete_old_numbers(&self, session: &mut D::Session) -> Result<(), SqlError> {
        let (now, kept) = (D::DIALECT.now, NUMBERS_KEPT.as_micros());
        let delete = self.sql(&format!(
            "DELETE FROM {{flushes}} WHERE node IN (SELECT node FROM {{flushes}} \
             WHERE at < {now} - {kept} ORDER BY node LIMIT {DELETED_AT_ONCE})"
        ));
        session.execute(Query::new(delete, [])).await?;
        Ok(())
    }

    /// Locks the uses of the keys, and returns the usage of those that were never used before.
    ///
    /// All are locked, in the order of ids: nodes that record the same keys would otherwise wait
    /// for each other in a circle.
    async fn lock_uses(
        &self,
        session: &mut D::Session,
        uses: &Uses,
    ) -> Result<Vec<KeyUsage>, SqlError> {
        let lock = self.sql(
            "SELECT key_id, CASE WHEN first_used IS NULL THEN 1 END FROM {uses} \
             WHERE key_id IN ({values}) ORDER BY key_id {for_update}",
        );
        let ids: Vec<_> = uses.keys().collect();
        let mut new = Vec::new();
        for ids in ids.chunks(D::DIALECT.most_parameters) {
            let rows = ids.iter().map(|id| vec![Cell::bytes(**id)]);
            for mut row in session.fetch(Query::of_rows(&lock, rows)).await? {
                let id: [u8; 16] = row.bytes("key_id")?;
                let is_new = row.optional_integer("first_used")?.is_some();
                new.extend(uses.get(&id).filter(|_| is_new).cloned());
            }
        }
        Ok(new)
    }

    /// Updates the first and the last use of keys. A key that does not exist has no row.
    async fn record_uses(&self, session: &mut D::Session, uses: &Uses) -> Result<(), SqlError> {
        let uses: Vec<_> = uses.values().collect();
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
            let rows = uses.iter().filter_map(|usage| {
                let (key, times) = (usage.key?, usage.used?);
                Some(vec![
                    Cell::id(key),
                    Cell::instant(times.first),
                    Cell::instant(times.last),
                    Cell::Text(times.last_address.map(|address| address.to_string())),
                ])
            });
            session.execute(Query::of_rows(&update, rows)).await?;
        }
        Ok(())
    }

    /// Keeps an event of the first use of each of these keys.
    async fn tell_first_uses(
        &self,
        session: &mut D::Session,
        new: &[KeyUsage],
    ) -> Result<(), SqlError> {
        if new.is_empty() {
            return Ok(());
        }
        let at = last_time(new);
        let mut change = Change::new(Actor::new(ActorKind::System, "usage"), at);
        for event in new.iter().filter_map(KeyUsage::first_use) {
            change = change.add_event(event).map_err(StoreError::refused)?;
        }
        let steps = Steps::of(&change)?;
        self.tell(session, &change, &steps.events).await
    }

    /// Adds counts, in the order of the batch: the same in all nodes.
    async fn record_counts(
        &self,
        session: &mut D::Session,
        usage: &[KeyUsage],
    ) -> Result<(), SqlError> {
        let set = ["allowed", "limited", "refused", "units"].map(add_count);
        let set = set.join(", ");
        let insert = self.sql(&format!(
            "INSERT INTO {{usage}} AS u (account, hours, begins, key_id, environment, unit, \
             lineage, allowed, limited, refused, units) VALUES {{values}} \
             ON CONFLICT (account, hours, begins, key_id, environment, unit) DO UPDATE SET {set}"
        ));
        let rows: Vec<Vec<Cell>> = usage.iter().flat_map(count_rows).collect();
        for rows in rows.chunks(D::DIALECT.most_parameters / COUNTS_COLUMNS) {
            session
                .execute(Query::of_rows(&insert, rows.iter().cloned()))
                .await?;
        }
        Ok(())
    }
}

/// Returns the assignment that adds a count to the one that is kept. A sum that overflows would fail
/// the batch, which would be sent again for ever.
fn add_count(column: &str) -> String {
    let most = UsageCounts::MOST;
    format!(
        "{column} = CASE WHEN u.{column} > {most} - excluded.{column} THEN {most} \
         WHEN u.{column} < -{most} - excluded.{column} THEN -{most} \
         ELSE u.{column} + excluded.{column} END"
    )
}

/// Returns the time of the last use, by the clock of who counted.
fn last_time(usage: &[KeyUsage]) -> SystemTime {
    let times = usage.iter().map(|usage| match &usage.used {
        Some(used) => used.last,
        None => usage.period.begins_at(),
    });
    times.max().unwrap_or(UNIX_EPOCH)
}

/// Returns the usage of each key that was used in a batch.
fn uses(usage: &[KeyUsage]) -> Uses {
    let mut uses = Uses::new();
    for counts in usage {
        let (Some(key), Some(_)) = (&counts.key, &counts.used) else {
            continue;
        };
        match uses.get_mut(key.as_bytes()) {
            Some(others) => others.add(counts.clone()),
            None => {
                uses.insert(*key.as_bytes(), counts.clone());
            }
        }
    }
    uses
}

/// Returns the rows of the counts of a key in a period: one for requests, with an empty unit, and
/// one for each further unit.
fn count_rows(usage: &KeyUsage) -> Vec<Vec<Cell>> {
    let (hours, begins) = match usage.period {
        UsagePeriod::Day(day) => (24, i64::from(day) * 24),
        UsagePeriod::Hour(hour) => (1, i64::from(hour)),
    };
    // What is not itemized by key has no id; what is not itemized by account either, one zero byte.
    let (key, lineage) = match (&usage.key, &usage.account) {
        (Some(key), _) => {
            let lineage = usage.lineage.as_ref().unwrap_or(key);
            (key.as_bytes().to_vec(), lineage.as_bytes().to_vec())
        }
        (None, Some(_)) => (Vec::new(), Vec::new()),
        (None, None) => (vec![0], vec![0]),
    };
    let row = |unit: &str, counts: [i64; 4]| {
        let environment = usage.environment.as_ref().map_or("", |it| it.as_str());
        let mut row = vec![
            Cell::text(usage.account.as_deref().unwrap_or_default()),
            Cell::integer(hours),
            Cell::integer(begins),
            Cell::bytes(key.clone()),
            Cell::text(environment),
            Cell::text(unit),
            Cell::bytes(lineage.clone()),
        ];
        row.extend(counts.map(Cell::integer));
        row
    };
    let counts = &usage.counts;
    let whole = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let requests = counts.units.get(REQUESTS).copied().unwrap_or_default();
    let requests = [
        whole(counts.allowed),
        whole(counts.limited),
        whole(counts.refused),
        requests,
    ];
    let mut rows = Vec::new();
    if requests != [0; 4] {
        rows.push(row("", requests));
    }
    for (unit, units) in &counts.units {
        if unit != REQUESTS && *units != 0 {
            rows.push(row(unit, [0, 0, 0, *units]));
        }
    }
    rows
}
