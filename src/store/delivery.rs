//! Deliveries of events: claims, outcomes, and the record of each.

use std::time::{Duration, SystemTime};

use crate::key::text::{self, KeyRecordError};
use crate::store::endpoint::Endpoint;
use crate::store::event::KeptEvent;
use crate::util::timestamp;

/// A request for deliveries that are due.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Claim {
    /// The current time.
    pub at: SystemTime,
    /// The time after which a delivery that is not settled may be claimed again.
    pub lease: Duration,
    /// The most deliveries to claim.
    pub most: u32,
    /// The most deliveries to claim for one endpoint.
    pub most_per_endpoint: u32,
    /// Claims deliveries to webhooks.
    pub webhooks: bool,
    /// Claims deliveries to the sinks with these ids.
    pub sinks: Vec<String>,
    /// The endpoints to leave out: they are busy.
    pub except: Vec<String>,
}

impl Claim {
    /// Creates a claim of at most 32 deliveries, 4 for each endpoint, of webhooks and no sinks.
    pub fn new(at: SystemTime, lease: Duration) -> Self {
        Self {
            at,
            lease,
            most: 32,
            most_per_endpoint: 4,
            webhooks: true,
            sinks: Vec::new(),
            except: Vec::new(),
        }
    }

    /// Returns the end of the lease.
    pub fn until(&self) -> SystemTime {
        let until = self.at.checked_add(self.lease).unwrap_or(self.at);
        timestamp::microseconds_up(until)
    }
}

/// A claimed delivery of an event to an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Delivery {
    /// The event.
    pub event: KeptEvent,
    /// The endpoint.
    pub endpoint: Endpoint,
    /// The number of the attempt, from 1 on, which no other attempt of this delivery has. It never
    /// starts again.
    pub attempt: u64,
    /// The step in the schedule, from 1 on: one more than the attempts that were settled as
    /// [`Outcome::Retry`] since the first one, or since the last
    /// [replay](crate::store::Outbox::replay).
    pub step: u32,
    /// The attempts before this one that never ended, since the first one or the last replay: their
    /// processes died, or could not record the outcome. A delivery with many may be what kills
    /// them.
    pub unfinished: u32,
}

impl Delivery {
    /// Creates the first delivery of an event to an endpoint.
    pub fn new(event: KeptEvent, endpoint: Endpoint) -> Self {
        Self {
            event,
            endpoint,
            attempt: 1,
            step: 1,
            unfinished: 0,
        }
    }

    /// Sets the number of the attempt, and its step in the schedule.
    #[must_use]
    pub fn with_attempt(mut self, attempt: u64, step: u32) -> Self {
        (self.attempt, self.step) = (attempt, step);
        self
    }

    /// Sets the number of attempts that never ended.
    #[must_use]
    pub fn with_unfinished(mut self, unfinished: u32) -> Self {
        self.unfinished = unfinished;
        self
    }
}

/// The outcome of an attempt at a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Settlement {
    /// The id of the event.
    pub event: String,
    /// The id of the endpoint.
    pub endpoint: String,
    /// The attempt that was claimed.
    pub attempt: u64,
    /// The time of the outcome.
    pub at: SystemTime,
    /// The outcome.
    pub outcome: Outcome,
}

/// The way in which an attempt at a delivery ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The event was delivered.
    Delivered,
    /// The attempt failed, and there will be another one.
    Retry {
        /// The time of the next attempt.
        at: SystemTime,
        /// The cause, for the owner of the endpoint: at most 255 bytes.
        cause: String,
    },
    /// The attempt failed, and there will be no other one.
    Failed {
        /// The cause, for the owner of the endpoint: at most 255 bytes.
        cause: String,
    },
    /// The attempt was not made, since this process cannot make it. Another one may, or this one at
    /// a later time.
    Released {
        /// The time from which on the delivery is claimed again.
        at: SystemTime,
    },
}

