//! Delivers events to endpoints: a task of the worker.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::{Future, pending, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use super::delivery::{self, Ended, work};
use crate::shared::Shared;
use crate::store::{Claim, DynOutbox, Endpoint, StoreError, StoreErrorKind, Target, in_time};
use crate::util::clock::within;
use crate::util::trace;

/// The time between two claims, if there is nothing to do.
const EVERY: Duration = Duration::from_secs(1);

/// The longest pause after claims that failed. The pause is doubled for each.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The time between two looks at whether the sinks have their endpoints.
const LOOK_AT_SINKS: Duration = Duration::from_secs(60);

/// The time limit of a call of the outbox.
const CALL_LIMIT: Duration = Duration::from_secs(5);

/// The time limit of a claim, which may be more than one call of a database with a limit of its
/// own.
const CLAIM_LIMIT: Duration = Duration::from_secs(15);

/// The time by which the clocks of processes may differ.
const SKEW: Duration = Duration::from_secs(60);

/// The time for which a claimed delivery belongs to this process: longer than all that it does with
/// the delivery, also by the clock of another process.
const LEASE: Duration = Duration::from_secs(180);

const _: () = assert!(
    CLAIM_LIMIT.as_secs() + delivery::LONGEST.as_secs() + SKEW.as_secs() <= LEASE.as_secs()
);

/// The time in which deliveries end that have begun when the worker is stopped.
const FINISH_LIMIT: Duration = Duration::from_secs(10);

/// The most deliveries at a time, and the most to one endpoint.
const AT_ONCE: usize = 64;
const TO_ONE: u32 = 4;

/// The time for which endpoints are left to other processes, and the most such endpoints. Each is
/// named in each claim. The deliveries to more of them are claimed and given back again and again.
const LEFT_FOR: Duration = Duration::from_secs(60);
const MOST_LEFT: usize = 1_000;

/// Delivers events, several at a time.
pub(super) struct Deliverer<'s> {
    shared: &'s Shared,
    outbox: &'s dyn DynOutbox,
    in_flight: Vec<InFlight<'s>>,
    /// The endpoints whose deliveries this process cannot make, each until a time of the monotonic
    /// clock.
    left: BTreeMap<String, Duration>,
}

