//! Endpoints, and a bounded table of deliveries to them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::sync::Arc;
use std::time::SystemTime;

use super::delivery_shelf::{Kept, Place, Shelf};
use crate::store::{
    Claim, Delivery, DeliveryQuery, DeliveryRecord, DeliveryState, Endpoint, KeptEvent, Once,
    Outcome, Replay, Settlement, StoreError, Target,
};

/// The maximum number of marks.
const MOST_MARKS: usize = 100_000;

#[derive(Default)]
pub(super) struct DeliveryTable {
    pub(super) endpoints: BTreeMap<String, Endpoint>,
    pending: Shelf,
    settled: Shelf,
    /// The pending deliveries of each endpoint, by the time of the next attempt.
    due: BTreeMap<String, BTreeSet<(SystemTime, u64)>>,
    /// The number of each event that has a delivery, by its id and the endpoint.
    numbers: HashMap<(String, String), u64>,
    /// The endpoint that was served last.
    last_served: String,
    marks: HashSet<Once>,
    /// The marks in the order in which they were added, for eviction.
    marks_by_age: VecDeque<Once>,
    pub(super) announced_until: Option<SystemTime>,
}

impl DeliveryTable {
    /// Adds a mark, and returns whether it is new.
    pub(super) fn add_mark(&mut self, mark: Once) -> bool {
        if !self.marks.insert(mark) {
            return false;
        }
        self.marks_by_age.push_back(mark);
        if self.marks_by_age.len() > MOST_MARKS
            && let Some(oldest) = self.marks_by_age.pop_front()
        {
            self.marks.remove(&oldest);
        }
        true
    }

    /// Adds the deliveries of an event, due at a time.
    pub(super) fn tell(
        &mut self,
        number: u64,
        event: &KeptEvent,
        only_to: Option<&str>,
        at: SystemTime,
    ) {
        let account = event.event.account.as_deref();
        let takes = |endpoint: &&Endpoint| match only_to {
            Some(id) => endpoint.id == id,
            None => endpoint.takes(&event.event.kind, account),
        };
        let ids = self.endpoints.values().filter(takes);
        let ids: Vec<String> = ids.map(|endpoint| endpoint.id.clone()).collect();
        let event = Arc::new(event.clone());
        for id in ids {
            let kept = Kept {
                event: Arc::clone(&event),
                attempt: 0,
                retries: 0,
                unfinished: 0,
                state: DeliveryState::Pending,
                next_at: Some(at),
                settled_at: None,
                cause: None,
            };
            self.insert((number, id), kept);
        }
    }

    pub(super) fn put_endpoint(&mut self, endpoint: &Endpoint) -> Result<(), StoreError> {
        let is_sink = |it: &Endpoint| matches!(it.target, Target::Sink);
        match self.endpoints.get(&endpoint.id) {
            None if endpoint.version == 1 => {}
            Some(_) if endpoint.version == 1 => return Err(StoreError::already_exists()),
            Some(seen) if is_sink(seen) != is_sink(endpoint) => {
                let refused = "an endpoint remains a webhook or a sink: create another one";
                return Err(StoreError::refused(refused));
            }
            Some(seen) if seen.version == endpoint.version - 1 => {}
            _ => return Err(StoreError::conflict()),
        }
        self.endpoints.insert(endpoint.id.clone(), endpoint.clone());
        Ok(())
    }

    /// Creates an endpoint, unless its account has so many already.
    pub(super) fn create_endpoint(
        &mut self,
        endpoint: &Endpoint,
        most_of_account: usize,
    ) -> Result<(), StoreError> {
        if self.endpoints.contains_key(&endpoint.id) {
            return Err(StoreError::already_exists());
        }
        let endpoints = self.endpoints.values();
        let of_account = endpoints.filter(|it| it.account == endpoint.account);
        if endpoint.account.is_some() && of_account.count() >= most_of_account {
            return Err(StoreError::cap_reached());
        }
        self.put_endpoint(endpoint)
    }

