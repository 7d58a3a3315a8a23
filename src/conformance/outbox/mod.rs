//! The suite for outboxes.

mod claims;
mod commits;
mod endpoints;
mod harness;
mod lists;
mod settlements;

use crate::store::ManagedKeyStore;
use harness::Suite;

/// Tests the [`Outbox`](crate::store::Outbox) of a [`ManagedKeyStore`].
///
/// - An endpoint is found and listed as it was put. It is replaced only in the preceding version,
///   once, and remains a target of its kind. An account gets no more endpoints than its cap.
/// - A change adds a delivery of each of its events for each endpoint that takes it, by account and
///   by kind, or for the only one that it names. A change that fails adds none, nor does an event
///   that is left out since it was told before.
/// - A delivery is claimed by one of several claimers at once, with attempts that are counted. It
///   is claimed again after its lease, in the same step of the schedule, and counted as unfinished. A
///   claim has no more deliveries than it asks for, of each endpoint those that are due longest, and
///   endpoints with many do not hold up others. The deliveries of a disabled endpoint wait.
/// - The settlement of an attempt is recorded; that of an earlier one changes nothing, also after a
///   replay. A retry goes to the next step of the schedule, and a delivery that is given back stays
///   in its step. A replay makes deliveries due again from the first step on, also those that wait,
///   and their attempts go on.
/// - Deliveries are listed with the newest event first. A deleted endpoint leaves nothing behind.
/// - The time up to which expiries were announced never moves backward.
///
/// All times come from the suite, which never waits. It deletes its endpoints at the end, and leaves
/// about 1,200 events behind. It moves the time of [announcements] by an hour, and claims deliveries
/// to other webhooks for a moment in 2026.
///
/// [announcements]: crate::store::Outbox::set_announced_until
///
/// # Panics
/// If a promise is broken, or the store fails or has no outbox.
pub async fn outbox<S: ManagedKeyStore>(store: &S) {
    let suite = Suite::new(store);
    endpoints::suite(&suite).await;
    commits::suite(&suite).await;
    claims::suite(&suite).await;
    settlements::suite(&suite).await;
    lists::suite(&suite).await;
}
