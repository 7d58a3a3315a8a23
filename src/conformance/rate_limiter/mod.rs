//! Suites for [`RateLimiter`]s.
//!
//! A limiter for one process uses the clock of its callers, and must pass both suites. A limiter
//! that serves several machines has a clock of its own, so only the first suite applies.

mod given_clock;
mod harness;
mod oracle;
mod own_clock;
mod quotas;
mod races;
mod steps;

use crate::limit::limiter::RateLimiter;
use harness::Harness;

/// Tests promises that do not depend on the clock. Its quotas are so slow that nothing comes back
/// while it runs.
///
/// - A verdict has a status for each charge, in order. The remaining units, the time of reset and
///   the wait of a charge are consistent.
/// - All charges are taken, or none. A denied request costs nothing. A cost of 0 only reads. A cost
///   above the whole quota is never admitted and has no wait.
/// - Concurrent callers, in one task and (if [`check_now`](RateLimiter::check_now) answers) on
///   several threads, are admitted for exactly the quota, and charged for all that was admitted.
/// - Each subject has its own budget under each name, however similar the names and subjects are.
/// - Charges against one budget in a call count together. An empty list of charges is allowed; more
///   than 16 charges are an error.
/// - A [report-only](crate::limit::Charge::report_only) charge denies nothing. It is taken when the
///   others are, even beyond its quota, and its status tells whether it would have denied the
///   request. A peek charges nothing.
/// - Refunded units can be used again, and no budget becomes more than full.
/// - The quota comes with each call: earlier usage counts against a new quota.
/// - The highest and the slowest quotas are exact to the unit.
///
/// The suite leaves about 300 budgets behind. In the last minute of a UTC month, it tests no
/// calendar quota.
///
/// # Panics
/// If a promise is broken, or the limiter fails.
pub async fn on_its_own_clock<L: RateLimiter>(limiter: &L) {
    let harness = Harness::new(limiter);
    own_clock::run(&harness).await;
    quotas::run(&harness).await;
    races::run(&harness).await;
}

/// Tests a limiter that uses the [`Now`](crate::clock::Now) of its caller. The suite makes about
/// `decisions` random decisions, in histories of 300, and compares them with an oracle that knows
/// the guarantees of each kind of quota.
///
/// - No window, no rate and no UTC day or month admits more than its quota, whatever is charged and
///   refunded. Nobody is denied units that are available, except for the sixtieth of a window that
///   a limiter may hold back.
/// - A caller that waits as told is admitted, and the wait is at most one millisecond too long.
/// - A budget is full at the time of its reset.
/// - A step of the wall clock neither fills nor empties a window or a rate. A step of less than a
///   period does not move the end of a calendar period backwards, so no quota is granted twice. No
///   wait is longer than the period of the quota.
///
/// `make` returns the limiter for each history. It may return the same limiter every time, such as
/// an `Arc`, if that has room for one budget per forty decisions.
///
/// ```
/// use tower_api_key::limit::MemoryLimiter;
/// use tower_api_key::conformance;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// conformance::rate_limiter::on_a_given_clock(MemoryLimiter::new, 1_000).await;
/// # }
/// ```
///
/// # Panics
/// If a promise is broken, or the limiter fails. The message contains the seed of the history; the
/// same number of decisions repeats the same histories.
pub async fn on_a_given_clock<L: RateLimiter>(mut make: impl FnMut() -> L, decisions: u64) {
    steps::run(&mut make).await;
    given_clock::run(&mut make, decisions).await;
}
