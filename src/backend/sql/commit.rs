//! Commits: a change as one transaction.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use super::cell::{Cell, Row};
use super::chain::{self, Link};
use super::record_row;
use super::session::{Driver, Query, Session, SqlError};
use super::store::{Access, SqlStore};
use super::tell::Told;
use super::trail_row;
use crate::key::digest::KeyId;
use crate::key::record::KeyRecord;
use crate::store::{AccountCap, Change, IssueRequest, Step, StoreError, TrailRecord};

/// The attempts at a change that the database asks to run again, or whose connection is lost.
const ATTEMPTS: u32 = 4;

/// The pause before the second attempt, doubled for each further one.
const PAUSE: Duration = Duration::from_millis(20);

/// The record and the trail record of a write.
#[derive(Clone, Copy)]
struct Write<'c> {
    record: &'c KeyRecord,
    trail: &'c TrailRecord,
    /// The record is deleted.
    is_delete: bool,
}

impl<'c> Write<'c> {
    fn new(record: &'c KeyRecord, trail: &'c TrailRecord) -> Self {
        Self {
            record,
            trail,
            is_delete: false,
        }
    }
}

/// The rows of the trail that a change adds, by key: the columns of [`HASHED`], the hash of the
/// record before, and its own.
type TrailRows = BTreeMap<[u8; 16], Vec<Cell>>;

/// The steps of a change by their kind, in the order in which they were added.
#[derive(Default)]
pub(super) struct Steps<'c> {
    creates: Vec<Write<'c>>,
    /// Updates and deletions.
    updates: Vec<Write<'c>>,
    /// All writes.
    writes: Vec<Write<'c>>,
    requests: Vec<(&'c IssueRequest, Option<KeyId>)>,
    caps: Vec<&'c AccountCap>,
    pub(super) events: Vec<Told<'c>>,
}

impl<D: Driver> SqlStore<D> {
    /// Commits a change. The transaction is finished even if the caller goes away: a commit that
    /// has begun is carried out or not, and the pool gets its connection back.
    pub(super) async fn commit(&self, change: &Change) -> Result<(), StoreError> {
        let (store, change) = (self.clone(), change.clone());
        let task = tokio::spawn(async move { store.within(store.attempts(&change)).await });
        task.await
            .unwrap_or_else(|error| Err(StoreError::unavailable(error)))
    }