/// A delivery in progress.
struct InFlight<'s> {
    endpoint: String,
    work: Pin<Box<dyn Future<Output = Ended> + Send + 's>>,
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
            left: BTreeMap::new(),
        })
    }

    /// Delivers forever.
    pub(super) async fn run(&mut self) -> Infallible {
        let mut pause = EVERY;
        let mut look_at_sinks = Duration::ZERO;
        loop {
            let now = self.shared.clock.monotonic();
            // The sinks that are registered get their events meanwhile.
            if now >= look_at_sinks && self.register_sinks().await {
                look_at_sinks = now.saturating_add(LOOK_AT_SINKS);
            }
            match self.claim().await {
                // With more endpoints that are left to others, the same would be claimed again.
                Ok(true) if self.left.len() < MOST_LEFT => {
                    pause = EVERY;
                    self.meanwhile(let_others_work()).await;
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
            self.poll_in_flight(cx);
            if self.in_flight.is_empty() {
                return Poll::Ready(());
            }
            Poll::Pending
        });
        // The others are delivered again when their leases end.
        let _ = within(&*shared.clock, FINISH_LIMIT, all).await;
    }

    /// Claims deliveries that are due, as far as there is room. Returns whether there may be more.
    async fn claim(&mut self) -> Result<bool, StoreError> {
        let room = AT_ONCE.saturating_sub(self.in_flight.len());
        if room == 0 {
            return Ok(false);
        }
        let (shared, outbox) = (self.shared, self.outbox);
        let claim = self.next_claim(room);
        let claiming = in_time(&*shared.clock, CLAIM_LIMIT, outbox.claim(&claim));
        let (claimed, is_one_idle) = self.meanwhile(claiming).await;
        let claimed = claimed?;
        let has_more = is_one_idle || !claimed.is_empty();
        for delivery in claimed {
            self.in_flight.push(InFlight {
                endpoint: delivery.endpoint.id.clone(),
                work: Box::pin(work(shared, outbox, delivery)),
            });
        }
        Ok(has_more)
    }

    fn next_claim(&mut self, room: usize) -> Claim {
        let now = self.shared.clock.monotonic();
        self.left.retain(|_, until| now < *until);
        let mut claim = Claim::new(self.shared.now(), LEASE);
        claim.most = u32::try_from(room).unwrap_or(u32::MAX);
        claim.most_per_endpoint = TO_ONE;
        claim.webhooks = self.shared.webhooks.is_some();
        claim.sinks = self.shared.sinks.keys().cloned().collect();
        // One that is slow has no more than these.
        let busy = self.in_flight.iter().map(|it| &it.endpoint);
        claim.except = busy.chain(self.left.keys()).cloned().collect();
        claim.except.sort_unstable();
        claim.except.dedup();
        claim
    }

    /// Creates the endpoints of the sinks that have none, such as one that was deleted. Returns
    /// whether all have one.
    async fn register_sinks(&mut self) -> bool {
        let registering = register_sinks(self.shared, self.outbox);
        let (registered, _) = self.meanwhile(registering).await;
        if let Err(error) = &registered {
            trace::not_delivered(error);
        }
        registered.is_ok()
    }

    /// Makes a call while deliveries go on. Returns its answer, and whether an endpoint has none in
    /// progress any more.
    async fn meanwhile<T>(&mut self, call: impl Future<Output = T>) -> (T, bool) {
        let mut call = pin!(call);
        let mut is_one_idle = false;
        poll_fn(|cx| {
            // First, since tokio lets a task read only so much at a time, and receivers may use it up.
            let answer = call.as_mut().poll(cx);
            is_one_idle |= self.poll_in_flight(cx);
            answer.map(|answer| (answer, is_one_idle))
        })
        .await
    }

    /// Works on deliveries until a time is over, or an endpoint has none in progress any more.
    async fn work_for(&mut self, time: Duration) {
        let shared = self.shared;
        let mut pause = pin!(shared.clock.sleep(time));
        poll_fn(|cx| {
            let is_over = pause.as_mut().poll(cx).is_ready();
            if self.poll_in_flight(cx) || is_over {
                return Poll::Ready(());
            }
            Poll::Pending
        })
        .await;
    }

    /// Polls the deliveries in progress. Returns whether an endpoint has none any more, and so may
    /// have others that are due.
    fn poll_in_flight(&mut self, cx: &mut Context<'_>) -> bool {
        let mut ended = Vec::new();
        self.in_flight
            .retain_mut(|it| match it.work.as_mut().poll(cx) {
                Poll::Pending => true,
                Poll::Ready(how) => {
                    ended.push((std::mem::take(&mut it.endpoint), how));
                    false
                }
            });
        // Another one is the first next time: a receiver that floods would take all that tokio lets
        // a task read at a time, each time.
        if !self.in_flight.is_empty() {
            self.in_flight.rotate_left(1);
        }
        let is_busy = |id: &String| self.in_flight.iter().any(|it| it.endpoint == *id);
        let is_one_idle = ended.iter().any(|(id, _)| !is_busy(id));
        let until = self.shared.clock.monotonic().saturating_add(LEFT_FOR);
        for (id, how) in ended {
            if how == Ended::LeftToOthers && self.left.len() < MOST_LEFT {
                self.left.insert(id, until);
            }
        }
        is_one_idle
    }
}

/// Delivers forever, if there is something to deliver to.
pub(super) async fn run(deliverer: &mut Option<Deliverer<'_>>) -> Infallible {
    match deliverer {
        Some(deliverer) => deliverer.run().await,
        None => pending().await,
    }
}

/// Lets the other tasks of the worker go on, on any runtime.
async fn let_others_work() {
    let mut has_yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut has_yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
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