    pub(super) fn delete_endpoint(&mut self, id: &str) -> bool {
        let of_endpoint = |(_, endpoint): &&Place| endpoint == id;
        let places = self.pending.kept.keys().chain(self.settled.kept.keys());
        let places: Vec<Place> = places.filter(of_endpoint).cloned().collect();
        for place in places {
            self.remove(&place);
        }
        self.endpoints.remove(id).is_some()
    }

    /// Claims deliveries. Endpoints take turns: the one after the last that was served is first.
    pub(super) fn claim(&mut self, claim: &Claim) -> Vec<Delivery> {
        let most = claim.most as usize;
        let ready = self.ready(claim, most);
        let share = most.div_ceil(ready.len().max(1));
        let each = share.min(claim.most_per_endpoint as usize);
        let mut places = Vec::new();
        for id in ready {
            let Some(due) = self.due.get(&id) else {
                continue;
            };
            let is_due = |(next_at, _): &&(SystemTime, u64)| *next_at <= claim.at;
            let left = most - places.len();
            let of_endpoint = due.iter().take_while(is_due).take(each.min(left));
            places.extend(of_endpoint.map(|(_, number)| (*number, id.clone())));
            if places.len() == most {
                self.last_served = id;
                break;
            }
            self.last_served = id;
        }
        let claimed = places.into_iter();
        claimed
            .filter_map(|place| self.take(place, claim))
            .collect()
    }

    /// Returns the ids of endpoints with deliveries that are due, in turn, at most so many.
    fn ready(&self, claim: &Claim, most: usize) -> Vec<String> {
        let is_wanted = |endpoint: &Endpoint| match endpoint.target {
            Target::Webhook(_) => claim.webhooks,
            Target::Sink => claim.sinks.contains(&endpoint.id),
        };
        let is_ready = |(id, due): &(&String, &BTreeSet<(SystemTime, u64)>)| {
            let endpoint = self.endpoints.get(*id);
            let is_due = due.first().is_some_and(|(next_at, _)| *next_at <= claim.at);
            is_due
                && !claim.except.contains(*id)
                && endpoint.is_some_and(|it| it.disabled.is_none() && is_wanted(it))
        };
        let last = self.last_served.as_str();
        let after = self.due.range::<str, _>((Excluded(last), Unbounded));
        let in_turn = after.chain(self.due.range::<str, _>((Unbounded, Included(last))));
        let ids = in_turn.filter(is_ready).take(most);
        ids.map(|(id, _)| id.clone()).collect()
    }

    fn take(&mut self, place: Place, claim: &Claim) -> Option<Delivery> {
        let endpoint = self.endpoints.get(&place.1)?.clone();
        let mut kept = self.remove(&place)?;
        kept.attempt += 1;
        kept.next_at = Some(claim.until());
        let delivery = Delivery::new((*kept.event).clone(), endpoint)
            .with_attempt(kept.attempt, kept.retries.saturating_add(1))
            .with_unfinished(kept.unfinished);
        kept.unfinished = kept.unfinished.saturating_add(1);
        self.insert(place, kept);
        Some(delivery)
    }

    /// Records the outcome of an attempt, unless the delivery was claimed or replayed since: both
    /// take the next attempt.
    pub(super) fn settle(&mut self, settlement: &Settlement) -> bool {
        let Some(place) = self.place(&settlement.event, &settlement.endpoint) else {
            return false;
        };
        let is_claimed = |kept: &Kept| kept.attempt == settlement.attempt && kept.attempt > 0;
        if !self.pending.kept.get(&place).is_some_and(is_claimed) {
            return false;
        }
        let Some(mut kept) = self.remove(&place) else {
            return false;
        };
        (kept.state, kept.next_at) = match &settlement.outcome {
            Outcome::Delivered => (DeliveryState::Delivered, None),
            Outcome::Failed { .. } => (DeliveryState::Failed, None),
            Outcome::Retry { at, .. } | Outcome::Released { at } => {
                (DeliveryState::Pending, Some(*at))
            }
        };
        kept.unfinished = kept.unfinished.saturating_sub(1);
        kept.settled_at = kept.next_at.is_none().then_some(settlement.at);
        if let Outcome::Failed { cause } | Outcome::Retry { cause, .. } = &settlement.outcome {
            kept.cause = Some(cause.clone());
        }
        if matches!(settlement.outcome, Outcome::Retry { .. }) {
            kept.retries = kept.retries.saturating_add(1);
        }
        self.insert(place, kept);
        true
    }