/// The deliveries of an endpoint that are made due by a [replay](crate::store::Outbox::replay).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Replay<'e> {
    /// That of the event with this id, in any state.
    Event(&'e str),
    /// All that failed.
    Failed,
    /// All that are pending.
    Pending,
}

impl Settlement {
    /// Creates the outcome of a claimed attempt.
    pub fn new(delivery: &Delivery, at: SystemTime, outcome: Outcome) -> Self {
        Self {
            event: delivery.event.id.clone(),
            endpoint: delivery.endpoint.id.clone(),
            attempt: delivery.attempt,
            at: timestamp::microseconds_down(at),
            outcome,
        }
    }

    /// Checks that every store can keep the settlement. Stores call this before they write.
    ///
    /// # Errors
    /// If the cause is longer than 255 bytes or has the character NUL, or a time is not in the
    /// years 1970 to 9999.
    pub fn check(&self) -> Result<(), KeyRecordError> {
        text::check_instant("the time of an outcome", Some(self.at))?;
        match &self.outcome {
            Outcome::Delivered => Ok(()),
            Outcome::Released { at } => {
                text::check_instant("the time of the next attempt", Some(*at))
            }
            Outcome::Failed { cause } => text::check_indexed("the cause", cause),
            Outcome::Retry { at, cause } => {
                text::check_instant("the time of the next attempt", Some(*at))?;
                text::check_indexed("the cause", cause)
            }
        }
    }
}

/// A query for deliveries.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct DeliveryQuery {
    /// Only deliveries to this endpoint. Default: any.
    pub endpoint: Option<String>,
    /// Only deliveries in this state. Default: any.
    pub state: Option<DeliveryState>,
}

impl DeliveryQuery {
    /// Creates a query for all deliveries.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads only the deliveries to an endpoint.
    #[must_use]
    pub fn with_endpoint(mut self, endpoint: impl Into<Option<String>>) -> Self {
        self.endpoint = endpoint.into();
        self
    }

    /// Reads only deliveries in a state.
    #[must_use]
    pub fn with_state(mut self, state: impl Into<Option<DeliveryState>>) -> Self {
        self.state = state.into();
        self
    }

    /// Returns 16 hexadecimal digits that identify the query, for stores to put into cursors.
    pub fn fingerprint(&self) -> String {
        let state = self.state.map(DeliveryState::as_str);
        super::list::fingerprint(&[Some("deliveries"), self.endpoint.as_deref(), state])
    }
}

/// The state of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DeliveryState {
    /// There will be an attempt.
    Pending,
    /// The endpoint has taken the event.
    Delivered,
    /// The endpoint has not taken the event, and there will be no more attempts.
    Failed,
}

impl DeliveryState {
    /// Returns the name of the state: `pending`, `delivered` or `failed`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
        }
    }
}

/// The record of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeliveryRecord {
    /// The event.
    pub event: KeptEvent,
    /// The id of the endpoint.
    pub endpoint: String,
    /// The state.
    pub state: DeliveryState,
    /// The number of the last attempt, or of the last replay if that came later. It counts attempts
    /// without an outcome, those that a process [gave back](Outcome::Released), and replays, too:
    /// it tells attempts apart, and may be larger than the number of requests that were sent.
    pub attempts: u64,
    /// The time of the next attempt, if the delivery is pending.
    pub next_at: Option<SystemTime>,
    /// The time at which the delivery was settled.
    pub settled_at: Option<SystemTime>,
    /// The cause of the last failure, which stays when a later attempt succeeds.
    pub cause: Option<String>,
}

impl DeliveryRecord {
    /// Creates the record of a delivery that was not attempted yet.
    pub fn new(event: KeptEvent, endpoint: impl Into<String>, next_at: SystemTime) -> Self {
        Self {
            event,
            endpoint: endpoint.into(),
            state: DeliveryState::Pending,
            attempts: 0,
            next_at: Some(next_at),
            settled_at: None,
            cause: None,
        }
    }
}
