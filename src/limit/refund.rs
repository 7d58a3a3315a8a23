//! Refunds: a charge can be refunded while it still counts, and once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use smallvec::SmallVec;

use crate::limit::charge::Charge;
use crate::limit::instant::Nanos;
use crate::limit::refund_note::RefundNote;
use crate::limit::verdict::{BudgetStatus, Verdict};
use crate::util::clock::Now;

/// A refund of units of a charge, because the work that they were taken for did not happen.
///
/// A refund carries the instant of its charge. Once the charge does not count any more, a refund
/// gives nothing back: otherwise it would refund units that others have used since.
///
/// ```
/// use tower_api_key::clock::{Clock, SystemClock};
/// use tower_api_key::limit::{Charge, LimitName, MemoryLimiter, RateLimiter, Refund, Subject};
/// use tower_api_key::Quota;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let limiter = MemoryLimiter::new();
/// let name = LimitName::new("account_per_minute");
/// let charge = Charge::new(&name, Subject::Account("acme"), Quota::per_minute(10), 4);
/// let clock = SystemClock;
///
/// let refund = {
///     let charged_at = clock.readings();
///     let verdict = limiter.check(&[charge], &clock).await?;
///     Refund::new(charge, 3, charged_at, &verdict.statuses()[0])
/// };
/// limiter.refund(&[refund], &clock).await?;
/// let again = limiter.check(&[charge], &clock).await?;
/// assert_eq!(again.statuses()[0].remaining(), 5); // 10 - 4 + 3 - 4
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Refund<'a> {
    charge: Charge<'a>,
    units: u64,
    taken: Taken,
}

impl<'a> Refund<'a> {
    /// Creates a refund of units of a charge, at most its cost.
    ///
    /// `charged_at` is the time at which the limiter was asked, not later than it took the charge.
    /// `status` is the status of the budget in its verdict.
    pub fn new(charge: Charge<'a>, units: u64, charged_at: Now, status: &BudgetStatus) -> Self {
        let taken = Taken::new(Nanos::of(charged_at), status, charge.cost());
        Self::of(charge, units, taken)
    }

    /// Sets the units of the same charge that were refunded before, if it is refunded in parts.
    #[must_use]
    pub const fn after(mut self, units: u64) -> Self {
        self.taken.before = units;
        self
    }

    pub(crate) fn of(charge: Charge<'a>, units: u64, taken: Taken) -> Self {
        let units = units.min(charge.cost());
        Self {
            charge,
            units,
            taken,
        }
    }

    /// Sets another charge, for a limiter that passes charges on to another limiter under other
    /// names.
    #[must_use]
    pub const fn with_charge(mut self, charge: Charge<'a>) -> Self {
        self.charge = charge;
        self
    }

    /// Returns the charge as it was taken.
    pub const fn charge(&self) -> Charge<'a> {
        self.charge
    }

    /// Returns the units that are refunded.
    pub const fn units(&self) -> u64 {
        self.units
    }

    /// Returns the time since the limiter was asked, by the monotonic clock.
    pub fn age(&self, now: Now) -> Duration {
        let now = Nanos::of(now).monotonic;
        Duration::from_nanos(now.saturating_sub(self.taken.at.monotonic))
    }

    /// Returns the time for which the charge counts at most: until its budget was to be full again.
    /// A refund of this age gives nothing back.
    pub const fn counts_for(&self) -> Duration {
        Duration::from_nanos(self.taken.counts_for)
    }

    pub(crate) const fn taken(&self) -> Taken {
        self.taken
    }
}

/// The instant of a charge, its cost, and the time for which it counts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Taken {
    pub(crate) at: Nanos,
    pub(crate) cost: u64,
    /// The units of the charge that were refunded before.
    pub(crate) before: u64,
    /// The nanoseconds for which the charge counts.
    counts_for: u64,
    pub(crate) refund_note: RefundNote,
}

impl Taken {
    pub(crate) fn new(at: Nanos, status: &BudgetStatus, cost: u64) -> Self {
        Self {
            at,
            cost,
            before: 0,
            counts_for: status.full_in_nanoseconds(),
            refund_note: status.refund_note(),
        }
    }

