//! What a [`RateLimiter`] promises.
//!
//! A limiter for one process goes by the clock of its callers, and must pass both suites. One that
//! serves several machines goes by a clock of its own, so that only the first can be asked of it.

mod bench;
mod given_clock;
mod oracle;
mod own_clock;
mod quotas;
mod races;
mod steps;

use crate::limit::limiter::RateLimiter;
use bench::Bench;

/// What holds on whatever clock, as nothing of a day's budget comes back in the seconds that this
/// takes.
///
/// - A verdict has a standing for each charge, in order; how much remains, when it is whole again
///   and in what time the charge is admissible agree with each other.
/// - All charges are taken, or none; a denied request costs nothing; a cost of 0 only looks; a cost
///   above the whole quota is never admitted and has no wait.
/// - Callers at once, in one task and (where [`check_now`](RateLimiter::check_now) answers) on
///   several threads, are admitted exactly the quota, and charged for all they were admitted for.
/// - Each subject has a budget of its own under each name, however alike they are written.
/// - Charges against one budget in a call count together. No charges are allowed, more than 16 are
///   an error.
/// - A charge that [only reports](crate::limit::Charge::report_only) denies nothing. It is taken when the
///   others are, also beyond its quota, and its standing says whether it would have denied the
///   request. A peek charges nothing.
/// - What is given back can be used, and no budget becomes more than whole.
/// - A quota comes with each call: what was used counts against the new one.
/// - The greatest and the slowest quotas are kept to the unit.
///
/// It leaves some 300 budgets behind. In the last minute of a month of UTC it has no quota of the
/// calendar that it can look at.
///
/// # Panics
/// Where a promise is broken, or the limiter fails.
pub async fn on_its_own_clock<L: RateLimiter>(limiter: &L) {
    let bench = Bench::new(limiter);
    own_clock::run(&bench).await;
    quotas::run(&bench).await;
    races::run(&bench).await;
}

/// What a limiter promises that goes by the [`Now`](crate::clock::Now) that it is given: about so many
/// random decisions, in histories of 300, against an oracle that knows each shape of quota by what
/// it guarantees.
///
/// - No window, no rate and no day or month of UTC admits more than its quota, whatever is charged
///   and given back; and nobody is denied what is due to them, but for the sixtieth of a window
///   that a caller may be held back.
/// - A caller who waits as told is admitted, and is told to wait for a millisecond too long at
///   most.
/// - A budget is whole when it said that it would be.
/// - A step of the wall clock neither fills nor empties a window or a rate. The end of a calendar
///   period does not move backwards by a step of less than a period, so no quota is granted again
///   after it. Nobody is told to wait for longer than the period of a quota.
///
/// `make` gives the limiter for each history. It may hand out one limiter again and again, such as
/// an `Arc` of it, if that has room for a budget for each forty decisions.
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
/// Where a promise is broken, or the limiter fails. The message names the seed of the history; the
/// same number of decisions tells the same histories again.
pub async fn on_a_given_clock<L: RateLimiter>(mut make: impl FnMut() -> L, decisions: u64) {
    steps::run(&mut make).await;
    given_clock::run(&mut make, decisions).await;
}
