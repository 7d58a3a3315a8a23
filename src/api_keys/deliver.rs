//! Delivers events to endpoints: a task of the worker.

use std::convert::Infallible;
use std::future::{Future, pending, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::{Duration, SystemTime};

use rand::TryRng;
use rand::rngs::SysRng;

use crate::events::{Attempt, Failure, next_attempt};
use crate::key::text::beginning;
use crate::shared::Shared;
use crate::store::{
    Claim, Delivery, Disabled, DynOutbox, Endpoint, Outcome, Settlement, StoreError,
    StoreErrorKind, Target, in_time,
};
use crate::util::clock::within;
use crate::util::trace;

/// The time between two claims, if there is nothing to do.
const EVERY: Duration = Duration::from_secs(1);

/// The longest pause after claims that failed. The pause is doubled for each.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The time limit of an attempt, and of a call of the outbox.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(60);
const CALL_LIMIT: Duration = Duration::from_secs(5);

/// The time limit of a claim, which may be more than one call of a database with a limit of its own.
const CLAIM_LIMIT: Duration = Duration::from_secs(15);

/// The time for which a claimed delivery belongs to this process: longer than an attempt and all
/// calls after it.
const LEASE: Duration = Duration::from_secs(120);

/// The time in which deliveries end that have begun when the worker is stopped.
const FINISH_LIMIT: Duration = Duration::from_secs(10);

/// The most deliveries at a time, and the most to one endpoint.
const AT_ONCE: usize = 64;
const TO_ONE: u32 = 4;

/// The longest cause that is recorded, in bytes.
const LONGEST_CAUSE: usize = 255;

/// The attempts at disabling an endpoint that somebody else changes at the same time.
const DISABLE_ATTEMPTS: u32 = 4;

/// Delivers events, several at a time.
pub(super) struct Deliverer<'s> {
    shared: &'s Shared,
    outbox: &'s dyn DynOutbox,
    in_flight: Vec<InFlight<'s>>,
}

/// A delivery in progress.
struct InFlight<'s> {
    endpoint: String,
    work: Pin<Box<dyn Future<Output = ()> + Send + 's>>,
}

impl<'s> Deliverer<'s> {
    /// Creates a deliverer, if there is something to deliver to.
    pub(super) fn new(shared: &'s Shared) -> Option<Self> {
        let outbox = shared.outbox.as_ref()?;
        let has_targets = !shared.sinks.is_empty() || shared.webhooks.is_some();
        has_targets.then(|| Self {
            shared,
            outbox: &*outbox.0,
            in_flight: Vec::new(),
        })
    }

