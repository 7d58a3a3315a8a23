//! One claimed delivery: the attempt at it, and its outcome.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use rand::TryRng;
use rand::rngs::SysRng;

use crate::events::{Attempt, Failure, Next, next_attempt};
use crate::key::text::beginning;
use crate::shared::Shared;
use crate::store::{
    Actor, ActorKind, Change, Delivery, Disabled, DynOutbox, Endpoint, Event, Once, Outcome,
    Settlement, StoreError, StoreErrorKind, Target, in_time, kinds,
};
use crate::util::clock::within;
use crate::util::trace;

/// The time limit of an attempt, and of a call of the store.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(60);
const CALL_LIMIT: Duration = Duration::from_secs(5);

/// The longest time of the work on a delivery: the attempt, two calls that disable the endpoint,
/// two that tell of it, and the settlement.
pub(super) const LONGEST: Duration =
    Duration::from_secs(ATTEMPT_LIMIT.as_secs() + 5 * CALL_LIMIT.as_secs());

/// The attempts that may stay without an outcome. With more, the delivery is given up: it may be
/// what kills the processes.
const MOST_UNFINISHED: u32 = 20;

/// The time after which a delivery is claimed again that this process cannot make.
const RELEASED_FOR: Duration = Duration::from_secs(10);

/// The longest cause that is recorded, in bytes.
const LONGEST_CAUSE: usize = 255;

/// The way in which the work on a delivery ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    Attempted,
    /// This process cannot make the attempt.
    LeftToOthers,
}

/// Makes one attempt at a delivery, and records its outcome. If that fails, the delivery is made
/// again when its lease ends.
pub(super) async fn work(shared: &Shared, outbox: &dyn DynOutbox, delivery: Delivery) -> Ended {
    let outcome = match attempt_in_time(shared, outbox, &delivery).await {
        Ok(()) => Outcome::Delivered,
        Err(failure) => outcome_of(shared, outbox, &delivery, &failure).await,
    };
    let ended = match &outcome {
        Outcome::Released { .. } => Ended::LeftToOthers,
        _ => Ended::Attempted,
    };
    if let Outcome::Failed { .. } = &outcome {
        trace::delivery_given_up(&delivery.event.id, &delivery.endpoint.id);
    }
    let settlement = Settlement::new(&delivery, shared.now(), outcome);
    let settled = in_time(&*shared.clock, CALL_LIMIT, outbox.settle(&settlement)).await;
    if let Err(error) = settled {
        trace::not_delivered(&error);
    }
    ended
}

async fn attempt_in_time(shared: &Shared, outbox: &dyn DynOutbox, delivery: &Delivery) -> Attempt {
    if delivery.unfinished >= MOST_UNFINISHED {
        return Err(Failure::new("no attempt has ended").then(Next::GiveUp));
    }
    let attempt = AssertUnwindSafe(attempt(shared, outbox, delivery));
    let attempt = within(&*shared.clock, ATTEMPT_LIMIT, caught(attempt)).await;
    attempt.unwrap_or_else(|| Err(Failure::new("no end after 60 seconds")))
}

/// Makes a failure of a panic in a sink or a client, which must not end the worker.
async fn caught(attempt: AssertUnwindSafe<impl Future<Output = Attempt>>) -> Attempt {
    let mut attempt = pin!(attempt.0);
    poll_fn(|cx| {
        let polled = catch_unwind(AssertUnwindSafe(|| attempt.as_mut().poll(cx)));
        // The panic hook has reported it.
        polled.unwrap_or_else(|_| Poll::Ready(Err(Failure::new("the attempt panicked"))))
    })
    .await
}

async fn attempt(shared: &Shared, outbox: &dyn DynOutbox, delivery: &Delivery) -> Attempt {
    match &delivery.endpoint.target {
        Target::Webhook(_) => match &shared.webhooks {
            Some(webhooks) => {
                let namespace = outbox.namespace();
                webhooks.deliver(&namespace, delivery, shared.now()).await
            }
            None => Err(Failure::new("this process sends no webhooks").then(Next::LeaveToOthers)),
        },
        Target::Sink => match shared.sinks.get(&delivery.endpoint.id) {
            Some(sink) => sink.take(&delivery.event).await.map_err(|error| {
                let next = if error.is_final() {
                    Next::GiveUp
                } else {
                    Next::Retry(None)
                };
                Failure::new(error.to_string()).then(next)
            }),
            None => Err(Failure::new("this process has no such sink").then(Next::LeaveToOthers)),
        },
    }
}