    pub(super) fn replay(&mut self, endpoint: &str, which: Replay<'_>, at: SystemTime) -> u64 {
        let places: Vec<Place> = match which {
            Replay::Event(event) => self.place(event, endpoint).into_iter().collect(),
            Replay::Failed => of_endpoint(&self.settled, endpoint, DeliveryState::Failed),
            Replay::Pending => of_endpoint(&self.pending, endpoint, DeliveryState::Pending),
        };
        let mut replayed = 0;
        for place in places {
            let pending = self.pending.kept.get(&place);
            let is_due = |kept: &Kept| kept.next_at.is_some_and(|next_at| next_at <= at);
            if pending.is_some_and(is_due) {
                continue;
            }
            let Some(mut kept) = self.remove(&place) else {
                continue;
            };
            (kept.state, kept.retries, kept.unfinished) = (DeliveryState::Pending, 0, 0);
            kept.attempt += 1;
            (kept.next_at, kept.settled_at) = (Some(at), None);
            self.insert(place, kept);
            replayed += 1;
        }
        replayed
    }

    /// Returns the deliveries before a place, the newest event first.
    pub(super) fn before(
        &self,
        place: Option<Place>,
        query: &DeliveryQuery,
    ) -> impl Iterator<Item = (Place, DeliveryRecord)> {
        let place = place.unwrap_or((u64::MAX, String::new()));
        let mut pending = self.pending.kept.range(..place.clone()).rev().peekable();
        let mut settled = self.settled.kept.range(..place).rev().peekable();
        let merged = std::iter::from_fn(move || {
            let is_pending_next = match (pending.peek(), settled.peek()) {
                (Some((pending, _)), Some((settled, _))) => pending > settled,
                (pending, _) => pending.is_some(),
            };
            if is_pending_next {
                pending.next()
            } else {
                settled.next()
            }
        });
        let is_of = |((_, id), kept): &(&Place, &Kept)| {
            let endpoint = query.endpoint.as_deref();
            endpoint.is_none_or(|endpoint| endpoint == id)
                && query.state.is_none_or(|state| state == kept.state)
        };
        merged
            .filter(is_of)
            .map(|(place, kept)| (place.clone(), kept.record(&place.1)))
    }

    fn place(&self, event: &str, endpoint: &str) -> Option<Place> {
        let id = (event.to_owned(), endpoint.to_owned());
        let number = self.numbers.get(&id)?;
        Some((*number, id.1))
    }

    fn insert(&mut self, place: Place, kept: Kept) {
        let id = (kept.event.id.clone(), place.1.clone());
        self.numbers.insert(id, place.0);
        let of_state = match kept.next_at {
            Some(next_at) => {
                let due = self.due.entry(place.1.clone()).or_default();
                due.insert((next_at, place.0));
                &mut self.pending
            }
            None => &mut self.settled,
        };
        of_state.insert(place, kept);
        while let Some(oldest) = self.pending.surplus().or_else(|| self.settled.surplus()) {
            self.remove(&oldest);
        }
    }

    fn remove(&mut self, place: &Place) -> Option<Kept> {
        let kept = self.pending.remove(place);
        let kept = kept.or_else(|| self.settled.remove(place))?;
        let (number, endpoint) = place;
        self.numbers
            .remove(&(kept.event.id.clone(), endpoint.clone()));
        if let Some(next_at) = kept.next_at
            && let Some(due) = self.due.get_mut(endpoint)
        {
            due.remove(&(next_at, *number));
            if due.is_empty() {
                self.due.remove(endpoint);
            }
        }
        Some(kept)
    }
}

