//! Reports of recorded usage.

use super::cell::{Cell, Row, corrupt};
use super::session::{Driver, Query, SqlError};
use super::store::SqlStore;
use crate::limit::charge::REQUESTS;
use crate::store::{
    Cursor, Page, Paging, StoreError, UsageCounts, UsageDetail, UsagePlace, UsageQuery, UsageRow,
};

/// The database rows that are read for each row of a report, at first: one for requests and one
/// for another unit.
const ROWS_EACH: usize = 2;

impl<D: Driver> SqlStore<D> {
    pub(super) async fn usage(
        &self,
        query: &UsageQuery,
        paging: &Paging,
    ) -> Result<Page<UsageRow>, StoreError> {
        if query.account.as_ref().is_some_and(|it| it.contains('\0')) {
            return Ok(Page::new(Vec::new(), None)); // no key has such an account
        }
        let fingerprint = query.fingerprint();
        let after = paging.cursor().map(|cursor| decode(&fingerprint, cursor));
        let after = after.transpose()?;
        let limit = paging.limit() as usize;
        let mut most = limit * ROWS_EACH + ROWS_EACH;
        loop {
            let rows = self.read_usage(query, after.as_ref(), most);
            let rows = self.within(rows).await?;
            let is_end = rows.len() < most;
            let mut places = fold(rows, query.by_hour)?;
            if !is_end {
                places.pop(); // some of its units may be missing
            }
            if !is_end && places.is_empty() {
                most *= 4; // it alone has more units than that
                continue;
            }
            let has_more = !is_end || places.len() > limit;
            places.truncate(limit);
            let next = places.last().filter(|_| has_more);
            let next = next.map(|(place, _)| encode(&fingerprint, place));
            let items = places.into_iter().map(|(_, row)| row).collect();
            return Ok(Page::new(items, next));
        }
    }

    async fn read_usage(
        &self,
        query: &UsageQuery,
        after: Option<&UsagePlace>,
        most: usize,
    ) -> Result<Vec<Row>, SqlError> {
        let mut cells = vec![
            Cell::integer(i64::from(query.first_day) * 24),
            Cell::integer((i64::from(query.last_day) + 1) * 24),
        ];
        let mut filter = String::from("begins >= $1 AND begins < $2");
        let mut add = |condition: &str, cell: Cell| {
            cells.push(cell);
            filter += &format!(" AND {condition} ${}", cells.len());
            cells.len()
        };
        if let Some(account) = &query.account {
            add("account =", Cell::text(account.as_str()));
        }
        if let Some(key) = query.key {
            add("key_id =", Cell::id(key));
        }
        if let Some(lineage) = query.lineage {
            add("lineage =", Cell::id(lineage));
        }
        // For the index: what comes before is not read again.
        let mut from = String::new();
        if let Some(after) = after {
            let account = add("account >=", Cell::text(after.account.as_str()));
            let [period, subject, environment] = [1, 2, 3].map(|at| account + at);
            from = format!(
                "WHERE (account, period, subject, environment) > \
                 (${account}, ${period}, ${subject}, ${environment})"
            );
            cells.extend([
                Cell::integer(after.period.into()),
                Cell::bytes(after.subject.clone()),
                Cell::text(after.environment.as_str()),
            ]);
        }
        let (hours, each) = if query.by_hour {
            ("hours = 1", 1)
        } else {
            ("hours IN (1, 24)", 24)
        };
        let subject = match query.detail {
            UsageDetail::Account => {
                "CASE WHEN length(key_id) = 1 THEN key_id ELSE CAST('' AS {bytes}) END"
            }
            UsageDetail::Lineage => "lineage",
            UsageDetail::Key => "key_id",
        };
        let statement = self.sql(&format!(
            "WITH found AS (SELECT account, begins / {each} AS period, {subject} AS subject, \
             environment, unit, allowed, limited, refused, units \
             FROM {{usage}} WHERE {hours} AND {filter}) \
             SELECT account, period, subject, environment, unit, \
             CAST(sum(allowed) AS {{integer}}), CAST(sum(limited) AS {{integer}}), \
             CAST(sum(refused) AS {{integer}}), CAST(sum(units) AS {{integer}}) \
             FROM found {from} GROUP BY account, period, subject, environment, unit \
             ORDER BY account, period, subject, environment, unit LIMIT {most}"
        ));
        self.fetch(Query::new(statement, cells)).await
    }
}

/// Adds up the units of each place.
fn fold(rows: Vec<Row>, by_hour: bool) -> Result<Vec<(UsagePlace, UsageRow)>, StoreError> {
    let mut places: Vec<(UsagePlace, UsageRow)> = Vec::new();
    for mut row in rows {
        let place = UsagePlace {
            account: row.text("account")?,
            period: u32::try_from(row.integer("period")?).map_err(|_| corrupt("begins"))?,
            subject: row.any_bytes("subject")?,
            environment: row.text("environment")?,
        };
        let unit = row.text("unit")?;
        let mut counts = UsageCounts::default();
        counts.allowed = row.count("allowed")?;
        counts.limited = row.count("limited")?;
        counts.refused = row.count("refused")?;
        let units = row.integer("units")?;
        let unit = if unit.is_empty() { REQUESTS } else { &unit };
        if units != 0 {
            counts.units.insert(unit.to_owned(), units);
        }
        match places.last_mut() {
            Some((last, usage)) if *last == place => usage.counts.add(counts),
            _ => {
                let mut sum = UsageCounts::default();
                sum.add(counts); // with the bound on counts
                let usage = place.row(by_hour, sum);
                let usage = usage.ok_or_else(|| corrupt("environment"))?;
                places.push((place, usage));
            }
        }
    }
    Ok(places)
}

fn encode(fingerprint: &str, place: &UsagePlace) -> Cursor {
    Cursor::new(format!("u1-{fingerprint}-{}", place.to_text()))
}

fn decode(fingerprint: &str, cursor: &Cursor) -> Result<UsagePlace, StoreError> {
    let place = || {
        let text = cursor.as_str().strip_prefix("u1-")?;
        let text = text.strip_prefix(fingerprint)?.strip_prefix('-')?;
        UsagePlace::from_text(text)
    };
    place().ok_or_else(StoreError::invalid_cursor)
}
