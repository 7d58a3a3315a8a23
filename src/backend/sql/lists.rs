//! Lists of keys.
//!
//! A page is read from an index in the order of the list, from the position of the cursor on. The
//! scan is bounded: filters look at the rows of the scan only. So a page costs the same at any
//! depth and under any filter, and may be short, or empty, before the end of the list.
//!
//! Comparisons of rows (`(a, b) < ($1, $2)`) and one statement for each order are what the planners
//! of both databases serve from an index alone. `OR`, optional conditions on the indexed columns
//! and `OFFSET` from the beginning each read the whole list up to the page.

use std::time::SystemTime;

use super::cell::{Cell, Row, microseconds};
use super::record_row;
use super::session::{Driver, Query, Session, SqlError};
use super::store::{Access, SqlStore};
use crate::key::digest::KeyId;
use crate::key::environment::Environment;
use crate::key::record::KeyRecord;
use crate::store::{
    Cursor, ExpiryFilter, KeyOrder, KeyQuery, KeyState, ListedKey, Page, Paging, StoreError,
    StoreErrorKind,
};
use crate::util::trace;

/// The most rows that are looked at for one page.
const MOST_SCANNED: usize = 2_000;

/// The most keys of a chain of rotations, which are read at once.
const MOST_OF_LINEAGE: usize = 10_000;

/// The way in which an order reads its index.
struct Scan {
    /// The table with the index, and its columns.
    table: &'static str,
    position: &'static str,
    id: &'static str,
    /// The order is from the greatest position to the least.
    is_descending: bool,
    /// The condition of a partial index, and the end of the list where a filter has one.
    condition: &'static str,
}

impl Scan {
    fn of(query: &KeyQuery) -> Self {
        let order = query.order;
        let (table, id) = match order {
            KeyOrder::LeastRecentlyUsed => ("uses", "key_id"),
            _ => ("keys", "id"),
        };
        let (position, is_descending, condition) = match order {
            KeyOrder::Newest => ("listed_at", true, ""),
            KeyOrder::EndingSoon => match query.expiry {
                Some(ExpiryFilter::Before(_) | ExpiryFilter::Between(..)) => {
                    ("expires_at", false, " AND expires_at < $8")
                }
                _ => ("expires_at", false, " AND expires_at IS NOT NULL"),
            },
            KeyOrder::LeastRecentlyUsed if query.idle_since.is_some() => {
                ("last_used", false, " AND last_used < $9")
            }
            KeyOrder::LeastRecentlyUsed => ("last_used", false, ""),
            KeyOrder::RecentlyRevoked if query.revoked_before.is_some() => {
                ("revoked_at", true, " AND revoked_at < $10")
            }
            KeyOrder::RecentlyRevoked => ("revoked_at", true, " AND revoked_at IS NOT NULL"),
        };
        Self {
            table,
            position,
            id,
            is_descending,
            condition,
        }
    }

    /// Returns the beginning of the list: a position before all others.
    const fn beginning(&self) -> (i64, [u8; 16]) {
        if self.is_descending {
            (i64::MAX, [0xff; 16])
        } else {
            (-1, [0; 16])
        }
    }

    /// Returns the scan, from the position in `$2` and `$3` on, with the account in `$1`.
    fn select(&self, columns: &str, has_account: bool) -> String {
        let Self {
            table,
            position,
            id,
            condition,
            ..
        } = self;
        let (than, reaches, direction) = if self.is_descending {
            ("<", ">=", "DESC")
        } else {
            (">", "<=", "ASC")
        };
        if has_account {
            // In this form only the index by account serves it, in its order. With `account = $1`,
            // the planner may read the whole account and sort it.
            return format!(
                "SELECT {columns} FROM {{{table}}} \
                 WHERE account {reaches} $1 AND (account, {position}, {id}) {than} ($1, $2, $3){condition} \
                 ORDER BY account {direction}, {position} {direction}, {id} {direction}"
            );
        }
        // `$1` is null, and is named so that it has a type.
        format!(
            "SELECT {columns} FROM {{{table}}} \
             WHERE $1 IS NULL AND ({position}, {id}) {than} ($2, $3){condition} \
             ORDER BY {position} {direction}, {id} {direction}"
        )
    }
}

