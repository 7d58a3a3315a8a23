//! The rest of the outbox: the list of deliveries, replays, and the place of announcements.

use std::time::SystemTime;

use super::cell::{Cell, Row, corrupt};
use super::events;
use super::session::{Attempts, Driver, Query, Session, SqlError};
use super::store::{Access, SqlStore};
use crate::store::{
    Cursor, DeliveryQuery, DeliveryRecord, DeliveryState, Endpoint, Page, Paging, Replay,
    StoreError,
};

/// The deliveries that a page with a filter looks at, at most.
const MOST_SCANNED: u32 = 2_000;

/// The deliveries that are replayed in one transaction.
const REPLAYED_AT_ONCE: u32 = 1_000;

/// The columns that a replay sets, with the time of the next attempt as `$2`.
const REPLAYED: &str = "state = 'pending', attempt = attempt + 1, step = 0, unfinished = 0, \
                        next_at = $2, settled_at = NULL";

/// A place in the list of deliveries: the number of the event, and the endpoint.
#[derive(Clone)]
struct Place(i64, String);

impl<D: Driver> SqlStore<D> {
    pub(super) fn namespace(&self) -> String {
        self.names.namespace()
    }

    pub(super) async fn deliveries(
        &self,
        query: &DeliveryQuery,
        paging: &Paging,
    ) -> Result<Page<DeliveryRecord>, StoreError> {
        let query_id = query.fingerprint();
        let after = match paging.cursor() {
            None => Place(i64::MAX, String::new()),
            Some(cursor) => decode(&query_id, cursor)?,
        };
        let is_of_nobody = |id: &String| !Endpoint::is_id(id);
        if query.endpoint.as_ref().is_some_and(is_of_nobody) {
            return Ok(Page::new(Vec::new(), None));
        }
        let limit = paging.limit() as usize;
        let page = self
            .within(self.delivery_rows(query, &after, limit))
            .await?;
        let (rows, scanned) = page;
        let has_more = rows.len() > limit;
        let mut items = Vec::new();
        let mut last = None;
        for mut row in rows.into_iter().take(limit) {
            let place = Place(row.integer("event_seq")?, row.text("endpoint_id")?);
            items.push(delivery(&mut row, place.1.clone())?);
            last = Some(place);
        }
        let next = if has_more { last } else { scanned };
        let next = next.map(|Place(seq, id)| Cursor::new(format!("d1-{query_id}-{seq}-{id}")));
        Ok(Page::new(items, next))
    }

    /// Returns the rows of a page, and one more if there is one, and the place of the last delivery
    /// that was looked at if that was not the last one of all.
    async fn delivery_rows(
        &self,
        query: &DeliveryQuery,
        after: &Place,
        limit: usize,
    ) -> Result<(Vec<Row>, Option<Place>), SqlError> {
        let mut scan = Scan::new(query, after);
        let end = if scan.is_filtered {
            let end = Query::new(self.sql(&scan.end()), scan.cells.clone());
            self.page(end).await?.into_iter().next()
        } else {
            None
        };
        let end = match end {
            None => None,
            Some(mut row) => Some(Place(row.integer("event_seq")?, row.text("endpoint_id")?)),
        };
        if let Some(end) = &end {
            scan.stop_at(end);
        }
        let page = self.sql(&scan.page(limit + 1));
        Ok((self.page(Query::new(page, scan.cells)).await?, end))
    }

    pub(super) async fn replay(
        &self,
        endpoint: &str,
        which: Replay<'_>,
        at: SystemTime,
    ) -> Result<u64, StoreError> {
        if !Endpoint::is_id(endpoint) {
            return Ok(0);
        }
        let condition = match which {
            Replay::Event(event) => return self.replay_event(endpoint, event, at).await,
            Replay::Failed => "state = 'failed'",
            Replay::Pending => "state = 'pending' AND next_at > $2",
        };
        // In the order of events, so that what fails meanwhile is not replayed for ever.
        let (mut replayed, mut after) = (0, 0);
        loop {
            let some = self.replay_some(endpoint, condition, at, after);
            let (count, last) = self.within(some).await?;
            replayed += count;
            let Some(last) = last else {
                return Ok(replayed);
            };
            after = last;
        }
    }

    async fn replay_event(
        &self,
        endpoint: &str,
        event: &str,
        at: SystemTime,
    ) -> Result<u64, StoreError> {
        if event.contains('\0') {
            return Ok(0); // there is no such event
        }
        let update = self.sql(&format!(
            "UPDATE {{deliveries}} SET {REPLAYED} \
             WHERE endpoint_id = $1 AND (state <> 'pending' OR next_at > $2) \
             AND event_seq = (SELECT seq FROM {{events}} WHERE id = $3)"
        ));
        let cells = [Cell::text(endpoint), Cell::instant(at), Cell::text(event)];
        self.within(self.write_one(Query::new(update, cells))).await
    }

    /// Replays the next deliveries of a condition. Returns their number, and the number of the last
    /// event.
    async fn replay_some(
        &self,
        endpoint: &str,
        condition: &str,
        at: SystemTime,
        after: i64,
    ) -> Result<(u64, Option<i64>), SqlError> {
        let mut attempts = Attempts::default();
        loop {
            let result = self.try_replay(endpoint, condition, at, after).await;
            // Again, if a purge of events deleted the same deliveries.
            if !attempts.allow_another(&result) {
                return result;
            }
        }
    }