    /// Tries again if the connection was lost. If the first attempt was carried out after all, the
    /// next one waits for its locks, then finds the records changed, and by the id of the change
    /// that it did that itself.
    async fn attempts(&self, change: &Change) -> Result<(), SqlError> {
        let mut ring = self.driver.ring(&self.names);
        let mut attempt = 1;
        loop {
            match self.attempt(change, &ring).await {
                // The queue of notifications is full. The change matters, and the ring does not.
                Err(SqlError::Limit(_)) if !ring.is_empty() => ring.clear(),
                Err(SqlError::Again(_) | SqlError::Lost(_)) if attempt < ATTEMPTS => {
                    tokio::time::sleep(PAUSE * (1 << attempt)).await;
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    async fn attempt(&self, change: &Change, ring: &str) -> Result<(), SqlError> {
        let steps = Steps::of(change)?;
        let mut session = self.session(Access::Write).await?;
        session.run(D::DIALECT.begin).await?;
        match self.write(&mut session, change, &steps).await {
            Ok(()) => {
                let ring = if steps.writes.is_empty() { "" } else { ring };
                session.run(&format!("{ring}COMMIT")).await?;
                session.finish();
                Ok(())
            }
            Err(SqlError::Store(error)) => {
                session.run("ROLLBACK").await?;
                // Only now: before, this transaction's own rows would look as if they were there.
                let was_committed = self.is_committed(&mut session, change, &steps).await?;
                session.finish();
                if was_committed {
                    Ok(())
                } else {
                    Err(error.into())
                }
            }
            Err(error) => Err(error),
        }
    }

    async fn write(
        &self,
        session: &mut D::Session,
        change: &Change,
        steps: &Steps<'_>,
    ) -> Result<(), SqlError> {
        let mut rows = TrailRows::new();
        let counts = self.lock_accounts(session, &steps.caps).await?;
        self.remember(session, &steps.requests).await?;
        self.create(session, change, &steps.creates, &mut rows)
            .await?;
        self.update(session, &steps.updates, &mut rows).await?;
        self.check_caps(session, &steps.caps, &counts).await?;
        self.add_trail(session, &steps.writes, &mut rows).await?;
        self.tell(session, change, &steps.events).await
    }

    /// Creates records, and adds their rows of the trail.
    async fn create(
        &self,
        session: &mut D::Session,
        change: &Change,
        creates: &[Write<'_>],
        trail: &mut TrailRows,
    ) -> Result<(), SqlError> {
        let columns = record_row::COLUMNS.join(", ");
        let keys = format!(
            "INSERT INTO {{keys}} ({columns}, listed_at, head) VALUES {{values}} \
             ON CONFLICT (id) DO NOTHING"
        );
        let keys = self.sql(&keys);
        let uses = self.sql(
            "INSERT INTO {uses} (key_id, account) VALUES {values} ON CONFLICT (key_id) DO NOTHING",
        );
        // Sorted, so that rivals with the same keys in another order do not wait for each other.
        let mut sorted = creates.to_vec();
        sorted.sort_by_key(|write| *write.record.id().as_bytes());
        let per_statement = D::DIALECT.most_parameters / (record_row::COLUMNS.len() + 2);
        for creates in sorted.chunks(per_statement) {
            self.check_new(session, creates).await?;
            let rows = creates.iter().map(|write| {
                let mut cells = record_row::cells(write.record);
                let head = self.chain(write, None, &cells, trail);
                let listed_at = write.record.created_at().unwrap_or(change.at());
                cells.extend([Cell::instant(listed_at), Cell::bytes(head)]);
                cells
            });
            let written = session.execute(Query::of_rows(&keys, rows)).await?;
            if written != creates.len() as u64 {
                return Err(StoreError::already_exists().into());
            }
            let rows = creates.iter().map(|write| {
                let account = write.record.account();
                vec![Cell::id(write.record.id()), Cell::text(account)]
            });
            session.execute(Query::of_rows(&uses, rows)).await?;
        }
        Ok(())
    }

    /// Checks that no key with one of these ids was deleted: a revoked key does not come back.
    async fn check_new(
        &self,
        session: &mut D::Session,
        creates: &[Write<'_>],
    ) -> Result<(), SqlError> {
        let ids = creates.iter();
        let ids = ids.map(|write| vec![Cell::id(write.record.id())]);
        let known = self.sql("SELECT key_id FROM {trail} WHERE key_id IN ({values}) LIMIT 1");
        if session.fetch(Query::of_rows(&known, ids)).await?.is_empty() {
            return Ok(());
        }
        Err(StoreError::already_exists().into())
    }

    /// Updates and deletes records, and adds their rows of the trail. All records of a chunk are
    /// written in one statement, so that a slow network does not make a large change late.
    async fn update(
        &self,
        session: &mut D::Session,
        updates: &[Write<'_>],
        trail: &mut TrailRows,
    ) -> Result<(), SqlError> {
        let mut sorted = updates.to_vec();
        sorted.sort_by_key(|write| *write.record.id().as_bytes());
        for updates in sorted.chunks(D::DIALECT.most_parameters) {
            let seen = self.lock(session, updates).await?;
            let mut replaced = Vec::new();
            let mut deleted = Vec::new();
            for write in updates {
                let id = *write.record.id().as_bytes();
                let Some((version, account, last)) = seen.get(&id) else {
                    return Err(StoreError::conflict().into());
                };
                if write.trail.version - 1 != *version {
                    return Err(StoreError::conflict().into());
                }
                if write.is_delete {
                    // Its last record of the trail says that it has no state any more.
                    self.chain(write, Some(*last), &[], trail);
                    deleted.push(write.record.id());
                    continue;
                }
                let mut cells = record_row::cells(write.record);
                let head = self.chain(write, Some(*last), &cells, trail);
                cells.push(Cell::bytes(head));
                replaced.push(cells);
                if account != write.record.account() {
                    self.move_uses(session, write.record).await?;
                }
            }
            self.replace(session, replaced).await?;
            self.delete(session, &deleted).await?;
        }
        Ok(())
    }

    /// Locks records until the end of the transaction. Returns the version and the account of each,
    /// and the last hash of its chain.
    async fn lock(
        &self,
        session: &mut D::Session,
        writes: &[Write<'_>],
    ) -> Result<BTreeMap<[u8; 16], (u64, String, Link)>, SqlError> {
        let columns = record_row::COLUMNS
            .map(|column| format!("k.{column}"))
            .join(", ");
        let for_update = match D::DIALECT.for_update {
            "" => String::new(),
            lock => format!("{lock} OF k"),
        };
        let lock = self.sql(&format!(
            "SELECT k.id, k.version, k.account, k.head, t.state, t.digest, {columns} \
             FROM {{keys}} AS k \
             LEFT JOIN {{trail}} AS t ON t.key_id = k.id AND t.version = k.version \
             WHERE k.id IN ({{values}}) ORDER BY k.id {for_update}"
        ));
        let ids = writes.iter();
        let ids = ids.map(|write| vec![Cell::id(write.record.id())]);
        let mut seen = BTreeMap::new();
        for mut row in session.fetch(Query::of_rows(&lock, ids)).await? {
            let id: [u8; 16] = row.bytes("id")?;
            let (version, account) = (row.count("version")?, row.text("account")?);
            seen.insert(id, (version, account, self.last_link(&mut row)));
        }
        Ok(seen)
    }

    /// Reads the last hash of the chain of a key, unless the key or the end of its trail was edited
    /// behind our back. The next record must not vouch for that.
    fn last_link(&self, row: &mut Row) -> Link {
        // One of another length was edited, too.
        let mut link = |column| -> Option<Link> { row.optional_bytes(column).ok().flatten() };
        let (head, state, digest) = (link("head"), link("state"), link("digest"));
        let cells = row.take(record_row::COLUMNS.len());
        let is = chain::state(self.audit_key.as_ref(), &record_row::COLUMNS, &cells);
        let is_whole = head.is_some() && head == digest && state == Some(is);
        digest.filter(|_| is_whole).unwrap_or(chain::BROKEN)
    }

    /// Moves the uses of a key to another account, by which they are listed.
    async fn move_uses(
        &self,
        session: &mut D::Session,
        record: &KeyRecord,
    ) -> Result<(), SqlError> {
        let update = self.sql("UPDATE {uses} SET account = $2 WHERE key_id = $1");
        let cells = [Cell::id(record.id()), Cell::text(record.account())];
        session.execute(Query::new(update, cells)).await?;
        Ok(())
    }

    /// Replaces records that are locked.
    async fn replace(
        &self,
        session: &mut D::Session,
        rows: Vec<Vec<Cell>>,
    ) -> Result<(), SqlError> {
        let columns: Vec<&str> = record_row::COLUMNS.into_iter().chain(["head"]).collect();
        let names = columns.join(", ");
        let set: Vec<String> = columns
            .iter()
            .skip(1) // the id
            .map(|column| format!("{column} = v.{column}"))
            .collect();
        let set = set.join(", ");
        // The values come first in the join, so that each key is looked up.
        let update = self.sql(&format!(
            "WITH v({names}) AS (VALUES {{values}}) \
             UPDATE {{keys}} SET {set} FROM v \
             WHERE {{keys}}.id = v.id AND {{keys}}.version = v.version - 1"
        ));
        for rows in rows.chunks(D::DIALECT.most_parameters / columns.len()) {
            let query = Query::of_rows(&update, rows.iter().cloned());
            if session.execute(query).await? != rows.len() as u64 {
                return Err(StoreError::conflict().into());
            }
        }
        Ok(())
    }

    /// Deletes records that are locked, with what is kept beside them.
    async fn delete(&self, session: &mut D::Session, ids: &[KeyId]) -> Result<(), SqlError> {
        for ids in ids.chunks(D::DIALECT.most_parameters) {
            let rows = || ids.iter().map(|id| vec![Cell::id(*id)]);
            for delete in [
                "DELETE FROM {uses} WHERE key_id IN ({values})",
                "DELETE FROM {requests} WHERE key_id IN ({values})",
                "DELETE FROM {profiles} WHERE key_id IN ({values})",
            ] {
                session
                    .execute(Query::of_rows(&self.sql(delete), rows()))
                    .await?;
            }
            let delete = self.sql("DELETE FROM {keys} WHERE id IN ({values})");
            if session.execute(Query::of_rows(&delete, rows())).await? != ids.len() as u64 {
                return Err(StoreError::conflict().into());
            }
        }
        Ok(())
    }

    /// Chains a write to the one before it, and adds its row of the trail. Returns its hash, the
    /// new head of the chain of its key.
    fn chain(
        &self,
        write: &Write<'_>,
        previous: Option<Link>,
        record: &[Cell],
        trail: &mut TrailRows,
    ) -> Link {
        let key = self.audit_key.as_ref();
        let mut cells = trail_row::cells(write.trail);
        let state = chain::state(key, &record_row::COLUMNS, record);
        cells.push(Cell::bytes(state));
        let digest = chain::link(key, previous.as_ref(), &HASHED, &cells);
        cells.extend([Cell::optional_bytes(previous), Cell::bytes(digest)]);
        trail.insert(*write.record.id().as_bytes(), cells);
        digest
    }

    /// Inserts the rows of the trail, in the order in which the writes were added.
    async fn add_trail(
        &self,
        session: &mut D::Session,
        writes: &[Write<'_>],
        trail: &mut TrailRows,
    ) -> Result<(), SqlError> {
        let columns = trail_row::COLUMNS.join(", ");
        let insert = self.sql(&format!(
            "INSERT INTO {{trail}} ({columns}, state, previous, digest) VALUES {{values}}"
        ));
        let per_statement = D::DIALECT.most_parameters / (trail_row::COLUMNS.len() + 3);
        for writes in writes.chunks(per_statement) {
            let rows = writes.iter();
            let rows = rows.filter_map(|write| trail.remove(write.record.id().as_bytes()));
            session.execute(Query::of_rows(&insert, rows)).await?;
        }
        Ok(())
    }

    /// Returns whether a change was carried out before.
    async fn is_committed(
        &self,
        session: &mut D::Session,
        change: &Change,
        steps: &Steps<'_>,
    ) -> Result<bool, SqlError> {
        if self.has_told(session, &steps.events).await? {
            return Ok(true);
        }
        if steps.writes.is_empty() {
            return Ok(false);
        }
        // Its events may all have been left out.
        let statement = self.sql("SELECT seq FROM {trail} WHERE change = $1 LIMIT 1");
        let cell = Cell::bytes(*change.id().as_bytes());
        let rows = session.fetch(Query::new(statement, [cell])).await?;
        Ok(!rows.is_empty())
    }
}

impl<'c> Steps<'c> {
    /// Sorts the steps of a change by their kind. A record that is written twice is an error.
    pub(super) fn of(change: &'c Change) -> Result<Self, StoreError> {
        let mut steps = Self::default();
        let mut written: HashSet<KeyId> = HashSet::new();
        for (at, step) in change.steps().enumerate() {
            match step {
                Step::Create { record, trail } => {
                    if !written.insert(record.id()) {
                        return Err(StoreError::already_exists());
                    }
                    steps.creates.push(Write::new(record, trail));
                    steps.writes.push(Write::new(record, trail));
                }
                Step::Update { record, trail } => {
                    if !written.insert(record.id()) {
                        return Err(StoreError::conflict());
                    }
                    steps.updates.push(Write::new(record, trail));
                    steps.writes.push(Write::new(record, trail));
                }
                Step::Delete { record, trail } => {
                    if !written.insert(record.id()) {
                        return Err(StoreError::conflict());
                    }
                    let write = Write {
                        is_delete: true,
                        ..Write::new(record, trail)
                    };
                    steps.updates.push(write);
                    steps.writes.push(write);
                }
                Step::Request { request, replaces } => steps.requests.push((request, replaces)),
                Step::Cap(cap) => steps.caps.push(cap),
                Step::Event {
                    event,
                    once,
                    only_to,
                } => steps
                    .events
                    .push(Told::new(change, at, event, once, only_to)),
            }
        }
        Ok(steps)
    }
}

/// The columns that the chain hashes of a record of the trail: its own, and the state of the key.
pub(super) const HASHED: [&str; trail_row::COLUMNS.len() + 1] = {
    let mut columns = ["state"; trail_row::COLUMNS.len() + 1];
    let mut at = 0;
    while at < trail_row::COLUMNS.len() {
        columns[at] = trail_row::COLUMNS[at];
        at += 1;
    }
    columns
};