impl<D: Driver> SqlStore<D> {
    pub(super) async fn list(
        &self,
        query: &KeyQuery,
        paging: &Paging,
    ) -> Result<Page<ListedKey>, StoreError> {
        let filters = [&query.account, &query.prefix];
        if filters
            .into_iter()
            .flatten()
            .any(|text| text.contains('\0'))
        {
            return Ok(Page::new(Vec::new(), None)); // no record has such a text
        }
        let scan = Scan::of(query);
        let fingerprint = query.fingerprint();
        let (position, id) = match paging.cursor() {
            None => match (query.expiry, query.order) {
                // From the first of them on: many keys may have expired before.
                (Some(ExpiryFilter::Between(from, _)), KeyOrder::EndingSoon) => {
                    (microseconds(from) - 1, [0xff; 16])
                }
                _ => scan.beginning(),
            },
            Some(cursor) => decode(&fingerprint, cursor)?,
        };
        let limit = paging.limit() as usize;
        let (state, at) = match query.state {
            None => (None, SystemTime::UNIX_EPOCH),
            Some((state, at)) => (Some(number(state)), at),
        };
        let statement = self.statement(&scan, query.account.is_some(), limit);
        let parameters = [
            Cell::optional_text(query.account.as_deref()),
            Cell::integer(position),
            Cell::bytes(id),
            Cell::optional_text(query.prefix.as_deref()),
            Cell::optional_text(query.environment.as_ref().map(Environment::as_str)),
            Cell::Integer(state),
            // The state of a key does not change within a microsecond of the store.
            Cell::integer(microseconds(at)),
            Cell::optional_instant(match query.expiry {
                Some(ExpiryFilter::Before(at) | ExpiryFilter::Between(_, at)) => Some(at),
                _ => None,
            }),
            Cell::optional_instant(query.idle_since),
            Cell::optional_instant(query.revoked_before),
            Cell::integer(i64::from(query.expiry == Some(ExpiryFilter::Never))),
            Cell::integer(i64::from(query.is_rotated)),
            Cell::optional_instant(match query.expiry {
                Some(ExpiryFilter::Between(from, _)) => Some(from),
                _ => None,
            }),
        ];
        let rows = self
            .within(self.page(Query::new(statement, parameters)))
            .await?;
        let mut items = Vec::new();
        let mut last = None;
        let mut scanned_to = None;
        let mut has_more = false;
        for (number, mut row) in rows.into_iter().enumerate() {
            let end = row.optional_integer("the end of the scan")?;
            let end_id = row.optional_id("the end of the scan")?;
            scanned_to = end.zip(end_id);
            let Some(position) = row.optional_integer(scan.position)? else {
                break; // no key: the row tells the end of the scan only
            };
            if number == limit {
                has_more = true;
                break;
            }
            let id = row.id("id")?;
            last = Some((position, id));
            match listed(&mut row) {
                Ok(key) => items.push(key),
                Err(error)
                    if query.leaves_out_unreadable && error.kind() == StoreErrorKind::Corrupt =>
                {
                    trace::unreadable_key(&error, &id);
                }
                Err(error) => return Err(error),
            }
        }
        let next = if has_more { last } else { scanned_to };
        Ok(Page::new(
            items,
            next.map(|next| encode(&fingerprint, next)),
        ))
    }

    pub(super) async fn page(&self, query: Query) -> Result<Vec<Row>, SqlError> {
        let begin = D::DIALECT.begin_page;
        if begin.is_empty() {
            return self.fetch(query).await;
        }
        let mut session = self.session(Access::Read).await?;
        session.run(begin).await?;
        let rows = session.fetch(query).await?;
        session.run("COMMIT").await?;
        session.finish();
        Ok(rows)
    }

    pub(super) async fn find_listed(&self, id: &KeyId) -> Result<Option<ListedKey>, StoreError> {
        let columns = record_row::COLUMNS.map(|column| format!("k.{column}"));
        let statement = self.sql(&format!(
            "SELECT u.first_used, u.last_used, u.last_address, {} FROM {{keys}} AS k \
             LEFT JOIN {{uses}} AS u ON u.key_id = k.id WHERE k.id = $1",
            columns.join(", ")
        ));
        let query = Query::new(statement, [Cell::id(*id)]);
        let rows = self.within(self.fetch(query)).await?;
        let row = rows.into_iter().next();
        row.map(|mut row| listed(&mut row)).transpose()
    }

    /// Returns the keys of a chain of rotations, by its first key. More than the most is an error.
    pub(super) async fn find_lineage(&self, first: &KeyId) -> Result<Vec<KeyRecord>, StoreError> {
        let columns = record_row::COLUMNS.join(", ");
        let statement = self.sql(&format!(
            "SELECT {columns} FROM {{keys}} WHERE id = $1 AND lineage IS NULL \
             UNION ALL SELECT {columns} FROM (SELECT {columns} FROM {{keys}} WHERE lineage = $1 \
             LIMIT {MOST_OF_LINEAGE}) AS others"
        ));
        let query = Query::new(statement, [Cell::id(*first)]);
        let rows = self.within(self.fetch(query)).await?;
        if rows.len() > MOST_OF_LINEAGE {
            return Err(StoreError::refused("a chain of rotations is too long"));
        }
        let records = rows.into_iter().map(|mut row| record_row::record(&mut row));
        records.collect()
    }