    async fn try_replay(
        &self,
        endpoint: &str,
        condition: &str,
        at: SystemTime,
        after: i64,
    ) -> Result<(u64, Option<i64>), SqlError> {
        let update = self.sql(&format!(
            "UPDATE {{deliveries}} SET {REPLAYED} \
             WHERE endpoint_id = $1 AND {condition} AND event_seq IN \
             (SELECT event_seq FROM {{deliveries}} \
             WHERE endpoint_id = $1 AND {condition} AND event_seq > $3 \
             ORDER BY event_seq LIMIT {REPLAYED_AT_ONCE}) RETURNING event_seq"
        ));
        let cells = [
            Cell::text(endpoint),
            Cell::instant(at),
            Cell::integer(after),
        ];
        let mut session = self.session(Access::Write).await?;
        session.run(D::DIALECT.begin).await?;
        let rows = session.fetch(Query::new(update, cells)).await?;
        session.run("COMMIT").await?;
        session.finish();
        let count = rows.len() as u64;
        let mut last = None;
        for mut row in rows {
            last = last.max(Some(row.integer("event_seq")?));
        }
        Ok((count, last))
    }

    pub(super) async fn announced_until(&self) -> Result<Option<SystemTime>, StoreError> {
        let select = self.sql("SELECT number FROM {marks} WHERE name = 'announced'");
        let rows = self.within(self.fetch(Query::new(select, []))).await?;
        let row = rows.into_iter().next();
        row.map(|mut row| row.instant("number")).transpose()
    }

    pub(super) async fn set_announced_until(&self, until: SystemTime) -> Result<(), StoreError> {
        let insert = self.sql(
            "INSERT INTO {marks} AS m (name, number) VALUES ('announced', $1) \
             ON CONFLICT (name) DO UPDATE SET number = excluded.number \
             WHERE excluded.number > m.number",
        );
        let query = Query::new(insert, [Cell::instant(until)]);
        self.within(self.write_one(query)).await.map(drop)
    }
}

/// A scan over deliveries from a place on, in the order of an index.
struct Scan {
    condition: String,
    order: &'static str,
    state: Option<DeliveryState>,
    cells: Vec<Cell>,
    /// The index has deliveries that do not pass the filter.
    is_filtered: bool,
}

impl Scan {
    fn new(query: &DeliveryQuery, after: &Place) -> Self {
        let Place(seq, endpoint) = after;
        let (condition, order, cells) = match &query.endpoint {
            Some(only) => (
                "d.endpoint_id = $2 AND d.event_seq < $1",
                "d.event_seq DESC",
                vec![Cell::integer(*seq), Cell::text(only.as_str())],
            ),
            None => (
                "(d.event_seq, d.endpoint_id) < ($1, $2)",
                "d.event_seq DESC, d.endpoint_id DESC",
                vec![Cell::integer(*seq), Cell::text(endpoint.as_str())],
            ),
        };
        // Those of an endpoint that failed have an index of their own.
        let has_index = query.endpoint.is_some() && query.state == Some(DeliveryState::Failed);
        Self {
            condition: condition.to_owned(),
            order,
            state: query.state,
            cells,
            is_filtered: query.state.is_some() && !has_index,
        }
    }

    /// Returns the query for the last delivery that the scan may look at.
    fn end(&self) -> String {
        let Self {
            condition, order, ..
        } = self;
        format!(
            "SELECT d.event_seq, d.endpoint_id FROM {{deliveries}} AS d WHERE {condition} \
             ORDER BY {order} LIMIT 1 OFFSET {}",
            MOST_SCANNED - 1
        )
    }

    fn stop_at(&mut self, end: &Place) {
        let Place(seq, endpoint) = end;
        self.condition += " AND (d.event_seq, d.endpoint_id) >= ($3, $4)";
        let end = [Cell::integer(*seq), Cell::text(endpoint.as_str())];
        self.cells.extend(end);
    }

    fn page(&self, limit: usize) -> String {
        let Self {
            condition, order, ..
        } = self;
        let state = self.state.map(DeliveryState::as_str);
        let state = state.map_or(String::new(), |state| format!("AND d.state = '{state}'"));
        let columns = events::COLUMNS.map(|column| format!("e.{column}"));
        let columns = columns.join(", ");
        format!(
            "SELECT d.event_seq, d.endpoint_id, d.state, d.attempt, d.next_at, d.settled_at, \
             d.cause, {columns} FROM {{deliveries}} AS d CROSS JOIN {{events}} AS e \
             WHERE {condition} {state} AND e.seq = d.event_seq ORDER BY {order} LIMIT {limit}"
        )
    }
}

fn decode(list: &str, cursor: &Cursor) -> Result<Place, StoreError> {
    let place = || {
        let text = cursor.as_str().strip_prefix("d1-")?;
        let (seq, id) = text
            .strip_prefix(list)?
            .strip_prefix('-')?
            .split_once('-')?;
        Endpoint::is_id(id).then_some(Place(seq.parse().ok()?, id.to_owned()))
    };
    place().ok_or_else(StoreError::invalid_cursor)
}

/// Reads the state of a delivery, and its event.
fn delivery(row: &mut Row, endpoint: String) -> Result<DeliveryRecord, StoreError> {
    let state = match row.text("state")?.as_str() {
        "pending" => DeliveryState::Pending,
        "delivered" => DeliveryState::Delivered,
        "failed" => DeliveryState::Failed,
        _ => return Err(corrupt("state")),
    };
    let attempts = row.count("attempt")?;
    let next_at = row.optional_instant("next_at")?;
    let settled_at = row.optional_instant("settled_at")?;
    let cause = row.optional_text("cause")?;
    Ok(DeliveryRecord {
        event: events::event(row)?,
        endpoint,
        state,
        attempts,
        next_at,
        settled_at,
        cause,
    })
}