/// Returns the places of an endpoint's deliveries in a state.
fn of_endpoint(shelf: &Shelf, endpoint: &str, state: DeliveryState) -> Vec<Place> {
    let is_of = |((_, id), kept): &(&Place, &Kept)| id == endpoint && kept.state == state;
    let places = shelf.kept.iter().filter(is_of);
    places.map(|(place, _)| place.clone()).collect()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::backend::memory::delivery_shelf::{MOST, MOST_BYTES};
    use crate::store::Event;

    fn at(second: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(second)
    }

    fn table(endpoints: &[&str]) -> DeliveryTable {
        let mut table = DeliveryTable::default();
        for id in endpoints {
            let endpoint = Endpoint::new(*id, Target::Sink, at(0));
            table.put_endpoint(&endpoint).unwrap();
        }
        table
    }

    fn tell(table: &mut DeliveryTable, number: u64, data: &str) {
        let event = Event::new("acme.test", at(0)).with_data(data);
        let event = KeptEvent::new(format!("msg_{number}"), event);
        table.tell(number, &event, None, at(number));
    }

    fn claim(sinks: &[&str]) -> Claim {
        let mut claim = Claim::new(at(1_000_000), Duration::from_secs(60));
        claim.sinks = sinks.iter().map(|&id| id.to_owned()).collect();
        claim
    }

    #[test]
    fn the_table_is_bounded_and_drops_the_oldest() {
        let mut table = table(&["a"]);
        let most = MOST as u64;
        for number in 1..=2 * most {
            tell(&mut table, number, "{}");
            assert!(table.pending.kept.len() <= MOST);
        }
        let query = DeliveryQuery::new();
        let (last, _) = table.before(None, &query).last().unwrap();
        assert_eq!(last.0, most + 1);
        // The settled ones are bounded by themselves.
        let mut claim = claim(&["a"]);
        claim.most_per_endpoint = claim.most;
        loop {
            let claimed = table.claim(&claim);
            if claimed.is_empty() {
                break;
            }
            for delivery in claimed {
                let settlement = Settlement::new(&delivery, at(1), Outcome::Delivered);
                assert!(table.settle(&settlement));
            }
        }
        assert_eq!((table.pending.kept.len(), table.pending.bytes), (0, 0));
        assert_eq!(table.settled.kept.len(), MOST);
        tell(&mut table, 3 * most, "{}");
        assert_eq!(table.numbers.len(), MOST + 1);
        assert!(table.delete_endpoint("a"));
        assert!(table.numbers.is_empty() && table.due.is_empty());
        assert_eq!((table.pending.bytes, table.settled.bytes), (0, 0));
    }

    #[test]
    fn the_table_is_bounded_in_bytes() {
        let mut table = table(&["a"]);
        let data = format!("{{\"a\": \"{}\"}}", "x".repeat(16_000));
        for number in 1..=2_000 {
            tell(&mut table, number, &data);
            assert!(table.pending.bytes <= MOST_BYTES);
        }
        assert!(table.pending.kept.len() > 1_000);
    }

    #[test]
    fn endpoints_take_turns() {
        let ids = ["a", "b", "c", "d", "e"];
        let mut table = table(&ids);
        for number in 1..=100 {
            tell(&mut table, number, "{}");
        }
        let mut claim = claim(&ids);
        claim.most = 2;
        let mut served = String::new();
        for _ in 0..5 {
            let claimed = table.claim(&claim);
            served.extend(claimed.iter().map(|it| it.endpoint.id.as_str()));
        }
        assert_eq!(served, "abcdeabcde");
    }

    #[test]
    fn marks_are_bounded() {
        let mut table = DeliveryTable::default();
        let mark = |number: usize| Once::of([number.to_string().as_str()]);
        for number in 0..=MOST_MARKS {
            assert!(table.add_mark(mark(number)));
        }
        assert!(!table.add_mark(mark(MOST_MARKS)));
        assert_eq!(table.marks.len(), MOST_MARKS);
        assert!(table.add_mark(mark(0)), "the oldest one is gone");
    }
}