    /// Returns the instant from which the charge does not count any more, by the monotonic clock.
    pub(crate) const fn counts_until(self) -> u64 {
        self.at.monotonic.saturating_add(self.counts_for)
    }
}

/// The receipt for the charges of a request, and for the units that usage has counted. At most their
/// cost is refunded in total, even if several clones of a caller ask for refunds.
#[derive(Debug, Default)]
pub(crate) struct Receipt {
    at: Nanos,
    /// The nanoseconds for which each charge counts, and its note, in the order of the charges.
    counts: SmallVec<[(u64, RefundNote); 2]>,
    /// The number of units that usage has counted, each in its amount.
    counted_units: usize,
    /// The units of each charge that were refunded, and then those of each counted unit that were
    /// taken back. Allocated at the first refund or clone, since few requests have one.
    returned: OnceLock<Arc<[AtomicU64]>>,
}

impl Receipt {
    /// Creates a receipt for the charges of a verdict, which were taken.
    #[inline]
    pub(crate) fn new(at: Nanos, verdict: &Verdict) -> Self {
        let statuses = verdict.statuses().iter();
        Self {
            at,
            counts: statuses
                .map(|it| (it.full_in_nanoseconds(), it.refund_note()))
                .collect(),
            counted_units: 0,
            returned: OnceLock::new(),
        }
    }

    /// Sets the number of units that usage has counted. Call it before the first refund.
    pub(crate) fn with_counted_units(mut self, units: usize) -> Self {
        self.counted_units = units;
        self
    }

    /// Returns whether nothing was charged.
    pub(crate) fn has_no_charge(&self) -> bool {
        self.counts.is_empty()
    }

    /// Returns how many of these units are taken back from usage, of the unit with a number, of
    /// which so many were counted. The receipt is reduced by them.
    pub(crate) fn take_back(&self, number: usize, counted: u64, units: u64) -> u64 {
        let returned = self.returned().get(self.counts.len() + number);
        returned.map_or(0, |returned| give_back(returned, units, counted).1)
    }

    /// Returns refunds of up to `units` for each charge in `unit`, or for each charge if `unit` is
    /// `None`. The receipt is reduced by them. Charges without units to refund are left out.
    ///
    /// `charges` are the charges that were taken, in the same order.
    pub(crate) fn refunds<'a>(
        &self,
        charges: &[Charge<'a>],
        unit: Option<&str>,
        units: u64,
    ) -> SmallVec<[Refund<'a>; 2]> {
        let mut refunds = SmallVec::new();
        let taken = charges.iter().zip(&self.counts).zip(&**self.returned());
        for ((charge, (counts_for, refund_note)), returned) in taken {
            if unit.is_some_and(|unit| unit != charge.unit()) {
                continue;
            }
            let (before, units) = give_back(returned, units, charge.cost());
            if units == 0 {
                continue;
            }
            let taken = Taken {
                at: self.at,
                cost: charge.cost(),
                before,
                counts_for: *counts_for,
                refund_note: *refund_note,
            };
            refunds.push(Refund::of(*charge, units, taken));
        }
        refunds
    }

    fn returned(&self) -> &Arc<[AtomicU64]> {
        let slots = self.counts.len() + self.counted_units;
        let none = || (0..slots).map(|_| AtomicU64::new(0)).collect();
        self.returned.get_or_init(none)
    }
}

impl Clone for Receipt {
    fn clone(&self) -> Self {
        Self {
            at: self.at,
            counts: self.counts.clone(),
            counted_units: self.counted_units,
            returned: OnceLock::from(Arc::clone(self.returned())),
        }
    }
}

/// Gives units back, of which at most `most` are given back in total. Returns the units that were
/// given back before, and those that are now.
fn give_back(returned: &AtomicU64, units: u64, most: u64) -> (u64, u64) {
    let add = |before: u64| Some(before.saturating_add(units).min(most));
    let before = returned.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    let before = before.unwrap_or_default();
    (before, units.min(most.saturating_sub(before)))
}
