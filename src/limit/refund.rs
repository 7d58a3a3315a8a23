//! What may be given back of a charge: while it counts, and once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use smallvec::SmallVec;

use crate::limit::charge::Charge;
use crate::limit::instant::Nanos;
use crate::limit::ledger::Ledger;
use crate::limit::verdict::{BudgetStatus, Verdict};
use crate::util::clock::Now;

/// Units of a charge that are given back, because the work that they were taken for did not happen.
///
/// A refund carries the instant of its charge. Once a charge does not count any more, there is
/// nothing to give back: a refund that came then would give back what others have used since.
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
///     Refund::new(charge, 3, charged_at, &verdict.standings()[0])
/// };
/// limiter.refund(&[refund], &clock).await?;
/// let again = limiter.check(&[charge], &clock).await?;
/// assert_eq!(again.standings()[0].remaining(), 5); // 10 - 4 + 3 - 4
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
    /// Gives back units of a charge, but no more than it cost.
    ///
    /// `charged_at` is when the limiter was asked, which is not after it took the charge.
    /// `standing` is what it answered.
    pub fn new(charge: Charge<'a>, units: u64, charged_at: Now, standing: &BudgetStatus) -> Self {
        let taken = Taken::new(Nanos::of(charged_at), standing, charge.cost());
        Self::of(charge, units, taken)
    }

    /// Sets how many units of the same charge were given back before, if it is given back in parts.
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

    /// Returns the same refund under another charge, for a limiter that passes renamed ones on to
    /// another.
    #[must_use]
    pub const fn with_charge(mut self, charge: Charge<'a>) -> Self {
        self.charge = charge;
        self
    }

    /// Returns the charge as it was taken.
    pub const fn charge(&self) -> Charge<'a> {
        self.charge
    }

    /// Returns how many units are given back.
    pub const fn units(&self) -> u64 {
        self.units
    }

    /// Returns the time since the limiter was asked, by the monotonic clock.
    pub fn age(&self, now: Now) -> Duration {
        let now = Nanos::of(now).monotonic;
        Duration::from_nanos(now.saturating_sub(self.taken.at.monotonic))
    }

    /// Returns for how long the charge counts at most: until its budget was to be whole again. A
    /// refund of this age gives nothing back.
    pub const fn counts_for(&self) -> Duration {
        Duration::from_nanos(self.taken.counts_for)
    }

    pub(crate) const fn taken(&self) -> Taken {
        self.taken
    }
}

/// When a charge was taken, of how much, and for how long it counts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Taken {
    pub(crate) at: Nanos,
    pub(crate) cost: u64,
    /// Units that were given back of it before.
    pub(crate) before: u64,
    counts_for: u64,
    pub(crate) ledger: Ledger,
}

impl Taken {
    pub(crate) fn new(at: Nanos, standing: &BudgetStatus, cost: u64) -> Self {
        Self {
            at,
            cost,
            before: 0,
            counts_for: standing.whole_in_nanoseconds(),
            ledger: standing.ledger(),
        }
    }

    /// Returns when the charge does not count any more, by the monotonic clock.
    pub(crate) const fn counts_until(self) -> u64 {
        self.at.monotonic.saturating_add(self.counts_for)
    }
}

/// What a request may give back of its charges: no more than they cost, however many clones of a
/// caller ask for it.
#[derive(Debug)]
pub(crate) struct Receipt {
    at: Nanos,
    /// One for each charge, in the order in which they were taken.
    counts: SmallVec<[(u64, Ledger); 2]>,
    /// The units of each charge that were given back. Made when they are first needed, which they
    /// are for few requests.
    returned: OnceLock<Arc<[AtomicU64]>>,
}

impl Receipt {
    /// A receipt for charges that a verdict allowed.
    #[inline]
    pub(crate) fn new(at: Nanos, verdict: &Verdict) -> Self {
        let standings = verdict.standings().iter();
        Self {
            at,
            counts: standings
                .map(|it| (it.whole_in_nanoseconds(), it.ledger()))
                .collect(),
            returned: OnceLock::new(),
        }
    }

    /// Takes units out of what is left to give back of the charges of a unit, or of all, and returns
    /// the refunds of that.
    ///
    /// `charges` are those that were taken, in order.
    pub(crate) fn refunds<'a>(
        &self,
        charges: &[Charge<'a>],
        unit: Option<&str>,
        units: u64,
    ) -> SmallVec<[Refund<'a>; 2]> {
        let mut refunds = SmallVec::new();
        let taken = charges.iter().zip(&self.counts).zip(&**self.returned());
        for ((charge, (counts_for, ledger)), returned) in taken {
            if unit.is_some_and(|unit| unit != charge.unit()) {
                continue;
            }
            let add = |before: u64| Some(before.saturating_add(units).min(charge.cost()));
            let before = returned.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
            let before = before.unwrap_or_default();
            let units = units.min(charge.cost().saturating_sub(before));
            if units == 0 {
                continue;
            }
            let taken = Taken {
                at: self.at,
                cost: charge.cost(),
                before,
                counts_for: *counts_for,
                ledger: *ledger,
            };
            refunds.push(Refund::of(*charge, units, taken));
        }
        refunds
    }

    fn returned(&self) -> &Arc<[AtomicU64]> {
        let none = || self.counts.iter().map(|_| AtomicU64::new(0)).collect();
        self.returned.get_or_init(none)
    }
}

impl Clone for Receipt {
    fn clone(&self) -> Self {
        Self {
            at: self.at,
            counts: self.counts.clone(),
            returned: OnceLock::from(Arc::clone(self.returned())),
        }
    }
}
