//! Deliveries to carry out: claims, and settlements.

use std::collections::BTreeMap;

use super::cell::Cell;
use super::session::{Driver, Query, Session, SqlError};
use super::store::{Access, SqlStore};
use super::{endpoints, events};
use crate::store::{Claim, Delivery, Endpoint, Outcome, Settlement, StoreError};
use crate::util::trace;

/// The most deliveries of a claim.
const MOST_CLAIMED: u32 = 200;

/// The claimed deliveries, by the number of the event and the endpoint.
type Claimed = BTreeMap<Place, Attempt>;

/// The number of an event, and an endpoint.
type Place = (i64, String);

/// A claimed attempt.
struct Attempt {
    number: u64,
    step: u32,
    unfinished: u32,
}

impl<D: Driver> SqlStore<D> {
    pub(super) async fn claim(&self, claim: &Claim) -> Result<Vec<Delivery>, StoreError> {
        // Without the lock of SQLite's writer, since mostly nothing is due.
        let ready = self.within(self.ready(claim)).await?;
        if ready.is_empty() || claim.most_per_endpoint == 0 {
            return Ok(Vec::new());
        }
        self.within(self.take(claim, ready)).await
    }

    /// Returns endpoints with deliveries that are due, at most as many as the claim can serve.
    pub(super) async fn ready(&self, claim: &Claim) -> Result<Vec<String>, SqlError> {
        let Some(query) = ready_query(claim) else {
            return Ok(Vec::new());
        };
        let query = Query {
            sql: self.sql(&query.sql),
            ..query
        };
        let rows = self.fetch(query).await?.into_iter();
        Ok(rows
            .map(|mut row| row.text("id"))
            .collect::<Result<_, _>>()?)
    }

    /// Claims deliveries of these endpoints, and reads them.
    pub(super) async fn take(
        &self,
        claim: &Claim,
        ready: Vec<String>,
    ) -> Result<Vec<Delivery>, SqlError> {
        let mut session = self.session(Access::Write).await?;
        session.run(D::DIALECT.begin).await?;
        let query = take_query(claim, &D::DIALECT.join_claimed, ready);
        let query = Query {
            sql: self.sql(&query.sql),
            ..query
        };
        let mut claimed = Claimed::new();
        for mut row in session.fetch(query).await? {
            let place = (row.integer("event_seq")?, row.text("endpoint_id")?);
            let number = row.count("attempt")?;
            let small = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
            let retries = small(row.count("step")?);
            let attempt = Attempt {
                number,
                step: retries.saturating_add(1),
                unfinished: small(row.count("unfinished")?).saturating_sub(1), // but for this one
            };
            claimed.insert(place, attempt);
        }
        let (deliveries, damaged) = self.read_claimed(&mut session, &claimed).await?;
        if deliveries.len() < claimed.len() {
            let lost = "NOT EXISTS (SELECT 1 FROM {events} WHERE seq = $1)";
            let cause = "the event is gone";
            let places = claimed.keys();
            self.give_up(&mut session, claim, places, lost, cause)
                .await?;
        }
        let (all, cause) = ("1 = 1", "the event cannot be read");
        let damaged = damaged.iter();
        self.give_up(&mut session, claim, damaged, all, cause)
            .await?;
        session.run("COMMIT").await?;
        session.finish();
        Ok(deliveries)
    }

