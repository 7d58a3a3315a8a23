//! Reports of recorded usage.

use std::collections::BTreeMap;
use std::fmt::Write;

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

/// The most accounts that are added up at once.
const MOST_ACCOUNTS: usize = 400;

/// Accounts whose usage is added up at once.
struct Accounts {
    /// `None` if the query itself narrows the rows.
    names: Option<Vec<String>>,
    /// No account follows.
    is_end: bool,
}

/// The first account of a chunk.
struct From {
    account: String,
    /// The account itself is read already.
    is_read: bool,
}

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
        let mut from = From {
            account: after
                .as_ref()
                .map_or(String::new(), |it| it.account.clone()),
            is_read: false,
        };
        let mut places = Vec::new();
        let mut has_more = true;
        while has_more && places.len() <= limit {
            let accounts = self.within(self.accounts(query, &from, limit)).await?;
            let (found, is_whole) = self.add_up(query, &accounts, after.as_ref(), limit).await?;
            places.extend(found);
            has_more = !is_whole || !accounts.is_end;
            let last = accounts
                .names
                .and_then(|names| names.into_iter().next_back());
            match last {
                Some(account) if is_whole => (from.account, from.is_read) = (account, true),
                _ => break,
            }
        }
        let has_more = has_more || places.len() > limit;
        places.truncate(limit);
        let next = places.last().filter(|_| has_more);
        let next = next.map(|(place, _)| encode(&fingerprint, place));
        let items = places.into_iter().map(|(_, row)| row).collect();
        Ok(Page::new(items, next))
    }

    /// Returns the next accounts: as many as have the rows of a page together, with the first one
    /// however many it has.
    ///
    /// A page over all accounts would add up, and sort, all that follows. This one jumps from
    /// account to account in the primary key, and counts the rows of each up to those of a page.
    async fn accounts(
        &self,
        query: &UsageQuery,
        from: &From,
        limit: usize,
    ) -> Result<Accounts, SqlError> {
        if query.account.is_some() || query.key.is_some() || query.lineage.is_some() {
            return Ok(Accounts {
                names: None,
                is_end: true,
            });
        }
        let (most, hours) = (rows_of(limit), hours(query));
        let first = if from.is_read { ">" } else { ">=" };
        let next = |condition: &str| {
            format!(
                "(SELECT u.account FROM {{usage}} AS u WHERE u.account {condition} \
                 ORDER BY u.account LIMIT 1)"
            )
        };
        let (first, next) = (next(&format!("{first} $3")), next("> a.account"));
        let statement = self.sql(&format!(
            "WITH RECURSIVE a(account, before) AS (\
             SELECT {first}, CAST(0 AS {{integer}}) UNION ALL \
             SELECT {next}, a.before + (SELECT count(*) FROM (SELECT 1 FROM {{usage}} AS u \
             WHERE u.account = a.account AND {hours} AND begins >= $1 AND begins < $2 \
             LIMIT {most}) AS counted) \
             FROM a WHERE a.account IS NOT NULL AND a.before < {most}) \
             SELECT account, before FROM a LIMIT {MOST_ACCOUNTS}"
        ));
        let [begin, end] = period(query);
        let cells = [begin, end, Cell::text(from.account.as_str())];
        let (mut names, mut is_end) = (Vec::new(), false);
        for mut row in self.page(Query::new(statement, cells)).await? {
            let account = row.optional_text("account")?;
            is_end = account.is_none();
            let is_needed = row.count("begins")? < most as u64;
            names.extend(account.filter(|_| is_needed));
        }
        Ok(Accounts {
            names: Some(names),
            is_end,
        })
    }

    /// Adds up usage of accounts after a place, up to a bit more than a page. Returns whether that
    /// is all of it.
    async fn add_up(
        &self,
        query: &UsageQuery,
        accounts: &Accounts,
        after: Option<&UsagePlace>,
        limit: usize,
    ) -> Result<(Vec<(UsagePlace, UsageRow)>, bool), StoreError> {
        let names = accounts.names.as_deref();
        if names.is_some_and(<[_]>::is_empty) {
            return Ok((Vec::new(), true));
        }
        let mut most = rows_of(limit);
        loop {
            let rows = self.read_usage(query, names, after, most);
            let rows = self.within(rows).await?;
            let is_whole = rows.len() < most;
            let mut places = fold(rows, query.by_hour)?;
            if !is_whole {
                places.pop(); // some of its units may be missing
            }
            if is_whole || !places.is_empty() {
                return Ok((places, is_whole));
            }
            most *= 4; // it alone has more units than that
        }
    }

    async fn read_usage(
        &self,
        query: &UsageQuery,
        accounts: Option<&[String]>,
        after: Option<&UsagePlace>,
        most: usize,
    ) -> Result<Vec<Row>, SqlError> {
        let mut cells = Vec::from(period(query));
        let mut filter = String::from("begins >= $1 AND begins < $2");
        let mut add = |condition: &str, cell: Cell| {
            cells.push(cell);
            let _ = write!(filter, " AND {condition} ${}", cells.len());
            cells.len()
        };
        if let Some(account) = &query.account {
            add("u.account =", Cell::text(account.as_str()));
        }
        if let Some(key) = query.key {
            add("key_id =", Cell::id(key));
        }
        if let Some(lineage) = query.lineage {
            add("lineage =", Cell::id(lineage));
        }
        if let Some(environment) = &query.environment {
            add("environment =", Cell::text(environment.as_str()));
        }
        // For the index: what comes before is not read again.
        let mut from = String::new();
        if let Some(after) = after {
            let account = add("u.account >=", Cell::text(after.account.as_str()));
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
        let mut list = String::new();
        let (mut from_accounts, mut end) = (String::new(), "");
        if let Some(accounts) = accounts {
            let values = accounts.iter().map(|account| {
                cells.push(Cell::text(account.as_str()));
                format!("(${})", cells.len())
            });
            let values = values.collect::<Vec<_>>().join(", ");
            list = format!("a(account) AS (VALUES {values}), ");
            let [look_up, end_look_up] = D::DIALECT.look_up;
            (from_accounts, end) = (format!("a {look_up}"), end_look_up);
            filter += " AND u.account = a.account";
        }
        let (hours, each) = (hours(query), if query.by_hour { 1 } else { 24 });
        let subject = match query.detail {
            UsageDetail::Account => {
                "CASE WHEN length(key_id) = 1 THEN key_id ELSE CAST('' AS {bytes}) END"
            }
            UsageDetail::Lineage => "lineage",
            UsageDetail::Key => "key_id",
        };
        let statement = self.sql(&format!(
            "WITH {list}found AS (SELECT u.account, begins / {each} AS period, {subject} AS subject, \
             environment, unit, allowed, limited, refused, units \
             FROM {from_accounts} {{usage}} AS u WHERE {hours} AND {filter} {end}) \
             SELECT account, period, subject, environment, unit, \
             CAST(sum(allowed) AS {{integer}}), CAST(sum(limited) AS {{integer}}), \
             CAST(sum(refused) AS {{integer}}), CAST(sum(units) AS {{integer}}) \
             FROM found {from} GROUP BY account, period, subject, environment, unit \
             ORDER BY account, period, subject, environment, unit LIMIT {most}"
        ));
        let statement = Query {
            is_kept: accounts.is_none(),
            ..Query::new(statement, cells)
        };
        if accounts.is_none() {
            return self.fetch(statement).await;
        }
        self.page(statement).await
    }
}

/// Returns the database rows to read for a page, at first.
const fn rows_of(limit: usize) -> usize {
    limit * ROWS_EACH + ROWS_EACH
}

/// Returns the condition for the periods of a report, and their bounds.
const fn hours(query: &UsageQuery) -> &'static str {
    if query.by_hour {
        "hours = 1"
    } else {
        "hours IN (1, 24)"
    }
}

fn period(query: &UsageQuery) -> [Cell; 2] {
    let end = (i64::from(query.last_day) + 1) * 24;
    [
        Cell::integer(i64::from(query.first_day) * 24),
        Cell::integer(end),
    ]
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
        let mut counts = UsageCounts {
            allowed: row.count("allowed")?,
            limited: row.count("limited")?,
            refused: row.count("refused")?,
            units: BTreeMap::new(),
        };
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