    /// Returns the statement of a page.
    ///
    /// Each row has the last position of the scan, or null if the scan reached the end of the list,
    /// and a key, or nulls if the page has no keys. Both are read in one statement, and so from one
    /// state of the table.
    fn statement(&self, scan: &Scan, has_account: bool, limit: usize) -> String {
        let Scan { position, id, .. } = scan;
        let columns = record_row::COLUMNS.join(", ");
        let direction = if scan.is_descending { "DESC" } else { "ASC" };
        let ends = scan.select(&format!("{position}, {id}"), has_account);
        let most = MOST_SCANNED - 1;
        // One more key than the page holds tells whether there is a next one.
        let limit = limit + 1;
        let place = format!("{position} AS place");
        let keys = if scan.table == "keys" {
            let scanned = scan.select(&format!("{place}, {columns}"), has_account);
            format!(
                "SELECT place, {columns} FROM ({scanned} LIMIT {MOST_SCANNED}) AS k \
                 WHERE {FILTER} ORDER BY place {direction}, k.id {direction} LIMIT {limit}"
            )
        } else {
            let scanned = scan.select(&format!("{place}, {id}"), has_account);
            // Each key is looked up by itself. In a join, the planner of PostgreSQL may apply the
            // filter first, to the whole table.
            format!(
                "SELECT place, {columns} FROM (\
                   SELECT place, {id} FROM ({scanned} LIMIT {MOST_SCANNED}) AS s \
                   WHERE (SELECT 1 FROM {{keys}} AS k WHERE k.id = s.{id} AND {FILTER}) = 1 \
                   ORDER BY place {direction}, {id} {direction} LIMIT {limit}\
                 ) AS s JOIN {{keys}} AS k ON k.id = s.{id}"
            )
        };
        let page = record_row::COLUMNS
            .map(|column| format!("page.{column}"))
            .join(", ");
        let used = "FROM {uses} AS u WHERE u.key_id = page.id";
        self.sql(&format!(
            "SELECT ends.{position}, ends.{id}, page.place, page.id, \
             (SELECT u.first_used {used}), (SELECT u.last_used {used}), \
             (SELECT u.last_address {used}), {page} \
             FROM (SELECT 1 AS one) AS one \
             LEFT JOIN ({ends} LIMIT 1 OFFSET {most}) AS ends ON 1 = 1 \
             LEFT JOIN ({keys}) AS page ON 1 = 1 \
             ORDER BY page.place {direction}, page.id {direction}"
        ))
    }
}

/// Reads a key with the times of its use from a row.
fn listed(row: &mut Row) -> Result<ListedKey, StoreError> {
    let first_used = row.optional_instant("first_used")?;
    let last_used = row.optional_instant("last_used")?;
    let address = row.optional_text("last_address")?;
    let record = record_row::record(row)?;
    // The index of last uses has 0 for a key that was never used.
    let last_used = last_used.filter(|at| *at > SystemTime::UNIX_EPOCH);
    let listed = ListedKey::new(record).with_uses(first_used, last_used);
    Ok(listed.with_last_address(address.and_then(|address| address.parse().ok())))
}

/// The keys `k` that a query asks for, as [`KeyQuery::matches`] says. The states are those of
/// [`KeyState::of`], by their [`number`].
const FILTER: &str = "($4 IS NULL OR k.prefix = $4) \
    AND ($5 IS NULL OR k.environment = $5) \
    AND ($6 IS NULL OR $6 = CASE \
      WHEN k.revoked_at IS NOT NULL THEN 4 \
      WHEN k.expires_at <= $7 THEN 3 \
      WHEN k.suspended_at IS NOT NULL \
        AND (k.suspended_until IS NULL OR k.suspended_until > $7) THEN 2 \
      WHEN k.not_before > $7 THEN 1 \
      ELSE 0 END) \
    AND ($8 IS NULL OR k.expires_at < $8) \
    AND ($9 IS NULL OR COALESCE(k.created_at, -1) < $9 AND COALESCE(k.not_before, -1) < $9 \
      AND COALESCE(k.rotated_at, -1) < $9 \
      AND COALESCE((SELECT u.last_used FROM {uses} AS u WHERE u.key_id = k.id), -1) < $9) \
    AND ($10 IS NULL OR k.revoked_at < $10) \
    AND ($11 = 0 OR k.expires_at IS NULL) \
    AND ($12 = 0 OR k.rotated_to IS NOT NULL) \
    AND ($13 IS NULL OR k.expires_at >= $13)";

/// The number of a state in [`FILTER`].
const fn number(state: KeyState) -> i64 {
    match state {
        KeyState::Live => 0,
        KeyState::NotYetActive => 1,
        KeyState::Suspended => 2,
        KeyState::Expired => 3,
        KeyState::Revoked => 4,
    }
}

fn encode(list: &str, (position, id): (i64, KeyId)) -> Cursor {
    Cursor::new(format!("k1-{list}-{position}-{id}"))
}

fn decode(list: &str, cursor: &Cursor) -> Result<(i64, [u8; 16]), StoreError> {
    let position = || {
        let text = cursor.as_str().strip_prefix("k1-")?;
        let text = text.strip_prefix(list)?.strip_prefix('-')?;
        let (position, id) = text.rsplit_once('-')?;
        let id: KeyId = id.parse().ok()?;
        Some((position.parse().ok()?, *id.as_bytes()))
    };
    position().ok_or_else(StoreError::invalid_cursor)
}