    /// Reads the claimed deliveries. Returns them, and the places of those whose events are damaged.
    /// Those whose endpoints are damaged stay leased: an endpoint can be repaired.
    async fn read_claimed(
        &self,
        session: &mut D::Session,
        claimed: &Claimed,
    ) -> Result<(Vec<Delivery>, Vec<Place>), SqlError> {
        let (mut deliveries, mut damaged) = (Vec::new(), Vec::new());
        if claimed.is_empty() {
            return Ok((deliveries, damaged)); // others were faster
        }
        let of = |name: &str, columns: &[&str]| -> String {
            let columns = columns.iter().map(|column| format!("{name}.{column}"));
            columns.collect::<Vec<_>>().join(", ")
        };
        // The values come first in the join, so that each event and each endpoint is looked up.
        let select = self.sql(&format!(
            "WITH c(seq, endpoint) AS (VALUES {{values}}) SELECT c.seq, c.endpoint, {}, {} \
             FROM c CROSS JOIN {{events}} AS e CROSS JOIN {{endpoints}} AS n \
             WHERE e.seq = c.seq AND n.id = c.endpoint ORDER BY c.seq, c.endpoint",
            of("e", &events::COLUMNS),
            of("n", &endpoints::COLUMNS)
        ));
        let places = claimed.keys();
        let places =
            places.map(|(seq, endpoint)| vec![Cell::integer(*seq), Cell::text(endpoint.as_str())]);
        for mut row in session.fetch(Query::of_rows(&select, places)).await? {
            let place = (row.integer("event_seq")?, row.text("endpoint_id")?);
            let event = match events::event(&mut row) {
                Ok(event) => event,
                Err(error) => {
                    trace::unreadable_delivery(&error, place.0, &place.1);
                    damaged.push(place);
                    continue;
                }
            };
            let endpoint = match endpoints::endpoint(&mut row) {
                Ok(endpoint) => endpoint,
                Err(error) => {
                    trace::unreadable_delivery(&error, place.0, &place.1);
                    continue;
                }
            };
            if let Some(attempt) = claimed.get(&place) {
                let delivery = Delivery::new(event, endpoint)
                    .with_attempt(attempt.number, attempt.step)
                    .with_unfinished(attempt.unfinished);
                deliveries.push(delivery);
            }
        }
        Ok((deliveries, damaged))
    }

    /// Settles those claimed deliveries for which a condition holds, of the event `$1`. Otherwise such a
    /// delivery would be leased for ever.
    async fn give_up(
        &self,
        session: &mut D::Session,
        claim: &Claim,
        places: impl Iterator<Item = &Place>,
        condition: &str,
        cause: &str,
    ) -> Result<(), SqlError> {
        let update = self.sql(&format!(
            "UPDATE {{deliveries}} \
             SET state = 'failed', next_at = NULL, settled_at = $3, cause = '{cause}' \
             WHERE event_seq = $1 AND endpoint_id = $2 AND {condition}"
        ));
        for (seq, endpoint) in places {
            let cells = [
                Cell::integer(*seq),
                Cell::text(endpoint.as_str()),
                Cell::instant(claim.at),
            ];
            session.execute(Query::new(update.as_str(), cells)).await?;
        }
        Ok(())
    }

    /// Records the outcome of an attempt, unless the delivery was claimed or replayed since: both
    /// take the next attempt.
    pub(super) async fn settle(&self, settlement: &Settlement) -> Result<bool, StoreError> {
        settlement.check().map_err(StoreError::refused)?;
        if settlement.event.contains('\0') || !Endpoint::is_id(&settlement.endpoint) {
            return Ok(false); // there is no such delivery
        }
        if settlement.attempt == 0 {
            return Ok(false); // there is no such attempt
        }
        let (state, step, next_at, cause) = match &settlement.outcome {
            Outcome::Delivered => ("delivered", 0, None, None),
            Outcome::Failed { cause } => ("failed", 0, None, Some(cause)),
            Outcome::Retry { at, cause } => ("pending", 1, Some(*at), Some(cause)),
            Outcome::Released { at } => ("pending", 0, Some(*at), None),
        };
        let settled_at = next_at.is_none().then_some(settlement.at);
        let update = self.sql(
            "UPDATE {deliveries} \
             SET state = $4, next_at = $5, settled_at = $6, cause = COALESCE($7, cause), \
             step = step + $8, \
             unfinished = CASE WHEN unfinished > 0 THEN unfinished - 1 ELSE 0 END \
             WHERE event_seq = (SELECT seq FROM {events} WHERE id = $1) AND endpoint_id = $2 \
             AND attempt = $3 AND state = 'pending'",
        );
        let cells = [
            Cell::text(settlement.event.as_str()),
            Cell::text(settlement.endpoint.as_str()),
            Cell::count(settlement.attempt),
            Cell::text(state),
            Cell::optional_instant(next_at),
            Cell::optional_instant(settled_at),
            Cell::optional_text(cause.map(String::as_str)),
            Cell::integer(step),
        ];
        let settle = self.write_one(Query::new(update, cells));
        Ok(self.within(settle).await? == 1)
    }
}