/// Returns the outcome of an attempt that failed. Disables the endpoint before, if the receiver
/// wants no more events.
async fn outcome_of(
    shared: &Shared,
    outbox: &dyn DynOutbox,
    delivery: &Delivery,
    failure: &Failure,
) -> Outcome {
    let (event, endpoint) = (&delivery.event.id, &delivery.endpoint);
    let cause = shortened(&failure.cause);
    let now = shared.now();
    if failure.next == Next::LeaveToOthers {
        trace::delivery_released(event, &endpoint.id, &cause);
        let at = now.checked_add(RELEASED_FOR).unwrap_or(now);
        return Outcome::Released { at };
    }
    trace::delivery_failed(event, &endpoint.id, &cause, failure.detail.as_deref());
    let asked = match failure.next {
        Next::GiveUp => return Outcome::Failed { cause },
        Next::Disable if disable(shared, outbox, endpoint, &cause).await => {
            return Outcome::Failed { cause };
        }
        Next::Retry(asked) => asked,
        Next::Disable | Next::LeaveToOthers => None,
    };
    let pause = next_attempt(delivery.step, asked, random());
    match pause.and_then(|pause| now.checked_add(pause)) {
        Some(at) => Outcome::Retry { at, cause },
        None => Outcome::Failed { cause },
    }
}

/// Disables an endpoint whose receiver wants no more events. Returns whether it is disabled.
///
/// If the endpoint was changed since the claim, it stays as it is: the receiver may have answered
/// before it was repaired, and the endpoint enabled again. The next attempt tells.
async fn disable(
    shared: &Shared,
    outbox: &dyn DynOutbox,
    claimed: &Endpoint,
    reason: &str,
) -> bool {
    let next = claimed.version.saturating_add(1);
    let disabled = claimed
        .clone()
        .with_version(next)
        .with_disabled(Disabled::new(shared.now(), reason));
    let put = in_time(&*shared.clock, CALL_LIMIT, outbox.put_endpoint(&disabled)).await;
    if let Err(error) = put {
        if error.kind() != StoreErrorKind::Conflict {
            trace::not_delivered(&error);
        }
        let found = outbox.find_endpoint(&claimed.id);
        match in_time(&*shared.clock, CALL_LIMIT, found).await {
            Ok(Some(found)) if found == disabled => {} // only the answer was lost
            Ok(Some(found)) => return found.disabled.is_some(),
            _ => return false,
        }
    }
    trace::endpoint_disabled(&disabled.id, disabled.account.as_deref(), reason);
    let mut told = tell_disabled(shared, &disabled, reason).await;
    if told.is_err() {
        told = tell_disabled(shared, &disabled, reason).await; // its mark makes it safe
    }
    if let Err(error) = told {
        trace::disabling_not_told(&error, &disabled.id);
    }
    true
}

/// Tells the account of an endpoint that it was disabled, once.
async fn tell_disabled(
    shared: &Shared,
    endpoint: &Endpoint,
    reason: &str,
) -> Result<(), StoreError> {
    let Some(store) = &shared.managed_store else {
        return Ok(()); // an outbox is always that of a store
    };
    let now = shared.now();
    let data = serde_json::json!({ "endpoint_id": endpoint.id, "reason": reason });
    let event = Event::new(kinds::WEBHOOK_DISABLED, now)
        .with_account(endpoint.account.clone())
        .with_data(data.to_string());
    let version = endpoint.version.to_string();
    let once = Once::of([kinds::WEBHOOK_DISABLED, &endpoint.id, &version]);
    let change = Change::new(Actor::new(ActorKind::System, "webhooks"), now);
    let change = change.add_event_once(event, once);
    let change = change.map_err(StoreError::refused)?;
    in_time(&*shared.clock, CALL_LIMIT, store.commit(&change)).await
}

/// Returns a cause that has room in a store.
fn shortened(cause: &str) -> String {
    let plain: String = cause.chars().filter(|it| *it != '\0').collect();
    beginning(&plain, LONGEST_CAUSE).to_owned()
}

fn random() -> u64 {
    let mut bytes = [0; 8];
    let _ = SysRng.try_fill_bytes(&mut bytes); // without chance, all are on time
    u64::from_le_bytes(bytes)
}