    /// Delivers forever.
    pub(super) async fn run(&mut self) -> Infallible {
        let mut pause = EVERY;
        let mut is_registered = self.shared.sinks.is_empty();
        loop {
            if !is_registered {
                // The sinks that are registered get their events meanwhile.
                match register_sinks(self.shared, self.outbox).await {
                    Ok(()) => is_registered = true,
                    Err(error) => trace::not_delivered(&error),
                }
            }
            let claimed = self.claim().await;
            match claimed {
                // There may be more.
                Ok(claimed) if claimed > 0 => {
                    pause = EVERY;
                    continue;
                }
                Ok(_) => pause = EVERY,
                Err(error) => {
                    trace::not_delivered(&error);
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
            self.work_for(pause).await;
        }
    }

    /// Lets the deliveries that have begun end.
    pub(super) async fn finish(&mut self) {
        let shared = self.shared;
        let all = poll_fn(|cx| {
            self.in_flight
                .retain_mut(|it| it.work.as_mut().poll(cx).is_pending());
            if self.in_flight.is_empty() {
                return Poll::Ready(());
            }
            Poll::Pending
        });
        // The others are delivered again when their leases end.
        let _ = within(&*shared.clock, FINISH_LIMIT, all).await;
    }

    /// Claims deliveries that are due, as far as there is room. Returns their number.
    async fn claim(&mut self) -> Result<usize, StoreError> {
        let room = AT_ONCE.saturating_sub(self.in_flight.len());
        if room == 0 {
            return Ok(0);
        }
        let mut claim = Claim::new(self.shared.now(), LEASE);
        claim.most = u32::try_from(room).unwrap_or(u32::MAX);
        claim.most_per_endpoint = TO_ONE;
        claim.webhooks = self.shared.webhooks.is_some();
        claim.sinks = self.shared.sinks.keys().cloned().collect();
        // One that is slow has no more than these.
        claim.except = self
            .in_flight
            .iter()
            .map(|it| it.endpoint.clone())
            .collect();
        claim.except.sort_unstable();
        claim.except.dedup();
        let outbox = self.outbox;
        let shared = self.shared;
        let mut claiming = pin!(in_time(&*shared.clock, CLAIM_LIMIT, outbox.claim(&claim)));
        // Deliveries go on meanwhile.
        let claimed = poll_fn(|cx| {
            self.in_flight
                .retain_mut(|it| it.work.as_mut().poll(cx).is_pending());
            claiming.as_mut().poll(cx)
        });
        let claimed = claimed.await?;
        let count = claimed.len();
        for delivery in claimed {
            self.in_flight.push(InFlight {
                endpoint: delivery.endpoint.id.clone(),
                work: Box::pin(work(shared, outbox, delivery)),
            });
        }
        Ok(count)
    }

    /// Works on deliveries until a time is over, or an endpoint has none in progress any more.
    async fn work_for(&mut self, time: Duration) {
        let shared = self.shared;
        let mut pause = pin!(shared.clock.sleep(time));
        poll_fn(|cx| {
            let before = self.in_flight.len();
            let mut ended = Vec::new();
            self.in_flight.retain_mut(|it| {
                let is_pending = it.work.as_mut().poll(cx).is_pending();
                if !is_pending {
                    ended.push(std::mem::take(&mut it.endpoint));
                }
                is_pending
            });
            let is_idle =
                |endpoint: &String| !self.in_flight.iter().any(|it| it.endpoint == *endpoint);
            if self.in_flight.len() < before && ended.iter().any(is_idle) {
                return Poll::Ready(()); // it may have more
            }
            pause.as_mut().poll(cx)
        })
        .await;
    }
}

/// Delivers forever, if there is something to deliver to.
pub(super) async fn run(deliverer: &mut Option<Deliverer<'_>>) -> Infallible {
    match deliverer {
        Some(deliverer) => deliverer.run().await,
        None => pending().await,
    }
}

/// Creates the endpoints of the sinks. They take the events from then on.
async fn register_sinks(shared: &Shared, outbox: &dyn DynOutbox) -> Result<(), StoreError> {
    for name in shared.sinks.keys() {
        let found = in_time(&*shared.clock, CALL_LIMIT, outbox.find_endpoint(name)).await;
        if found?.is_some() {
            continue;
        }
        let endpoint = Endpoint::new(name, Target::Sink, shared.now());
        let put = in_time(&*shared.clock, CALL_LIMIT, outbox.put_endpoint(&endpoint)).await;
        match put {
            // Another process was faster.
            Err(error) if error.kind() == StoreErrorKind::AlreadyExists => {}
            result => result?,
        }
    }
    Ok(())
}

/// Makes one attempt at a delivery, and records its outcome. If that fails, the delivery is made
/// again when its lease ends.
async fn work(shared: &Shared, outbox: &dyn DynOutbox, delivery: Delivery) {
    let attempt = AssertUnwindSafe(attempt(shared, outbox, &delivery));
    let attempt = within(&*shared.clock, ATTEMPT_LIMIT, caught(attempt)).await;
    let attempt = attempt.unwrap_or_else(|| Err(Failure::new("no end after 60 seconds")));
    let now = shared.now();
    if let Err(failure) = &attempt
        && failure.is_of_this_process
    {
        // Another process may do better. It claims the delivery when the lease ends, and the
        // schedule does not go on meanwhile.
        return trace::delivery_failed(&delivery.event.id, &delivery.endpoint.id, &failure.cause);
    }
    if let Err(failure) = &attempt {
        trace::delivery_failed(&delivery.event.id, &delivery.endpoint.id, &failure.cause);
        if failure.is_gone {
            disable(shared, outbox, &delivery.endpoint, &failure.cause).await;
        }
    }
    let outcome = outcome(&delivery, attempt, now);
    if let Outcome::Failed { .. } = &outcome {
        trace::delivery_given_up(&delivery.event.id, &delivery.endpoint.id);
    }
    let settlement = Settlement::new(&delivery, now, outcome);
    let settled = in_time(&*shared.clock, CALL_LIMIT, outbox.settle(&settlement)).await;
    if let Err(error) = settled {
        trace::not_delivered(&error);
    }
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
            None => Err(Failure::of_this_process("this process sends no webhooks")),
        },
        Target::Sink => match shared.sinks.get(&delivery.endpoint.id) {
            Some(sink) => sink.take(&delivery.event).await.map_err(|error| Failure {
                is_final: error.is_final(),
                ..Failure::new(error.to_string())
            }),
            None => Err(Failure::of_this_process("this process has no such sink")),
        },
    }
}

/// Returns the outcome of an attempt, by the schedule.
fn outcome(delivery: &Delivery, attempt: Attempt, now: SystemTime) -> Outcome {
    let Err(failure) = attempt else {
        return Outcome::Delivered;
    };
    let cause = shortened(&failure.cause);
    let pause = next_attempt(delivery.step, failure.retry_after, random());
    let at = pause.and_then(|pause| now.checked_add(pause));
    match at.filter(|_| !failure.is_final && !failure.is_gone) {
        Some(at) => Outcome::Retry { at, cause },
        None => Outcome::Failed { cause },
    }
}

/// Disables an endpoint whose receiver wants no more events.
async fn disable(shared: &Shared, outbox: &dyn DynOutbox, endpoint: &Endpoint, cause: &str) {
    let mut endpoint = endpoint.clone();
    for _ in 0..DISABLE_ATTEMPTS {
        if endpoint.disabled.is_some() {
            return;
        }
        let disabled = Disabled::new(shared.now(), shortened(cause));
        let next = endpoint.version.saturating_add(1);
        let disabled = endpoint.clone().with_version(next).with_disabled(disabled);
        let put = in_time(&*shared.clock, CALL_LIMIT, outbox.put_endpoint(&disabled)).await;
        match put {
            Ok(()) => return,
            Err(error) if error.kind() == StoreErrorKind::Conflict => {
                let id = &endpoint.id;
                let found = in_time(&*shared.clock, CALL_LIMIT, outbox.find_endpoint(id)).await;
                match found {
                    // If the target is another one now, it did not ask for this.
                    Ok(Some(found)) if found.target == endpoint.target => endpoint = found,
                    _ => return,
                }
            }
            Err(error) => return trace::not_delivered(&error),
        }
    }
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