/// Returns the query for endpoints with deliveries that are due, in no order, or `None` if none can
/// be.
///
/// A scan over the index of pending deliveries would read a backlog to its end. This one jumps from
/// endpoint to endpoint, and looks at the first delivery of each.
pub(super) fn ready_query(claim: &Claim) -> Option<Query> {
    let most = claim.most.min(MOST_CLAIMED);
    // There may be more than a statement may have parameters, and nothing in an id needs quoting.
    let list = |ids: &[String]| -> String {
        let ids = ids.iter().filter(|id| Endpoint::is_id(id));
        ids.map(|id| format!("'{id}'"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let (sinks, except) = (list(&claim.sinks), list(&claim.except));
    let targets = match (claim.webhooks, sinks.is_empty()) {
        (false, true) => return None,
        (true, true) => "n.url IS NOT NULL".to_owned(),
        (false, false) => format!("n.url IS NULL AND n.id IN ({sinks})"),
        (true, false) => format!("(n.url IS NOT NULL OR n.id IN ({sinks}))"),
    };
    let except = match except.as_str() {
        "" => String::new(),
        ids => format!("AND n.id NOT IN ({ids})"),
    };
    let next = |condition: &str| {
        format!(
            "(SELECT d.endpoint_id FROM {{deliveries}} AS d WHERE d.state = 'pending' {condition} \
             ORDER BY d.endpoint_id LIMIT 1)"
        )
    };
    let (first, next) = (next(""), next("AND d.endpoint_id > w.id"));
    let is_kept = claim.sinks.is_empty() && claim.except.is_empty();
    let sql = format!(
        "WITH RECURSIVE waiting(id) AS (SELECT {first} UNION ALL \
         SELECT {next} FROM waiting AS w WHERE w.id IS NOT NULL) \
         SELECT n.id FROM waiting AS w CROSS JOIN {{endpoints}} AS n \
         WHERE n.id = w.id AND n.disabled_at IS NULL AND {targets} {except} \
         AND EXISTS (SELECT 1 FROM {{deliveries}} AS d \
         WHERE d.endpoint_id = n.id AND d.state = 'pending' AND d.next_at <= $1) \
         ORDER BY random() LIMIT {most}"
    );
    Some(Query {
        sql,
        cells: vec![Cell::instant(claim.at)],
        is_kept,
    })
}

/// Returns the statement that claims deliveries of endpoints: of each as many as it may have, or as
/// many as there are for each.
pub(super) fn take_query(claim: &Claim, join_claimed: &[&str; 2], ready: Vec<String>) -> Query {
    let most = claim.most.min(MOST_CLAIMED);
    let share = most.div_ceil(u32::try_from(ready.len()).unwrap_or(u32::MAX).max(1));
    let each = claim.most_per_endpoint.min(share);
    let [join, end] = join_claimed;
    let top = format!(
        "SELECT t.event_seq FROM {{deliveries}} AS t WHERE t.endpoint_id = n.id \
         AND t.state = 'pending' AND t.next_at <= $1 ORDER BY t.next_at LIMIT {each}"
    );
    let mut cells = vec![Cell::instant(claim.at), Cell::instant(claim.until())];
    let numbers = ready.into_iter().map(|id| {
        cells.push(Cell::text(id));
        format!("(${})", cells.len())
    });
    let values = numbers.collect::<Vec<_>>().join(", ");
    // Once: if it were evaluated again for each delivery, it would claim more than it may.
    let sql = format!(
        "WITH ready(id) AS (VALUES {values}), due(seq, endpoint) AS MATERIALIZED (\
         SELECT d.event_seq, n.id FROM ready AS r CROSS JOIN {{endpoints}} AS n {join}{top}{end} \
         WHERE n.id = r.id AND n.disabled_at IS NULL LIMIT {most}) \
         UPDATE {{deliveries}} SET next_at = $2, attempt = attempt + 1, unfinished = unfinished + 1 \
         WHERE (event_seq, endpoint_id) IN (SELECT seq, endpoint FROM due) \
         RETURNING event_seq, endpoint_id, attempt, step, unfinished"
    );
    Query {
        sql,
        cells,
        is_kept: false,
    }
}
