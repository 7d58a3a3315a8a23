//! The events of a change, with their marks and their deliveries.

use std::collections::HashSet;

use super::cell::Cell;
use super::events::COLUMNS;
use super::session::{Driver, Query, Session, SqlError};
use super::store::SqlStore;
use crate::store::{Change, Event, Once, StoreError};

/// An event of a change.
pub(super) struct Told<'c> {
    /// The id: of the change, and of the place in it.
    id: String,
    event: &'c Event,
    once: Option<Once>,
    only_to: Option<&'c str>,
}

impl<'c> Told<'c> {
    pub(super) fn new(
        change: &Change,
        at: usize,
        event: &'c Event,
        once: Option<Once>,
        only_to: Option<&'c str>,
    ) -> Self {
        Self {
            id: format!("msg_{}_{at}", change.id()),
            event,
            once,
            only_to,
        }
    }

    fn row(&self) -> Vec<Cell> {
        vec![
            Cell::text(self.id.as_str()),
            Cell::text(self.event.kind.as_str()),
            Cell::instant(self.event.at),
            Cell::optional_id(self.event.key),
            Cell::optional_text(self.event.account.as_deref()),
            Cell::text(self.event.data.as_str()),
        ]
    }
}

impl<D: Driver> SqlStore<D> {
    /// Adds the events of a change that were not told before, and a delivery for each endpoint that
    /// takes one.
    pub(super) async fn tell(
        &self,
        session: &mut D::Session,
        change: &Change,
        events: &[Told<'_>],
    ) -> Result<(), SqlError> {
        let mut new_marks = self.add_marks(session, change, events).await?;
        // Of two events with one mark, the second does not find it any more.
        let mut is_new = |told: &&Told<'_>| told.once.is_none_or(|once| new_marks.remove(&once));
        let events: Vec<&Told<'_>> = events.iter().filter(&mut is_new).collect();
        self.add_events(session, &events).await?;
        self.add_deliveries(session, change, &events).await
    }

    /// Adds marks, and returns those that are new. Of two rivals with the same one, the second waits
    /// here for the first.
    async fn add_marks(
        &self,
        session: &mut D::Session,
        change: &Change,
        events: &[Told<'_>],
    ) -> Result<HashSet<Once>, SqlError> {
        let insert = self.sql(
            "INSERT INTO {told} (id, at) VALUES {values} ON CONFLICT (id) DO NOTHING RETURNING id",
        );
        // Sorted, so that rivals with the same marks in another order do not wait for each other.
        let mut marks: Vec<Once> = events.iter().filter_map(|told| told.once).collect();
        marks.sort_unstable();
        marks.dedup();
        let mut added = HashSet::new();
        for marks in marks.chunks(D::DIALECT.most_parameters / 2) {
            let rows = marks.iter().map(|mark| {
                let at = Cell::instant(change.at());
                vec![Cell::bytes(*mark.as_bytes()), at]
            });
            for mut row in session.fetch(Query::of_rows(&insert, rows)).await? {
                added.insert(row.bytes("id")?);
            }
        }
        marks.retain(|mark| added.contains(mark.as_bytes()));
        Ok(marks.into_iter().collect())
    }

    async fn add_events(
        &self,
        session: &mut D::Session,
        events: &[&Told<'_>],
    ) -> Result<(), SqlError> {
        let columns = COLUMNS.join(", ");
        let insert = self.sql(&format!(
            "INSERT INTO {{events}} ({columns}) VALUES {{values}} ON CONFLICT (id) DO NOTHING"
        ));
        for events in events.chunks(D::DIALECT.most_parameters / COLUMNS.len()) {
            let rows = events.iter().map(|told| told.row());
            let written = session.execute(Query::of_rows(&insert, rows)).await?;
            if written != events.len() as u64 {
                return Err(StoreError::already_exists().into());
            }
        }
        Ok(())
    }

    /// Adds the deliveries of events that were added.
    async fn add_deliveries(
        &self,
        session: &mut D::Session,
        change: &Change,
        events: &[&Told<'_>],
    ) -> Result<(), SqlError> {
        let insert = self.sql(&insert_deliveries());
        for events in events.chunks(D::DIALECT.most_parameters / 3) {
            let rows = events.iter().map(|told| {
                vec![
                    Cell::text(told.id.as_str()),
                    Cell::optional_text(told.only_to),
                    Cell::instant(change.at()),
                ]
            });
            session.execute(Query::of_rows(&insert, rows)).await?;
        }
        Ok(())
    }

    /// Returns whether one of these events was told before.
    pub(super) async fn has_told(
        &self,
        session: &mut D::Session,
        events: &[Told<'_>],
    ) -> Result<bool, SqlError> {
        let statement = self.sql("SELECT seq FROM {events} WHERE id IN ({values}) LIMIT 1");
        for events in events.chunks(D::DIALECT.most_parameters) {
            let ids = events.iter().map(|told| vec![Cell::text(told.id.as_str())]);
            let rows = session.fetch(Query::of_rows(&statement, ids)).await?;
            if !rows.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Returns the statement that adds the deliveries of events. Each case looks up its endpoints in an
/// index. An endpoint that is being deleted is waited for, so that it leaves no delivery behind.
pub(super) fn insert_deliveries() -> String {
    let takes = "t.only_to IS NULL AND n.disabled_at IS NULL AND (n.kinds = '' \
                 OR {position}(' ' || n.kinds || ' ', ' ' || e.kind || ' ') > 0)";
    let cases = [
        format!("n.account = e.account AND {takes}"),
        format!("n.account IS NULL AND {takes}"),
        "n.id = t.only_to".to_owned(),
    ];
    let select = |case: &String| {
        format!(
            "SELECT seq, endpoint_id, 'pending', 0, 0, at FROM (\
             SELECT e.seq, n.id AS endpoint_id, t.at \
             FROM t CROSS JOIN {{events}} AS e CROSS JOIN {{endpoints}} AS n \
             WHERE e.id = t.event AND {case} {{for_key_share}}) AS taken"
        )
    };
    let cases = cases.each_ref().map(select).join(" UNION ALL ");
    format!(
        "WITH t(event, only_to, at) AS (VALUES {{values}}) INSERT INTO {{deliveries}} \
         (event_seq, endpoint_id, state, attempt, step, next_at) {cases}"
    )
}
